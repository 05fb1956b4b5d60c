"""What a photo is made into before it is tokenized, for the papers' other inputs: crops, squares, one scale."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from PIL import Image


SIDE = 224  # of what the baselines see
# Crops are taken from an image whose shortest edge is 8/7 of the crop, as 224 out of 256.
CROP_MARGIN = 8 / 7
BICUBIC = Image.Resampling.BICUBIC


def squash(image: Image.Image, side: int) -> Image.Image:
    """Resize to a square, whatever the aspect ratio."""
    return image.resize((side, side), BICUBIC)


def pad_to_square(image: Image.Image, side: int) -> Image.Image:
    """Resize the longest edge to the side and put the image into the middle of a black square."""
    ratio = side / max(image.size)
    width, height = (max(1, round(edge * ratio)) for edge in image.size)
    square = Image.new(image.mode, (side, side))
    square.paste(image.resize((width, height), BICUBIC), ((side - width) // 2, (side - height) // 2))
    return square


def square_crop(image: Image.Image, side: int, across: float = 0.5, down: float = 0.5) -> Image.Image:
    """Resize the shortest edge to 8/7 of the side and cut a square.

    Args:
        image: of any size.
        side: of the square.
        across, down: where it lies, 0 at the left and top, 1 at the right and bottom; the middle if not given.
    """
    ratio = side * CROP_MARGIN / min(image.size)
    width, height = (max(side, round(edge * ratio)) for edge in image.size)
    left, top = round((width - side) * across), round((height - side) * down)
    return image.resize((width, height), BICUBIC).crop((left, top, left + side, top + side))


def random_square_crop(image: Image.Image, generator: random.Random) -> Image.Image:
    """The crop of 224 pixels that the released training sees: anywhere, out of a shortest edge of 256."""
    return square_crop(image, SIDE, generator.random(), generator.random())


@dataclass(frozen=True)
class InputKind:
    """One way to feed photos to a model.

    Attributes:
        processor: parameters that it fixes, in the checkpoint too.
        train_processor: those that differ in training.
        in_training, in_evaluation: what is done to the photo first; the randomness is handed in.
    """

    processor: Mapping[str, Any] = field(default_factory=dict)
    train_processor: Mapping[str, Any] = field(default_factory=dict)
    in_training: Callable[[Image.Image, random.Random], Image.Image] | None = None
    in_evaluation: Callable[[Image.Image, random.Random], Image.Image] | None = None


def _padded(image: Image.Image, generator: random.Random) -> Image.Image:
    return pad_to_square(image, SIDE)


_ONE_SCALE = {"num_scales": 1}
_ALL_PATCHES = {"patch_selection": "random", "overflow": "keep"}  # of 224×224 pixels: nothing to select
INPUT_KINDS = {
    "charm": InputKind(),
    # Shortest edge 256, crop 224: at random in training, the middle in evaluation, which the processor does itself.
    "standard": InputKind({**_ONE_SCALE, "patch_selection": "original"}, _ALL_PATCHES, random_square_crop),
    # Longest edge 224, black bars. No processor does this: evaluation has to be told.
    "padded": InputKind({**_ONE_SCALE, **_ALL_PATCHES}, _ALL_PATCHES, _padded, _padded),
    # Shrunk as a whole, aspect ratio kept, until the tokens of one scale fit.
    "kept_aspect": InputKind({**_ONE_SCALE, "overflow": "resize"}, {"overflow": "resize"}),
}
