"""A source written down: the items of a run as JSON Lines, so that it can be gone through again unchanged."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

from .shards import TarMember
from .sources import Item


class Listing:
    """Items kept in a file; what is held in memory does not grow with their number.

    The last line says how many there are, and a file under the final name always has it.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        with open(file, "rb") as content:
            content.seek(max(0, content.seek(0, os.SEEK_END) - 200))
            footer = json.loads(content.read().splitlines()[-1])
        self.count: int = footer["count"]
        self.keyed: bool = footer["keyed"]

    @classmethod
    def write(cls, file: Path, items: Iterable[Item]) -> Listing:
        """Write items down, durably."""
        draft = file.with_suffix(".draft")
        count, keyed = 0, False
        with open(draft, "w", encoding="ascii") as lines:
            for item in items:
                lines.write(_to_line(item) + "\n")
                count += 1
                keyed |= item.key is not None
            lines.write(json.dumps({"count": count, "keyed": keyed}) + "\n")
            lines.flush()
            os.fsync(lines.fileno())
        os.replace(draft, file)
        return cls(file)

    def items(self, start: int = 0) -> Iterator[Item]:
        """Go through the items from a place on."""
        with open(self.file, encoding="ascii") as lines:
            for line in islice(lines, start, self.count):
                yield _from_line(line)

    def equals(self, items: Iterable[Item]) -> bool:
        """Whether these are the items that were written down."""
        return all(kept == item for kept, item in zip_longest(self.items(), items))


def _to_line(item: Item) -> str:
    image: Any = item.image
    if isinstance(image, TarMember):
        image = [image.shard, image.offset, image.size]
    # ASCII escapes carry file names that are not valid UTF-8 through, as lone surrogates.
    return json.dumps([item.path, image, item.key, item.error])


def _from_line(line: str) -> Item:
    path, image, key, error = json.loads(line)
    return Item(path, TarMember(*image) if isinstance(image, list) else image, key, error)
