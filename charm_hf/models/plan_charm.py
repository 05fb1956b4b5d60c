"""What becomes of a photo of a given size, before its content is looked at (Behrad et al., CVPR 2025, section 3).

Vocabulary: a photo is cut into square *regions*; a region that matters keeps its full resolution, the others are
shrunk; every region is then cut into *tokens* of `patch_size` pixels. Scale 0 is the coarsest. A plan says all that
follows from the size alone: what the photo is resized to, what is cropped or padded, the regions and the tokens of
each scale. It is made once a photo and carried from the reading of the file's header to the cutting of its pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

from .image_formats_charm import MAX_PHOTO_BYTES


# Tokens that the released code spends on high-resolution regions, per number of scales: 512 for two, 768 for three.
HIGH_RESOLUTION_BUDGET_PER_SCALE = 256
# The papers' baseline, which Charm is compared with: shortest edge 256, centre crop 224.
ORIGINAL_SHORTEST_EDGE = 256
ORIGINAL_CROP = 224
# What happens to a photo whose tokens exceed the limit.
OVERFLOWS = ("coarsen", "resize", "drop", "keep")


@dataclass(frozen=True)
class PlanRules:
    """Everything that a plan depends on but the photo's size.

    Attributes:
        longest_edge: photos with a longer edge are shrunk to it first; `None` keeps the size.
        original: the papers' baseline instead of Charm: shortest edge 256, centre crop 224, every patch.
    """

    patch_size: int = 14
    num_scales: int = 2
    downscale_factor: float = 0.5
    max_num_patches: int = 1024
    overflow: str = "coarsen"
    longest_edge: int | None = None
    original: bool = False


@dataclass(frozen=True)
class ScalePlan:
    """How the tokens of one scale are cut.

    Attributes:
        region: side in pixels of a region, in the picture that the scale is cut from.
        shown: side in pixels at which a region is shown, a multiple of the patch size; `region` is full resolution.
        count: number of regions shown at this scale.
        grid: rows and columns of tokens if all regions were; (0, 0) for a scale that the photo does not use.
    """

    region: int
    shown: int
    count: int
    grid: tuple[int, int]


@dataclass(frozen=True)
class PhotoPlan:
    """What a photo of one size becomes.

    Attributes:
        source: height and width of the photo, EXIF orientation applied.
        resized: height and width to which all of it is resized.
        crop: top and left of the part of it that is used.
        height, width: that part's size, cropped or zero-padded at the right and the bottom to whole regions.
        thumbnail: height and width to which the photo is resized for scale 0, which then shows all of it, beside
            regions of full resolution; `None` where scale 0 shows the regions that no finer scale does.
        patch_size: side of a token in pixels.
        scales: coarsest first. A single used scale means that every patch is kept as it is.
        num_tokens: length of the token sequence.
        dropped: tokens that are left out at random to arrive at that length.
    """

    source: tuple[int, int]
    resized: tuple[int, int]
    crop: tuple[int, int]
    height: int
    width: int
    thumbnail: tuple[int, int] | None
    patch_size: int
    scales: tuple[ScalePlan, ...]
    num_tokens: int
    dropped: int = 0

    @property
    def chooses_regions(self) -> bool:
        """Whether some regions are shown at a higher resolution than others."""
        return self.scales[-1].count > 0

    @property
    def shrinks_all(self) -> bool:
        """Whether nothing of the photo is at its own resolution, since all of it was made smaller first."""
        return self.resized < self.source and self.crop == (0, 0)

    @property
    def region_grid(self) -> tuple[int, int]:
        """Rows and columns of the regions that are ranked."""
        return self.height // self.scales[-1].region, self.width // self.scales[-1].region

    @property
    def counts(self) -> tuple[int, ...]:
        """Number of ranked regions that each scale shows, coarsest first."""
        finer = [scale.count for scale in self.scales[1:]]
        return (math.prod(self.region_grid) - sum(finer), *finer)

    @property
    def grids(self) -> tuple[tuple[int, int], ...]:
        """Rows and columns of each scale's token grid: `spatial_shapes`."""
        return tuple(scale.grid for scale in self.scales)

    def area_of(self, scale: int) -> tuple[float, float, float, float]:
        """The part of the photo that the token grid of a scale lies over.

        Returns:
            left, top, right, bottom in the photo's own pixels: beyond its right and bottom edge where it is padded,
            short of an edge where it is cropped.
        """
        if self.thumbnail is not None and scale == 0:
            (rows, columns), (height, width), (top, left) = self.grids[0], self.thumbnail, (0, 0)
            used = rows * self.patch_size, columns * self.patch_size
        else:
            (height, width), (top, left), used = self.resized, self.crop, (self.height, self.width)
        down, across = self.source[0] / height, self.source[1] / width
        return left * across, top * down, (left + used[1]) * across, (top + used[0]) * down

    @property
    def num_bytes(self) -> int:
        """Memory that it takes at most to cut a decoded photo by this plan, the photo included."""
        cut = self.height * self.width
        # A crop is resized alone; else the photo is shrunk across first, then down.
        whole = self.resized == self.source or self.crop != (0, 0)
        shrunk = 0 if whole else self.resized[1] * self.source[0] + math.prod(self.resized)
        region = self.scales[-1].region
        strip = 150 * region * self.width  # what is computed of the pixels is computed of a row of regions at once
        values = (self.num_tokens + self.dropped) * (3 * self.patch_size**2 + 16)
        picture, tokens = 4 * (math.prod(self.source) + shrunk), 64 * (cut // region**2) + 4 * values
        return 3 * cut + strip + max(picture, tokens)

    @property
    def covered_area(self) -> tuple[float, float, float, float]:
        """The part of the photo that becomes tokens of some scale: that of the coarsest."""
        return self.area_of(0)


@lru_cache(maxsize=4096)
def plan_photo(height: int, width: int, rules: PlanRules) -> PhotoPlan:
    """Plan a photo of this size in pixels.

    A photo of at most `max_num_patches + 1` patches keeps them all (the released rule counts CLS into the length).
    Of a larger one, some regions stay at full resolution and the others are shrunk to `downscale_factor`. Where that
    is still more than `max_num_patches` tokens, `rules.overflow` decides:

    - `"coarsen"`: the background loses first. The same number of regions stays at full resolution, and scale 0 becomes
      the whole photo at the largest size, aspect ratio kept, whose patches fit beside them.
    - `"resize"`: the whole photo is shrunk, aspect ratio kept, until its tokens fit.
    - `"drop"`: tokens are left out at random. `"keep"`: all of them stay.
    """
    source = (height, width)
    plan = _plan(source, rules)
    if plan.num_bytes > MAX_PHOTO_BYTES:
        raise ValueError(
            f"A photo of {width}×{height} pixels would take {plan.num_bytes / 1e9:.1f} GB of memory to become "
            f"{plan.num_tokens:,} tokens, more than the {MAX_PHOTO_BYTES / 1e9:g} GB of any photo."
        )
    return plan


def _plan(source: tuple[int, int], rules: PlanRules) -> PhotoPlan:
    if rules.original:
        return _plan_original(source, rules)
    size = source if rules.longest_edge is None else shrink_to(source, rules.longest_edge)
    plan = _plan_scales(source, size, rules)
    if plan.num_tokens <= rules.max_num_patches or rules.overflow == "keep":
        return plan
    if rules.overflow == "drop":
        return replace(plan, num_tokens=rules.max_num_patches, dropped=plan.num_tokens - rules.max_num_patches)
    if rules.overflow == "coarsen" and rules.num_scales > 1:
        return _plan_thumbnail(source, size, rules)
    fitting = _largest_fitting(
        size, lambda smaller: _plan_scales(source, smaller, rules).num_tokens <= rules.max_num_patches
    )
    return _plan_scales(source, fitting, rules)


@lru_cache(maxsize=64)
def region_sizes(patch_size: int, num_scales: int, downscale_factor: float) -> tuple[int, ...]:
    """Sides in pixels at which regions are shown, coarsest first: `int(factor_s · 2^(n-1) · P)`.

    The factors are evenly spaced from `downscale_factor` to 1; the last size is a region's own.

    Raises:
        ValueError: if a region would not hold a whole number of tokens.
    """
    top = 2 ** (num_scales - 1) * patch_size
    if num_scales == 1:
        return (top,)
    step = (1.0 - downscale_factor) / (num_scales - 1)
    # Rounded before it is truncated: 0.8 * 5 is 4, not 3.
    sizes = tuple(int(round((downscale_factor + step * scale) * top, 6)) for scale in range(num_scales))
    if any(size % patch_size or size == 0 for size in sizes) or len(set(sizes)) < num_scales:
        raise ValueError(
            f"`downscale_factor={downscale_factor}` gives regions of {sizes} pixels for {num_scales} scales; each "
            f"must be another multiple of the patch size {patch_size}."
        )
    return sizes


def shrink_to(size: tuple[int, int], longest_edge: int) -> tuple[int, int]:
    """Height and width, aspect ratio kept, whose longer edge is at most `longest_edge`; never enlarges."""
    height, width = size
    ratio = longest_edge / max(height, width)
    return size if ratio >= 1 else (max(1, int(height * ratio)), max(1, int(width * ratio)))


def _largest_fitting(size: tuple[int, int], fits: Callable[[tuple[int, int]], bool]) -> tuple[int, int]:
    """Largest size of the same aspect ratio that fits, found by bisection of the longest edge."""
    low, high = 1, max(size)
    if fits(size):
        return size
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(shrink_to(size, middle)) else (low, middle)
    return shrink_to(size, low)


def _plan_original(source: tuple[int, int], rules: PlanRules) -> PhotoPlan:
    ratio = ORIGINAL_SHORTEST_EDGE / min(source)
    height, width = (max(ORIGINAL_SHORTEST_EDGE, int(edge * ratio)) for edge in source)
    crop = (height - ORIGINAL_CROP) // 2, (width - ORIGINAL_CROP) // 2
    plan = _plan_native(source, (ORIGINAL_CROP, ORIGINAL_CROP), rules)
    return replace(plan, resized=(height, width), crop=crop)


def _plan_native(source: tuple[int, int], size: tuple[int, int], rules: PlanRules) -> PhotoPlan:
    """Every patch as it is, zero-padded at the right and the bottom."""
    patch = rules.patch_size
    grid = _count_patches(size, patch)
    unused = (ScalePlan(patch, patch, 0, (0, 0)),) * (rules.num_scales - 1)
    return PhotoPlan(
        source=source,
        resized=size,
        crop=(0, 0),
        height=grid[0] * patch,
        width=grid[1] * patch,
        thumbnail=None,
        patch_size=patch,
        scales=(ScalePlan(patch, patch, math.prod(grid), grid), *unused),
        num_tokens=math.prod(grid),
    )


def _plan_scales(source: tuple[int, int], size: tuple[int, int], rules: PlanRules) -> PhotoPlan:
    """The published rule: native where all patches fit, else regions of `num_scales` scales."""
    patch, limit = rules.patch_size, rules.max_num_patches
    if rules.num_scales == 1 or math.prod(_count_patches(size, patch)) <= limit + 1:
        return _plan_native(source, size, rules)
    shown = region_sizes(patch, rules.num_scales, rules.downscale_factor)
    height, width = _fit_to_multiple(*size, math.lcm(*shown))
    return _plan_regions(source, size, (height, width), shown, rules)


def _plan_regions(
    source: tuple[int, int], size: tuple[int, int], used: tuple[int, int], shown: tuple[int, ...], rules: PlanRules
) -> PhotoPlan:
    patch = rules.patch_size
    rows, columns = used[0] // shown[-1], used[1] // shown[-1]
    counts = _regions_per_scale(rows * columns, rules.num_scales, rules.max_num_patches)
    scales = tuple(
        ScalePlan(shown[-1], side, count, (rows * (side // patch), columns * (side // patch)))
        for side, count in zip(shown, counts, strict=True)
    )
    return PhotoPlan(
        source=source,
        resized=size,
        crop=(0, 0),
        height=used[0],
        width=used[1],
        thumbnail=None,
        patch_size=patch,
        scales=scales,
        num_tokens=sum(scale.count * (scale.shown // patch) ** 2 for scale in scales),
    )


def _plan_thumbnail(source: tuple[int, int], size: tuple[int, int], rules: PlanRules) -> PhotoPlan:
    """Regions at full resolution beside a thumbnail of the whole photo that takes all other tokens."""
    patch = rules.patch_size
    shown = region_sizes(patch, rules.num_scales, rules.downscale_factor)
    plan = _plan_regions(source, size, _fit_to_multiple(*size, shown[-1]), shown, rules)
    finer = sum(scale.count * (scale.shown // patch) ** 2 for scale in plan.scales[1:])
    left = rules.max_num_patches - finer
    thumbnail = _largest_fitting(size, lambda smaller: math.prod(_count_patches(smaller, patch)) <= left)
    grid = _count_patches(thumbnail, patch)
    coarsest = ScalePlan(patch, patch, math.prod(grid), grid)
    return replace(
        plan,
        thumbnail=thumbnail,
        scales=(coarsest, *plan.scales[1:]),
        num_tokens=math.prod(grid) + finer,
    )


def _count_patches(size: tuple[int, int], patch_size: int) -> tuple[int, int]:
    return math.ceil(size[0] / patch_size), math.ceil(size[1] / patch_size)


def _fit_to_multiple(height: int, width: int, multiple: int) -> tuple[int, int]:
    """Crop or pad both sides to multiples, whichever touches the smaller corner area; never crop a side to nothing."""
    crop_height, crop_width = height % multiple, width % multiple
    pad_height, pad_width = -height % multiple, -width % multiple
    cropping_is_smaller = (pad_width or 1) * (pad_height or 1) > (crop_width or 1) * (crop_height or 1)
    if cropping_is_smaller and height > crop_height and width > crop_width:
        return height - crop_height, width - crop_width
    return height + pad_height, width + pad_width


def _regions_per_scale(num_regions: int, num_scales: int, max_num_patches: int) -> tuple[int, ...]:
    """Every scale but the coarsest gets `int((S/n) / 4^(n-1))` regions; S never exceeds the sequence length."""
    budget = min(HIGH_RESOLUTION_BUDGET_PER_SCALE * num_scales, max_num_patches)
    count = int(budget / num_scales / 4 ** (num_scales - 1))
    counts = [0] * num_scales
    for scale in range(num_scales - 1, 0, -1):
        counts[scale] = min(count, num_regions)
        num_regions -= counts[scale]
    counts[0] = num_regions
    return tuple(counts)
