"""Items in, rows out: images are measured, grouped, tokenized in worker processes and scored, a chunk at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

from ..models.image_loading_charm import array_to_tensor, image_size
from .batching import plan_batches
from .rows import ScoreRow, describe_error
from .sources import Item


# Images that are grouped into batches together. Batches never depend on anything outside their chunk.
CHUNK_IMAGES = 512
_HEADER_THREADS = 4
_TOKEN_BUDGETS = {"cpu": 8192, "cuda": 65536}


@dataclass(frozen=True)
class ScoringOptions:
    """How images are scored; everything here but `num_workers` may change the numbers in the table.

    Args:
        token_budget: most tokens in a batch, padding included; 8,192 on a CPU and 65,536 on a GPU if not given.
        batch_size: most images in a batch; no limit if not given.
        num_views: score this many random selections of an image's high-resolution regions and average.
        processor: parameters of the image processor, such as `patch_selection` and `seed`.
        num_workers: processes that decode and tokenize; 0 does it in this process.
    """

    token_budget: int | None = None
    batch_size: int | None = None
    num_views: int = 1
    processor: dict[str, Any] = field(default_factory=dict)
    num_workers: int = 0

    def __post_init__(self) -> None:
        for name in ("token_budget", "batch_size", "num_views"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}.")
        if self.num_workers < 0:
            raise ValueError(f"`num_workers` must be at least 0, got {self.num_workers}.")


@dataclass(frozen=True)
class Measured:
    """An item whose header was read: width and height in pixels and the length of its token sequence, or an error."""

    item: Item
    width: int | None = None
    height: int | None = None
    tokens: int | None = None
    error: str | None = None

    def to_row(self, error: str | None = None) -> ScoreRow:
        """Row without a score."""
        return ScoreRow(
            self.item.path, width=self.width, height=self.height, tokens=self.tokens, error=error or self.error
        )


class TokenBatch(NamedTuple):
    """Tokens of some images of a chunk: `inputs` for the model, `None` if all of them failed.

    `places` are the images' places in their chunk, `errors` those that failed with the reason.
    """

    places: list[int]
    inputs: dict[str, torch.Tensor] | None
    errors: dict[int, str]


def measure(item: Item, processor: Any, parameters: dict[str, Any]) -> Measured:
    """Read the size of an image from its header and count its tokens, without decoding pixels."""
    if item.error is not None:
        return Measured(item, error=item.error)
    try:
        if isinstance(item.image, (np.ndarray, torch.Tensor)):
            height, width = array_to_tensor(item.image, item.path).shape[1:]
        else:
            width, height = image_size(item.image, name=repr(item.path))
        return Measured(item, width, height, processor.num_tokens(height, width, **parameters))
    except Exception as error:  # whatever a hostile file provokes belongs into its row
        return Measured(item, error=describe_error(error))


class TokenizedBatches(Dataset):
    """Tokenizes the batch that it is indexed with; lives in the worker processes."""

    def __init__(self, processor: Any, options: ScoringOptions) -> None:
        self.processor = processor
        self.options = options

    def __getitems__(self, batch: list[tuple[int, Item]]) -> TokenBatch:
        tokenized: list[dict[str, torch.Tensor]] = []
        places: list[int] = []
        errors: dict[int, str] = {}
        for place, item in batch:
            try:
                tokenized.extend(self._views(item))
                places.append(place)
            except Exception as error:  # one broken image must not cost the others theirs
                errors[place] = describe_error(error)
        return TokenBatch(places, _collate(tokenized) if tokenized else None, errors)

    def _views(self, item: Item) -> list[dict[str, torch.Tensor]]:
        parameters = self.options.processor
        if self.options.num_views == 1:
            return [self._tokenize(item, parameters)]
        # As the pipeline does: view i uses seed + i.
        seed = parameters.get("seed", self.processor.seed) or 0
        drawn = {"stochastic_selection": True, **parameters}
        return [self._tokenize(item, {**drawn, "seed": seed + view}) for view in range(self.options.num_views)]

    def _tokenize(self, item: Item, parameters: dict[str, Any]) -> dict[str, torch.Tensor]:
        inputs = self.processor(item.image, return_tensors="pt", **parameters)
        return {name: value[0] for name, value in inputs.items()}


def _collate(tokenized: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {name: pad_sequence([image[name] for image in tokenized], batch_first=True) for name in tokenized[0]}


def _identity(batch: Any) -> Any:
    return batch


class Scorer:
    """A model and its processor, ready to score many images.

    Args:
        model: a [`CharmForAestheticScoring`], on the device and in the dtype to work in.
        processor: its [`CharmImageProcessor`].
    """

    def __init__(self, model: Any, processor: Any, options: ScoringOptions | None = None) -> None:
        self.model = model.eval()
        self.processor = processor
        self.options = options or ScoringOptions()
        self.token_budget = self.options.token_budget or _TOKEN_BUDGETS.get(model.device.type, _TOKEN_BUDGETS["cpu"])

    def score(self, items: Iterable[Item]) -> Iterator[ScoreRow]:
        """Yield one row an item, in the order of the items."""
        for rows in self.score_chunks(_chunks(items, CHUNK_IMAGES)):
            yield from rows

    def score_chunks(self, chunks: Iterable[Sequence[Item]]) -> Iterator[list[ScoreRow]]:
        """Yield the rows of one chunk after the other."""
        waiting: list[tuple[list[ScoreRow], int]] = []

        def planned() -> Iterator[list[tuple[int, Item]]]:
            for items in chunks:
                measured = self._measure(items)
                batches = self._plan(measured)
                waiting.append(([entry.to_row() for entry in measured], len(batches)))
                yield from ([(place, items[place]) for place in batch] for batch in batches)

        batches = iter(self._loader(planned()))
        while True:
            batch = next(batches, None)
            # A chunk without a single readable image has no batch to wait for.
            while waiting and waiting[0][1] == 0:
                yield waiting.pop(0)[0]
            if batch is None:
                return
            rows, missing = waiting[0]
            self._fill(rows, batch)
            waiting[0] = (rows, missing - 1)
            if missing == 1:
                yield waiting.pop(0)[0]

    def _measure(self, items: Sequence[Item]) -> list[Measured]:
        with ThreadPoolExecutor(_HEADER_THREADS) as pool:
            return list(pool.map(lambda item: measure(item, self.processor, self.options.processor), items))

    def _plan(self, measured: Sequence[Measured]) -> list[list[int]]:
        readable = [place for place, entry in enumerate(measured) if entry.tokens is not None]
        lengths = [(measured[place].tokens or 0) for place in readable]
        budget = max(1, self.token_budget // self.options.num_views)
        batches = plan_batches(lengths, budget, self.options.batch_size)
        return [[readable[index] for index in batch] for batch in batches]

    def _loader(self, batches: Iterable[list[tuple[int, Item]]]) -> DataLoader:
        workers = self.options.num_workers
        return DataLoader(
            TokenizedBatches(self.processor, self.options),
            batch_sampler=batches,
            num_workers=workers,
            collate_fn=_identity,
            prefetch_factor=2 if workers else None,
            multiprocessing_context="spawn" if workers else None,
            pin_memory=self.model.device.type == "cuda",
            generator=torch.Generator(),  # a loader draws a seed, and must not draw it from the global generator
        )

    def _fill(self, rows: list[ScoreRow], batch: TokenBatch) -> None:
        for place, error in batch.errors.items():
            rows[place].error = error
        if batch.inputs is None:
            return
        for place, values in zip(batch.places, self._forward(batch.inputs), strict=True):
            for name, value in values.items():
                setattr(rows[place], name, value)

    @torch.no_grad()
    def _forward(self, inputs: dict[str, torch.Tensor]) -> list[dict[str, Any]]:
        device = self.model.device
        outputs = self.model(**{name: value.to(device, non_blocking=True) for name, value in inputs.items()})
        return summarize_views(
            outputs.scores,
            outputs.normalized_scores,
            outputs.distribution,
            self.options.num_views,
            self.model.config.score_values,
        )


def summarize_views(
    scores: torch.Tensor,
    normalized_scores: torch.Tensor,
    distribution: torch.Tensor | None,
    num_views: int,
    score_values: Sequence[float] | None,
) -> list[dict[str, Any]]:
    """Average the views of each image, in double precision.

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
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk
