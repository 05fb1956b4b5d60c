"""The `charm-hf` command. Each command parses and calls the library; heavy imports wait until a command runs."""

from __future__ import annotations

import logging
import sys
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer


app = typer.Typer(
    help="Image aesthetics: score photos, and care for the checkpoints that do.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

EXIT_ALL_DONE, EXIT_SOME_FAILED, EXIT_USAGE = 0, 1, 2
_FAILURES_SHOWN = 20

ModelOption = Annotated[
    str | None,
    typer.Option("--model", "-m", metavar="DIR_OR_REPO", help="Checkpoint; the embedded demonstration if not given."),
]
DeviceOption = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps; a GPU if there is one.")]
TrustOption = Annotated[bool, typer.Option("--trust-remote-code", help="Run the code that a checkpoint brings.")]
SelectionOption = Annotated[
    str | None,
    typer.Option(help="How high-resolution regions are chosen: frequency, gradient, entropy, random, original."),
]
SeedOption = Annotated[int | None, typer.Option(help="Seed of everything random.")]


@app.callback()
def _root() -> None:
    """Image aesthetics: score photos, and care for the checkpoints that do."""


@app.command()
def score(
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="Image files, folders, glob patterns.")],
    model: ModelOption = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Table (.csv, .jsonl, .parquet); stdout if not given."),
    ] = None,
    device: DeviceOption = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Most images in a batch.")] = None,
    token_budget: Annotated[int | None, typer.Option(min=1, help="Most tokens in a batch, padding included.")] = None,
    num_workers: Annotated[
        int | None, typer.Option(min=0, help="Processes that decode images; chosen by the number of images.")
    ] = None,
    patch_selection: SelectionOption = None,
    seed: SeedOption = None,
    num_views: Annotated[int, typer.Option(min=1, help="Average over this many random selections.")] = 1,
    trust_remote_code: TrustOption = False,
) -> None:
    """Score photos: a table of path, score, normalized_score, std, width, height, tokens and error.

    Exit code: 0 all scored, 1 some images failed, 2 wrong usage.
    """
    from tqdm import tqdm
    from transformers.utils.logging import disable_progress_bar

    from .scoring import Scorer, ScoringOptions, TableWriter, find_images
    from .scoring.checkpoint import DEMONSTRATION_NOTICE, load_checkpoint
    from .scoring.sinks import check_format
    from .scoring.sources import describe_skipped

    disable_progress_bar()
    processor_options = {"patch_selection": patch_selection, "seed": seed}
    skipped: Counter[str] = Counter()
    try:
        if output is not None:
            check_format(output)
        items = list(find_images(paths, lambda path: skipped.update([Path(path).suffix.lower()])))
        if skipped:
            _say(describe_skipped(skipped))
        if not items:
            raise ValueError(f"Found no images in {', '.join(map(repr, paths))}.")
        options = ScoringOptions(
            token_budget=token_budget,
            batch_size=batch_size,
            num_views=num_views,
            processor={name: value for name, value in processor_options.items() if value is not None},
            num_workers=default_workers(len(items)) if num_workers is None else num_workers,
        )
        if model is None:
            _say(DEMONSTRATION_NOTICE)
        loaded, processor = load_checkpoint(model, device=device, trust_remote_code=trust_remote_code)
        processor.num_tokens(64, 64, **options.processor)
        writer = TableWriter(output if output is not None else sys.stdout)
    except (ValueError, OSError, ImportError) as error:
        _fail(error)
    failures: list[str] = []
    with writer, tqdm(total=len(items), unit=" images", file=sys.stderr) as progress:
        for row in Scorer(loaded, processor, options).score(items):
            writer.write([row])
            progress.update()
            if row.error is not None:
                failures.append(row.error if row.path in row.error else f"{row.path}: {row.error}")
    _list_failures(failures)
    raise typer.Exit(EXIT_SOME_FAILED if failures else EXIT_ALL_DONE)


def default_workers(num_images: int) -> int:
    """Worker processes for so many images: starting one costs seconds, which a handful of images does not repay."""
    import os

    return 0 if num_images < 64 else min(8, os.cpu_count() or 1)


def _list_failures(failures: list[str]) -> None:
    for failure in failures[:_FAILURES_SHOWN]:
        _say(f"not scored: {failure!r}" if "\n" in failure else f"not scored: {failure}")
    if len(failures) > _FAILURES_SHOWN:
        _say(f"… and {len(failures) - _FAILURES_SHOWN:,} more: see the column `error`.")


def _say(message: str) -> None:
    print(message, file=sys.stderr)  # noqa: T201, this is a command


def _fail(error: Exception) -> NoReturn:
    _say(f"Error: {error}")
    raise typer.Exit(EXIT_USAGE)


def main(arguments: list[str] | None = None) -> Any:
    """Run the command line."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)
    return app(arguments)


if __name__ == "__main__":
    main()
