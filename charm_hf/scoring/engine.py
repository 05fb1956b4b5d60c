"""Items in, rows out: images are measured, grouped, tokenized in worker processes and scored, a chunk at a time."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from itertools import chain
from multiprocessing import get_context
from typing import Any

import torch
from PIL import Image
from torch.utils.data import DataLoader

from .batching import plan_batches
from .comments import CommentedProcessor
from .rows import ScoreRow, round_value
from .sources import Item
from .tokenizing import BatchTokenizer, Measured, TokenBatch, measure


logger = logging.getLogger(__name__)

# Images that are grouped into batches together. Batches never depend on anything outside their chunk, so that a run
# that was interrupted forms the same ones.
CHUNK_IMAGES = 512
# A chunk of images that come as content instead of by path ends earlier, so that memory stays bounded.
CHUNK_BYTES = 128 * 1024 * 1024

_HEADER_THREADS = 4
_FEW_IMAGES = 128
_TOKEN_BUDGETS = {"cpu": 8192, "cuda": 65536}


@dataclass(frozen=True)
class ScoringOptions:
    """How images are scored; everything here but `num_workers` may change the numbers in the table.

    Args:
        token_budget: most tokens in a batch, padding included; 8,192 on a CPU and 65,536 on a GPU if not given.
        batch_size: most images in a batch; no limit if not given.
        num_views: score this many random selections of an image's high-resolution regions and average.
        reduced_decoding: decode large JPEG files at a fraction of their size where their pixels would be thrown away
            anyway.
        processor: other parameters of the image processor, such as `patch_selection` and `seed`.
        num_workers: processes that decode and tokenize; 0 does it in this process, `None` decides by the number of
            images and cores.
    """

    token_budget: int | None = None
    batch_size: int | None = None
    num_views: int = 1
    reduced_decoding: bool = True
    processor: dict[str, Any] = field(default_factory=dict)
    num_workers: int | None = 0

    def __post_init__(self) -> None:
        for name in ("token_budget", "batch_size", "num_views"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}.")
        if self.num_workers is not None and self.num_workers < 0:
            raise ValueError(f"`num_workers` must be at least 0, got {self.num_workers}.")

    @property
    def processor_parameters(self) -> dict[str, Any]:
        """What the image processor is called with."""
        return {"reduced_decoding": self.reduced_decoding, **self.processor}


class Chunk:
    """Neighbouring items of a source and their rows, as far as they are scored.

    Args:
        start: place of the first item in the source.
        items: in order.
        finished: rows known from an earlier run, by place in the chunk.
    """

    def __init__(self, start: int, items: Sequence[Item], finished: dict[int, ScoreRow] | None = None) -> None:
        self.start = start
        self.items = items
        self.rows: list[ScoreRow] = [ScoreRow(item.path, key=item.key) for item in items]
        self.finished: set[int] = set()
        for place, row in (finished or {}).items():
            self.finish(place, row)

    @property
    def end(self) -> int:
        """Place after the last item in the source."""
        return self.start + len(self.items)

    @property
    def complete(self) -> bool:
        """Whether every item has its row."""
        return len(self.finished) == len(self.items)

    def finish(self, place: int, row: ScoreRow) -> None:
        """Set the row of an item."""
        self.rows[place] = row
        self.finished.add(place)


def chunk_items(items: Iterable[Item], start: int = 0) -> Iterator[Chunk]:
    """Cut a stream of items into chunks; where depends on the items alone."""
    chunk: list[Item] = []
    size = 0
    for item in items:
        chunk.append(item)
        size += _content_size(item.image)
        if len(chunk) == CHUNK_IMAGES or size >= CHUNK_BYTES:
            yield Chunk(start, chunk)
            start, chunk, size = start + len(chunk), [], 0
    if chunk:
        yield Chunk(start, chunk)


def _content_size(image: Any) -> int:
    if isinstance(image, dict):
        image = image.get("bytes")
    if isinstance(image, (bytes, bytearray)):
        return len(image)
    if hasattr(image, "nbytes"):
        return int(image.nbytes)
    return 3 * image.width * image.height if isinstance(image, Image.Image) else 0


class Scorer:
    """A model and its processor, ready to score many images.

    Args:
        model: a [`CharmForAestheticScoring`] or [`MmlqForAestheticScoring`], on the device and in the dtype to use.
        processor: its [`CharmImageProcessor`], or its [`MmlqProcessor`] as a [`CommentedProcessor`].
        options: how to score.
    """

    def __init__(self, model: Any, processor: Any, options: ScoringOptions | None = None) -> None:
        self.model = model.eval()
        self.processor = processor
        self.options = options or ScoringOptions()
        self.token_budget = self.options.token_budget or _TOKEN_BUDGETS.get(model.device.type, _TOKEN_BUDGETS["cpu"])
        self.num_workers = self.options.num_workers or 0
        processor.num_tokens(64, 64, **self.options.processor_parameters)  # raises for parameters out of range

    def expect(self, count: int | None) -> None:
        """Decide on the number of worker processes, now that the number of images is known, or known not to be."""
        if self.options.num_workers is None:
            self.num_workers = default_workers(count)

    def score(self, items: Iterable[Item]) -> Iterator[ScoreRow]:
        """Yield one row an item, in the order of the items and as soon as the rows before it are there."""
        return (row for row, _ in self.score_pairs(chunk_items(items)))

    def score_pairs(
        self, chunks: Iterable[Chunk], stopping: Callable[[], bool] = lambda: False
    ) -> Iterator[tuple[ScoreRow, Item]]:
        """Yield rows with their items, in order."""
        given = 0
        for chunk in self.run(chunks, stopping):
            while given in chunk.finished:
                yield chunk.rows[given], chunk.items[given]
                given += 1
            given = 0 if chunk.complete else given

    def run(self, chunks: Iterable[Chunk], stopping: Callable[[], bool] = lambda: False) -> Iterator[Chunk]:
        """Fill chunks with rows, in their order.

        Yields a chunk after each of its batches, the last time when it is complete. Ends after the running batch when
        `stopping` says so.
        """
        started: deque[Chunk] = deque()

        def planned() -> Iterator[list[tuple[int, Item]]]:
            for chunk, batches in _one_ahead(self._prepare(chunk) for chunk in chunks):
                started.append(chunk)
                yield from ([(place, chunk.items[place]) for place in batch] for batch in batches)

        for batch in self._tokenized(planned(), stopping):
            while started[0].complete:  # a chunk without a readable image has no batch to wait for
                yield started.popleft()
            chunk = started[0]
            self._fill(chunk, batch)
            yield started.popleft() if chunk.complete else chunk
            if stopping():
                return
        yield from (chunk for chunk in started if chunk.complete)

    def _prepare(self, chunk: Chunk) -> tuple[Chunk, list[list[int]]]:
        """Measure the images of a chunk and plan its batches; those that are already scored are left out."""
        if isinstance(self.processor, CommentedProcessor):
            self.processor.note(chunk.items)
        parameters = self.options.processor_parameters
        with ThreadPoolExecutor(_HEADER_THREADS) as pool:
            measured = list(pool.map(lambda item: measure(item, self.processor, parameters), chunk.items))
        batches = self._plan(measured)
        for place, entry in enumerate(measured):
            if place in chunk.finished:
                continue
            chunk.rows[place] = entry.to_row()
            if entry.error is not None:
                chunk.finish(place, entry.to_row())
        return chunk, [batch for batch in batches if not chunk.finished.issuperset(batch)]

    def _plan(self, measured: Sequence[Measured]) -> list[list[int]]:
        readable = [place for place, entry in enumerate(measured) if entry.tokens is not None]
        lengths = [(measured[place].tokens or 0) for place in readable]
        budget = max(1, self.token_budget // self.options.num_views)
        batches = plan_batches(lengths, budget, self.options.batch_size)
        return [[readable[index] for index in batch] for batch in batches]

    def _tokenized(
        self, batches: Iterator[list[tuple[int, Item]]], stopping: Callable[[], bool]
    ) -> Iterator[TokenBatch]:
        """Tokenize batches in order; when a worker process dies, only the image that killed it is lost."""
        underway: deque[list[tuple[int, Item]]] = deque()
        source_failed = False

        def handed_out() -> Iterator[list[tuple[int, Item]]]:
            nonlocal source_failed
            try:
                for batch in batches:
                    underway.append(batch)
                    yield batch
            except BaseException:
                source_failed = True
                raise

        while (first := next(batches, None)) is not None:  # else there is nothing to start worker processes for
            batches = chain([first], batches)
            try:
                for tokenized in self._loader(handed_out()):
                    underway.popleft()
                    yield tokenized
                return
            except RuntimeError as error:
                if source_failed or not self.num_workers:
                    raise
                time.sleep(0.5)  # a signal that ended the worker may be on its way to this process too
                if stopping():
                    return
                logger.warning("A worker process died; going on image by image where it stopped (%s).", error)
            lost = list(underway)
            underway.clear()
            yield from tokenize_guarded(self._tokenizer(), lost)

    def _tokenizer(self) -> BatchTokenizer:
        return BatchTokenizer(
            self.processor,
            self.options.processor_parameters,
            self.options.num_views,
            as_numpy=self.model.device.type == "cpu",
        )

    def _loader(self, batches: Iterable[list[tuple[int, Item]]]) -> DataLoader:
        workers = self.num_workers
        return DataLoader(
            self._tokenizer(),
            batch_sampler=batches,
            num_workers=workers,
            collate_fn=_identity,
            prefetch_factor=2 if workers else None,
            multiprocessing_context="spawn" if workers else None,
            worker_init_fn=_leave_interrupts_to_the_parent,
            pin_memory=self.model.device.type == "cuda",
            generator=torch.Generator(),  # a loader draws a seed, and must not draw it from the global generator
        )

    def _fill(self, chunk: Chunk, batch: TokenBatch) -> None:
        for place, error in batch.errors.items():
            row = chunk.rows[place]
            row.error = error
            chunk.finish(place, row)
        if batch.inputs is None:
            return
        for place, values in zip(batch.places, self._forward(batch.inputs), strict=True):
            row = chunk.rows[place]
            for name, value in values.items():
                setattr(row, name, value)
            chunk.finish(place, row)

    @torch.no_grad()
    def _forward(self, inputs: dict[str, Any]) -> list[dict[str, Any]]:
        device = self.model.device
        tensors = {name: torch.as_tensor(value).to(device, non_blocking=True) for name, value in inputs.items()}
        outputs = self.model(**tensors)
        return summarize_views(
            outputs.scores,
            outputs.normalized_scores,
            outputs.distribution,
            self.options.num_views,
            self.model.config.score_values,
        )


def default_workers(count: int | None) -> int:
    """Worker processes for so many images: one a core that this process may use, but at most eight.

    Starting them costs seconds, which few images do not repay.
    """
    if count is not None and count < _FEW_IMAGES:
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(8, cores)


def summarize_views(
    scores: torch.Tensor,
    normalized_scores: torch.Tensor,
    distribution: torch.Tensor | None,
    num_views: int,
    score_values: Sequence[float] | None,
) -> list[dict[str, Any]]:
    """Average the views of each image, in double precision, and round to the decimals that tables carry.

    Args:
        scores: (B·V,), the views of an image side by side.
        normalized_scores: (B·V,).
        distribution: (B·V, K), `None` for a regression head.
        num_views: V.
        score_values: K bin centres, `None` for a regression head.

    Returns:
        B times the fields of [`ScoreRow`] that come from the model.
    """
    views = scores.double().cpu().view(-1, num_views)
    columns: dict[str, list[Any]] = {
        "score": views.mean(1).tolist(),
        "normalized_score": normalized_scores.double().cpu().view(-1, num_views).mean(1).tolist(),
    }
    if num_views > 1:
        columns["spread"] = views.std(1).tolist()
    if distribution is not None and score_values is not None:
        mean = distribution.double().cpu().view(len(views), num_views, -1).mean(1)
        values = torch.tensor(score_values, dtype=torch.float64)
        centre = (mean @ values)[:, None]
        columns["std"] = (mean * (values - centre).square()).sum(1).clamp(min=0).sqrt().tolist()
        columns["distribution"] = mean.tolist()
    rounded = {name: [round_value(value) for value in values] for name, values in columns.items()}
    return [dict(zip(rounded, row, strict=True)) for row in zip(*rounded.values(), strict=True)]


def tokenize_guarded(tokenizer: BatchTokenizer, batches: Iterable[list[tuple[int, Item]]]) -> Iterator[TokenBatch]:
    """Tokenize batches in a process that may die; an image that kills it gets an error."""
    with _DisposableProcess() as process:
        for batch in batches:
            results = process.run(tokenizer.tokenize, batch)
            if results is None:
                results = []
                for image in batch:
                    died = [(image[0], None, "The process that decoded it died: out of memory, or a broken decoder.")]
                    results += process.run(tokenizer.tokenize, [image]) or died
            yield tokenizer.collate(results)


class _DisposableProcess:
    """A process to run functions in; replaced when it dies."""

    def __init__(self) -> None:
        self._pool: ProcessPoolExecutor | None = None

    def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Result of a function; `None` if the process died over it."""
        self._pool = self._pool or ProcessPoolExecutor(1, mp_context=get_context("spawn"))
        try:
            return self._pool.submit(function, *arguments).result()
        except BrokenProcessPool:
            self.close()
            return None

    def close(self) -> None:
        """End the process."""
        if self._pool is not None:
            self._pool.shutdown()
        self._pool = None

    def __enter__(self) -> _DisposableProcess:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _one_ahead(iterator: Iterator[Any]) -> Iterator[Any]:
    """Compute the next element in a thread while the present one is worked on."""
    with ThreadPoolExecutor(1) as pool:
        upcoming = pool.submit(next, iterator, None)
        while (element := upcoming.result()) is not None:
            upcoming = pool.submit(next, iterator, None)
            yield element


def _identity(batch: Any) -> Any:
    return batch


def _leave_interrupts_to_the_parent(worker_id: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
