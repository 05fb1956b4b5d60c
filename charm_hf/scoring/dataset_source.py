"""Images inside `datasets` datasets, on disk or on the Hub, in memory or streamed; and what opens any source."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..models.image_urls_charm import is_url
from ..tables import escape_bytes, usual_column
from .items import Item
from .sources import PathSource, SkippedCallback, Source, SourceOptions, expand_pattern


HUB_PREFIX = "hf://datasets/"
_USUAL_IMAGE_COLUMNS = ("image", "img", "photo", "jpg", "png")
# Gives a dataset, and its length where only the loader knows it.
Loader = Callable[[str, SourceOptions], "tuple[Any, int | None]"]


def _load_from_hub(path: str, options: SourceOptions) -> tuple[Any, int | None]:
    import datasets

    name, _, revision = path.removeprefix(HUB_PREFIX).partition("@")
    split = options.split or "train"
    return datasets.load_dataset(name, revision=revision or None, split=split, streaming=options.streaming), None


def _load_saved(path: str, options: SourceOptions) -> tuple[Any, int | None]:
    import datasets

    loaded = datasets.load_from_disk(path)
    if not isinstance(loaded, datasets.DatasetDict):
        return loaded, None
    split = options.split or ("train" if "train" in loaded or len(loaded) != 1 else next(iter(loaded)))
    if split not in loaded:
        raise ValueError(f"{path!r} has no split {split!r}: found {', '.join(map(repr, loaded))}.")
    return loaded[split], None


def _holds_images(table: str, column: str | None) -> bool:
    """Whether the image column of a Parquet file holds encoded images instead of paths."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(table)
    except pa.ArrowInvalid:  # whoever reads it as a table says so
        return False
    column = column or usual_column(schema.names, "path")
    kind = schema.field(column).type if column in schema.names else pa.null()
    return pa.types.is_struct(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _load_parquet(path: str, options: SourceOptions) -> tuple[Any, int | None]:
    import datasets
    import pyarrow.parquet as pq

    files = expand_pattern(path)
    dataset = datasets.load_dataset("parquet", data_files=files, split="train", streaming=True)
    return dataset, sum(pq.read_metadata(file).num_rows for file in files)


def _load_lance(path: str, options: SourceOptions) -> tuple[Any, int | None]:
    import datasets
    import lance

    dataset = datasets.load_dataset("lance", data_files=f"{path.rstrip('/')}/**", split="train", streaming=True)
    return dataset, lance.dataset(path).count_rows()


def _find_loader(path: str, options: SourceOptions) -> Loader | None:
    """What loads a dataset that a path names; `None` for a path of images."""
    if path.startswith(HUB_PREFIX) and path.removeprefix(HUB_PREFIX).count("/") < 2:  # more name a file in there
        return _load_from_hub
    if path.rstrip("/").endswith(".lance"):
        return _load_lance
    if any((Path(path) / name).is_file() for name in ("state.json", "dataset_dict.json")):
        return _load_saved
    if not path.lower().endswith(".parquet"):
        return None
    files = [file for file in expand_pattern(path) if os.path.isfile(file)]
    return _load_parquet if files and all(_holds_images(file, options.path_column) for file in files) else None


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


def _readable(path: str) -> Any:
    """Path of a local file and URL as they are, content of what else is remote."""
    # A stranger's dataset may name any address: the engine decides on those, as on the URLs of tables.
    if "://" not in path or is_url(path):
        return path
    if "http://" in path or "https://" in path:
        raise ValueError(f"{path!r} names a file inside an archive at a URL, which is not fetched.")
    from datasets.utils.file_utils import xopen

    with xopen(path, "rb") as file:
        return file.read()


class DatasetSource(Source):
    """The images of a `datasets.Dataset` or `datasets.IterableDataset`, undecoded.

    Args:
        dataset: one split.
        name: what rows call the dataset.
        image_column: found by its type or its usual names if not given.
        key_column: column of the keys; the number of the row if not given.
        count: how many rows there are, where that is known and the dataset does not know it.

    Raises:
        ValueError: if there is no such column.
    """

    keyed = True
    stays = True

    def __init__(
        self,
        dataset: Any,
        name: str = "dataset",
        image_column: str | None = None,
        key_column: str | None = None,
        count: int | None = None,
    ) -> None:
        import datasets

        columns = list(dataset.column_names or next(iter(dataset)).keys())
        self.image_column = _find_image_column(dataset, columns, image_column)
        self.key_column = key_column
        if key_column is not None and key_column not in columns:
            raise ValueError(f"The dataset has no column {key_column!r}: found {', '.join(map(repr, columns))}.")
        self.name = name
        self.dataset = dataset.select_columns([self.image_column, *([key_column] if key_column else [])])
        if isinstance((dataset.features or {}).get(self.image_column), datasets.Image):
            self.dataset = self.dataset.cast_column(self.image_column, datasets.Image(decode=False))
        self.count = len(dataset) if hasattr(dataset, "__len__") else count

    def __str__(self) -> str:
        return repr(self.name)

    def items(self, start: int = 0) -> Iterator[Item]:
        """Go through the images from a row on."""
        for number, row in enumerate(self.dataset.skip(start) if start else self.dataset, start=start):
            image, path, error = row[self.image_column], None, None
            if isinstance(image, dict):
                path = image.get("path")
                try:
                    image = image if image.get("bytes") is not None or path is None else _readable(path)
                except ValueError as refusal:
                    image, error = None, str(refusal)
            key = str(number if self.key_column is None else row[self.key_column])
            error = error if image is not None or error else f"Row {number} has no image."
            yield Item(escape_bytes(path or f"{self.name}#{number}"), image, key=key, error=error)

    def identity(self) -> dict[str, Any]:
        """The dataset's name, length, column and, where its rows are at hand, their fingerprint."""
        fingerprint = getattr(self.dataset, "_fingerprint", None) if hasattr(self.dataset, "__len__") else None
        return {"dataset": self.name, "rows": self.count, "fingerprint": fingerprint, "column": self.image_column}


def open_source(
    paths: Sequence[str | os.PathLike],
    options: SourceOptions | None = None,
    on_skipped: SkippedCallback | None = None,
) -> Source:
    """Open what the command line names: any number of files, folders, patterns, tables and shards, or one dataset.

    Args:
        paths: what [`list_items`] takes; or `hf://datasets/NAME[@REVISION]`, a folder that `save_to_disk` wrote, or a
            Parquet file whose image column holds images, or a pattern of such.
        options: how they are read.
        on_skipped: see [`SkippedCallback`].

    Raises:
        ValueError: for a dataset among other paths, or without such a split or column.
    """
    options = options or SourceOptions()
    for path in [os.fspath(path) for path in paths]:
        load = _find_loader(path, options)
        if load is not None:
            if len(paths) > 1:
                raise ValueError(f"{path!r} is a dataset: score it alone, not among other paths.")
            dataset, count = load(path, options)
            return DatasetSource(dataset, path, options.path_column, options.key_column, count)
    return PathSource(paths, options, on_skipped)
