"""How Charm turns an image into tokens of several scales (Behrad et al., CVPR 2025, section 3): pure tensor functions.

Vocabulary: the image is cut into square *regions* of the largest region size; a region that matters keeps its full
resolution, the others are shrunk; every region is then cut into *tokens* of `patch_size` pixels. Scale 0 is the
coarsest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F


# Tokens that the released code spends on high-resolution regions, per number of scales: 512 for two, 768 for three.
HIGH_RESOLUTION_BUDGET_PER_SCALE = 256


@lru_cache(maxsize=64)
def region_sizes(patch_size: int, num_scales: int, downscale_factor: float) -> tuple[int, ...]:
    """Region sizes in pixels, coarsest first: `int(factor_s · 2^(n-1) · P)` for factors evenly spaced from f to 1.

    Raises:
        ValueError: if a region would not hold a whole number of tokens.
    """
    top = 2 ** (num_scales - 1) * patch_size
    if num_scales == 1:
        return (top,)
    step = (1.0 - downscale_factor) / (num_scales - 1)
    # Rounded before it is truncated: 0.8 * 5 is 4, not 3.
    sizes = tuple(int(round((downscale_factor + step * scale) * top, 6)) for scale in range(num_scales))
    if any(size % patch_size or size == 0 for size in sizes) or len(set(sizes)) < num_scales:
        raise ValueError(
            f"`downscale_factor={downscale_factor}` gives regions of {sizes} pixels for {num_scales} scales; each "
            f"must be another multiple of the patch size {patch_size}."
        )
    return sizes


@dataclass(frozen=True)
class TokenPlan:
    """What an image of one size becomes, before its content is looked at.

    Attributes:
        height, width: size in pixels after cropping and zero-padding at the right and the bottom.
        sizes: region size of each scale, coarsest first; a single scale means every patch is kept as it is.
        region_grid: rows and columns of regions (of tokens, for a single scale).
        regions_per_scale: number of regions shown at each scale, coarsest first.
        num_tokens: length of the token sequence.
        grids: rows and columns of each scale's token grid; (0, 0) for a scale that the image does not use.
    """

    height: int
    width: int
    patch_size: int
    sizes: tuple[int, ...]
    region_grid: tuple[int, int]
    regions_per_scale: tuple[int, ...]
    num_tokens: int
    grids: tuple[tuple[int, int], ...]

    @property
    def is_multiscale(self) -> bool:
        """Whether regions are shown at different scales."""
        return len(self.sizes) > 1


@lru_cache(maxsize=4096)
def plan_tokens(
    height: int, width: int, patch_size: int, num_scales: int, downscale_factor: float, max_num_patches: int
) -> TokenPlan:
    """Decide between native and multi-scale tokens and count them; pixels are not needed for it.

    An image of at most `max_num_patches + 1` patches keeps them all (the released rule counts CLS into the length).
    Otherwise both sides become multiples of the least common multiple of the region sizes, by cropping or by padding,
    whichever touches the smaller corner area; a side is never cropped to nothing.
    """
    sizes = region_sizes(patch_size, num_scales, downscale_factor)
    rows, columns = math.ceil(height / patch_size), math.ceil(width / patch_size)
    if num_scales == 1 or rows * columns <= max_num_patches + 1:
        return TokenPlan(
            rows * patch_size,
            columns * patch_size,
            patch_size,
            (patch_size,),
            (rows, columns),
            (rows * columns,),
            rows * columns,
            ((rows, columns), *((0, 0),) * (num_scales - 1)),
        )
    height, width = _fit_to_multiple(height, width, math.lcm(*sizes))
    region_rows, region_columns = height // sizes[-1], width // sizes[-1]
    counts = _regions_per_scale(region_rows * region_columns, num_scales, max_num_patches)
    return TokenPlan(
        height,
        width,
        patch_size,
        sizes,
        (region_rows, region_columns),
        counts,
        sum(count * (size // patch_size) ** 2 for count, size in zip(counts, sizes, strict=True)),
        tuple((region_rows * (size // patch_size), region_columns * (size // patch_size)) for size in sizes),
    )


def _fit_to_multiple(height: int, width: int, multiple: int) -> tuple[int, int]:
    crop_height, crop_width = height % multiple, width % multiple
    pad_height, pad_width = -height % multiple, -width % multiple
    cropping_is_smaller = (pad_width or 1) * (pad_height or 1) > (crop_width or 1) * (crop_height or 1)
    if cropping_is_smaller and height > crop_height and width > crop_width:
        return height - crop_height, width - crop_width
    return height + pad_height, width + pad_width


def _regions_per_scale(num_regions: int, num_scales: int, max_num_patches: int) -> tuple[int, ...]:
    """Every scale but the coarsest gets `int((S/n) / 4^(n-1))` regions; S never exceeds the sequence length."""
    budget = min(HIGH_RESOLUTION_BUDGET_PER_SCALE * num_scales, max_num_patches)
    count = int(budget / num_scales / 4 ** (num_scales - 1))
    counts = [0] * num_scales
    for scale in range(num_scales - 1, 0, -1):
        counts[scale] = min(count, num_regions)
        num_regions -= counts[scale]
    counts[0] = num_regions
    return tuple(counts)


def pad_or_crop(image: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Crop and zero-pad a (C, H, W) image at the right and the bottom to the given size."""
    image = image[:, :height, :width]
    padding = (0, width - image.shape[2], 0, height - image.shape[1])
    return F.pad(image, padding) if any(padding) else image


def split_into_tiles(image: torch.Tensor, size: int) -> torch.Tensor:
    """View a (C, H, W) image as (H/size, W/size, C, size, size) tiles, without copying."""
    channels, height, width = image.shape
    tiles = image.reshape(channels, height // size, size, width // size, size)
    return tiles.permute(1, 3, 0, 2, 4)


# ---------------------------------------------------------------------------------------------------------------------
# Importance of regions. Each takes an image whose sides are multiples of `size` and gives one number a region, row-
# major.


def to_unit_range(image: torch.Tensor) -> torch.Tensor:
    """Float32 pixels in [0, 1] of a `uint8` or float image."""
    return image.float() if image.is_floating_point() else image.float() / 255


def frequency_importance(image: torch.Tensor, size: int) -> torch.Tensor:
    """Mean of `20·log10|FFT|` over channels and frequencies; a flat region gives -inf.

    Only half of the spectrum is computed: a real signal's other half has the same magnitudes, so that its columns
    count twice.
    """
    tiles = split_into_tiles(to_unit_range(image), size).flatten(0, 1).contiguous()
    spectrum = torch.view_as_real(torch.fft.rfft2(tiles))
    power = spectrum.square().sum(-1)
    weights = torch.full((power.shape[-1],), 2.0, device=power.device)
    weights[0] = 1.0
    if size % 2 == 0:
        weights[-1] = 1.0
    decibels = power.log10().mul_(10).sum(dim=(1, 2)) @ weights
    return decibels / (tiles.shape[1] * size * size)


def entropy_importance(image: torch.Tensor, size: int) -> torch.Tensor:
    """`-Σ p·log2(p + 1e-9)` of the 256-bin histogram over [0, 1] of all channels together."""
    levels = (image.detach() * 256).clamp(0, 255) if image.is_floating_point() else image
    tiles = split_into_tiles(levels, size).flatten(0, 1)
    bins = tiles.flatten(1).long()
    bins += torch.arange(len(bins), device=bins.device)[:, None] * 256
    counts = torch.bincount(bins.flatten(), minlength=len(bins) * 256)
    probabilities = torch.arange(bins.shape[1] + 1, device=bins.device, dtype=torch.float32) / bins.shape[1]
    terms = -probabilities * torch.log2(probabilities + 1e-9)
    return terms[counts].view(len(bins), 256).sum(1)


def gradient_importance(image: torch.Tensor, size: int) -> torch.Tensor:
    """Sum of Sobel gradient magnitudes of the channel mean; each region alone, its border padded with zeros."""
    grey = to_unit_range(image).mean(0, keepdim=True)
    tiles = F.pad(split_into_tiles(grey, size).flatten(0, 2), (1, 1, 1, 1))
    smoothed_down = tiles[:, :-2] + 2 * tiles[:, 1:-1] + tiles[:, 2:]
    smoothed_across = tiles[:, :, :-2] + 2 * tiles[:, :, 1:-1] + tiles[:, :, 2:]
    across = smoothed_down[:, :, 2:] - smoothed_down[:, :, :-2]
    down = smoothed_across[:, 2:] - smoothed_across[:, :-2]
    return torch.sqrt(across.square() + down.square()).sum(dim=(1, 2))


def saliency_importance(saliency_map: torch.Tensor, size: int) -> torch.Tensor:
    """Share of salient pixels (> 0) of each region of a (1, H, W) map; a region counts as salient if it is above 0."""
    return split_into_tiles((saliency_map > 0).float(), size).flatten(0, 1).mean(dim=(1, 2, 3))


IMPORTANCE = {
    "frequency": frequency_importance,
    "entropy": entropy_importance,
    "gradient": gradient_importance,
}


# ---------------------------------------------------------------------------------------------------------------------
# From importance to tokens.


def rank_regions(
    importance: torch.Tensor, counts: tuple[int, ...], generator: torch.Generator | None = None
) -> torch.Tensor:
    """Order the regions so that those of the highest scale come first, then those of the next lower scale, and so on.

    Without a generator the most important regions get the highest scale. With one, as in the released training code,
    the highest scale is drawn from twice as many regions as it takes, and each scale below from the next ranks.

    Args:
        importance: (R,) one number a region; NaN is not allowed, -inf is. Equal regions keep their order.
        counts: number of regions of each scale, coarsest first.

    Returns:
        (R,) indices of regions.
    """
    ranked = torch.argsort(importance, descending=True, stable=True)
    if generator is None:
        return ranked
    drawn: list[torch.Tensor] = []
    for level, count in enumerate(reversed(counts[1:])):
        # The highest scale is drawn from ranks 0…2k, the next from 2k…4k; what falls short is filled from the top.
        pool, rest = _split_pool(ranked, drawn, start=2 * count * level, size=2 * count)
        shuffled = pool[torch.randperm(len(pool), generator=generator).to(pool.device)]
        drawn.append(torch.cat([shuffled, rest])[:count])
    return torch.cat([*drawn, _without(ranked, drawn)])


def count_ranks(counts: tuple[int, ...], stochastic: bool) -> int:
    """Number of first ranks on which `rank_regions` depends: what ranks below them, and in which order, is all one."""
    return 2 * (len(counts) - 1) * max(counts[1:]) if stochastic else sum(counts[1:])


def _split_pool(
    ranked: torch.Tensor, drawn: list[torch.Tensor], start: int, size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    pool = ranked[start : start + size]
    return pool, _without(ranked, [*drawn, pool])


def _without(indices: torch.Tensor, taken: list[torch.Tensor]) -> torch.Tensor:
    return indices if not taken else indices[~torch.isin(indices, torch.cat(taken))]


def draw_salient(share: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Turn shares of salient pixels into an order: salient regions at random, then the others at random."""
    noise = torch.rand(len(share), generator=generator).to(share.device)
    return (share > 0).float() + noise


@lru_cache(maxsize=64)
def resize_matrix(size_in: int, size_out: int) -> torch.Tensor:
    """(out, in) matrix of torch's bicubic resampling (no antialiasing, half-pixel centres, clamped border).

    Resampling is linear and separable: `M @ region @ M.T` shrinks a region on its own, and one matrix serves all.
    """
    identity = torch.eye(size_in)[None, None]
    return F.interpolate(identity, size=(size_out, size_in), mode="bicubic", align_corners=False)[0, 0]


def shrink_regions(regions: torch.Tensor, size: int) -> torch.Tensor:
    """Bicubically resize (N, C, S, S) float regions to (N, C, size, size), each region alone."""
    matrix = resize_matrix(regions.shape[-1], size).to(regions)
    return matrix @ (regions @ matrix.T)


def patchify(regions: torch.Tensor, patch_size: int) -> torch.Tensor:
    """Cut (N, C, S, S) regions into (N·(S/P)², C·P·P) tokens, row-major inside a region, channel first in a token."""
    num_regions, channels, size, _ = regions.shape
    per_side = size // patch_size
    tokens = regions.reshape(num_regions, channels, per_side, patch_size, per_side, patch_size)
    return tokens.permute(0, 2, 4, 1, 3, 5).reshape(-1, channels * patch_size * patch_size)


@dataclass(frozen=True)
class TokenLayout:
    """Where the tokens of one image stand, coarsest scale first, regions row-major within a scale.

    NumPy, because so many small steps cost it a fraction of what they cost torch.

    Attributes:
        regions_of_scale: indices, ascending, of the regions shown at each scale of the plan.
        scale_ids: (L,). positions: (L, 2), row and column in each token's own scale.
    """

    regions_of_scale: list[np.ndarray]
    scale_ids: np.ndarray
    positions: np.ndarray


def lay_out_tokens(plan: TokenPlan, ranked: np.ndarray | None) -> TokenLayout:
    """Order the tokens of an image.

    Args:
        ranked: (R,) regions; the first `plan.regions_per_scale[-1]` are shown at the highest scale, those that follow
            at the next lower one, and so on. `None` for native tokens.
    """
    if ranked is None:
        ranked = np.arange(plan.regions_per_scale[0])
    ends = np.cumsum(plan.regions_per_scale[::-1])
    regions_of_scale = [np.sort(regions) for regions in np.split(ranked, ends[:-1])][::-1]
    sides = [size // plan.patch_size for size in plan.sizes]
    lengths = [len(regions) * side * side for regions, side in zip(regions_of_scale, sides, strict=True)]
    positions = [
        _token_positions(regions, plan.region_grid[1], side)
        for regions, side in zip(regions_of_scale, sides, strict=True)
    ]
    return TokenLayout(regions_of_scale, np.repeat(np.arange(len(sides)), lengths), np.concatenate(positions))


def _token_positions(regions: np.ndarray, region_columns: int, per_side: int) -> np.ndarray:
    """Rows and columns, in the token grid of a scale, of the tokens of the given regions: (N·per_side², 2)."""
    positions = np.empty((len(regions), per_side, per_side, 2), dtype=np.int64)
    inside = np.arange(per_side)
    rows, columns = np.divmod(regions, region_columns)
    positions[..., 0] = rows[:, None, None] * per_side + inside[:, None]
    positions[..., 1] = columns[:, None, None] * per_side + inside
    return positions.reshape(-1, 2)


def cut_tokens(image: torch.Tensor, plan: TokenPlan, layout: TokenLayout) -> torch.Tensor:
    """Cut a (C, H, W) image of the plan's size into (L, C·P·P) float32 tokens, in the image's own range.

    A float image's gradient flows into the tokens.
    """
    tiles = split_into_tiles(image, plan.sizes[-1]).flatten(0, 1)
    tokens = []
    for regions, size in zip(layout.regions_of_scale, plan.sizes, strict=True):
        pixels = tiles[torch.from_numpy(regions).to(tiles.device)].float()
        if size != plan.sizes[-1]:
            pixels = shrink_regions(pixels, size)
        tokens.append(patchify(pixels, plan.patch_size))
    return torch.cat(tokens)
