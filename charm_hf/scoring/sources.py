"""Where images come from: every source becomes a stream of items in a fixed order."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from .rows import describe_error, display_path


# Files in a folder that are taken for photos. A file that is named, or matched by a pattern, is always tried.
IMAGE_EXTENSIONS = frozenset(
    f".{name}"
    for name in (
        *("jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "bmp", "dib", "tif", "tiff", "avif", "heic", "heif"),
        *("jp2", "j2k", "pbm", "pgm", "ppm", "pnm", "tga"),
    )
)
STDIN = "-"


@dataclass(frozen=True)
class Item:
    """One image to score.

    Attributes:
        path: how the table calls it.
        image: what the image reader takes (a path, encoded bytes, a PIL image, an array) or a [`TarMember`].
        key: name of the sample in a dataset, a table or a shard.
        error: why it cannot even be tried, such as a folder that cannot be listed.
    """

    path: str
    image: Any = None
    key: str | None = None
    error: str | None = None

    @classmethod
    def from_file(cls, path: str | os.PathLike) -> Item:
        """Item of an image file, called by its path."""
        return cls(display_path(path), os.fspath(path))


@dataclass(frozen=True)
class SourceOptions:
    """How paths are read.

    Args:
        path_column: column of a table, or image column of a dataset; found by its usual names if not given.
        key_column: column whose values become the keys of the rows.
        root: folder that relative paths in a table start from; the table's own folder if not given.
        null_separated: paths on standard input end with a zero byte instead of a newline.
    """

    path_column: str | None = None
    key_column: str | None = None
    root: str | None = None
    null_separated: bool = False


class PathSource:
    """Images named by paths: see [`list_items`]."""

    def __init__(
        self,
        paths: Sequence[str | os.PathLike],
        options: SourceOptions | None = None,
        on_skipped: Callable[[str], None] | None = None,
    ) -> None:
        self.paths = [os.fspath(path) for path in paths]
        self.options = options or SourceOptions()
        self.on_skipped = on_skipped

    @property
    def reads_stdin(self) -> bool:
        """Whether it can be gone through only once."""
        return STDIN in self.paths

    def items(self) -> Iterator[Item]:
        """List the images."""
        return list_items(self.paths, self.options, self.on_skipped)

    def identity(self) -> dict[str, Any]:
        """What must be the same for a run to go on."""
        relative = any(not os.path.isabs(path) for path in self.paths)
        folder = os.getcwd() if relative else None
        paths = [display_path(path) for path in self.paths]
        return {"paths": paths, "folder": folder, "options": asdict(self.options)}


def list_items(
    paths: Iterable[str | os.PathLike],
    options: SourceOptions | None = None,
    on_skipped: Callable[[str], None] | None = None,
) -> Iterator[Item]:
    """List the images of files, folders (recursively), glob patterns, tables, tar shards and standard input, in order.

    A folder comes in the order of its names and is entered once, however many symbolic links lead to it. One that
    cannot be listed gives an item with an `error`.

    Args:
        paths: a pattern is what holds `*`, `?` or `[` and is not itself a file; `-` is standard input; what ends in
            `.csv`, `.tsv`, `.jsonl` or `.parquet` is a table with a column of paths, and in `.tar` a WebDataset shard.
        options: how tables and standard input are read.
        on_skipped: called with the path of every file in a folder that is passed over for its extension.

    Raises:
        ValueError: for a table without a column of paths.
    """
    from .shards import list_shard
    from .tables import TABLE_EXTENSIONS, read_table

    options = options or SourceOptions()
    entered: set[tuple[int, int]] = set()
    for path in paths:
        if os.fspath(path) == STDIN:
            yield from _read_lines(sys.stdin.buffer, b"\0" if options.null_separated else b"\n")
            continue
        for match in expand(path):
            extension = Path(match).suffix.lower()
            if extension in TABLE_EXTENSIONS and os.path.isfile(match):
                yield from read_table(match, options)
            elif extension == ".tar" and os.path.isfile(match):
                yield from list_shard(match)
            else:
                yield from _walk(match, entered, on_skipped)


def expand(path: str | os.PathLike) -> list[str]:
    """Files that a glob pattern matches, sorted; a path that is no pattern stands for itself."""
    text = os.fspath(path)
    if os.path.lexists(text) or not glob.has_magic(text):
        return [text]
    return sorted(glob.glob(text, recursive=True))


def _walk(path: str, entered: set[tuple[int, int]], on_skipped: Callable[[str], None] | None) -> Iterator[Item]:
    pending = [path]  # a stack instead of recursion: folders may be nested deeper than Python recurses
    while pending:
        found = pending.pop()
        if os.path.isdir(found):
            try:
                status = os.stat(found)
                if (status.st_dev, status.st_ino) not in entered:
                    entered.add((status.st_dev, status.st_ino))
                    pending.extend(os.path.join(found, name) for name in sorted(os.listdir(found), reverse=True))
            except OSError as error:
                yield Item(display_path(found), error=f"The folder cannot be listed. {describe_error(error)}")
        elif found == path or Path(found).suffix.lower() in IMAGE_EXTENSIONS:
            yield Item.from_file(found)
        elif on_skipped is not None:
            on_skipped(found)


def _read_lines(stream: BinaryIO, separator: bytes) -> Iterator[Item]:
    rest = b""
    while block := stream.read1(1 << 16):  # type: ignore[attr-defined]
        *lines, rest = (rest + block).split(separator)
        yield from _items_of_lines(lines)
    yield from _items_of_lines([rest])


def _items_of_lines(lines: Iterable[bytes]) -> Iterator[Item]:
    for line in lines:
        if path := line.removesuffix(b"\r"):
            yield Item.from_file(os.fsdecode(path))
