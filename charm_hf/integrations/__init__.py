"""Aesthetic scores as an operator of other people's pipelines: one file a host, each a thin adapter over one `Scorer`.

The contract is the same everywhere: a batch of images in, in the same order a score in [0, 1] for each (called
`aesthetic_score`), or none and the reason (`aesthetic_error`). Batches, processes and GPUs are the host's business;
the checkpoint is loaded once in each process that scores, when it scores first. (For Ray Data and `datasets` there is
`charm_hf.scoring.CharmScorer`.)
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

from ..scoring import Item, Scorer, ScoringOptions, load_for_scoring
from ..scoring.entrances import ERROR, SCORE


class Rating(NamedTuple):
    """What is said of one image: a normalized score in [0, 1], or an error."""

    score: float | None
    error: str | None


class ImageRater:
    """Rates batches of images; travels to other processes by its parameters, without the model.

    Args:
        model: folder or repository; the embedded demonstration checkpoint if not given.
        device: where to score; a GPU if there is one.
        dtype: of the weights.
        options: see [`ScoringOptions`].
    """

    def __init__(
        self, model: str | None = None, *, device: str | None = None, dtype: str = "float32", **options: Any
    ) -> None:
        self.model, self.device, self.dtype, self.options = model, device, dtype, options

    @cached_property
    def scorer(self) -> Scorer:
        """What scores, loaded when first asked for."""
        network, processor = load_for_scoring(self.model, device=self.device, dtype=self.dtype)
        return Scorer(network, processor, ScoringOptions(**self.options))

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "scorer"}

    def __call__(self, images: Sequence[Any]) -> list[Rating]:
        """Rate images: paths, encoded bytes, `{"bytes": …, "path": …}`, PIL images, arrays; `None` gets an error."""
        names = (image if isinstance(image, str) else f"image {place}" for place, image in enumerate(images))
        errors = ("There is no image." if image is None else None for image in images)
        items = [Item(name, image, error=error) for name, image, error in zip(names, images, errors, strict=True)]
        return [Rating(row.normalized_score, row.error) for row in self.scorer.score(items)]


__all__ = ["ERROR", "SCORE", "ImageRater", "Rating"]
