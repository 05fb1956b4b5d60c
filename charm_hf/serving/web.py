"""The service as a web application: who gets in, with how much, and what they are told."""

from __future__ import annotations

import asyncio
import hmac
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Generic, TypeVar

from fastapi import Depends, FastAPI, File, Form, HTTPException, Request, Response, UploadFile
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Histogram, generate_latest
from pydantic import BaseModel, Field

from ..models.checkpoint_charm import describe_provenance
from ..scoring.engine import Scorer
from ..scoring.rows import ScoreRow
from ..version import __version__
from .shared_batches import SharedBatches


_OPEN_PATHS = ("/health",)  # asked by whoever looks after the service
_REFUSALS: dict[int | str, dict[str, Any]] = {
    code: {"description": said}
    for code, said in ((401, "No token"), (413, "Too much"), (429, "Busy: see Retry-After"), (504, "Too slow"))
}
FilesGiven = Annotated[list[UploadFile], File(description="Photos, one or many.")]
UrlsGiven = Annotated[list[str], Form(description="Photos by URL, where the service allows it.")]


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


class Result(BaseModel):
    """What is said of one image: fields of a [`ScoreRow`], or an error that says why there are none."""

    name: str = Field(validation_alias="path")
    error: str | None = None


class Score(Result):
    """A score, in the data set's own units and in [0, 1]."""

    score: float | None = None
    normalized_score: float | None = None
    std: float | None = None


class Ranked(Score):
    """A score and its place, 1 for the best."""

    rank: int | None = None


class Embedding(Result):
    """What the model's head sees of an image."""

    embedding: list[float] | None = None


_Result = TypeVar("_Result", bound=Result)


class Results(BaseModel, Generic[_Result]):
    """In the order of the files; of `/rank` best first, and at the end those without a score."""

    results: list[_Result]


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
            self._check_length(received)
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

    def _check(self, method: str, headers: Mapping[bytes, bytes]) -> None:
        if self.expected and not hmac.compare_digest(headers.get(b"authorization", b""), self.expected):
            raise HTTPException(401, "Send `Authorization: Bearer TOKEN`.", {"WWW-Authenticate": "Bearer"})
        length = headers.get(b"content-length", b"0")
        self._check_length(int(length) if length.isdigit() else 0)
        if method == "POST":
            self.check_room()

    def _check_length(self, length: int) -> None:
        if length > self.limits.max_bytes:
            raise HTTPException(413, f"The request is longer than {self.limits.max_bytes:,} bytes.")


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
    batches = SharedBatches(scorer, limits.max_pixels, num_workers, registry)
    seconds = Histogram("charm_request_seconds", "Time to the answer.", ["path"], registry=registry)

    def check_room(count: int = 1) -> None:
        if batches.waiting + count > limits.max_waiting:
            later = {"Retry-After": str(max(1, math.ceil(batches.seconds_ahead)))}
            raise HTTPException(429, "Too many images are waiting.", later)

    async def rows_of(request: Request, files: FilesGiven = [], urls: UrlsGiven = []) -> list[ScoreRow]:  # noqa: B006
        count = len(files) + len(urls)
        if not count:
            raise HTTPException(422, "Send photos in the multipart field `files`.")
        if count > limits.max_images:
            raise HTTPException(413, f"{count} images are more than the {limits.max_images} of one request.")
        if urls and fetch is None:
            raise HTTPException(403, "This service takes no URLs: send the files.")
        check_room(count)
        names = [file.filename or f"file {place}" for place, file in enumerate(files)]
        reads: list[Callable[[], bytes]] = [file.file.read for file in files]
        reads += [partial(fetch, url) for url in urls if fetch is not None]
        with seconds.labels(request.url.path).time():
            return await batches.score([*names, *urls], reads)

    rows_of_request = Depends(rows_of)
    app = FastAPI(title="charm-hf", version=__version__, lifespan=lambda app: batches.running(), responses=_REFUSALS)
    app.add_middleware(_Gate, token=token, limits=limits, check_room=check_room)

    @app.post("/score", response_model=Results[Score], response_model_exclude_none=True)
    async def score(rows: list[ScoreRow] = rows_of_request) -> Any:
        """Score photos."""
        return {"results": rows}

    @app.post("/rank", response_model=Results[Ranked], response_model_exclude_none=True)
    async def rank(rows: list[ScoreRow] = rows_of_request) -> Any:
        """Score photos and sort them, best first."""
        rows = sorted(rows, key=lambda row: -math.inf if row.score is None else row.score, reverse=True)
        ranks = (place if row.error is None else None for place, row in enumerate(rows, start=1))
        return {"results": [vars(row) | {"rank": place} for row, place in zip(rows, ranks, strict=True)]}

    @app.post("/embed", response_model=Results[Embedding], response_model_exclude_none=True)
    async def embed(rows: list[ScoreRow] = rows_of_request) -> Any:
        """Give the embeddings of photos."""
        return {"results": rows}

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
