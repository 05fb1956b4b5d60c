"""What people said about the photos: read from a table, and handed to checkpoints that read comments."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .sources import Item
from .tables import TABLE_EXTENSIONS, find_column, read_rows


_USUAL_COMMENT_COLUMNS = ("comment", "comments", "text", "caption")


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
    if Path(name).suffix.lower() not in TABLE_EXTENSIONS:
        raise ValueError(f"Comments come in a file that ends in {', '.join(sorted(TABLE_EXTENSIONS))}, got {name!r}.")
    by_photo: dict[str, list[str]] = {}
    for number, row in enumerate(read_rows(name), start=1):
        path = row.get(find_column(name, list(row), None))
        column = comment_column or next((usual for usual in _USUAL_COMMENT_COLUMNS if usual in row), None)
        if column is None or column not in row:
            raise ValueError(
                f"{name!r} has no column of comments ({comment_column or ', '.join(_USUAL_COMMENT_COLUMNS)}): found "
                f"{', '.join(map(repr, row))}."
            )
        said = row[column]
        said = [] if said is None else [said] if isinstance(said, str) else said
        if not isinstance(path, str) or not isinstance(said, list) or not all(isinstance(text, str) for text in said):
            raise ValueError(f"Row {number} of {name!r} must hold a path and text, got {path!r:.80} and {said!r:.80}.")
        by_photo.setdefault(path, []).extend(said)
    return Comments(by_photo)


def give_comments(processor: Any, comments: Comments | str | os.PathLike | None) -> None:
    """Let a processor that `load_checkpoint` gave read comments, or those in a table.

    Raises:
        ValueError: if the checkpoint does not read comments, or as [`read_comments`].
    """
    if comments is None:
        return
    if not isinstance(processor, CommentedProcessor):
        raise ValueError("This checkpoint sees the photo only and reads no comments.")
    processor.comments = comments if isinstance(comments, Comments) else read_comments(comments)


class CommentedProcessor:
    """An [`MmlqProcessor`] as the engine calls an image processor.

    Args:
        processor: prepares photos and comments.
        vision_config: of the model's vision encoder; tells the number of tokens where it is the same for all photos.
        comments: without them every photo is scored by its looks alone.
    """

    def __init__(self, processor: Any, vision_config: Any, comments: Comments | None = None) -> None:
        self.processor = processor
        self.comments = comments
        self.photos = self.commented = 0
        self._num_tokens = 0
        if not self.is_charm:
            self._num_tokens = (vision_config.image_size // vision_config.patch_size) ** 2

    @property
    def is_charm(self) -> bool:
        """Whether the photos become tokens of Charm, whose parameters can be given."""
        return hasattr(self.processor.image_processor, "num_tokens")

    @property
    def seed(self) -> Any:
        """Seed of the image processor."""
        return self.processor.image_processor.seed

    def num_tokens(self, height: int, width: int, **parameters: Any) -> int:
        """Number of visual tokens of a photo.

        Raises:
            ValueError: for parameters that the image processor does not have.
        """
        if self.is_charm:
            return self.processor.image_processor.num_tokens(height, width, **parameters)
        self._without_charm(parameters)
        return self._num_tokens

    def __call__(self, images: Any, item: Item, return_tensors: str = "pt", **parameters: Any) -> Any:
        """Prepare one photo of an item, with the comments on it."""
        said = None if self.comments is None else [self.comments.of(item)]
        parameters = parameters if self.is_charm else self._without_charm(parameters)
        return self.processor(images, said, return_tensors=return_tensors, **parameters)

    def _without_charm(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        given = {name: value for name, value in parameters.items() if name != "reduced_decoding"}
        if given:
            kind = type(self.processor.image_processor).__name__
            raise ValueError(f"{', '.join(given)}: only Charm tokens have these parameters, not {kind}.")
        return given

    def note(self, items: Iterable[Item]) -> None:
        """Count photos, and those that have comments."""
        for item in items:
            self.photos += 1
            self.commented += self.comments is not None and any(text.strip() for text in self.comments.of(item))

    def to_dict(self) -> dict[str, Any]:
        """Everything that decides what the model is given, as JSON."""
        return {**self.processor.to_dict(), "comments": None if self.comments is None else self.comments.digest()}


__all__ = ["CommentedProcessor", "Comments", "give_comments", "read_comments"]
