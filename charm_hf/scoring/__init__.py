"""Score many images: sources → engine → sinks."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any

from .checkpoint import load_checkpoint
from .engine import Scorer, ScoringOptions
from .rows import COLUMNS, ScoreRow
from .sinks import TableWriter
from .sources import Item, find_images


def score_images(
    images: Any, model: Any = None, processor: Any = None, *, num_workers: int = 0, **options: Any
) -> Iterator[ScoreRow]:
    """Score images, yielding one row each, in order.

    Args:
        images: a path, folder or glob pattern, or any iterable of these, PIL images, arrays and encoded bytes.
        model: folder, repository or loaded model; the embedded demonstration checkpoint if not given.
        processor: the image processor of a loaded model.
        num_workers: processes that decode and tokenize. With more than 0, a script needs the usual
            `if __name__ == "__main__":`.
        options: see [`ScoringOptions`].

    Raises:
        ValueError: for options out of range, or a loaded model without a processor.
    """
    if model is None or isinstance(model, (str, os.PathLike)):
        model, loaded = load_checkpoint(None if model is None else os.fspath(model))
        processor = processor or loaded
    elif processor is None:
        raise ValueError("A loaded model needs its `processor` too.")
    scorer = Scorer(model, processor, ScoringOptions(num_workers=num_workers, **options))
    return scorer.score(_as_items(images))


def _as_items(images: Any) -> Iterator[Item]:
    if isinstance(images, (str, os.PathLike)) or not isinstance(images, Iterable):
        images = [images]
    for index, image in enumerate(images):
        if isinstance(image, Item):
            yield image
        elif isinstance(image, (str, os.PathLike)):
            yield from find_images([image])
        else:
            yield Item(str(index), image)


__all__ = ["COLUMNS", "Item", "ScoreRow", "Scorer", "ScoringOptions", "TableWriter", "find_images", "score_images"]
