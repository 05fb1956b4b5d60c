"""Scoring as a step of somebody else's pipeline: batches of images in, the same batches with scores out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from .checkpoint import load_checkpoint
from .engine import Scorer, ScoringOptions
from .rows import COLUMNS
from .sources import Item


_SCORE_COLUMNS = tuple(name for name in COLUMNS if name != "path")
_MISSING = {"width": 0, "height": 0, "tokens": 0, "error": ""}


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
        network, processor = load_checkpoint(model, device=device, dtype=dtype)
        self.scorer = Scorer(network, processor, ScoringOptions(**options))
        self.image_column = image_column
        self.path_column = path_column
        self.drop_image = drop_image

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Score a batch of columns.

        Returns:
            The columns, and beside them `score`, `normalized_score` and `std` (NaN where there is none), `width`,
            `height` and `tokens` (0 where unknown), `error` (empty where there is none).

        Raises:
            KeyError: if the image column is not there.
        """
        images = batch[self.image_column]
        names = range(len(images)) if self.path_column is None else batch[self.path_column]
        items = [Item(_name(image, name), _plain(image)) for image, name in zip(images, names, strict=True)]
        rows = [asdict(row) for row in self.scorer.score(items)]
        columns = {name: value for name, value in batch.items() if not (self.drop_image and name == self.image_column)}
        for column in _SCORE_COLUMNS:
            missing = _MISSING.get(column, np.nan)
            columns[column] = np.array([missing if row[column] is None else row[column] for row in rows])
        return columns


def _name(image: Any, name: Any) -> str:
    return image if isinstance(image, str) else str(name)


def _plain(image: Any) -> Any:
    # NumPy wraps strings and bytes of a column in its own scalar types.
    return image.item() if isinstance(image, np.generic) else image
