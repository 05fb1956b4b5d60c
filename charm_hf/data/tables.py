"""Annotation files as they come: byte order marks, Windows line ends, blank lines and rows of the wrong length."""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from charm_hf.data.report import LeftOut


_ENTRIES_SHOWN = 8


@dataclass
class Table:
    """Columns of text, all of one length, and the rows that did not fit the header."""

    path: Path
    columns: dict[str, list[str]]
    malformed: list[LeftOut]

    def require(self, *names: str) -> None:
        """Raise a `ValueError` that tells the header expected and found if a column is missing."""
        missing = [name for name in names if name not in self.columns]
        if missing:
            raise ValueError(
                f"{self.path}: expected a header with {', '.join(names)}; found {', '.join(self.columns)}; "
                f"missing {', '.join(missing)}."
            )


def require_folder(path: Path, what: str) -> Path:
    """Return `path`, or raise an error that tells what stands in its place."""
    if path.is_dir():
        return path
    if path.exists():
        raise ValueError(f"{what}: expected a folder, found a file: {path}.")
    raise FileNotFoundError(f"{what}: expected the folder {path}; {_surroundings(path)}.")


def require_file(path: Path, what: str) -> Path:
    """Return `path`, or raise an error that tells what lies beside it."""
    if path.is_file():
        return path
    if path.exists():
        raise ValueError(f"{what}: expected a file, found a folder: {path}.")
    raise FileNotFoundError(f"{what}: expected the file {path}; {_surroundings(path)}.")


def read_text(path: Path) -> str:
    """Text of a UTF-8 file, with or without BOM, or of a UTF-16 file with BOM.

    Bytes that are no UTF-8 become U+FFFD, so that one of them costs its own row and not the file.
    """
    content = path.read_bytes()
    encoding = "utf-16" if content[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"
    return content.decode(encoding, errors="replace")


def read_lines(path: Path) -> list[tuple[int, str]]:
    """Line number (from 1) and stripped text of every line that is not blank.

    Only LF and CRLF end a line: `str.splitlines` would also cut at the vertical tabs and separators of free text.
    """
    lines = ((number, line.strip()) for number, line in enumerate(read_text(path).split("\n"), start=1))
    return [(number, line) for number, line in lines if line]


def read_delimited(path: Path) -> Table:
    """Read a table with a header, separated by comma, semicolon or tab (whichever is most frequent in the header)."""
    rows = _read_cells(path)
    header = _strip_blank_tail(rows[0][1]) if rows else []
    if len(set(header)) != len(header):
        raise ValueError(f"{path}: expected a header of unlike names, found {', '.join(header)}.")

    good: list[list[str]] = []
    malformed: list[LeftOut] = []
    for number, row in rows[1:]:
        cells = row if len(row) == len(header) else _strip_blank_tail(row, at_least=len(header))
        if len(cells) == len(header):
            good.append(cells)
        else:
            malformed.append(LeftOut(f"{path.name}:{number}", f"expected {len(header)} cells, found {len(cells)}"))
    require_mostly_good(path, len(good), malformed, f"{len(header)} cells a row, as in its header")
    columns = [list(column) for column in zip(*good, strict=True)] or [[] for _ in header]
    return Table(path, dict(zip(header, columns, strict=True)), malformed)


def _read_cells(path: Path) -> list[tuple[int, list[str]]]:
    """Line number and stripped cells of every row that is not blank."""
    text = read_text(path)
    first_line = text.lstrip().split("\n", 1)[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=first_line.count))
    try:
        rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except csv.Error as error:
        raise ValueError(f"{path}: expected a table of text, but line {reader.line_num} has {error}.") from None
    return [(number, row) for number, row in rows if any(row)]


def require_mostly_good(path: Path, num_good: int, malformed: list[LeftOut], expected: str) -> None:
    """Raise a `ValueError` if most rows are malformed: then the file is another one, not a flawed one."""
    if len(malformed) > num_good:
        raise ValueError(
            f"{path}: expected {expected}; {len(malformed):,} of {len(malformed) + num_good:,} rows are not so, the "
            f"first {malformed[0].name}: {malformed[0].detail}."
        )


def to_floats(cells: Sequence[object]) -> np.ndarray:
    """Numbers of a column as float64; NaN where a cell holds none."""
    try:
        return np.array(cells, dtype=np.float64)
    except (TypeError, ValueError):
        return np.array([_to_float(cell) for cell in cells], dtype=np.float64)


def _to_float(cell: object) -> float:
    try:
        return float(cell)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return float("nan")


def clean_name(name: str) -> str:
    """Name of an image file as its table gives it, with `/` for a Windows separator and no leading `./`."""
    name = name.strip().replace("\\", "/")
    while name.startswith("./"):
        name = name[2:]
    return name


def _strip_blank_tail(row: list[str], at_least: int = 0) -> list[str]:
    while len(row) > at_least and not row[-1]:
        row = row[:-1]
    return row


def _surroundings(path: Path) -> str:
    parent = path.parent
    while not parent.is_dir():
        parent = parent.parent
    entries = sorted(entry.name for entry in parent.iterdir())
    shown = ", ".join(entries[:_ENTRIES_SHOWN]) or "nothing"
    more = f" and {len(entries) - _ENTRIES_SHOWN} more" if len(entries) > _ENTRIES_SHOWN else ""
    return f"found in {parent}: {shown}{more}"
