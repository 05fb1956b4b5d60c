"""Where the images of a dataset are, and whether they are there: found by listing folders once, not file by file."""

from __future__ import annotations

import itertools
import os
import unicodedata
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset, DatasetInfo, Features, Image, NamedSplit, concatenate_datasets
from datasets.utils import tqdm

from ..models.image_loading_charm import load_image
from .annotation_files import require_folder
from .arrow import write_mapped


VERIFY = ("exists", "decode", None)
_URL_PREFIXES = ("http://", "https://", "hf://")
_CHUNK = 1024

Faults = dict[int, str]  # row -> what is wrong with its image


def fold_name(name: str) -> str:
    """Key under which names match that a case-insensitive or Unicode-normalising file system takes for one."""
    return unicodedata.normalize("NFC", name).casefold()


class FolderIndex:
    """Names of the files in folders, each folder listed once.

    Args:
        key: names that do not match exactly match if their keys are equal (first in sorted order).
    """

    def __init__(self, key: Callable[[str], str] = fold_name) -> None:
        self._key = key
        self._names: dict[str, set[str]] = {}
        self._by_key: dict[str, dict[str, str]] = {}

    def find(self, folder: str, name: str) -> str | None:
        """Name of the file in `folder` that `name` stands for; `None` if there is none."""
        names = self._list(folder)
        if name in names:
            return name
        if folder not in self._by_key:
            self._by_key[folder] = {self._key(found): found for found in sorted(names, reverse=True)}
        return self._by_key[folder].get(self._key(name))

    def _list(self, folder: str) -> set[str]:
        if folder not in self._names:
            try:
                with os.scandir(folder) as entries:
                    # A symbolic link counts as a file: following it would cost a call per image.
                    self._names[folder] = {e.name for e in entries if not e.is_dir(follow_symlinks=False)}
            except (FileNotFoundError, NotADirectoryError):
                self._names[folder] = set()
        return self._names[folder]


def undecoded(dataset: Dataset) -> Dataset:
    """The dataset with images as `datasets` stores them, so that none but the one reader decodes them."""
    kind = (dataset.features or {}).get("image")
    return dataset.cast_column("image", Image(decode=False)) if isinstance(kind, Image) else dataset


@dataclass(frozen=True)
class FolderImages:
    """Images as files in a folder.

    Attributes:
        files: file names relative to `folder`, separated by `/`; absolute paths and URLs are taken as they are.
        folder: where the images lie.
        fallback: second folder to look in, for tables whose names carry the image folder's own name.
        key: how names that differ a little are matched, see `FolderIndex`.
    """

    files: list[str]
    folder: Path
    fallback: Path | None = None
    key: Callable[[str], str] = fold_name

    def __len__(self) -> int:
        return len(self.files)

    def take(self, rows: np.ndarray) -> FolderImages:
        """The images of some rows."""
        return replace(self, files=[self.files[row] for row in rows])

    def in_folder(self, folder: Path) -> FolderImages:
        """The same images, looked for in `folder` only."""
        return replace(self, folder=folder, fallback=None)

    def check(self, verify: str | None) -> tuple[FolderImages, Faults, Faults]:
        """The files as found by listing, rows without a file, and rows that do not decode (`verify="decode"`)."""
        require_folder(self.folder, "images")
        if verify is None:
            return self, {}, {}
        paths = self._locate()
        found = replace(self, files=[path or file for path, file in zip(paths, self.files, strict=True)])
        wanted = self._paths()
        missing = {row: f"no file {wanted[row]}" for row, path in enumerate(paths) if path is None}
        if verify == "exists":
            return found, missing, {}
        return found, missing, find_undecodable((row, path) for row, path in enumerate(paths) if path is not None)

    def to_dataset(self, labels: pa.Table, info: DatasetInfo, split: NamedSplit, cache_dir: Path) -> Dataset:
        """Memory-mapped dataset; only paths are stored, and an image is read when its row is."""
        column = Image().cast_storage(pa.array(self._paths(), pa.string()))
        info = replace(info, features=Features(image=Image(), **info.features))
        return write_mapped(labels.add_column(0, "image", column), info, split, cache_dir)

    def _locate(self) -> list[str | None]:
        index = FolderIndex(self.key)
        bases = [os.path.abspath(base) for base in (self.folder, self.fallback) if base is not None]
        return [_find(index, bases, file) for file in self.files]

    def _paths(self) -> list[str]:
        folder = os.path.abspath(self.folder)
        return [file if file.startswith(_URL_PREFIXES) else os.path.join(folder, file) for file in self.files]


@dataclass(frozen=True)
class EmbeddedImages:
    """Images that a table carries itself, as Parquet files and Hub datasets do.

    Attributes:
        column: dataset of the one column `image`, not decoded.
        rows: the rows of `column` that are meant. They are selected last, since putting columns beside a selection
            would copy the images.
    """

    column: Dataset
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, rows: np.ndarray) -> EmbeddedImages:
        """The images of some rows, not copied."""
        return replace(self, rows=self.rows[rows])

    def in_folder(self, folder: Path) -> EmbeddedImages:
        """Not possible: the table carries its images."""
        raise ValueError(f"`image_dir={str(folder)!r}` has no use here: the dataset carries its images itself.")

    def check(self, verify: str | None) -> tuple[EmbeddedImages, Faults, Faults]:
        """The images as they are, rows without content or file, and rows that do not decode (`verify="decode"`)."""
        if verify is None:
            return self, {}, {}
        absent = self._absent()
        missing = {row: absent[place] for row, place in enumerate(self.rows.tolist()) if place in absent}
        if verify == "exists":
            return self, missing, {}
        places = ((row, place) for row, place in enumerate(self.rows.tolist()) if row not in missing)
        return self, missing, find_undecodable((row, self.column[place]["image"]) for row, place in places)

    def to_dataset(self, labels: pa.Table, info: DatasetInfo, split: NamedSplit, cache_dir: Path) -> Dataset:
        """The images as they are mapped already, beside the label columns."""
        places = np.full(len(self.column), -1)
        places[self.rows] = np.arange(len(self.rows))
        labels = labels.take(pa.array(places, mask=places < 0))
        parts = [self.column.cast_column("image", Image()), write_mapped(labels, info, split, cache_dir)]
        info = replace(info, features=Features(image=Image(), **info.features))
        return concatenate_datasets(parts, info=info, split=split, axis=1).select(self.rows)

    def _absent(self) -> Faults:
        absent: Faults = {}
        start = 0
        # Arrow batches are views: the encoded images themselves are not read here.
        for batch in self.column.with_format("arrow").iter(_CHUNK):
            contents, paths = image_fields(batch)
            empty = contents.is_null().to_pylist()
            for offset, path in enumerate(paths.to_pylist()):
                if empty[offset] and not _exists(path):
                    absent[start + offset] = f"no file {path}" if path else "no image in this row"
            start += len(paths)
        return absent


ImageSource = FolderImages | EmbeddedImages  # images of the rows of a table, one a row


def image_fields(batch: pa.Table) -> tuple[pa.Array, pa.Array]:
    """Bytes and paths of the column `image`, both null where the whole image is (which `field` would overlook)."""
    images = batch.column("image").combine_chunks()
    fields = images.flatten()
    return fields[images.type.get_field_index("bytes")], fields[images.type.get_field_index("path")]


def find_undecodable(images: Iterable[tuple[int, Any]]) -> Faults:
    """Decode images in threads and return the rows that fail, each with its reason."""

    def reason(item: tuple[int, Any]) -> tuple[int, str | None]:
        row, source = item
        try:
            load_image(source)
        except Exception as error:  # PIL's decoders raise whatever a broken file makes them stumble on
            return row, f"{type(error).__name__}: {error}"
        return row, None

    faults: Faults = {}
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool, tqdm(desc="decoding images", unit="img") as bar:
        rows = iter(images)
        while chunk := list(itertools.islice(rows, _CHUNK)):
            faults |= {row: text for row, text in pool.map(reason, chunk) if text is not None}
            bar.update(len(chunk))
    return faults


def _find(index: FolderIndex, bases: list[str], file: str) -> str | None:
    if file.startswith(_URL_PREFIXES):
        return file
    for base in bases:
        folder, name = os.path.split(os.path.join(base, file))
        found = index.find(folder, name)
        if found is not None:
            return os.path.join(folder, found)
    return None


def _exists(path: str | None) -> bool:
    return path is not None and (path.startswith(_URL_PREFIXES) or os.path.isfile(path))
