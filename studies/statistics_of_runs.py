"""Means, intervals and paired tests over seeds and folds: pure functions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import t as student


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval, `mean - half` to `mean + half`; `p` is two-sided, against zero."""

    mean: float
    half: float
    p: float

    def __str__(self) -> str:
        return f"{self.mean:.2f} (one run)" if math.isinf(self.half) else f"{self.mean:.2f} ± {self.half:.2f}"

    @property
    def signed(self) -> str:
        """With its sign, as a difference."""
        if math.isinf(self.half):
            return f"{self.mean:+.3f} (one run)"
        return f"{self.mean:+.3f} ± {self.half:.3f}"


def claims(table: Sequence[Sequence[Estimate | None]], level: float = 0.05) -> list[list[str]]:
    """Cells of a table of differences: bold where chance is ruled out although so many were looked at.

    By Holm (1979) over the whole table: the probability of one bold cell or more by chance alone is `level`. `None`
    gives an empty cell.
    """
    found = sorted(cell.p for row in table for cell in row if cell is not None)
    held = list(itertools.takewhile(lambda ranked: ranked[1] <= level / (len(found) - ranked[0]), enumerate(found)))
    largest = held[-1][1] if held else -1.0

    def cell_text(cell: Estimate | None) -> str:
        if cell is None:
            return ""
        return f"**{cell.signed}**" if cell.p <= largest else cell.signed

    return [[cell_text(cell) for cell in row] for row in table]


def estimate(values: ArrayLike, variance_factor: float = 0.0) -> Estimate:
    """Mean of N values and Student's interval.

    Args:
        values: one a seed, or one a seed and fold.
        variance_factor: added to 1/N in the variance of the mean; `n_test / n_train` for the folds of a cross-
            validation, which share training photos and are not independent (Nadeau and Bengio, 2003).
    """
    sample = np.asarray(values, dtype=float)
    count = len(sample)
    if count < 2:
        return Estimate(float(sample.mean()), math.inf, 1.0)
    error = float(sample.std(ddof=1)) * math.sqrt(1 / count + variance_factor)
    mean = float(sample.mean())
    if error == 0:
        return Estimate(mean, 0.0, 1.0 if mean == 0 else 0.0)
    half = float(student.ppf(0.975, count - 1)) * error
    return Estimate(mean, half, float(2 * student.sf(abs(mean) / error, count - 1)))


@dataclass(frozen=True)
class DrawSpread:
    """How far scores move between random draws of the same images.

    Attributes:
        between_draws: standard deviation of one image's score over its draws.
        between_images: standard deviation of the images' true means.
    """

    between_draws: float
    between_images: float

    def reliability(self, draws: int) -> float:
        """Share of the variance of the mean of so many draws that is not due to the draw (ICC(1, draws))."""
        images, noise = self.between_images**2, self.between_draws**2 / draws
        return images / (images + noise)

    def draws_needed(self, reliability: float) -> int:
        """Fewest draws whose mean is that reliable."""
        ratio = self.between_draws**2 / self.between_images**2
        return max(1, math.ceil(ratio * reliability / (1 - reliability) - 1e-9))


def draw_spread(scores: ArrayLike) -> DrawSpread:
    """Split the variance of (draws, images) scores by one-way analysis of variance."""
    table = np.asarray(scores, dtype=float)
    within = float(table.var(axis=0, ddof=1).mean())
    between = float(table.mean(axis=0).var(ddof=1)) - within / len(table)
    return DrawSpread(math.sqrt(within), math.sqrt(max(between, 1e-12)))
