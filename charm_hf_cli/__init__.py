"""The `charm-hf` command, beside the package and not in it: `import charm_hf` takes seconds, `--help` must not.

Each command parses and calls the library, which it imports when it runs; one file a group of commands.
"""

from __future__ import annotations

import logging
import sys
import warnings
from typing import Annotated, Any

import typer

from .checkpoints import app as checkpoints
from .light import without_registration
from .pictures import app as pictures
from .score import app as scoring
from .select import app as selecting
from .serve import app as serving
from .support import for_terminal, put_out


app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
for group in (scoring, selecting, serving, checkpoints, pictures):
    app.add_typer(group)


class _Plain(logging.Formatter):
    """Messages may name files of strangers, whose names a terminal must not obey."""

    def format(self, record: logging.LogRecord) -> str:
        return for_terminal(super().format(record))


def _print_version(wanted: bool) -> None:
    if wanted:
        with without_registration():
            from charm_hf.version import __version__
        put_out(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Image aesthetics: score photos, and care for the checkpoints that do."""


def main(arguments: list[str] | None = None) -> Any:
    """Run the command line."""
    warnings.filterwarnings("ignore", module=r"PIL\.")  # what they are about stands in the table, or does not matter
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Plain("%(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    return app(arguments)


__all__ = ["app", "main"]
