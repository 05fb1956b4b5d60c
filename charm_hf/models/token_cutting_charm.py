"""From pixels, a plan and ranked regions to tokens: in torch, for every device and with gradients, and in NumPy.

The NumPy form, `cut_pixels`, is for 8-bit pixels in main memory: the same numbers, several times faster.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F

from .patch_selection_charm import split_into_tiles, strips_of
from .plan_charm import PhotoPlan, ScalePlan


# Regions of full resolution that are copied at once: as many as keep what is computed from them in the cache.
REGIONS_AT_ONCE = 32


def pad_or_crop(image: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Crop and zero-pad a (C, H, W) image at the right and the bottom to the given size."""
    image = image[:, :height, :width]
    padding = (0, width - image.shape[2], 0, height - image.shape[1])
    return F.pad(image, padding) if any(padding) else image


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # what is kept may be part of a gradient later
def resize_matrix(size_in: int, size_out: int) -> torch.Tensor:
    """(out, in) matrix of torch's bicubic resampling (half-pixel centres, clamped border).

    Resampling is linear and separable: `M @ region @ M.T` shrinks a region on its own, and one matrix serves all. As
    released there is no antialiasing, which a shrinking to less than half would need.
    """
    identity = torch.eye(size_in)[None, None]
    antialias = size_in > 2 * size_out
    return F.interpolate(identity, size=(size_out, size_in), mode="bicubic", align_corners=False, antialias=antialias)[
        0, 0
    ]


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


def lay_out_tokens(plan: PhotoPlan, ranked: np.ndarray | None) -> TokenLayout:
    """Order the tokens of an image.

    Args:
        ranked: (R,) regions; the first of them are shown at the highest scale, as many as the plan says, those that
            follow at the next lower one, and so on. `None` if the plan chooses none.
    """
    if ranked is None:
        regions_of_scale = [np.arange(scale.count) for scale in plan.scales]
    else:
        ends = np.cumsum(plan.counts[::-1])
        regions_of_scale = [np.sort(regions) for regions in np.split(ranked, ends[:-1])][::-1]
        if plan.thumbnail is not None:
            regions_of_scale[0] = np.arange(plan.scales[0].count)
    sides = [scale.shown // plan.patch_size for scale in plan.scales]
    lengths = [len(regions) * side * side for regions, side in zip(regions_of_scale, sides, strict=True)]
    positions = [
        _token_positions(regions, scale.grid[1] // side, side)
        for regions, scale, side in zip(regions_of_scale, plan.scales, sides, strict=True)
        if len(regions)
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


def cut_tokens(
    image: torch.Tensor, thumbnail: torch.Tensor | None, plan: PhotoPlan, layout: TokenLayout
) -> torch.Tensor:
    """Cut a (C, H, W) image of the plan's size, and the thumbnail beside it, into (L, C·P·P) float32 tokens.

    They are in the image's own range. A float image's gradient flows into the tokens.
    """
    tokens = []
    for number, (regions, scale) in enumerate(zip(layout.regions_of_scale, plan.scales, strict=True)):
        if not len(regions):
            continue
        picture = thumbnail if thumbnail is not None and number == 0 else image
        tiles = split_into_tiles(picture, scale.region).flatten(0, 1)
        pixels = tiles[torch.from_numpy(regions).to(tiles.device)].float()
        if scale.shown != scale.region:
            pixels = shrink_regions(pixels, scale.shown)
        tokens.append(patchify(pixels, plan.patch_size))
    return torch.cat(tokens)


# ---------------------------------------------------------------------------------------------------------------------
# The fast form. Pixels come as planes, (3, H, W) `uint8`, whose rows are contiguous.


def cut_pixels(
    planes: np.ndarray,
    thumbnail: np.ndarray | None,
    plan: PhotoPlan,
    layout: TokenLayout,
    factor: np.ndarray,
    offset: np.ndarray,
) -> np.ndarray:
    """`cut_tokens` of planes, as (L, 3·P·P) float32 tokens of `factor · pixel + offset`, (3,) float32 each."""
    patch = plan.patch_size
    tokens = np.empty((len(layout.scale_ids), 3, patch, patch), dtype=np.float32)
    start = 0
    for number, (regions, scale) in enumerate(zip(layout.regions_of_scale, plan.scales, strict=True)):
        picture = thumbnail if thumbnail is not None and number == 0 else planes
        side = scale.shown // patch
        own = tokens[start : start + len(regions) * side * side].reshape(-1, side, side, 3, patch, patch)
        write = _write_full if scale.shown == scale.region else _write_shrunk
        write(picture, scale, regions, factor, offset, own)
        start += len(regions) * side * side
    return tokens.reshape(len(tokens), -1)


def _write_full(
    planes: np.ndarray, scale: ScalePlan, regions: np.ndarray, factor: np.ndarray, offset: np.ndarray, out: np.ndarray
) -> None:
    size, patch = scale.region, out.shape[-1]
    rows = _items(out)
    columns = planes.shape[2] // size
    items = planes.view(f"V{size}").reshape(3, -1, size, columns)
    for start in range(0, len(regions), REGIONS_AT_ONCE):
        some = regions[start : start + REGIONS_AT_ONCE]
        tiles = items[:, some // columns, :, some % columns].view(np.uint8).reshape(-1, 3, size, size)
        tiles = tiles * factor[:, None, None]
        tiles += offset[:, None, None]
        tiles = tiles.reshape(-1, 3, size // patch, patch, size // patch, patch)
        rows[start : start + REGIONS_AT_ONCE] = _items(tiles).transpose(0, 2, 4, 1, 3)


def _write_shrunk(
    planes: np.ndarray, scale: ScalePlan, regions: np.ndarray, factor: np.ndarray, offset: np.ndarray, out: np.ndarray
) -> None:
    """Shrink whole strips, of which nearly every region is wanted, and keep those that are."""
    size, side, patch = scale.region, out.shape[1], out.shape[-1]
    rows, columns = planes.shape[1] // size, planes.shape[2] // size
    shrink_down, across = _shrinker(size, scale.shown, planes.shape[2])
    across = factor[:, None, None, None] * across
    shrunk = np.empty((3, side, patch, columns, side, patch), dtype=np.float32)
    wanted = _items(shrunk).transpose(3, 1, 4, 0, 2)
    kept = _items(out)
    bounds = np.searchsorted(regions, np.arange(0, rows + 1) * columns)
    for row, strip in enumerate(strips_of(planes, size)):
        first, last = bounds[row], bounds[row + 1]
        if first == last:
            continue
        # A product a row of pixels: so small that no BLAS starts threads for it.
        cells = shrink_down(strip).reshape(3, scale.shown, columns, size)
        np.matmul(cells, across, out=shrunk.reshape(3, scale.shown, columns, scale.shown))
        shrunk += offset[:, None, None, None, None, None]
        kept[first:last] = wanted if last - first == columns else wanted[regions[first:last] % columns]


def _shrinker(size: int, shown: int, width: int) -> tuple[Callable[[np.ndarray], np.ndarray], np.ndarray]:
    """Give a function that shrinks (3, size, width) strips downwards, and a (size, shown) matrix for across."""
    matrix = resize_matrix(size, shown).numpy()
    down = np.empty((3, shown, width), dtype=np.float32)
    if size == 2 * shown > 2:
        # Four taps a row, the same for each, in 32nds: exact in 16-bit integers, which take half a float's room.
        pixels = np.empty((3, size, width), dtype=np.int16)
        near, far = np.empty_like(pixels[:, ::2]), np.empty_like(pixels[:, ::2])
        upper, lower = pixels[:, ::2], pixels[:, 1::2]

        def halve(strip: np.ndarray) -> np.ndarray:
            pixels[:] = strip
            np.add(upper, lower, out=near)
            np.add(lower[:, :-2], upper[:, 2:], out=far[:, 1:-1])
            # Beyond the border, the border goes on.
            np.add(upper[:, 0], upper[:, 1], out=far[:, 0])
            np.add(lower[:, -2], lower[:, -1], out=far[:, -1])
            np.multiply(near, 19, out=near)
            np.multiply(far, 3, out=far)
            np.subtract(near, far, out=near)
            down[:] = near
            return down

        return halve, matrix.T / 32

    floats = np.empty((3, size, width), dtype=np.float32)

    def multiply(strip: np.ndarray) -> np.ndarray:
        floats[:] = strip
        return np.matmul(matrix, floats, out=down)

    return multiply, matrix.T


def _items(array: np.ndarray) -> np.ndarray:
    """View an array (…, N) as one (…) whose items are rows of N: moving each alone costs more than its bytes do."""
    return array.view(f"V{array.dtype.itemsize * array.shape[-1]}")[..., 0]
