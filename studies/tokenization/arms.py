"""The ways of turning a photo into tokens that are compared, each within the same number of tokens.

A *tokenization* turns one image into tokens; it may be random, and then gives another result for each draw. An *arm*
says which tokenization a model is trained with and which it is evaluated with. All tokens come out of
`CharmImageProcessor`; what it does not do (squashing, cropping, padding to a square) is done to the image before.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image

from charm_hf import CharmImageProcessor
from charm_hf.models.plan_charm import PhotoPlan, ScalePlan
from charm_hf.training.inputs import pad_to_square, square_crop, squash


# Larger than any native sequence here.
UNLIMITED = 100_000

Prepare = Callable[[Image.Image, int, np.random.Generator], Image.Image]


def random_crop(image: Image.Image, side: int, rng: np.random.Generator) -> Image.Image:
    """A square from anywhere, instead of from the middle."""
    return square_crop(image, side, *rng.uniform(size=2))


@dataclass(frozen=True)
class Tokenization:
    """One way to tokens.

    Attributes:
        name: of it.
        num_scales: of the tokens, and of a model that takes them.
        prepare: what is done to the image first: (image, side of the square that fills the sequence, randomness).
        is_random: whether another draw gives other tokens.
        is_native: no limit to the number of tokens.
        parameters: of the processor.
        plan: in the place of the processor's own: (height, width, patch_size, max_num_patches).
    """

    name: str
    num_scales: int = 1
    prepare: Prepare | None = None
    is_random: bool = False
    is_native: bool = False
    parameters: dict[str, Any] = field(default_factory=dict)
    plan: Callable[[int, int, int, int], PhotoPlan] | None = None

    def __call__(
        self,
        pixels: np.ndarray,
        saliency: np.ndarray | None,
        patch_size: int,
        max_num_patches: int,
        seed: int,
    ) -> dict[str, torch.Tensor]:
        """Tokenize one image.

        Args:
            pixels: (H, W) grey or (H, W, 3) uint8.
            saliency: (H, W) bool, needed by `charm-saliency` only.
            patch_size, max_num_patches: side of a token, length of the sequence.
            seed: of the draw.

        Returns:
            `pixel_values` (L, C·P·P) uint8, C as in `pixels`; `scale_ids` (L,); `patch_positions` (L, 2);
            `spatial_shapes` (num_scales, 2).
        """
        image = Image.fromarray(pixels)
        if self.prepare is not None:
            side = patch_size * math.isqrt(max_num_patches)
            image = self.prepare(image, side, np.random.default_rng(seed))
        length = UNLIMITED if self.is_native or self.prepare is not None else max_num_patches
        processor = CharmImageProcessor(
            patch_size=patch_size,
            num_scales=self.num_scales,
            max_num_patches=length,
            do_rescale=False,
            do_normalize=False,
            seed=seed,
            **{"overflow": "resize", **self.parameters},
        )
        plans = None
        if self.plan is not None:
            plans = [self.plan(image.height, image.width, patch_size, max_num_patches)]
        maps = saliency if self.parameters.get("patch_selection") == "saliency" else None
        tokens = {name: value[0] for name, value in processor(image, saliency_maps=maps, plans=plans).items()}
        values = tokens["pixel_values"]
        if pixels.ndim == 2:
            values = values[:, : patch_size**2]
        del tokens["pixel_attention_mask"]
        return {**tokens, "pixel_values": values.round().clamp(0, 255).to(torch.uint8)}


def plan_large_regions(height: int, width: int, patch_size: int, max_num_patches: int) -> PhotoPlan:
    """The other natural way to coarsen a background: regions as large as it takes, each native or one token.

    Regions have k patches to a side, with the smallest k >= 2 whose plan fits; a chosen one gives its k² native
    tokens, any other is shrunk to a single one. The share of native tokens is that of the published rule.
    """
    for per_side in range(2, 64):
        side = per_side * patch_size
        rows, columns = (max(1, round(edge / side)) for edge in (height, width))
        chosen = max(1, min(512, max_num_patches) // 2 // per_side**2)
        num_tokens = rows * columns - chosen + chosen * per_side**2
        if chosen < rows * columns and num_tokens <= max_num_patches:
            return PhotoPlan(
                source=(height, width),
                resized=(height, width),
                crop=(0, 0),
                height=rows * side,
                width=columns * side,
                thumbnail=None,
                patch_size=patch_size,
                scales=(
                    ScalePlan(side, patch_size, rows * columns - chosen, (rows, columns)),
                    ScalePlan(side, side, chosen, (rows * per_side, columns * per_side)),
                ),
                num_tokens=num_tokens,
            )
    raise ValueError(f"No regions of {height}×{width} pixels fit {max_num_patches} tokens.")


def _charm(name: str, selection: str, num_scales: int = 2) -> Tokenization:
    parameters = {"patch_selection": selection}
    return Tokenization(name, num_scales, is_random=selection == "random", parameters=parameters)


TOKENIZATIONS = {
    item.name: item
    for item in (
        Tokenization("squash", prepare=lambda image, side, rng: squash(image, side)),
        Tokenization("centre-crop", prepare=lambda image, side, rng: square_crop(image, side)),
        Tokenization("random-crop", prepare=random_crop, is_random=True),
        Tokenization("pad-to-square", prepare=lambda image, side, rng: pad_to_square(image, side)),
        Tokenization("kept-aspect"),
        Tokenization("native", is_native=True),
        _charm("charm-frequency", "frequency"),
        _charm("charm-gradient", "gradient"),
        _charm("charm-entropy", "entropy"),
        _charm("charm-saliency", "saliency"),
        _charm("charm-random", "random"),
        _charm("charm-3-frequency", "frequency", num_scales=3),
        _charm("charm-3-random", "random", num_scales=3),
        *(
            Tokenization(f"charm-{overflow}", 2, is_random=overflow == "drop", parameters={"overflow": overflow})
            for overflow in ("keep", "drop", "coarsen")
        ),
        Tokenization("charm-large-regions", 2, plan=plan_large_regions),
    )
}


@dataclass(frozen=True)
class Arm:
    """What is compared: the tokenization in training, and in evaluation."""

    name: str
    train: str
    evaluate: str
    title: str


ARMS = {
    arm.name: arm
    for arm in (
        Arm("native", "native", "native", "all native tokens (expensive bound)"),
        Arm("squash", "squash", "squash", "resize, squashed to a square"),
        Arm("centre-crop", "centre-crop", "centre-crop", "resize + centre crop"),
        Arm("random-crop", "random-crop", "centre-crop", "resize + random crop (centre in evaluation)"),
        Arm("pad-to-square", "pad-to-square", "pad-to-square", "resize, padded to a square"),
        Arm("kept-aspect", "kept-aspect", "kept-aspect", "resize at kept aspect ratio (NaFlex-like)"),
        Arm("charm-random", "charm-random", "charm-random", "Charm, random"),
        Arm("charm-frequency", "charm-frequency", "charm-frequency", "Charm, frequency"),
        Arm("charm-gradient", "charm-gradient", "charm-gradient", "Charm, gradient"),
        Arm("charm-entropy", "charm-entropy", "charm-entropy", "Charm, entropy"),
        Arm("charm-saliency", "charm-saliency", "charm-saliency", "Charm, saliency (true map)"),
        Arm("charm-recipe", "charm-random", "charm-frequency", "Charm, random in training, frequency in evaluation"),
        Arm("charm-3-recipe", "charm-3-random", "charm-3-frequency", "the same with three scales"),
    )
}

# What becomes of photos of many megapixels, whose tokens exceed the limit; all choose regions by frequency.
OVERFLOW_ARMS = {
    arm.name: arm
    for arm in (
        Arm("charm-keep", "charm-keep", "charm-keep", "keep every token (no limit)"),
        Arm("charm-coarsen", "charm-coarsen", "charm-coarsen", "coarsen: small native regions, the whole photo small"),
        Arm("charm-large-regions", "charm-large-regions", "charm-large-regions", "coarsen: few large native regions"),
        Arm("charm-frequency", "charm-frequency", "charm-frequency", "resize, then Charm"),
        Arm("charm-drop", "charm-drop", "charm-keep", "drop in training, keep in evaluation"),
        Arm("kept-aspect", "kept-aspect", "kept-aspect", "resize at kept aspect ratio (NaFlex-like)"),
        Arm("squash", "squash", "squash", "resize, squashed to a square"),
    )
}
ARMS_OF_STUDY = {"planted": ARMS, "sizes": OVERFLOW_ARMS}
