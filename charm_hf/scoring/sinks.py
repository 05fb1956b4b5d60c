"""Tables of scores as CSV, JSON Lines and Parquet, written a group of rows at a time."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from .rows import COLUMNS, DECIMALS, ScoreRow


FORMATS = (".csv", ".jsonl", ".parquet")

_TYPES: dict[str, pa.DataType] = {
    "width": pa.int32(),
    "height": pa.int32(),
    "tokens": pa.int32(),
    "score": pa.float64(),
    "normalized_score": pa.float64(),
    "std": pa.float64(),
    "spread": pa.float64(),
    "distribution": pa.list_(pa.float64()),
}


class TableWriter:
    """Write rows to a file in one of three formats. Use as a context manager.

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
        columns: Sequence[str] = COLUMNS,
        constants: Mapping[str, str] | None = None,
    ) -> None:
        self.constants = dict(constants or {})
        self.columns = (*columns, *self.constants)
        self._stream: IO[str] | None = None
        self._parquet: pq.ParquetWriter | None = None
        self._path = file if isinstance(file, (str, os.PathLike)) else None
        self.format = ".csv" if self._path is None else check_format(self._path)
        if self.format == ".parquet":
            self.schema = pa.schema([(name, _TYPES.get(name, pa.string())) for name in self.columns])
            self._parquet = pq.ParquetWriter(file, self.schema)
            return
        if isinstance(file, (str, os.PathLike)):
            self._stream = open(file, "w", encoding="utf-8", newline="")  # noqa: SIM115, closed by close()
        else:
            self._stream = file
        if self.format == ".csv":
            csv.writer(self._stream, lineterminator="\n").writerow(self.columns)

    def write(self, rows: Sequence[ScoreRow]) -> None:
        """Append rows; in a Parquet file they are one row group."""
        records = [self._record(row) for row in rows]
        if self._parquet is not None:
            if records:
                self._parquet.write_table(pa.Table.from_pylist(records, schema=self.schema))
            return
        assert self._stream is not None
        if self.format == ".jsonl":
            self._stream.writelines(json.dumps(_present(record), ensure_ascii=False) + "\n" for record in records)
        else:
            writer = csv.writer(self._stream, lineterminator="\n")
            writer.writerows([_csv_cell(record[name]) for name in self.columns] for record in records)
        self._stream.flush()

    def close(self) -> None:
        """Finish the file and flush it to the disk."""
        if self._parquet is not None:
            self._parquet.close()
        elif self._path is not None and self._stream is not None:
            self._stream.close()
        if self._path is not None:
            with open(self._path, "rb") as file:
                os.fsync(file.fileno())

    def __enter__(self) -> TableWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _record(self, row: ScoreRow) -> dict[str, Any]:
        values = {name: getattr(row, name) for name in self.columns if name not in self.constants}
        return {**values, **self.constants}


def check_format(file: str | os.PathLike) -> str:
    """Ending of a table's file name.

    Raises:
        ValueError: if it is not one that can be written.
    """
    suffix = Path(file).suffix.lower()
    if suffix not in FORMATS:
        raise ValueError(f"{os.fspath(file)!r}: expected a file name ending in {', '.join(FORMATS)}, got {suffix!r}.")
    return suffix


def _csv_cell(value: Any) -> Any:
    if isinstance(value, float):
        return f"{value:.{DECIMALS}f}"
    return json.dumps(value) if isinstance(value, list) else value


def _present(record: dict[str, Any]) -> dict[str, Any]:
    """A row without `error` says so by leaving the name out."""
    return {name: value for name, value in record.items() if name != "error" or value is not None}
