"""Tables of scores as CSV, JSON Lines and Parquet, written a group of rows at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO

from ..tables import HALVES, written_table
from .rows import COLUMN_TYPES, ScoreRow, table_columns


@contextmanager
def open_table(
    file: str | os.PathLike | IO[str],
    columns: Sequence[str] = table_columns(),
    constants: Mapping[str, str] | None = None,
    metadata: Mapping[str, str] | None = None,
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
        metadata: what a Parquet file says of itself; other kinds have no place for it.

    Raises:
        ValueError: for a file name with another ending.
    """
    further = dict(constants or {})
    kinds = {**COLUMN_TYPES, "embedding": HALVES}
    with written_table(file, (*columns, *further), kinds, metadata) as write:
        yield lambda rows: write([{name: getattr(row, name) for name in columns} | further for row in rows])
