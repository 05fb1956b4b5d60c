"""Which images are worked on together: neighbours in a source form a chunk, and images of a chunk form batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from tempfile import TemporaryDirectory
from threading import Lock

from .items import Item
from .rows import ScoreRow


# Images that are grouped into batches together. Batches never depend on anything outside their chunk, so that a run
# that was interrupted forms the same ones.
CHUNK_IMAGES = 512
# A chunk of images that come as content instead of by path ends earlier, so that memory stays bounded.
CHUNK_BYTES = 128 * 1024 * 1024
# Of the tokens of a batch, at most this share is padding.
MAX_PADDING = 0.1


class Chunk:
    """Neighbouring items of a source and their rows, as far as they are scored.

    Args:
        start: place of the first item in the source.
        items: in order.
    """

    def __init__(self, start: int, items: Sequence[Item]) -> None:
        self.start = start
        self.items = items
        self.rows = [ScoreRow(item.path, key=item.key) for item in items]
        self.finished: set[int] = set()
        self.reused: set[int] = set()  # scored by an earlier run
        self._folder: TemporaryDirectory | None = None
        self._lock = Lock()

    @property
    def end(self) -> int:
        """Place after the last item in the source."""
        return self.start + len(self.items)

    @property
    def complete(self) -> bool:
        """Whether every item has its row."""
        return len(self.finished) == len(self.items)

    def folder_of_files(self) -> str:
        """Where images are put that are fetched for this chunk."""
        with self._lock:
            self._folder = self._folder or TemporaryDirectory(prefix="charm-hf-")
            return self._folder.name

    def forget_files(self) -> None:
        """Remove them."""
        if self._folder is not None:
            self._folder.cleanup()

    def finish(self, place: int, row: ScoreRow) -> None:
        """Set the row of an item."""
        self.rows[place] = row
        self.finished.add(place)

    def reuse(self, place: int, row: ScoreRow) -> None:
        """Set the row of an item that an earlier run scored: it takes part in no batch."""
        self.finish(place, row)
        self.reused.add(place)


def chunk_items(items: Iterable[Item], start: int = 0) -> Iterator[Chunk]:
    """Cut a stream of items into chunks; where depends on the items alone."""
    chunk: list[Item] = []
    size = 0
    for item in items:
        chunk.append(item)
        size += item.num_bytes
        if len(chunk) == CHUNK_IMAGES or size >= CHUNK_BYTES:
            yield Chunk(start, chunk)
            start, chunk, size = start + len(chunk), [], 0
    if chunk:
        yield Chunk(start, chunk)


def plan_batches(lengths: Sequence[int], token_budget: int, max_images: int | None = None) -> list[list[int]]:
    """Group sequences into batches, longest first, each of them padded to its longest.

    A batch is closed before it would exceed the budget, hold more than `max_images`, or consist of more than
    `MAX_PADDING` padding. A sequence longer than the budget is a batch of its own.

    Args:
        lengths: tokens of each image.
        token_budget: largest number of tokens in a batch, padding included.
        max_images: most images in a batch; no limit if not given.

    Returns:
        Indices into `lengths`; each exactly once.
    """
    batches: list[list[int]] = []
    total = 0
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batches:
            size = len(batches[-1]) + 1
            padded = size * lengths[batches[-1][0]]
            fits = padded <= token_budget and padded - total - lengths[index] <= MAX_PADDING * padded
            if fits and (max_images is None or size <= max_images):
                batches[-1].append(index)
                total += lengths[index]
                continue
        batches.append([index])
        total = lengths[index]
    return batches
