"""A local page to drop photos on: `charm-hf demo` (needs `pip install 'charm-hf[demo]'`).

Data flow: uploaded files → checked and scored, best first ([`score_photos`]) → gallery, table and, for the photo that
is looked at, the picture of [`explain`]. The server is bound to this machine unless told otherwise, tells nobody that
it runs, and its pages may load from nowhere else. Programs ask its endpoints `/score` and `/explain`.
"""

from __future__ import annotations

import html
import ipaddress
import logging
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from PIL import Image

from ..models.image_loading_charm import load_image
from ..scoring import DEMONSTRATION_NOTICE, default_device
from .explain import explain, see
from .guard import Guard, keep_urls_unfetched
from .uploads import (
    CHOICES,
    OWN_SELECTION,
    DemoLimits,
    ScoredPhoto,
    check_pixels,
    has_charm_tokens,
    reads_comments,
    score_photos,
    selection_options,
)


logger = logging.getLogger(__name__)

DEMONSTRATION = "charm-tiny (demonstration)"
_PREVIEW_EDGE = 480
_KEPT_SECONDS = 3600
_STYLE = Path(__file__).resolve().parent.parent / "assets" / "demo.css"

# The browser's answer in place of the last input: how the picture has to look there.
_ASK_BROWSER = """(...inputs) => [...inputs.slice(0, -1),
    {dark: document.body.classList.contains("dark"), narrow: window.innerWidth < 640}]"""


def load_pipeline(source: str, *, device: str | None = None, trust_remote_code: bool = False) -> Any:
    """Load a checkpoint, by folder or repository, as an [`ImageAestheticsPipeline`]."""
    from transformers import pipeline

    from ..hub import resolve_checkpoint

    return pipeline(
        "image-aesthetics",
        model=resolve_checkpoint(source),
        device=device or default_device(),
        trust_remote_code=trust_remote_code,
    )


class _Session:
    """What the page's buttons do: the checkpoints on offer, loaded when first chosen."""

    def __init__(self, checkpoints: dict[str, str], load: Callable[[str], Any], limits: DemoLimits) -> None:
        self.checkpoints = checkpoints
        self.load = load
        self.limits = limits
        self._loaded: dict[str, Any] = {}

    def pipeline(self, name: str) -> Any:
        import gradio as gr

        if name not in self._loaded:
            try:
                self._loaded[name] = self.load(self.checkpoints[name])
            except (OSError, ValueError, ImportError) as error:
                logger.warning("Could not load %s: %s", self.checkpoints[name], error)
                raise gr.Error(
                    f"This checkpoint cannot be loaded: {type(error).__name__}. The log says more."
                ) from None
        return self._loaded[name]

    def score(
        self, files: list[str] | None, checkpoint: str, selection: str, num_views: float, comments: str
    ) -> list[ScoredPhoto]:
        """Score uploads, best first."""
        return score_photos(
            files or [],
            self.pipeline(checkpoint),
            selection=selection,
            num_views=int(num_views),
            comments=[line.strip() for line in (comments or "").splitlines() if line.strip()],
            limits=self.limits,
        )

    def show(self, *inputs: Any) -> tuple[Any, ...]:
        """The scored photos, the part of the page that shows them, gallery, table, and the picture of the best one."""
        import gradio as gr

        *asked, look = inputs
        _, checkpoint, selection, num_views, _ = asked
        photos = self.score(*asked)
        scored = [photo for photo in photos if photo.result is not None]
        if len(scored) < len(photos):
            gr.Warning(f"{len(photos) - len(scored)} of {len(photos)} files could not be scored: the table says why.")
        gallery = [(_preview(photo.path), _caption(photo)) for photo in scored]
        picture = self.picture(scored[0].path, checkpoint, selection, num_views, look) if scored else None
        return scored, gr.update(visible=bool(photos)), gallery, _table(photos), picture

    def picture(
        self, path: str | None, checkpoint: str, selection: str, num_views: float, look: dict[str, Any] | None = None
    ) -> str | None:
        """File with the picture of [`explain`], of [`see`] where comments take part; none without Charm tokens.

        It lies beside the upload, to be deleted with it, and is named after it, for who keeps or shares it.
        """
        pipeline = self.pipeline(checkpoint)
        if path is None or not has_charm_tokens(pipeline):
            return None
        options = selection_options(selection)
        photo = load_image(Path(path), name="The file")
        if reads_comments(pipeline):
            seen = see(photo, pipeline.image_processor, **options)
        else:
            seen = explain(photo, pipeline.model, pipeline.image_processor, num_views=int(num_views), **options)
        folder = tempfile.mkdtemp(dir=Path(path).parent)  # another address for every picture, for the browser's cache
        target = Path(folder) / f"{Path(path).stem}-why.png"
        look = look or {}
        seen.to_image(dark=bool(look.get("dark")), columns=1 if look.get("narrow") else None).save(target)
        return str(target)


def _preview(path: str) -> Image.Image:
    image = load_image(Path(path), on_size=lambda width, height: (_PREVIEW_EDGE, _PREVIEW_EDGE))
    image.thumbnail((_PREVIEW_EDGE, _PREVIEW_EDGE))
    return image


def _caption(photo: ScoredPhoto) -> str:
    assert photo.result is not None
    return f"{photo.result['score']:.2f}" + (f" ± {photo.result['std']:.2g}" if photo.result["std"] else "")


def _table(photos: Sequence[ScoredPhoto]) -> str:
    """The numbers as an HTML table; a column that would be empty is left out."""
    columns = {
        "Photo": [photo.name for photo in photos],
        "Score": [_number(photo, "score") for photo in photos],
        "± ratings": [_number(photo, "std") for photo in photos],
        "± selections": [_number(photo, "spread") for photo in photos],
        "Percentile": [_number(photo, "percentile", ".0f") for photo in photos],
        "Pixels": [f"{photo.width} × {photo.height}" if photo.width else "" for photo in photos],
        "Problem": [photo.problem or "" for photo in photos],
    }
    used = {header: cells for header, cells in columns.items() if any(cells)}
    kinds = [name.split()[-1].lower() for name in used]  # classes, for the style

    def row(tag: str, cells: Sequence[str]) -> str:
        return "".join(f"<{tag} class={kind}>{html.escape(cell)}" for kind, cell in zip(kinds, cells, strict=True))

    rows = [f"<tr>{row('td', cells)}" for cells in zip(*used.values(), strict=True)]
    return f"<table><thead><tr>{row('th', list(used))}<tbody>{''.join(rows)}</table>"


def _number(photo: ScoredPhoto, name: str, form: str = ".3f") -> str:
    value = (photo.result or {}).get(name)
    return "" if value is None else format(value, form)


def build_demo(checkpoints: dict[str, str], load: Callable[[str], Any], limits: DemoLimits | None = None) -> Any:
    """Lay out the page as `gradio.Blocks`.

    Args:
        checkpoints: names on offer → folders or repositories; the first is chosen at the start.
        load: folder or repository → pipeline.
        limits: what to refuse.
    """
    gr = _import_gradio()
    limits = limits or DemoLimits()
    session = _Session(checkpoints, load, limits)
    names = list(checkpoints)
    with gr.Blocks(
        title="charm_hf", analytics_enabled=False, delete_cache=(600, _KEPT_SECONDS), fill_width=True
    ) as page:
        gr.Markdown("# How good does it look?")
        gr.Markdown(
            f"Photos of up to {limits.max_megabytes} MB and {limits.max_megapixels} megapixels. They go no further "
            "than the machine that runs this page, and are deleted there after an hour, or when it stops."
        )
        if DEMONSTRATION in checkpoints:
            gr.Markdown(DEMONSTRATION_NOTICE.replace("No --model given: using", "On offer:"))
        photos, look = gr.State([]), gr.JSON({}, visible=False)
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                files = gr.File(
                    label=f"Photos (at most {limits.max_files})",
                    file_count="multiple",
                    type="filepath",
                    height=200,
                    elem_id="files",
                )
                checkpoint = gr.Dropdown(names, value=names[0], label="Checkpoint", elem_id="checkpoint")
                selection = gr.Dropdown(
                    CHOICES, value=OWN_SELECTION, label="High-resolution regions", elem_id="selection"
                )
                num_views = gr.Slider(
                    1, 16, value=1, step=1, label="Random selections", info="More than one also gives their spread."
                )
                comments = gr.Textbox(
                    "", label="Comments, one a line", lines=4, visible=False, elem_id="comments", max_length=20_000
                )
                button = gr.Button("Score", variant="primary", elem_id="score")
            with gr.Column(scale=3, min_width=300, visible=False) as results:
                gallery = gr.Gallery(
                    label="Best first; choose one to see why",
                    columns=5,
                    fit_columns=False,
                    object_fit="contain",
                    allow_preview=False,
                    interactive=False,
                    buttons=[],
                    elem_id="gallery",
                )
                table = gr.HTML(elem_id="table", apply_default_css=False)
                picture = gr.Image(
                    show_label=False,
                    alt_text="The photo with its high-resolution regions, what the model received, what moved it",
                    interactive=False,
                    buttons=["download", "fullscreen"],
                    elem_id="picture",
                )
        settings: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "model", "api_visibility": "private"}
        asked = [files, checkpoint, selection, num_views, comments]
        gr.on(
            [button.click, files.upload, checkpoint.change, selection.change],
            session.show,
            [*asked, look],
            [photos, results, gallery, table, picture],
            js=_ASK_BROWSER,
            **settings,
        )

        def choose(shown: list[ScoredPhoto], name: str, way: str, views: float, look: Any, event: Any) -> str | None:
            return session.picture(shown[event.index].path, name, way, views, look)

        choose.__annotations__["event"] = gr.SelectData  # Gradio knows by the type what to pass
        chosen = [photos, checkpoint, selection, num_views, look]
        gallery.select(choose, chosen, picture, js=_ASK_BROWSER, **settings)
        gr.on(
            [page.load, checkpoint.change],
            lambda name: gr.update(visible=reads_comments(session.pipeline(name))),
            checkpoint,
            comments,
            **settings,
        )
        _add_endpoints(gr, session, asked, {**settings, "api_visibility": "public"})
    return page


def _add_endpoints(gr: Any, session: _Session, asked: Sequence[Any], settings: dict[str, Any]) -> None:
    """What programs ask: events without a button."""
    one, scores = gr.File(type="filepath", visible=False), gr.JSON(visible=False)
    asker, why = gr.Button(visible=False), gr.File(visible=False)

    def score(
        photos: list[str], checkpoint: str, selection: str, num_views: float, comments: str
    ) -> list[dict[str, Any]]:
        return [photo.to_dict() for photo in session.score(photos, checkpoint, selection, num_views, comments)]

    def explain(photo: str, checkpoint: str, selection: str, num_views: float) -> str | None:
        try:
            check_pixels(photo, session.limits)
            return session.picture(photo, checkpoint, selection, num_views)
        except (OSError, ValueError) as error:
            raise gr.Error(str(error).replace(photo, "The file")) from None

    asker.click(score, list(asked), scores, api_name="score", **settings)
    asker.click(explain, [one, *asked[1:4]], why, api_name="explain", **settings)


def launch_demo(
    checkpoints: Sequence[str] = (),
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    device: str | None = None,
    trust_remote_code: bool = False,
    limits: DemoLimits | None = None,
    open_browser: bool = False,
    block: bool = True,
) -> tuple[Any, str]:
    """Serve the page.

    Args:
        checkpoints: folders or repositories on offer, the first chosen at the start; the embedded demonstration
            checkpoint if none is given.
        host: address to listen at; anything but this machine's own lets others in, which is logged.
        port: port to listen at; the first free one from 7860 if not given.
        device: where to score; a GPU if there is one.
        trust_remote_code: run the code that a checkpoint brings.
        limits: what to refuse.
        open_browser: whether to open the page in the default browser.
        block: whether to return only when the server stops.

    Returns:
        the `gradio.Blocks`, with a `close()`, and the address of the page.

    Raises:
        ImportError: if Gradio is not installed.
        OSError: if the port is taken.
        FileNotFoundError: if no checkpoint is given and the package lacks the embedded one.
    """
    gr = _import_gradio()
    from starlette.middleware import Middleware

    limits = limits or DemoLimits()
    offered = _name_checkpoints(checkpoints)
    if not _is_this_machine(host):
        logger.warning("The demo listens at %s: whoever reaches this address can use it.", host)

    def load(source: str) -> Any:
        return load_pipeline(source, device=device, trust_remote_code=trust_remote_code)

    uploads = _own_upload_folder()
    page = build_demo(offered, load, limits)
    weakref.finalize(page, shutil.rmtree, uploads, ignore_errors=True)  # at the latest when the process ends
    for component in page.blocks.values():
        keep_urls_unfetched(component)
    _, url, _ = page.launch(
        server_name=host,
        server_port=port,
        inbrowser=open_browser,
        prevent_thread_lock=True,
        share=False,
        quiet=True,
        show_error=True,
        max_file_size=f"{limits.max_megabytes}mb",
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        css_paths=_STYLE,
        theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        app_kwargs={
            "middleware": [Middleware(Guard, host=host, uploads=uploads, limits=limits)],
            "docs_url": None,
            "redoc_url": None,
        },
    )
    if block:
        page.block_thread()
    return page, url


def _name_checkpoints(sources: Sequence[str]) -> dict[str, str]:
    """Short names of the checkpoints on offer; in full where two would be called the same."""
    from ..hub import embedded_model_path

    if not sources:
        return {DEMONSTRATION: embedded_model_path()}
    short = {Path(source).name or source: source for source in sources}
    return short if len(short) == len(sources) else {source: source for source in sources}


def _own_upload_folder() -> str:
    """A folder of this server alone, inside the one that Gradio would use."""
    parent = os.environ.get("GRADIO_TEMP_DIR")
    if parent is not None:
        os.makedirs(parent, exist_ok=True)
    folder = tempfile.mkdtemp(prefix="charm-hf-demo-", dir=parent)
    os.environ["GRADIO_TEMP_DIR"] = folder  # where Gradio looks, again and again
    return folder


def _is_this_machine(host: str) -> bool:
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def _import_gradio() -> Any:
    # Read when Gradio is imported, and by the Hub's client when it sends a request.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    try:
        import gradio
    except ImportError as error:
        raise ImportError("The demo needs Gradio: `pip install 'charm-hf[demo]'`.") from error
    return gradio


__all__ = ["build_demo", "launch_demo", "load_pipeline"]
