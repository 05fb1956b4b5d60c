"""Photos that strangers upload: checked before they are decoded, scored one by one, best first.

There is no Gradio in it: [`demo`] lays the page out around it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..models.image_loading_charm import load_image, scorable_size
from ..models.patch_selection_charm import SELECTIONS


logger = logging.getLogger(__name__)

OWN_SELECTION = "as in the checkpoint"
CHOICES = (OWN_SELECTION, *(name for name, selection in SELECTIONS.items() if not selection.needs_map))


@dataclass(frozen=True)
class DemoLimits:
    """How much one upload may ask for.

    Attributes:
        max_files: photos scored at once.
        max_megabytes: size of one file; a larger one is refused while it is uploaded.
        max_megapixels: decoded size of one photo, read from its header before anything is decoded.
        max_total_megabytes: size of everything that lies on the server at a time; beyond it uploads are refused.
    """

    max_files: int = 24
    max_megabytes: int = 40
    max_megapixels: int = 60
    max_total_megabytes: int = 2000


@dataclass(frozen=True)
class ScoredPhoto:
    """An uploaded photo: `result` of the pipeline with `width` and `height`, or the `problem` that it has instead."""

    path: str
    result: dict[str, Any] | None = None
    problem: str | None = None
    width: int | None = None
    height: int | None = None

    @property
    def name(self) -> str:
        """Name of the file."""
        return Path(self.path).name

    def to_dict(self) -> dict[str, Any]:
        """Name, size, and either what the pipeline says or the problem."""
        said = {"problem": self.problem} if self.result is None else self.result
        return {"photo": self.name, "width": self.width, "height": self.height, **said}


def score_photos(
    paths: Sequence[str],
    pipeline: Any,
    *,
    selection: str = OWN_SELECTION,
    num_views: int = 1,
    comments: Sequence[str] = (),
    limits: DemoLimits | None = None,
) -> list[ScoredPhoto]:
    """Score photos one by one, best first, those with a problem last.

    Args:
        paths: image files; of a list longer than `limits.max_files` the rest is refused.
        pipeline: an [`ImageAestheticsPipeline`].
        selection: one of `CHOICES`.
        num_views: random selections to average; adds `spread` to the results.
        comments: what was said about each of the photos, for a checkpoint that reads comments.
        limits: what to refuse.
    """
    limits = limits or DemoLimits()
    options = selection_options(selection) | ({"num_views": num_views} if num_views > 1 else {})
    photos = [_score_photo(path, pipeline, options, comments, limits) for path in paths[: limits.max_files]]
    photos += [
        ScoredPhoto(path, problem=f"Not scored: at most {limits.max_files} photos at once.")
        for path in paths[limits.max_files :]
    ]
    return sorted(photos, key=lambda photo: -photo.result["score"] if photo.result is not None else float("inf"))


def selection_options(selection: str) -> dict[str, Any]:
    """What a chosen selection means to a processor."""
    return {} if selection == OWN_SELECTION else {"patch_selection": selection}


def reads_comments(pipeline: Any) -> bool:
    """Whether a checkpoint takes comments beside photos."""
    return pipeline.model.config.model_type == "mmlq"


def has_charm_tokens(pipeline: Any) -> bool:
    """Whether there are regions to select, and tokens to show."""
    return pipeline.is_charm


def check_pixels(path: str, limits: DemoLimits) -> tuple[int, int]:
    """Width and height of an upload, from its header.

    Raises:
        ValueError: if it is no image, too small or thin to be scored, or larger than the limit.
    """
    width, height = scorable_size(Path(path), name="The file")  # a `Path` is never taken for a URL
    if width * height > limits.max_megapixels * 1_000_000:
        raise ValueError(f"The photo has {width * height / 1e6:.0f} megapixels, the limit is {limits.max_megapixels}.")
    return width, height


def _score_photo(
    path: str, pipeline: Any, options: dict[str, Any], comments: Sequence[str], limits: DemoLimits
) -> ScoredPhoto:
    try:
        width, height = check_pixels(path, limits)
        photo = load_image(Path(path), name="The file")
        inputs = {"image": photo, "comments": list(comments)} if reads_comments(pipeline) else photo
        result = pipeline(inputs, **(options if has_charm_tokens(pipeline) else {}))
        return ScoredPhoto(path, result, width=width, height=height)
    except (OSError, ValueError, RuntimeError) as error:
        logger.info("Could not score an upload: %s", error)
        problem = str(error).replace(path, "The file") or type(error).__name__
        return ScoredPhoto(path, problem=problem)


__all__ = ["CHOICES", "OWN_SELECTION", "DemoLimits", "ScoredPhoto", "score_photos"]
