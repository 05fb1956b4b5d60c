"""Where `charm-tiny` starts: a Charm model with random weights that already knows what a photo is like.

    python -m studies.charm_tiny.start --photos PHOTOS --output_dir runs/charm-tiny/start

Few photos teach a transformer little about space, so three things are not left to chance. The patch projection
whitens the patches of the photos (their principal components, both scales alike). The position table holds sines and
cosines of row and column. Queries and keys start alike and values start as what is taken away, as Trockman and Kolter
found in trained transformers ("Mimetic initialization of self-attention layers", ICML 2023).
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import torch
from PIL import Image
from transformers import ViTConfig, set_seed

from charm_hf.models.image_processing_charm import CharmImageProcessor
from charm_hf.models.modeling_charm import CharmForAestheticScoring


NUM_PHOTOS = 300


def whitening(tokens: torch.Tensor, width: int, strength: float = 0.05) -> torch.Tensor:
    """Rows that whiten (N, D) tokens: (width, D), the components that vary most, the small ones damped."""
    centred = tokens - tokens.mean(0)
    variances, directions = torch.linalg.eigh(centred.T @ centred / len(tokens))
    variances, directions = variances.flip(0)[:width], directions.flip(1)[:, :width]
    floor = strength * variances[:width].mean()
    return (directions * (variances + floor).rsqrt()).T


def sines(rows: int, columns: int, width: int) -> torch.Tensor:
    """Sines and cosines of the place of each cell: (rows · columns, width)."""
    frequencies = 100 ** -(torch.arange(width // 4) / (width // 4))
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    angles = [place.reshape(-1, 1) * 32 / max(rows, columns) * frequencies for place in (row, column)]
    return torch.cat([function(angle) for angle in angles for function in (torch.sin, torch.cos)], dim=1)


@torch.no_grad()
def make_attention_mimetic(layer: torch.nn.Module, heads: int) -> None:
    """Queries and keys whose product is near the identity, values and output whose product is near its negative."""
    attention = layer.attention
    width = attention.q_proj.weight.shape[0]
    size = width // heads
    for head in range(heads):
        own = slice(head * size, (head + 1) * size)
        left, values, right = torch.linalg.svd(0.7 * torch.randn(width, width) / width**0.5 + 0.7 * torch.eye(width))
        root = values[:size].sqrt()
        attention.q_proj.weight[own] = (left[:, :size] * root).T
        attention.k_proj.weight[own] = root[:, None] * right[:size]
    left, values, right = torch.linalg.svd(0.4 * torch.randn(width, width) / width**0.5 - 0.4 * torch.eye(width))
    attention.o_proj.weight.copy_(left * values.sqrt())
    attention.v_proj.weight.copy_(values.sqrt()[:, None] * right)


@torch.no_grad()
def build(args: argparse.Namespace) -> tuple[CharmForAestheticScoring, CharmImageProcessor]:
    """The model and its processor."""
    processor = CharmImageProcessor(
        patch_size=args.patch_size,
        max_num_patches=args.max_num_patches,
        do_resize=True,
        size={"longest_edge": args.longest_edge},
        overflow=args.overflow,
    )
    side = args.longest_edge // args.patch_size
    config = ViTConfig(
        image_size=side * args.patch_size,
        patch_size=args.patch_size,
        hidden_size=args.width,
        intermediate_size=4 * args.width,
        num_hidden_layers=args.layers,
        num_attention_heads=args.heads,
    )
    model = CharmForAestheticScoring.from_backbone(config, num_scales=2)
    paths = sorted(path for path in args.photos.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    photos = [Image.open(path) for path in random.Random(args.seed).sample(paths, min(NUM_PHOTOS, len(paths)))]
    tokens = torch.cat([processor(photo, patch_selection="random")["pixel_values"][0] for photo in photos])
    embeddings = model.charm.backbone.embeddings
    projection = embeddings.patch_embeddings.projection
    projection.weight.copy_(whitening(tokens, args.width).view_as(projection.weight))
    projection.bias.copy_(-projection.weight.flatten(1) @ tokens.mean(0))
    embeddings.position_embeddings[0, 1:] = 0.5 * sines(side, side, args.width)
    for layer in model.charm.backbone.layers:
        make_attention_mimetic(layer, args.heads)
    return model, processor


def main() -> None:
    """Write the model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--photos", type=Path, required=True)
    add("--output_dir", type=Path, required=True)
    add("--patch_size", type=int, default=32)
    add("--longest_edge", type=int, default=512)
    add("--max_num_patches", type=int, default=96)
    add("--overflow", default="coarsen")
    add("--width", type=int, default=192)
    add("--layers", type=int, default=6)
    add("--heads", type=int, default=6)
    add("--seed", type=int, default=0)
    args = parser.parse_args()
    set_seed(args.seed)
    model, processor = build(args)
    model.save_pretrained(args.output_dir)
    processor.save_pretrained(args.output_dir)


if __name__ == "__main__":
    main()
