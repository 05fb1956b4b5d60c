"""A whole run: list the images, score them chunk by chunk, keep the progress, and write the table at the end."""

from __future__ import annotations

import logging
import signal
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice, repeat
from pathlib import Path
from typing import IO, Any

from ..files import replaced_file
from ..models.checkpoint_charm import describe_provenance
from .batching import Chunk, chunk_items
from .engine import Scorer
from .items import Item, Items
from .progress import Listing, Progress
from .ranks import Ranks
from .rows import ScoreRow, describe_error, table_columns
from .selection import Selection, copy_photo, write_rating
from .sinks import check_output, open_table
from .sources import Source


logger = logging.getLogger(__name__)

# The rows of an unfinished chunk are saved this often.
SAVE_SECONDS = 30.0
ROW_GROUP = 8192
_FAILURES_KEPT = 20

ProgressCallback = Callable[[int, "int | None"], None]
"""Called with the number of finished images, and of all where it is known."""


class ScoringInterrupted(KeyboardInterrupt):
    """A run was asked to stop, has finished its batch and saved its rows.

    Attributes:
        signal_number: what asked for it.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"Stopped by {signal.Signals(signal_number).name}.")
        self.signal_number = signal_number


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


@dataclass(frozen=True)
class TableOptions:
    """What is written for the scored images.

    Args:
        distribution: add the column `distribution`.
        provenance: add columns that tell where the scores come from (see `describe_provenance`).
        selection: which rows are kept.
        copy_to: copy the images of the kept rows there.
        write_xmp: write a rating beside the images of the kept rows, or beside their copies.
    """

    distribution: bool = False
    provenance: bool = False
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


def _deliver(row: ScoreRow, normalized_score: float, item: Item, table: TableOptions) -> bool:
    """Copy and rate an image; gives whether no other program's sidecar was in the way."""
    try:
        photo = item.file if table.copy_to is None else copy_photo(item, table.copy_to)
        return not table.write_xmp or photo is None or write_rating(photo, normalized_score)
    except (FileNotFoundError, PermissionError) as error:  # it was there when it was scored
        logger.warning("%s: neither copied nor rated. %s", row.path, describe_error(error))
        return True


def write_table(
    pairs: Iterable[tuple[ScoreRow, Item | None]],
    file: Path | IO[str],
    table: TableOptions,
    summary: Summary,
    scorer: Scorer,
    *,
    keyed: bool = False,
    group: int = ROW_GROUP,
) -> None:
    """Write the selected rows of a scorer, so many at a time; copy and rate their images."""
    wanted = {"key": keyed, "distribution": table.distribution, "embedding": scorer.options.embeddings}
    requested = [name for name in wanted if wanted[name]]
    origin = describe_provenance(scorer.model) if table.provenance else {}
    constants = {name: value or "" for name, value in origin.items()}
    kept = iter(table.selection.apply(summary.note(pairs)))
    with open_table(file, table_columns(*requested), constants) as write:
        while rows := list(islice(kept, group)):
            for row, item in rows:
                if item is not None and row.normalized_score is not None and table.needs_images:
                    summary.sidecars_kept += not _deliver(row, row.normalized_score, item, table)
            write([row for row, _ in rows])


@contextmanager
def _counted(source: Source) -> Iterator[Items]:
    """The images of a source, gone through once to count them where they can be gone through again."""
    if source.stays or source.once:
        yield source
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Listing.write(Path(folder) / "listing.jsonl", source.items())


def _count(finished: dict[int, int]) -> int:
    return sum(end - start for start, end in finished.items())


def _share(progress: Progress, images: Items, finished: dict[int, int], ranks: Ranks) -> Iterator[Chunk]:
    """Every n-th of the unfinished chunks."""
    start = 0
    while start in finished:
        start = finished[start]
    unfinished = (chunk for chunk in chunk_items(images.items(start), start) if chunk.start not in finished)
    for chunk in islice(unfinished, ranks.rank, None, ranks.count):
        progress.restore(chunk)
        yield chunk


def _score_chunks(
    progress: Progress,
    images: Items,
    scorer: Scorer,
    finished: dict[int, int],
    ranks: Ranks,
    on_progress: ProgressCallback,
) -> None:
    """Score this process's share of the chunks that are not finished."""
    known = _count(finished)
    on_progress(known, images.count)
    saved_at = time.monotonic()
    with stopping_on_signals() as stopping:
        for chunk in scorer.run(_share(progress, images, finished, ranks), stopping):
            if chunk.complete or stopping() or time.monotonic() - saved_at > SAVE_SECONDS:
                progress.save(chunk)
                saved_at = time.monotonic()
            if chunk.complete:
                known = known + len(chunk.items) if ranks.count == 1 else _count(progress.finished())
            on_progress(known + (0 if chunk.complete else len(chunk.finished)), images.count)
        if stopping():
            raise ScoringInterrupted(stopping.signal_number)


def score_to_table(
    source: Source,
    scorer: Scorer,
    output: Path,
    table: TableOptions | None = None,
    *,
    restart: bool = False,
    ranks: Ranks | None = None,
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
        ranks: the processes that share the work.
        on_progress: called as images are finished.

    Raises:
        ValueError: if the source has no image, or the file name another ending.
        JobMismatchError: if an interrupted run was of other images, another model or other options.
        DamagedProgressError: if an interrupted run cannot be taken up, because its progress was changed.
        ScoringInterrupted: after SIGINT or SIGTERM; the progress is saved.
        OSError: if the disk is full; the progress so far is saved.
    """
    check_output(output)
    table, ranks, summary, progress = table or TableOptions(), ranks or Ranks(), Summary(), Progress(output)
    try:
        if ranks.is_main:
            progress.open({"images": source.identity(), **scorer.identity()}, restart)
            if progress.write_down(source).count == 0:
                progress.close()
                raise ValueError(f"Found no images in {source}.")
        ranks.wait()
        images = progress.written_down(source)
        finished = progress.finished()
        ranks.wait()  # until here nobody may finish a chunk, or the processes would disagree on what is left
        summary.resumed = _count(finished)
        scorer.expect(None if images.count is None else images.count - summary.resumed)
        _score_chunks(progress, images, scorer, finished, ranks, on_progress)
        ranks.wait()
        if ranks.is_main:
            items: Iterable[Item | None] = images.items() if table.needs_images else repeat(None)
            pairs = zip(progress.rows(), items)  # noqa: B905, endless
            with replaced_file(output) as draft:
                write_table(pairs, draft, table, summary, scorer, keyed=images.keyed)
            progress.close()
    finally:
        if ranks.is_main:
            progress.release()
    return summary


def score_to_stream(
    source: Source,
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
    with _counted(source) as images, stopping_on_signals() as stopping:
        if images.count == 0:
            raise ValueError(f"Found no images in {source}.")
        scorer.expect(images.count)

        def followed() -> Iterator[tuple[ScoreRow, Item]]:
            for place, pair in enumerate(scorer.score_pairs(chunk_items(images.items()), stopping), start=1):
                on_progress(place, images.count)
                yield pair

        write_table(followed(), stream, table, summary, scorer, keyed=images.keyed, group=1)
        if stopping():
            raise ScoringInterrupted(stopping.signal_number)
    if summary.images == 0:
        raise ValueError(f"Found no images in {source}.")
    return summary
