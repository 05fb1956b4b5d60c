"""Which regions a photo keeps: each importance equals its slow definition, and every computation of it agrees."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage
import torch
import torch.nn.functional as F
from many_photos import PLAIN_IMAGES, make_photos
from PIL import Image

from charm_hf import CharmImageProcessor
from charm_hf.models.patch_selection_charm import (
    POWER_FLOOR,
    SELECTIONS,
    draw_salient,
    measure_importance,
    rank_regions,
)


SIZE = 28
CHOSEN = 64
MEASURED = [name for name, selection in SELECTIONS.items() if selection.importance and not selection.needs_map]


def tiles_of(planes: torch.Tensor, size: int = SIZE) -> torch.Tensor:
    """(R, 3, size, size) double in [0, 1]."""
    return planes.unfold(1, size, size).unfold(2, size, size).flatten(1, 2).transpose(0, 1).double() / 255


def slow_frequency(planes: torch.Tensor, size: int, floor: float = POWER_FLOOR) -> torch.Tensor:
    return (10 * (torch.fft.fft2(tiles_of(planes, size)).abs().square() + floor).log10()).mean(dim=(1, 2, 3))


def slow_entropy(planes: torch.Tensor, size: int) -> torch.Tensor:
    levels = (tiles_of(planes, size) * 255).round().flatten(1).long()
    probabilities = torch.zeros(len(levels), 256, dtype=torch.float64)
    probabilities.scatter_add_(1, levels, torch.full(levels.shape, 1 / levels.shape[1], dtype=torch.float64))
    return -(probabilities * torch.log2(probabilities + 1e-9)).sum(1)


def slow_gradient(planes: torch.Tensor, size: int) -> torch.Tensor:
    sobel = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]], dtype=torch.float64)
    grey = tiles_of(planes, size).mean(1, keepdim=True)
    across = F.conv2d(grey, sobel[None, None], padding=1)
    down = F.conv2d(grey, sobel.T[None, None], padding=1)
    return torch.sqrt(across**2 + down**2).sum(dim=(1, 2, 3))


def shrink_by_area(image: np.ndarray, sides: tuple[int, int]) -> np.ndarray:
    """Mean over each pixel's area, pixels that are met in part included."""
    for side in sides:
        edges = np.arange(side + 1) * image.shape[0] / side
        spans = zip(np.floor(edges[:-1]).astype(int), np.ceil(edges[1:]).astype(int), strict=True)
        image = np.stack([image[start:end].mean(axis=0) for start, end in spans]).T
    return image


def slow_spectral_residual(planes: torch.Tensor, size: int) -> torch.Tensor:
    """The paper's equations 1 to 5, but for the floor, of the photo in whole cells, at least 64 if it has so many."""
    height, width = planes.shape[1:]
    longer = max(height, width)
    cell = max([side for side in range(1, size + 1) if size % side == 0 and longer / side >= 64], default=1)
    cells = tiles_of(planes, cell).mean(dim=(1, 2, 3)).reshape(height // cell, width // cell).numpy()
    spectrum = np.fft.fft2(shrink_by_area(cells, (round(64 * height / longer), round(64 * width / longer))))
    logarithm, phase = np.log(np.abs(spectrum) ** 2 + POWER_FLOOR) / 2, np.angle(spectrum)
    residual = logarithm - scipy.ndimage.uniform_filter(logarithm, 3, mode="wrap")
    saliency = np.abs(np.fft.ifft2(np.exp(residual + 1j * phase))) ** 2
    smooth = scipy.ndimage.gaussian_filter(saliency, 2.5, mode="wrap", truncate=9)
    small = Image.fromarray((smooth / smooth.mean()).astype(np.float32))
    resized = small.resize((width // size, height // size), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(resized)).flatten().double()


SLOW = {
    "frequency": (slow_frequency, 0.006),
    "entropy": (slow_entropy, 1e-6),
    # Magnitudes are counted in eighths of a level.
    "gradient": (slow_gradient, 0.1),
    "spectral_residual": (slow_spectral_residual, 1e-4),
    "released_frequency": (lambda planes, size: slow_frequency(planes, size, 1e-12), 0.006),
}


def choose(importance: torch.Tensor, count: int = CHOSEN) -> set[int]:
    return set(rank_regions(importance, (len(importance) - count, count))[:count].tolist())


@pytest.mark.parametrize("num_photos", [7, pytest.param(60, marks=pytest.mark.slow)])
@pytest.mark.parametrize("method", MEASURED)
def test_every_computation_of_a_photo_chooses_the_regions_of_the_slow_definition(method: str, num_photos: int) -> None:
    slow, tolerance = SLOW[method]
    selection = SELECTIONS[method]
    for planes in make_photos(num_photos):
        exact = slow(planes, SIZE)
        paths = {
            "8-bit": measure_importance(selection, planes, SIZE),
            "plain, 8-bit": selection.importance(planes, SIZE),
            "plain, float": selection.importance(planes.float() / 255, SIZE),
        }
        chosen = choose(paths["8-bit"])
        for name, importance in paths.items():
            assert (importance - exact).abs().max() <= tolerance, name
            assert choose(importance) == chosen, name
        # The definition itself is not rounded: what it prefers is within the rounding.
        if chosen != choose(exact):
            edge = exact.sort(descending=True).values[CHOSEN]
            assert all(abs(exact[region] - edge) <= 2 * tolerance for region in chosen ^ choose(exact))


@pytest.mark.parametrize("name", PLAIN_IMAGES)
@pytest.mark.parametrize("method", MEASURED)
def test_flat_periodic_and_saturated_images_have_one_ranking(method: str, name: str) -> None:
    planes = PLAIN_IMAGES[name]()
    selection = SELECTIONS[method]
    order = rank_regions(measure_importance(selection, planes, SIZE), (len(tiles_of(planes)) - CHOSEN, CHOSEN))
    for importance in (selection.importance(planes, SIZE), selection.importance(planes.float() / 255, SIZE)):
        assert torch.equal(rank_regions(importance, (len(order) - CHOSEN, CHOSEN)), order)


def test_a_selection_needs_no_fast_form(monkeypatch: pytest.MonkeyPatch) -> None:
    from charm_hf import CharmImageProcessor
    from charm_hf.models.patch_selection_charm import Selection

    def brightness(image: torch.Tensor, size: int) -> torch.Tensor:
        return image.float().unfold(1, size, size).unfold(2, size, size).mean(dim=(0, 3, 4)).flatten()

    processor = CharmImageProcessor(max_num_patches=200, do_normalize=False)
    monkeypatch.setitem(SELECTIONS, "brightness", Selection(brightness))
    photo = np.zeros((560, 560, 3), np.uint8)
    photo[280:308, 308:336] = 255
    inputs = processor(photo, patch_selection="brightness")
    assert inputs["patch_positions"][0][inputs["scale_ids"][0] == 1].tolist()
    kept = {tuple(place) for place in (inputs["patch_positions"][0][inputs["scale_ids"][0] == 1] // 2).tolist()}
    assert (10, 11) in kept


@pytest.mark.parametrize("size", [15, 32, 45, 56, 98])
@pytest.mark.parametrize("method", MEASURED)
def test_regions_of_other_sizes_are_measured_as_well(method: str, size: int) -> None:
    generator = torch.Generator().manual_seed(1)
    planes = torch.randint(0, 256, (3, 2 * size, 3 * size), generator=generator, dtype=torch.uint8)
    slow, tolerance = SLOW[method]
    expected = slow(planes, size)
    found = measure_importance(SELECTIONS[method], planes, size)
    assert (found - expected).abs().max() <= tolerance * max(1, (size / 28) ** 2)


def test_the_most_important_regions_get_the_highest_scale_and_ties_keep_their_order() -> None:
    importance = torch.tensor([1.0, 5.0, 5.0, -torch.inf, 3.0, 5.0])
    assert rank_regions(importance, (3, 1, 2)).tolist() == [1, 2, 5, 4, 0, 3]


def test_stochastic_ranking_draws_each_scale_from_its_own_ranks() -> None:
    importance = torch.arange(40.0).flip(0)  # region index = rank
    top, middle = set(), set()
    for seed in range(60):
        order = rank_regions(importance, (32, 4, 4), torch.Generator().manual_seed(seed)).tolist()
        assert sorted(order) == list(range(40))
        top.update(order[:4])
        middle.update(order[4:8])
    assert top == set(range(8))
    assert middle == set(range(8, 16))


def test_salient_regions_come_before_the_others_and_are_drawn_at_random() -> None:
    share = torch.tensor([0.0, 0.2, 0.0, 0.9, 0.01])
    firsts = set()
    for seed in range(30):
        order = rank_regions(draw_salient(share, torch.Generator().manual_seed(seed)), (2, 3)).tolist()
        assert set(order[:3]) == {1, 3, 4}
        firsts.add(order[0])
    assert firsts == {1, 3, 4}


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="asks Linux for the time of each thread")
@pytest.mark.parametrize("selection", ["frequency", "gradient", "entropy", "random"])
def test_a_photos_tokens_are_made_by_the_thread_that_asks_for_them(selection):
    """Threads that share so little work wait for one another, and on a busy machine for a hundred times as long."""
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (768, 1024, 3), dtype=np.uint8))
    processor = CharmImageProcessor(patch_selection=selection)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        processor(photo)
        before, start = ticks_by_thread(), time.thread_time()
        while time.thread_time() < start + 0.3:
            processor(photo)
        spent = {thread: ticks - before.get(thread, 0) for thread, ticks in ticks_by_thread().items()}
    finally:
        torch.set_num_threads(threads)
    own = spent.pop(str(threading.get_native_id()))
    assert own >= 20
    assert sum(spent.values()) < own / 4, spent


def ticks_by_thread() -> dict[str, int]:
    """Processor time of each thread of this process, in hundredths of a second."""
    found = {}
    for thread in os.listdir("/proc/self/task"):
        fields = Path(f"/proc/self/task/{thread}/stat").read_text().rpartition(")")[2].split()
        found[thread] = int(fields[11]) + int(fields[12])
    return found
