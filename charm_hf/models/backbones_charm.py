"""The one table of encoder types: what each calls its parts, and how it places its tokens."""

from __future__ import annotations

import copy
import os
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import CONFIG_MAPPING, AutoConfig, PretrainedConfig, PreTrainedModel
from transformers import __version__ as transformers_version
from transformers.image_processing_base import ImageProcessingMixin
from transformers.image_utils import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    IMAGENET_STANDARD_MEAN,
    IMAGENET_STANDARD_STD,
    OPENAI_CLIP_MEAN,
    OPENAI_CLIP_STD,
)

from .limits_charm import check_numbers


@dataclass(frozen=True)
class Backbone:
    """What a native encoder calls its parts, and how it was trained to see.

    Attributes:
        layers: its list of layers, each called with hidden states (B, T, d) and an attention mask.
        norm: the layernorm after them; `None` for a type whose last hidden states are not normalized.
        pre_norm: a layernorm between the embeddings and the layers, where there is one.
        pooled_norm: a layernorm of what is pooled only, where there is one.
        pooling_head: module that pools by attention, with SigLIP's parts, where there is one.
        embeddings: the module that embeds; the next five are inside it.
        projection: convolution of a patch's side and stride, or (`flat_patches`) a linear layer.
        flat_patches: whether patches are projected as rows of values whose channels come last.
        prefix: parameters (1, n, d) or (d) of the tokens in front of the patches, CLS first; the first of them have
            positions, if the table has rows for them.
        position_table: parameter (1, n+S·S, d), or embedding of as many rows; `None` for a type without one.
        interpolation: how it resizes that table (see `positions_charm.INTERPOLATIONS`).
        rotary: whether its layers turn queries and keys by the place of their patch, as DINOv3 does.
        passes_bounds: whether its attention is told what its layers are told beside the mask, so that transformers'
            flash attention learns the bounds of packed images.
        unused: what no score depends on. A part is left out; a parameter of the embeddings is kept but not trained:
            it would be waited for in data-parallel training.
        image_mean, image_std: pixel statistics of the usual pretrained weights.
        licence: the Hub's name for that of the published weights, where it is none of open source; it is told before
            they are downloaded, and by the cards of checkpoints that grew from them.
    """

    layers: str = "encoder.layer"
    norm: str | None = "layernorm"
    pre_norm: str | None = None
    pooled_norm: str | None = None
    pooling_head: str | None = None
    embeddings: str = "embeddings"
    projection: str = "patch_embeddings.projection"
    flat_patches: bool = False
    prefix: tuple[str, ...] = ("cls_token",)
    position_table: str | None = "position_embeddings"
    interpolation: str = "bicubic"
    rotary: bool = False
    passes_bounds: bool = True
    unused: tuple[str, ...] = ("pooler", "mask_token")
    image_mean: tuple[float, ...] = tuple(IMAGENET_DEFAULT_MEAN)
    image_std: tuple[float, ...] = tuple(IMAGENET_DEFAULT_STD)
    licence: str | None = None

    def unused_parts(self, pooling: str | None) -> tuple[str, ...]:
        """`unused`, and the head that pools by attention where another `pooling` is used."""
        return self.unused if pooling == "attention" else (*self.unused, *filter(None, [self.pooling_head]))


_HALVES: dict[str, Any] = {"image_mean": tuple(IMAGENET_STANDARD_MEAN), "image_std": tuple(IMAGENET_STANDARD_STD)}
_SIGLIP: dict[str, Any] = {
    "layers": "encoder.layers",
    "norm": "post_layernorm",
    "pooling_head": "head",
    "projection": "patch_embedding",
    "prefix": (),
    "position_table": "position_embedding",
    "passes_bounds": False,
    **_HALVES,
}

BACKBONES: dict[str, Backbone] = {
    "dinov2": Backbone(),
    "dinov2_with_registers": Backbone(prefix=("cls_token", "register_tokens"), interpolation="antialiased bicubic"),
    "dinov3_vit": Backbone(
        layers="model.layer",
        norm="norm",
        projection="patch_embeddings",
        prefix=("cls_token", "register_tokens"),
        position_table=None,
        rotary=True,
        unused=("rope_embeddings", "mask_token"),
        licence="dinov3-license",
    ),
    "siglip2_vision_model": Backbone(**_SIGLIP, flat_patches=True, interpolation="antialiased bilinear"),
    "siglip_vision_model": Backbone(**_SIGLIP),
    "clip_vision_model": Backbone(
        layers="encoder.layers",
        norm=None,
        pre_norm="pre_layrnorm",
        pooled_norm="post_layernorm",
        projection="patch_embedding",
        prefix=("class_embedding",),
        position_table="position_embedding",
        image_mean=tuple(OPENAI_CLIP_MEAN),
        image_std=tuple(OPENAI_CLIP_STD),
    ),
    "vit": Backbone(layers="layers", **_HALVES),
    "deit": Backbone(layers="layers", prefix=("cls_token", "distillation_token")),
    "vit_mae": Backbone(layers="layers"),
    "vit_msn": Backbone(layers="layers"),
    "ijepa": Backbone(layers="layers", prefix=(), licence="cc-by-nc-4.0"),
    "pixio": Backbone(layers="layers", licence="fair-noncommercial-research-license"),
    "tipsv2_vision_model": Backbone(
        prefix=("cls_token", "register_tokens"),
        interpolation="antialiased bilinear",
        image_mean=(0.0, 0.0, 0.0),
        image_std=(1.0, 1.0, 1.0),
    ),
}


def get_backbone(model_type: str | None) -> Backbone:
    """Return the row of an encoder type.

    Raises:
        ValueError: if the type is not supported, the message lists those that are; or if transformers is too old.
    """
    if model_type not in BACKBONES:
        raise ValueError(
            f"Unsupported backbone {model_type!r}: expected one of {', '.join(BACKBONES)}. Another plain vision "
            "transformer needs a row in `BACKBONES`; the table in CONTRIBUTING.md says where, and what else."
        )
    if model_type not in CONFIG_MAPPING:
        raise ValueError(
            f"Transformers {transformers_version} does not know {model_type!r} yet: `pip install -U transformers`."
        )
    return BACKBONES[model_type]


def as_backbone_config(config: PretrainedConfig | dict[str, Any] | None) -> PretrainedConfig:
    """Configuration of an encoder of its own: DINOv2-small's for `None`, a copy of one that is given.

    Of a configuration with two towers (CLIP, SigLIP) the vision tower is taken.

    Raises:
        ValueError: for an unsupported type.
    """
    if config is None:
        return AutoConfig.for_model("dinov2", hidden_size=384, num_attention_heads=6, image_size=518)
    if isinstance(config, dict):
        fields = dict(config)
        model_type = fields.pop("model_type", None)
        get_backbone(model_type)
        return build_config(model_type, fields, "backbone_config")
    if not isinstance(config, PretrainedConfig):
        raise ValueError(f"`backbone_config` must be a configuration or a dictionary, got {type(config).__name__}.")
    # Otherwise switching the attention of one model would switch that of another.
    tower = copy.deepcopy(getattr(config, "vision_config", config))
    get_backbone(tower.model_type)
    tower._name_or_path = config._name_or_path
    return tower


def build_config(model_type: str, fields: dict[str, Any], name: str) -> PretrainedConfig:
    """A native configuration from the fields of a file, which may be anything.

    Raises:
        ValueError: for numbers beyond `limits_charm`, and for whatever else the type does not take.
    """
    check_numbers(fields, f"{name}.")
    try:
        return AutoConfig.for_model(model_type, **fields)
    except Exception as error:  # natives divide by their fields, loop over them, or check them in ways of their own
        raise ValueError(f"`{name}` is no configuration of type {model_type!r}: {error}") from error


def vision_tower(model: PreTrainedModel) -> PreTrainedModel:
    """The vision encoder inside a model, whatever stands around it: a head, a text encoder."""
    base = model if hasattr(model, "embeddings") else model.base_model  # which of DINOv3's own model is its layers
    return getattr(base, "vision_model", base)


def pixel_statistics(source: str | os.PathLike | None, **hub_arguments: Any) -> dict[str, Any]:
    """How a checkpoint was given its pixels, as its own image processor states it: parameters of a processor.

    Args:
        source: repository or folder; empty for one without a processor.
        hub_arguments: `revision`, `cache_dir`, `token` …
    """
    stated: dict[str, Any] = {}
    if source is not None:
        with suppress(OSError):  # it has none
            stated, _ = ImageProcessingMixin.get_image_processor_dict(source, **hub_arguments)
    names = ("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std")
    return {name: stated[name] for name in names if stated.get(name) is not None}


def leave_out_parts(model: nn.Module, names: tuple[str, ...]) -> None:
    """Take away parts of a native encoder that nothing reads, such as its pooling layer."""
    for name in names:
        if isinstance(getattr(model, name, None), nn.Module):
            setattr(model, name, None)


__all__ = ["BACKBONES", "Backbone", "as_backbone_config", "get_backbone", "pixel_statistics", "vision_tower"]
