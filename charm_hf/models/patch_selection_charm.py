"""Which regions of a photo matter: the importances, and the one table of the selections that a user can name.

An importance takes an image whose sides are multiples of `size` and gives one number a region, row-major. To add one,
write such a function and enter it in `SELECTIONS`. A second form for 8-bit pixels in main memory, in NumPy, is
optional and only makes it faster.

Two computations of one photo (on a CPU and a GPU, with one thread and many, by another make of processor, by a fast
form and a slow one) have to choose the same regions. Hence each importance is well-conditioned (see
`frequency_importance`) and rounded to less than rounding errors can reach, and equal regions rank by their place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F


# Added to the power of each frequency of pixels in [0, 1]. What 8 bits cannot say lies near 1e-3, so that no texture
# is touched, and rounding errors of single precision lie near 1e-11, so that a frequency that is not there counts the
# same everywhere.
POWER_FLOOR = 1e-8
# Where the rounding errors of the published tokenizer, in single precision, put such a frequency.
RELEASED_POWER_FLOOR = 1e-12
# Parts of a unit in which gradients are counted, so that their sums are exact.
GRADIENT_STEPS = 8
# Parts of a bit in which the terms of an entropy are counted, likewise.
ENTROPY_STEPS = 2**32
# Pixels of the longer side of the photo whose spectral residual is taken, and of the Gaussian that smooths the result:
# as in the authors' program.
SALIENCY_SIDE, SALIENCY_SIGMA = 64, 2.5


def split_into_tiles(image: torch.Tensor, size: int) -> torch.Tensor:
    """View a (C, H, W) image as (H/size, W/size, C, size, size) tiles, without copying."""
    channels, height, width = image.shape
    tiles = image.reshape(channels, height // size, size, width // size, size)
    return tiles.permute(1, 3, 0, 2, 4)


def strips_of(planes: Any, size: int) -> Iterator[Any]:
    """Yield the rows of regions, each (C, size, W), as views: what is computed from a strip stays in the cache."""
    for top in range(0, planes.shape[1], size):
        yield planes[:, top : top + size]


def _levels(image: torch.Tensor) -> torch.Tensor:
    """Float32 pixels from 0 to 255 of a `uint8` image, or of a float image in [0, 1]."""
    return image.float() * 255 if image.is_floating_point() else image.float()


# ---------------------------------------------------------------------------------------------------------------------
# Frequency.


def frequency_importance(
    image: torch.Tensor, size: int, floor: float = POWER_FLOOR, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """Mean of `10·log10(|FFT|² + floor)` over channels and frequencies, in hundredths of a decibel.

    The paper has no floor, and its mean of logarithms is then ill-conditioned: a frequency of no power counts -inf, or
    -140 dB where a rounding error is left of it, and one such frequency moves a region past others.

    Args:
        image: (C, H, W) `uint8`, or float in [0, 1].
        size: of a region.
        floor: of the power of pixels in [0, 1].
        dtype: to compute in.

    Returns:
        (R,) float32.
    """
    # Half of a real signal's spectrum has the same magnitudes as the other half: its columns count twice.
    weights = torch.full((size // 2 + 1,), 2.0, device=image.device, dtype=dtype)
    weights[0] = 1.0
    if size % 2 == 0:
        weights[-1] = 1.0
    sums = []
    for strip in strips_of(image, size):
        tiles = split_into_tiles(_levels(strip).to(dtype) / 255, size)[0].contiguous()
        # Every region less its first pixel, which only frequency 0 notices: so a flat region has no rounding errors.
        first = tiles[..., :1, :1].clone()
        spectrum = torch.view_as_real(torch.fft.rfft2(tiles - first))
        spectrum[..., 0, 0, 0] += first[..., 0, 0] * size**2
        power = spectrum.square().sum(-1).add_(floor)
        sums.append(power.log10_().sum(dim=(1, 2)) @ weights)
    mean = torch.cat(sums) * (10 / (image.shape[0] * size * size))
    return mean.float().mul(100).round().div(100)


def released_frequency_importance(image: torch.Tensor, size: int) -> torch.Tensor:
    """`frequency_importance` as the published tokenizer computes it, rounding errors included, the same everywhere."""
    return frequency_importance(image, size, RELEASED_POWER_FLOOR, torch.float64)


@lru_cache(maxsize=16)
def _fourier_bases(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Real bases for `fast_frequency_importance`, with the origin between the two middle pixels.

    So placed, cosines are even and sines odd around the middle, and one half of each is enough.

    Returns:
        (2, 1, size/2, size/2): downwards, cosines of frequencies 0, 1, … size/2-1 and sines of frequencies size/2, 1,
        … size/2-1, each over the first half of the pixels; (2, 1, 1, size, size/2+1): across, cosines and sines of
        frequencies 0 … size/2, divided by 255.
    """
    half = size // 2
    pixels = 2 * math.pi / size * (np.arange(size) - (size - 1) / 2)
    frequencies = np.arange(half)
    cosines = np.cos(np.outer(frequencies, pixels[:half]))
    sines = np.sin(np.outer(np.where(frequencies == 0, half, frequencies), pixels[:half]))
    across = np.outer(pixels, np.arange(half + 1))
    down = np.stack([cosines, sines])[:, None].astype(np.float32)
    return down, (np.stack([np.cos(across), -np.sin(across)]) / 255)[:, None, None].astype(np.float32)


# So many columns of regions at once keep what is computed from them in the cache, and every product so small that no
# BLAS starts threads for it, which would wait for each other wherever the cores are busy.
FREQUENCY_COLUMNS = 32


def fast_frequency_importance(planes: np.ndarray, size: int) -> np.ndarray:
    """`frequency_importance` of (3, H, W) `uint8` planes; matrices of this size beat an FFT.

    With A and B the transforms of a region's even and odd part (top to bottom), F(u, v) = A - iB and F(-u, v) =
    A + iB. The three channels are multiplied before the logarithm is taken.
    """
    if size % 2 or size > 64:
        return frequency_importance(torch.from_numpy(planes), size).numpy()
    half = size // 2
    down, across = _fourier_bases(size)
    # Columns of frequencies 1 … size/2-1 stand for their mirror images too.
    weights = np.full(half + 1, 2.0, dtype=np.float32)
    weights[[0, -1]] = 1.0
    sums = []
    for strip in strips_of(planes, size):
        for left in range(0, planes.shape[2], FREQUENCY_COLUMNS * size):
            pixels = strip[:, :, left : left + FREQUENCY_COLUMNS * size].astype(np.float32)
            cells = pixels.reshape(3, size, -1, size)
            # As in the plain form.
            first_pixels = cells[:, :1, :, :1].copy()
            cells -= first_pixels
            upper, lower = pixels[:, :half], pixels[:, : half - 1 : -1]
            folded = np.matmul(down, np.stack([upper + lower, upper - lower]))
            spectrum = np.matmul(folded.reshape(2, 3 * half, -1, size), across)
            (even, odd), (even_i, odd_i) = spectrum.reshape(2, 2, 3, half, -1, half + 1)
            even[:, 0, :, 0] += first_pixels[:, 0, :, 0] * np.float32(size * size / 255)
            first, second = _power(even + odd_i, even_i - odd), _power(even - odd_i, even_i + odd)
            # Frequency 0 has no odd part and size/2 no even one: they share the first row.
            first[:, 0], second[:, 0] = _power(even[:, 0], even_i[:, 0]), _power(odd[:, 0], odd_i[:, 0])
            logarithms = _log_of_channels(first)
            logarithms += _log_of_channels(second)
            sums.append(logarithms.sum(axis=0) @ weights)
    mean = np.concatenate(sums) * np.float32(10 / math.log(10) / (3 * size * size))
    return np.round(mean, 2)


def _power(real: np.ndarray, imaginary: np.ndarray) -> np.ndarray:
    power = real * real
    power += imaginary * imaginary
    return power


def _log_of_channels(power: np.ndarray) -> np.ndarray:
    """Sum over the three channels of the logarithm of floored powers, in place."""
    power += np.float32(POWER_FLOOR)
    power[0] *= power[1]
    power[0] *= power[2]
    return np.log(power[0], out=power[0])


# ---------------------------------------------------------------------------------------------------------------------
# Entropy.


@lru_cache(maxsize=16)
def _entropy_terms(num_pixels: int) -> torch.Tensor:
    """`-p·log2(p + 1e-9)` of each count of pixels, in steps, as int64: sums of them are exact in any order."""
    probabilities = torch.arange(num_pixels + 1, dtype=torch.float64) / num_pixels
    return (-probabilities * torch.log2(probabilities + 1e-9) * ENTROPY_STEPS).round().long()


def entropy_importance(image: torch.Tensor, size: int) -> torch.Tensor:
    """`-Σ p·log2(p + 1e-9)` of the 256-bin histogram over [0, 1] of all channels together."""
    levels = (image.detach() * 256).clamp(0, 255) if image.is_floating_point() else image
    tiles = split_into_tiles(levels, size).flatten(0, 1)
    bins = tiles.flatten(1).long()
    bins += torch.arange(len(bins), device=bins.device)[:, None] * 256
    counts = torch.bincount(bins.flatten(), minlength=len(bins) * 256)
    terms = _entropy_terms(bins.shape[1]).to(counts.device)
    return (terms[counts].view(len(bins), 256).sum(1).double() / ENTROPY_STEPS).float()


def fast_entropy_importance(planes: np.ndarray, size: int) -> np.ndarray:
    """`entropy_importance` of (3, H, W) `uint8` planes."""
    num_columns = planes.shape[2] // size
    # As many regions at once as have counters that fit the cache, numbers of counters that fit 16 bits, and fewer
    # pixels than torch shares among threads, which would wait for one another longer than they count.
    at_once = min(num_columns, 64, max(1, 2**15 // (3 * size**2)))
    first_bin = np.repeat(np.arange(at_once, dtype=np.int16) * 256, size)
    terms = _entropy_terms(3 * size * size)
    sums = []
    for strip in strips_of(planes, size):
        for left in range(0, num_columns, at_once):
            pixels = strip[:, :, left * size : (left + at_once) * size]
            bins = torch.from_numpy((pixels + first_bin[: pixels.shape[2]]).ravel())
            counts = torch.bincount(bins, minlength=pixels.shape[2] // size * 256)
            sums.append(terms.index_select(0, counts).view(-1, 256).sum(1))
    return (torch.cat(sums).double() / ENTROPY_STEPS).float().numpy()


# ---------------------------------------------------------------------------------------------------------------------
# Gradient.


def gradient_importance(image: torch.Tensor, size: int) -> torch.Tensor:
    """Sum of Sobel gradient magnitudes of the channel mean; each region alone, its border padded with zeros."""
    grey = _levels(image).sum(0, keepdim=True)
    tiles = F.pad(split_into_tiles(grey, size).flatten(0, 2), (1, 1, 1, 1))
    smoothed_down = tiles[:, :-2] + 2 * tiles[:, 1:-1] + tiles[:, 2:]
    smoothed_across = tiles[:, :, :-2] + 2 * tiles[:, :, 1:-1] + tiles[:, :, 2:]
    across = smoothed_down[:, :, 2:] - smoothed_down[:, :, :-2]
    down = smoothed_across[:, 2:] - smoothed_across[:, :-2]
    steps = torch.sqrt(across.square() + down.square()).mul_(GRADIENT_STEPS).round_()
    total = steps.sum(dim=(1, 2), dtype=torch.float64) / (GRADIENT_STEPS * image.shape[0] * 255)
    return total.float()


def fast_gradient_importance(planes: np.ndarray, size: int) -> np.ndarray:
    """`gradient_importance` of (3, H, W) `uint8` planes."""
    num_columns = planes.shape[2] // size
    # Integers up to 4 · 3 · 255 fit. A frame of zeros around each region lets whole strips be shifted at once.
    framed = np.zeros((size + 2, num_columns, size + 2), dtype=np.int16)
    rows = framed.reshape(size + 2, -1)
    smooth, steep = np.empty_like(rows[:-2]), np.empty_like(rows[:-2])
    across, down = np.empty_like(smooth[:, 2:]), np.empty_like(smooth[:, 2:])
    magnitudes, squares = (np.empty(across.shape, dtype=np.float32) for _ in range(2))
    total = np.zeros(rows.shape[1], dtype=np.float64)
    sums = []
    for strip in strips_of(planes, size):
        framed[1:-1, :, 1:-1] = strip.sum(axis=0, dtype=np.int16).reshape(size, num_columns, size)
        np.subtract(rows[2:], rows[:-2], out=steep)
        np.add(rows[:-2], rows[2:], out=smooth)
        smooth += rows[1:-1]
        smooth += rows[1:-1]
        np.subtract(smooth[:, 2:], smooth[:, :-2], out=across)
        np.add(steep[:, :-2], steep[:, 2:], out=down)
        down += steep[:, 1:-1]
        down += steep[:, 1:-1]
        magnitudes[:], squares[:] = across, down
        magnitudes *= magnitudes
        squares *= squares
        magnitudes += squares
        np.sqrt(magnitudes, out=magnitudes)
        magnitudes *= GRADIENT_STEPS
        np.rint(magnitudes, out=magnitudes)
        # Whole numbers below 2^24 add up exactly in single precision, for as many rows as a region has.
        total[:-2] = magnitudes.sum(axis=0)
        sums.append(total.reshape(num_columns, size + 2)[:, :size].sum(axis=1))
    return (np.concatenate(sums) / (GRADIENT_STEPS * 3 * 255)).astype(np.float32)


# ---------------------------------------------------------------------------------------------------------------------
# Saliency.


def saliency_importance(saliency_map: torch.Tensor, size: int) -> torch.Tensor:
    """Share of salient pixels (> 0) of each region of a (1, H, W) map; a region counts as salient if it is above 0."""
    return split_into_tiles((saliency_map > 0).float(), size).flatten(0, 1).mean(dim=(1, 2, 3))


def spectral_residual_importance(image: torch.Tensor, size: int) -> torch.Tensor:
    """Saliency of each region, for photos that have no map: the spectral residual (Hou and Zhang, CVPR 2007).

    Of the photo shrunk to 64 pixels, what is salient is what its log spectrum has beyond the spectrum's own local
    average: the squared inverse transform of `exp(log|F| - average) · F/|F|`, that is `F · exp(-average)`, smoothed.
    As published, the transform takes opposite borders for neighbours.

    Args:
        image: (C, H, W) `uint8`, or float in [0, 1], which counts in whole levels: sums of those are exact.
        size: of a region.

    Returns:
        (R,) float32, in units of the photo's mean saliency, in steps of 1e-4.
    """
    longer = max(image.shape[1:])
    cell = max(
        side for side in range(1, size + 1) if size % side == 0 and (side == 1 or SALIENCY_SIDE * side <= longer)
    )
    strips = [F.avg_pool2d(_levels(strip).round(), cell, divisor_override=1) for strip in strips_of(image, size)]
    cells = torch.cat(strips, dim=1).cpu().double().sum(0) / (image.shape[0] * 255 * cell * cell)
    shape = [max(1, round(SALIENCY_SIDE * side / longer)) for side in image.shape[1:]]
    spectrum = torch.fft.fft2(F.interpolate(cells[None, None], size=shape, mode="area")[0, 0])
    logarithm = (spectrum.real.square() + spectrum.imag.square() + POWER_FLOOR).log() / 2
    average = F.avg_pool2d(F.pad(logarithm[None, None], (1, 1, 1, 1), mode="circular"), 3, stride=1)[0, 0]
    saliency = torch.fft.ifft2(spectrum * torch.exp(-average)).abs().square()
    down, across = (torch.fft.fftfreq(side, dtype=torch.float64).square() for side in shape)
    gaussian = torch.exp(-2 * (math.pi * SALIENCY_SIGMA) ** 2 * (down[:, None] + across))
    smooth = torch.fft.ifft2(torch.fft.fft2(saliency) * gaussian).real
    grid = [side // size for side in image.shape[1:]]
    regions = F.interpolate(smooth[None, None], size=grid, mode="bilinear", antialias=True).flatten()
    # Of a black photo the mean is 0.
    return (regions / smooth.mean().clamp(min=POWER_FLOOR)).mul(1e4).round().div(1e4).float().to(image.device)


def draw_salient(share: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Turn shares of salient pixels into an order: salient regions at random, then the others at random."""
    noise = torch.rand(len(share), generator=generator).to(share.device)
    return (share > 0).float() + noise


# ---------------------------------------------------------------------------------------------------------------------
# The selections, and the ranking that follows from an importance.


@dataclass(frozen=True)
class Selection:
    """A way to choose regions.

    Attributes:
        importance: `f(image, size)`, image (C, H, W) `uint8` or float in [0, 1], on any device, to (R,) float32;
            `None` if the content does not decide.
        fast: the same of (3, H, W) `uint8` planes in NumPy, to (R,) float32.
        needs_map: `importance` takes a saliency map, (1, H, W), instead of the image.
    """

    importance: Callable[[torch.Tensor, int], torch.Tensor] | None = None
    fast: Callable[[np.ndarray, int], np.ndarray] | None = None
    needs_map: bool = False


SELECTIONS: dict[str, Selection] = {
    "frequency": Selection(frequency_importance, fast_frequency_importance),
    "gradient": Selection(gradient_importance, fast_gradient_importance),
    "entropy": Selection(entropy_importance, fast_entropy_importance),
    "saliency": Selection(saliency_importance, needs_map=True),
    "spectral_residual": Selection(spectral_residual_importance),
    "random": Selection(),
    "original": Selection(),
    "released_frequency": Selection(released_frequency_importance),
}


def measure_importance(selection: Selection, image: torch.Tensor, size: int) -> torch.Tensor:
    """(R,) importance of the regions of an image, by the fast form where there is one and the pixels allow it."""
    assert selection.importance is not None
    if selection.fast is not None and image.dtype == torch.uint8 and image.device.type == "cpu":
        return torch.from_numpy(selection.fast(image.numpy(), size))
    return selection.importance(image.detach(), size)


def rank_regions(
    importance: torch.Tensor, counts: tuple[int, ...], generator: torch.Generator | None = None
) -> torch.Tensor:
    """Order the regions so that those of the highest scale come first, then those of the next lower scale, and so on.

    Without a generator the most important regions get the highest scale. With one, as in the released training code,
    the highest scale is drawn from twice as many regions as it takes, and each scale below from the next ranks.

    Args:
        importance: (R,) one number a region. Equal regions keep their order.
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
        start = 2 * count * level
        pool = ranked[start : start + 2 * count]
        shuffled = pool[torch.randperm(len(pool), generator=generator).to(pool.device)]
        drawn.append(torch.cat([shuffled, _without(ranked, [*drawn, pool])])[:count])
    return torch.cat([*drawn, _without(ranked, drawn)])


def _without(indices: torch.Tensor, taken: list[torch.Tensor]) -> torch.Tensor:
    return indices if not taken else indices[~torch.isin(indices, torch.cat(taken))]
