"""The parameters of [`CharmImageProcessor`]: declared, explained and checked in one place."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, TypedDict

import numpy as np
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, PILImageResampling

from .patch_selection_charm import SELECTIONS
from .plan_charm import OVERFLOWS, PlanRules, region_sizes


@dataclass(frozen=True)
class CharmProcessorParameters:
    r"""The parameters of [`CharmImageProcessor`], at construction and per call: declared and checked here only.

    Args:
        patch_size (`int`, defaults to 14): side of a token in pixels; must be the backbone's.
        num_scales (`int`, defaults to 2): number of scales, the full resolution included, 1 to 4.
        downscale_factor (`float`, defaults to 0.5): size of the coarsest scale; scales are evenly spaced from it to 1.
        max_num_patches (`int`, defaults to 1024): length of the sequence, CLS not counted.
        patch_selection (`str`, defaults to `"frequency"`): how the regions kept at full resolution are chosen:
            `"frequency"`, `"gradient"`, `"entropy"`, `"saliency"` (needs `saliency_maps`), `"spectral_residual"` (of
            saliency, without maps), `"random"`; `"released_frequency"` as converted checkpoints need it.
            `"original"` does not choose: it resizes the shortest edge to 256 and crops the central 224×224, as the
            papers' baseline.
        stochastic_selection (`bool`, defaults to `False`): draw the regions from twice as many candidates, as in the
            released training code, instead of taking the most important.
        seed (`int`, list of `int`, or `None`, defaults to 0): of everything random; one number for all images or one
            an image. `None` draws from torch's global generator.
        overflow (`str`, defaults to `"coarsen"`): when tokens still exceed `max_num_patches`: `"coarsen"` keeps the
            chosen regions at full resolution and shrinks the background, `"resize"` shrinks the whole photo, aspect
            ratio kept, `"drop"` drops tokens at random, `"keep"` keeps them all.
        do_resize (`bool`, defaults to `False`), size (`{"longest_edge": int}`): shrink photos whose longer edge
            exceeds it.
        resample (`int`, defaults to bicubic): PIL filter of every resizing. Float tensors are resized by torch's
            antialiased bicubic filter, which differs from PIL's by at most 4/255 on 8-bit content.
        do_rescale, rescale_factor: multiply integer pixels (1/255). Float pixels are taken as rescaled.
        do_normalize, image_mean, image_std: subtract and divide, a number or one a channel; ImageNet's by default.
        padding (`bool` or `str`, defaults to `True`): `True` or `"longest"` pads to the longest of the batch,
            `"max_length"` to `max_num_patches`.
        reduced_decoding (`bool`, defaults to `False`): decode a JPEG file at 1/2, 1/4 or 1/8 of its size where it
            would be shrunk at least so far anyway. Faster, with pixels that differ slightly from a full decode.
        input_data_format (`str`, *optional*): `"channels_first"` or `"channels_last"`, of arrays that could be read
            either way. Per call only.
        device (*optional*): to work on. Per call only.
        do_convert_rgb (`bool`, *optional*), data_format (`str`, *optional*):
            Known to every image processor of transformers; here photos always become RGB and tokens have their
            channels first, so that only `True` and `"channels_first"` are accepted. Per call only.
    """

    patch_size: int = 14
    num_scales: int = 2
    downscale_factor: float = 0.5
    max_num_patches: int = 1024
    patch_selection: str = "frequency"
    stochastic_selection: bool = False
    seed: int | Sequence[int] | None = 0
    overflow: str = "coarsen"
    do_resize: bool = False
    size: Any = None
    resample: int = PILImageResampling.BICUBIC
    do_rescale: bool = True
    rescale_factor: float = 1 / 255
    do_normalize: bool = True
    image_mean: float | Sequence[float] = field(default_factory=lambda: list(IMAGENET_DEFAULT_MEAN))
    image_std: float | Sequence[float] = field(default_factory=lambda: list(IMAGENET_DEFAULT_STD))
    padding: bool | str = True
    reduced_decoding: bool = False
    input_data_format: str | None = None
    device: Any = None
    do_convert_rgb: bool | None = None
    data_format: str | None = None

    def __post_init__(self) -> None:
        try:
            self._check()
        except (TypeError, AttributeError, OverflowError) as error:  # as of text in the place of a number
            raise ValueError(f"A parameter of the image processor is of the wrong type: {error}.") from error

    def _check(self) -> None:
        for name in ("image_mean", "image_std"):
            if isinstance(value := getattr(self, name), (int, float)):
                object.__setattr__(self, name, [float(value)] * 3)
        _check_choice("do_convert_rgb", self.do_convert_rgb, (None, True))
        _check_choice("data_format", self.data_format, (None, "channels_first"))
        _check_choice("patch_selection", self.patch_selection, tuple(SELECTIONS))
        _check_choice("overflow", self.overflow, OVERFLOWS)
        _check_choice("padding", self.padding, (True, "longest", "max_length"))
        for name, highest in (("patch_size", 256), ("num_scales", 4), ("max_num_patches", 2**20)):
            value = getattr(self, name)
            if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or not 1 <= value <= highest:
                raise ValueError(f"`{name}` must be an integer from 1 to {highest}, got {value!r}.")
        if not 0 < self.downscale_factor < 1:
            raise ValueError(f"`downscale_factor` must lie between 0 and 1, got {self.downscale_factor}.")
        edge = self.longest_edge
        if edge is not None and not (isinstance(edge, (int, np.integer)) and edge >= 1):
            raise ValueError(f'`size["longest_edge"]` must be a whole number of at least 1, got {edge!r}.')
        _check_choice("resample", self.resample, tuple(PILImageResampling))
        if not math.isfinite(self.rescale_factor):
            raise ValueError(f"`rescale_factor` must be finite, got {self.rescale_factor}.")
        if self.do_normalize:
            for name in ("image_mean", "image_std"):
                values = getattr(self, name)
                if np.shape(values) != (3,) or not np.isfinite(values).all():
                    raise ValueError(f"`{name}` must hold three numbers, got {values!r}.")
            if not np.all(self.image_std):
                raise ValueError(f"`image_std` divides and must not hold a zero, got {self.image_std!r}.")
        region_sizes(self.patch_size, self.num_scales, self.downscale_factor)

    @property
    def longest_edge(self) -> int | None:
        """Edge in pixels to which longer photos are shrunk."""
        if not self.do_resize:
            return None
        size = self.size
        found = size if isinstance(size, int) else size.get("longest_edge") if hasattr(size, "get") else None
        if found is None:
            raise ValueError(f'`size` must be {{"longest_edge": pixels}} when `do_resize` is set, got {size!r}.')
        return found

    @property
    def rules(self) -> PlanRules:
        """What the plan of a photo depends on."""
        return PlanRules(
            self.patch_size,
            self.num_scales,
            self.downscale_factor,
            self.max_num_patches,
            self.overflow,
            self.longest_edge,
            self.patch_selection == "original",
        )


# Given with a call, never kept.
PER_CALL = ("input_data_format", "device", "do_convert_rgb", "data_format")
# The same as a type, which is where transformers looks for the names.
CharmImageProcessorKwargs = TypedDict(  # type: ignore[misc]
    "CharmImageProcessorKwargs", {item.name: Any for item in fields(CharmProcessorParameters)}, total=False
)
PARAMETER_NAMES = tuple(item.name for item in fields(CharmProcessorParameters))


def _check_choice(name: str, value: Any, choices: Sequence[Any]) -> None:
    if value not in choices:
        raise ValueError(f"`{name}` must be one of {', '.join(map(repr, choices))}, got {value!r}.")


def refuse_unknown(names: Sequence[str]) -> None:
    """Raise `ValueError` unless each name is one of a parameter."""
    unknown = sorted(set(names) - set(PARAMETER_NAMES))
    if unknown:
        raise ValueError(
            f"Unknown parameters {', '.join(unknown)}; expected some of {', '.join(sorted(PARAMETER_NAMES))}."
        )


def default_of(name: str) -> Any:
    """The default of a parameter; a new list where it is one."""
    item = next(item for item in fields(CharmProcessorParameters) if item.name == name)
    return item.default if item.default_factory is MISSING else item.default_factory()


__all__ = ["CharmImageProcessorKwargs", "CharmProcessorParameters"]
