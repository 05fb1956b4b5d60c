"""Each fast formula equals the slow one that says what is meant."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from charm_hf.models import patch_selection_charm as selection
from charm_hf.models.patch_selection_charm import (
    count_ranks,
    cut_tokens,
    draw_salient,
    lay_out_tokens,
    pad_or_crop,
    patchify,
    plan_tokens,
    rank_regions,
    region_sizes,
    shrink_regions,
    split_into_tiles,
)
from charm_hf.models.pixel_tokens_charm import PIXEL_BOUNDS, PIXEL_IMPORTANCE, best_importance, cut_pixels


SIZE = 28


@pytest.fixture
def image() -> torch.Tensor:
    """A (3, 84, 140) uint8 image: noise, with one flat region and a smooth half."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (3, 3 * SIZE, 5 * SIZE), generator=generator, dtype=torch.uint8)
    image[:, :SIZE, :SIZE] = 128
    image[:, :, 3 * SIZE :] //= 8
    return image


def regions_of(image: torch.Tensor) -> list[torch.Tensor]:
    return [
        image[:, top : top + SIZE, left : left + SIZE].float() / 255
        for top in range(0, image.shape[1], SIZE)
        for left in range(0, image.shape[2], SIZE)
    ]


def slow_frequency(region: torch.Tensor) -> torch.Tensor:
    return (20 * torch.fft.fft2(region.double()).abs().log10()).mean()


def slow_entropy(region: torch.Tensor) -> torch.Tensor:
    probabilities = torch.histc(region, bins=256, min=0, max=1) / region.numel()
    return -(probabilities * torch.log2(probabilities + 1e-9)).sum()


def slow_gradient(region: torch.Tensor) -> torch.Tensor:
    sobel = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
    grey = region.mean(0)[None, None]
    across = F.conv2d(grey, sobel[None, None], padding=1)
    down = F.conv2d(grey, sobel.T[None, None], padding=1)
    return torch.sqrt(across**2 + down**2).sum()


@pytest.mark.parametrize(
    ("method", "slow"), [("frequency", slow_frequency), ("entropy", slow_entropy), ("gradient", slow_gradient)]
)
def test_importance_equals_its_definition_region_by_region(method: str, slow, image: torch.Tensor) -> None:
    fast = selection.IMPORTANCE[method](image, SIZE)
    expected = torch.stack([slow(region).float() for region in regions_of(image)])
    flat = 0 if method == "frequency" else None  # its true value is -inf; rounding decides how negative it looks
    textured = [index for index in range(len(fast)) if index != flat]
    assert torch.allclose(fast[textured], expected[textured], rtol=1e-4, atol=1e-4)
    if method != "gradient":  # whose zero padding gives even a flat region an edge
        assert fast.argmin() == 0
    from_float = selection.IMPORTANCE[method](image.float() / 255, SIZE)
    assert torch.allclose(from_float[textured], fast[textured], rtol=1e-4, atol=1e-4)
    from_pixels = torch.from_numpy(PIXEL_IMPORTANCE[method](image.numpy(), SIZE))
    assert torch.allclose(from_pixels[textured], expected[textured], rtol=1e-4, atol=1e-4)
    assert method == "gradient" or from_pixels.argmin() == 0


def test_frequency_of_odd_sized_regions_counts_each_bin_once() -> None:
    image = torch.rand(3, 15, 15, generator=torch.Generator().manual_seed(1))
    expected = (20 * torch.fft.fft2(image.double()).abs().log10()).mean().float()
    assert torch.allclose(selection.frequency_importance(image, 15)[0], expected, rtol=1e-5)


def test_shrinking_equals_torchs_bicubic_interpolation_of_each_region_alone(image: torch.Tensor) -> None:
    regions = torch.stack(regions_of(image))
    for size in (14, 21):
        expected = F.interpolate(regions, size=(size, size), mode="bicubic", align_corners=False)
        assert torch.allclose(shrink_regions(regions, size), expected, atol=1e-6)


def test_patchify_is_row_major_and_channel_first() -> None:
    region = torch.arange(3 * 4 * 4).reshape(1, 3, 4, 4)
    tokens = patchify(region, 2)
    assert tokens.shape == (4, 12)
    assert torch.equal(tokens[1].view(3, 2, 2), region[0, :, :2, 2:])
    assert torch.equal(tokens[2].view(3, 2, 2), region[0, :, 2:, :2])


def test_region_sizes_are_those_of_the_paper() -> None:
    assert region_sizes(14, 2, 0.5) == (14, 28)
    assert region_sizes(14, 3, 0.5) == (28, 42, 56)
    assert region_sizes(32, 2, 0.5) == (32, 64)
    with pytest.raises(ValueError, match="multiple of the patch size 14"):
        region_sizes(14, 2, 0.3)


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (400, 600, (392, 588)),  # cropping touches 8x12 pixels, padding 20x16
        (512, 512, (504, 504)),
        (420, 612, (420, 616)),  # an exact side counts as one pixel: 1x24 cropped against 1x4 padded
        (1, 20000, (28, 20020)),  # cropping would leave nothing
        (13, 900 * 28, (28, 900 * 28)),
    ],
)
def test_sides_become_multiples_by_whichever_touches_less_and_never_nothing(
    height: int, width: int, expected: tuple[int, int]
) -> None:
    plan = plan_tokens(height, width, 14, 2, 0.5, 64)
    assert (plan.height, plan.width) == expected


def test_a_small_image_keeps_every_patch() -> None:
    plan = plan_tokens(300, 451, 14, 2, 0.5, 1024)
    assert not plan.is_multiscale
    assert (plan.height, plan.width, plan.num_tokens, plan.grids) == (308, 462, 726, ((22, 33), (0, 0)))
    # The released rule counts CLS into the length: one patch more than the limit is still native.
    assert not plan_tokens(14, 14 * 513, 14, 2, 0.5, 512).is_multiscale
    assert plan_tokens(14, 14 * 514, 14, 2, 0.5, 512).is_multiscale


@pytest.mark.parametrize(("num_scales", "tokens", "fine"), [(2, 721, 64), (3, 848, 16)])
def test_a_640_square_costs_what_the_released_rules_say(num_scales: int, tokens: int, fine: int) -> None:
    plan = plan_tokens(640, 640, 14, num_scales, 0.5, 1024)
    assert plan.num_tokens == tokens
    assert plan.regions_per_scale[1:] == (fine,) * (num_scales - 1)


def test_fewer_regions_than_wanted_is_no_error() -> None:
    plan = plan_tokens(14 * 33, 14 * 33, 14, 3, 0.5, 1024)
    assert sum(plan.regions_per_scale) == math.prod(plan.region_grid)
    assert min(plan.regions_per_scale) >= 0


def test_the_most_important_regions_get_the_highest_scale_and_ties_keep_their_order() -> None:
    importance = torch.tensor([1.0, 5.0, 5.0, -torch.inf, 3.0, 5.0])
    assert rank_regions(importance, (3, 1, 2)).tolist() == [1, 2, 5, 4, 0, 3]


def test_tokens_are_laid_out_coarse_first_and_row_major_inside_a_scale() -> None:
    plan = plan_tokens(168, 168, 14, 3, 0.5, 64)
    assert (plan.region_grid, plan.regions_per_scale) == ((3, 3), (7, 1, 1))
    layout = lay_out_tokens(plan, np.array([5, 2, 8, 7, 6, 4, 1, 0, 3]))
    assert [regions.tolist() for regions in layout.regions_of_scale] == [[0, 1, 3, 4, 6, 7, 8], [2], [5]]
    assert layout.scale_ids.tolist() == [0] * 28 + [1] * 9 + [2] * 16
    assert layout.positions[:5].tolist() == [[0, 0], [0, 1], [1, 0], [1, 1], [0, 2]]
    assert layout.positions[28].tolist() == [0, 6]
    assert layout.positions[-1].tolist() == [7, 11]


@pytest.mark.parametrize("num_scales", [2, 3])
@pytest.mark.parametrize("patch_size", [14, 16, 32])
def test_the_fast_path_of_8_bit_pixels_equals_the_plain_one(patch_size: int, num_scales: int) -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (3, 400, 610), generator=generator, dtype=torch.uint8)
    image[0] //= 4
    plan = plan_tokens(400, 610, patch_size, num_scales, 0.5, 48)
    image = pad_or_crop(image, plan.height, plan.width)
    size = plan.sizes[-1]
    for method, importance in PIXEL_IMPORTANCE.items():
        plain = selection.IMPORTANCE[method](image, size)
        # One frequency that is zero but for rounding moves the mean over all of them by some thousandths.
        tolerance = 1e-2 if method == "frequency" else 1e-4
        assert torch.allclose(torch.from_numpy(importance(image.numpy(), size)), plain, rtol=1e-4, atol=tolerance)
    layout = lay_out_tokens(plan, torch.randperm(math.prod(plan.region_grid), generator=generator).numpy())
    factor, offset = np.array([0.5, 1.0, 2.0], np.float32), np.array([-1.0, 0.0, 3.0], np.float32)
    tokens = torch.from_numpy(cut_pixels(image.numpy(), plan, layout, factor, offset)).unflatten(1, (3, -1))
    plain = cut_tokens(image, plan, layout).unflatten(1, (3, -1))
    expected = plain * torch.from_numpy(factor)[:, None] + torch.from_numpy(offset)[:, None]
    assert torch.allclose(tokens, expected, atol=1e-3)


def planes_of_kind(kind: str, size: int) -> np.ndarray:
    """(3, 12·size, 20·size) pixels."""
    generator = np.random.default_rng(0)
    noise = generator.integers(0, 256, (3, 12 * size, 20 * size))
    smooth = np.cumsum(np.cumsum(noise - 127.5, axis=1), axis=2)
    smooth = (smooth - smooth.min()) / np.ptp(smooth) * 255
    contrast = np.linspace(0, 1, 12 * 20).reshape(12, 20).repeat(size, 0).repeat(size, 1)
    kinds = {
        "noise": noise,
        "noise of many contrasts": 128 + (noise - 128) * contrast,
        "smooth": smooth,
        "stripes": 255 * ((np.arange(20 * size) // 3) % 2) * np.ones_like(noise),
        "the same four textures again and again": np.tile(noise[:, : 2 * size, : 2 * size], (1, 6, 10)),
        "half black": noise * (np.arange(20 * size) < 10 * size),
        "flat": np.full_like(noise, 77),
        "black": np.zeros_like(noise),
    }
    return kinds[kind].astype(np.uint8)


KINDS = [
    "noise",
    "noise of many contrasts",
    "smooth",
    "stripes",
    "the same four textures again and again",
    "half black",
    "flat",
    "black",
]


@pytest.mark.parametrize("size", [28, 32, 56, 64])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", PIXEL_BOUNDS)
def test_a_bound_is_never_below_the_importance(method: str, kind: str, size: int) -> None:
    planes = planes_of_kind(kind, size)
    importance, bound = PIXEL_IMPORTANCE[method](planes, size), PIXEL_BOUNDS[method](planes, size)
    assert (bound >= importance).all()


@pytest.mark.parametrize("stochastic", [False, True])
@pytest.mark.parametrize("counts", [(230, 10), (210, 15, 15), (240, 0)])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", PIXEL_IMPORTANCE)
def test_regions_are_ranked_as_if_the_importance_of_all_were_known(
    method: str, kind: str, counts: tuple[int, ...], stochastic: bool
) -> None:
    planes = planes_of_kind(kind, SIZE)
    count = count_ranks(counts, stochastic)
    rankings = [
        rank_regions(torch.from_numpy(importance), counts, torch.Generator().manual_seed(3) if stochastic else None)
        for importance in (PIXEL_IMPORTANCE[method](planes, SIZE), best_importance(method, planes, SIZE, count))
    ]
    chosen = sum(counts[1:])
    assert torch.equal(rankings[0][:chosen], rankings[1][:chosen])


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


def test_tokens_at_full_resolution_are_the_pixels_at_their_position(image: torch.Tensor) -> None:
    plan = plan_tokens(image.shape[1], image.shape[2], 14, 2, 0.5, 20)
    assert plan.is_multiscale
    layout = lay_out_tokens(plan, np.arange(15))
    tokens, scale_ids, positions = cut_tokens(image, plan, layout), layout.scale_ids, layout.positions
    tiles = split_into_tiles(image, 14).flatten(2).float()
    for token, scale, (row, column) in zip(tokens, scale_ids, positions, strict=True):
        if scale == 1:
            assert torch.equal(token, tiles[row, column])
    assert scale_ids.tolist() == sorted(scale_ids.tolist())
    assert len(tokens) == plan.num_tokens
