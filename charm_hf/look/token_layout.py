"""Where the tokens of one photo lie, and pictures made of one value or one patch a token.

Vocabulary: the *canvas* is the photo as it was cut into tokens, after resizing, cropping and padding. Its pixels are
those of the finest scale; a token of a coarser scale covers more of them than it holds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter


# Shown where a token was dropped (`overflow="drop"`).
_NO_TOKEN = 128


@dataclass(frozen=True, eq=False)
class TokenLayout:
    """Scale and place of each token.

    Attributes:
        scale_ids: (L,) scale of each token, 0 = coarsest.
        patch_positions: (L, 2) row and column of each token in the grid of its own scale.
        spatial_shapes: (num_scales, 2) rows and columns of each scale's grid; (0, 0) for a scale not in use.
    """

    scale_ids: np.ndarray
    patch_positions: np.ndarray
    spatial_shapes: np.ndarray

    @property
    def finest(self) -> int:
        """Highest scale in use."""
        return int(np.flatnonzero(self.spatial_shapes.prod(-1))[-1])

    @property
    def tokens_per_scale(self) -> tuple[int, ...]:
        """Number of tokens of each scale, coarsest first."""
        return tuple(np.bincount(self.scale_ids, minlength=len(self.spatial_shapes)).tolist())

    @property
    def centres(self) -> np.ndarray:
        """(L, 2): down and across, as a share of the canvas's longer edge."""
        edges = self.spatial_shapes[self.finest] / self.spatial_shapes[self.finest].max()
        return (self.patch_positions + 0.5) / self.spatial_shapes[self.scale_ids] * edges

    @property
    def areas(self) -> np.ndarray:
        """(L,): the share of the canvas that each token covers."""
        return 1 / self.spatial_shapes[self.scale_ids].prod(-1)

    def kept(self, scale: int) -> np.ndarray:
        """Which cells of a scale's grid hold a token: (rows, columns) of `bool`."""
        mask = np.zeros(self.spatial_shapes[scale], dtype=bool)
        mask[tuple(self.patch_positions[self.scale_ids == scale].T)] = True
        return mask

    def draw(self, pixels: np.ndarray) -> np.ndarray:
        """Put every token back at its place on the canvas, enlarged without smoothing.

        Args:
            pixels: (L, P, P, 3) `uint8`.

        Returns:
            (H, W, 3) `uint8`, `H` and `W` being P times the finest grid; grey where there is no token.
        """
        side = pixels.shape[1]
        height, width = self.spatial_shapes[self.finest] * side
        canvas = np.full((height, width, 3), _NO_TOKEN, dtype=np.uint8)
        for scale in np.unique(self.scale_ids):
            mine = self.scale_ids == scale
            rows, columns = self.spatial_shapes[scale]
            # The scale's own small picture, enlarged by taking for each canvas pixel the one that it lies in.
            small = np.zeros((rows, columns, side, side, 3), dtype=np.uint8)
            small[tuple(self.patch_positions[mine].T)] = pixels[mine]
            small = small.transpose(0, 2, 1, 3, 4).reshape(rows * side, columns * side, 3)
            down = np.arange(height) * (rows * side) // height
            across = np.arange(width) * (columns * side) // width
            where = self.kept(scale)[down // side][:, across // side]
            canvas[where] = small[down][:, across][where]
        return canvas

    def spread(self, values: np.ndarray, smoothing: float = 0.0) -> np.ndarray:
        """Lay one number a token over the finest grid: (rows, columns), whose sum is that of the numbers.

        Each number is spread evenly over the area that its token covers, then smoothed by a Gaussian of `smoothing`
        cells.
        """
        height, width = self.spatial_shapes[self.finest]
        total = np.zeros((height, width))
        for scale in np.unique(self.scale_ids):
            mine = self.scale_ids == scale
            grid = np.zeros(self.spatial_shapes[scale])
            grid[tuple(self.patch_positions[mine].T)] = values[mine]
            total += _shares(height, grid.shape[0]) @ grid @ _shares(width, grid.shape[1]).T
        return gaussian_filter(total, smoothing) if smoothing > 0 else total


def _shares(fine: int, coarse: int) -> np.ndarray:
    """(fine, coarse): the share of each of `coarse` equal intervals that falls into each of `fine` equal ones."""
    edges_fine, edges_coarse = np.linspace(0, 1, fine + 1), np.linspace(0, 1, coarse + 1)
    ends = np.minimum(edges_fine[1:, None], edges_coarse[None, 1:])
    starts = np.maximum(edges_fine[:-1, None], edges_coarse[None, :-1])
    return np.clip(ends - starts, 0, None) * coarse


__all__ = ["TokenLayout"]
