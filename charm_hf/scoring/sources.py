"""Where images come from: every source becomes a stream of items in a fixed order."""

from __future__ import annotations

import fnmatch
import glob
import os
import re
import sys
import tarfile
import zlib
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from ..models.image_formats_charm import IMAGE_EXTENSIONS
from ..models.image_urls_charm import is_url
from ..tables import TABLE_SUFFIXES, Table, escape_bytes, find_column
from .items import Item, Items
from .rows import describe_error
from .storage import is_remote, list_remote, local_copy, open_file


SHARD_SUFFIXES = (".tar", ".tar.gz", ".tgz")
STDIN = "-"

# Folders in which programs keep smaller versions of the photos beside them, and what they have thrown away.
_JUNK_FOLDERS = ("@eadir", ".thumbnails", "*.lrdata", "__macosx", "$recycle.bin", "#recycle", ".trash*")

SkippedCallback = Callable[[str, str], None]
"""Called with the path of every file of a folder or pattern that is passed over, and what kind of file it is."""


@dataclass(frozen=True)
class SourceOptions:
    """How sources are read.

    Args:
        path_column: column of a table, or image column of a dataset; found by its usual names if not given.
        key_column: column whose values become the keys of the rows.
        root: folder that relative paths in a table start from; the table's own folder if not given.
        null_separated: paths on standard input end with a zero byte instead of a newline.
        split: of a dataset; `train` if not given and there are several.
        streaming: read a dataset from the Hub as it goes instead of downloading it first.
        exclude: patterns, such as `*_edited*` or `drafts`: what a folder or pattern holds under such a name is passed
            over; so is what lies in a folder of such a name. A pattern with a slash is one of paths inside.
        include: patterns; where there are any, only files are taken that one of them fits.
    """

    path_column: str | None = None
    key_column: str | None = None
    root: str | None = None
    null_separated: bool = False
    split: str | None = None
    streaming: bool = False
    exclude: tuple[str, ...] = ()
    include: tuple[str, ...] = ()

    def passed_over(self, inside: str, matched: bool) -> str | None:
        """Why a file is not taken, by its path inside the folder or pattern that was named; `None` for one to take.

        One that was `matched` by a pattern may have any ending.
        """
        parts = inside.split(os.sep)
        if any(_fits(part.lower(), _JUNK_FOLDERS) for part in parts[:-1]):
            return "in folders of thumbnails and bins"
        if any(part.startswith(".") for part in parts):
            return "hidden"
        ending = Path(parts[-1]).suffix.lower()
        if ending not in IMAGE_EXTENSIONS and not matched:
            return ending or "no extension"
        if any(_fits(name, self.exclude) for name in (inside, *parts)):
            return "--exclude"
        taken = not self.include or any(_fits(name, self.include) for name in (inside, parts[-1]))
        return None if taken else "not --include"


class Source(Items):
    """Images to score, which another process or a later run can find again.

    Attributes:
        stays: whether they can be gone through again, from any place on, and are the same then. Of what does not stay
            a run keeps a [`Listing`].
        once: whether they can be gone through only once.
    """

    stays = False
    once = False

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What must be the same for a run to go on."""


def _fits(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def list_shard(shard: str, options: SourceOptions) -> Iterator[Item]:
    """List the images of a WebDataset tar shard, gzip'd or not, in the order in which they lie there, by its headers.

    The key of an image is its name up to the first dot after the last slash, as WebDataset has it. Members that are
    not named like images (labels, captions) belong to the same samples and are passed over.
    """
    name = escape_bytes(shard)
    last = "its beginning"
    try:
        with open_file(shard) as file, tarfile.open(fileobj=file, mode="r:", errors="surrogateescape") as tar:
            while (member := tar.next()) is not None:
                last = repr(member.name)
                path = PurePosixPath(member.name)
                if member.isfile() and path.suffix.lower() in IMAGE_EXTENSIONS:
                    key = os.path.join(*path.parts[:-1], path.name.split(".", 1)[0])
                    span = (member.offset_data, member.size)
                    yield Item(f"{name}/{escape_bytes(member.name)}", shard, key=escape_bytes(key), span=span)
                tar.members = []  # type: ignore[attr-defined]  # tarfile would remember every member
            file.seek(tar.offset)  # damage in the middle stops tarfile as silently as the end does
            damaged = any(file.read(tarfile.BLOCKSIZE))
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        yield Item(name, error=f"The shard cannot be read. {describe_error(error)}")
        return
    if damaged:
        yield Item(name, error=f"The shard is damaged after {last}: what follows is not listed.")


def list_table(file: str, options: SourceOptions) -> Iterator[Item]:
    """List the images that a table names, row by row.

    The table calls an image what the column says; relative paths start from `options.root` or the table's own folder.
    A row without a path gives an item with an `error`.

    Raises:
        ValueError: if the table has no such column, or is not what its name says.
    """
    with local_copy(file) as copy:
        yield from _list_rows(Table(copy), file, options)


def _list_rows(table: Table, file: str, options: SourceOptions) -> Iterator[Item]:
    root = options.root if options.root is not None else os.path.dirname(file)
    column = find_column(table.names, "path", repr(file), options.path_column, "--path-column")
    wanted = [column] if options.key_column is None else [column, options.key_column]
    for number, row in enumerate(table.rows(wanted), start=1):
        key = None if options.key_column is None else str(row.get(options.key_column))
        path = row.get(column)
        if isinstance(path, (bytes, dict)):
            raise ValueError(f"{file!r} holds images itself: score it alone, or by a pattern of only such files.")
        if not isinstance(path, str) or not path:
            yield Item(f"{escape_bytes(file)}#{number}", key=key, error=f"Row {number} has no path in {column!r}.")
        else:
            yield Item(escape_bytes(path), path if is_remote(path) else os.path.join(root, path), key=key)


# Files that list or hold several images, by their extension.
_READERS: dict[str, Callable[[str, SourceOptions], Iterator[Item]]] = {
    **dict.fromkeys(TABLE_SUFFIXES, list_table),
    **dict.fromkeys(SHARD_SUFFIXES, list_shard),
}


def _find_reader(path: str) -> Callable[[str, SourceOptions], Iterator[Item]] | None:
    found = next((read for suffix, read in _READERS.items() if path.lower().endswith(suffix)), None)
    return found if is_remote(path) or os.path.isfile(path) else None


def expand_shards(paths: Iterable[str]) -> list[str]:
    """The shards that paths and patterns name, in order.

    Raises:
        ValueError: if one of them is no shard.
    """
    found = [match for path in paths for match in expand_pattern(path)]
    for match in found:
        if not match.lower().endswith(SHARD_SUFFIXES):
            raise ValueError(f"Only shards can be written back as shards, {match!r} is none.")
    return found


def _items_of_lines(lines: Iterable[bytes]) -> Iterator[Item]:
    for line in lines:
        if path := line.removesuffix(b"\r"):
            yield Item.from_file(os.fsdecode(path))


def _read_lines(stream: BinaryIO, separator: bytes) -> Iterator[Item]:
    rest = b""
    while block := stream.read1(1 << 16):  # type: ignore[attr-defined]
        *lines, rest = (rest + block).split(separator)
        yield from _items_of_lines(lines)
    yield from _items_of_lines([rest])


def _walk(
    path: str, pattern: str, entered: set[tuple[int, int]], options: SourceOptions, on_skipped: SkippedCallback | None
) -> Iterator[Item]:
    """Files of a folder, or the file itself, which was named or matched by a pattern."""
    base = path if path == pattern else re.split(r"[*?[]", pattern)[0].rpartition(os.sep)[0]
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
                yield Item(escape_bytes(found), error=f"The folder cannot be listed. {describe_error(error)}")
            continue
        inside = found[len(base) :].lstrip(os.sep)
        reason = options.passed_over(inside, matched=found == path) if inside else None
        if reason is None:
            yield Item.from_file(found)
        elif on_skipped is not None:
            on_skipped(found, reason)


def expand_pattern(path: str | os.PathLike) -> list[str]:
    """Files that a glob pattern matches, sorted; a path that is no pattern stands for itself."""
    text = os.fspath(path)
    if is_remote(text) and not is_url(text):
        found = list_remote(text)
        is_folder = found != [text] and not glob.has_magic(text)
        return [name for name in found if Path(name).suffix.lower() in IMAGE_EXTENSIONS] if is_folder else found
    if os.path.lexists(text) or is_url(text) or not glob.has_magic(text):
        return [text]
    return sorted(glob.glob(text, recursive=True))


def list_items(
    paths: Iterable[str | os.PathLike],
    options: SourceOptions | None = None,
    on_skipped: SkippedCallback | None = None,
) -> Iterator[Item]:
    """List the images of files, folders (recursively), glob patterns, tables, tar shards and standard input, in order.

    A folder comes in the order of its names and is entered once, however many symbolic links lead to it. One that
    cannot be listed gives an item with an `error`. What is hidden, and what programs keep in their own folders beside
    photos, is passed over, unless it is what was named.

    Args:
        paths: a pattern is what holds `*`, `?` or `[` and is not itself a file; `-` is standard input; what ends in
            `.csv`, `.tsv`, `.jsonl` or `.parquet` is a table with a column of paths, in `.tar`, `.tar.gz` or `.tgz` a
            WebDataset shard. Each may be remote, `scheme://…`, wherever fsspec reaches.
        options: how tables and standard input are read.
        on_skipped: see [`SkippedCallback`].

    Raises:
        ValueError: for a table without a column of paths.
    """
    options = options or SourceOptions()
    entered: set[tuple[int, int]] = set()
    for path in paths:
        if os.fspath(path) == STDIN:
            yield from _read_lines(sys.stdin.buffer, b"\0" if options.null_separated else b"\n")
            continue
        for match in expand_pattern(path):
            if (read := _find_reader(match)) is not None:
                yield from read(match, options)
            else:
                yield from _walk(match, os.fspath(path), entered, options, on_skipped)


class PathSource(Source):
    """Images named by paths: see [`list_items`]."""

    def __init__(
        self,
        paths: Sequence[str | os.PathLike],
        options: SourceOptions | None = None,
        on_skipped: SkippedCallback | None = None,
    ) -> None:
        self.paths = [os.fspath(path) for path in paths]
        self.options = options or SourceOptions()
        self.on_skipped = on_skipped
        self.keyed = self.options.key_column is not None
        self.once = STDIN in self.paths

    def __str__(self) -> str:
        return ", ".join(map(repr, self.paths))

    def items(self, start: int = 0) -> Iterator[Item]:
        """List the images."""
        return islice(list_items(self.paths, self.options, self.on_skipped), start, None)

    def identity(self) -> dict[str, Any]:
        """The paths, where they start, and how they are read."""
        relative = any(not (os.path.isabs(path) or is_remote(path)) for path in self.paths)
        folder = os.getcwd() if relative else None
        paths = [escape_bytes(path) for path in self.paths]
        return {"paths": paths, "folder": folder, "options": asdict(self.options)}


class Part(Source):
    """Every n-th image of a source, for n independent runs that share it.

    Args:
        whole: the source.
        number: which part, from 1 on.
        of: how many parts.

    Raises:
        ValueError: if there is no such part.
    """

    def __init__(self, whole: Source, number: int, of: int) -> None:
        if not 1 <= number <= of:
            raise ValueError(f"Parts go from 1/{of} to {of}/{of}, got {number}/{of}.")
        self.whole, self.number, self.of = whole, number, of
        self.keyed, self.stays, self.once = whole.keyed, whole.stays, whole.once
        self.count = None if whole.count is None else len(range(number - 1, whole.count, of))

    def __str__(self) -> str:
        return f"part {self.number}/{self.of} of {self.whole}"

    def items(self, start: int = 0) -> Iterator[Item]:
        """List the images of the part."""
        return islice(self.whole.items(self.number - 1 + start * self.of), 0, None, self.of)

    def identity(self) -> dict[str, Any]:
        """Those of the source, and which part."""
        return {**self.whole.identity(), "part": [self.number, self.of]}
