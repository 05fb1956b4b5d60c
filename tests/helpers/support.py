"""Photos, small random models and their processors, for every test."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoConfig, PretrainedConfig

from charm_hf import CharmForAestheticScoring, CharmImageProcessor


FIXTURES = Path(__file__).parents[1] / "fixtures"
# One type of each kind: what a part is called, what stands in front, how positions are told.
BACKBONES = (
    *("dinov2", "dinov2_with_registers", "vit"),
    *("siglip_vision_model", "clip_vision_model", "siglip2_vision_model", "dinov3_vit"),
)


def photo_path(name: str) -> str:
    """Path of a photo: `coffee`, `chelsea`, `astronaut` (scikit-image) or `china` (a fixture)."""
    if name == "china":
        return str(FIXTURES / "tokens" / "china.png")
    import skimage.data

    return str(Path(skimage.data.__file__).parent / f"{name}.png")


def tiny_backbone_config(model_type: str, **overrides: object) -> PretrainedConfig:
    fields = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    if model_type.startswith("dinov2"):
        fields |= {"mlp_ratio": 2, "patch_size": 14, "image_size": 70}
    else:
        fields |= {"intermediate_size": 64, "patch_size": 16}
        fields |= {"num_patches": 25} if model_type == "siglip2_vision_model" else {"image_size": 80}
    if model_type == "dinov3_vit":
        fields |= {"num_register_tokens": 3, "pos_embed_rescale": None}
    return AutoConfig.for_model(model_type, **{**fields, **overrides})


def tiny_model(model_type: str = "vit", seed: int = 0, **kwargs: object) -> CharmForAestheticScoring:
    """Random model whose scores differ visibly between photos (freshly initialized ones hardly do)."""
    torch.manual_seed(seed)
    model = CharmForAestheticScoring.from_backbone(tiny_backbone_config(model_type), **{"dataset": "ava", **kwargs})
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.2 if "classifier" not in name else 0.6, generator=generator)
    return model.eval()


def tiny_processor(model: CharmForAestheticScoring, **kwargs: object) -> CharmImageProcessor:
    return CharmImageProcessor(
        **{
            "patch_size": model.config.patch_size,
            "max_num_patches": 200,
            "num_scales": model.config.num_scales,
            **kwargs,
        }
    )
