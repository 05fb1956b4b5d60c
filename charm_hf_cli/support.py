"""What the commands of `charm-hf` share: option types, exit codes, and how they speak."""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, NoReturn

import typer

from .light import without_registration


# How libraries whose errors carry no number tell of a full disk.
_FULL_DISK = re.compile("os error (28|122)|No space left|[Qq]uota exceeded")

EXIT_ALL_DONE, EXIT_SOME_FAILED, EXIT_USAGE, EXIT_STOPPED = 0, 1, 2, 3

# Names for the help texts, which cannot wait for the package to be imported; a test compares them with its own.
DATASETS = ("aadb", "ava", "baid", "koniq10k", "para", "spaq", "tad66k")
SELECTIONS = (  # that need no map
    *("frequency", "gradient", "entropy", "spectral_residual", "random", "original", "released_frequency"),
)
THUMBNAILS = ("embed", "link", "none")
AGAINST = ("blurred", "mean", "empty")
METHODS = ("gradients", "occlusion")
TABLES = (".csv", ".jsonl", ".parquet")
STARS = ("percentile", "range", "training")
XMP_PLACES = ("sidecar", "embed")


@dataclass
class Voice:
    """How messages are written, as the command that runs was asked to.

    Attributes:
        log_format: `text`, or `json` for one object a line.
        quiet: whether all but errors is left out.
    """

    log_format: str = "text"
    quiet: bool = False


voice = Voice()


def speak(log_format: str, quiet: bool) -> None:
    """Set how messages are written from here on, those of libraries included."""
    if log_format not in ("text", "json"):
        raise typer.BadParameter(f"expected text or json, got {log_format!r}", param_hint="--log-format")
    voice.log_format, voice.quiet = log_format, quiet
    logging.getLogger().setLevel(logging.ERROR if quiet else logging.WARNING)
    for handler in logging.getLogger().handlers:
        if log_format == "json" and getattr(handler, "stream", None) is sys.stderr:
            handler.setFormatter(_JsonLines())


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return json.dumps({"level": record.levelname.lower(), "message": record.getMessage()})


def for_terminal(text: str) -> str:
    """Lines of text without what a terminal would obey."""
    with without_registration():
        from charm_hf.tables import escape_controls

    return "\n".join(map(escape_controls, text.split("\n")))


def say(message: str, level: str = "info", **facts: Any) -> None:
    """Write a message where it does not mix with data: to standard error; `facts` stand beside it in JSON."""
    if voice.quiet and level != "error":
        return
    line = for_terminal(message)  # it may name files of strangers
    if voice.log_format == "json":
        line = json.dumps({"level": level, "message": message, **facts})
    print(line, file=sys.stderr)  # noqa: T201, this is a command


def fail(error: Exception | str, code: int = EXIT_USAGE) -> NoReturn:
    """Say in one line what went wrong, and leave; with `EXIT_STOPPED` where it is a full disk."""
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or _FULL_DISK.search(str(error)):
        code = EXIT_STOPPED
    say(f"Error: {' '.join(str(error).split())}", "error")
    raise typer.Exit(code) from None


def put_out(data: object) -> None:
    """Write what was asked for, or where it is: to standard output."""
    try:
        print(for_terminal(str(data)) if sys.stdout.isatty() else data, flush=True)  # noqa: T201, this is a command
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):  # whoever read that has seen enough
            fail(error)


@contextmanager
def usage_errors() -> Iterator[None]:
    """Turn what the library has against a request into one line and exit code 2; 3 for a full disk."""
    try:
        yield
    except (ValueError, OSError, ImportError) as error:
        fail(error)
    except Exception as error:
        if type(error).__name__ != "SafetensorError":  # which is no OSError, and slow to import
            raise
        fail(error)


def given(**options: Any) -> dict[str, Any]:
    """The options that were given, which leaves those of the library at their defaults."""
    return {name: value for name, value in options.items() if value is not None}


def list_names(names: tuple[str, ...], last: str = "or") -> str:
    """Join names for a sentence: `a, b or c`."""
    return f"{', '.join(names[:-1])} {last} {names[-1]}"


def _usable_device(name: str | None) -> str | None:
    if name is not None:
        import torch

        try:
            torch.empty(0, device=name)
        except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
            fail(f"--device {name} cannot be used here: {str(error).splitlines()[0]}")
    return name


ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="DIR_OR_REPO",
        envvar="CHARM_HF_MODEL",
        help="Checkpoint; the embedded demonstration if not given.",
    ),
]
RevisionOption = Annotated[str | None, typer.Option(help="Branch, tag or commit of a repository.")]
SubfolderOption = Annotated[str | None, typer.Option(help="Which checkpoint of a repository, such as ava.")]
DeviceOption = Annotated[
    str | None,
    typer.Option(
        callback=_usable_device, envvar="CHARM_HF_DEVICE", help="cpu, cuda, cuda:1, mps; a GPU if there is one."
    ),
]
DtypeOption = Annotated[str, typer.Option(envvar="CHARM_HF_DTYPE", help="float32, bfloat16 or float16.")]
TokenBudgetOption = Annotated[
    int | None,
    typer.Option(min=1, envvar="CHARM_HF_TOKEN_BUDGET", help="Most tokens in a batch, padding included."),
]
WorkersOption = Annotated[
    int | None,
    typer.Option(
        min=0, envvar="CHARM_HF_NUM_WORKERS", help="Processes that decode images; by the number of images and cores."
    ),
]
LogFormatOption = Annotated[
    str,
    typer.Option(envvar="CHARM_HF_LOG_FORMAT", help="text, or json: messages and progress as one object a line."),
]
QuietOption = Annotated[
    bool, typer.Option("--quiet", "-q", envvar="CHARM_HF_QUIET", help="No messages but errors, and no progress.")
]
TrustOption = Annotated[bool, typer.Option("--trust-remote-code", help="Run the code that a checkpoint brings.")]
SelectionOption = Annotated[
    str | None, typer.Option(help=f"How high-resolution regions are chosen: {list_names(SELECTIONS)}.")
]
SeedOption = Annotated[int | None, typer.Option(help="Seed of everything random.")]
