"""The plan of a photo follows from its size alone, by the published rules."""

from __future__ import annotations

import math
import pickle

import pytest

from charm_hf.models.plan_charm import PlanRules, plan_photo, region_sizes


def rules(length: int, num_scales: int = 2, **others: object) -> PlanRules:
    return PlanRules(max_num_patches=length, num_scales=num_scales, **{"overflow": "keep", **others})


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
    plan = plan_photo(height, width, rules(64))
    assert (plan.height, plan.width) == expected


def test_a_small_photo_keeps_every_patch() -> None:
    plan = plan_photo(300, 451, rules(1024))
    assert not plan.chooses_regions
    assert (plan.height, plan.width, plan.num_tokens, plan.grids) == (308, 462, 726, ((22, 33), (0, 0)))
    # The released rule counts CLS into the length: one patch more than the limit is still native.
    assert not plan_photo(14, 14 * 513, rules(512)).chooses_regions
    assert plan_photo(14, 14 * 514, rules(512)).chooses_regions


@pytest.mark.parametrize(("num_scales", "tokens", "fine"), [(2, 721, 64), (3, 848, 16)])
def test_a_640_square_costs_what_the_released_rules_say(num_scales: int, tokens: int, fine: int) -> None:
    plan = plan_photo(640, 640, rules(1024, num_scales))
    assert plan.num_tokens == tokens
    assert plan.counts[1:] == (fine,) * (num_scales - 1)


def test_fewer_regions_than_wanted_is_no_error() -> None:
    plan = plan_photo(14 * 33, 14 * 33, rules(1024, 3))
    assert sum(plan.counts) == math.prod(plan.region_grid)
    assert min(plan.counts) >= 0


@pytest.mark.parametrize("num_scales", [2, 3])
@pytest.mark.parametrize("length", [64, 256, 512, 1024])
@pytest.mark.parametrize("size", [(400, 600), (533, 800), (1000, 1500), (3000, 4000), (8000, 12000), (90, 9000)])
def test_coarsening_fits_any_photo_and_keeps_as_many_native_regions_as_the_published_rule(
    size: tuple[int, int], length: int, num_scales: int
) -> None:
    kept, plan = (
        plan_photo(*size, rules(length, num_scales)),
        plan_photo(*size, PlanRules(num_scales=num_scales, max_num_patches=length)),
    )
    assert plan.num_tokens <= max(length, kept.num_tokens if not kept.chooses_regions else 0)
    if kept.num_tokens <= length:
        assert plan == kept
        return
    assert plan.resized == size
    assert plan.counts[1:] == kept.counts[1:]
    assert plan.scales[-1].shown == plan.scales[-1].region
    rows, columns = plan.grids[0]
    finer = sum(scale.count * (scale.shown // 14) ** 2 for scale in plan.scales[1:])
    assert rows * columns + finer == plan.num_tokens
    if min(size) > 300 and length > 64:
        assert plan.num_tokens > 0.85 * length  # the background is shrunk no more than it takes
        assert columns / rows == pytest.approx(size[1] / size[0], rel=0.2)


def test_what_stays_native_of_photos_of_every_size() -> None:
    """The numbers of docs/how-charm-works.md."""
    native = {}
    for megapixels, size in {0.24: (400, 600), 0.43: (533, 800), 12: (3000, 4000)}.items():
        plan = plan_photo(*size, PlanRules(max_num_patches=512))
        native[megapixels] = plan.counts[1] * plan.scales[1].region ** 2, plan.grids[0], plan.thumbnail
    assert native[0.24] == (64 * 28**2, (14, 21), None)
    assert native[0.43] == (64 * 28**2, (13, 19), (177, 266))
    assert native[12] == (64 * 28**2, (14, 18), (189, 252))


def test_the_papers_baseline_is_a_plan_like_the_others() -> None:
    plan = plan_photo(400, 600, rules(512, original=True))
    assert (plan.resized, plan.crop, plan.num_tokens) == ((256, 384), (16, 80), 256)
    assert plan.covered_area == pytest.approx((125, 25, 475, 375))


def test_a_plan_travels_to_other_processes() -> None:
    plan = plan_photo(3000, 4000, PlanRules())
    assert pickle.loads(pickle.dumps(plan)) == plan
