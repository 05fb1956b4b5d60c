"""The rows about types of encoder: what Charm adds to each, and what each costs, from random weights."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch._subclasses import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights
from transformers.modeling_outputs import BaseModelOutputWithPooling

from benchmarks.measure import least_milliseconds, peak_mebibytes
from benchmarks.table import Row
from charm_hf import CharmForAestheticScoring, CharmImageProcessor
from charm_hf.models.backbones_charm import BACKBONES


# Width, heads, layers and width of the MLP.
SHAPES = {
    "S": (384, 6, 12, 1536),
    "B": (768, 12, 12, 3072),
    "L": (1024, 16, 24, 4096),
    "So400m": (1152, 16, 27, 4304),
    "H": (1280, 16, 32, 5120),
}
# Sizes of published weights, each with the side of its patches.
PUBLISHED = {
    "dinov2": "S/14 B/14 L/14",
    "dinov2_with_registers": "S/14 B/14 L/14",
    "dinov3_vit": "S/16 B/16 L/16",
    "siglip2_vision_model": "B/16 So400m/16",
    "siglip_vision_model": "B/16 L/16 So400m/14",
    "clip_vision_model": "B/32 B/16 L/14",
    "vit": "S/16 B/16 L/16",
    "deit": "S/16 B/16",
    "vit_mae": "B/16 L/16 H/14",
    "vit_msn": "S/16 B/16 L/16",
    "ijepa": "H/14 H/16",
    "pixio": "B/16 L/16 H/16",
    "tipsv2_vision_model": "B/14 L/14 So400m/14",
}
# 512 tokens of one scale.
GRID = (16, 32)


def describe(model_type: str, size: str) -> PretrainedConfig:
    """Configuration of a type in a size such as `"B/16"`, for images of 16 × 16 patches."""
    shape, side = size.split("/")
    width, heads, layers, inner = SHAPES[shape]
    fields: dict[str, Any] = {"hidden_size": width, "num_attention_heads": heads, "num_hidden_layers": layers}
    config = AutoConfig.for_model(model_type, patch_size=int(side), **fields)
    for name, value in (("image_size", 16 * int(side)), ("num_patches", 256), ("intermediate_size", inner)):
        if hasattr(config, name):
            setattr(config, name, value)
    return config


def run_plain(plain: PreTrainedModel, pixels: torch.Tensor) -> BaseModelOutputWithPooling:
    """What a native encoder makes of normalized pixels (3, H, W)."""
    model_type, size = plain.config.model_type, plain.config.patch_size
    rows, columns = pixels.shape[1] // size, pixels.shape[2] // size
    options: dict[str, Any] = {"output_hidden_states": True}
    if model_type == "siglip2_vision_model":
        patches = pixels.unflatten(2, (columns, size)).unflatten(1, (rows, size)).permute(1, 3, 2, 4, 0)
        mask = torch.ones(1, rows * columns, dtype=torch.int64)
        shapes = torch.tensor([[rows, columns]])
        flat = patches.reshape(1, rows * columns, -1)
        return plain(pixel_values=flat, pixel_attention_mask=mask, spatial_shapes=shapes, **options)
    if model_type == "vit_mae":  # hides patches, in an order given by noise
        options["noise"] = torch.arange(rows * columns, dtype=torch.float32)[None]
        plain.config.mask_ratio = 0.0
    if not model_type.startswith(("dino", "pixio", "tips")):
        options["interpolate_pos_encoding"] = True
    return plain(pixels[None], **options)


def count_gmacs(model_type: str, size: str) -> tuple[float, float]:
    """Billions of multiplications of Charm on 512 tokens, and millions of parameters, without computing anything."""
    with FakeTensorMode(), no_init_weights():
        model = CharmForAestheticScoring.from_backbone(describe(model_type, size), dataset="aadb").eval()
        model.set_attn_implementation("eager")  # whose products are counted
        side = model.config.patch_size
        positions = torch.zeros(1, 512, 2, dtype=torch.long)
        inputs = {
            "pixel_values": torch.zeros(1, 512, 3 * side**2),
            "scale_ids": positions[..., 0],
            "patch_positions": positions,
            "spatial_shapes": torch.ones(1, 2, 2, dtype=torch.long),
        }
        with FlopCounterMode(display=False) as counter:
            model(**inputs)
    return counter.get_total_flops() / 2e9, sum(parameter.numel() for parameter in model.parameters()) / 1e6


@torch.inference_mode()
def encoder_rows(repetitions: int) -> Iterator[Row]:
    """Parity with the plain encoder, time of it, GMACs and memory, for each supported type."""
    for model_type in BACKBONES:
        sizes = PUBLISHED[model_type].split()
        side = sizes[0].split("/")[1]
        torch.manual_seed(0)
        config = describe(model_type, f"S/{side}")
        model = CharmForAestheticScoring.from_backbone(config, dataset="aadb", num_scales=1).eval()
        plain = AutoModel.from_config(config).eval()
        plain.load_state_dict(model.charm.backbone.state_dict(), strict=False)  # without the parts that are left out
        processor = CharmImageProcessor.for_model(model, max_num_patches=512, do_normalize=False)
        pixels = torch.rand(3, GRID[0] * int(side), GRID[1] * int(side))
        inputs = processor(pixels)
        ours, theirs = partial(model, **inputs), partial(run_plain, plain, pixels)
        states = [F.layer_norm(run().last_hidden_state, [config.hidden_size]) for run in (ours, theirs)]
        distance = (states[0] - states[1]).abs().max().item()
        yield Row(
            f"{model_type}: distance from the plain encoder, in 1e-5", distance * 1e5, 1.0, False, f"{distance:.1e}"
        )
        times = least_milliseconds(ours, theirs, repetitions=max(2, repetitions // 10))
        costs = ((size, *count_gmacs(model_type, size)) for size in sizes)
        detail = f"S/{side}: {times[0]:.0f} ms / {times[1]:.0f} ms, {peak_mebibytes(ours):.0f} MiB; "
        detail += ", ".join(f"{size}: {cost:.1f} GMACs, {count:.0f} M parameters" for size, cost, count in costs)
        yield Row(f"{model_type}, 512 tokens: time, of the plain encoder", times[0] / times[1], 1.1, False, detail)
