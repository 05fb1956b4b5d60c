"""What a run leaves on disk while it goes on, so that it can be killed at any moment and started again.

Beside the table `scores.csv` lies the folder `scores.csv.progress`: `job.jsonl` (what the run is of), `listing.jsonl`
(its images) and `parts/` with one file of rows a finished chunk. Every file appears whole and ends with a checksum.
Nothing in it is a pickle.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

from ..files import Lock, remove_folder, remove_leftovers, replaced_file
from .batching import Chunk
from .items import Item, Items
from .rows import ScoreRow
from .sources import Source


logger = logging.getLogger(__name__)

_AGAIN = "The same command scores them again."
_ANEW = "Begin anew with --restart, or write to another file."


class JobMismatchError(ValueError):
    """An unfinished run under the same name is of something else."""


class DamagedProgressError(ValueError):
    """A file of the progress is not what was written."""


def write_lines(file: Path, lines: Iterable[str], facts: dict[str, Any]) -> None:
    """Write lines of ASCII, then one with `facts` as they are by then and a checksum of everything."""
    digest = hashlib.sha256()
    with replaced_file(file) as draft, open(draft, "wb") as stream:
        for line in lines:
            content = line.encode("ascii") + b"\n"
            digest.update(content)
            stream.write(content)
        digest.update(json.dumps(facts).encode())
        stream.write(json.dumps({**facts, "sha256": digest.hexdigest()}).encode() + b"\n")


def read_facts(file: Path, advice: str = _ANEW) -> dict[str, Any]:
    """Check a file that [`write_lines`] wrote, and give its facts.

    Raises:
        DamagedProgressError: if it is something else; the message ends with `advice`.
    """
    digest, last = hashlib.sha256(), b""
    with open(file, "rb") as lines:
        for line in lines:
            digest.update(last)
            last = line
    try:
        facts = dict(json.loads(last))
        expected = facts.pop("sha256", None)
    except (ValueError, TypeError, RecursionError):
        facts, expected = {}, None
    digest.update(json.dumps(facts).encode())
    if digest.hexdigest() != expected:
        raise DamagedProgressError(f"{str(file)!r} is damaged. {advice}")
    return facts


def _read_rows(file: Path) -> Iterator[tuple[int, ScoreRow]]:
    """Rows of a chunk with their places in it."""
    read_facts(file, _AGAIN)
    *lines, _ = file.read_bytes().splitlines()
    for place, known in map(json.loads, lines):
        yield place, ScoreRow(**known)


class Listing(Items):
    """The images of a run, written down so that they can be gone through again unchanged.

    What is held in memory does not grow with their number.

    Args:
        file: what [`Listing.write`] wrote.

    Raises:
        DamagedProgressError: if it is something else.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        facts = read_facts(file)
        self.count = facts["count"]
        self.keyed = facts["keyed"]

    @classmethod
    def write(cls, file: Path, items: Iterable[Item]) -> Listing:
        """Write items of files down."""
        facts = {"count": 0, "keyed": False}

        def lines() -> Iterator[str]:
            for item in items:
                facts["count"] += 1
                facts["keyed"] |= item.key is not None
                yield item.to_json()

        write_lines(file, lines(), facts)
        return cls(file)

    def items(self, start: int = 0) -> Iterator[Item]:
        """Go through the items from a place on."""
        with open(self.file, encoding="ascii") as lines:
            for line in islice(lines, start, self.count):
                yield Item.from_json(line)

    def equals(self, items: Iterable[Item]) -> bool:
        """Whether these are the items that were written down."""
        return all(kept == item for kept, item in zip_longest(self.items(), items))


class Progress:
    """The progress folder of one table.

    Args:
        output: the table that the run is to write.
    """

    def __init__(self, output: Path) -> None:
        self.output = output
        self.folder = output.with_name(output.name + ".progress")
        self.parts = self.folder / "parts"
        self._listing = self.folder / "listing.jsonl"
        self._lock = Lock(output.with_name(f".{output.name}.lock"))

    def open(self, identity: dict[str, Any], restart: bool = False) -> None:
        """Begin a run, or take up an unfinished one.

        Args:
            identity: JSON of everything that decides what the table holds, by topic.
            restart: throw an unfinished run away.

        Raises:
            JobMismatchError: if an unfinished run was of something else; the message says what changed.
            DamagedProgressError: if what an unfinished run was of cannot be told any more.
            BlockingIOError: if another process is writing the same table.
        """
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire()
        except BlockingIOError:
            raise BlockingIOError(f"Another process is writing {str(self.output)!r}.") from None
        remove_leftovers(self.folder.parent, self.output.name)
        for folder in (self.folder, self.parts):
            remove_leftovers(folder)
        job = self.folder / "job.jsonl"
        if self.folder.exists() and (restart or not job.exists()):
            remove_folder(self.folder)
        identity = json.loads(json.dumps(identity))
        if not job.exists():
            self.parts.mkdir(parents=True)
            write_lines(job, [], identity)
            return
        before = read_facts(job)
        changed = [topic for topic in sorted({*before, *identity}) if before.get(topic) != identity.get(topic)]
        if changed:
            raise JobMismatchError(
                f"{str(self.folder)!r} holds an unfinished run, but since then this changed: {', '.join(changed)}. "
                f"{_ANEW}"
            )
        self._drop_damaged_parts()

    def write_down(self, source: Source) -> Items:
        """Write the images of a source down, unless it keeps them itself or the unfinished run did so.

        Raises:
            JobMismatchError: if standard input names other images than in the unfinished run.
        """
        if source.stays or not self._listing.exists():
            return source if source.stays else Listing.write(self._listing, source.items())
        listing = Listing(self._listing)
        if source.once and not listing.equals(source.items()):
            raise JobMismatchError(
                f"{str(self.folder)!r} is of an unfinished run over other images than standard input names. {_ANEW}"
            )
        return listing

    def written_down(self, source: Source) -> Items:
        """The images of a source, as the main process wrote them down."""
        return source if source.stays else Listing(self._listing)

    def finished(self) -> dict[int, int]:
        """Finished chunks: place of the first item → place after the last."""
        names = (file.stem.split("-") for file in self.parts.glob("[0-9]*-*.jsonl"))
        return {int(start): int(end) for start, end in names}

    def restore(self, chunk: Chunk) -> None:
        """Give a chunk the rows that an interrupted run saved of it."""
        file = self._partial(chunk.start)
        if file.exists():
            for place, row in _read_rows(file):
                if place < len(chunk.items):
                    chunk.finish(place, row)

    def save(self, chunk: Chunk) -> None:
        """Save the rows of a chunk; of an unfinished one those that are there."""
        partial = self._partial(chunk.start)
        file = self._part(chunk.start, chunk.end) if chunk.complete else partial
        rows = ([place, chunk.rows[place].known()] for place in sorted(chunk.finished))
        write_lines(file, (json.dumps(row, allow_nan=False) for row in rows), {})
        if chunk.complete:
            partial.unlink(missing_ok=True)

    def rows(self) -> Iterator[ScoreRow]:
        """Every row, in order.

        Raises:
            DamagedProgressError: if chunks are missing or damaged.
        """
        place = 0
        for start, end in sorted(self.finished().items()):
            if start != place:
                raise DamagedProgressError(f"{str(self.parts)!r} lacks the rows {place:,} to {start:,}. {_AGAIN}")
            yield from (row for _, row in _read_rows(self._part(start, end)))
            place = end

    def close(self) -> None:
        """Remove the folder: the table is there."""
        remove_folder(self.folder)
        self.release()

    def release(self) -> None:
        """Let another process go on."""
        self._lock.release()

    def _drop_damaged_parts(self) -> None:
        """Delete files of rows that are not whole; their images are scored again."""
        for file in sorted(self.parts.glob("*.jsonl")):
            try:
                read_facts(file, "Its images are scored again.")
            except DamagedProgressError as error:
                logger.warning("%s", error)
                file.unlink()

    def _part(self, start: int, end: int) -> Path:
        return self.parts / f"{start:012d}-{end:012d}.jsonl"

    def _partial(self, start: int) -> Path:
        return self.parts / f"{start:012d}.partial.jsonl"
