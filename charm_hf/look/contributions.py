"""By how much each token moved a score, counted from another photo whose tokens lie at the same places.

Against an empty photo nearly every photo, the worst one too, is one that "raised the score". A blurred copy of the
photo keeps its colours and rough composition: what is left to explain is its detail, which can lower a score as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from .token_layout import TokenLayout


# What a photo is compared with -> standard deviation of the blur, as a share of the photo's longer edge.
BLURS = {"blurred": 0.1, "mean": np.inf}
AGAINST = (*BLURS, "empty")
METHODS = ("gradients", "occlusion")
# Windows along the longer edge that occlusion hides, and how many hidings are scored at once.
_WINDOWS, _BATCH = 10, 16


def comparison_tokens(pixel_values: torch.Tensor, layout: TokenLayout, against: str) -> torch.Tensor:
    """The tokens of the photo that another is compared with, each of one colour.

    Args:
        pixel_values: (L, 3·P·P) normalized tokens.
        layout: their places.
        against: `"blurred"`, the photo under a Gaussian of a tenth of its longer edge; `"mean"`, its mean colour;
            `"empty"`, zeros, which after normalization is the mean colour of what the encoder was trained on.

    Raises:
        ValueError: for another name.
    """
    if against not in AGAINST:
        raise ValueError(f"`against` must be one of {', '.join(AGAINST)}, got {against!r}.")
    if against == "empty":
        return torch.zeros_like(pixel_values)
    distances = ((layout.centres[:, None] - layout.centres[None]) ** 2).sum(-1)
    weights = layout.areas * np.exp(-distances / (2 * BLURS[against] ** 2))
    weights = torch.from_numpy(weights / weights.sum(1, keepdims=True)).to(pixel_values)
    colours = weights @ pixel_values.unflatten(1, (3, -1)).mean(-1)
    return colours[..., None].expand(-1, -1, pixel_values.shape[1] // 3).flatten(1)


def gradient_contributions(model: Any, inputs: Mapping[str, Any], other: torch.Tensor, steps: int = 8) -> np.ndarray:
    """Integrated gradients (Sundararajan et al. 2017) on the straight way from other tokens to those of one photo.

    Gradient × change, by the trapezoidal rule, summed over a token's pixels. What a step of that rule misses of the
    change of the score is shared out by the size of its parts, so that the parts sum to the difference between the two
    scores; the more steps, the less there is to share out.

    Args:
        model: gives `scores`.
        inputs: of one photo.
        other: (L, 3·P·P), the tokens to start from.
        steps: of the way.

    Returns:
        (L,) float64 in the data set's own units.
    """
    rest = {name: value for name, value in inputs.items() if name != "pixel_values"}
    start, change = other[None], inputs["pixel_values"].detach() - other
    parts = torch.zeros(change.shape[1], dtype=torch.float64)
    last: tuple[torch.Tensor, float] | None = None
    with torch.inference_mode(False), torch.enable_grad():
        for step in range(steps + 1):
            here = (start + change * (step / steps)).requires_grad_()
            score = model(pixel_values=here, **rest)["scores"].sum()
            slope = (torch.autograd.grad(score, here)[0] * change)[0].double().sum(-1).cpu() / steps
            if last is not None:
                part = (last[0] + slope) / 2
                missed = score.item() - last[1] - part.sum()
                parts += part + missed * part.abs() / part.abs().sum().clamp(min=1e-300)
            last = slope, score.item()
    return parts.numpy()


@torch.inference_mode()
def occlusion_contributions(
    model: Any, inputs: Mapping[str, Any], other: torch.Tensor, layout: TokenLayout
) -> np.ndarray:
    """By how much the score falls when one window of a photo becomes that of the other; slower than gradients.

    A window is a tenth of the longer edge wide; its tokens share its part by their areas. Windows are hidden one at a
    time, so that the parts do not sum to the difference between the two scores.

    Returns:
        (L,) float64 in the data set's own units.
    """
    windows, mine = np.unique((layout.centres * _WINDOWS).astype(int), axis=0, return_inverse=True)
    mine = mine.reshape(-1)
    hidden = torch.from_numpy(mine[None] == np.arange(len(windows))[:, None]).to(other.device)
    rest = {name: value for name, value in inputs.items() if name != "pixel_values"}
    pixels = inputs["pixel_values"]

    def scores(masks: torch.Tensor) -> Iterator[float]:
        for some in masks.split(_BATCH):
            same = {name: value.expand(len(some), *value.shape[1:]) for name, value in rest.items()}
            yield from model(pixel_values=torch.where(some[..., None], other, pixels), **same)["scores"].tolist()

    whole, *without = scores(torch.cat([torch.zeros_like(hidden[:1]), hidden]))
    areas = layout.areas / np.bincount(mine, weights=layout.areas)[mine]
    return (whole - np.array(without))[mine] * areas


__all__ = ["AGAINST", "METHODS", "comparison_tokens", "gradient_contributions", "occlusion_contributions"]
