"""The Charm tokenizer as a transformers image processor: photos in, one padded batch of multi-scale tokens out."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from transformers.image_processing_utils import BaseImageProcessor, BatchFeature
from transformers.utils import TensorType

from .backbones_charm import get_backbone
from .checkpoint_charm import CHARM_AUTO_MAP, CardMixin, save_code_files
from .image_formats_charm import MAX_PHOTO_BYTES
from .image_loading_charm import array_to_tensor, describe_source, load_image, rgb_planes, source_path
from .patch_selection_charm import SELECTIONS, draw_salient, measure_importance, rank_regions
from .plan_charm import PhotoPlan, plan_photo
from .presets_charm import get_dataset_preset
from .processor_parameters_charm import (
    PARAMETER_NAMES,
    PER_CALL,
    CharmImageProcessorKwargs,
    CharmProcessorParameters,
    default_of,
    refuse_unknown,
)
from .token_cutting_charm import cut_pixels, cut_tokens, lay_out_tokens, pad_or_crop


# What transformers writes beside the parameters, and hands back when it loads them.
_SERVICE_KEYS = ("auto_map", "image_processor_type", "feature_extractor_type", "processor_class")
# PIL's shortcut for large reductions, at the ratio that its documentation calls indistinguishable from the long way.
_REDUCING_GAP = 3.0


class CharmImageProcessor(CardMixin, BaseImageProcessor):
    r"""Turn photos into Charm tokens (CVPR 2025, section 3).

    A photo of at most `max_num_patches + 1` patches is cut as it is. Of a larger one the regions that matter keep
    their full resolution and the others are shrunk (see `plan_charm.plan_photo`). The result depends on the photo and
    the parameters only, not on the batch.

    Args:
        parameters: see [`CharmProcessorParameters`]. They are attributes, may be changed, and may be given per call.
    """

    model_input_names: ClassVar[list[str]] = [
        "pixel_values",
        "pixel_attention_mask",
        "scale_ids",
        "patch_positions",
        "spatial_shapes",
    ]

    valid_kwargs = CharmImageProcessorKwargs
    is_charm: ClassVar[bool] = True  # as of [`MmlqProcessor`], which may hold another image processor
    size: dict[str, int] | None
    seed: int | Sequence[int] | None

    def __init__(self, **parameters: Any) -> None:
        for name in (*_SERVICE_KEYS, *PER_CALL):
            parameters.pop(name, None)
        refuse_unknown(list(parameters))
        super().__init__()
        for name in PARAMETER_NAMES:
            value = parameters.get(name)
            if value is None and not (name == "seed" and name in parameters):
                value = default_of(name)
            setattr(self, name, list(value) if isinstance(value, (tuple, np.ndarray)) else value)
        if isinstance(size := parameters.get("size"), int):
            self.size = {"longest_edge": size}
        fitting = self._with({})
        self.image_mean, self.image_std = fitting.image_mean, fitting.image_std

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

    @classmethod
    def for_model(cls, model: Any, dataset: str | None = None, **overrides: Any) -> CharmImageProcessor:
        """Processor that fits a model: its patch size, its scales, and the pixel statistics of its encoder.

        The statistics are those of `config.pixel_statistics`, else those that are usual for the type.

        Args:
            model: a Charm model or its [`CharmConfig`].
            dataset: whose sequence length and longest edge to take (see [`~CharmImageProcessor.for_dataset`]).
            overrides: any parameter of the constructor, such as the `image_mean` of unusual weights.
        """
        config = getattr(model, "config", model)
        encoder = get_backbone(config.backbone_config.model_type)
        fitting = {
            "patch_size": config.patch_size,
            "num_scales": config.num_scales,
            "image_mean": encoder.image_mean,
            "image_std": encoder.image_std,
            **(config.pixel_statistics or {}),
            **overrides,
        }
        return cls(**fitting) if dataset is None else cls.for_dataset(dataset, **fitting)

    def __call__(self, images: Any, saliency_maps: Any = None, **kwargs: Any) -> BatchFeature:
        """See [`~CharmImageProcessor.preprocess`]."""
        return self.preprocess(images, saliency_maps=saliency_maps, **kwargs)

    def preprocess(
        self,
        images: Any,
        saliency_maps: Any = None,
        return_tensors: str | TensorType | None = "pt",
        plans: Sequence[PhotoPlan] | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Tokenize one photo or a list of photos of any sizes.

        Args:
            images: a path, URL, encoded bytes, PIL image, array or tensor (see `image_loading_charm`), or a list of
                these; an array or tensor of four dimensions is a batch.
            saliency_maps: for `patch_selection="saliency"`: one map an image, of the image's own size; above 0 is
                salient. Or a function of an image's path and its (width, height) that gives the map, such as
                `charm_hf.data.SaliencyFolder`.
            return_tensors: `"pt"` or `"np"`.
            plans: what [`~CharmImageProcessor.plan`] said of each image, where it was asked before.
            kwargs: any parameter of the constructor, for this call only; `device` to work on; `input_data_format`
                (`"channels_first"` or `"channels_last"`) of arrays that could be read either way.

        Returns:
            `pixel_values` (B, L, C·P·P) float32, channel first inside a token; `pixel_attention_mask` (B, L), 1 for a
            token and 0 for padding; `scale_ids` (B, L), 0 for the coarsest; `patch_positions` (B, L, 2), row and
            column in the token's own scale; `spatial_shapes` (B, num_scales, 2), rows and columns of each scale's
            grid, (0, 0) for a scale that the photo does not use.

        Raises:
            ValueError: for unknown or impossible parameters, for an image that is empty, broken or too large, or of
                another size than its plan; the message names the image.
            FileNotFoundError: for a path that does not exist.
        """
        parameters = self._with(kwargs)
        images = _as_list(images)
        if callable(saliency_maps):
            saliency_maps = [saliency_maps] * len(images)
        maps = _one_for_each(images, None if saliency_maps is None else _as_list(saliency_maps), "saliency maps")
        planned = _one_for_each(images, plans, "plans")
        seeds = _seeds(parameters.seed, len(images))
        tokenized = [
            _tokenize(image, describe_source(image, index), planned[index], maps[index], seeds[index], parameters)
            for index, image in enumerate(images)
        ]
        return BatchFeature(_pad_batch(tokenized, parameters), tensor_type=return_tensors)

    def plan(self, height: int, width: int, **kwargs: Any) -> PhotoPlan:
        """Say what becomes of a photo of this size in pixels (EXIF orientation applied), without its pixels.

        Args:
            kwargs: any parameter of the constructor.
        """
        return plan_photo(height, width, self._with(kwargs).rules)

    def num_tokens(self, height: int, width: int, **kwargs: Any) -> int:
        """Count the tokens of a photo of this size in pixels, without its pixels."""
        return self.plan(height, width, **kwargs).num_tokens

    def covered_area(self, height: int, width: int, **kwargs: Any) -> tuple[float, float, float, float]:
        """Left, top, right and bottom, in the photo's pixels, of what becomes tokens (see [`PhotoPlan`])."""
        return self.plan(height, width, **kwargs).covered_area

    def to_dict(self) -> dict[str, Any]:
        """Serialize the parameters; `auto_map` points at the code that travels with a checkpoint."""
        output = {name: value for name, value in super().to_dict().items() if name not in PER_CALL}
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

    def _with(self, overrides: dict[str, Any]) -> CharmProcessorParameters:
        """The parameters of one call."""
        refuse_unknown(list(overrides))
        given = {name: value for name, value in overrides.items() if value is not None or name == "seed"}
        return CharmProcessorParameters(**{**{name: getattr(self, name) for name in PARAMETER_NAMES}, **given})


def _as_list(images: Any) -> list[Any]:
    if isinstance(images, (np.ndarray, torch.Tensor)):
        images = list(images) if images.ndim == 4 else [images]
    elif not isinstance(images, (list, tuple)):
        images = [images]
    if len(images) == 0:
        raise ValueError("Got an empty list of images, expected at least one.")
    return list(images)


def _one_for_each(images: list[Any], things: Sequence[Any] | None, name: str) -> Sequence[Any]:
    if things is None:
        return [None] * len(images)
    if len(things) != len(images):
        raise ValueError(f"Got {len(things)} {name} for {len(images)} images.")
    return things


def _seeds(seed: int | Sequence[int] | None, count: int) -> list[int | None]:
    if seed is None or isinstance(seed, (int, np.integer)):
        return [seed if seed is None else int(seed)] * count
    if len(seed) != count:
        raise ValueError(f"Got {len(seed)} seeds for {count} images.")
    return [int(value) for value in seed]


def _tokenize(
    source: Any,
    name: str,
    plan: PhotoPlan | None,
    saliency_map: Any,
    seed: int | None,
    parameters: CharmProcessorParameters,
) -> dict[str, torch.Tensor]:
    try:
        image, thumbnail, plan = _read(source, name, plan, parameters)
        saliency = None
        if SELECTIONS[parameters.patch_selection].needs_map:
            if callable(saliency_map):
                saliency_map = _find_saliency_map(saliency_map, source, name, plan)
            saliency = _read_saliency_map(saliency_map, name, plan).to(image.device)
        return _tokens_of(image, thumbnail, plan, saliency, seed, parameters)
    except RuntimeError as error:
        raise RuntimeError(f"{name}: {error}") from error


# ---------------------------------------------------------------------------------------------------------------------
# Pixels: read once, resized, cropped and padded as the plan says.


def _read(
    source: Any, name: str, plan: PhotoPlan | None, parameters: CharmProcessorParameters
) -> tuple[torch.Tensor, torch.Tensor | None, PhotoPlan]:
    """Read an image as the pictures that its plan cuts: (3, H, W), `uint8` or float in [0, 1], and the thumbnail."""

    def settle(height: int, width: int) -> PhotoPlan:
        if plan is not None and plan.source != (height, width):
            raise ValueError(
                f"{name} has {width}×{height} pixels, but was planned with {plan.source[1]}×{plan.source[0]}."
            )
        try:
            return plan or plan_photo(height, width, parameters.rules)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None

    def on_size(width: int, height: int) -> tuple[int, int] | None:
        nonlocal plan
        plan = settle(height, width)
        shrinks = parameters.reduced_decoding and plan.resized < plan.source
        return (plan.resized[1], plan.resized[0]) if shrinks else None

    if isinstance(source, (np.ndarray, torch.Tensor)):
        tensor = array_to_tensor(source, name, parameters.input_data_format).to(parameters.device or None)
        plan = settle(tensor.shape[1], tensor.shape[2])
        as_it_is = plan.resized == plan.source and plan.thumbnail is None
        if tensor.is_floating_point() or as_it_is:
            if 12 * math.prod(plan.resized) > MAX_PHOTO_BYTES:  # resized whole, unlike a picture
                raise ValueError(f"{name}: too thin an array to become {plan.resized[1]}×{plan.resized[0]} pixels.")
            return *_cut_tensor(tensor, plan), plan
        source = Image.fromarray(tensor.permute(1, 2, 0).cpu().numpy())
    image = load_image(source, name=name, on_size=on_size)
    assert plan is not None  # `load_image` has asked `on_size`
    pictures = _cut_pil(image, plan, parameters.resample)
    full, thumbnail = (
        None if planes is None else torch.from_numpy(planes).to(parameters.device or "cpu") for planes in pictures
    )
    assert full is not None
    return full, thumbnail, plan


def _cut_pil(image: Image.Image, plan: PhotoPlan, resample: int) -> tuple[np.ndarray, np.ndarray | None]:
    height, width = plan.resized
    thumbnail = None
    if plan.thumbnail is not None:
        rows, columns = plan.grids[0]
        small = image.resize(plan.thumbnail[::-1], resample, reducing_gap=_REDUCING_GAP)
        thumbnail = rgb_planes(small, rows * plan.patch_size, columns * plan.patch_size)
    if plan.crop != (0, 0):
        # Only what is used: a thin image enlarged whole could take all memory.
        top, left = plan.crop
        down, across = image.height / height, image.width / width
        box = (left * across, top * down, (left + plan.width) * across, (top + plan.height) * down)
        image = image.resize((plan.width, plan.height), resample, box=box)
    elif (width, height) != image.size:
        image = image.resize((width, height), resample, reducing_gap=_REDUCING_GAP)
    return rgb_planes(image, plan.height, plan.width), thumbnail


def _cut_tensor(image: torch.Tensor, plan: PhotoPlan) -> tuple[torch.Tensor, torch.Tensor | None]:
    thumbnail = None
    if plan.thumbnail is not None:
        rows, columns = plan.grids[0]
        thumbnail = pad_or_crop(_antialiased(image, plan.thumbnail), rows * plan.patch_size, columns * plan.patch_size)
    if plan.resized != plan.source:
        image = _antialiased(image, plan.resized)
    top, left = plan.crop
    image = pad_or_crop(image[:, top:, left:], plan.height, plan.width)
    # The channels of an array may come last.
    return image if image.stride(-1) == 1 else image.contiguous(), thumbnail


def _antialiased(image: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Resize as PIL does: across, then down, clipping the overshoot of each pass."""
    across = F.interpolate(image[None], size=(image.shape[1], size[1]), mode="bicubic", antialias=True).clamp(0, 1)
    return F.interpolate(across, size=size, mode="bicubic", antialias=True)[0].clamp(0, 1)


def _find_saliency_map(find: Callable[[str, tuple[int, int]], Any], source: Any, name: str, plan: PhotoPlan) -> Any:
    path = source_path(source)
    if path is None:
        raise ValueError(f"{name} has no path, by which its saliency map could be found.")
    return find(path, (plan.source[1], plan.source[0]))


def _read_saliency_map(saliency_map: Any, name: str, plan: PhotoPlan) -> torch.Tensor:
    """Read a map as (1, H, W) of the planned size; nearest pixels, since it is a mask."""
    if saliency_map is None:
        raise ValueError(
            f'{name}: `patch_selection="saliency"` needs `saliency_maps`, one for each image; '
            '"spectral_residual" finds what is salient by itself.'
        )
    if isinstance(saliency_map, (np.ndarray, torch.Tensor)):
        tensor = torch.as_tensor(saliency_map).squeeze()
        if tensor.ndim != 2:
            raise ValueError(f"Saliency map of {name}: expected (H, W), got shape {tuple(saliency_map.shape)}.")
    else:
        tensor = torch.from_numpy(np.array(load_image(saliency_map, name=f"saliency map of {name}"))).amax(-1)
    if tuple(tensor.shape) != plan.source:
        raise ValueError(
            f"Saliency map of {name} has {tensor.shape[0]}×{tensor.shape[1]} pixels (height×width), but the image has "
            f"{plan.source[0]}×{plan.source[1]}."
        )
    mask = F.interpolate((tensor > 0).float()[None, None], size=plan.resized, mode="nearest")[0]
    return pad_or_crop(mask, plan.height, plan.width)


# ---------------------------------------------------------------------------------------------------------------------
# Tokens.


def _tokens_of(
    image: torch.Tensor,
    thumbnail: torch.Tensor | None,
    plan: PhotoPlan,
    saliency: torch.Tensor | None,
    seed: int | None,
    parameters: CharmProcessorParameters,
) -> dict[str, torch.Tensor]:
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    ranked = None
    if plan.chooses_regions:
        ranked = _rank(image, saliency, plan, generator, parameters).cpu().numpy()
    layout = lay_out_tokens(plan, ranked)
    factor, offset = _rescale_and_normalize(parameters, is_float=image.is_floating_point())
    if image.dtype == torch.uint8 and image.device.type == "cpu":
        small = None if thumbnail is None else thumbnail.numpy()
        tokens = torch.from_numpy(cut_pixels(image.numpy(), small, plan, layout, factor.numpy(), offset.numpy()))
    else:
        factor, offset = (item.to(image.device).repeat_interleave(plan.patch_size**2) for item in (factor, offset))
        tokens = torch.addcmul(offset, cut_tokens(image, thumbnail, plan, layout), factor)
    scale_ids, positions = (torch.from_numpy(ids).to(tokens.device) for ids in (layout.scale_ids, layout.positions))
    if plan.dropped:
        kept = torch.randperm(len(tokens), generator=generator)[: plan.num_tokens].sort().values.to(tokens.device)
        tokens, scale_ids, positions = tokens[kept], scale_ids[kept], positions[kept]
    return {
        "pixel_values": tokens,
        "scale_ids": scale_ids,
        "patch_positions": positions,
        "spatial_shapes": torch.tensor(plan.grids, device=tokens.device),
    }


def _rank(
    image: torch.Tensor,
    saliency: torch.Tensor | None,
    plan: PhotoPlan,
    generator: torch.Generator | None,
    parameters: CharmProcessorParameters,
) -> torch.Tensor:
    selection, counts, size = SELECTIONS[parameters.patch_selection], plan.counts, plan.scales[-1].region
    if selection.importance is None:
        return torch.randperm(sum(counts), generator=generator).to(image.device)
    if generator is None and parameters.stochastic_selection:
        generator = torch.default_generator
    if saliency is not None:
        importance = selection.importance(saliency, size)
        if not parameters.stochastic_selection:
            return rank_regions(importance, counts)
        return rank_regions(draw_salient(importance, generator or torch.default_generator), counts)
    importance = measure_importance(selection, _as_8_bit(image), size)
    return rank_regions(importance, counts, generator if parameters.stochastic_selection else None)


def _as_8_bit(image: torch.Tensor) -> torch.Tensor:
    """A float image that holds 8-bit pixels as `uint8`, so that one photo has one importance; others as they are."""
    if not image.is_floating_point():
        return image
    levels = image.detach() * 255
    rounded = levels.round()
    return rounded.to(torch.uint8) if (levels - rounded).abs().max() < 1e-3 else image


def _rescale_and_normalize(parameters: CharmProcessorParameters, is_float: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Factor and offset, (3,) each, that rescale pixels of a channel and normalize them in one step."""
    rescale = parameters.rescale_factor if parameters.do_rescale and not is_float else 1.0
    mean, std = (parameters.image_mean, parameters.image_std) if parameters.do_normalize else ([0.0] * 3, [1.0] * 3)
    factor, offset = rescale / np.asarray(std), -np.asarray(mean) / np.asarray(std)
    return torch.from_numpy(factor.astype(np.float32)), torch.from_numpy(offset.astype(np.float32))


def _pad_batch(images: list[dict[str, torch.Tensor]], parameters: CharmProcessorParameters) -> dict[str, torch.Tensor]:
    length = max(len(image["scale_ids"]) for image in images)
    if parameters.padding == "max_length":
        if length > parameters.max_num_patches:
            raise ValueError(
                f'`padding="max_length"` pads to {parameters.max_num_patches} tokens, but an image has {length}: '
                'raise `max_num_patches`, or use `overflow="coarsen"`, `"resize"` or `"drop"`.'
            )
        length = parameters.max_num_patches
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
