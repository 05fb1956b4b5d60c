"""A service that scores photos for other programs: `charm-hf serve` (needs `pip install 'charm-hf[serve]'`).

Data flow: a request's files → headers read, decoded and tokenized in worker processes → one queue for all clients →
batches by token budget → the model, in a thread → rows → answers. The steps are those of [`Scorer`], and so are the
scores.
"""

from __future__ import annotations

import asyncio
import hmac
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from typing import Annotated, Any

import torch
from fastapi import FastAPI, File, Form, HTTPException, Response, UploadFile
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from pydantic import BaseModel

from .models.checkpoint_charm import describe_provenance
from .scoring.engine import Scorer
from .scoring.items import Item
from .scoring.rows import ScoreRow
from .scoring.tokenizing import BatchTokenizer, Measured, Tokens
from .scoring.workers import begin_work
from .version import __version__


_OPEN_PATHS = ("/health",)  # asked by whoever looks after the service
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


@dataclass(frozen=True)
class ServiceLimits:
    """What one client may ask for.

    Args:
        max_bytes: of a request's body; 413 beyond.
        max_images: in a request; 413 beyond.
        max_pixels: of an image; beyond, it gets an error in place of a score.
        max_waiting: images of all clients that have no answer yet; 429 beyond.
        max_seconds: from a request's first byte to its answer; 504 beyond.
    """

    max_bytes: int = 64 * 2**20
    max_images: int = 64
    max_pixels: int = 100_000_000
    max_waiting: int = 512
    max_seconds: float = 60.0


FilesGiven = Annotated[list[UploadFile], File(description="Photos, one or many.")]
UrlsGiven = Annotated[list[str], Form(description="Photos by URL, where the service allows it.")]


class Workers:
    """Processes that decode and tokenize one image at a time.

    What a process that died was working on is tried once more, alone, so that only the image that kills is lost.

    Args:
        tokenizer: what each process gets a copy of.
        count: of processes; 0 works in threads of this one, which a decoder that crashes then takes along.
    """

    def __init__(self, tokenizer: BatchTokenizer, count: int) -> None:
        self.tokenizer = tokenizer
        self.count = count
        self._pools: dict[bool, ProcessPoolExecutor] = {}
        self._alone = asyncio.Lock()

    async def tokenize(self, measured: Measured) -> list[Tokens]:
        """Token sequences of an image's views.

        Raises:
            ValueError: for an image that cannot be decoded; the message says why.
        """
        if not self.count:
            _, views, error = (await asyncio.to_thread(self.tokenizer.tokenize, [(0, measured)]))[0]
            if views is None:
                raise ValueError(error)
            return views
        try:
            arrays, error = await self._run(_tokenize, measured)
        except BrokenProcessPool:
            async with self._alone:
                try:
                    arrays, error = await self._run(_tokenize, measured, alone=True)
                except BrokenProcessPool:
                    arrays, error = [], "The process that decoded it died: out of memory, or a broken decoder."
        if error is not None:
            raise ValueError(error)
        return [{name: torch.from_numpy(value) for name, value in view.items()} for view in arrays]

    async def start(self) -> None:
        """Start the processes, which takes seconds, before the first image comes."""
        if self.count:
            await asyncio.gather(*(self._run(time.sleep, 0.1) for _ in range(self.count)))

    async def _run(self, work: Callable[[Any], Any], argument: Any, alone: bool = False) -> Any:
        if alone not in self._pools:
            count, context = 1 if alone else self.count, get_context("spawn")
            start = partial(_take_tokenizer, self.tokenizer)
            self._pools[alone] = ProcessPoolExecutor(count, context, initializer=start)
        pool = self._pools[alone]
        try:
            return await asyncio.get_running_loop().run_in_executor(pool, work, argument)
        except BrokenProcessPool:
            if self._pools.get(alone) is pool:
                del self._pools[alone]
            pool.shutdown(wait=False)
            raise

    def close(self) -> None:
        """End the processes."""
        for pool in self._pools.values():
            pool.shutdown(cancel_futures=True)


_TOKENIZER: BatchTokenizer | None = None  # of a worker process


def _take_tokenizer(tokenizer: BatchTokenizer) -> None:
    global _TOKENIZER
    begin_work()
    torch.set_num_threads(1)
    _TOKENIZER = tokenizer


def _tokenize(measured: Measured) -> tuple[list[dict[str, Any]], str | None]:
    """Views as arrays, which travel in one piece; tensors would each hold a file descriptor open."""
    assert _TOKENIZER is not None
    _, views, error = _TOKENIZER.tokenize([(0, measured)])[0]
    return [{name: value.numpy() for name, value in view.items()} for view in views or []], error


@dataclass(frozen=True)
class _Waiting:
    """An image whose tokens wait for the model."""

    views: list[Tokens]
    num_tokens: int
    answer: asyncio.Future[dict[str, Any]]


class SharedBatches:
    """Scores images of many clients in common batches.

    Args:
        scorer: model, processor and options; a batch is what its token budget holds.
        limits: of pixels and of images that wait.
        num_workers: see [`Workers`].
        registry: takes the metrics.
    """

    def __init__(self, scorer: Scorer, limits: ServiceLimits, num_workers: int, registry: CollectorRegistry) -> None:
        self.scorer = scorer
        self.limits = limits
        self.waiting = 0
        self.workers = Workers(scorer.tokenizer(as_numpy=False), num_workers)
        self._slots = asyncio.Semaphore(2 * max(num_workers, 2))  # photos in memory that are not tokens yet
        self._ready: asyncio.Queue[_Waiting] = asyncio.Queue()
        self._model_thread = ThreadPoolExecutor(1)
        self._seconds_an_image = 0.1
        self._images = Counter("charm_images", "Images answered.", ["outcome"], registry=registry)
        self._batches = Histogram("charm_batch_images", "Images of a batch.", buckets=_SIZES, registry=registry)

    @property
    def ready(self) -> int:
        """Images whose tokens wait for the model."""
        return self._ready.qsize()

    @contextmanager
    def admitted(self, count: int) -> Iterator[None]:
        """Keep room for so many images.

        Raises:
            HTTPException: 429 where there is none, with how many seconds to wait.
        """
        self.check_room(count)
        self.waiting += count
        try:
            yield
        finally:
            self.waiting -= count

    def check_room(self, count: int = 1) -> None:
        """See [`~SharedBatches.admitted`]."""
        if self.waiting + count > self.limits.max_waiting:
            seconds = max(1, math.ceil(self.waiting * self._seconds_an_image))
            raise HTTPException(429, "Too many images are waiting.", {"Retry-After": str(seconds)})

    async def score(self, name: str, read: Callable[[], Awaitable[bytes]]) -> ScoreRow:
        """Score one image; whatever is wrong with it stands in the row's `error`."""
        row = ScoreRow(name)
        try:
            async with self._slots:
                measured = await asyncio.to_thread(self._measure, Item(name, await read()))
                row = measured.to_row()
                views = await self.workers.tokenize(measured) if measured.error is None else []
            if views:
                waiting = _Waiting(views, measured.plan.num_tokens, asyncio.get_running_loop().create_future())
                self._ready.put_nowait(waiting)
                row.update(await waiting.answer)
        except ValueError as error:
            row.error = str(error)
        self._images.labels("scored" if row.error is None else "failed").inc()
        return row

    def _measure(self, item: Item) -> Measured:
        measured = self.scorer.measure(item)
        pixels = (measured.width or 0) * (measured.height or 0)
        if pixels <= self.limits.max_pixels:
            return measured
        return replace(measured, error=f"{pixels:,} pixels are more than the limit of {self.limits.max_pixels:,}.")

    async def run(self) -> None:
        """Form batches of what is there and score them, for ever; the image that waits longest is in the next."""
        waiting: list[_Waiting] = []
        while True:
            waiting += [await self._ready.get()] if not waiting else []
            while not self._ready.empty():
                waiting.append(self._ready.get_nowait())
            waiting = [entry for entry in waiting if not entry.answer.done()]  # else its client has left
            if not waiting:
                continue
            batches = self.scorer.plan_batches([entry.num_tokens for entry in waiting])
            chosen = set(next(batch for batch in batches if 0 in batch))
            batch = [entry for place, entry in enumerate(waiting) if place in chosen]
            waiting = [entry for place, entry in enumerate(waiting) if place not in chosen]
            await self._answer(batch)

    async def _answer(self, batch: list[_Waiting]) -> None:
        start = time.monotonic()
        try:
            answers = await asyncio.get_running_loop().run_in_executor(self._model_thread, self._forward, batch)
        except RuntimeError as error:  # such as a GPU out of memory: the next batch may fit
            answers = [{"error": f"The model failed: {str(error).splitlines()[0]}"}] * len(batch)
        self._seconds_an_image = (time.monotonic() - start) / len(batch)
        self._batches.observe(len(batch))
        for entry, answer in zip(batch, answers, strict=True):
            if not entry.answer.done():
                entry.answer.set_result(answer)

    def _forward(self, batch: Sequence[_Waiting]) -> list[dict[str, Any]]:
        collated = self.workers.tokenizer.collate([(place, entry.views, None) for place, entry in enumerate(batch)])
        assert collated.inputs is not None
        return self.scorer.answer(collated.inputs)

    def close(self) -> None:
        """End threads and processes."""
        self._model_thread.shutdown()
        self.workers.close()


class _Gate:
    """Turns away who has no token, whose body is too long and who takes too long, before much is spent on them."""

    def __init__(self, app: Any, token: str | None, limits: ServiceLimits, check_room: Callable[[], None]) -> None:
        self.app, self.limits, self.check_room = app, limits, check_room
        self.expected = None if token is None else f"Bearer {token}".encode()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["path"] in _OPEN_PATHS:
            await self.app(scope, receive, send)
            return
        started, received = False, 0

        async def counted() -> Any:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.limits.max_bytes:
                raise HTTPException(413, self._too_long)
            return message

        async def noted(message: Any) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            self._check(scope["method"], dict(scope["headers"]))
            await asyncio.wait_for(self.app(scope, counted, noted), self.limits.max_seconds)
        except HTTPException as refusal:
            content = {"detail": refusal.detail}
            await JSONResponse(content, refusal.status_code, refusal.headers)(scope, receive, send)
        except (TimeoutError, asyncio.TimeoutError):
            if not started:
                detail = f"There was no answer within {self.limits.max_seconds:g} seconds."
                await JSONResponse({"detail": detail}, 504)(scope, receive, send)

    @property
    def _too_long(self) -> str:
        return f"The request is longer than {self.limits.max_bytes:,} bytes."

    def _check(self, method: str, headers: Mapping[bytes, bytes]) -> None:
        if self.expected and not hmac.compare_digest(headers.get(b"authorization", b""), self.expected):
            raise HTTPException(401, "Send `Authorization: Bearer TOKEN`.", {"WWW-Authenticate": "Bearer"})
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self.limits.max_bytes:
            raise HTTPException(413, self._too_long)
        if method == "POST":
            self.check_room()


class Result(BaseModel):
    """One image: a score, or an error that says why there is none."""

    name: str
    score: float | None = None
    normalized_score: float | None = None
    std: float | None = None
    error: str | None = None


class RankedResult(Result):
    """One image and its place, 1 for the best."""

    rank: int | None = None


class Embedding(BaseModel):
    """One image: what the model's head sees of it, or an error."""

    name: str
    embedding: list[float] | None = None
    error: str | None = None


class Scores(BaseModel):
    """Results in the order of the files."""

    results: list[Result]


class Ranking(BaseModel):
    """Results, best first; at the end those without a score."""

    results: list[RankedResult]


class Embeddings(BaseModel):
    """Embeddings in the order of the files."""

    results: list[Embedding]


def create_app(
    scorer: Scorer,
    limits: ServiceLimits | None = None,
    *,
    num_workers: int = 0,
    token: str | None = None,
    fetch: Callable[[str], bytes] | None = None,
) -> FastAPI:
    """The service as an ASGI application.

    Args:
        scorer: one whose options ask for embeddings.
        limits: see [`ServiceLimits`].
        num_workers: processes that decode and tokenize; 0 does it in threads.
        token: what a client has to send as `Authorization: Bearer …`; nothing if not given.
        fetch: gets the content of a URL, for clients that may send URLs; not given, these are refused.
    """
    limits, registry = limits or ServiceLimits(), CollectorRegistry()
    batches = SharedBatches(scorer, limits, num_workers, registry)
    seconds = Histogram("charm_request_seconds", "Time to the answer.", ["path"], registry=registry)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        running = [asyncio.create_task(batches.run()), asyncio.create_task(batches.workers.start())]
        yield
        for task in running:
            task.cancel()
        batches.close()

    refusals: dict[int | str, dict[str, Any]] = {
        code: {"description": said}
        for code, said in ((401, "No token"), (413, "Too much"), (429, "Busy: see Retry-After"), (504, "Too slow"))
    }
    app = FastAPI(title="charm-hf", version=__version__, lifespan=lifespan, responses=refusals)
    app.add_middleware(_Gate, token=token, limits=limits, check_room=batches.check_room)

    async def rows_of(path: str, files: list[UploadFile], urls: list[str]) -> list[ScoreRow]:
        count = len(files) + len(urls)
        if not count:
            raise HTTPException(422, "Send photos in the multipart field `files`.")
        if count > limits.max_images:
            raise HTTPException(413, f"{count} images are more than the {limits.max_images} of one request.")
        if urls and fetch is None:
            raise HTTPException(403, "This service takes no URLs: send the files.")
        names = [file.filename or f"file {place}" for place, file in enumerate(files)]
        reads: list[Callable[[], Awaitable[bytes]]] = [file.read for file in files]
        if fetch is not None:
            reads += [partial(asyncio.to_thread, fetch, url) for url in urls]
        with batches.admitted(count), seconds.labels(path).time():
            return await asyncio.gather(*map(batches.score, [*names, *urls], reads))

    @app.post("/score", response_model=Scores, response_model_exclude_none=True)
    async def score(files: FilesGiven = [], urls: UrlsGiven = []) -> Any:  # noqa: B006
        """Score photos."""
        return {"results": [_told(row) for row in await rows_of("/score", files, urls)]}

    @app.post("/rank", response_model=Ranking, response_model_exclude_none=True)
    async def rank(files: FilesGiven = [], urls: UrlsGiven = []) -> Any:  # noqa: B006
        """Score photos and sort them, best first."""
        rows = await rows_of("/rank", files, urls)
        rows.sort(key=lambda row: -math.inf if row.score is None else row.score, reverse=True)
        ranked = enumerate(rows, start=1)
        return {"results": [_told(row) | {"rank": place if row.error is None else None} for place, row in ranked]}

    @app.post("/embed", response_model=Embeddings, response_model_exclude_none=True)
    async def embed(files: FilesGiven = [], urls: UrlsGiven = []) -> Any:  # noqa: B006
        """Give the embeddings of photos."""
        return {"results": [_told(row) for row in await rows_of("/embed", files, urls)]}

    @app.get("/health")
    async def health() -> dict[str, Any]:
        """Whether the service is up, what it scores with, and how many images wait."""
        waits = {"waiting": batches.waiting, "ready": batches.ready}
        return {"status": "ok", **waits, **describe_provenance(scorer.model)}

    @app.get("/metrics")
    async def metrics() -> Response:
        """Counters for Prometheus."""
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return app


def _told(row: ScoreRow) -> dict[str, Any]:
    return {"name": row.path, **row.known()}
