"""Data-Juicer: a filter over the images of each sample (needs `pip install py-data-juicer`).

Name this file under `custom_operator_paths` of a recipe, or import it, and use `charm_aesthetics_filter` in `process`.
"""

from __future__ import annotations

from typing import Any

from data_juicer.ops.base_op import OPERATORS, Filter
from data_juicer.utils.constant import Fields

from charm_hf.integrations import ERROR, SCORE, ImageRater


NAME = "charm_aesthetics_filter"


@OPERATORS.register_module(NAME)
class CharmAestheticsFilter(Filter):
    """Keep samples whose images look good enough.

    Args:
        model: folder or repository; the embedded demonstration checkpoint if not given.
        min_score, max_score: of the images that are kept, in [0, 1].
        any_or_all: whether one image in the range is enough for a sample, or all have to be.
        kwargs: of every Data-Juicer filter: `batch_size`, `num_proc`, `accelerator`, …
    """

    _accelerator = "cuda"
    _batched_op = True

    def __init__(
        self,
        model: str | None = None,
        min_score: float = 0.5,
        max_score: float = 1.0,
        any_or_all: str = "any",
        *args: Any,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        if any_or_all not in ("any", "all"):
            raise ValueError(f"`any_or_all` must be 'any' or 'all', got {any_or_all!r}.")
        self.min_score, self.max_score = min_score, max_score
        self.combine = any if any_or_all == "any" else all
        self.rate = ImageRater(model)

    def compute_stats_batched(self, samples: dict[str, list], *args: Any, **kwargs: Any) -> dict[str, list]:
        """Rate the images of all samples of a batch together."""
        images = [list(found or ()) for found in samples.get(self.image_key) or [()] * len(samples[Fields.stats])]
        ratings = iter(self.rate([image for found in images for image in found]))
        for stats, found in zip(samples[Fields.stats], images, strict=True):
            rated = [next(ratings) for _ in found]
            stats[SCORE] = [rating.score for rating in rated]
            stats[ERROR] = [rating.error for rating in rated]
        return samples

    def process_single(self, sample: dict[str, Any]) -> bool:
        """Whether a sample is kept: one without images always, an image without a score counts as out of the range."""
        scores = sample[Fields.stats][SCORE]
        kept = (score is not None and self.get_keep_boolean(score, self.min_score, self.max_score) for score in scores)
        return not scores or self.combine(kept)
