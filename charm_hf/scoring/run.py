"""A whole run: list the images, score them chunk by chunk, keep the progress, and write the table at the end."""

from __future__ import annotations

import logging
import signal
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice, repeat
from pathlib import Path
from typing import IO, Any, Protocol

from .engine import Chunk, Scorer, chunk_items
from .job import Job, replace_durably
from .listing import Listing
from .processes import Processes
from .provenance import identify
from .rows import COLUMNS, ScoreRow, describe_error
from .selection import Selection, copy_photo, write_rating
from .sinks import TableWriter, check_format
from .sources import Item, PathSource


logger = logging.getLogger(__name__)

# The rows of an unfinished chunk are saved this often.
SAVE_SECONDS = 30.0
ROW_GROUP = 8192
_FAILURES_KEPT = 20


class ScoringInterrupted(KeyboardInterrupt):
    """A run was asked to stop, has finished its batch and saved its rows.

    Attributes:
        signal_number: what asked for it.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"Stopped by {signal.Signals(signal_number).name}.")
        self.signal_number = signal_number


class Items(Protocol):
    """Images that can be gone through from any place on, such as a [`Listing`]."""

    @property
    def count(self) -> int | None:
        """How many there are, where that is known."""

    @property
    def keyed(self) -> bool:
        """Whether they have keys."""

    def items(self, start: int = 0) -> Iterator[Item]:
        """Go through the images from a place on."""


class ItemSource(Items, Protocol):
    """Images that can be gone through again in another process, such as a [`DatasetSource`]."""

    def identity(self) -> dict[str, Any]:
        """What must be the same for a run to go on."""


@dataclass(frozen=True)
class TableOptions:
    """What is written for the scored images.

    Args:
        distribution: add the column `distribution`.
        provenance: columns that are the same for every row, such as the checkpoint's revision.
        selection: which rows are kept.
        copy_to: copy the images of the kept rows there.
        write_xmp: write a rating beside the images of the kept rows, or beside their copies.
    """

    distribution: bool = False
    provenance: dict[str, str] = field(default_factory=dict)
    selection: Selection = field(default_factory=Selection)
    copy_to: Path | None = None
    write_xmp: bool = False

    @property
    def needs_images(self) -> bool:
        """Whether the images are needed again after they are scored."""
        return self.copy_to is not None or self.write_xmp


@dataclass
class Summary:
    """What a run did.

    Attributes:
        images: rows that the source gave.
        failed: those without a score; the first few stand in `failures`.
        failures: rows.
        resumed: rows that an interrupted run had already finished.
        sidecars_kept: ratings that were not written, because another program's sidecar was there.
    """

    images: int = 0
    failed: int = 0
    failures: list[ScoreRow] = field(default_factory=list)
    resumed: int = 0
    sidecars_kept: int = 0

    def note(self, pairs: Iterable[tuple[ScoreRow, Any]]) -> Iterator[tuple[ScoreRow, Any]]:
        """Count rows as they pass."""
        for row, item in pairs:
            self.images += 1
            if row.error is not None:
                self.failed += 1
                if len(self.failures) < _FAILURES_KEPT:
                    self.failures.append(row)
            yield row, item


ProgressCallback = Callable[[int, "int | None"], None]
"""Called with the number of finished images, and of all where it is known."""


def score_to_table(
    source: PathSource | ItemSource,
    scorer: Scorer,
    output: Path,
    table: TableOptions | None = None,
    *,
    restart: bool = False,
    processes: Processes | None = None,
    on_progress: ProgressCallback = lambda finished, count: None,
) -> Summary:
    """Score the images of a source into a file, resumably.

    The same call goes on where an interrupted one stopped, and ends with the same table.

    Args:
        source: the images.
        scorer: model, processor and options.
        output: `.csv`, `.jsonl` or `.parquet`; replaced at the end, not before.
        table: what is written.
        restart: throw the progress of an interrupted run away.
        processes: those that share the work.
        on_progress: called as images are finished.

    Raises:
        ValueError: if the source has no image, or the file name another ending.
        JobMismatchError: if an interrupted run was of other images, another model or other options.
        ScoringInterrupted: after SIGINT or SIGTERM; the progress is saved.
        OSError: if the disk is full; the progress so far is saved.
    """
    table, processes = table or TableOptions(), processes or Processes()
    check_format(output)
    job = Job(output)
    summary = Summary()
    try:
        if processes.is_main:
            job.open(identify(source, scorer), restart)
            job.drop_damaged_parts()
            if isinstance(source, PathSource):
                _require_images(job.list(source), source, job)
        processes.wait()
        listed: Items = job.listing() if isinstance(source, PathSource) else source
        finished = job.finished()
        processes.wait()  # until here nobody may finish a chunk, or the processes would disagree on what is left
        summary.resumed = sum(end - start for start, end in finished.items())
        scorer.expect(None if listed.count is None else listed.count - summary.resumed)
        _score_chunks(job, listed, scorer, finished, processes, on_progress)
        processes.wait()
        if processes.is_main:
            items: Iterable[Item | None] = listed.items() if table.needs_images else repeat(None)
            draft = output.with_name(f".{output.name}.draft{output.suffix}")
            try:
                write_table(zip(job.rows(), items), draft, table, summary, keyed=listed.keyed)  # noqa: B905, endless
                replace_durably(draft, output)
            finally:
                draft.unlink(missing_ok=True)
            job.close()
    finally:
        if processes.is_main:
            job.release()
    return summary


def score_to_stream(
    source: PathSource | ItemSource,
    scorer: Scorer,
    stream: IO[str],
    table: TableOptions | None = None,
    *,
    on_progress: ProgressCallback = lambda finished, count: None,
) -> Summary:
    """Score the images of a source and write CSV to a stream as rows become known; nothing is kept to resume from.

    Raises:
        ValueError: if the source has no image.
        ScoringInterrupted: after SIGINT or SIGTERM.
    """
    table, summary = table or TableOptions(), Summary()
    with _listed(source) as (items, count, keyed), stopping_on_signals() as stopping:
        scorer.expect(count)

        def counted() -> Iterator[tuple[ScoreRow, Item]]:
            for place, pair in enumerate(scorer.score_pairs(chunk_items(items), stopping), start=1):
                on_progress(place, count)
                yield pair

        write_table(counted(), stream, table, summary, keyed=keyed, group=1)
        if stopping():
            raise ScoringInterrupted(stopping.signal_number)
    if summary.images == 0:
        raise ValueError("Found no images.")
    return summary


@contextmanager
def _listed(source: PathSource | ItemSource) -> Iterator[tuple[Iterator[Item], int | None, bool]]:
    """Items, their number where it is known, and whether they have keys."""
    if not isinstance(source, PathSource):
        yield source.items(), source.count, source.keyed
    elif source.reads_stdin:
        yield source.items(), None, source.options.key_column is not None
    else:
        with tempfile.TemporaryDirectory() as folder:
            listing = Listing.write(Path(folder) / "listing.jsonl", source.items())
            _require_images(listing, source)
            yield listing.items(), listing.count, listing.keyed


def _require_images(listing: Listing, source: PathSource, job: Job | None = None) -> None:
    if listing.count == 0:
        if job is not None:
            job.close()
        raise ValueError(f"Found no images in {', '.join(map(repr, source.paths))}.")


def _score_chunks(
    job: Job,
    source: Items,
    scorer: Scorer,
    finished: dict[int, int],
    processes: Processes,
    on_progress: ProgressCallback,
) -> None:
    """Score this process's share of the chunks that are not finished."""
    known = done_before = sum(end - start for start, end in finished.items())
    on_progress(done_before, source.count)
    saved_at = time.monotonic()
    with stopping_on_signals() as stopping:
        for chunk in scorer.run(_share(job, source, finished, processes), stopping):
            overdue = time.monotonic() - saved_at > SAVE_SECONDS
            if chunk.complete or overdue or stopping():
                job.save(chunk)
                saved_at = time.monotonic()
            if chunk.complete:
                known += len(chunk.items)
            if processes.count > 1:
                known = sum(end - start for start, end in job.finished().items()) if chunk.complete else known
            on_progress(known + (0 if chunk.complete else len(chunk.finished)), source.count)
        if stopping():
            raise ScoringInterrupted(stopping.signal_number)


def _share(job: Job, source: Items, finished: dict[int, int], processes: Processes) -> Iterator[Chunk]:
    """Every n-th of the unfinished chunks."""
    start = 0
    while start in finished:
        start = finished[start]
    unfinished = (chunk for chunk in chunk_items(source.items(start), start) if chunk.start not in finished)
    for chunk in islice(unfinished, processes.rank, None, processes.count):
        job.restore(chunk)
        yield chunk


def write_table(
    pairs: Iterable[tuple[ScoreRow, Item | None]],
    file: Path | IO[str],
    table: TableOptions,
    summary: Summary,
    *,
    keyed: bool = False,
    group: int = ROW_GROUP,
) -> None:
    """Write the selected rows, copies and ratings."""
    kept = iter(table.selection.apply(summary.note(pairs)))
    with TableWriter(file, columns_of(table, keyed), table.provenance) as writer:
        while rows := list(islice(kept, group)):
            for row, item in rows:
                if item is not None and row.score is not None and table.needs_images:
                    _deliver(row, item, table, summary)
            writer.write([row for row, _ in rows])


def columns_of(table: TableOptions, keyed: bool = False) -> Sequence[str]:
    """Columns of a table that come from its rows."""
    columns = list(COLUMNS)
    if keyed:
        columns.insert(1, "key")
    return [*columns, *(["distribution"] if table.distribution else [])]


def _deliver(row: ScoreRow, item: Item, table: TableOptions, summary: Summary) -> None:
    assert row.normalized_score is not None
    try:
        photo: Any = item.image if table.copy_to is None else copy_photo(item, table.copy_to)
        if table.write_xmp and isinstance(photo, (str, Path)):
            summary.sidecars_kept += not write_rating(photo, row.normalized_score)
    except (FileNotFoundError, PermissionError) as error:  # it was there when it was scored
        logger.warning("%s: neither copied nor rated. %s", row.path, describe_error(error))


class _Stopping:
    """Whether a signal asked to stop; a second one stops at once."""

    def __init__(self) -> None:
        self.signal_number = 0

    def __call__(self) -> bool:
        return self.signal_number != 0

    def handle(self, number: int, frame: Any) -> None:
        if self.signal_number:
            raise KeyboardInterrupt
        self.signal_number = number


@contextmanager
def stopping_on_signals() -> Iterator[_Stopping]:
    """Turn SIGINT and SIGTERM into a wish to stop after the running batch."""
    stopping = _Stopping()
    previous = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, stopping.handle)
    except ValueError:  # not in the main thread: whoever runs there handles signals
        pass
    try:
        yield stopping
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


__all__ = ["ScoringInterrupted", "Summary", "TableOptions", "score_to_stream", "score_to_table"]
