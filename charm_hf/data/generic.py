"""Any other dataset: a CSV, JSONL or Parquet table, a Hub dataset, or a folder saved with `save_to_disk`."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import datasets
import numpy as np
from datasets import Dataset, DatasetDict, Image, Value

from ..tables import TABLE_SUFFIXES, find_column, usual_column
from .annotation_files import Columns, clean_name, read_columns, to_floats
from .annotations import Annotations
from .images import EmbeddedImages, FolderImages, ImageSource, image_fields
from .labels import LABEL_COLUMNS, LabelScale, get_label_scale


# "c1", "rating_2.5", "count_10": one column a bin, named after the bin's value
_BIN_COLUMN = re.compile(r"(c|bin|rating|score|votes?|count)_?(\d+(?:\.\d+)?)")
_SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid", "dev"),
    "test": ("test", "testing"),
}
_SPLIT_OF = {alias: split for split, aliases in _SPLIT_NAMES.items() for alias in aliases}
_SUFFIXES = (*TABLE_SUFFIXES, ".json")


@dataclass(kw_only=True)
class ColumnOptions:
    """Which column is what; looked for by the usual names where not given.

    Attributes:
        image_column: file names, or the images themselves.
        score_column: scores.
        distribution_columns: columns of votes, one a bin (or one column of lists); `()` for none. Not given, columns
            like `c1 … c5` or `count_1 … count_10` are taken, and their numbers are the bins' values.
        score_range: lowest and highest possible score; not given, first and last bin, or unknown.
        score_values: centres of the bins.
        id_column: image ids; not given, a column `image_id` or the file names.
        extra_columns: further columns to keep.
    """

    image_column: str | None = None
    score_column: str | None = None
    distribution_columns: Sequence[str] | None = None
    score_range: tuple[float, float] | None = None
    score_values: Sequence[float] | None = None
    id_column: str | None = None
    extra_columns: Sequence[str] | None = None

    test_size: ClassVar[None] = None

    def annotate(self, columns: Columns, name: str, folder: Path) -> Annotations:
        """Rows of a table of the dataset `name`.

        Relative file names start at the folder; its folder `images`, if there is one, comes first.
        """
        known = None if columns.dataset is None else get_label_scale(columns.dataset)
        image = find_column(columns.names, "path", columns.source, self.image_column, "`image_column=`")
        images, ids = _images(columns, image, folder)
        id_column = _find(columns, "id", self.id_column)
        bins = self._bins(columns)
        score = _find(columns, "score", self.score_column, required=not bins)
        values = self._score_values(columns, bins, known)
        extra = self._extra(columns, known, {image, id_column, score, *bins, *LABEL_COLUMNS})
        return Annotations(
            image_ids=ids if id_column is None else [str(value) for value in columns.get(id_column)],
            images=images,
            scale=LabelScale(known.dataset_name if known else name, self._range(values, known), values),
            scores=None if score is None else to_floats(columns.get(score)),
            counts=None if values is None else _counts(columns, bins, len(values)),
            extra={column: (columns.get(column), columns.kind(column)) for column in extra},
            left_out={"malformed": list(columns.malformed)},
        )

    def _bins(self, columns: Columns) -> list[str]:
        if self.distribution_columns is not None:
            columns.require(*self.distribution_columns)
            return list(self.distribution_columns)
        if "distribution" in columns.names:
            return ["distribution"]
        matches = sorted(filter(None, map(_BIN_COLUMN.fullmatch, columns.names)), key=lambda match: float(match[2]))
        prefixes = [match[1] for match in matches]
        most = max(prefixes, key=prefixes.count, default="")
        bins = [match[0] for match in matches if match[1] == most]
        return bins if len(bins) > 1 else []

    def _score_values(self, columns: Columns, bins: list[str], known: LabelScale | None) -> tuple[float, ...] | None:
        if not bins:
            return None
        if self.score_values is not None:
            values = tuple(float(value) for value in self.score_values)
        elif known is not None and known.score_values is not None:
            values = known.score_values
        else:
            matches = [_BIN_COLUMN.fullmatch(name) for name in bins]
            values = tuple(float(match[2]) for match in matches if match)
            if len(values) != len(bins):
                raise ValueError(f"{columns.source}: give the bins' centres ({', '.join(bins)}) as `score_values=`.")
        if len(bins) > 1 and len(values) != len(bins):
            raise ValueError(f"{columns.source}: expected {len(bins)} `score_values`, one a bin, got {len(values)}.")
        if any(low >= high for low, high in itertools.pairwise(values)):
            raise ValueError(f"{columns.source}: expected `score_values` in ascending order, got {values}.")
        return values

    def _range(self, values: tuple[float, ...] | None, known: LabelScale | None) -> tuple[float, float] | None:
        if self.score_range is not None:
            low, high = self.score_range
            if not low < high:
                raise ValueError(f"Expected `score_range=(lowest, highest)`, got {self.score_range}.")
            return float(low), float(high)
        if known is not None:
            return known.score_range
        return None if values is None else (values[0], values[-1])

    def _extra(self, columns: Columns, known: LabelScale | None, used: set[str | None]) -> list[str]:
        if self.extra_columns is not None:
            columns.require(*self.extra_columns)
            return list(self.extra_columns)
        # A dataset that this package saved comes back with all its columns.
        return [name for name in columns.names if name not in used] if known else []


@dataclass
class TableReader(ColumnOptions):
    """A table with file names or images, and scores or votes.

    Attributes:
        root: the table (CSV, TSV, JSONL or Parquet), or a folder with one table a split (`train.csv`, `val.csv`, …)
            or with a single table.
        split_column: tells the split of each row; not given, a column `split` or `set` whose values all name splits.
    """

    root: Path
    split_column: str | None = field(default=None, kw_only=True)

    @property
    def name(self) -> str:
        """Name of the table or folder."""
        return self.root.stem if self.root.is_file() else self.root.resolve().name

    def __post_init__(self) -> None:
        self._files = _table_files(self.root)
        self._table = read_columns(self._files["all"]) if "all" in self._files else None
        self._splits: list[str | None] = []
        if self._table is not None:
            self._splits = _split_of_rows(self._table, self.split_column)

    def official_splits(self) -> tuple[str, ...]:
        """Splits that the split column or the tables' names tell; none for a single table without such a column."""
        found = set(self._files) if self._table is None else set(self._splits)
        return tuple(split for split in _SPLIT_NAMES if split in found)

    def read(self, part: str) -> Annotations:
        """Rows of one split, or all rows."""
        if self._table is None:
            path = self._files[part]
            return self.annotate(read_columns(path), self.name, path.parent)
        annotations = self.annotate(self._table, self.name, self._files["all"].parent)
        if part == "all":
            return annotations
        return annotations.take(np.flatnonzero([split == part for split in self._splits]))


@dataclass
class HubReader(ColumnOptions):
    """A Hub dataset, a folder saved with `save_to_disk`, or a builder of `datasets`.

    Attributes:
        source: Hub id, folder or builder.
        root: its `data_dir` (if a file, its `data_files`), where it needs one; relative file names start there too.
        load_options: passed to `datasets.load_dataset` (`name`, `revision`, `data_files`, `token`, …).
    """

    source: str
    root: Path | None = None
    load_options: dict[str, Any] = field(default_factory=dict, kw_only=True)

    @property
    def name(self) -> str:
        """Name that can stand in a file name."""
        return Path(self.source).name if Path(self.source).is_dir() else self.source.replace("/", "--")

    def __post_init__(self) -> None:
        loaded = self._load()
        by_name = dict(loaded) if isinstance(loaded, DatasetDict) else {str(loaded.split): loaded}
        known = {_SPLIT_OF[name]: part for name, part in by_name.items() if name in _SPLIT_OF}
        if not known and len(by_name) > 1:
            raise ValueError(
                f"{self.source}: expected splits like {', '.join(_SPLIT_NAMES)}; found {', '.join(by_name)}."
            )
        self._parts = known or {"all": next(iter(by_name.values()))}

    def official_splits(self) -> tuple[str, ...]:
        """Splits of the dataset."""
        return tuple(split for split in _SPLIT_NAMES if split in self._parts)

    def read(self, part: str) -> Annotations:
        """Rows of one split, or all rows."""
        return self.annotate(Columns(self.source, self._parts[part]), self.name, self.root or Path())

    def _load(self) -> Dataset | DatasetDict:
        folder = Path(self.source)
        if (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():
            return datasets.load_from_disk(self.source)
        options = dict(self.load_options)
        if self.root is not None:
            options.setdefault("data_files" if self.root.is_file() else "data_dir", str(self.root))
        return datasets.load_dataset(self.source, **options)


def _find(columns: Columns, what: str, chosen: str | None, required: bool = False) -> str | None:
    if chosen is None and not required:
        return usual_column(columns.names, what)
    return find_column(columns.names, what, columns.source, chosen, f"`{what}_column=`")


def _table_files(root: Path) -> dict[str, Path]:
    """Split -> table, or `"all"` -> the single table."""
    if root.is_file():
        if root.suffix.lower() not in _SUFFIXES:
            raise ValueError(f"{root}: expected a table ({', '.join(_SUFFIXES)}).")
        return {"all": root}
    tables = sorted(path for path in root.iterdir() if path.suffix.lower() in _SUFFIXES and path.is_file())
    by_split = {_SPLIT_OF[path.stem.lower()]: path for path in tables if path.stem.lower() in _SPLIT_OF}
    if by_split:
        return by_split
    if len(tables) == 1:
        return {"all": tables[0]}
    found = ", ".join(path.name for path in tables) or "none"
    raise FileNotFoundError(
        f"{root}: expected one table ({', '.join(_SUFFIXES)}) or one a split (train, validation, test); found {found}."
    )


def _split_of_rows(columns: Columns, split_column: str | None) -> list[str | None]:
    name = _find(columns, "split", split_column)
    if name is None:
        return []
    values = [str(value).lower() for value in columns.get(name)]
    strange = sorted({value for value in values if value not in _SPLIT_OF})
    if strange and split_column is not None:
        raise ValueError(
            f"{columns.source}: expected {split_column!r} to name splits ({', '.join(_SPLIT_NAMES)}), "
            f"found {', '.join(strange[:5])}."
        )
    return [] if strange else [_SPLIT_OF[value] for value in values]


def _images(columns: Columns, name: str, folder: Path) -> tuple[ImageSource, list[str]]:
    """The images, and the ids that they have if no column tells any."""
    if columns.dataset is None or columns.dataset.features[name] in (Value("string"), Value("large_string")):
        files = [clean_name(str(value or "")) for value in columns.get(name)]
        first = folder / "images" if (folder / "images").is_dir() else folder
        return FolderImages(files, first, fallback=folder), files
    column = columns.dataset.select_columns([name])
    column = column if name == "image" else column.rename_column(name, "image")
    column = column.cast_column("image", Image(decode=False))
    paths = [path for batch in column.with_format("arrow").iter(1024) for path in image_fields(batch)[1].to_pylist()]
    ids = [clean_name(path) if path else str(row) for row, path in enumerate(paths)]
    ids = ids if len(set(ids)) == len(ids) else [f"{row}-{path}" for row, path in enumerate(ids)]
    return EmbeddedImages(column, np.arange(len(column))), ids


def _counts(columns: Columns, bins: list[str], num_bins: int) -> np.ndarray:
    if len(bins) > 1:
        return np.stack([to_floats(columns.get(name)) for name in bins], axis=1)
    blank = [None] * num_bins
    rows = columns.get(bins[0])
    rows = [row if isinstance(row, (list, tuple)) and len(row) == num_bins else blank for row in rows]
    return to_floats([cell for row in rows for cell in row]).reshape(len(rows), num_bins)
