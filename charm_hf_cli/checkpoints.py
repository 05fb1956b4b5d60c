"""`charm-hf convert`, `push`, `pull` and `models`: the care of checkpoints. Thin: `charm_hf.hub` and others do it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from .light import without_registration
from .support import (
    DATASETS,
    EXIT_SOME_FAILED,
    RevisionOption,
    SubfolderOption,
    fail,
    list_names,
    put_out,
    say,
    usage_errors,
)


app = typer.Typer()

RepositoryArgument = Annotated[str, typer.Argument(metavar="REPO", help="owner/name on the Hub.")]


@app.command()
def convert(
    checkpoint: Annotated[Path | None, typer.Argument(metavar="[PTH]", help="Released checkpoint, a pickle.")] = None,
    folder: Annotated[Path | None, typer.Argument(metavar="[OUT]", help="Folder to write.")] = None,
    dataset: Annotated[str | None, typer.Option(help=f"What PTH was trained on: {list_names(DATASETS)}.")] = None,
    position_embeddings: Annotated[
        Path | None, typer.Option(metavar="POS.pt", help="File with the backbone's position table.")
    ] = None,
    from_hub: Annotated[
        str | None, typer.Option(metavar="REPO", help="Instead of PTH: fetch and convert what a repository holds.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="DIR", help="Same as OUT.")] = None,
    datasets: Annotated[
        str | None, typer.Option(metavar="NAME,NAME", help="With --from-hub: which of its checkpoints.")
    ] = None,
    default: Annotated[str | None, typer.Option(help="With --from-hub: which one stands at the root too.")] = None,
    revision: RevisionOption = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="With PTH: replace the checkpoint in OUT.")] = False,
) -> None:
    """Turn released pickles into safetensors, without running what is in them.

    Exit code: 0 converted, 2 not a checkpoint that can be converted.
    """
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    with usage_errors():
        if from_hub is not None:
            from charm_hf.hub import convert_from_hub

            if checkpoint is not None:
                raise ValueError("Give PTH or --from-hub REPO, not both; the folder to write goes into --output.")
            names = [name.strip() for name in datasets.split(",")] if datasets else None
            written = convert_from_hub(
                from_hub, _one_target(folder, output), datasets=names, revision=revision, default=default
            )
        else:
            written = _convert_file(checkpoint, _one_target(folder, output), dataset, position_embeddings, overwrite)
    say(f"Wrote {written}. Try: charm-hf score PHOTO --model {written}")


def _one_target(folder: Path | None, output: Path | None) -> Path:
    if (folder is None) == (output is None):
        raise ValueError("Missing argument: give the folder to write once, as OUT or with --output.")
    return folder or output  # type: ignore[return-value]


def _convert_file(
    checkpoint: Path | None, folder: Path, dataset: str | None, positions: Path | None, overwrite: bool
) -> str:
    from charm_hf.legacy import convert_legacy_checkpoint

    if checkpoint is None or dataset is None or positions is None:
        raise ValueError("Missing argument: give PTH, --dataset and --position-embeddings, or --from-hub REPO.")
    return str(
        convert_legacy_checkpoint(
            checkpoint, folder, dataset=dataset, position_embeddings=positions, overwrite=overwrite
        )
    )


@app.command()
def push(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder with one or several checkpoints.")],
    repo_id: RepositoryArgument,
    private: Annotated[bool, typer.Option("--private", help="Create the repository as private.")] = False,
    revision: RevisionOption = None,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open a pull request instead.")] = False,
    tag: Annotated[str | None, typer.Option(help="Name the new commit.")] = None,
    license: Annotated[str, typer.Option(help="For a card that names none.")] = "apache-2.0",
    message: Annotated[str | None, typer.Option("--message", "-m", help="First line of the commit.")] = None,
) -> None:
    """Publish checkpoints on the Hub, after a clean process has loaded them and scored a photo.

    Exit code: 0 published, 1 the Hub could not be reached or refused, 2 not fit to be published.
    """
    from charm_hf.hub import PushError, push_checkpoint

    try:
        with usage_errors():
            commit = push_checkpoint(
                folder,
                repo_id,
                private=private,
                revision=revision,
                create_pr=create_pr,
                tag=tag,
                commit_message=message,
                license=license,
            )
    except PushError as error:
        fail(error, EXIT_SOME_FAILED)
    put_out(commit.pr_url or commit.commit_url)


@app.command()
def pull(
    repo_id: Annotated[str, typer.Argument(metavar="REPO[@REVISION]", help="owner/name on the Hub.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="New or empty folder, or that of an earlier pull.")],
    subfolder: SubfolderOption = None,
    revision: RevisionOption = None,
) -> None:
    """Copy a repository's checkpoints, code and cards into a folder; pickles stay behind.

    Exit code: 0 done, 2 there is no such thing.
    """
    from charm_hf.hub import pull_checkpoint

    with usage_errors():
        put_out(pull_checkpoint(repo_id, folder, dataset=subfolder, revision=revision))


@app.command()
def models(as_json: Annotated[bool, typer.Option("--json", help="One JSON list instead of a table.")] = False) -> None:
    """List the checkpoints that can be used: embedded, in the cache, published. Asks no network."""
    with without_registration():
        from charm_hf.catalogue import list_checkpoints

        found = list_checkpoints()
    if as_json:
        put_out(json.dumps([vars(known) for known in found], indent=2))
        return
    rows = [["MODEL", "WHERE", "TRAINED ON", "ENCODER", "SIZE", "LICENCE", "PLCC", "SRCC", "ACC"]]
    for known in found:
        name = f"{known.model} --subfolder {known.subfolder}" if known.subfolder else known.model or "(no --model)"
        size = f"{known.bytes / 1e6:,.1f} MB" if known.bytes else f"{(known.parameters or 0) / 1e6:,.0f} M parameters"
        numbers = ["" if value is None else f"{value:.3f}" for value in (known.plcc, known.srcc, known.acc)]
        rows.append([name, known.place, known.dataset, known.encoder, size, known.license, *numbers])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        put_out("  ".join(map(str.ljust, row, widths)).rstrip())
    say("PLCC, SRCC, ACC: the paper's, for DINOv2-small. A published one is fetched and converted when first used.")
