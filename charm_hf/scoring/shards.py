"""Images inside WebDataset tar shards: listed by reading headers, later read by their offset from any process."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from .rows import describe_error, display_path
from .sources import IMAGE_EXTENSIONS, Item


@dataclass(frozen=True)
class TarMember:
    """Where an image lies in an uncompressed tar file, in bytes."""

    shard: str
    offset: int
    size: int

    def read(self) -> bytes:
        """Read the image file.

        Raises:
            ValueError: if the shard ends before the image does.
        """
        with open(self.shard, "rb") as file:
            file.seek(self.offset)
            content = file.read(self.size)
        if len(content) < self.size:
            raise ValueError(f"The shard is cut off: {len(content):,} of the image's {self.size:,} bytes are there.")
        return content


def list_shard(shard: str) -> Iterator[Item]:
    """List the images of a WebDataset shard in the order in which they lie there.

    The key of an image is its name up to the first dot after the last slash, as WebDataset has it. Members that are
    not named like images (labels, captions) belong to the same samples and are passed over.
    """
    name = display_path(shard)
    last = "its beginning"
    try:
        with tarfile.open(shard, "r:", errors="surrogateescape") as tar:
            while (member := tar.next()) is not None:
                last = repr(member.name)
                path = PurePosixPath(member.name)
                if member.isfile() and path.suffix.lower() in IMAGE_EXTENSIONS:
                    image = TarMember(shard, member.offset_data, member.size)
                    yield Item(f"{name}/{display_path(member.name)}", image, key=display_path(_sample_key(path)))
                tar.members = []  # type: ignore[attr-defined]  # tarfile would remember every member
            damaged = not _ends_here(shard, tar.offset)
    except (tarfile.TarError, OSError, EOFError) as error:
        yield Item(name, error=f"The shard cannot be read. {describe_error(error)}")
        return
    if damaged:
        yield Item(name, error=f"The shard is damaged after {last}: what follows is not listed.")


def _sample_key(path: PurePosixPath) -> str:
    return os.path.join(*path.parts[:-1], path.name.split(".", 1)[0])


def _ends_here(shard: str, offset: int) -> bool:
    """Whether a tar file really ends where `tarfile` stopped reading; damage in the middle stops it silently too."""
    with open(shard, "rb") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(offset)
        return offset == end or not any(file.read(tarfile.BLOCKSIZE))
