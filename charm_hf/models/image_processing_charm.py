"""The Charm tokenizer as a transformers image processor: photos in, one padded batch of multi-scale tokens out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from transformers.image_processing_utils import BaseImageProcessor, BatchFeature
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, PILImageResampling
from transformers.processing_utils import ImagesKwargs
from transformers.utils import TensorType

from .checkpoint_charm import CHARM_AUTO_MAP, CardMixin, save_code_files
from .image_loading_charm import array_to_tensor, describe_source, image_size, load_image, rgb_planes
from .patch_selection_charm import (
    IMPORTANCE,
    TokenPlan,
    count_ranks,
    cut_tokens,
    draw_salient,
    lay_out_tokens,
    pad_or_crop,
    plan_tokens,
    rank_regions,
    region_sizes,
    saliency_importance,
)
from .pixel_tokens_charm import best_importance, cut_pixels
from .presets_charm import get_dataset_preset


PATCH_SELECTIONS = ("frequency", "gradient", "entropy", "saliency", "random", "original")
OVERFLOWS = ("keep", "drop", "resize")
# The papers' baseline, which Charm is compared with: shortest edge 256, centre crop 224.
ORIGINAL_SHORTEST_EDGE = 256
ORIGINAL_CROP = 224


class CharmImageProcessorKwargs(ImagesKwargs, total=False):  # type: ignore[call-arg]
    """What can be given to [`CharmImageProcessor`], at construction and per call."""

    patch_size: int
    num_scales: int
    downscale_factor: float
    max_num_patches: int
    patch_selection: str
    stochastic_selection: bool
    seed: int | Sequence[int] | None
    overflow: str
    padding: bool | str
    reduced_decoding: bool


@dataclass(frozen=True)
class _Settings:
    """The parameters of one call, checked."""

    patch_size: int = 14
    num_scales: int = 2
    downscale_factor: float = 0.5
    max_num_patches: int = 1024
    patch_selection: str = "frequency"
    stochastic_selection: bool = False
    seed: int | Sequence[int] | None = 0
    overflow: str = "resize"
    do_resize: bool = False
    size: Any = None
    resample: int = PILImageResampling.BICUBIC
    do_rescale: bool = True
    rescale_factor: float = 1 / 255
    do_normalize: bool = True
    image_mean: Sequence[float] = field(default=tuple(IMAGENET_DEFAULT_MEAN))
    image_std: Sequence[float] = field(default=tuple(IMAGENET_DEFAULT_STD))
    padding: bool | str = True
    reduced_decoding: bool = False
    input_data_format: str | None = None
    device: Any = None

    def __post_init__(self) -> None:
        _check_choice("patch_selection", self.patch_selection, PATCH_SELECTIONS)
        _check_choice("overflow", self.overflow, OVERFLOWS)
        _check_choice("padding", self.padding, (True, "longest", "max_length"))
        for name in ("patch_size", "num_scales", "max_num_patches"):
            value = getattr(self, name)
            if not isinstance(value, (int, np.integer)) or value < 1:
                raise ValueError(f"`{name}` must be a positive integer, got {value!r}.")
        if not 0 < self.downscale_factor < 1:
            raise ValueError(f"`downscale_factor` must lie between 0 and 1, got {self.downscale_factor}.")
        if self.do_resize:
            longest_edge = _longest_edge(self.size)
            if longest_edge < 1:
                raise ValueError(f'`size["longest_edge"]` must be at least 1, got {longest_edge}.')
        if self.do_normalize:
            for name in ("image_mean", "image_std"):
                if len(getattr(self, name)) != 3:
                    raise ValueError(f"`{name}` must hold three numbers, got {getattr(self, name)!r}.")
        region_sizes(self.patch_size, self.num_scales, self.downscale_factor)

    def plan(self, height: int, width: int) -> TokenPlan:
        """Plan the tokens of an image of this size."""
        # `original` keeps every patch of its crop: a length that nothing exceeds.
        length = self.max_num_patches if self.patch_selection != "original" else ORIGINAL_CROP**2
        return plan_tokens(height, width, self.patch_size, self.num_scales, self.downscale_factor, length)


def _check_choice(name: str, value: Any, choices: Sequence[Any]) -> None:
    if value not in choices:
        raise ValueError(f"`{name}` must be one of {', '.join(map(repr, choices))}, got {value!r}.")


def _longest_edge(size: Any) -> int:
    if isinstance(size, int):
        return size
    longest_edge = size.get("longest_edge") if hasattr(size, "get") else getattr(size, "longest_edge", None)
    if longest_edge is None:
        raise ValueError(f'`size` must be {{"longest_edge": pixels}} when `do_resize` is set, got {size!r}.')
    return longest_edge


class CharmImageProcessor(CardMixin, BaseImageProcessor):
    r"""Turn photos into Charm tokens (CVPR 2025, section 3).

    A photo of at most `max_num_patches + 1` patches is cut as it is. Of a larger one the regions that matter keep
    their full resolution and the others are shrunk. The result depends on the photo and the parameters only, not on
    the batch.

    Args:
        patch_size (`int`, defaults to 14): side of a token in pixels; must be the backbone's.
        num_scales (`int`, defaults to 2): number of scales, the full resolution included.
        downscale_factor (`float`, defaults to 0.5): size of the coarsest scale; scales are evenly spaced from it to 1.
        max_num_patches (`int`, defaults to 1024): length of the sequence, CLS not counted.
        patch_selection (`str`, defaults to `"frequency"`): how the regions kept at full resolution are chosen:
            `"frequency"`, `"gradient"`, `"entropy"`, `"saliency"` (needs `saliency_maps`), `"random"`. `"original"`
            does not choose: it resizes the shortest edge to 256 and crops the central 224×224, as the papers'
            baseline.
        stochastic_selection (`bool`, defaults to `False`): draw the regions from twice as many candidates, as in the
            released training code, instead of taking the most important.
        seed (`int`, list of `int`, or `None`, defaults to 0): of everything random; one number for all images or one
            an image. `None` draws from torch's global generator.
        overflow (`str`, defaults to `"resize"`): when tokens still exceed `max_num_patches`: `"resize"` shrinks the
            image, aspect ratio kept, until they fit; `"drop"` drops tokens at random; `"keep"` keeps them all.
        do_resize (`bool`, defaults to `False`), size (`{"longest_edge": int}`): shrink photos whose longer edge
        exceeds it.
        resample (`int`, defaults to bicubic): PIL filter of every resizing. Float tensors are resized by torch's
            antialiased bicubic filter, which differs from PIL's by at most 4/255 on 8-bit content.
        do_rescale, rescale_factor: multiply integer pixels (1/255). Float pixels are taken as rescaled.
        do_normalize, image_mean, image_std: subtract and divide, a channel each; ImageNet's by default.
        padding (`bool` or `str`, defaults to `True`): `True` or `"longest"` pads to the longest of the batch,
            `"max_length"` to `max_num_patches`.
        reduced_decoding (`bool`, defaults to `False`): decode a JPEG file at 1/2, 1/4 or 1/8 of its size where it
            would be shrunk at least so far anyway. Faster, with pixels that differ slightly from a full decode.
    """

    model_input_names: ClassVar[list[str]] = [
        "pixel_values",
        "pixel_attention_mask",
        "scale_ids",
        "patch_positions",
        "spatial_shapes",
    ]
    valid_kwargs = CharmImageProcessorKwargs

    def __init__(
        self,
        patch_size: int = 14,
        num_scales: int = 2,
        downscale_factor: float = 0.5,
        max_num_patches: int = 1024,
        patch_selection: str = "frequency",
        stochastic_selection: bool = False,
        seed: int | Sequence[int] | None = 0,
        overflow: str = "resize",
        do_resize: bool = False,
        size: dict[str, int] | int | None = None,
        resample: int = PILImageResampling.BICUBIC,
        do_rescale: bool = True,
        rescale_factor: float = 1 / 255,
        do_normalize: bool = True,
        image_mean: Sequence[float] | None = None,
        image_std: Sequence[float] | None = None,
        padding: bool | str = True,
        reduced_decoding: bool = False,
        **kwargs: Any,
    ) -> None:
        kwargs.pop("auto_map", None)
        kwargs.pop("image_processor_type", None)
        super().__init__(**kwargs)
        self.patch_size = patch_size
        self.num_scales = num_scales
        self.downscale_factor = downscale_factor
        self.max_num_patches = max_num_patches
        self.patch_selection = patch_selection
        self.stochastic_selection = stochastic_selection
        self.seed = seed
        self.overflow = overflow
        self.do_resize = do_resize
        self.size = {"longest_edge": size} if isinstance(size, int) else (None if size is None else dict(size))
        self.resample = resample
        self.do_rescale = do_rescale
        self.rescale_factor = rescale_factor
        self.do_normalize = do_normalize
        self.image_mean = list(IMAGENET_DEFAULT_MEAN if image_mean is None else image_mean)
        self.image_std = list(IMAGENET_DEFAULT_STD if image_std is None else image_std)
        self.padding = padding
        self.reduced_decoding = reduced_decoding
        self._settings({})

    @classmethod
    def for_dataset(cls, name: str, **overrides: Any) -> CharmImageProcessor:
        """Processor with the sequence length and longest edge published for a dataset.

        Args:
            name: `ava`, `aadb`, `tad66k`, `para`, `baid`, `spaq` or `koniq10k`.
            overrides: any parameter of the constructor.
        """
        preset = get_dataset_preset(name)
        parameters: dict[str, Any] = {"max_num_patches": preset.max_num_patches}
        if preset.longest_edge is not None:
            parameters |= {"do_resize": True, "size": {"longest_edge": preset.longest_edge}}
        return cls(**{**parameters, **overrides})

    def __call__(self, images: Any, saliency_maps: Any = None, **kwargs: Any) -> BatchFeature:
        """See [`~CharmImageProcessor.preprocess`]."""
        return self.preprocess(images, saliency_maps=saliency_maps, **kwargs)

    def preprocess(
        self, images: Any, saliency_maps: Any = None, return_tensors: str | TensorType | None = "pt", **kwargs: Any
    ) -> BatchFeature:
        """Tokenize one photo or a list of photos of any sizes.

        Args:
            images: a path, URL, encoded bytes, PIL image, array or tensor (see `image_loading_charm`), or a list of
                these; an array or tensor of four dimensions is a batch.
            saliency_maps: for `patch_selection="saliency"`: one map an image, of the image's own size; above 0 is
            salient.
            return_tensors: `"pt"` or `"np"`.
            kwargs: any parameter of the constructor, for this call only; `device` to work on; `input_data_format`
                (`"channels_first"` or `"channels_last"`) of arrays that could be read either way.

        Returns:
            `pixel_values` (B, L, C·P·P) float32, channel first inside a token; `pixel_attention_mask` (B, L), 1 for a
            token and 0 for padding; `scale_ids` (B, L), 0 for the coarsest; `patch_positions` (B, L, 2), row and
            column in the token's own scale; `spatial_shapes` (B, num_scales, 2), rows and columns of each scale's
            grid, (0, 0) for a scale that the photo does not use.

        Raises:
            ValueError: for unknown or impossible parameters, and for an image that is empty, broken or too large; the
                message names the image.
            FileNotFoundError: for a path that does not exist.
        """
        settings = self._settings(kwargs)
        images = _as_list(images)
        maps = [None] * len(images) if saliency_maps is None else _as_list(saliency_maps)
        if len(maps) != len(images):
            raise ValueError(f"Got {len(maps)} saliency maps for {len(images)} images.")
        seeds = _seeds(settings.seed, len(images))
        tokenized = [
            self._tokenize_one(image, describe_source(image, index), maps[index], seeds[index], settings)
            for index, image in enumerate(images)
        ]
        return BatchFeature(_pad_batch(tokenized, settings), tensor_type=return_tensors)

    def num_tokens(self, height: int, width: int, **kwargs: Any) -> int:
        """Count the tokens of a photo of this size in pixels, without its pixels."""
        settings = self._settings(kwargs)
        count = settings.plan(*_target_size(height, width, settings)).num_tokens
        return min(count, settings.max_num_patches) if settings.overflow == "drop" else count

    def covered_area(self, height: int, width: int, **kwargs: Any) -> tuple[float, float, float, float]:
        """Find the part of a photo of this size that becomes tokens.

        Returns:
            left, top, right, bottom in the photo's own pixels: beyond its right and bottom edge where it is padded,
            short of an edge where it is cropped.
        """
        settings = self._settings(kwargs)
        target = _target_size(height, width, settings)
        plan = settings.plan(*target)
        top = left = 0
        if settings.patch_selection == "original":
            target = _shortest_edge_size(height, width)
            top, left = (target[0] - ORIGINAL_CROP) // 2, (target[1] - ORIGINAL_CROP) // 2
        down, across = height / target[0], width / target[1]
        return left * across, top * down, (left + plan.width) * across, (top + plan.height) * down

    def to_dict(self) -> dict[str, Any]:
        """Serialize the parameters; `auto_map` points at the code that travels with a checkpoint."""
        output = super().to_dict()
        output["auto_map"] = {"AutoImageProcessor": CHARM_AUTO_MAP["AutoImageProcessor"]}
        # The base class leaves out None, which is a value here: draw from the global generator.
        output["seed"] = self.seed
        return output

    def save_pretrained(
        self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs: Any
    ) -> list[str]:
        """Write `preprocessor_config.json` and the code that reads it."""
        os.makedirs(save_directory, exist_ok=True)
        save_code_files(save_directory)
        return super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)

    def _settings(self, overrides: dict[str, Any]) -> _Settings:
        known = {item.name for item in fields(_Settings)}
        unknown = set(overrides) - known
        if unknown:
            raise ValueError(
                f"Unknown parameters {', '.join(sorted(unknown))}; expected some of {', '.join(sorted(known))}."
            )
        own = {name: getattr(self, name) for name in known if hasattr(self, name)}
        given = {name: value for name, value in overrides.items() if value is not None or name == "seed"}
        return _Settings(**{**own, **given})

    def _tokenize_one(
        self, source: Any, name: str, saliency_map: Any, seed: int | None, settings: _Settings
    ) -> dict[str, torch.Tensor]:
        try:
            pixels, plan = _fit(_read_and_resize(source, name, settings), settings)
            saliency = None
            if settings.patch_selection == "saliency":
                saliency = _read_saliency_map(saliency_map, source, name, settings).to(pixels.device)
                saliency = pad_or_crop(saliency, plan.height, plan.width)
            return _tokens_of(pixels, plan, saliency, seed, settings)
        except RuntimeError as error:
            raise RuntimeError(f"{name}: {error}") from error


def _as_list(images: Any) -> list[Any]:
    if isinstance(images, (np.ndarray, torch.Tensor)):
        images = list(images) if images.ndim == 4 else [images]
    elif not isinstance(images, (list, tuple)):
        images = [images]
    if len(images) == 0:
        raise ValueError("Got an empty list of images, expected at least one.")
    return list(images)


def _seeds(seed: int | Sequence[int] | None, count: int) -> list[int | None]:
    if seed is None or isinstance(seed, (int, np.integer)):
        return [seed if seed is None else int(seed)] * count
    if len(seed) != count:
        raise ValueError(f"Got {len(seed)} seeds for {count} images.")
    return [int(value) for value in seed]


def _target_size(height: int, width: int, settings: _Settings) -> tuple[int, int]:
    """Size in pixels at which an image is cut into tokens: the longest edge first, then the token limit."""
    if settings.patch_selection == "original":
        return ORIGINAL_CROP, ORIGINAL_CROP
    if settings.do_resize:
        height, width = _shrink_to(height, width, _longest_edge(settings.size))
    if settings.overflow == "resize":
        height, width = _fit_tokens(height, width, settings)
    return height, width


def _shrink_to(height: int, width: int, longest_edge: int) -> tuple[int, int]:
    ratio = longest_edge / max(height, width)
    return (height, width) if ratio >= 1 else (max(1, int(height * ratio)), max(1, int(width * ratio)))


def _fit_tokens(height: int, width: int, settings: _Settings) -> tuple[int, int]:
    """Shrink to the longest edge, found by bisection, at which the tokens fit into `max_num_patches`."""

    def fits(edge: int) -> bool:
        return settings.plan(*_shrink_to(height, width, edge)).num_tokens <= settings.max_num_patches

    low, high = 1, max(height, width)
    if fits(high):
        return height, width
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return _shrink_to(height, width, low)


def _read_and_resize(source: Any, name: str, settings: _Settings) -> torch.Tensor | Image.Image:
    """Read an image and bring it to its target size: RGB, or (3, H, W), `uint8` or float in [0, 1]."""
    if isinstance(source, (np.ndarray, torch.Tensor)):
        tensor = array_to_tensor(source, name, settings.input_data_format).to(settings.device or None)
        target = _target_size(tensor.shape[1], tensor.shape[2], settings)
        if tensor.is_floating_point():
            return _resize_tensor(tensor, target, settings)
        if target == tuple(tensor.shape[1:]):
            return tensor
        source = Image.fromarray(tensor.permute(1, 2, 0).cpu().numpy())
    draft_size = None
    if settings.reduced_decoding and not isinstance(source, Image.Image):
        draft_size = _draft_size(source, name, settings)
    image = load_image(source, name=name, draft_size=draft_size)
    return _resize_pil(image, settings)


def _fit(image: torch.Tensor | Image.Image, settings: _Settings) -> tuple[torch.Tensor, TokenPlan]:
    """Plan the tokens of an image, and crop or pad it to the plan's size: (3, H, W), rows contiguous."""
    if isinstance(image, Image.Image):
        plan = settings.plan(image.height, image.width)
        return torch.from_numpy(rgb_planes(image, plan.height, plan.width)).to(settings.device or "cpu"), plan
    plan = settings.plan(image.shape[1], image.shape[2])
    image = pad_or_crop(image, plan.height, plan.width)
    # The channels of an array may come last.
    return image if image.stride(-1) == 1 else image.contiguous(), plan


def _draft_size(source: Any, name: str, settings: _Settings) -> tuple[int, int]:
    """Width and height that a reduced decode must not fall below."""
    width, height = image_size(source, name=name)
    if settings.patch_selection == "original":
        height, width = _shortest_edge_size(height, width)
    else:
        height, width = _target_size(height, width, settings)
    return width, height


def _resize_pil(image: Image.Image, settings: _Settings) -> Image.Image:
    if settings.patch_selection == "original":
        height, width = _shortest_edge_size(image.height, image.width)
        image = image.resize((width, height), settings.resample)
        left, top = (width - ORIGINAL_CROP) // 2, (height - ORIGINAL_CROP) // 2
        return image.crop((left, top, left + ORIGINAL_CROP, top + ORIGINAL_CROP))
    height, width = _target_size(image.height, image.width, settings)
    return image if (width, height) == image.size else image.resize((width, height), settings.resample)


def _shortest_edge_size(height: int, width: int) -> tuple[int, int]:
    ratio = ORIGINAL_SHORTEST_EDGE / min(height, width)
    return max(ORIGINAL_SHORTEST_EDGE, int(height * ratio)), max(ORIGINAL_SHORTEST_EDGE, int(width * ratio))


def _resize_tensor(image: torch.Tensor, target: tuple[int, int], settings: _Settings) -> torch.Tensor:
    if settings.patch_selection == "original":
        size = _shortest_edge_size(image.shape[1], image.shape[2])
        top, left = (size[0] - ORIGINAL_CROP) // 2, (size[1] - ORIGINAL_CROP) // 2
        resized = _antialiased(image, size)
        return resized[:, top : top + ORIGINAL_CROP, left : left + ORIGINAL_CROP]
    return image if target == tuple(image.shape[1:]) else _antialiased(image, target)


def _antialiased(image: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Resize as PIL does: across, then down, clipping the overshoot of each pass."""
    across = F.interpolate(image[None], size=(image.shape[1], size[1]), mode="bicubic", antialias=True).clamp(0, 1)
    return F.interpolate(across, size=size, mode="bicubic", antialias=True)[0].clamp(0, 1)


def _read_saliency_map(saliency_map: Any, source: Any, name: str, settings: _Settings) -> torch.Tensor:
    """Read a map as (1, H, W) of the processed image's size; nearest pixels, since it is a mask."""
    if saliency_map is None:
        raise ValueError(f'{name}: `patch_selection="saliency"` needs `saliency_maps`, one for each image.')
    if isinstance(saliency_map, (np.ndarray, torch.Tensor)):
        tensor = torch.as_tensor(saliency_map).squeeze()
        if tensor.ndim != 2:
            raise ValueError(f"Saliency map of {name}: expected (H, W), got shape {tuple(saliency_map.shape)}.")
    else:
        tensor = torch.from_numpy(np.array(load_image(saliency_map, name=f"saliency map of {name}"))).amax(-1)
    expected = _source_size(source, name, settings)
    if tuple(tensor.shape) != expected:
        raise ValueError(
            f"Saliency map of {name} has {tensor.shape[0]}×{tensor.shape[1]} pixels (height×width), but the image has "
            f"{expected[0]}×{expected[1]}."
        )
    mask = (tensor > 0).float()[None, None]
    return F.interpolate(mask, size=_target_size(*expected, settings), mode="nearest")[0]


def _source_size(source: Any, name: str, settings: _Settings) -> tuple[int, int]:
    if isinstance(source, (np.ndarray, torch.Tensor)):
        tensor = array_to_tensor(source, name, settings.input_data_format)
        return tensor.shape[1], tensor.shape[2]
    width, height = image_size(source, name=name)
    return height, width


def _tokens_of(
    image: torch.Tensor, plan: TokenPlan, saliency: torch.Tensor | None, seed: int | None, settings: _Settings
) -> dict[str, torch.Tensor]:
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    ranked = None
    if plan.is_multiscale:
        ranked = _rank(image, saliency, plan, generator, settings).cpu().numpy()
    layout = lay_out_tokens(plan, ranked)
    factor, offset = _rescale_and_normalize(settings, is_float=image.is_floating_point())
    if _is_plain_pixels(image):
        tokens = torch.from_numpy(cut_pixels(image.numpy(), plan, layout, factor.numpy(), offset.numpy()))
    else:
        factor, offset = (item.to(image.device).repeat_interleave(settings.patch_size**2) for item in (factor, offset))
        tokens = torch.addcmul(offset, cut_tokens(image, plan, layout), factor)
    scale_ids, positions = (torch.from_numpy(ids).to(tokens.device) for ids in (layout.scale_ids, layout.positions))
    if settings.overflow == "drop" and len(tokens) > settings.max_num_patches:
        kept = torch.randperm(len(tokens), generator=generator)[: settings.max_num_patches].sort().values
        kept = kept.to(tokens.device)
        tokens, scale_ids, positions = tokens[kept], scale_ids[kept], positions[kept]
    return {
        "pixel_values": tokens,
        "scale_ids": scale_ids,
        "patch_positions": positions,
        "spatial_shapes": torch.tensor(plan.grids, device=tokens.device),
    }


def _is_plain_pixels(image: torch.Tensor) -> bool:
    """Whether NumPy can do the work: 8-bit pixels in main memory have no gradient and no device."""
    return image.dtype == torch.uint8 and image.device.type == "cpu"


def _rank(
    image: torch.Tensor,
    saliency: torch.Tensor | None,
    plan: TokenPlan,
    generator: torch.Generator | None,
    settings: _Settings,
) -> torch.Tensor:
    counts, size = plan.regions_per_scale, plan.sizes[-1]
    if settings.patch_selection == "random":
        return torch.randperm(sum(counts), generator=generator).to(image.device)
    if generator is None and settings.stochastic_selection:
        generator = torch.default_generator
    if saliency is not None:
        importance = saliency_importance(saliency, size)
        if not settings.stochastic_selection:
            return rank_regions(importance, counts)
        return rank_regions(draw_salient(importance, generator or torch.default_generator), counts)
    if _is_plain_pixels(image):
        count = count_ranks(counts, settings.stochastic_selection)
        importance = torch.from_numpy(best_importance(settings.patch_selection, image.numpy(), size, count))
    else:
        importance = IMPORTANCE[settings.patch_selection](image.detach(), size)
    return rank_regions(importance, counts, generator if settings.stochastic_selection else None)


def _rescale_and_normalize(settings: _Settings, is_float: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Factor and offset, (3,) each, that rescale pixels of a channel and normalize them in one step."""
    rescale = settings.rescale_factor if settings.do_rescale and not is_float else 1.0
    mean, std = (settings.image_mean, settings.image_std) if settings.do_normalize else ([0.0] * 3, [1.0] * 3)
    factor, offset = rescale / np.asarray(std), -np.asarray(mean) / np.asarray(std)
    return torch.from_numpy(factor.astype(np.float32)), torch.from_numpy(offset.astype(np.float32))


def _pad_batch(images: list[dict[str, torch.Tensor]], settings: _Settings) -> dict[str, torch.Tensor]:
    length = max(len(image["scale_ids"]) for image in images)
    if settings.padding == "max_length":
        if length > settings.max_num_patches:
            raise ValueError(
                f'`padding="max_length"` pads to {settings.max_num_patches} tokens, but an image has {length}: raise '
                '`max_num_patches` or use `overflow="resize"` or `"drop"`.'
            )
        length = settings.max_num_patches
    for image in images:
        image["pixel_attention_mask"] = torch.ones_like(image["scale_ids"])
    return {
        name: _stack([_pad_to(image[name], length) for image in images])
        for name in ("pixel_values", "pixel_attention_mask", "scale_ids", "patch_positions")
    } | {"spatial_shapes": _stack([image["spatial_shapes"] for image in images])}


def _stack(tensors: list[torch.Tensor]) -> torch.Tensor:
    """Stack without copying what stands alone."""
    return tensors[0][None] if len(tensors) == 1 else torch.stack(tensors)


def _pad_to(tensor: torch.Tensor, length: int) -> torch.Tensor:
    """Zero-pad the first dimension."""
    missing = length - len(tensor)
    return tensor if missing == 0 else F.pad(tensor, (0, 0) * (tensor.ndim - 1) + (0, missing))


__all__ = ["CharmImageProcessor"]
