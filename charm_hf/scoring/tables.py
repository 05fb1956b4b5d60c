"""Tables that list images: CSV, TSV, JSON Lines and Parquet with a column of paths."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .rows import display_path
from .sources import Item, SourceOptions


TABLE_EXTENSIONS = frozenset({".csv", ".tsv", ".jsonl", ".parquet"})
_USUAL_PATH_COLUMNS = ("path", "file_name", "filename", "file", "image", "image_path", "filepath")


def read_table(table: str, options: SourceOptions) -> Iterator[Item]:
    """List the images that a table names, row by row.

    The table calls an image what the column says; relative paths start from `options.root` or the table's own folder.
    A row without a path gives an item with an `error`.

    Raises:
        ValueError: if the table has no such column, or is not what its name says.
    """
    root = options.root if options.root is not None else os.path.dirname(table)
    column: str | None = None
    for number, row in enumerate(read_rows(table, _parquet_columns(table, options)), start=1):
        column = column or find_column(table, list(row), options.path_column)
        key = None if options.key_column is None else str(row.get(options.key_column))
        path = row.get(column)
        if not isinstance(path, str) or not path:
            yield Item(f"{display_path(table)}#{number}", key=key, error=f"Row {number} has no path in {column!r}.")
        else:
            yield Item(display_path(path), os.path.join(root, path), key=key)


def find_column(table: str, columns: Sequence[str], wanted: str | None) -> str:
    """Name of the column that holds the paths.

    Raises:
        ValueError: if it is not there; the message lists what is.
    """
    if wanted is None:
        wanted = next((name for name in _USUAL_PATH_COLUMNS if name in columns), None)
    if wanted is None or wanted not in columns:
        raise ValueError(
            f"{table!r} has no column {wanted!r}: found {', '.join(map(repr, columns))}."
            if wanted
            else f"{table!r} has no column of paths under a usual name: name it with --path-column, one of "
            f"{', '.join(map(repr, columns))}."
        )
    return wanted


def holds_images(table: str, options: SourceOptions) -> bool:
    """Whether the image column of a Parquet file holds encoded images instead of paths."""
    if Path(table).suffix.lower() != ".parquet" or not os.path.isfile(table):
        return False
    schema = pq.read_schema(table)
    names = [options.path_column] if options.path_column else _USUAL_PATH_COLUMNS
    types = [schema.field(name).type for name in names if name in schema.names]
    return bool(types) and (pa.types.is_struct(types[0]) or pa.types.is_binary(types[0]))


def read_rows(table: str, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """Rows of a table, one after the other.

    Args:
        table: the file.
        columns: of a Parquet file, read these only; the other formats are read whole anyway.

    Raises:
        ValueError: if the content is not what the file's name says.
    """
    extension = Path(table).suffix.lower()
    try:
        if extension == ".parquet":
            with pq.ParquetFile(table) as file:
                for batch in file.iter_batches(columns=columns):
                    yield from batch.to_pylist()
        elif extension == ".jsonl":
            with open(table, encoding="utf-8-sig") as lines:
                yield from (json.loads(line) for line in lines if line.strip())
        else:
            with open(table, encoding="utf-8-sig", newline="", errors="surrogateescape") as lines:
                yield from csv.DictReader(lines, delimiter="\t" if extension == ".tsv" else ",")
    except (pa.ArrowInvalid, json.JSONDecodeError, csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{table!r} cannot be read as {extension}: {error}") from error


def _parquet_columns(table: str, options: SourceOptions) -> list[str] | None:
    """Columns of a Parquet file that listing its images takes; `None` for other files."""
    if Path(table).suffix.lower() != ".parquet":
        return None
    try:
        wanted = find_column(table, pq.read_schema(table).names, options.path_column)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{table!r} cannot be read as .parquet: {error}") from error
    return [wanted] if options.key_column is None else [wanted, options.key_column]
