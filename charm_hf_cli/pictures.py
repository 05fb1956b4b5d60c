"""`charm-hf explain`, `report` and `demo`: scores to look at. Thin: the modules of the same names do it."""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .light import without_registration
from .support import (
    AGAINST,
    METHODS,
    TABLES,
    THUMBNAILS,
    DeviceOption,
    ModelOption,
    RevisionOption,
    SeedOption,
    SelectionOption,
    SubfolderOption,
    TrustOption,
    given,
    list_names,
    put_out,
    say,
    usage_errors,
)


if TYPE_CHECKING:
    from PIL.Image import Image

app = typer.Typer()


@app.command()
def explain(
    photo: Annotated[str, typer.Argument(metavar="PHOTO", help="Path or URL.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="PNG", help="Picture to write.")],
    model: ModelOption = None,
    revision: RevisionOption = None,
    subfolder: SubfolderOption = None,
    device: DeviceOption = None,
    trust_remote_code: TrustOption = False,
    patch_selection: SelectionOption = None,
    saliency_map: Annotated[Path | None, typer.Option(help="For --patch-selection saliency: the map.")] = None,
    num_scales: Annotated[int | None, typer.Option(help="As the checkpoint's, if not given.")] = None,
    max_num_patches: Annotated[int | None, typer.Option(help="Length of the token sequence.")] = None,
    seed: SeedOption = None,
    against: Annotated[str, typer.Option(help=f"To compare the photo with: {list_names(AGAINST)}.")] = "blurred",
    method: Annotated[str, typer.Option(help=f"{list_names(METHODS)} (slower).")] = "gradients",
    steps: Annotated[int, typer.Option(min=1, help="Gradients taken on the way from there to this photo.")] = 8,
    num_views: Annotated[int, typer.Option(min=1, help="Also show the spread over so many random selections.")] = 1,
) -> None:
    """Draw what the model saw of a photo and which tokens moved its score.

    Exit code: 0 drawn, 2 wrong usage or a photo that cannot be read.
    """
    from transformers.utils.logging import disable_progress_bar

    from charm_hf.look.explain import explain as explain_photo
    from charm_hf.scoring import DEMONSTRATION_NOTICE, load_for_scoring

    disable_progress_bar()
    options = given(
        patch_selection=patch_selection,
        num_scales=num_scales,
        max_num_patches=max_num_patches,
        seed=seed,
        saliency_maps=None if saliency_map is None else str(saliency_map),
    )
    with usage_errors():
        import_module("charm_hf.look.explain_picture")  # says before any work whether it can draw
        if model is None:
            say(DEMONSTRATION_NOTICE)
        loaded, processor = load_for_scoring(
            model, device=device, trust_remote_code=trust_remote_code, revision=revision, subfolder=subfolder
        )
        explain_photo(
            photo, loaded, processor, against=against, method=method, steps=steps, num_views=num_views, **options
        ).save(output)
    put_out(output)


def _explainer(model: str | None, device: str | None) -> Callable[[Path], Image]:
    """Draws why a photo has its score, by the model that gave it."""
    from charm_hf.look.explain import explain as explain_photo
    from charm_hf.scoring import DEMONSTRATION_NOTICE, load_for_scoring

    if model is None:
        say(DEMONSTRATION_NOTICE)
    loaded, processor = load_for_scoring(model, device=device)
    return lambda file: explain_photo(str(file), loaded, processor).to_image()


@app.command()
def report(
    scores: Annotated[Path, typer.Argument(metavar="SCORES", help=f"Table of charm-hf score: {list_names(TABLES)}.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="HTML", help="Page to write.")],
    title: Annotated[str | None, typer.Option(help="Heading of the page.")] = None,
    image_root: Annotated[Path | None, typer.Option(help="Where relative paths of the table start.")] = None,
    thumbnails: Annotated[str, typer.Option(help=f"{list_names(THUMBNAILS)}.")] = "embed",
    thumbnail_size: Annotated[int | None, typer.Option(help="Longest edge in pixels.")] = None,
    originals: Annotated[bool, typer.Option(help="Let the large view show the photos' own files.")] = True,
    stacks: Annotated[
        bool, typer.Option("--stacks", help="Show photos of one moment as a stack, the best on top.")
    ] = False,
    explain: Annotated[
        int, typer.Option(min=0, metavar="N", help="Show why, for the N best and the N worst; takes the model.")
    ] = 0,
    model: ModelOption = None,
    device: DeviceOption = None,
) -> None:
    """Make one self-contained page of scored photos to sort, filter and choose from.

    Exit code: 0 written, 2 wrong usage or a table that cannot be read.
    """
    with nullcontext() if explain else without_registration(), usage_errors():
        from charm_hf.look.report import write_report

        draw = _explainer(model, device) if explain else None

        summary = write_report(
            scores,
            output,
            title=title,
            image_root=image_root,
            thumbnails=thumbnails,
            thumbnail_size=thumbnail_size,
            link_originals=originals,
            stacks=stacks,
            explain=draw,
            explained=explain,
            progress=True,
        )
    say(f"{summary.num_photos:,} photos, {summary.num_failed:,} failures, {summary.num_bytes / 1e6:.1f} MB")
    put_out(summary.path)


@app.command()
def demo(
    model: Annotated[
        list[str] | None,
        typer.Option("--model", "-m", metavar="DIR_OR_REPO", help="Checkpoint on offer; may be repeated."),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen at; any other than this lets others in.")] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(help="The first free one from 7860 if not given.")] = None,
    device: DeviceOption = None,
    trust_remote_code: TrustOption = False,
    open_browser: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> None:
    """Serve a local page to drop photos on. Nothing leaves this machine.

    Exit code: 0 stopped, 2 wrong usage.
    """
    from charm_hf.look.demo import launch_demo

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt  # as by Ctrl-C: the server stops, and its uploads go

    signal.signal(signal.SIGTERM, stop)
    with usage_errors():
        page, url = launch_demo(
            model or (),
            host=host,
            port=port,
            device=device,
            trust_remote_code=trust_remote_code,
            open_browser=open_browser,
            block=False,
        )
    say(f"The demo runs at {url}. Ctrl-C stops it.")
    page.block_thread()
