"""Images inside `datasets` datasets, on disk or on the Hub, in memory or streamed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from .rows import display_path
from .sources import Item, PathSource, SourceOptions
from .tables import holds_images


HUB_PREFIX = "hf://datasets/"
_USUAL_IMAGE_COLUMNS = ("image", "img", "photo", "jpg", "png")


def open_source(
    paths: Sequence[str | os.PathLike],
    options: SourceOptions | None = None,
    *,
    split: str | None = None,
    streaming: bool = False,
    on_skipped: Callable[[str], None] | None = None,
) -> PathSource | DatasetSource:
    """Open what the command line names: any number of files, folders, patterns, tables and shards, or one dataset.

    Args:
        paths: see [`list_items`] and [`open_dataset`]. A Parquet file whose image column holds images is a dataset.
        options: how tables and standard input are read.
        split: of a dataset.
        streaming: read a dataset from the Hub as it goes.
        on_skipped: called with the path of every file in a folder that is passed over for its extension.

    Raises:
        ValueError: for a dataset among other paths, or without such a split or column.
    """
    options = options or SourceOptions()
    holding_images = [path for path in paths if is_dataset_path(path) or holds_images(os.fspath(path), options)]
    if not holding_images:
        return PathSource(paths, options, on_skipped)
    if len(paths) > 1:
        raise ValueError(f"{os.fspath(holding_images[0])!r} is a dataset: score it alone, not among other paths.")
    path = os.fspath(paths[0])
    dataset = open_dataset(path, split, streaming) if is_dataset_path(path) else open_parquet_images(path)
    return DatasetSource(dataset, path, options.path_column, options.key_column)


class DatasetSource:
    """The images of a `datasets.Dataset` or `datasets.IterableDataset`, undecoded.

    Args:
        dataset: one split.
        name: what rows call the dataset.
        image_column: found by its type or its usual names if not given.
        key_column: column of the keys; the number of the row if not given.

    Raises:
        ValueError: if there is no such column.
    """

    keyed = True

    def __init__(
        self, dataset: Any, name: str = "dataset", image_column: str | None = None, key_column: str | None = None
    ) -> None:
        columns = list(dataset.column_names or next(iter(dataset)).keys())
        self.image_column = _find_image_column(dataset, columns, image_column)
        self.key_column = key_column
        if key_column is not None and key_column not in columns:
            raise ValueError(f"The dataset has no column {key_column!r}: found {', '.join(map(repr, columns))}.")
        self.name = name
        self.dataset = _undecoded(dataset.select_columns([self.image_column, *([key_column] if key_column else [])]))
        self.count: int | None = len(dataset) if hasattr(dataset, "__len__") else None

    def items(self, start: int = 0) -> Iterator[Item]:
        """Go through the images from a row on."""
        for number, row in enumerate(self.dataset.skip(start) if start else self.dataset, start=start):
            image, path = row[self.image_column], None
            if isinstance(image, dict):
                path = image.get("path")
                image = image if image.get("bytes") is not None or path is None else _readable(path)
            key = str(number if self.key_column is None else row[self.key_column])
            error = None if image is not None else f"Row {number} has no image."
            yield Item(display_path(path or f"{self.name}#{number}"), image, key=key, error=error)

    def identity(self) -> dict[str, Any]:
        """What must be the same for a run to go on."""
        fingerprint = getattr(self.dataset, "_fingerprint", None) if self.count is not None else None
        return {"dataset": self.name, "rows": self.count, "fingerprint": fingerprint, "column": self.image_column}


def is_dataset_path(path: str | os.PathLike) -> bool:
    """Whether a path names a dataset: `hf://datasets/…`, or a folder that `save_to_disk` wrote."""
    text = os.fspath(path)
    return text.startswith(HUB_PREFIX) or (Path(text) / "state.json").is_file() or _is_dataset_dict(text)


def open_dataset(path: str, split: str | None = None, streaming: bool = False) -> Any:
    """Open one split of a dataset.

    Args:
        path: `hf://datasets/NAME`, `hf://datasets/NAME@REVISION`, or a folder that `save_to_disk` wrote.
        split: `train` if not given and there are several.
        streaming: read it from the Hub as it goes instead of downloading it first.

    Raises:
        ValueError: if there is no such split.
    """
    import datasets

    if not path.startswith(HUB_PREFIX):
        loaded = datasets.load_from_disk(path)
        return _choose_split(loaded, path, split) if isinstance(loaded, datasets.DatasetDict) else loaded
    name, _, revision = path.removeprefix(HUB_PREFIX).partition("@")
    return datasets.load_dataset(name, revision=revision or None, split=split or "train", streaming=streaming)


def open_parquet_images(table: str) -> Any:
    """Stream a Parquet file that holds encoded images."""
    import datasets

    return datasets.load_dataset("parquet", data_files=table, split="train", streaming=True)


def _is_dataset_dict(path: str) -> bool:
    return (Path(path) / "dataset_dict.json").is_file()


def _choose_split(splits: Any, path: str, split: str | None) -> Any:
    name = split or ("train" if "train" in splits or len(splits) != 1 else next(iter(splits)))
    if name not in splits:
        raise ValueError(f"{path!r} has no split {name!r}: found {', '.join(map(repr, splits))}.")
    return splits[name]


def _find_image_column(dataset: Any, columns: list[str], wanted: str | None) -> str:
    import datasets

    if wanted is None:
        features = dataset.features or {}
        typed = (name for name, feature in features.items() if isinstance(feature, datasets.Image))
        usual = (name for name in _USUAL_IMAGE_COLUMNS if name in columns)
        wanted = next(typed, None) or next(usual, None)
    if wanted is None or wanted not in columns:
        raise ValueError(
            f"The dataset has no image column{'' if wanted is None else f' {wanted!r}'}: name it with --path-column, "
            f"one of {', '.join(map(repr, columns))}."
        )
    return wanted


def _undecoded(dataset: Any) -> Any:
    import datasets

    for name, feature in (dataset.features or {}).items():
        if isinstance(feature, datasets.Image):
            dataset = dataset.cast_column(name, datasets.Image(decode=False))
    return dataset


def _readable(path: str) -> Any:
    """Path of a local file as it is, content of a remote one."""
    if "://" not in path:
        return path
    from datasets.utils.file_utils import xopen

    with xopen(path, "rb") as file:
        return file.read()
