"""AVA and AVA-Comments (Murray et al., CVPR 2012)."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from datasets import List, Value

from ..tables import open_text
from .annotation_files import parse_lines, require_file
from .annotations import Annotations
from .images import FolderImages
from .labels import LabelScale
from .left_out import LeftOut
from .published import PublishedReader


logger = logging.getLogger(__name__)

_RATINGS_FILE = "AVA.txt"
_COMMENTS_FILE = "AVA_Comments_Full.txt"
_TEST_FILE = "aesthetics_image_lists/generic_test.jpgl"
# index, image id, counts of the ratings 1 to 10, two tag ids, challenge id
_NUM_COLUMNS = 15
_COUNTS = slice(2, 12)


@dataclass
class AvaReader(PublishedReader):
    """`AVA.txt`, `images/<id>.jpg`, and `aesthetics_image_lists/generic_test.jpgl` for the test part.

    Attributes:
        comments: `True` for `AVA_Comments_Full.txt` in `root`, or its path, or what `load_ava_comments` returned:
            adds the column `comments`, a list of strings, empty where an image has none.
    """

    comments: bool | str | os.PathLike[str] | Mapping[str, list[str]] | None = None

    name: ClassVar[str] = "ava"
    splits: ClassVar[dict[str, str]] = {"train": "the rest", "test": "as listed by the authors"}

    def read(self, part: str) -> Annotations:
        """Rows of one part, in the order of `AVA.txt`."""
        ids, counts, malformed = _read_ratings(self.file(_RATINGS_FILE))
        listed = _read_test_ids(self.file(_TEST_FILE))
        in_test = np.isin(ids, list(listed))
        if part == "test":
            unrated = sorted(listed.difference(ids.tolist()))
            malformed += [LeftOut(str(image_id), f"listed for test, not in {_RATINGS_FILE}") for image_id in unrated]
        rows = np.flatnonzero(in_test == (part == "test"))
        ids, counts = ids[rows], counts[rows]

        image_ids = [str(image_id) for image_id in ids.tolist()]
        extra: dict[str, tuple[list[Any], Any]] = {"num_votes": (counts.sum(axis=1).tolist(), Value("int32"))}
        if self.comments is not None and self.comments is not False:
            comments = self._comments(set(image_ids))
            extra["comments"] = ([comments.get(image_id, []) for image_id in image_ids], List(Value("string")))
        return Annotations(
            image_ids=image_ids,
            images=FolderImages([f"{image_id}.jpg" for image_id in image_ids], self.root / "images"),
            scale=LabelScale.of_preset(self.name),
            counts=counts.astype(np.float64),
            extra=extra,
            left_out={"malformed": malformed},
        )

    def _comments(self, image_ids: set[str]) -> Mapping[str, list[str]]:
        if isinstance(self.comments, Mapping):
            return self.comments
        path = self.root / _COMMENTS_FILE if isinstance(self.comments, bool) else Path(self.comments or "")
        return load_ava_comments(path, image_ids)


def load_ava_comments(path: str | os.PathLike[str], image_ids: Collection[str] | None = None) -> dict[str, list[str]]:
    """Read `AVA_Comments_Full.txt`: one image a line, `field0#image_id#comment1#comment2…`.

    A `#` inside a comment cannot be told from a separator, so such a comment comes back as two. Empty comments are
    dropped, lines whose id is no integer are skipped (their number is logged), and an image on several lines has
    the comments of all of them.

    Args:
        path: the file, UTF-8.
        image_ids: keep the comments of these images only, which saves memory: the whole file is large.

    Returns:
        Image id, as in the column `image_id`, to the comments on it.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if no line has the format.
    """
    file = require_file(Path(path), "AVA-Comments")
    comments: dict[str, list[str]] = {}
    skipped = total = 0
    # A comment may hold a lone carriage return, which universal newlines would end the line at.
    with open_text(file, newline="\n", errors="replace") as lines:
        for line in filter(str.strip, lines):
            total += 1
            fields = line.split("#")
            try:
                image_id = str(_image_id(fields[1]))
            except (IndexError, ValueError):
                skipped += 1
                continue
            if image_ids is None or image_id in image_ids:
                comments.setdefault(image_id, []).extend(text for field in fields[2:] if (text := field.strip()))
    if skipped:
        logger.warning("%s: skipped %d of %d lines, their second field is no image id.", file, skipped, total)
    if skipped == total:
        raise ValueError(f"{file}: expected lines `field0#image_id#comment1#comment2…`, found none.")
    return comments


def _image_id(text: str) -> int:
    return int(text.strip().removesuffix(".jpg"))


def _read_ratings(path: Path) -> tuple[np.ndarray, np.ndarray, list[LeftOut]]:
    """Ids (N,), counts (N, 10), and the lines that are not 15 integers."""
    rows, malformed = parse_lines(path, _rating, f"{_NUM_COLUMNS} integers a line, separated by spaces")
    table = np.array(rows, dtype=np.int64).reshape(len(rows), _NUM_COLUMNS)
    return table[:, 1], table[:, _COUNTS], malformed


def _rating(line: str) -> list[int]:
    fields = line.split()
    if len(fields) != _NUM_COLUMNS:
        raise ValueError(f"expected {_NUM_COLUMNS} columns, found {len(fields)}")
    return [int(field) for field in fields]


def _read_test_ids(path: Path) -> set[int]:
    """Ids of the official test list, one a line."""
    ids, strange = parse_lines(path, _image_id, "one image id a line")
    if strange:
        logger.warning("%s: skipped %d lines without an image id, the first %s.", path, len(strange), strange[0])
    return set(ids)
