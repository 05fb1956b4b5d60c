"""Rows of a table that `charm-hf score` wrote, and where their photos lie."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..tables import WRITTEN_SUFFIXES, Table, unescape_bytes


NUMBERS = ("score", "normalized_score", "std", "width", "height", "tokens")
_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)


def read_scores(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Read a table written by `charm-hf score`: `.csv`, `.jsonl` or `.parquet`, each row a `dict`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for another format or a broken file.
    """
    path = Path(path)
    if path.suffix.lower() not in WRITTEN_SUFFIXES:
        *others, last = WRITTEN_SUFFIXES
        raise ValueError(f"{os.fspath(path)!r}: expected a table ending in {', '.join(others)} or {last}.")
    if not path.is_file():
        raise FileNotFoundError(f"There is no score table {os.fspath(path)!r}. `charm-hf score` writes one.")
    table = Table(path)
    _check_columns(table.names, path.name)
    return list(table.rows())


def _check_columns(columns: Iterable[str], name: str) -> None:
    missing = [column for column in ("path", "score") if column not in columns]
    if missing:
        raise ValueError(f"{name}: expected the columns `path` and `score`, found {', '.join(columns) or 'none'}.")


def checked_rows(rows: Iterable[Mapping[str, Any]], name: str) -> list[dict[str, Any]]:
    """Rows with numbers and text in their cells; `score` is `None` exactly where `error` is not empty.

    Raises:
        ValueError: for rows without `path` and `score`, a score that is no number, or no rows; it says which.
    """
    checked = []
    for number, row in enumerate(rows, 1):
        if number == 1:
            _check_columns(row, name)
        checked.append(_checked_row(row, f"{name}, row {number}"))
    if not checked:
        raise ValueError(f"{name} holds no rows: there is nothing to show.")
    return checked


def _checked_row(row: Mapping[str, Any], place: str) -> dict[str, Any]:
    result: dict[str, Any] = {**row, "path": str(row.get("path") or "")}
    for column in NUMBERS:
        result[column] = _number(row.get(column), f"{place}, column {column}")
    result["distribution"] = _numbers(row.get("distribution"))
    result["error"] = str(row.get("error") or "")
    if result["score"] is None and not result["error"]:
        result["error"] = "The table holds no score for this file."
    if result["error"]:
        result["score"] = None
    return result


def _number(value: Any, place: str) -> float | int | None:
    if value is None or value == "":
        return None
    try:
        number = float(value)
    except OverflowError:  # a whole number of hundreds of digits
        return None
    except (TypeError, ValueError):
        raise ValueError(f"{place}: expected a number, found {str(value)[:80]!r}.") from None
    if not math.isfinite(number):
        return None
    return int(number) if number.is_integer() and not isinstance(value, float) else number


def _numbers(value: Any) -> list[float] | None:
    """Read a list of numbers, which a CSV holds as its JSON text."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        return None
    try:
        numbers = [float(number) for number in value]
    except (TypeError, ValueError, OverflowError):
        return None
    return numbers if all(map(math.isfinite, numbers)) else None


def photo_roots(table: str | os.PathLike[str] | None, image_root: str | os.PathLike[str] | None) -> list[Path]:
    """Folders that relative paths of a table start from: the given one, else the working folder and the table's."""
    if image_root is not None:
        return [Path(image_root)]
    return [Path(), *([] if table is None else [Path(table).parent])]


def locate(path: str, roots: Sequence[Path]) -> tuple[Path | None, str]:
    """The file of a row, or `None` and the reason why there is none."""
    if _URL.match(path):
        return None, "Not a file on this machine"
    for candidate in dict.fromkeys((path, unescape_bytes(path))):
        for root in roots:
            file = root / candidate
            try:
                if file.is_file():
                    return file, ""
            except (OSError, ValueError):  # a name too long for the file system, or with a zero byte
                continue
    return None, "The file is not there any more"
