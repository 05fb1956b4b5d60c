"""What the model saw of a photo, and what moved its score: `charm-hf explain PHOTO -o out.png`.

Everything is computed from the tokens themselves (`pixel_values`, `scale_ids`, `patch_positions`, `spatial_shapes`),
not from a second run of the selection, so that the picture shows what the model was given.
"""

from __future__ import annotations

import io
import os
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..files import write_bytes
from ..models.image_loading_charm import array_to_tensor, load_image
from ..models.pipeline_image_aesthetics import ImageAestheticsPipeline
from .contributions import METHODS, comparison_tokens, gradient_contributions, occlusion_contributions
from .token_layout import TokenLayout


@dataclass(frozen=True, eq=False)
class SeenPhoto(TokenLayout):
    """One photo and the tokens that it became.

    Attributes:
        photo: upright RGB photo at its own size.
        area: left, top, right, bottom of the canvas in pixels of the photo; may reach beyond its right and bottom.
        received: the canvas drawn back from the tokens, each at its place, enlarged from its scale.
    """

    photo: Image.Image
    area: tuple[float, float, float, float]
    received: Image.Image

    def to_image(self, *, dark: bool = False, columns: int | None = None) -> Image.Image:
        """Draw the panels: what was kept, what was received, and what is known beyond.

        Args:
            dark: light text on a dark ground.
            columns: how many panels beside each other; by the photo's shape if not given.

        Raises:
            ImportError: if matplotlib is not installed.
        """
        from .explain_picture import draw_panels

        return draw_panels(self, dark=dark, columns=columns)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the panels as a picture, PNG unless the name ends otherwise."""
        content = io.BytesIO()  # encoders that write to the disk themselves do not say when it is full
        content.name = os.fspath(path)
        self.to_image().save(content, format=None if os.path.splitext(path)[1] else "PNG")
        write_bytes(path, content.getbuffer())


@dataclass(frozen=True, eq=False)
class Explanation(SeenPhoto):
    """A photo, its tokens, and what each of them did to the score.

    Attributes:
        contributions: (L,) by how much each token moved the score, in the data set's units; above 0 it raised it.
        against: what the photo was compared with, a name of [`explain`].
        score_against: the score of that.
        method: how, a name of [`explain`].
        result: what [`ImageAestheticsPipeline`] says of the photo: `score`, `std`, `distribution`, …
        score_range: lowest and highest possible score.
        score_values: centres of the rating bins; `None` for a regression head.
    """

    contributions: np.ndarray
    against: str
    score_against: float
    method: str
    result: dict[str, Any]
    score_range: tuple[float, float]
    score_values: tuple[float, ...] | None = None

    @property
    def score(self) -> float:
        """Score in the data set's own units."""
        return self.result["score"]

    @cached_property
    def heat(self) -> np.ndarray:
        """Contributions of all scales on the finest grid, smoothed: (rows, columns), summing to their total."""
        return self.spread(self.contributions, smoothing=1.0)


def see(image: Any, processor: Any, **processor_kwargs: Any) -> SeenPhoto:
    """Show what becomes of a photo before a model sees it; see [`explain`] for the arguments."""
    return _see(image, processor, processor_kwargs)[0]


def explain(
    image: Any,
    model: Any,
    processor: Any,
    *,
    against: str = "blurred",
    method: str = "gradients",
    steps: int = 8,
    num_views: int = 1,
    **processor_kwargs: Any,
) -> Explanation:
    """Show what a Charm model saw of a photo and which tokens moved its score.

    Args:
        image: one photo, in any form that [`CharmImageProcessor`] takes.
        model: a [`CharmForAestheticScoring`]; it is put into eval mode.
        processor: the checkpoint's [`CharmImageProcessor`].
        against: what the photo is compared with: `"blurred"`, a copy without detail; `"mean"`, its mean colour;
            `"empty"`, the mean colour of what the encoder was trained on. "Why low?" asks for one of the first two.
        method: `"gradients"` (integrated gradients: the parts sum to the difference between the two scores) or
            `"occlusion"` (what the score loses when one window is replaced; slower, and needs no gradient).
        steps: of integrated gradients; the more, the finer.
        num_views: above 1, also score this many random selections and give their standard deviation as `spread`.
        processor_kwargs: parameters of the processor for this photo, such as `patch_selection` or `saliency_maps`.

    Raises:
        ValueError: for a photo that cannot be read, another name than these, and a model that does not take Charm
            tokens.
    """
    if steps < 1:
        raise ValueError(f"`steps` must be at least 1, got {steps}.")
    if method not in METHODS:
        raise ValueError(f"`method` must be one of {', '.join(METHODS)}, got {method!r}.")
    if model.config.model_type != "charm":
        raise ValueError(
            f"Expected a Charm model, got {type(model).__name__}; `see(image, processor)` shows the tokens alone."
        )
    seen, source, inputs = _see(image, processor, processor_kwargs)
    model.eval()
    inputs = inputs.to(next(model.parameters()).device)
    other = comparison_tokens(inputs["pixel_values"][0], seen, against)
    with torch.inference_mode():
        score_against = model(**{**inputs, "pixel_values": other[None]})["scores"].item()
    if method == "gradients":
        contributions = gradient_contributions(model, inputs, other, steps)
    else:
        contributions = occlusion_contributions(model, inputs, other, seen)
    pipeline = ImageAestheticsPipeline(model=model, image_processor=processor)
    result = pipeline(source, **processor_kwargs)
    if num_views > 1:
        result["spread"] = pipeline(source, num_views=num_views, **processor_kwargs)["spread"]
    return Explanation(
        **vars(seen),
        contributions=contributions,
        against=against,
        score_against=score_against,
        method=method,
        result=result,
        score_range=tuple(model.config.score_range),
        score_values=None if model.config.score_values is None else tuple(model.config.score_values),
    )


def _see(image: Any, processor: Any, processor_kwargs: dict[str, Any]) -> tuple[SeenPhoto, Any, Any]:
    """The photo with its tokens, the image to score, and the processor's output for it."""
    if not getattr(processor, "is_charm", False):
        raise ValueError(f"Expected a processor that makes Charm tokens, got {type(processor).__name__}.")
    is_array = isinstance(image, (np.ndarray, torch.Tensor))
    photo = _photo_of_array(image, processor_kwargs) if is_array else load_image(image)
    source = image if is_array else photo
    inputs = processor(source, return_tensors="pt", **processor_kwargs)
    is_float = is_array and array_to_tensor(image, "the image").is_floating_point()
    pixels = _undo_normalization(inputs["pixel_values"][0], processor, processor_kwargs, is_float)
    places = (inputs[name][0].cpu().numpy() for name in ("scale_ids", "patch_positions", "spatial_shapes"))
    layout = TokenLayout(*places)
    sizes = {name: value for name, value in processor_kwargs.items() if name != "saliency_maps"}
    plan = processor.plan(photo.height, photo.width, **sizes)
    left, top, right, bottom = area = plan.area_of(layout.finest)
    corners = np.array([plan.area_of(scale) for scale in range(len(plan.scales))]).reshape(-1, 2, 2)[..., ::-1]
    layout = replace(layout, frames=(corners - (top, left)) / (bottom - top, right - left))
    received = Image.fromarray(layout.draw(pixels))
    return SeenPhoto(**vars(layout), photo=photo, area=area, received=received), source, inputs


def _photo_of_array(image: np.ndarray | torch.Tensor, processor_kwargs: dict[str, Any]) -> Image.Image:
    tensor = array_to_tensor(image, "the image", processor_kwargs.get("input_data_format"))
    if tensor.is_floating_point():
        tensor = (tensor.detach() * 255).round().clamp(0, 255).to(torch.uint8)
    return Image.fromarray(tensor.permute(1, 2, 0).cpu().numpy())


def _undo_normalization(
    tokens: torch.Tensor, processor: Any, processor_kwargs: dict[str, Any], is_float: bool
) -> np.ndarray:
    """Turn (L, 3·P·P) tokens into (L, P, P, 3) `uint8` pixels."""
    settings = {
        name: processor_kwargs.get(name, getattr(processor, name))
        for name in ("do_normalize", "do_rescale", "rescale_factor", "image_mean", "image_std")
    }
    side = int((tokens.shape[-1] // 3) ** 0.5)
    pixels = tokens.detach().cpu().float().reshape(-1, 3, side, side)
    if settings["do_normalize"]:
        mean, std = (torch.tensor(settings[name]).view(3, 1, 1) for name in ("image_mean", "image_std"))
        pixels = pixels * std + mean
    if is_float:
        pixels = pixels * 255
    elif settings["do_rescale"]:
        pixels = pixels / settings["rescale_factor"]
    return pixels.permute(0, 2, 3, 1).round().clamp(0, 255).to(torch.uint8).numpy()


__all__ = ["Explanation", "SeenPhoto", "explain", "see"]
