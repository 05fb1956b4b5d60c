"""Where images come from: files, folders and glob patterns become a stream of items in a fixed order."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .rows import describe_error, display_path


# Files in a folder that are taken for photos. A file that is named, or matched by a pattern, is always tried.
IMAGE_EXTENSIONS = frozenset(
    f".{name}"
    for name in (
        *("jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "bmp", "dib", "tif", "tiff", "avif", "heic", "heif"),
        *("jp2", "j2k", "pbm", "pgm", "ppm", "pnm", "tga"),
    )
)


@dataclass(frozen=True)
class Item:
    """One image to score.

    Attributes:
        path: how the table calls it.
        image: what the image reader takes: a path, encoded bytes, a PIL image, an array.
        error: why it cannot even be tried, such as a folder that cannot be listed.
    """

    path: str
    image: Any = None
    error: str | None = None

    @classmethod
    def from_file(cls, path: str | os.PathLike) -> Item:
        """Item of an image file, called by its path."""
        return cls(display_path(path), os.fspath(path))


def find_images(paths: Iterable[str | os.PathLike], on_skipped: Callable[[str], None] | None = None) -> Iterator[Item]:
    """List the images of files, folders (recursively) and glob patterns, in order; a folder in the order of its names.

    A folder is entered once, however many symbolic links lead to it. A folder that cannot be listed gives an item with
    an `error`.

    Args:
        paths: a pattern is what holds `*`, `?` or `[` and is not itself a file.
        on_skipped: called with the path of every file in a folder that is passed over for its extension.
    """
    entered: set[tuple[int, int]] = set()
    for path in paths:
        for match in _expand(path):
            if os.path.isdir(match):
                yield from _walk(match, entered, on_skipped)
            else:
                yield Item.from_file(match)


def _expand(path: str | os.PathLike) -> list[str]:
    text = os.fspath(path)
    if os.path.lexists(text) or not glob.has_magic(text):
        return [text]
    return sorted(glob.glob(text, recursive=True))


def _walk(folder: str, entered: set[tuple[int, int]], on_skipped: Callable[[str], None] | None) -> Iterator[Item]:
    pending = [folder]  # a stack instead of recursion: folders may be nested deeper than Python recurses
    while pending:
        path = pending.pop()
        if os.path.isdir(path):
            try:
                status = os.stat(path)
                if (status.st_dev, status.st_ino) not in entered:
                    entered.add((status.st_dev, status.st_ino))
                    pending.extend(os.path.join(path, name) for name in sorted(os.listdir(path), reverse=True))
            except OSError as error:
                yield Item(display_path(path), error=f"The folder cannot be listed. {describe_error(error)}")
        elif path == folder or Path(path).suffix.lower() in IMAGE_EXTENSIONS:
            yield Item.from_file(path)
        elif on_skipped is not None:
            on_skipped(path)


def describe_skipped(extensions: Counter[str]) -> str:
    """Say which files of folders were passed over, by extension."""
    kinds = ", ".join(f"{extension or 'no extension'} ({count:,})" for extension, count in extensions.most_common(8))
    return f"Passed over {sum(extensions.values()):,} files that are not named like images: {kinds}."
