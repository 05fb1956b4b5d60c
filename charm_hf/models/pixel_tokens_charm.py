"""The fast form of `patch_selection_charm` for 8-bit pixels on the CPU, in NumPy: the same numbers, no gradient.

Everything runs over *strips*, one row of regions at a time, so that what is computed from a strip stays in the cache.
Pixels come as planes, (3, H, W) `uint8`, whose sides are multiples of the region size and whose rows are contiguous.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import lru_cache

import numpy as np
import torch

from .patch_selection_charm import TokenLayout, TokenPlan, resize_matrix


# With fewer regions for each that is sought, a bound costs more than it saves.
WORTH_A_BOUND = 8
# Regions at once when some are gathered: as many as keep what is computed from them in the cache.
GATHERED_COLUMNS = 32


def strips_of(planes: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Yield the rows of regions, each (3, size, W), as views."""
    for top in range(0, planes.shape[1], size):
        yield planes[:, top : top + size]


# ---------------------------------------------------------------------------------------------------------------------
# Importance of regions, float32, row-major.


@lru_cache(maxsize=16)
def _fourier_bases(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Real bases of a row of frequencies for `frequency_importance`, with the origin between the two middle pixels.

    So placed, cosines are even and sines odd around the middle, and one half of each is enough.

    Returns:
        (2, 1, size/2, size/2): cosines of frequencies 0, 1, … size/2-1 and sines of frequencies size/2, 1, …
        size/2-1, each over the first half of the pixels, divided by the size; (size, size+2): complex exponentials of
        frequencies 0 … size/2, as pairs of real numbers.
    """
    half = size // 2
    pixels = 2 * math.pi / size * (np.arange(size) - (size - 1) / 2)
    frequencies = np.arange(half)
    cosines = np.cos(np.outer(frequencies, pixels[:half])) / size
    sines = np.sin(np.outer(np.where(frequencies == 0, half, frequencies), pixels[:half])) / size
    exponentials = np.exp(-1j * np.outer(pixels, np.arange(half + 1))).astype(np.complex64)
    return np.stack([cosines, sines])[:, None].astype(np.float32), exponentials.view(np.float32)


def frequency_importance(planes: np.ndarray, size: int) -> np.ndarray:
    """Mean of `20·log10|FFT|` over channels and frequencies; a flat region gives -inf. `size` is even.

    With A and B the transforms of a region's even and odd part (top to bottom), F(u, v) = A - iB and F(-u, v) =
    A + iB, so that log|F(u, v)| + log|F(-u, v)| = log|A² + B²|: one logarithm for two frequencies, and for the three
    channels together when their products come first. Matrices of this size beat an FFT.
    """
    half, width = size // 2, planes.shape[2]
    bases, exponentials = _fourier_bases(size)
    pixels = np.empty((3, size, width), dtype=np.float32)
    folded = np.empty((2, 3, half, width), dtype=np.float32)
    down = np.empty_like(folded)
    spectrum = np.empty((down.size // size, size + 2), dtype=np.float32)
    even, odd = spectrum.view(np.complex64).reshape(2, 3, half, -1, half + 1)
    # Columns of frequencies 1 … size/2-1 stand for their mirror images too.
    weights = np.full(half + 1, 2.0, dtype=np.float32)
    weights[[0, -1]] = 1.0
    logarithms = []
    for strip in strips_of(planes, size):
        pixels[:] = strip
        upper, lower = pixels[:, :half], pixels[:, : half - 1 : -1]
        np.add(upper, lower, out=folded[0])
        np.subtract(upper, lower, out=folded[1])
        np.matmul(bases, folded, out=down)
        np.matmul(down.reshape(-1, size), exponentials, out=spectrum)
        # Frequency 0 has no odd part and size/2 no even one: they share the first row.
        even[:, 0] *= odd[:, 0]
        even[:, 1:] *= even[:, 1:]
        odd[:, 1:] *= odd[:, 1:]
        even[:, 1:] += odd[:, 1:]
        even[0] *= even[1]
        even[0] *= even[2]
        with np.errstate(divide="ignore"):
            logarithms.append(np.log(np.abs(even[0])).sum(axis=0) @ weights)
    mean = np.concatenate(logarithms) / (3 * size * size)
    return 20 / math.log(10) * mean + np.float32(20 * math.log10(size / 255))


def entropy_importance(planes: np.ndarray, size: int) -> np.ndarray:
    """`-Σ p·log2(p + 1e-9)` of the 256-bin histogram of all channels together."""
    num_columns, num_pixels = planes.shape[2] // size, 3 * size * size
    # As many regions at once as have counters that fit the cache, and numbers of counters that fit 16 bits.
    at_once = min(num_columns, 64)
    first_bin = np.repeat(np.arange(at_once, dtype=np.int16) * 256, size)
    counts = []
    for strip in strips_of(planes, size):
        for left in range(0, num_columns, at_once):
            pixels = strip[:, :, left * size : (left + at_once) * size]
            bins = torch.from_numpy((pixels + first_bin[: pixels.shape[2]]).ravel())
            counts.append(torch.bincount(bins, minlength=pixels.shape[2] // size * 256))
    probabilities = np.arange(num_pixels + 1, dtype=np.float32) / num_pixels
    terms = torch.from_numpy(-probabilities * np.log2(probabilities + np.float32(1e-9)))
    return terms.index_select(0, torch.cat(counts)).reshape(-1, 256).sum(dim=1).numpy()


def gradient_importance(planes: np.ndarray, size: int) -> np.ndarray:
    """Sum of Sobel gradient magnitudes of the channel mean; each region alone, its border padded with zeros."""
    num_columns = planes.shape[2] // size
    # Integers up to 4 · 3 · 255 fit. A frame of zeros around each region lets whole strips be shifted at once.
    framed = np.zeros((size + 2, num_columns, size + 2), dtype=np.int16)
    rows = framed.reshape(size + 2, -1)
    smooth, steep = np.empty_like(rows[:-2]), np.empty_like(rows[:-2])
    across, down = np.empty_like(smooth[:, 2:]), np.empty_like(smooth[:, 2:])
    magnitudes, squares = (np.empty(across.shape, dtype=np.float32) for _ in range(2))
    total = np.zeros(rows.shape[1], dtype=np.float32)
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
        np.sum(np.sqrt(magnitudes, out=magnitudes), axis=0, out=total[:-2])
        sums.append(total.reshape(num_columns, size + 2)[:, :size].sum(axis=1))
    return np.concatenate(sums) / (3 * 255)


PIXEL_IMPORTANCE = {
    "frequency": frequency_importance,
    "entropy": entropy_importance,
    "gradient": gradient_importance,
}


# ---------------------------------------------------------------------------------------------------------------------
# Importance of those regions only that may be among the most important.


@lru_cache(maxsize=16)
def _log_whitening(size: int) -> float:
    """Sum of the log power of `frequency_bound`'s filter over all frequencies."""
    response = np.abs(4 - 3 * np.exp(2j * math.pi / size * np.arange(size)))
    return 2 * size * float(np.log(response**2).sum())


def frequency_bound(planes: np.ndarray, size: int) -> np.ndarray:
    """At least `frequency_importance`, from pixels alone.

    A mean of logarithms is at most the logarithm of the mean (Jensen), and the mean power of all frequencies is the
    energy of the pixels (Parseval). The closer the spectrum is to white, the closer the bound, hence a filter first
    whose own power is known: 4·pixel - 3·neighbour, downwards and across, around the region's edges as the transform
    itself sees them. The frequency 0, which the filter leaves as it is, is taken exactly.
    """
    columns, width = planes.shape[2] // size, planes.shape[2]
    pixels = np.empty((3, size + 1, width), dtype=np.int16)
    down, both = (np.empty((3, size, width), dtype=np.int16) for _ in range(2))
    values = np.empty((3, size, width), dtype=np.float32)
    ones = np.ones(size, dtype=np.float32)
    sums, energies = [], []
    for strip in strips_of(planes, size):
        pixels[:, 1:] = strip
        pixels[:, 0] = pixels[:, -1]
        np.subtract(pixels[:, 1:], pixels[:, :-1], out=down)
        np.multiply(down, 3, out=down)
        np.add(down, pixels[:, 1:], out=down)
        np.subtract(down.ravel()[1:], down.ravel()[:-1], out=both.ravel()[1:])
        cells = down.reshape(3, size, columns, size)
        np.subtract(cells[..., 0], cells[..., -1], out=both.reshape(cells.shape)[..., 0])
        np.multiply(both, 3, out=both)
        np.add(both, down, out=both)
        values[:] = both
        sums.append(np.matmul(ones, values).reshape(3, columns, size) @ ones)
        np.multiply(values, values, out=values)
        energies.append(np.matmul(ones, values).reshape(3, columns, size) @ ones)
    constant = np.concatenate(sums, axis=1) ** 2
    energy = np.concatenate(energies, axis=1) * size * size
    others = size * size - 1
    with np.errstate(divide="ignore"):
        # The small share more than covers what rounding may take away.
        logarithms = others * np.log(((energy - constant).clip(min=0) + 1e-5 * energy) / others) + np.log(constant)
    mean = (logarithms.mean(axis=0) - _log_whitening(size)) / (size * size)
    return 10 / math.log(10) * mean - np.float32(20 * math.log10(255) - 0.01)


# Gradients have a bound too, the differences of neighbours, but it costs nearly what they cost themselves.
PIXEL_BOUNDS = {"frequency": frequency_bound}


def best_importance(method: str, planes: np.ndarray, size: int, count: int) -> np.ndarray:
    """Importance of every region that may be among the `count` most important, -inf for the others: (R,) float32.

    Exact for the most promising twice `count` first, then for all whose upper bound reaches the last place that these
    leave. How many that are depends on the photo: few where sharp and smooth regions mix, most where all are alike.
    """
    rows, columns = planes.shape[1] // size, planes.shape[2] // size
    importance, bound = PIXEL_IMPORTANCE[method], PIXEL_BOUNDS.get(method)
    best = np.full(rows * columns, -np.inf, dtype=np.float32)
    if count == 0:
        return best
    if bound is None or rows * columns < WORTH_A_BOUND * count:
        return importance(planes, size)
    bounds = bound(planes, size)
    promising = np.argpartition(bounds, -2 * count)[-2 * count :]
    best[promising] = importance(_gather(planes, promising, size), size)[: 2 * count]
    possible = bounds >= np.partition(best[promising], -count)[-count]
    possible[promising] = False
    (others,) = possible.nonzero()
    if len(others):
        best[others] = importance(_gather(planes, others, size), size)[: len(others)]
    return best


def _gather(planes: np.ndarray, regions: np.ndarray, size: int) -> np.ndarray:
    """Put some regions side by side into planes of their own, the last one repeated to fill a row."""
    across = min(len(regions), GATHERED_COLUMNS)
    regions = np.pad(regions, (0, -len(regions) % across), mode="edge")
    items = _items(_take(planes, regions, size)).reshape(-1, across, 3, size)
    return np.ascontiguousarray(items.transpose(2, 0, 3, 1)).view(np.uint8).reshape(3, -1, across * size)


def _take(planes: np.ndarray, regions: np.ndarray, size: int) -> np.ndarray:
    """Copy some regions: (N, 3, size, size)."""
    columns = planes.shape[2] // size
    items = planes.view(f"V{size}").reshape(3, -1, size, columns)
    return items[:, regions // columns, :, regions % columns].view(np.uint8).reshape(-1, 3, size, size)


def _items(array: np.ndarray) -> np.ndarray:
    """View an array (…, N) as one (…) whose items are rows of N: moving each alone costs more than its bytes do."""
    return array.view(f"V{array.dtype.itemsize * array.shape[-1]}")[..., 0]


# ---------------------------------------------------------------------------------------------------------------------
# Tokens.


def cut_pixels(
    planes: np.ndarray, plan: TokenPlan, layout: TokenLayout, factor: np.ndarray, offset: np.ndarray
) -> np.ndarray:
    """Cut planes of the plan's size into (L, 3·P·P) float32 tokens of `factor · pixel + offset`, (3,) float32 each."""
    patch = plan.patch_size
    tokens = np.empty((plan.num_tokens, 3, patch, patch), dtype=np.float32)
    start = 0
    for regions, size in zip(layout.regions_of_scale, plan.sizes, strict=True):
        side = size // patch
        own = tokens[start : start + len(regions) * side * side].reshape(-1, side, side, 3, patch, patch)
        write = _write_full if size == plan.sizes[-1] else _write_shrunk
        write(planes, plan, regions, factor, offset, own)
        start += len(regions) * side * side
    return tokens.reshape(plan.num_tokens, -1)


def _write_full(
    planes: np.ndarray, plan: TokenPlan, regions: np.ndarray, factor: np.ndarray, offset: np.ndarray, out: np.ndarray
) -> None:
    size, patch = plan.sizes[-1], plan.patch_size
    rows = _items(out)
    for start in range(0, len(regions), GATHERED_COLUMNS):
        tiles = _take(planes, regions[start : start + GATHERED_COLUMNS], size) * factor[:, None, None]
        tiles += offset[:, None, None]
        tiles = tiles.reshape(-1, 3, size // patch, patch, size // patch, patch)
        rows[start : start + GATHERED_COLUMNS] = _items(tiles).transpose(0, 2, 4, 1, 3)


def _write_shrunk(
    planes: np.ndarray, plan: TokenPlan, regions: np.ndarray, factor: np.ndarray, offset: np.ndarray, out: np.ndarray
) -> None:
    """Shrink whole strips, of which nearly every region is wanted, and keep those that are."""
    columns, size, side, patch = plan.region_grid[1], plan.sizes[-1], out.shape[1], plan.patch_size
    shrink_down, across = _shrinker(size, side * patch, planes.shape[2])
    across = factor[:, None, None] * across
    shrunk = np.empty((3, side, patch, columns, side, patch), dtype=np.float32)
    wanted = _items(shrunk).transpose(3, 1, 4, 0, 2)
    kept = _items(out)
    bounds = np.searchsorted(regions, np.arange(0, plan.region_grid[0] + 1) * columns)
    for row, strip in enumerate(strips_of(planes, size)):
        first, last = bounds[row], bounds[row + 1]
        if first == last:
            continue
        np.matmul(shrink_down(strip).reshape(3, -1, size), across, out=shrunk.reshape(3, -1, side * patch))
        shrunk += offset[:, None, None, None, None, None]
        kept[first:last] = wanted if last - first == columns else wanted[regions[first:last] % columns]


def _shrinker(size: int, shrunk_size: int, width: int) -> tuple[Callable[[np.ndarray], np.ndarray], np.ndarray]:
    """Give a function that shrinks (3, size, width) strips downwards, and a (size, shrunk_size) matrix for across."""
    matrix = resize_matrix(size, shrunk_size).numpy()
    down = np.empty((3, shrunk_size, width), dtype=np.float32)
    if size == 2 * shrunk_size > 2:
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
