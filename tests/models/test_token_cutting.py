"""From ranked regions to tokens: each fast form equals the slow one that says what is meant."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from charm_hf.models.patch_selection_charm import split_into_tiles
from charm_hf.models.plan_charm import PhotoPlan, PlanRules, plan_photo
from charm_hf.models.token_cutting_charm import (
    cut_pixels,
    cut_tokens,
    lay_out_tokens,
    pad_or_crop,
    patchify,
    shrink_regions,
)


def keep_all(height: int, width: int, patch_size: int, num_scales: int, length: int) -> PhotoPlan:
    rules = PlanRules(patch_size=patch_size, num_scales=num_scales, max_num_patches=length, overflow="keep")
    return plan_photo(height, width, rules)


@pytest.mark.parametrize("size", [14, 21, 7])
def test_shrinking_equals_torchs_bicubic_interpolation_of_each_region_alone(size: int) -> None:
    regions = torch.rand(5, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    # As released without antialiasing, down to a half.
    expected = F.interpolate(regions, size=(size, size), mode="bicubic", align_corners=False, antialias=size < 14)
    assert torch.allclose(shrink_regions(regions, size), expected, atol=1e-6)


def test_patchify_is_row_major_and_channel_first() -> None:
    region = torch.arange(3 * 4 * 4).reshape(1, 3, 4, 4)
    tokens = patchify(region, 2)
    assert tokens.shape == (4, 12)
    assert torch.equal(tokens[1].view(3, 2, 2), region[0, :, :2, 2:])
    assert torch.equal(tokens[2].view(3, 2, 2), region[0, :, 2:, :2])


def test_tokens_are_laid_out_coarse_first_and_row_major_inside_a_scale() -> None:
    plan = keep_all(168, 168, 14, 3, 64)
    assert (plan.region_grid, plan.counts) == ((3, 3), (7, 1, 1))
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
    plan = keep_all(400, 610, patch_size, num_scales, 48)
    image = pad_or_crop(image, plan.height, plan.width)
    layout = lay_out_tokens(plan, torch.randperm(math.prod(plan.region_grid), generator=generator).numpy())
    factor, offset = np.array([0.5, 1.0, 2.0], np.float32), np.array([-1.0, 0.0, 3.0], np.float32)
    tokens = torch.from_numpy(cut_pixels(image.numpy(), None, plan, layout, factor, offset)).unflatten(1, (3, -1))
    plain = cut_tokens(image, None, plan, layout).unflatten(1, (3, -1))
    expected = plain * torch.from_numpy(factor)[:, None] + torch.from_numpy(offset)[:, None]
    assert torch.allclose(tokens, expected, atol=1e-3)


def test_tokens_at_full_resolution_are_the_pixels_at_their_position() -> None:
    image = torch.randint(0, 256, (3, 84, 140), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    plan = keep_all(84, 140, 14, 2, 20)
    assert plan.chooses_regions
    layout = lay_out_tokens(plan, np.arange(15))
    tokens, scale_ids, positions = cut_tokens(image, None, plan, layout), layout.scale_ids, layout.positions
    tiles = split_into_tiles(image, 14).flatten(2).float()
    for token, scale, (row, column) in zip(tokens, scale_ids, positions, strict=True):
        if scale == 1:
            assert torch.equal(token, tiles[row, column])
    assert scale_ids.tolist() == sorted(scale_ids.tolist())
    assert len(tokens) == plan.num_tokens
