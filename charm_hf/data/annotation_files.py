"""Annotation files as their authors left them: flawed rows are told apart, wrong files refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from datasets import Dataset

from ..tables import Fault, Table, open_text
from .left_out import LeftOut


_ENTRIES_SHOWN = 8
Parsed = TypeVar("Parsed")


@dataclass
class Columns:
    """Columns of one length: of text from a file, of any type from a Parquet file or a dataset.

    Attributes:
        source: how errors call the table.
        values: column name -> values.
        malformed: rows that did not fit.
    """

    source: str
    values: Mapping[str, list[Any]] | Dataset
    malformed: list[LeftOut] = field(default_factory=list)

    @property
    def dataset(self) -> Dataset | None:
        """The table, if it is an Arrow one."""
        return self.values if isinstance(self.values, Dataset) else None

    @property
    def names(self) -> list[str]:
        """Column names."""
        return self.values.column_names if isinstance(self.values, Dataset) else list(self.values)

    def require(self, *names: str) -> None:
        """Raise a `ValueError` that tells the header expected and found if a column is missing."""
        missing = [name for name in names if name not in self.names]
        if missing:
            raise ValueError(
                f"{self.source}: expected a header with {', '.join(names)}; found {', '.join(self.names)}; "
                f"missing {', '.join(missing)}."
            )

    def get(self, name: str) -> list[Any]:
        """Values of a column."""
        return self.values[name][:]

    def kind(self, name: str) -> Any:
        """Type of a column, as a feature of `datasets`."""
        return (self.dataset or Dataset.from_dict({name: self.get(name)})).features[name]


def read_columns(path: Path) -> Columns:
    """Read a CSV, TSV, JSON Lines or Parquet file.

    Raises:
        ValueError: if it is none, or if most of its rows are malformed.
    """
    if path.suffix.lower() == ".parquet":
        return Columns(str(path), Dataset.from_parquet(str(path)))
    table = Table(path)
    faults: list[Fault] = []
    rows = list(table.rows(faults=faults))
    malformed = [LeftOut(f"{path.name}:{line}", fault) for line, fault in faults]
    require_mostly_good(path, len(rows), malformed, "rows of one shape")
    names = dict.fromkeys([*table.names, *(name for row in rows for name in row)])
    return Columns(str(path), {name: [_clean(row.get(name)) for row in rows] for name in names}, malformed)


def parse_lines(path: Path, parse: Callable[[str], Parsed], expected: str) -> tuple[list[Parsed], list[LeftOut]]:
    """Parse every line of a text file that is not blank.

    Only LF and CRLF end a line: `str.splitlines` would also cut at the vertical tabs and separators of free text.

    Args:
        path: the file.
        parse: gives what a stripped line says; its `ValueError` makes the line a malformed row.
        expected: what a line should be, for the error.

    Raises:
        ValueError: if most lines are malformed.
    """
    good: list[Parsed] = []
    malformed = []
    with open_text(path, newline="\n", errors="replace") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    good.append(parse(line.strip()))
                except ValueError as error:
                    malformed.append(LeftOut(f"{path.name}:{number}", str(error)))
    require_mostly_good(path, len(good), malformed, expected)
    return good, malformed


def require_mostly_good(path: Path, num_good: int, malformed: list[LeftOut], expected: str) -> None:
    """Raise a `ValueError` if most rows are malformed: then the file is another one, not a flawed one."""
    if len(malformed) > num_good:
        raise ValueError(
            f"{path}: expected {expected}; {len(malformed):,} of {len(malformed) + num_good:,} rows are not so, the "
            f"first {malformed[0].name}: {malformed[0].detail}."
        )


def require_folder(path: Path, what: str) -> Path:
    """Return `path`, or raise an error that tells what stands in its place."""
    return _require(path, what, "folder", path.is_dir())


def require_file(path: Path, what: str) -> Path:
    """Return `path`, or raise an error that tells what lies beside it."""
    return _require(path, what, "file", path.exists() and not path.is_dir())


def to_floats(cells: Sequence[object]) -> np.ndarray:
    """Numbers of a column as float64; NaN where a cell holds none."""
    try:
        return np.array(cells, dtype=np.float64)
    except (TypeError, ValueError):
        return np.array([_to_float(cell) for cell in cells], dtype=np.float64)


def clean_name(name: str) -> str:
    """Name of an image file as its table gives it, with `/` for a Windows separator and no leading `./`."""
    name = name.strip().replace("\\", "/")
    while name.startswith("./"):
        name = name[2:]
    return name


def _clean(cell: Any) -> Any:
    """Text without spaces around it, and without bytes that are not UTF-8, which Arrow cannot hold."""
    return cell.strip().encode("utf-8", "replace").decode() if isinstance(cell, str) else cell


def _to_float(cell: object) -> float:
    try:
        return float(cell)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return float("nan")


def _require(path: Path, what: str, kind: str, fits: bool) -> Path:
    if fits:
        return path
    if path.exists():
        raise ValueError(f"{what}: expected a {kind}, found a {'file' if kind == 'folder' else 'folder'}: {path}.")
    parent = path.parent
    while not parent.is_dir():
        parent = parent.parent
    entries = sorted(entry.name for entry in parent.iterdir())
    shown = ", ".join(entries[:_ENTRIES_SHOWN]) or "nothing"
    more = f" and {len(entries) - _ENTRIES_SHOWN} more" if len(entries) > _ENTRIES_SHOWN else ""
    raise FileNotFoundError(f"{what}: expected the {kind} {path}; found in {parent}: {shown}{more}.")
