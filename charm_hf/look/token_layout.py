"""Where the tokens of one photo lie, and pictures made of one value or one patch a token.

Vocabulary: the *canvas* is the photo as it was cut into tokens of the finest scale, after resizing, cropping and
padding. Its pixels are those of that scale; a token of a coarser scale covers more of them than it holds.
"""

from __future__ import annotations

from dataclasses import dataclass, field

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
        frames: (num_scales, 2, 2) where each scale's grid begins (down, across) and ends, as shares of the canvas: a
            thumbnail is padded otherwise than the canvas. From 0 to 1 if not given.
    """

    scale_ids: np.ndarray
    patch_positions: np.ndarray
    spatial_shapes: np.ndarray
    frames: np.ndarray | None = field(default=None, kw_only=True)

    def frame(self, scale: int | np.ndarray) -> np.ndarray:
        """(…, 2, 2): where the grids of these scales begin and end."""
        whole = np.broadcast_to([[0.0, 0.0], [1.0, 1.0]], (len(self.spatial_shapes), 2, 2))
        return (whole if self.frames is None else self.frames)[scale]

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
        starts, ends = self.frame(self.scale_ids).swapaxes(0, 1)
        return (starts + (ends - starts) * (self.patch_positions + 0.5) / self.spatial_shapes[self.scale_ids]) * edges

    @property
    def areas(self) -> np.ndarray:
        """(L,): the share of the canvas that each token covers."""
        starts, ends = self.frame(self.scale_ids).swapaxes(0, 1)
        return ((ends - starts) / self.spatial_shapes[self.scale_ids]).prod(-1)

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
            down, across = (
                _cells(count, start, end, length * side)
                for count, start, end, length in zip((height, width), *self.frame(scale), (rows, columns), strict=True)
            )
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
            (top, left), (bottom, right) = self.frame(scale)
            total += _shares(height, grid.shape[0], top, bottom) @ grid @ _shares(width, grid.shape[1], left, right).T
        return gaussian_filter(total, smoothing) if smoothing > 0 else total


def _cells(count: int, start: float, end: float, coarse: int) -> np.ndarray:
    """In which of `coarse` equal intervals from `start` to `end` each of `count` equal ones from 0 to 1 lies."""
    middles = (np.arange(count) + 0.5) / count
    return ((middles - start) / (end - start) * coarse).astype(int).clip(0, coarse - 1)


def _shares(fine: int, coarse: int, start: float, end: float) -> np.ndarray:
    """(fine, coarse): the share of each of `coarse` equal intervals that falls into each of `fine` from 0 to 1.

    What lies beyond counts at the border.
    """
    edges_fine, edges_coarse = np.linspace(0, 1, fine + 1), np.linspace(start, end, coarse + 1)
    edges_fine[[0, -1]] = min(start, 0), max(end, 1)
    ends = np.minimum(edges_fine[1:, None], edges_coarse[None, 1:])
    starts = np.maximum(edges_fine[:-1, None], edges_coarse[None, :-1])
    return np.clip(ends - starts, 0, None) * coarse / (end - start)


__all__ = ["TokenLayout"]
