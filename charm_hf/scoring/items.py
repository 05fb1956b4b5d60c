"""One image to score, and streams of them."""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from tempfile import mkstemp
from typing import Any

from PIL import Image

from ..models.image_urls_charm import fetch_url, is_url
from ..tables import escape_bytes
from .storage import is_remote, read_range, read_remote


# An image inside an archive is read whole.
MAX_CONTENT_BYTES = 512 * 2**20


@dataclass(frozen=True)
class Item:
    """One image to score.

    Attributes:
        path: how the table calls it.
        image: what the image reader takes: a path, encoded bytes, a PIL image, an array.
        key: name of the sample in a dataset, a table or a shard.
        error: why it cannot even be tried, such as a folder that cannot be listed.
        span: offset and length in bytes of the image inside the file `image`, where that is an archive.
        comments: what people said about it; `None` if nobody was asked.
    """

    path: str
    image: Any = None
    key: str | None = None
    error: str | None = None
    span: tuple[int, int] | None = None
    comments: Sequence[str] | None = None

    @classmethod
    def from_file(cls, path: str | os.PathLike) -> Item:
        """Item of an image file, called by its path."""
        return cls(escape_bytes(path), os.fspath(path))

    @property
    def file(self) -> str | None:
        """Path of the image's own file, if it has one on this machine."""
        has_one = isinstance(self.image, (str, os.PathLike)) and self.span is None and not is_remote(self.image)
        return os.fspath(self.image) if has_one else None

    def stamp(self) -> list[int] | None:
        """Size in bytes and time of the last change in nanoseconds of the file with the image; `None` if none."""
        if not isinstance(self.image, (str, os.PathLike)):
            return None
        try:
            status = os.stat(self.image)
        except (OSError, ValueError):
            return None
        return [status.st_size, status.st_mtime_ns]

    @property
    def num_bytes(self) -> int:
        """Memory that the image takes while the item waits; 0 for what still lies in a file."""
        image = self.image.get("bytes") if isinstance(self.image, dict) else self.image
        if isinstance(image, Image.Image):
            return 3 * image.width * image.height
        return len(image) if isinstance(image, (bytes, bytearray)) else int(getattr(image, "nbytes", 0))

    def read(self) -> Any:
        """What the image reader takes; content goes by the item's path in errors.

        Raises:
            OSError: if an archive, or a store, cannot be read.
            ValueError: if it ends before the image does, or the image is larger than what is read into memory.
        """
        content: Any = self.image if self.span is None else self._read_span(*self.span)
        if is_remote(content) and not is_url(content):
            content = read_remote(content)
        return {"bytes": content, "path": self.path} if isinstance(content, (bytes, bytearray)) else content

    def _read_span(self, offset: int, length: int) -> bytes:
        if length > MAX_CONTENT_BYTES:
            raise ValueError(f"The image has {length:,} bytes; of one in an archive, {MAX_CONTENT_BYTES:,} are read.")
        content = read_range(self.image, offset, length)
        if len(content) < length:
            raise ValueError(f"The shard is cut off: {len(content):,} of the image's {length:,} bytes are there.")
        return content

    def fetched(self, folder: str, stopping: Callable[[], bool]) -> Item:
        """The item of an image behind a URL, whose bytes then lie in a folder.

        Raises:
            ValueError: if it cannot be fetched.
            OSError: if the folder's disk is full.
        """
        content = fetch_url(self.image, stopping)
        file, name = mkstemp(dir=folder)
        with open(file, "wb") as stream:
            stream.write(content)
        return replace(self, image=name, span=(0, len(content)))

    def to_json(self) -> str:
        """One line of ASCII, for an item of a file.

        Escapes carry file names that are not valid UTF-8 through, as lone surrogates.
        """
        return json.dumps([self.path, self.image, self.key, self.error, self.span])

    @classmethod
    def from_json(cls, line: str) -> Item:
        """Read what [`Item.to_json`] wrote."""
        path, image, key, error, span = json.loads(line)
        return cls(path, image, key, error, None if span is None else tuple(span))


class Items(ABC):
    """Images that can be gone through from any place on.

    Attributes:
        count: how many there are; `None` if that is not known.
        keyed: whether they have keys.
    """

    count: int | None = None
    keyed = False

    @abstractmethod
    def items(self, start: int = 0) -> Iterator[Item]:
        """Go through the images from a place on."""
