"""How a file or a folder is replaced, whole or not at all, and how a process keeps others out.

What is being written lies beside its place under a name that begins with `.tmp-`. It is brought to the disk and
renamed when it is whole. A process that is killed leaves its `.tmp-` behind, and nothing else.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout


TEMPORARY_PREFIX = ".tmp-"


@contextmanager
def replaced_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a path to write to; when the block ends, that file takes the place of `path`.

    If the block raises, `path` stays as it was and what was written is removed. Several processes may replace the same
    file at once: the last one wins.

    Raises:
        IsADirectoryError: if `path` is a folder.
        OSError: if the folder cannot be written to, or the disk is full.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"Expected the path of a file to write, {os.fspath(path)!r} is a folder.")
    # The random part is short, and the name cut, because file systems end names at 255 bytes.
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{uuid.uuid4().hex[:12]}-{path.name[-50:]}")
    try:
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync(path.parent)


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Digest of a file's content, as 64 digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def write_bytes(path: str | os.PathLike[str], content: bytes | memoryview) -> None:
    """Write a file that is never seen half written; errors as of `replaced_file`."""
    with replaced_file(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write UTF-8 as it is, line ends included, into a file that is never seen half written."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """Write JSON into a file that is never seen half written."""
    write_text(path, json.dumps(content, indent=2) + "\n")


@contextmanager
def replaced_folder(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """Give an empty folder to write into; when the block ends, it takes the place of `folder`.

    If the block raises, `folder` stays as it was and what was written is removed. Only one process at a time may
    replace a folder; what a killed one left is overwritten by the next.
    """
    temporary = start_folder(folder)
    try:
        yield temporary
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    commit_folder(folder)


def start_folder(folder: str | os.PathLike[str]) -> Path:
    """Make `temporary_folder(folder)`, empty: for processes that write into one folder together."""
    temporary = temporary_folder(folder)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    return temporary


def temporary_folder(folder: str | os.PathLike[str]) -> Path:
    """Where the content of `folder` is written before it is whole; the same for every process."""
    folder = Path(folder)
    return folder.with_name(f"{TEMPORARY_PREFIX}{folder.name}")


def commit_folder(folder: str | os.PathLike[str]) -> None:
    """Bring `temporary_folder(folder)` to the disk and give it its name; an older folder of that name goes away."""
    folder, temporary = Path(folder), temporary_folder(folder)
    for path in [*temporary.rglob("*"), temporary]:
        _sync(path)
    old = _take_name(folder) if folder.exists() else None
    os.replace(temporary, folder)
    _sync(folder.parent)
    if old is not None:
        shutil.rmtree(old)


def remove_folder(folder: str | os.PathLike[str]) -> None:
    """Delete a folder so that a process that dies meanwhile never leaves part of it under its name."""
    shutil.rmtree(_take_name(Path(folder)))


def remove_leftovers(folder: str | os.PathLike[str], name: str | None = None) -> None:
    """Remove what killed processes left in a folder, or left there of one file; only for who has that alone."""
    of_file = "*" if name is None else f"{'?' * 12}-{glob.escape(name[-50:])}"
    for leftover in Path(folder).glob(f"{TEMPORARY_PREFIX}{of_file}"):
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()


class Lock:
    """Keeps other processes out until it is released, this object is gone, or this process ends.

    The file stays for good: unlinked, it would be one file for those that wait and another for those that come.

    Args:
        path: the lock's file; made if it does not exist, in a folder that does.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._lock = FileLock(os.fspath(path))

    def acquire(self, patience: float | None = 0.0) -> Lock:
        """Take the lock.

        Args:
            patience: seconds to wait for another process; `None` waits as long as it takes.

        Raises:
            BlockingIOError: if another process still holds it.
        """
        try:
            self._lock.acquire(timeout=-1 if patience is None else patience)
        except Timeout:
            raise BlockingIOError(f"Another process holds {os.fspath(self.path)!r}.") from None
        return self

    def release(self) -> None:
        """Let another process go on; nothing happens if the lock is not held."""
        self._lock.release()

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def _take_name(folder: Path) -> Path:
    """Take a folder's name away in one step; gives where its content is now."""
    nameless = folder.with_name(f"{TEMPORARY_PREFIX}old-{folder.name}")
    shutil.rmtree(nameless, ignore_errors=True)
    os.replace(folder, nameless)
    return nameless


def _sync(path: Path) -> None:
    if os.name == "nt" and path.is_dir():  # Windows cannot open a folder
        return
    descriptor = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
