"""What a run leaves on disk while it goes on, so that it can be killed at any moment and started again.

Beside the table `scores.csv` lies the folder `scores.csv.progress`: `job.json` (what the run is of), `listing.jsonl`
(its images) and `parts/` with one file of rows a finished chunk. Every file is written under another name, flushed to
the disk and renamed, so that what is there is whole; a part carries a checksum besides. Nothing in it is a pickle.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from .engine import Chunk
from .listing import Listing
from .rows import ScoreRow
from .sources import PathSource


logger = logging.getLogger(__name__)


class JobMismatchError(ValueError):
    """An unfinished run under the same name is of something else."""


class DamagedPartError(ValueError):
    """A file of rows is not what was written."""


class Job:
    """The progress folder of one table.

    Args:
        output: the table that the run is to write.
    """

    def __init__(self, output: Path) -> None:
        self.output = output
        self.folder = output.with_name(output.name + ".progress")
        self.parts = self.folder / "parts"
        self._lock = FileLock(str(self.folder) + ".lock")

    def open(self, identity: dict[str, Any], restart: bool = False) -> bool:
        """Begin a run, or take up an unfinished one.

        Args:
            identity: JSON of everything that decides what the table holds, by topic.
            restart: throw an unfinished run away.

        Returns:
            Whether an unfinished run goes on.

        Raises:
            JobMismatchError: if an unfinished run was of something else; the message says what changed.
            BlockingIOError: if another process is writing the same table.
        """
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise BlockingIOError(f"Another process is writing {str(self.output)!r}.") from None
        self._clear_rubbish()
        state = self.folder / "job.json"
        if restart:
            self._discard()
        if not state.exists():
            self.parts.mkdir(parents=True, exist_ok=True)
            write_durably(state, json.dumps(identity, indent=1, sort_keys=True).encode())
            return False
        changed = _differences(json.loads(state.read_bytes()), json.loads(json.dumps(identity)))
        if changed:
            self.release()
            raise JobMismatchError(
                f"{str(self.folder)!r} holds an unfinished run, but since then this changed: {', '.join(changed)}. "
                "Begin anew with --restart, or write to another file."
            )
        return True

    def list(self, source: PathSource) -> Listing:
        """Write the images of a source down, or take up the list of the unfinished run.

        Raises:
            JobMismatchError: if standard input names other images than in the unfinished run.
        """
        file = self.folder / "listing.jsonl"
        if not file.exists():
            return Listing.write(file, source.items())
        listing = Listing(file)
        if source.reads_stdin and not listing.equals(source.items()):
            raise JobMismatchError(
                f"{str(self.folder)!r} holds an unfinished run over other images than standard input names now. "
                "Begin anew with --restart, or write to another file."
            )
        return listing

    def listing(self) -> Listing:
        """The images that the main process wrote down."""
        return Listing(self.folder / "listing.jsonl")

    def drop_damaged_parts(self) -> None:
        """Delete files of rows that are not whole; their images are scored again."""
        for file in sorted(self.parts.glob("*.jsonl")):
            try:
                read_part(file)
            except DamagedPartError as error:
                logger.warning("%s Its images are scored again.", error)
                file.unlink()

    def finished(self) -> dict[int, int]:
        """Finished chunks: place of the first item → place after the last."""
        names = (file.stem.split("-") for file in self.parts.glob("*-*.jsonl"))
        return {int(start): int(end) for start, end in names}

    def restore(self, chunk: Chunk) -> None:
        """Give a chunk the rows that an interrupted run saved of it."""
        file = self._partial(chunk.start)
        if file.exists():
            for place, row in read_part(file).items():
                if place < len(chunk.items):
                    chunk.finish(place, row)

    def save(self, chunk: Chunk) -> None:
        """Save the rows of a chunk; of an unfinished one those that are there."""
        rows = {place: chunk.rows[place] for place in sorted(chunk.finished)}
        if not chunk.complete:
            write_part(self._partial(chunk.start), rows)
            return
        write_part(self.parts / f"{chunk.start:012d}-{chunk.end:012d}.jsonl", rows)
        self._partial(chunk.start).unlink(missing_ok=True)

    def rows(self) -> Iterator[ScoreRow]:
        """Every row, in order.

        Raises:
            DamagedPartError: if chunks are missing or damaged.
        """
        place = 0
        for start, end in sorted(self.finished().items()):
            if start != place:
                raise DamagedPartError(f"{str(self.parts)!r} lacks the rows {place:,} to {start:,}.")
            yield from read_part(self.parts / f"{start:012d}-{end:012d}.jsonl").values()
            place = end

    def close(self) -> None:
        """Remove the folder: the table is there."""
        self._discard()
        self.release()

    def release(self) -> None:
        """Let another process go on."""
        if self._lock.is_locked:
            self._lock.release()
            Path(self._lock.lock_file).unlink(missing_ok=True)

    def _partial(self, start: int) -> Path:
        return self.parts / f"{start:012d}.partial.jsonl"

    @property
    def _rubbish(self) -> Path:
        return self.folder.with_name(self.folder.name + ".done")

    def _discard(self) -> None:
        # Renamed first: a folder that is half deleted must not be taken for an unfinished run.
        if self.folder.exists():
            os.replace(self.folder, self._rubbish)
        self._clear_rubbish()

    def _clear_rubbish(self) -> None:
        shutil.rmtree(self._rubbish, ignore_errors=True)
        for draft in self.parts.glob("*.draft"):
            draft.unlink()


def write_part(file: Path, rows: dict[int, ScoreRow]) -> None:
    """Write rows by their place in the chunk, and a checksum."""
    known = {place: {k: v for k, v in row.to_dict().items() if v is not None} for place, row in rows.items()}
    lines = [json.dumps(entry) for entry in known.items()]
    body = "".join(f"{line}\n" for line in lines).encode()
    footer = json.dumps({"rows": len(lines), "sha256": hashlib.sha256(body).hexdigest()})
    write_durably(file, body + footer.encode())


def read_part(file: Path) -> dict[int, ScoreRow]:
    """Read what [`write_part`] wrote.

    Raises:
        DamagedPartError: if it is something else.
    """
    body, _, footer = file.read_bytes().rpartition(b"\n")
    try:
        expected = json.loads(footer)["sha256"]
    except (ValueError, KeyError, TypeError):
        expected = None
    body += b"\n" if body else b""
    if hashlib.sha256(body).hexdigest() != expected:
        raise DamagedPartError(f"{str(file)!r} is damaged.")
    return {place: ScoreRow(**fields) for place, fields in map(json.loads, body.splitlines())}


def write_durably(file: Path, content: bytes) -> None:
    """Write a file so that, whatever happens, it is there as a whole or not at all."""
    draft = file.with_name(file.name + ".draft")
    try:
        with open(draft, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError:
        draft.unlink(missing_ok=True)  # a full disk: do not keep it full
        raise
    replace_durably(draft, file)


def replace_durably(draft: Path, file: Path) -> None:
    """Rename a flushed file, and flush the name too where the system lets folders be flushed."""
    os.replace(draft, file)
    if os.name == "posix":
        folder = os.open(file.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    return [topic for topic in sorted({*before, *now}) if before.get(topic) != now.get(topic)]
