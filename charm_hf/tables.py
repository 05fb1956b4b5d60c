r"""Rows of CSV, TSV, JSON Lines and Parquet files, read and written, and what their columns are usually called.

One rule for all text: UTF-8 with or without byte order mark, or UTF-16 with one. Bytes that are not UTF-8 (names of
old photos hold some) come as lone surrogates, as `os.fsdecode` gives them; `escape_bytes` writes them as `\xe9`.
Separators: the most frequent of comma, semicolon and tab in the header.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import itertools
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import NoneType
from typing import IO, Any, TextIO


TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")

# Where a table has several of them, the first counts, upper or lower case.
USUAL_COLUMNS: dict[str, tuple[str, ...]] = {
    "path": ("image", "image_path", "image_name", "file_name", "filename", "filepath", "path", "file"),
    "score": ("score", "mos", "mean_score", "mean", "average_score", "rating"),
    "id": ("image_id",),
    "split": ("split", "set"),
    "comment": ("comment", "comments", "text", "caption"),
}

# Kind of a column of lists of numbers to which a tenth of the room of six decimals is enough.
HALVES = "halves"
# Decimals of every number from a model. Float32 carries no more, and what a row says is what a threshold compares.
DECIMALS = 6

Fault = tuple[int, str]  # line of a row, and what is wrong with it
_GZIP = b"\x1f\x8b"
# What a spreadsheet takes for the beginning of a formula.
_FORMULA = re.compile(r"[=+\-@\t\r\n＝＋－＠]")
_LONGEST_CELL = 2**26  # characters of a cell of text; Python's own limit would end the reading at 2^17
_ESCAPED_BYTE = re.compile(rb"\\x([89a-f][0-9a-f])")


class Table:
    """A table in a file; its suffix says which kind: `.parquet`, JSON Lines (`.jsonl`, `.ndjson`, `.json`), else text.

    Args:
        path: the file.

    Attributes:
        path: as given.
        names: of the columns; of JSON Lines, those of the first row.

    Raises:
        OSError: if there is no such file, or it cannot be read.
        ValueError: if it is not what its name says; the message has its name.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self.suffix = Path(path).suffix.lower()
        self.names: tuple[str, ...] = ()
        with self._named_errors():
            if self.suffix == ".parquet":
                self.names = tuple(self._parquet().schema_arrow.names)
            elif self._is_json:
                faults: list[Fault] = []
                self.names = tuple(next(self._json_rows(faults), ()))
                if faults and not self.names:
                    raise ValueError("line {}: {}".format(*faults[0]))
            else:
                self.names = tuple(next(self._cells(), (0, []))[1])

    @property
    def _is_json(self) -> bool:
        return self.suffix in (".jsonl", ".ndjson", ".json")

    def rows(
        self, columns: Sequence[str] | None = None, faults: list[Fault] | None = None
    ) -> Iterator[dict[str, Any]]:
        """Read the rows one after the other; blank ones are passed over.

        Args:
            columns: of a Parquet file, read these only; the other kinds are read whole anyway.
            faults: takes the rows of another shape than the table's, which are then left out, and makes two columns
                of one name an error. Not given, cells too many are dropped, missing ones are `None`, and a line that
                is no JSON object is an error.

        Raises:
            ValueError: if the content is not what the file's name says; the message has the name and the line.
        """
        with self._named_errors():
            if self.suffix == ".parquet":
                with self._parquet() as file:
                    for batch in file.iter_batches(columns=None if columns is None else list(columns)):
                        yield from batch.to_pylist()
            elif self._is_json:
                yield from self._json_rows(faults)
            else:
                yield from self._text_rows(faults)

    def _parquet(self) -> Any:
        with open(self.path, "rb"):  # what the system has against the file, in its own words
            pass
        import pyarrow.parquet as pq

        return pq.ParquetFile(self.path)

    def _json_rows(self, faults: list[Fault] | None) -> Iterator[dict[str, Any]]:
        with open_text(self.path, newline="\n") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                    if not isinstance(row, dict):
                        raise ValueError(f"expected a JSON object, found {type(row).__name__}")
                except (ValueError, RecursionError) as error:
                    if faults is None:
                        raise ValueError(f"line {number}: {error}") from None
                    faults.append((number, str(error)))
                    continue
                yield row

    def _text_rows(self, faults: list[Fault] | None) -> Iterator[dict[str, Any]]:
        names = list(self.names)
        if faults is not None and len(set(names)) != len(names):
            raise ValueError(f"expected a header of unlike names, found {', '.join(names)}")
        for number, cells in itertools.islice(self._cells(), 1, None):
            if len(cells) != len(names) and faults is not None:
                faults.append((number, f"expected {len(names)} cells, found {len(cells)}"))
                continue
            yield dict(zip(names, [*cells, *[None] * (len(names) - len(cells))], strict=False))

    def _cells(self) -> Iterator[tuple[int, list[str]]]:
        """Line number and cells of every row that is not blank, the header first; blank cells past its end are cut."""
        csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_CELL))
        with open_text(self.path, newline="") as lines:
            blank, first = next(((n, line) for n, line in enumerate(lines) if line.strip()), (0, ""))
            separators = "\t,;" if self.suffix == ".tsv" else ",;\t"
            reader = csv.reader(itertools.chain([first], lines), delimiter=max(separators, key=first.count))
            width = 0
            try:
                for row in reader:
                    while len(row) > width and not row[-1].strip():
                        row.pop()
                    if not any(cell.strip() for cell in row):
                        continue
                    if not width:
                        row = [name.strip() for name in row]
                        width = len(row)
                    yield blank + reader.line_num, row
            except csv.Error as error:
                raise ValueError(f"line {blank + reader.line_num}: {error}") from None

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno is not None:
                raise
            raise ValueError(f"{self.path!r} cannot be read as {self.suffix}: {error}") from error
        except (ValueError, KeyError, NotImplementedError) as error:  # pyarrow's, Unicode's and ours
            raise ValueError(f"{self.path!r} cannot be read as {self.suffix}: {error}.") from error


def find_column(names: Sequence[str], what: str, source: str, chosen: str | None = None, option: str = "") -> str:
    """Name of a column: the chosen one, or the first usual one that is there.

    Args:
        names: of all columns.
        what: a key of `USUAL_COLUMNS`.
        source: how the error calls the table.
        chosen: the name that the user gave.
        option: how the user gives a name, such as `--path-column`, for the error.

    Raises:
        ValueError: if the column is not there; the message lists what is.
    """
    column = usual_column(names, what) if chosen is None else chosen
    if column in names:
        return str(column)
    found = ", ".join(map(repr, names)) or "none"
    if chosen is not None:
        raise ValueError(f"{source}: expected a column {chosen!r}, found {found}.")
    named = f" or named by {option}" if option else ""
    raise ValueError(
        f"{source}: expected a column with the {what}, called {', '.join(USUAL_COLUMNS[what])}{named}; found {found}."
    )


def usual_column(names: Sequence[str], what: str) -> str | None:
    """The first usual name of a column that is there, upper or lower case; `None` if there is none."""
    by_lower = {name.lower(): name for name in reversed(names)}
    return next((by_lower[name] for name in USUAL_COLUMNS[what] if name in by_lower), None)


def open_text(path: str | os.PathLike[str], newline: str | None = None, errors: str = "surrogateescape") -> TextIO:
    """Open a text file, compressed by gzip or not, by the rule of this module.

    Args:
        path: the file.
        newline: as for `open`.
        errors: what becomes of bytes that are not UTF-8; `"backslashreplace"` gives what `escape_bytes` would.
    """
    with open(path, "rb") as file:
        start = file.read(2)
    if start == _GZIP:
        return gzip.open(path, "rt", encoding="utf-8-sig", errors=errors, newline=newline)  # type: ignore[return-value]
    is_utf16 = start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    return open(path, encoding="utf-16" if is_utf16 else "utf-8-sig", errors=errors, newline=newline)


def escape_controls(text: str) -> str:
    r"""Text with the characters as `\x1b` that a terminal would obey, and those that turn its direction around."""
    return "".join(
        character if character.isprintable() or character == " " else character.encode("unicode_escape").decode()
        for character in text
    )


def escape_bytes(path: str | os.PathLike[str]) -> str:
    r"""Text of a path for a table or a page: itself, with bytes that are not UTF-8 as `\xe9`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def unescape_bytes(text: str) -> str:
    """Undo `escape_bytes`: the path that the system knows."""
    try:
        raw = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # no file system gives half a surrogate pair
        return text
    return os.fsdecode(_ESCAPED_BYTE.sub(lambda found: bytes([int(found[1], 16)]), raw))


WriteRecords = Callable[[list[dict[str, Any]]], None]
"""Appends rows, given as values by column."""


def _csv_cell(name: str, value: Any) -> Any:
    if isinstance(value, float):
        return f"{value:.{DECIMALS}f}"
    if isinstance(value, str) and _FORMULA.match(value):
        return f"./{value}" if name == "path" else f"'{value}"  # a path stays one of the same file
    return json.dumps(value, allow_nan=False) if isinstance(value, list) else value


@contextmanager
def _csv(
    file: str | os.PathLike[str] | IO[str], columns: Sequence[str], kinds: Mapping[str, Any]
) -> Iterator[WriteRecords]:
    """Comma-separated values: numbers from the model with all their decimals, lists as JSON, and no formulas.

    A terminal gets no character that it would obey.
    """
    if isinstance(file, (str, os.PathLike)):
        with open(file, "w", encoding="utf-8", newline="") as stream, _csv(stream, columns, kinds) as write:
            yield write
        return
    shown = file.isatty()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns)

    def write_records(records: list[dict[str, Any]]) -> None:
        for record in records:
            cells = [_csv_cell(name, record[name]) for name in columns]
            writer.writerow([escape_controls(cell) if shown and isinstance(cell, str) else cell for cell in cells])
        file.flush()

    yield write_records


@contextmanager
def _json_lines(
    file: str | os.PathLike[str], columns: Sequence[str], kinds: Mapping[str, Any]
) -> Iterator[WriteRecords]:
    """One JSON object a row; a row without `error` says so by leaving the name out."""
    with open(file, "w", encoding="utf-8") as stream:

        def write_records(records: list[dict[str, Any]]) -> None:
            for record in records:
                present = {name: value for name, value in record.items() if name != "error" or value is not None}
                stream.write(json.dumps(present, ensure_ascii=False, allow_nan=False) + "\n")
            stream.flush()

        yield write_records


@contextmanager
def _parquet(
    file: str | os.PathLike[str],
    columns: Sequence[str],
    kinds: Mapping[str, Any],
    metadata: Mapping[str, str] | None = None,
) -> Iterator[WriteRecords]:
    """Parquet, with a row group for every group of rows; of a column of the kind `object`, what is no text is JSON."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    types: dict[Any, Any] = {
        str: pa.string(),
        object: pa.string(),
        int: pa.int32(),
        float: pa.float64(),
        list[float]: pa.list_(pa.float64()),
    }
    types[HALVES] = pa.list_(pa.float16())
    schema = pa.schema([(name, types[kinds.get(name, str)]) for name in columns], metadata)
    mixed = [name for name in columns if kinds.get(name) is object]

    def in_text(record: dict[str, Any]) -> dict[str, Any]:
        cells = ((name, record[name]) for name in mixed)
        return record | {name: json.dumps(value) for name, value in cells if not isinstance(value, (str, NoneType))}

    with pq.ParquetWriter(file, schema) as writer:

        def write_records(records: list[dict[str, Any]]) -> None:
            rows = [in_text(record) for record in records] if mixed else records
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))

        yield write_records


_WRITERS: dict[str, Any] = {".csv": _csv, ".jsonl": _json_lines, ".parquet": _parquet}
# Endings of the tables that are written; `Table` has to read them, too.
WRITTEN_SUFFIXES = tuple(_WRITERS)


def check_output(file: str | os.PathLike) -> str:
    """Ending of a table's file name.

    Raises:
        ValueError: if it is not one that can be written.
        IsADirectoryError: if it is a folder.
    """
    suffix = Path(file).suffix.lower()
    if suffix not in WRITTEN_SUFFIXES:
        expected = ", ".join(WRITTEN_SUFFIXES)
        raise ValueError(f"{os.fspath(file)!r}: expected a file name ending in {expected}, got {suffix!r}.")
    if os.path.isdir(file):
        raise IsADirectoryError(f"{os.fspath(file)!r} is a folder, expected the name of a file to write.")
    return suffix


@contextmanager
def written_table(
    file: str | os.PathLike[str] | IO[str],
    columns: Sequence[str],
    kinds: Mapping[str, Any],
    metadata: Mapping[str, str] | None = None,
) -> Iterator[WriteRecords]:
    """Begin a table; gives what appends a group of rows, one or more.

    Args:
        file: path that ends in `.csv`, `.jsonl` or `.parquet`, or an open text stream, which gets CSV.
        columns: in their order.
        kinds: `int`, `float`, `list[float]` or `HALVES` of columns that are not text; `object` if it may be anything.
        metadata: what a Parquet file says of itself; the other kinds have no place for it.

    Raises:
        ValueError: for a file name with another ending.
    """
    write = _WRITERS[check_output(file)] if isinstance(file, (str, os.PathLike)) else _csv
    said = {"metadata": metadata} if write is _parquet else {}
    with write(file, columns, kinds, **said) as write_records:
        yield write_records
