"""One queue for the images of all clients: tokenized in worker processes, scored in common batches."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram

from ..scoring.engine import Scorer
from ..scoring.items import Item
from ..scoring.rows import ScoreRow, describe_error
from ..scoring.tokenizing import Measured, Tokens
from ..scoring.workers import TokenizingProcesses


_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


@dataclass(frozen=True)
class _Waiting:
    """An image whose tokens wait for the model."""

    views: list[Tokens]
    num_tokens: int
    answer: asyncio.Future[dict[str, Any]]


class SharedBatches:
    """Scores images of many clients in common batches, while [`SharedBatches.running`].

    Args:
        scorer: model, processor and options; a batch is what its token budget holds.
        max_pixels: of an image; beyond, it gets an error in place of a score.
        num_workers: processes that decode and tokenize; 0 does it in threads.
        registry: takes the metrics.

    Attributes:
        waiting: images that have no answer yet.
    """

    def __init__(self, scorer: Scorer, max_pixels: int, num_workers: int, registry: CollectorRegistry) -> None:
        self.scorer = scorer
        self.max_pixels = max_pixels
        self.waiting = 0
        self._tokenizer = scorer.tokenizer(as_numpy=False)
        self._processes = TokenizingProcesses(self._tokenizer, num_workers)
        self._readers = ThreadPoolExecutor(2 * max(num_workers, 2))  # photos in memory that are not tokens yet
        self._model_thread = ThreadPoolExecutor(1)
        self._ready: list[_Waiting] = []
        self._arrived = asyncio.Event()
        self._seconds_an_image = 0.1
        self._images = Counter("charm_images", "Images answered.", ["outcome"], registry=registry)
        self._batches = Histogram("charm_batch_images", "Images of a batch.", buckets=_SIZES, registry=registry)

    @property
    def ready(self) -> int:
        """Images whose tokens wait for the model."""
        return len(self._ready)

    @property
    def seconds_ahead(self) -> float:
        """Time that the images which wait will take, as the last batch went."""
        return self.waiting * self._seconds_an_image

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Answer as long as the block lasts."""
        self._processes.start()
        batches = asyncio.create_task(self._score_batches())
        try:
            yield
        finally:
            batches.cancel()
            self._readers.shutdown(cancel_futures=True)  # they wait for processes, so these end after them
            self._processes.close()
            self._model_thread.shutdown()

    async def score(self, names: Sequence[str], reads: Sequence[Callable[[], bytes]]) -> list[ScoreRow]:
        """Score images by their names and what gives their content; what is wrong with one stands in its `error`."""
        self.waiting += len(names)
        try:
            return await asyncio.gather(*map(self._score, names, reads))
        finally:
            self.waiting -= len(names)

    async def _score(self, name: str, read: Callable[[], bytes]) -> ScoreRow:
        loop = asyncio.get_running_loop()
        row, views = await loop.run_in_executor(self._readers, self._tokenize, name, read)
        if views is not None:
            waiting = _Waiting(views, row.tokens or 0, loop.create_future())
            self._ready.append(waiting)
            self._arrived.set()
            row.update(await waiting.answer)
        self._images.labels("scored" if row.error is None else "failed").inc()
        return row

    def _tokenize(self, name: str, read: Callable[[], bytes]) -> tuple[ScoreRow, list[Tokens] | None]:
        """The row without a score, and the tokens; its error and none if there are none."""
        try:
            measured = self._checked(self.scorer.measure(Item(name, read())))
        except ValueError as error:  # it could not be fetched
            return ScoreRow(name, error=str(error)), None
        row, views = measured.to_row(), None
        if measured.error is None:
            _, views, row.error = self._processes.tokenize((0, measured))
        return row, views

    def _checked(self, measured: Measured) -> Measured:
        pixels = (measured.width or 0) * (measured.height or 0)
        if pixels <= self.max_pixels:
            return measured
        return replace(measured, error=f"{pixels:,} pixels are more than the limit of {self.max_pixels:,}.")

    async def _score_batches(self) -> None:
        """Form batches of what is there, for ever; the image that waits longest is in the next."""
        while await self._arrived.wait():
            self._ready = [entry for entry in self._ready if not entry.answer.done()]  # else its client has left
            if not self._ready:
                self._arrived.clear()
                continue
            batches = self.scorer.plan_batches([entry.num_tokens for entry in self._ready])
            chosen = set(next(batch for batch in batches if 0 in batch))
            batch = [entry for place, entry in enumerate(self._ready) if place in chosen]
            self._ready = [entry for place, entry in enumerate(self._ready) if place not in chosen]
            await self._answer(batch)

    async def _answer(self, batch: list[_Waiting]) -> None:
        start = time.monotonic()
        try:
            answers = await asyncio.get_running_loop().run_in_executor(self._model_thread, self._forward, batch)
        except Exception as error:  # such as a GPU out of memory: the next batch may fit
            answers = [{"error": f"The model failed. {describe_error(error)}"}] * len(batch)
        self._seconds_an_image = (time.monotonic() - start) / len(batch)
        self._batches.observe(len(batch))
        for entry, answer in zip(batch, answers, strict=True):
            if not entry.answer.done():
                entry.answer.set_result(answer)

    def _forward(self, batch: Sequence[_Waiting]) -> list[dict[str, Any]]:
        collated = self._tokenizer.collate([(place, entry.views, None) for place, entry in enumerate(batch)])
        assert collated.inputs is not None
        return self.scorer.answer(collated.inputs)
