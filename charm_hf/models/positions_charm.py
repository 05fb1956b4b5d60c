"""Where a token stands in the grid of its scale, and its row of a table or its rotation there: pure tensor functions.

They hold for any grid, differentiate with respect to the table and trace without knowing sizes as numbers.
"""

from __future__ import annotations

import math
from contextlib import nullcontext

import torch


# How a table is resized to a grid: torch's bicubic, or with a filter that widens where the grid is smaller.
INTERPOLATIONS = ("bicubic", "antialiased bicubic", "antialiased bilinear")
# By how many rows and columns the released code overstates each grid when it interpolates.
REFERENCE_EXCESS = 0.1


def raster_order(scale_ids: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Give the i-th token of a scale the i-th position, in raster order, of all that scale's tokens.

    The released code lists tokens region by region but picks their position rows in raster order; checkpoints trained
    so need the same mismatch.

    Args:
        scale_ids, mask: (B, L). positions: (B, L, 2).

    Returns:
        (B, L, 2) permuted positions; padding stays behind.
    """
    columns = positions[..., 1].amax() + 1
    cells = (positions[..., 0].amax() + 1) * columns
    raster = positions[..., 0] * columns + positions[..., 1]
    # Tokens already come sorted by scale, so sorting by (scale, raster) permutes inside each scale only.
    key = torch.where(mask.bool(), scale_ids * cells + raster, torch.iinfo(torch.int64).max)
    order = key.argsort(dim=1, stable=True)
    return positions.gather(1, order[..., None].expand(-1, -1, 2))


def grid_sizes(scale_ids: torch.Tensor, spatial_shapes: torch.Tensor) -> torch.Tensor:
    """Rows and columns (B, L, 2) of the grid that each token stands in.

    Args:
        scale_ids: (B, L). spatial_shapes: (B, S, 2) rows and columns of each scale's grid.
    """
    return spatial_shapes.gather(1, scale_ids[..., None].expand(-1, -1, 2)).clamp(min=1).float()


def axis_weights(
    positions: torch.Tensor, sizes: torch.Tensor, table_size: int, interpolation: str = "bicubic"
) -> torch.Tensor:
    """Weights with which torch's interpolation mixes the entries of a table, along one axis.

    Args:
        positions: (...) rows, or columns, of the grid that the table is resized to.
        sizes: (...) number of rows of that grid, which need not be whole.
        table_size: number of the table's entries.
        interpolation: of `INTERPOLATIONS`.

    Returns:
        (..., table_size) float32, which add up to 1.
    """
    scale = (table_size / sizes)[..., None]
    centres = (positions[..., None] + 0.5) * scale - 0.5
    entries = torch.arange(table_size, device=centres.device, dtype=torch.float32)
    if interpolation != "bicubic":
        distances = (entries - centres) / scale.clamp(min=1)
        bilinear = interpolation == "antialiased bilinear"
        weights = (1 - distances.abs()).clamp(min=0) if bilinear else _cubic(distances, -0.5)
        return weights / weights.sum(-1, keepdim=True)
    taps = centres.floor() + torch.arange(-1, 3, device=centres.device)
    weights = _cubic(taps - centres, -0.75)
    hits = taps.clamp(0, table_size - 1)[..., None] == entries
    return (weights[..., None] * hits).sum(-2)


def _cubic(x: torch.Tensor, a: float) -> torch.Tensor:
    """Keys' cubic kernel."""
    x = x.abs()
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return torch.where(x <= 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


def sample_table(
    table: torch.Tensor, positions: torch.Tensor, sizes: torch.Tensor, interpolation: str = "bicubic"
) -> torch.Tensor:
    """Read a square table of position embeddings at the tokens' places, as if it were resized to each token's grid.

    Args:
        table: (S·S, d), row by row.
        positions: (B, L, 2) row and column of each token.
        sizes: (B, L, 2) rows and columns of its grid, which need not be whole.
        interpolation: of `INTERPOLATIONS`.

    Returns:
        (B, L, d) in the table's dtype.
    """
    side = int(table.shape[0] ** 0.5)
    rows, columns = axis_weights(positions, sizes, side, interpolation).unbind(-2)
    weights = (rows[..., :, None] * columns[..., None, :]).flatten(-2)
    # In float32 also under autocast, as the backbones interpolate.
    device = table.device.type
    with torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext():
        return (weights @ table.float()).to(table.dtype)


def patch_centres(positions: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
    """Row and column of the centres of patches, from -1 to 1 across the grid.

    Args:
        positions: (B, L, 2). sizes: (B, L, 2) rows and columns of the grids.
    """
    return 2 * (positions + 0.5) / sizes - 1


def jitter_centres(
    centres: torch.Tensor, shift: float | None, jitter: float | None, rescale: float | None
) -> torch.Tensor:
    """Move and stretch all centres (B, L, 2) of a batch by random amounts, as DINOv3 does in training.

    Args:
        shift: most that is added to an axis. jitter: most by which an axis is stretched. rescale: most by which both
            axes are stretched together. `None` for none.
    """
    if shift is not None:
        centres = centres + centres.new_empty(2).uniform_(-shift, shift)
    for most, axes in ((jitter, 2), (rescale, 1)):
        if most is not None:
            centres = centres * centres.new_empty(axes).uniform_(-math.log(most), math.log(most)).exp()
    return centres


def rotate_by(
    centres: torch.Tensor, head_size: int, base: float, num_prefix: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines that turn the queries and keys of an encoder with rotary positions.

    Args:
        centres: (B, L, 2), see [`patch_centres`].
        head_size: D, of one attention head; a multiple of 4.
        base: of the frequencies.
        num_prefix: number of tokens in front, which are not turned.

    Returns:
        Two float32 tensors (B, num_prefix+L, D).
    """
    exponents = torch.arange(0, 1, 4 / head_size, dtype=torch.float32, device=centres.device)
    angles = 2 * math.pi * centres[..., None] * (1 / base**exponents)
    angles = torch.nn.functional.pad(angles.flatten(-2).repeat(1, 1, 2), (0, 0, num_prefix, 0))
    return angles.cos(), angles.sin()


__all__ = ["grid_sizes", "jitter_centres", "patch_centres", "raster_order", "rotate_by", "sample_table"]
