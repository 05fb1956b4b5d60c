"""The one table of encoder types: what each calls its parts, and how it places its tokens."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import AutoConfig, PretrainedConfig
from transformers.image_utils import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    IMAGENET_STANDARD_MEAN,
    IMAGENET_STANDARD_STD,
)


@dataclass(frozen=True)
class Backbone:
    """What a native encoder calls its parts, and how it was trained to see.

    Attributes:
        layers: its list of layers, each called with hidden states (B, T, d) and an attention mask.
        norm: the final layernorm.
        embeddings: the module that embeds; the next four are inside it.
        projection: convolution of a patch's side and stride.
        cls_token: parameter (1, 1, d); `None` for a type without one.
        register_tokens: parameter (1, R, d) of tokens without a position, which stand behind CLS, where there are any.
        position_table: parameter (1, 1+S·S, d), that of CLS first.
        antialias: whether the table is shrunk with a widened filter, where a grid has fewer rows than it.
        unused: what no score depends on. A part is left out; a parameter of the embeddings is kept but not trained:
            it would be waited for in data-parallel training.
        image_mean, image_std: pixel statistics of the usual pretrained weights.
    """

    layers: str = "encoder.layer"
    norm: str = "layernorm"
    embeddings: str = "embeddings"
    projection: str = "patch_embeddings.projection"
    cls_token: str | None = "cls_token"
    register_tokens: str = "register_tokens"
    position_table: str = "position_embeddings"
    antialias: bool = False
    unused: tuple[str, ...] = ("pooler", "mask_token")
    image_mean: tuple[float, ...] = tuple(IMAGENET_DEFAULT_MEAN)
    image_std: tuple[float, ...] = tuple(IMAGENET_DEFAULT_STD)


BACKBONES: dict[str, Backbone] = {
    "dinov2": Backbone(),
    "dinov2_with_registers": Backbone(antialias=True),
    "vit": Backbone(layers="layers", image_mean=tuple(IMAGENET_STANDARD_MEAN), image_std=tuple(IMAGENET_STANDARD_STD)),
}


def get_backbone(model_type: str | None) -> Backbone:
    """Return the row of an encoder type.

    Raises:
        ValueError: if the type is not supported; the message lists those that are.
    """
    if model_type not in BACKBONES:
        raise ValueError(
            f"Unsupported backbone {model_type!r}: expected one of {', '.join(BACKBONES)}. Another type needs a row "
            "in `backbones_charm.py`."
        )
    return BACKBONES[model_type]


def as_backbone_config(config: PretrainedConfig | dict[str, Any] | None) -> PretrainedConfig:
    """Configuration of an encoder of its own: DINOv2-small's for `None`, a copy of one that is given.

    Raises:
        ValueError: for an unsupported type.
    """
    if config is None:
        return AutoConfig.for_model("dinov2", hidden_size=384, num_attention_heads=6, image_size=518)
    if isinstance(config, dict):
        fields = dict(config)
        model_type = fields.pop("model_type", None)
        get_backbone(model_type)
        return AutoConfig.for_model(model_type, **fields)
    get_backbone(config.model_type)
    # Otherwise switching the attention of one model would switch that of another.
    return copy.deepcopy(config)


def leave_out_unused_parts(model: nn.Module, row: Backbone) -> None:
    """Take away the parts of a native encoder that nothing reads, such as its pooling layer."""
    for name in row.unused:
        if isinstance(getattr(model, name, None), nn.Module):
            setattr(model, name, None)


__all__ = ["BACKBONES", "Backbone", "as_backbone_config", "get_backbone"]
