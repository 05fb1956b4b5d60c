"""Scoring from Python: `score_images` for whatever one has, `CharmScorer` as a step of somebody else's pipeline."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from .comments import Comments, read_comments
from .dataset_source import DatasetSource, open_source
from .engine import Scorer, ScoringOptions
from .items import Item
from .model_loading import load_for_scoring
from .rows import COLUMN_TYPES, ScoreRow, table_columns


# How every step of somebody else's pipeline calls the normalized score, and why there is none.
SCORE, ERROR = "aesthetic_score", "aesthetic_error"
# What stands in a batch's column where a row has nothing: the first batch decides a column's type, so not `None`.
_MISSING = {float: np.nan, int: 0, str: ""}


def _items(images: Any) -> Iterator[Item]:
    if hasattr(images, "select_columns"):
        yield from DatasetSource(images).items()
        return
    one = isinstance(images, (str, bytes, bytearray, dict, os.PathLike)) or not isinstance(images, Iterable)
    for index, image in enumerate([images] if one or hasattr(images, "shape") else images):
        if isinstance(image, Item):
            yield image
        elif isinstance(image, (str, os.PathLike)):
            yield from open_source([image]).items()
        else:
            yield Item(str(index), image)


def score_images(
    images: Any,
    model: Any = None,
    processor: Any = None,
    *,
    comments: Comments | str | os.PathLike | None = None,
    num_workers: int = 0,
    **options: Any,
) -> Iterator[ScoreRow]:
    """Score images, yielding one row each, in order.

    ```python
    for row in score_images("holiday/", model="path/to/checkpoint"):
        print(row.path, row.score, row.error)
    ```

    Args:
        images: what `charm-hf score` takes (a path, folder, glob pattern, table, tar shard, `hf://datasets/…`), a
            `datasets` dataset, a PIL image, an array, encoded bytes, or an iterable of these.
        model: folder, repository or loaded model; the embedded demonstration checkpoint if not given.
        processor: the processor of a loaded model.
        comments: what people said, for a checkpoint that reads comments; or a table of it (see [`read_comments`]).
        num_workers: processes that decode and tokenize. With more than 0, a script needs the usual
            `if __name__ == "__main__":`.
        options: see [`ScoringOptions`].

    Raises:
        ValueError: for options out of range, or a loaded model without a processor.
    """
    if model is None or isinstance(model, (str, os.PathLike)):
        model, loaded = load_for_scoring(None if model is None else os.fspath(model))
        processor = processor or loaded
    elif processor is None:
        raise ValueError("A loaded model needs its `processor` too.")
    if isinstance(comments, (str, os.PathLike)):
        comments = read_comments(comments)
    scorer = Scorer(model, processor, ScoringOptions(num_workers=num_workers, **options), comments)
    return scorer.score(_items(images))


def _name(image: Any, name: Any) -> str:
    return image if isinstance(image, str) else str(name)


def _plain(image: Any) -> Any:
    # NumPy wraps strings and bytes of a column in its own scalar types.
    return image.item() if isinstance(image, np.generic) else image


class CharmScorer:
    """A callable for `ray.data.Dataset.map_batches` and `datasets.Dataset.map(batched=True)`.

    An instance holds a loaded model, so that with Ray each actor loads it once:
    `dataset.map_batches(CharmScorer, fn_constructor_kwargs={"model": …}, concurrency=4, num_gpus=1)`.

    Args:
        model: folder or repository; the embedded demonstration checkpoint if not given.
        image_column: column that holds images: paths, encoded bytes, `{"bytes": …, "path": …}`, PIL images or arrays.
        path_column: column with the images' names for error messages, if there is one.
        device: where to score; a GPU if there is one.
        dtype: of the weights.
        drop_image: leave the image out of the result, which is large.
        options: see [`ScoringOptions`].
    """

    def __init__(
        self,
        model: str | None = None,
        *,
        image_column: str = "image",
        path_column: str | None = None,
        device: str | None = None,
        dtype: str = "float32",
        drop_image: bool = False,
        **options: Any,
    ) -> None:
        network, processor = load_for_scoring(model, device=device, dtype=dtype)
        self.scorer = Scorer(network, processor, ScoringOptions(**options))
        self.image_column = image_column
        self.path_column = path_column
        self.drop_image = drop_image

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Score a batch of columns.

        Returns:
            The columns, and beside them those of a table of scores but `path`, and `aesthetic_score` in [0, 1] with
            `aesthetic_error`. Where a row has nothing stands NaN for a score, 0 for a size, and an empty text for the
            error.

        Raises:
            KeyError: if the image column is not there.
        """
        images = batch[self.image_column]
        names = range(len(images)) if self.path_column is None else batch[self.path_column]
        items = [Item(_name(image, name), _plain(image)) for image, name in zip(images, names, strict=True)]
        rows = [row.known() for row in self.scorer.score(items)]
        columns = {name: value for name, value in batch.items() if not (self.drop_image and name == self.image_column)}
        for column in table_columns(*["embedding"] * self.scorer.options.embeddings)[1:]:
            kind = COLUMN_TYPES[column]
            values = [row.get(column, _MISSING.get(kind)) for row in rows]
            columns[column] = np.array(values) if kind in _MISSING else values
        return {**columns, SCORE: columns["normalized_score"], ERROR: columns["error"]}
