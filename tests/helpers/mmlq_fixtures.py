"""Tiny encoders, photos and comments that the tests of the multi-modal learnable queries share."""

import numpy as np
import torch
from PIL import Image
from support import tiny_backbone_config
from transformers import (
    BertConfig,
    BertTokenizer,
    CLIPVisionConfig,
    Dinov2Config,
    DistilBertConfig,
    RobertaConfig,
    SiglipVisionConfig,
    ViTConfig,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from charm_hf import CharmConfig, CharmImageProcessor, MmlqForAestheticScoring, MmlqProcessor


WORDS = [
    "great",
    "light",
    "dull",
    "colours",
    "lovely",
    "tone",
    "the",
    "sky",
    "is",
    "over",
    "exposed",
    "and",
    "flat",
    "but",
    "a",
    "nice",
    "try",
]
TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
COMMENTS = [["great light", "lovely tone"], [], ["the sky is over exposed and flat but a nice try"], ["", "  "]]


def tiny_tokenizer():
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    return BertTokenizer(vocab={token: index for index, token in enumerate(tokens)})


def tiny_text_config(kind="bert", **overrides):
    size = {"vocab_size": 40, **TINY, **overrides}
    if kind == "distilbert":
        return DistilBertConfig(vocab_size=40, dim=32, n_layers=2, n_heads=2, hidden_dim=48)
    return {"bert": BertConfig, "roberta": RobertaConfig}[kind](**size)


def tiny_vision_config(kind="clip", **overrides):
    """A type of encoder, or `"charm"`: Charm on DINOv2, `"charm-TYPE"`: on another type."""
    size = {**TINY, "hidden_size": 16, "image_size": 32, "patch_size": 8, **overrides}
    if kind.startswith("charm"):
        backbone = tiny_backbone_config(kind.partition("-")[2] or "dinov2", hidden_size=16, patch_size=8)
        return CharmConfig(backbone_config=backbone, score_values=range(1, 11), score_range=(1, 10))
    kinds = {"clip": CLIPVisionConfig, "siglip": SiglipVisionConfig, "dinov2": Dinov2Config, "vit": ViTConfig}
    return kinds[kind](**size)


def tiny_image_processor(kind="clip"):
    if kind.startswith("charm"):
        return CharmImageProcessor(patch_size=8, max_num_patches=40)
    return CLIPImageProcessorPil(size={"height": 32, "width": 32}, do_center_crop=False)


def tiny_processor(kind="clip", **kwargs):
    return MmlqProcessor(tiny_image_processor(kind), tiny_tokenizer(), **kwargs)


def tiny_model(vision="clip", text="bert", seed=0, **config):
    torch.manual_seed(seed)
    vision = tiny_vision_config(vision) if isinstance(vision, str) else vision
    text = tiny_text_config(text) if isinstance(text, str) else text
    model = MmlqForAestheticScoring.from_encoders(vision, text, **{**TINY, **config}).eval()
    # Weights as small as those of a new model hide differences: blow them up.
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "_model." not in name and parameter.ndim > 1:
                parameter.mul_(8)
    return model


def photos(count=4, sizes=((40, 30), (64, 90), (31, 77), (120, 50))):
    generator = np.random.default_rng(0)
    chosen = [sizes[index % len(sizes)] for index in range(count)]
    return [Image.fromarray(generator.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in chosen]
