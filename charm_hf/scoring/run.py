"""A whole run: list the images, score them chunk by chunk, keep the progress, write the table, choose from it."""

from __future__ import annotations

import logging
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, Any

from ..choosing.choice import Choice, Chosen, choose
from ..choosing.delivery import Delivered, Delivery, Photo, deliver, name_of_copy
from ..files import replaced_file
from ..models.checkpoint_charm import describe_provenance
from ..tables import check_output
from .batching import Chunk, chunk_items
from .engine import Scorer
from .items import Item, Items
from .known import KnownRows
from .progress import Listing, Progress
from .ranks import Ranks
from .rows import ScoreRow, table_columns
from .sinks import open_table
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
        choice: which rows are chosen. A table in a file stays whole, and the chosen rows go into another one
            beside it (see [`chosen_file`]); a stream gets them, and the rows without a score.
        delivery: what is done with the images of the chosen rows.
        prune: drop the rows of photos that are not among the images any more.
    """

    distribution: bool = False
    provenance: bool = False
    choice: Choice = field(default_factory=Choice)
    delivery: Delivery = field(default_factory=Delivery)
    prune: bool = False

    @property
    def only_scores(self) -> bool:
        """Whether nothing is chosen, copied or rated."""
        return self.choice.takes_all and self.delivery.does_nothing


@dataclass
class Summary:
    """What a run did.

    Attributes:
        images: rows that the source gave.
        failed: those without a score; the first few stand in `failures`.
        failures: rows, one for each reason.
        reasons: how many have the reason of each of `failures`.
        resumed: rows that an interrupted run had already finished.
        unchanged: rows of an earlier run that were used again, of photos that have not changed.
        changed: photos that have changed since an earlier run, or had no score in it.
        vanished: rows of an earlier run whose photos are not among the images any more.
        other_model: whether the earlier run's rows were dropped, because another model or way of scoring gave them.
        chosen, delivered: what was chosen, and done with it; `None` if nothing was asked for.
    """

    images: int = 0
    failed: int = 0
    failures: list[ScoreRow] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    resumed: int = 0
    unchanged: int = 0
    changed: int = 0
    vanished: int = 0
    other_model: bool = False
    chosen: Chosen | None = None
    delivered: Delivered | None = None

    @staticmethod
    def reason(row: ScoreRow) -> str:
        """Why a row has no score, without the photo's name."""
        return (row.error or "").replace(repr(row.path), "it")

    def note(self, rows: Iterable[ScoreRow], known: KnownRows | None = None) -> Iterator[ScoreRow]:
        """Count rows as they pass."""
        for row in rows:
            self.images += 1
            before = known.row(row.path) if known else None
            if before is not None:
                same = row.stamp == before.stamp and before.error is None
                self.unchanged, self.changed = self.unchanged + same, self.changed + (not same)
            if row.error is not None:
                self.failed += 1
                reason = self.reason(row)
                if reason not in self.reasons and len(self.failures) < _FAILURES_KEPT:
                    self.failures.append(row)
                if reason in self.reasons or self.failures[-1] is row:
                    self.reasons[reason] += 1
            yield row


def write_table(
    rows: Iterable[ScoreRow],
    file: Path | IO[str],
    table: TableOptions,
    scorer: Scorer,
    *,
    keyed: bool,
    group: int = ROW_GROUP,
) -> None:
    """Write rows of a scorer, so many at a time."""
    wanted = {"key": keyed, "distribution": table.distribution, "embedding": scorer.options.embeddings}
    requested = [name for name in wanted if wanted[name]]
    origin = {name: value or "" for name, value in describe_provenance(scorer.model).items()}
    constants = origin if table.provenance else {}
    rows = iter(rows)
    with open_table(file, table_columns(*requested), constants, origin) as write:
        while some := list(islice(rows, group)):
            write(some)


def chosen_file(output: Path) -> Path:
    """The table of the chosen rows beside the whole one: `scores.chosen.csv` for `scores.csv`."""
    return output.with_name(f"{output.stem}.chosen{output.suffix}")


def _choose(
    rows: Sequence[ScoreRow], items: Callable[[], Iterable[Item]], table: TableOptions, summary: Summary
) -> list[ScoreRow]:
    """Choose among scored images, act on the chosen ones, and give their rows."""
    files = [item.file for item in items()] if not table.choice.takes_all else []
    known = [vars(row) for row in rows]
    chosen = choose(known, table.choice, lambda place: Path(file) if (file := _at(files, place)) else None)
    wanted = chosen.ranks if not table.delivery.reject_rest else {place: None for place in range(len(rows))}
    photos = (
        Photo(known[place], name_of_copy(item.file or item.path, item.key), _content(item), chosen.ranks.get(place))
        for place, item in enumerate(items() if not table.delivery.does_nothing else ())
        if place in wanted and rows[place].score is not None
    )
    scores = [row.score for row in rows if row.score is not None]
    summary.chosen, summary.delivered = chosen, deliver(photos, table.delivery, scores, len(chosen.places))
    return [rows[place] for place in chosen.places]


def _at(files: Sequence[str | None], place: int) -> str | None:
    return files[place] if place < len(files) else None  # a row that was kept has no image any more


def _content(item: Item) -> Path | bytes | None:
    """The image as a file or encoded; `None` for pixels and for what cannot be read any more."""
    if item.file is not None:
        return Path(item.file)
    try:
        content = item.read()
    except (OSError, ValueError):
        return None
    return content.get("bytes") if isinstance(content, dict) else None


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


def _share(
    progress: Progress, images: Items, finished: dict[int, int], ranks: Ranks, known: KnownRows
) -> Iterator[Chunk]:
    """Every n-th of the unfinished chunks."""
    start = 0
    while start in finished:
        start = finished[start]
    unfinished = (chunk for chunk in chunk_items(images.items(start), start) if chunk.start not in finished)
    for chunk in islice(unfinished, ranks.rank, None, ranks.count):
        known.restore(chunk)
        progress.restore(chunk)
        yield chunk


def _score_chunks(
    progress: Progress,
    images: Items,
    scorer: Scorer,
    finished: dict[int, int],
    ranks: Ranks,
    known: KnownRows,
    on_progress: ProgressCallback,
) -> None:
    """Score this process's share of the chunks that are not finished."""
    done = _count(finished)
    on_progress(done, images.count)
    saved_at = time.monotonic()
    with stopping_on_signals() as stopping:
        for chunk in scorer.run(_share(progress, images, finished, ranks, known), stopping):
            if chunk.complete or stopping() or time.monotonic() - saved_at > SAVE_SECONDS:
                progress.save(chunk)
                saved_at = time.monotonic()
            if chunk.complete:
                done = done + len(chunk.items) if ranks.count == 1 else _count(progress.finished())
            on_progress(done + (0 if chunk.complete else len(chunk.finished)), images.count)
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

    The same call goes on where an interrupted one stopped, and ends with the same table. After a finished one it
    scores what is new or has changed (see [`KnownRows`]); rows of photos that are not there any more stay at the end.

    Args:
        source: the images.
        scorer: model, processor and options.
        output: `.csv`, `.jsonl` or `.parquet`; replaced at the end, not before.
        table: what is written.
        restart: throw the progress of an interrupted run away, and what a finished one found out.
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
        identity = scorer.identity()
        known = KnownRows(output, identity, forget=restart or source.stays)
        if ranks.is_main:
            progress.open({"images": source.identity(), **identity}, restart)
            if progress.write_down(source).count == 0:
                progress.close()
                raise ValueError(f"Found no images in {source}.")
        ranks.wait()
        images = progress.written_down(source)
        finished = progress.finished()
        ranks.wait()  # until here nobody may finish a chunk, or the processes would disagree on what is left
        summary.resumed = _count(finished)
        scorer.expect(None if images.count is None else images.count - summary.resumed)
        _score_chunks(progress, images, scorer, finished, ranks, known, on_progress)
        ranks.wait()
        if ranks.is_main:
            _finish(progress, images, scorer, output, table, summary, known)
            if not source.stays:
                known.write(_all_rows(progress, known, table))
            progress.close()
    finally:
        if ranks.is_main:
            progress.release()
    return summary


def _all_rows(progress: Progress, known: KnownRows, table: TableOptions) -> Iterator[ScoreRow]:
    """The rows of the images, then those of photos that are gone."""
    yield from progress.rows()
    if known and not table.prune:
        yield from known.others(row.path for row in progress.rows())


def _finish(
    progress: Progress,
    images: Items,
    scorer: Scorer,
    output: Path,
    table: TableOptions,
    summary: Summary,
    known: KnownRows,
) -> None:
    """Write the whole table, then choose from it."""
    summary.other_model = known.other_model
    summary.vanished = sum(1 for _ in known.others(row.path for row in progress.rows())) if known else 0
    for _ in summary.note(progress.rows(), known):
        pass
    with replaced_file(output) as draft:
        write_table(_all_rows(progress, known, table), draft, table, scorer, keyed=images.keyed)
    if not table.only_scores:
        chosen = _choose(list(_all_rows(progress, known, table)), images.items, table, summary)
        if not table.choice.takes_all:
            with replaced_file(chosen_file(output)) as draft:
                write_table(chosen, draft, table, scorer, keyed=images.keyed)


def score_to_stream(
    source: Source,
    scorer: Scorer,
    stream: IO[str],
    table: TableOptions | None = None,
    *,
    on_progress: ProgressCallback = lambda finished, count: None,
) -> Summary:
    """Score the images of a source and write CSV to a stream as rows become known; nothing is kept to resume from.

    What is chosen, copied or rated waits until all are scored.

    Raises:
        ValueError: if the source has no image.
        ScoringInterrupted: after SIGINT or SIGTERM.
    """
    table, summary = table or TableOptions(), Summary()
    with _counted(source) as images, stopping_on_signals() as stopping:
        if images.count == 0:
            raise ValueError(f"Found no images in {source}.")
        scorer.expect(images.count)
        on_progress(0, images.count)

        kept: list[tuple[ScoreRow, Item]] = []

        def followed() -> Iterator[ScoreRow]:
            for place, pair in enumerate(scorer.score_pairs(chunk_items(images.items()), stopping), start=1):
                on_progress(place, images.count)
                kept.extend([] if table.only_scores else [pair])
                yield pair[0]

        def chosen() -> Iterator[ScoreRow]:
            rows = list(summary.note(followed()))
            if not stopping():
                yield from _choose(rows, lambda: (item for _, item in kept), table, summary)
                yield from (row for row in rows if row.score is None)

        rows = summary.note(followed()) if table.choice.takes_all else chosen()
        write_table(rows, stream, table, scorer, keyed=images.keyed, group=1)
        if table.choice.takes_all and not table.only_scores and not stopping():
            _choose([row for row, _ in kept], lambda: (item for _, item in kept), table, summary)
        if stopping():
            raise ScoringInterrupted(stopping.signal_number)
    if summary.images == 0:
        raise ValueError(f"Found no images in {source}.")
    return summary
