"""What the commands of `charm-hf` share: option types, exit codes, and how they speak."""

from __future__ import annotations

import sys
from typing import Annotated, NoReturn

import typer


EXIT_ALL_DONE, EXIT_SOME_FAILED, EXIT_USAGE = 0, 1, 2

ModelOption = Annotated[
    str | None,
    typer.Option("--model", "-m", metavar="DIR_OR_REPO", help="Checkpoint; the embedded demonstration if not given."),
]
RevisionOption = Annotated[str | None, typer.Option(help="Branch, tag or commit of a repository.")]
SubfolderOption = Annotated[str | None, typer.Option(help="Which checkpoint of a repository, such as ava.")]
DeviceOption = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps; a GPU if there is one.")]
TrustOption = Annotated[bool, typer.Option("--trust-remote-code", help="Run the code that a checkpoint brings.")]
SelectionOption = Annotated[
    str | None,
    typer.Option(help="How high-resolution regions are chosen: frequency, gradient, entropy, random, original."),
]
SeedOption = Annotated[int | None, typer.Option(help="Seed of everything random.")]


def say(message: str) -> None:
    """Write a message where it does not mix with data: to standard error."""
    print(message, file=sys.stderr)  # noqa: T201, this is a command


def fail(error: Exception, code: int = EXIT_USAGE) -> NoReturn:
    """Say what went wrong and leave."""
    say(f"Error: {error}")
    raise typer.Exit(code) from None
