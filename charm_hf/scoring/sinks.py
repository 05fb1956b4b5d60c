"""Tables of scores as CSV, JSON Lines and Parquet, written a group of rows at a time."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from .rows import COLUMN_TYPES, DECIMALS, ScoreRow, table_columns


WriteRecords = Callable[[list[dict[str, Any]]], None]
"""Appends rows, given as values by column."""

_ARROW_TYPES = {str: pa.string(), int: pa.int32(), float: pa.float64(), list[float]: pa.list_(pa.float64())}


def _csv_cell(value: Any) -> Any:
    if isinstance(value, float):
        return f"{value:.{DECIMALS}f}"
    return json.dumps(value, allow_nan=False) if isinstance(value, list) else value


@contextmanager
def _csv(file: str | os.PathLike | IO[str], columns: Sequence[str]) -> Iterator[WriteRecords]:
    """Comma-separated values: numbers from the model with all their decimals, lists as JSON."""
    if isinstance(file, (str, os.PathLike)):
        with open(file, "w", encoding="utf-8", newline="") as stream, _csv(stream, columns) as write:
            yield write
        return
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns)

    def write_records(records: list[dict[str, Any]]) -> None:
        writer.writerows([_csv_cell(record[name]) for name in columns] for record in records)
        file.flush()

    yield write_records


@contextmanager
def _json_lines(file: str | os.PathLike, columns: Sequence[str]) -> Iterator[WriteRecords]:
    """One JSON object a row; a row without `error` says so by leaving the name out."""
    with open(file, "w", encoding="utf-8") as stream:

        def write_records(records: list[dict[str, Any]]) -> None:
            for record in records:
                present = {name: value for name, value in record.items() if name != "error" or value is not None}
                stream.write(json.dumps(present, ensure_ascii=False, allow_nan=False) + "\n")
            stream.flush()

        yield write_records


@contextmanager
def _parquet(file: str | os.PathLike, columns: Sequence[str]) -> Iterator[WriteRecords]:
    """Parquet, with a row group for every group of rows."""
    kinds: dict[str, pa.DataType] = {name: _ARROW_TYPES[kind] for name, kind in COLUMN_TYPES.items()}
    kinds["embedding"] = pa.list_(pa.float16())  # a tenth of the room that six decimals take
    schema = pa.schema([(name, kinds.get(name, pa.string())) for name in columns])
    with pq.ParquetWriter(file, schema) as writer:
        yield lambda records: writer.write_table(pa.Table.from_pylist(records, schema=schema))


_SINKS: dict[str, Any] = {".csv": _csv, ".jsonl": _json_lines, ".parquet": _parquet}


def check_output(file: str | os.PathLike) -> str:
    """Ending of a table's file name.

    Raises:
        ValueError: if it is not one that can be written.
        IsADirectoryError: if it is a folder.
    """
    suffix = Path(file).suffix.lower()
    if suffix not in _SINKS:
        raise ValueError(f"{os.fspath(file)!r}: expected a file name ending in {', '.join(_SINKS)}, got {suffix!r}.")
    if os.path.isdir(file):
        raise IsADirectoryError(f"{os.fspath(file)!r} is a folder, expected the name of a file to write.")
    return suffix


@contextmanager
def open_table(
    file: str | os.PathLike | IO[str],
    columns: Sequence[str] = table_columns(),
    constants: Mapping[str, str] | None = None,
) -> Iterator[Callable[[Sequence[ScoreRow]], None]]:
    """Begin a table; gives what appends a group of rows, one or more.

    ```python
    with open_table("scores.csv") as write:
        write(rows)
    ```

    Args:
        file: path that ends in `.csv`, `.jsonl` or `.parquet`, or an open text stream, which gets CSV.
        columns: fields of [`ScoreRow`], in the order of the table.
        constants: further columns, the same for every row.

    Raises:
        ValueError: for a file name with another ending.
    """
    further = dict(constants or {})
    sink = _SINKS[check_output(file)] if isinstance(file, (str, os.PathLike)) else _csv
    with sink(file, (*columns, *further)) as write_records:
        yield lambda rows: write_records([{name: getattr(row, name) for name in columns} | further for row in rows])
