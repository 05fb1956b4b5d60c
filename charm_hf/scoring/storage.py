"""Files wherever fsspec reaches: `s3://`, `gs://`, `hf://`, `https://`, `memory://`, and gzip'd ones anywhere."""

from __future__ import annotations

import errno
import glob
import gzip
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, BinaryIO, TypeVar, cast

from ..files import replaced_file
from ..models.image_urls_charm import is_url


GZIPPED = (".gz", ".tgz")
# Seconds between attempts: a store that is overloaded asks for patience, and is given it.
PAUSES = (0.5, 1.0, 2.0, 4.0)

T = TypeVar("T")


def is_remote(path: Any) -> bool:
    """Whether a path names something elsewhere: `scheme://…`."""
    return isinstance(path, str) and "://" in path


def _locate(url: str) -> tuple[Any, str]:
    """The filesystem of a URL, and its path there."""
    import fsspec

    try:
        return fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise ValueError(f"{url!r} cannot be reached: {' '.join(str(error).split())}") from error


def _patiently(attempt: Callable[[], T], url: str) -> T:
    """Do something with a remote file, several times if it fails for a reason that may pass.

    Raises:
        FileNotFoundError, PermissionError: at once.
        OSError: after the last attempt, whatever the store's client raised.
    """
    for pause in (*PAUSES, None):
        try:
            return attempt()
        except FileNotFoundError:
            raise FileNotFoundError(errno.ENOENT, "There is no such object", url) from None
        except PermissionError:
            raise
        except Exception as error:  # clients raise their own kinds for a lost connection
            if pause is None:
                raise OSError(f"{url!r} cannot be read: {error or type(error).__name__}") from error
            time.sleep(pause)
    raise AssertionError


def read_remote(url: str, start: int | None = None, end: int | None = None) -> bytes:
    """Content of a remote file, or its bytes from `start` to before `end`."""
    files, path = _locate(url)
    return _patiently(lambda: files.cat_file(path, start=start, end=end), url)


def read_range(path: str, offset: int, length: int) -> bytes:
    """Some bytes of a file, of what is in it if it is gzip'd; fewer where it ends before."""
    if path.lower().endswith(GZIPPED):
        with _unzipping:  # two threads that want the same shard unzip it once
            unzipped = _unzipped(path, None if is_remote(path) else os.stat(path).st_mtime_ns)
        return os.pread(unzipped.fileno(), length, offset)  # the name holds the file open while it is read
    if is_remote(path):
        return read_remote(path, offset, offset + length)
    with open(path, "rb") as file:
        file.seek(offset)
        return file.read(length)


_unzipping = threading.Lock()


@lru_cache(maxsize=2)
def _unzipped(path: str, changed: int | None) -> IO[bytes]:
    """What is in a gzip'd file, whose members can be read in any order then; kept for the last two files."""
    unzipped = tempfile.TemporaryFile()  # noqa: SIM115, closed when it is forgotten
    with open_file(path) as file:
        shutil.copyfileobj(file, unzipped, 1 << 20)
    unzipped.flush()
    return unzipped


@contextmanager
def open_file(path: str) -> Iterator[BinaryIO]:
    """Open a file to read what is in it, decompressed if it is gzip'd."""
    if is_remote(path):
        files, place = _locate(path)
        file = _patiently(lambda: files.open(place, "rb"), path)
    else:
        file = open(path, "rb")  # noqa: SIM115, closed below
    with file:
        if path.lower().endswith(GZIPPED):
            with gzip.open(file) as unzipped:
                yield cast(BinaryIO, unzipped)
        else:
            yield file


@contextmanager
def local_copy(path: str) -> Iterator[str]:
    """Path of a local file as it is; of a remote one, a copy for as long as it is needed."""
    if not is_remote(path):
        yield path
        return
    files, place = _locate(path)
    with tempfile.TemporaryDirectory() as folder:
        copy = os.path.join(folder, os.path.basename(place.partition("?")[0]))
        _patiently(lambda: files.get_file(place, copy), path)
        yield copy


def list_remote(url: str) -> list[str]:
    """Files that a remote pattern or folder names, sorted; any other URL stands for itself.

    Raises:
        ValueError: if there is nothing, or no such store.
    """
    if is_url(url):
        return [url]  # the web has no folders, and its `?` is no pattern
    files, path = _locate(url)
    if glob.has_magic(path):
        found = _patiently(lambda: files.glob(path), url)
    elif _patiently(lambda: files.isdir(path), url):
        found = _patiently(lambda: files.find(path), url)
    else:
        return [url]
    if not found:
        raise ValueError(f"Found no images: there is nothing at {url!r}.")
    return [files.unstrip_protocol(name) for name in sorted(found)]


@contextmanager
def written(path: str) -> Iterator[Path]:
    """Give a local path to write to; when the block ends, that file takes its place, here or in a store."""
    if not is_remote(path):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with replaced_file(path) as draft:
            yield draft
        return
    files, place = _locate(path)
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder) / "draft"
        yield draft
        _patiently(lambda: files.put_file(str(draft), place), path)
