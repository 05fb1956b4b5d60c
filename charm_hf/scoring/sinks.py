"""Tables of scores as CSV, JSON Lines and Parquet, written a group of rows at a time."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from .rows import COLUMN_TYPES, DECIMALS, ScoreRow, table_columns


class Sink(Protocol):
    """A table in one format. Made with a file's path and the columns; rows come as values by column."""

    def write(self, records: list[dict[str, Any]]) -> None:
        """Append rows."""

    def close(self) -> None:
        """Finish the table."""


class CsvSink:
    """Comma-separated values, with a header; of a stream, which stays open, or a file."""

    def __init__(self, file: str | os.PathLike | IO[str], columns: Sequence[str]) -> None:
        self._is_ours = isinstance(file, (str, os.PathLike))
        self._stream: IO[str] = open(file, "w", encoding="utf-8", newline="") if self._is_ours else file  # type: ignore  # noqa: SIM115
        self._columns = columns
        self._writer = csv.writer(self._stream, lineterminator="\n")
        self._writer.writerow(columns)

    def write(self, records: list[dict[str, Any]]) -> None:
        """Append rows; numbers from the model with all their decimals, lists as JSON."""
        self._writer.writerows([_csv_cell(record[name]) for name in self._columns] for record in records)
        self._stream.flush()

    def close(self) -> None:
        """Close the file."""
        if self._is_ours:
            self._stream.close()


class JsonLinesSink:
    """One JSON object a row; a row without `error` says so by leaving the name out."""

    def __init__(self, file: str | os.PathLike, columns: Sequence[str]) -> None:
        self._stream = open(file, "w", encoding="utf-8")  # noqa: SIM115, closed by close()

    def write(self, records: list[dict[str, Any]]) -> None:
        """Append rows."""
        for record in records:
            present = {name: value for name, value in record.items() if name != "error" or value is not None}
            self._stream.write(json.dumps(present, ensure_ascii=False, allow_nan=False) + "\n")
        self._stream.flush()

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


class ParquetSink:
    """Parquet, with a row group for every call of `write`."""

    _TYPES = {str: pa.string(), int: pa.int32(), float: pa.float64(), list[float]: pa.list_(pa.float64())}  # noqa: RUF012

    def __init__(self, file: str | os.PathLike, columns: Sequence[str]) -> None:
        self._schema = pa.schema([(name, self._TYPES[COLUMN_TYPES.get(name, str)]) for name in columns])
        self._writer = pq.ParquetWriter(file, self._schema)

    def write(self, records: list[dict[str, Any]]) -> None:
        """Append rows."""
        if records:
            self._writer.write_table(pa.Table.from_pylist(records, schema=self._schema))

    def close(self) -> None:
        """Finish the file."""
        self._writer.close()


SINKS: dict[str, Any] = {".csv": CsvSink, ".jsonl": JsonLinesSink, ".parquet": ParquetSink}


class TableWriter:
    """Write rows to a file in one of the formats. Use as a context manager.

    Args:
        file: path that ends in `.csv`, `.jsonl` or `.parquet`, or an open text stream, which gets CSV.
        columns: fields of [`ScoreRow`], in the order of the table.
        constants: further columns, the same for every row.

    Raises:
        ValueError: for a file name with another ending.
    """

    def __init__(
        self,
        file: str | os.PathLike | IO[str],
        columns: Sequence[str] = table_columns(),
        constants: Mapping[str, str] | None = None,
    ) -> None:
        self.columns = columns
        self.constants = dict(constants or {})
        format = check_output(file) if isinstance(file, (str, os.PathLike)) else ".csv"
        self._sink: Sink = SINKS[format](file, (*columns, *self.constants))

    def write(self, rows: Sequence[ScoreRow]) -> None:
        """Append rows."""
        self._sink.write([{name: getattr(row, name) for name in self.columns} | self.constants for row in rows])

    def __enter__(self) -> TableWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        self._sink.close()


def check_output(file: str | os.PathLike) -> str:
    """Ending of a table's file name.

    Raises:
        ValueError: if it is not one that can be written.
        IsADirectoryError: if it is a folder.
    """
    suffix = Path(file).suffix.lower()
    if suffix not in SINKS:
        raise ValueError(f"{os.fspath(file)!r}: expected a file name ending in {', '.join(SINKS)}, got {suffix!r}.")
    if os.path.isdir(file):
        raise IsADirectoryError(f"{os.fspath(file)!r} is a folder, expected the name of a file to write.")
    return suffix


def _csv_cell(value: Any) -> Any:
    if isinstance(value, float):
        return f"{value:.{DECIMALS}f}"
    return json.dumps(value, allow_nan=False) if isinstance(value, list) else value
