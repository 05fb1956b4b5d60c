"""`load_aesthetic_dataset`: the one door to every dataset."""

from __future__ import annotations

import inspect
import logging
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
from datasets import Dataset

from .aadb import AadbReader
from .annotations import Annotations, to_dataset
from .arrow import default_cache_dir
from .ava import AvaReader
from .generic import HubReader, TableReader
from .images import VERIFY
from .koniq10k import Koniq10kReader
from .left_out import DatasetReport
from .para import ParaReader
from .published import PublishedReader
from .scored import BaidReader, Tad66kReader
from .spaq import SpaqReader
from .splits import default_split_folders, seeded_part


logger = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")

_READERS: dict[str, Any] = {
    "ava": AvaReader,
    "aadb": AadbReader,
    "tad66k": Tad66kReader,
    "para": ParaReader,
    "baid": BaidReader,
    "spaq": SpaqReader,
    "koniq10k": Koniq10kReader,
    "csv": TableReader,
}

DATASET_NAMES = tuple(_READERS)

# Builders of `datasets` that read local files and need no Hub id.
_BUILDERS = ("arrow", "imagefolder", "json", "parquet", "webdataset")

PathLike = str | os.PathLike[str]
# Made from a folder and options; gives `official_splits()`, empty where there are none, and the rows of one by `read`.
Reader = PublishedReader | TableReader | HubReader


@overload
def load_aesthetic_dataset(
    name: str, root: PathLike | None = ..., split: str = ..., *, return_report: Literal[False] = ..., **options: Any
) -> Dataset: ...


@overload
def load_aesthetic_dataset(
    name: str, root: PathLike | None = ..., split: str = ..., *, return_report: Literal[True], **options: Any
) -> tuple[Dataset, DatasetReport]: ...


def load_aesthetic_dataset(
    name: str,
    root: PathLike | None = None,
    split: str = "train",
    *,
    image_dir: PathLike | None = None,
    verify: str | None = "exists",
    validation_size: float | int | None = None,
    test_size: float | int | None = None,
    seed: int = 0,
    splits_dir: PathLike | None = None,
    cache_dir: PathLike | None = None,
    return_report: bool = False,
    **options: Any,
) -> Dataset | tuple[Dataset, DatasetReport]:
    """Read one split of an aesthetics dataset from its official download.

    Rows that cannot be used (no image, a label outside the range, a second row for an image) are left out, counted
    and logged: see [`DatasetReport`].

    Args:
        name: `"ava"`, `"aadb"`, `"tad66k"`, `"para"`, `"baid"`, `"spaq"`, `"koniq10k"`; `"csv"` for a CSV, JSONL or
            Parquet table of your own; or a Hub dataset id (`"owner/name"`), a folder saved with `save_to_disk`, or a
            builder of `datasets` (`"parquet"`, `"imagefolder"`, …).
        root: folder of the official download, as unpacked; for `"csv"` the table or a folder with one table a split;
            for Hub datasets their `data_dir`, if they need one.
        split: `"train"`, `"validation"` or `"test"`.
        image_dir: where the images lie, if not where the dataset's authors put them.
        verify: `"exists"` lists each image folder once and leaves out rows without an image; `"decode"` also decodes
            every image and leaves out those that are empty, truncated or no image;
            `None` looks at no image.
        validation_size: share (`float`) or number (`int`) of training images for a seeded validation part, for
            datasets without an official one. Give it for `"train"` as well, which is then without that part.
        test_size: the same for a seeded test part, where the authors made no split: SPAQ and KonIQ-10k file (b)
            have 0.2 if nothing is given, a table of your own has none.
        seed: seed of both parts.
        splits_dir: folder in which seeded parts are written down and found again; `charm_hf_splits` beside the data
            if not given, or the cache of `datasets` where that cannot be written to.
        cache_dir: folder for the mapped Arrow files; inside the cache of `datasets` if not given.
        return_report: return the report as well.
        options: what only some readers take. `attributes=True` (aadb); `comments=True` or a path (ava);
            `annotation_file=` (spaq, koniq10k); `image_column=`, `score_column=`, `distribution_columns=`,
            `score_range=`, `score_values=`, `id_column=`, `extra_columns=` (csv, Hub), `split_column=` (csv),
            `load_options=` (Hub: passed to `datasets.load_dataset`).

    Returns:
        A memory-mapped dataset with the columns
        `image` (lazy, gives PIL images, EXIF orientation applied), `image_id` (`str`), `score` (in the dataset's own
        units), `score_range` (lowest and highest possible score, the same in every row, where it is known) and, where
        the dataset has votes (AVA, PARA), `distribution` (K shares that sum to 1; `score` is its mean) and
        `score_values` (the K bins' centres). AVA also has `num_votes`. With `return_report=True`, the pair
        `(dataset, report)`.

    Raises:
        FileNotFoundError: if a file or folder of the dataset is not where its authors put it.
        ValueError: if a header or format is another one, if the dataset has no such split, or if no row is usable.
        TypeError: if the dataset's reader does not know an option.
    """
    if split not in SPLITS:
        raise ValueError(f"Expected a split out of {', '.join(SPLITS)}, got {split!r}.")
    if verify in ("none", "None"):
        verify = None
    if verify not in VERIFY:
        raise ValueError(f'Expected verify to be "exists", "decode" or None, got {verify!r}.')
    reader = _make_reader(name, None if root is None else Path(root), options)
    folders = [Path(splits_dir)] if splits_dir is not None else default_split_folders(root)
    seeded = _SeededSplits(reader, validation_size, test_size, seed, folders)
    annotations = seeded.read(split)
    if image_dir is not None:
        annotations.images = annotations.images.in_folder(Path(image_dir))

    dataset, report = to_dataset(annotations, split, verify, Path(cache_dir) if cache_dir else default_cache_dir())
    report.split_files = [str(path) for path in seeded.files]
    logger.log(logging.INFO if report.kept == report.rows else logging.WARNING, "%s", report)
    return (dataset, report) if return_report else dataset


@dataclass
class _SeededSplits:
    """Official splits where there are any, seeded ones where there are none."""

    reader: Reader
    validation_size: float | int | None
    test_size: float | int | None
    seed: int
    folders: list[Path]
    files: list[Path] = field(default_factory=list)

    def __post_init__(self) -> None:
        reader, self.official = self.reader, self.reader.official_splits()
        if self.official and self.test_size is not None:
            raise ValueError(
                f"{reader.name} has the official splits {', '.join(self.official)}: `test_size` must not be given."
            )
        if "validation" in self.official and self.validation_size is not None:
            raise ValueError(f"{reader.name} has an official validation part: `validation_size` must not be given.")
        if self.test_size is None:
            self.test_size = reader.test_size

    def read(self, split: str) -> Annotations:
        """Rows of a split."""
        if split in self.official and not (split == "train" and self.validation_size is not None):
            return self.reader.read(split)
        self._require(split)
        name = self.reader.name
        if self.official:
            rows = self.reader.read("train")
        else:
            rows = self.reader.read("all")
            if self.test_size is not None:
                name = f"{name}-test{self.test_size}"
                rows = self._divide(rows, name, self.test_size, drawn=split == "test")
        if split == "test" or self.validation_size is None:
            return rows
        name = f"{name}-validation{self.validation_size}"
        return self._divide(rows, name, self.validation_size, drawn=split == "validation")

    def _require(self, split: str) -> None:
        available = self.official or ("train",) + (("test",) if self.test_size is not None else ())
        if split == "validation" and self.validation_size is None:
            raise ValueError(
                f"{self.reader.name} has no official validation part, only {', '.join(available)}: give "
                "`validation_size=0.05`, say, for a seeded part of the training images (and the same for the "
                "training split, which is then without it)."
            )
        if split == "test" and "test" not in available:
            hint = "" if self.official else "; give `test_size=0.2`, say, for a seeded part of the images"
            raise ValueError(f"{self.reader.name} has no test part, only {', '.join(available)}{hint}.")
        if split != "test" and "train" not in available:
            raise ValueError(f"{self.reader.name} has no training part, only {', '.join(available)}.")

    def _divide(self, rows: Annotations, name: str, size: float | int, *, drawn: bool) -> Annotations:
        part, path = seeded_part(rows.image_ids, size, self.seed, name=name, folders=self.folders)
        self.files.append(path)
        return rows.take(np.flatnonzero([(image_id in part) == drawn for image_id in rows.image_ids]))


def _make_reader(name: str, root: Path | None, options: dict[str, Any]) -> Reader:
    make: Any
    first: Any
    if name in _READERS:
        if root is None:
            raise ValueError(
                f'{name}: give the folder of the download, `load_aesthetic_dataset("{name}", root, split)`.'
            )
        if not root.exists():
            raise FileNotFoundError(f"{name}: expected the dataset at {root}, found nothing there.")
        make, first = _READERS[name], root
    else:
        make, first = HubReader, name
        options = {"root": root, **options}
        if "/" not in name and not Path(name).is_dir() and name not in _BUILDERS:
            raise ValueError(
                f"Unknown dataset {name!r}: expected one of {', '.join(_READERS)}, a Hub id (owner/name), or a folder "
                "saved with `save_to_disk`."
            )
    known = list(inspect.signature(make).parameters)[1:]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise TypeError(
            f"{name}: unknown option {', '.join(unknown)}; this dataset takes {', '.join(known) or 'none'}."
        )
    return make(first, **options)
