"""Items in, rows out: images are measured, grouped, tokenized in worker processes and scored, a chunk at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import PIL
import torch
import transformers

from ..models.checkpoint_charm import digest_weights
from ..models.image_urls_charm import is_url
from ..models.patch_selection_charm import SELECTIONS
from ..models.scores_charm import average_views
from ..version import __version__
from .batching import CHUNK_BYTES, CHUNK_IMAGES, Chunk, chunk_items, plan_batches
from .comments import Comments, reads_comments
from .items import Item
from .rows import ScoreRow, describe_error, read_answers
from .tokenizing import BatchTokenizer, Measured, Placed, TokenBatch, measure
from .workers import default_workers, tokenize_batches


if TYPE_CHECKING:
    from ..data.saliency_maps import SaliencyFolder

# Entries of a config that say how it was saved or loaded, not what the model is.
_INCIDENTAL = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "auto_map", "custom_pipelines")
_HEADER_THREADS = 4
_TOKEN_BUDGETS = {"cpu": 8192, "cuda": 65536}


@dataclass(frozen=True)
class ScoringOptions:
    """How images are scored; everything here but `num_workers` may change the numbers in the table.

    Args:
        token_budget: most tokens in a batch, padding included; 8,192 on a CPU and 65,536 on a GPU if not given.
        batch_size: most images in a batch; no limit if not given.
        num_views: score this many random selections of an image's high-resolution regions and average.
        embeddings: give what the head sees of each image, too.
        processor_parameters: other parameters of the image processor, such as `patch_selection`, `seed` and
            `reduced_decoding`.
        saliency_dir: folder of saliency maps, for `patch_selection="saliency"` (see [`SaliencyFolder`]).
        allow_urls: fetch images that are named by URLs; else they are errors.
        num_workers: processes that decode and tokenize; 0 does it in this process, `None` decides by the number of
            images and cores.
    """

    token_budget: int | None = None
    batch_size: int | None = None
    num_views: int = 1
    embeddings: bool = False
    processor_parameters: dict[str, Any] = field(default_factory=dict)
    saliency_dir: str | None = None
    allow_urls: bool = False
    num_workers: int | None = 0

    def __post_init__(self) -> None:
        for name in ("token_budget", "batch_size", "num_views"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}.")
        if self.num_workers is not None and self.num_workers < 0:
            raise ValueError(f"`num_workers` must be at least 0, got {self.num_workers}.")


def _essential(config: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _essential(value) if isinstance(value, dict) else value
        for name, value in sorted(config.items())
        if name not in _INCIDENTAL
    }


def _one_ahead(iterator: Iterator[Any]) -> Iterator[Any]:
    """Compute the next element in a thread while the present one is worked on."""
    with ThreadPoolExecutor(1) as pool:
        upcoming = pool.submit(next, iterator, None)
        while (element := upcoming.result()) is not None:
            upcoming = pool.submit(next, iterator, None)
            yield element


class Scorer:
    """A model and its processor, ready to score many images.

    Args:
        model: a [`CharmForAestheticScoring`] or [`MmlqForAestheticScoring`], on the device and in the dtype to use.
        processor: its [`CharmImageProcessor`] or [`MmlqProcessor`].
        options: how to score.
        comments: what people said, for a model that reads it.

    Raises:
        ValueError: for parameters out of range, saliency maps that are needed and not there or the other way round, or
            comments for a model that reads none.
        FileNotFoundError: if there is no folder of saliency maps where it should be.
    """

    def __init__(
        self, model: Any, processor: Any, options: ScoringOptions | None = None, comments: Comments | None = None
    ) -> None:
        self.model = model.eval()
        self.processor = processor
        self.options = options or ScoringOptions()
        self.comments = comments
        self.photos = self.commented = self.shrunk = 0
        self.token_budget = self.options.token_budget or _TOKEN_BUDGETS.get(model.device.type, _TOKEN_BUDGETS["cpu"])
        self.num_workers = self.options.num_workers or 0
        if comments is not None and not reads_comments(processor):
            raise ValueError("This checkpoint sees the photo only and reads no comments.")
        self.plan(64, 64)  # raises for parameters out of range
        self.saliency = self._open_maps()

    def plan(self, height: int, width: int) -> Any:
        """How a photo of this size becomes `num_tokens` tokens."""
        plan = self.processor.plan(height, width, **self.options.processor_parameters)
        if self.processor.is_charm:
            return plan
        vision = self.model.config.vision_config  # the processor does not know the encoder's patches
        return plan._replace(num_tokens=(vision.image_size // vision.patch_size) ** 2)

    def _open_maps(self) -> SaliencyFolder | None:
        """The maps to select regions by, where they are selected by maps."""
        own = getattr(getattr(self.processor, "image_processor", self.processor), "patch_selection", "original")
        selection, folder = self.options.processor_parameters.get("patch_selection", own), self.options.saliency_dir
        if SELECTIONS[selection].needs_map and folder is None:
            raise ValueError(
                f"Selecting regions by {selection!r} needs the folder of the photos' maps, `saliency_dir` "
                "(--saliency-dir). 'spectral_residual' finds what is salient by itself."
            )
        if folder is None:
            return None
        if not SELECTIONS[selection].needs_map:
            raise ValueError(
                "The maps of `saliency_dir` (--saliency-dir) are used by the selection 'saliency' "
                f"(--patch-selection) only, not by {selection!r}."
            )
        from ..data.saliency_maps import SaliencyFolder  # readers of datasets take a second to import

        return SaliencyFolder(folder)

    def identity(self) -> dict[str, Any]:
        """Everything besides the images that decides what a table holds, by topic, as JSON."""
        options = asdict(self.options)
        parameters = options.pop("processor_parameters")
        options.pop("num_workers")
        device = self.model.device
        return {
            "model": {"weights": digest_weights(self.model), "config": _essential(self.model.config.to_dict())},
            "preprocessing": _essential({**self.processor.to_dict(), **parameters}),
            "comments": None if self.comments is None else self.comments.digest(),
            "options": {**options, "token_budget": self.token_budget, "chunk": [CHUNK_IMAGES, CHUNK_BYTES]},
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            "software": {
                "charm_hf": __version__,
                "torch": torch.__version__,
                "transformers": transformers.__version__,
                "pillow": PIL.__version__,
            },
        }

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

        def planned() -> Iterator[list[Placed]]:
            for chunk, batches in _one_ahead(self._prepare(chunk, stopping) for chunk in chunks):
                if stopping():
                    return
                started.append(chunk)
                yield from batches

        device = self.model.device.type
        tokenizer = self.tokenizer(as_numpy=device == "cpu")
        for batch in tokenize_batches(
            tokenizer, planned(), self.num_workers, pin_memory=device == "cuda", stopping=stopping
        ):
            while started[0].complete:  # a chunk without a readable image has no batch to wait for
                yield started.popleft()
            chunk = started[0]
            self._fill(chunk, batch)
            if chunk.complete:
                started.popleft()
                chunk.forget_files()
            yield chunk
            if stopping():
                return
        yield from (chunk for chunk in started if chunk.complete)

    def tokenizer(self, as_numpy: bool) -> BatchTokenizer:
        """What turns measured images into tokens; it may go to another process."""
        options = self.options
        return BatchTokenizer(
            self.processor, options.processor_parameters, options.num_views, as_numpy=as_numpy, saliency=self.saliency
        )

    def _prepare(self, chunk: Chunk, stopping: Callable[[], bool]) -> tuple[Chunk, list[list[Placed]]]:
        """Measure the images of a chunk and plan its batches; those that are already scored are left out."""
        places = [place for place in range(len(chunk.items)) if place not in chunk.reused]
        with ThreadPoolExecutor(_HEADER_THREADS) as pool:
            entries = list(pool.map(lambda place: self._measure(chunk.items[place], chunk, stopping), places))
        if stopping():  # what was given up has no row
            return chunk, []
        measured = dict(zip(places, entries, strict=True))
        batches = self._plan(measured)
        for place, entry in measured.items():
            self.photos += 1
            self.shrunk += getattr(entry.plan, "shrinks_all", False)
            self.commented += any(text.strip() for text in entry.item.comments or ())
            if place in chunk.finished:
                continue
            chunk.rows[place] = entry.to_row()
            if entry.error is not None:
                chunk.finish(place, entry.to_row())
        open_batches = (batch for batch in batches if not chunk.finished.issuperset(batch))
        return chunk, [[(place, measured[place]) for place in batch] for batch in open_batches]

    def _measure(self, item: Item, chunk: Chunk, stopping: Callable[[], bool]) -> Measured:
        return self.measure(item, lambda item: item.fetched(chunk.folder_of_files(), stopping))

    def measure(self, item: Item, fetch: Callable[[Item], Item] | None = None) -> Measured:
        """Read an image's size and plan what becomes of it; one at a URL is fetched first, if that is allowed."""
        if self.comments is not None:
            item = replace(item, comments=self.comments.of(item))
        if item.error is None and item.span is None and is_url(item.image):
            if not self.options.allow_urls or fetch is None:
                return Measured(
                    item, error="It is a URL, which is fetched only with --allow-urls (`allow_urls=True`)."
                )
            try:
                item = fetch(item)
            except ValueError as error:
                return Measured(item, error=describe_error(error))
        return measure(item, self.plan)

    def _plan(self, measured: dict[int, Measured]) -> list[list[int]]:
        readable = [place for place, entry in measured.items() if entry.error is None]
        batches = self.plan_batches([measured[place].plan.num_tokens for place in readable])
        return [[readable[index] for index in batch] for batch in batches]

    def plan_batches(self, lengths: list[int]) -> list[list[int]]:
        """Group images by their numbers of tokens into batches that fit the budget: places in `lengths`."""
        return plan_batches(lengths, max(1, self.token_budget // self.options.num_views), self.options.batch_size)

    def _fill(self, chunk: Chunk, batch: TokenBatch) -> None:
        answers = {place: {"error": error} for place, error in batch.errors.items()}
        if batch.inputs is not None:
            answers.update(zip(batch.places, self.answer(batch.inputs), strict=True))
        for place, answer in answers.items():
            row = chunk.rows[place]
            row.update(answer)
            chunk.finish(place, row)

    @torch.no_grad()
    def answer(self, inputs: dict[str, Any]) -> list[dict[str, Any]]:
        """Fields of rows for a batch of tokens, those of an image's views side by side."""
        device = self.model.device
        tensors = {name: torch.as_tensor(value).to(device, non_blocking=True) for name, value in inputs.items()}
        outputs = self.model(**tensors)
        options, values = self.options, self.model.config.score_values
        return read_answers(average_views(outputs, options.num_views, values, options.embeddings))
