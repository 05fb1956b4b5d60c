"""What the model saw of a photo, and what moved its score: `charm-hf explain PHOTO -o out.png`.

Everything is computed from the tokens themselves (`pixel_values`, `scale_ids`, `patch_positions`, `spatial_shapes`),
not from a second run of the selection, so that the picture shows what the model was given.

Vocabulary: the *canvas* is the photo as it was cut into tokens, after resizing, cropping and padding. Its pixels are
those of the finest scale; a token of a coarser scale covers more of them than it holds.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter

from ..models.image_loading_charm import array_to_tensor, load_image
from ..models.pipeline_image_aesthetics import ImageAestheticsPipeline


# Shown where a token was dropped (`overflow="drop"`).
_NO_TOKEN = 128


@dataclass(frozen=True, eq=False)
class SeenPhoto:
    """One photo and the tokens that it became.

    Attributes:
        photo: upright RGB photo at its own size.
        area: left, top, right, bottom of the canvas in pixels of the photo; may reach beyond its right and bottom.
        received: the canvas drawn back from the tokens, each at its place, enlarged from its scale.
        scale_ids: (L,) scale of each token, 0 = coarsest.
        patch_positions: (L, 2) row and column of each token in the grid of its own scale.
        spatial_shapes: (num_scales, 2) rows and columns of each scale's grid; (0, 0) for a scale not in use.
    """

    photo: Image.Image
    area: tuple[float, float, float, float]
    received: Image.Image
    scale_ids: np.ndarray
    patch_positions: np.ndarray
    spatial_shapes: np.ndarray

    @property
    def tokens_per_scale(self) -> tuple[int, ...]:
        """Number of tokens of each scale, coarsest first."""
        return tuple(np.bincount(self.scale_ids, minlength=len(self.spatial_shapes)).tolist())

    def kept(self, scale: int) -> np.ndarray:
        """Which cells of a scale's grid hold a token: (rows, columns) of `bool`."""
        return token_mask(scale, self.scale_ids, self.patch_positions, self.spatial_shapes)

    def to_image(self) -> Image.Image:
        """Draw the panels beside each other: what was kept, what was received, and what is known beyond."""
        from .explain_picture import draw_panels

        return draw_panels(self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the panels as a picture, PNG unless the name ends otherwise."""
        self.to_image().save(path, format=None if os.path.splitext(path)[1] else "PNG")


@dataclass(frozen=True, eq=False)
class Explanation(SeenPhoto):
    """A photo, its tokens, and what each of them did to the score.

    Attributes:
        contributions: (L,) by how much each token moved the score, in the data set's units; above 0 it raised it.
        result: what [`ImageAestheticsPipeline`] says of the photo: `score`, `std`, `distribution`, …
        score_range: lowest and highest possible score.
        score_values: centres of the rating bins; `None` for a regression head.
    """

    contributions: np.ndarray
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
        return heat_map(self.contributions, self.scale_ids, self.patch_positions, self.spatial_shapes)


def see(image: Any, processor: Any, **processor_kwargs: Any) -> SeenPhoto:
    """Show what becomes of a photo before a model sees it; see [`explain`] for the arguments."""
    return _see(image, processor, processor_kwargs)[0]


def explain(
    image: Any, model: Any, processor: Any, *, steps: int = 8, num_views: int = 1, **processor_kwargs: Any
) -> Explanation:
    """Show what a Charm model saw of a photo and which tokens moved its score.

    Args:
        image: one photo, in any form that [`CharmImageProcessor`] takes.
        model: a [`CharmForAestheticScoring`]; it is put into eval mode.
        processor: the checkpoint's [`CharmImageProcessor`].
        steps: gradients averaged on the way from an empty photo to this one (integrated gradients, Sundararajan et
            al. 2017). 1 is plain gradient × input; the more, the closer the contributions sum to the difference
            between the two scores.
        num_views: above 1, also score this many random selections and give their standard deviation as `spread`.
        processor_kwargs: parameters of the processor for this photo, such as `patch_selection` or `saliency_maps`.

    Raises:
        ValueError: for a photo that cannot be read, and for a model that does not take Charm tokens.
    """
    if steps < 1:
        raise ValueError(f"`steps` must be at least 1, got {steps}.")
    if model.config.model_type != "charm":
        raise ValueError(
            f"Expected a Charm model, got {type(model).__name__}; `see(image, processor)` shows the tokens alone."
        )
    seen, source, inputs = _see(image, processor, processor_kwargs)
    model.eval()
    pipeline = ImageAestheticsPipeline(model=model, image_processor=processor)
    result = pipeline(source, **processor_kwargs)
    if num_views > 1:
        result["spread"] = pipeline(source, num_views=num_views, **processor_kwargs)["spread"]
    config = model.config
    return Explanation(
        **vars(seen),
        contributions=token_contributions(model, inputs, steps),
        result=result,
        score_range=tuple(config.score_range),
        score_values=None if config.score_values is None else tuple(config.score_values),
    )


def _see(image: Any, processor: Any, processor_kwargs: dict[str, Any]) -> tuple[SeenPhoto, Any, Any]:
    """The photo with its tokens, the image to score, and the processor's output for it."""
    if not hasattr(processor, "covered_area"):
        raise ValueError(f"Expected a processor that makes Charm tokens, got {type(processor).__name__}.")
    is_array = isinstance(image, (np.ndarray, torch.Tensor))
    photo = _photo_of_array(image, processor_kwargs) if is_array else load_image(image)
    source = image if is_array else photo
    inputs = processor(source, return_tensors="pt", **processor_kwargs)
    is_float = is_array and array_to_tensor(image, "the image").is_floating_point()
    pixels = _undo_normalization(inputs["pixel_values"][0], processor, processor_kwargs, is_float)
    layout = [inputs[name][0].cpu().numpy() for name in ("scale_ids", "patch_positions", "spatial_shapes")]
    sizes = {name: value for name, value in processor_kwargs.items() if name != "saliency_maps"}
    area = processor.covered_area(photo.height, photo.width, **sizes)
    return SeenPhoto(photo, area, Image.fromarray(draw_tokens(pixels, *layout)), *layout), source, inputs


def token_contributions(model: Any, inputs: Any, steps: int = 1) -> np.ndarray:
    """By how much each token of one photo moved the score: gradient × input, summed over the token's pixels.

    The input is counted from 0, which after normalization is the mean colour: an empty photo. With more steps the
    gradient is averaged along the straight way from there.

    Returns:
        (L,) float64 in the data set's own units.
    """
    device = next(model.parameters()).device
    inputs = {name: value.to(device) for name, value in inputs.items()}
    pixels = inputs.pop("pixel_values").detach()
    gradient = torch.zeros_like(pixels)
    with torch.inference_mode(False), torch.enable_grad():
        for step in range(1, steps + 1):
            scaled = (pixels * (step / steps)).requires_grad_()
            score = model(pixel_values=scaled, **inputs)["scores"].sum()
            gradient += torch.autograd.grad(score, scaled)[0]
    return (pixels * gradient / steps)[0].double().sum(-1).cpu().numpy()


def finest_scale(spatial_shapes: np.ndarray) -> int:
    """Highest scale in use, given (num_scales, 2) grids."""
    return int(np.flatnonzero(spatial_shapes.prod(-1))[-1])


def token_mask(
    scale: int, scale_ids: np.ndarray, patch_positions: np.ndarray, spatial_shapes: np.ndarray
) -> np.ndarray:
    """Which cells of a scale's grid hold a token: (rows, columns) of `bool`."""
    mask = np.zeros(spatial_shapes[scale], dtype=bool)
    rows, columns = patch_positions[scale_ids == scale].T
    mask[rows, columns] = True
    return mask


def draw_tokens(
    pixels: np.ndarray, scale_ids: np.ndarray, patch_positions: np.ndarray, spatial_shapes: np.ndarray
) -> np.ndarray:
    """Put every token back at its place on the canvas, enlarged without smoothing.

    Args:
        pixels: (L, P, P, 3) `uint8`.
        scale_ids: (L,). patch_positions: (L, 2). spatial_shapes: (num_scales, 2).

    Returns:
        (H, W, 3) `uint8`, `H` and `W` being P times the finest grid; grey where there is no token.
    """
    patch_size = pixels.shape[1]
    height, width = spatial_shapes[finest_scale(spatial_shapes)] * patch_size
    canvas = np.full((height, width, 3), _NO_TOKEN, dtype=np.uint8)
    for scale, (rows, columns) in enumerate(spatial_shapes):
        mine = scale_ids == scale
        if not mine.any():
            continue
        # The scale's own small picture, enlarged by taking for each canvas pixel the one that it lies in.
        small = np.zeros((rows, columns, patch_size, patch_size, 3), dtype=np.uint8)
        small[tuple(patch_positions[mine].T)] = pixels[mine]
        small = small.transpose(0, 2, 1, 3, 4).reshape(rows * patch_size, columns * patch_size, 3)
        down = np.arange(height) * (rows * patch_size) // height
        across = np.arange(width) * (columns * patch_size) // width
        mask = token_mask(scale, scale_ids, patch_positions, spatial_shapes)
        where = mask[down // patch_size][:, across // patch_size]
        canvas[where] = small[down][:, across][where]
    return canvas


def heat_map(
    contributions: np.ndarray,
    scale_ids: np.ndarray,
    patch_positions: np.ndarray,
    spatial_shapes: np.ndarray,
    smoothing: float = 1.0,
) -> np.ndarray:
    """Lay the contributions of all scales over one grid, the finest: (rows, columns).

    Each token's contribution is spread evenly over the area that it covers, then smoothed by a Gaussian of `smoothing`
    cells. The sum stays that of the contributions.
    """
    height, width = spatial_shapes[finest_scale(spatial_shapes)]
    heat = np.zeros((height, width))
    for scale, (rows, columns) in enumerate(spatial_shapes):
        mine = scale_ids == scale
        if not mine.any():
            continue
        grid = np.zeros((rows, columns))
        grid[tuple(patch_positions[mine].T)] = contributions[mine]
        heat += _shares(height, rows) @ grid @ _shares(width, columns).T
    return gaussian_filter(heat, smoothing) if smoothing > 0 else heat


def _shares(fine: int, coarse: int) -> np.ndarray:
    """(fine, coarse): the share of each of `coarse` equal intervals that falls into each of `fine` equal ones."""
    edges_fine, edges_coarse = np.linspace(0, 1, fine + 1), np.linspace(0, 1, coarse + 1)
    ends = np.minimum(edges_fine[1:, None], edges_coarse[None, 1:])
    starts = np.maximum(edges_fine[:-1, None], edges_coarse[None, :-1])
    return np.clip(ends - starts, 0, None) * coarse


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


__all__ = ["Explanation", "SeenPhoto", "explain", "heat_map", "see", "token_contributions"]
