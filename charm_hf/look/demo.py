"""A local page to drop photos on: `charm-hf demo` (needs `pip install 'charm-hf[demo]'`).

Data flow: uploaded files → checked and scored, best first (`score_photos`, no Gradio in it) → gallery, table and, for
the photo that is looked at, the picture of [`explain`]. The server is bound to this machine unless told otherwise,
tells nobody that it runs, and its pages may load from nowhere else.
"""

from __future__ import annotations

import ipaddress
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ..models.image_loading_charm import image_size, load_image
from ..scoring import DEMONSTRATION_NOTICE, default_device
from .explain import explain, see


logger = logging.getLogger(__name__)

OWN_SELECTION = "as in the checkpoint"
SELECTIONS = (OWN_SELECTION, "frequency", "gradient", "entropy", "random", "original")
DEMONSTRATION = "charm-tiny (demonstration)"
_PREVIEW_EDGE = 480
_KEPT_SECONDS = 3600

# What a page of the demo may load: itself. Gradio's own page needs inline scripts and styles.
_CONTENT_POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; connect-src 'self' data: blob:; "
    "base-uri 'self'; form-action 'self'; frame-ancestors 'self'; object-src 'none'"
)


@dataclass(frozen=True)
class DemoLimits:
    """How much one upload may ask for.

    Attributes:
        max_files: photos scored at once.
        max_megabytes: size of one file; a larger one is refused while it is uploaded.
        max_megapixels: decoded size of one photo, read from its header before anything is decoded.
    """

    max_files: int = 24
    max_megabytes: int = 40
    max_megapixels: int = 60


@dataclass(frozen=True)
class ScoredPhoto:
    """An uploaded photo: `result` of the pipeline with `width` and `height`, or the `problem` that it has instead."""

    path: str
    result: dict[str, Any] | None = None
    problem: str | None = None
    width: int | None = None
    height: int | None = None

    @property
    def name(self) -> str:
        """Name of the file."""
        return Path(self.path).name


def score_photos(
    paths: Sequence[str],
    pipeline: Any,
    *,
    selection: str = OWN_SELECTION,
    num_views: int = 1,
    comments: Sequence[str] = (),
    limits: DemoLimits | None = None,
) -> list[ScoredPhoto]:
    """Score photos one by one, best first, those with a problem last.

    Args:
        paths: image files; of a list longer than `limits.max_files` the rest is refused.
        pipeline: an [`ImageAestheticsPipeline`].
        selection: one of `SELECTIONS`.
        num_views: random selections to average; adds `spread` to the results.
        comments: what was said about each of the photos, for a checkpoint that reads comments.
        limits: what to refuse.
    """
    limits = limits or DemoLimits()
    options: dict[str, Any] = {} if selection == OWN_SELECTION else {"patch_selection": selection}
    if num_views > 1:
        options["num_views"] = num_views
    photos = [_score_photo(path, pipeline, options, comments, limits) for path in paths[: limits.max_files]]
    photos += [
        ScoredPhoto(path, problem=f"Not scored: at most {limits.max_files} photos at once.")
        for path in paths[limits.max_files :]
    ]
    return sorted(photos, key=lambda photo: -photo.result["score"] if photo.result is not None else float("inf"))


def reads_comments(pipeline: Any) -> bool:
    """Whether a checkpoint takes comments beside photos."""
    return pipeline.model.config.model_type == "mmlq"


def has_charm_tokens(pipeline: Any) -> bool:
    """Whether there are regions to select, and tokens to show."""
    return hasattr(pipeline.image_processor, "covered_area")


def _score_photo(
    path: str, pipeline: Any, options: dict[str, Any], comments: Sequence[str], limits: DemoLimits
) -> ScoredPhoto:
    try:
        width, height = image_size(path, name="The file")
        if width * height > limits.max_megapixels * 1_000_000:
            raise ValueError(
                f"The photo has {width * height / 1e6:.0f} megapixels, the limit is {limits.max_megapixels}."
            )
        photo = load_image(path, name="The file")
        inputs = {"image": photo, "comments": list(comments)} if reads_comments(pipeline) else photo
        result = pipeline(inputs, **(options if has_charm_tokens(pipeline) else {}))
        return ScoredPhoto(path, result, width=width, height=height)
    except (OSError, ValueError, RuntimeError) as error:
        logger.info("Could not score an upload: %s", error)
        problem = str(error).replace(path, "The file") or type(error).__name__
        return ScoredPhoto(path, problem=problem)


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
    ) -> tuple[list[ScoredPhoto], list[tuple[Image.Image, str]], dict[str, list[Any]], Image.Image | None]:
        """Scores, gallery, table, and the picture of the best photo."""
        import gradio as gr

        if not files:
            return [], [], _table([]), None
        photos = score_photos(
            files,
            self.pipeline(checkpoint),
            selection=selection,
            num_views=int(num_views),
            comments=[line.strip() for line in (comments or "").splitlines() if line.strip()],
            limits=self.limits,
        )
        failed = sum(photo.result is None for photo in photos)
        if failed:
            gr.Warning(f"{failed} of {len(photos)} files could not be scored: the table says why.")
        scored = [photo for photo in photos if photo.result is not None]
        gallery = [(_preview(photo.path), _caption(photo)) for photo in scored]
        return scored, gallery, _table(photos), self.picture(scored, 0, checkpoint, selection, num_views)

    def picture(
        self, photos: list[ScoredPhoto], index: int, checkpoint: str, selection: str, num_views: float
    ) -> Image.Image | None:
        """The picture of [`explain`] for one photo; of [`see`] where comments take part; none without Charm tokens."""
        pipeline = self.pipeline(checkpoint)
        if not 0 <= index < len(photos) or not has_charm_tokens(pipeline):
            return None
        options: dict[str, Any] = {} if selection == OWN_SELECTION else {"patch_selection": selection}
        photo = load_image(photos[index].path, name="The file")
        if reads_comments(pipeline):
            return see(photo, pipeline.image_processor, **options).to_image()
        options["num_views"] = int(num_views)
        return explain(photo, pipeline.model, pipeline.image_processor, **options).to_image()


def _preview(path: str) -> Image.Image:
    image = load_image(path, on_size=lambda width, height: (_PREVIEW_EDGE, _PREVIEW_EDGE))
    image.thumbnail((_PREVIEW_EDGE, _PREVIEW_EDGE))
    return image


def _caption(photo: ScoredPhoto) -> str:
    assert photo.result is not None
    return f"{photo.result['score']:.2f}" + (f" ± {photo.result['std']:.2g}" if photo.result["std"] else "")


def _table(photos: Sequence[ScoredPhoto]) -> dict[str, list[Any]]:
    """Headers and rows of text; a column that would be empty is left out."""
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
    return {"headers": list(used), "data": [list(row) for row in zip(*used.values(), strict=True)]}


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
        photos = gr.State([])
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                files = gr.File(
                    label=f"Photos (at most {limits.max_files})",
                    file_count="multiple",
                    type="filepath",
                    height=240,
                    elem_id="files",
                )
                checkpoint = gr.Dropdown(names, value=names[0], label="Checkpoint", elem_id="checkpoint")
                selection = gr.Dropdown(
                    SELECTIONS, value=OWN_SELECTION, label="High-resolution regions", elem_id="selection"
                )
                num_views = gr.Slider(
                    1, 16, value=1, step=1, label="Random selections", info="More than one also gives their spread."
                )
                comments = gr.Textbox(
                    label="Comments, one a line", lines=4, visible=False, elem_id="comments", max_length=20_000
                )
                button = gr.Button("Score", variant="primary", elem_id="score")
            with gr.Column(scale=3, min_width=420):
                gallery = gr.Gallery(
                    label="Best first; choose one to see why",
                    columns=5,
                    fit_columns=False,
                    object_fit="contain",
                    height=230,
                    allow_preview=False,
                    interactive=False,
                    buttons=[],
                    elem_id="gallery",
                )
                table = gr.Dataframe(datatype="str", interactive=False, wrap=True, elem_id="table", buttons=[])
                picture = gr.Image(
                    show_label=False,
                    alt_text="The photo with its high-resolution regions, what the model received, what moved it",
                    interactive=False,
                    buttons=["download", "fullscreen"],
                    format="png",
                    elem_id="picture",
                )
        inputs = [files, checkpoint, selection, num_views, comments]
        outputs = [photos, gallery, table, picture]
        settings = {"api_visibility": "private", "concurrency_limit": 1, "concurrency_id": "model"}
        for event in (button.click, files.upload, checkpoint.change, selection.change):
            event(session.score, inputs, outputs, **settings)

        def look(shown: list[ScoredPhoto], name: str, chosen: str, views: float, event: Any) -> Any:
            return session.picture(shown, event.index, name, chosen, views)

        look.__annotations__["event"] = gr.SelectData  # Gradio knows by the type what to pass
        gallery.select(look, [photos, checkpoint, selection, num_views], picture, **settings)
        for start in (page.load, checkpoint.change):
            start(
                lambda name: gr.update(visible=reads_comments(session.pipeline(name))),
                checkpoint,
                comments,
                **settings,
            )
    return page


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

    page = build_demo(offered, load, limits)
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
        theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        app_kwargs={"middleware": [Middleware(_ContentPolicy)], "docs_url": None, "redoc_url": None},
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


class _ContentPolicy:
    """ASGI middleware that forbids the pages to load anything from another host."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def send_with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = [
                    (b"content-security-policy", _CONTENT_POLICY.encode()),
                    (b"referrer-policy", b"no-referrer"),
                ]
                message = {**message, "headers": [*message.get("headers", []), *headers]}
            await send(message)

        await self.app(scope, receive, send_with_policy)


def _is_this_machine(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _import_gradio() -> Any:
    # Read when Gradio is imported, and by the Hub's client when it sends a request.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    try:
        import gradio
    except ImportError as error:
        raise ImportError("The demo needs Gradio: `pip install 'charm-hf[demo]'`.") from error
    return gradio


__all__ = ["DemoLimits", "ScoredPhoto", "build_demo", "launch_demo", "load_pipeline", "score_photos"]
