"""Score many images: sources → engine → sinks."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any

from .checkpoint import DEMONSTRATION_NOTICE, load_checkpoint
from .columns import CharmScorer
from .comments import Comments, give_comments, read_comments
from .engine import Scorer, ScoringOptions
from .processes import Processes
from .provenance import provenance_columns
from .rows import COLUMNS, ScoreRow
from .run import ScoringInterrupted, Summary, TableOptions, score_to_stream, score_to_table
from .selection import Selection
from .sinks import TableWriter
from .sources import Item, PathSource, SourceOptions, list_items
from .streams import DatasetSource, is_dataset_path, open_source


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
        processor: the image processor of a loaded model.
        comments: what people said, for a checkpoint that reads comments; or a table of it (see [`read_comments`]).
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
    give_comments(processor, comments)
    scorer = Scorer(model, processor, ScoringOptions(num_workers=num_workers, **options))
    return scorer.score(_items(images))


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


__all__ = [
    "COLUMNS",
    "Comments",
    "DEMONSTRATION_NOTICE",
    "CharmScorer",
    "DatasetSource",
    "Item",
    "PathSource",
    "Processes",
    "ScoreRow",
    "Scorer",
    "ScoringInterrupted",
    "ScoringOptions",
    "Selection",
    "SourceOptions",
    "Summary",
    "TableOptions",
    "TableWriter",
    "give_comments",
    "is_dataset_path",
    "list_items",
    "load_checkpoint",
    "open_source",
    "provenance_columns",
    "read_comments",
    "score_images",
    "score_to_stream",
    "score_to_table",
]
