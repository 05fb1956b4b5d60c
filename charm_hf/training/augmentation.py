"""Augmentations of a training photo: pure functions on PIL images, with the randomness handed in.

All of them keep what is rated recognisable: they mirror, turn and crop, and leave colours alone.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from PIL import Image


def random_horizontal_flip(image: Image.Image, probability: float, generator: random.Random) -> Image.Image:
    """Mirror left and right with the given probability."""
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if generator.random() < probability else image


def random_right_angle_rotation(image: Image.Image, probability: float, generator: random.Random) -> Image.Image:
    """Rotate by 90, 180 or 270 degrees, equally likely, with the given probability; width and height may swap."""
    if generator.random() >= probability:
        return image
    turns = (Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270)
    return image.transpose(generator.choice(turns))


def random_crop(
    image: Image.Image, min_area: float, generator: random.Random, max_stretch: float = 1.0
) -> Image.Image:
    """Cut out a part of the photo in the photo's own shape, of random size and at a random place.

    Args:
        image: the photo.
        min_area: smallest share of the area that is kept, in (0, 1]; 1 returns the photo as it is.
        generator: source of the randomness.
        max_stretch: the part's aspect ratio differs from the photo's by a factor of up to this, at least 1. The part
            is stretched back, so that the result always has the photo's aspect ratio.

    Returns:
        The part, at its own resolution unless it had to be stretched.

    Raises:
        ValueError: if `min_area` or `max_stretch` is out of its range.
    """
    if not 0 < min_area <= 1 or max_stretch < 1:
        raise ValueError(f"Expected 0 < min_area <= 1 <= max_stretch, got {min_area} and {max_stretch}.")
    side = generator.uniform(min_area, 1.0) ** 0.5
    stretch = max_stretch ** generator.uniform(-0.5, 0.5)
    width = max(1, round(image.width * min(1.0, side * stretch)))
    height = max(1, round(image.height * min(1.0, side / stretch)))
    left, top = generator.randint(0, image.width - width), generator.randint(0, image.height - height)
    if (width, height) == image.size:
        return image
    box = (left, top, left + width, top + height)
    if max_stretch == 1:
        return image.crop(box)
    size = (max(1, round(image.width * side)), max(1, round(image.height * side)))
    return image.resize(size, Image.Resampling.BICUBIC, box=box)


@dataclass(frozen=True)
class TrainingAugmentation:
    """Flip, right-angle rotation and crop, drawn anew for every photo of every epoch.

    Attributes:
        flip: probability of mirroring left and right.
        rotation: probability of a right-angle rotation.
        min_crop_area: smallest share of the area that a crop keeps; 1 does not crop.
        max_crop_stretch: largest change of a crop's aspect ratio; 1 keeps it.
    """

    flip: float = 0.5
    rotation: float = 0.5
    min_crop_area: float = 1.0
    max_crop_stretch: float = 1.0

    def __call__(self, *images: Image.Image, seed: int | str) -> list[Image.Image]:
        """Augment images of one photo (itself, and its saliency map perhaps) in the same way.

        Args:
            images: of equal size.
            seed: of this photo in this epoch, such as `f"{seed}-{epoch}-{image_id}"`: equal seeds give equal results,
                whichever process or worker asks.
        """
        return [self._augment_one(image, random.Random(seed)) for image in images]

    def _augment_one(self, image: Image.Image, generator: random.Random) -> Image.Image:
        if self.min_crop_area < 1 or self.max_crop_stretch > 1:
            image = random_crop(image, self.min_crop_area, generator, self.max_crop_stretch)
        image = random_horizontal_flip(image, self.flip, generator)
        return random_right_angle_rotation(image, self.rotation, generator)
