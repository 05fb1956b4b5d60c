"""What people said about the photos, for checkpoints that read it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from ..tables import TABLE_SUFFIXES, Table, find_column
from .items import Item


class Comments:
    """Comments by photo.

    Args:
        by_photo: photo to comments. A photo goes by its path as the table of scores has it, by its key, or by its
            file's name where only one entry has that name.

    >>> comments = Comments({"holiday/1.jpg": ["great light"]})
    >>> comments.of(Item("photos/1.jpg")), comments.of(Item("2.jpg"))
    (['great light'], [])
    """

    def __init__(self, by_photo: Mapping[str, Sequence[str]]) -> None:
        self.by_photo = {photo: list(said) for photo, said in by_photo.items()}
        names: dict[str, list[str]] = {}
        for photo in self.by_photo:
            names.setdefault(os.path.basename(photo), []).append(photo)
        self._by_name = {name: photos[0] for name, photos in names.items() if len(photos) == 1}

    def of(self, item: Item) -> list[str]:
        """Comments on a photo; an empty list if there are none."""
        for photo in (item.path, item.key, self._by_name.get(os.path.basename(item.path))):
            if photo in self.by_photo:
                return self.by_photo[photo]
        return []

    def digest(self) -> str:
        """SHA-256 of all of them."""
        return hashlib.sha256(json.dumps(self.by_photo, sort_keys=True).encode()).hexdigest()


def read_comments(table: str | os.PathLike, comment_column: str | None = None) -> Comments:
    """Read comments from a CSV, TSV, JSON Lines or Parquet file.

    A row holds the path of a photo (or its file's name) and a comment, or a list of them. Rows of one photo add up.

    Args:
        table: the file.
        comment_column: `comment`, `comments`, `text` or `caption` if not given.

    Raises:
        ValueError: if the file is no such table, or has no such columns.
        FileNotFoundError: if there is no such file.
    """
    name = os.fspath(table)
    if not name.lower().endswith(TABLE_SUFFIXES):
        raise ValueError(f"Comments come in a file that ends in {', '.join(TABLE_SUFFIXES)}, got {name!r}.")
    rows = Table(name)
    photos = find_column(rows.names, "path", repr(name))
    comments = find_column(rows.names, "comment", repr(name), comment_column)
    by_photo: dict[str, list[str]] = {}
    for number, row in enumerate(rows.rows([photos, comments]), start=1):
        path, said = row.get(photos), row.get(comments)
        said = [] if said is None else [said] if isinstance(said, str) else said
        if not isinstance(path, str) or not isinstance(said, list) or not all(isinstance(text, str) for text in said):
            raise ValueError(f"Row {number} of {name!r} must hold a path and text, got {path!r:.80} and {said!r:.80}.")
        by_photo.setdefault(path, []).extend(said)
    return Comments(by_photo)


def reads_comments(processor: Any) -> bool:
    """Whether a processor takes comments beside photos."""
    return hasattr(processor, "tokenizer")
