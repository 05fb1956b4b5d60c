"""Images whose score is known because it was planted: real photographs with four independent factors put into them.

Every image carries all four, drawn independently, so that each is a distraction for the others:

- `detail`: contrast of a checkerboard of single pixels in two small regions. Any shrinking wipes it out. Coarse
  gratings and fine noise, which mean nothing, lie elsewhere to mislead whoever looks for detail.
- `placement`: how far the subject, a ringed disc, lies from the upper left towards the lower right of the frame.
- `aspect`: width by height, from tall (0) to wide (1).
- `tone`: brightness of the whole image, a gamma curve.

`all` is the mean of the four. Every factor is uniform on [0, 1].

Whatever is larger than a pixel is laid out relative to the frame: a wide frame has a wide subject. Otherwise a
squashed image would still tell the aspect ratio, by the shape of a disc that ought to be round.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image


FACTORS = ("detail", "placement", "aspect", "tone")
QUESTIONS = (*FACTORS, "all")

# Photographs inside the wheels of scikit-image and scikit-learn, with their licences as those packages state them.
SKIMAGE_PHOTOS = {
    "astronaut.png": "public domain (NASA)",
    "brick.png": "CC0 (CC0Textures)",
    "camera.png": "CC0 (Lav Varshney)",
    "chelsea.png": "CC0 (Stefan van der Walt)",
    "coffee.png": "CC0 (Rachel Michetti)",
    "grass.png": "CC0 (CC0Textures)",
    "gravel.png": "CC0 (CC0Textures)",
    "hubble_deep_field.jpg": "public domain (NASA)",
    "rocket.jpg": "public domain (SpaceX)",
}
SKLEARN_PHOTOS = {"china.jpg": "CC-BY 2.0 (danielbuechele)", "flower.jpg": "CC-BY 2.0 (vultilion)"}

MAX_ASPECT = 3.0
MIN_AREA, MAX_AREA = 480_000, 750_000
MAX_DETAIL_CONTRAST = 40.0  # grey levels to either side of the background
FRAME_MARGIN = 0.07  # that the centre of the subject keeps from the edge, of the frame
GREY_MEAN, GREY_STD = 115.0, 38.0  # of every background, so that only `tone` decides how bright an image is
MAX_LOG_GAMMA = 0.5


@dataclass(frozen=True)
class PlantedImage:
    """One image.

    Attributes:
        pixels: (H, W) uint8 grey levels.
        saliency: (H, W) bool, the true map: subject and regions of detail.
        factors: `FACTORS` and `all` -> [0, 1].
    """

    pixels: np.ndarray
    saliency: np.ndarray
    factors: dict[str, float]


@lru_cache(maxsize=1)
def background_photos() -> tuple[np.ndarray, ...]:
    """The photographs as float32 grey levels (H, W), in a fixed order."""
    import skimage.data
    import sklearn.datasets

    skimage_folder = Path(skimage.data.__file__).parent
    sklearn_folder = Path(sklearn.datasets.__file__).parent / "images"
    paths = [skimage_folder / name for name in SKIMAGE_PHOTOS] + [sklearn_folder / name for name in SKLEARN_PHOTOS]
    return tuple(np.asarray(Image.open(path).convert("L"), dtype=np.float32) for path in paths)


def make_planted_image(
    seed: int, index: int, scale: float = 1.0, areas: tuple[int, int] = (MIN_AREA, MAX_AREA)
) -> PlantedImage:
    """Make image `index` of the set `seed`; equal arguments give equal images.

    Args:
        seed, index: which image.
        scale: of both sides; 1 gives sides of 400 to 1500 pixels. Smaller images are for tests.
        areas: smallest and largest number of pixels.
    """
    rng = np.random.default_rng([seed, index])
    factors = {name: float(rng.uniform()) for name in FACTORS}
    factors["all"] = float(np.mean([factors[name] for name in FACTORS]))
    height, width = _size(factors["aspect"], rng, scale, areas)
    canvas = _background(height, width, rng)
    for _ in range(rng.integers(2, 5)):
        _add_coarse_grating(canvas, rng)
    for _ in range(rng.integers(1, 3)):
        _add_noise(canvas, rng)
    saliency = np.zeros(canvas.shape, dtype=bool)
    for _ in range(2):
        _add_detail(canvas, saliency, factors["detail"], rng)
    _add_subject(canvas, saliency, factors["placement"], rng)
    gamma = math.exp(MAX_LOG_GAMMA * (1 - 2 * factors["tone"]))
    pixels = 255 * (canvas.clip(0, 255) / 255) ** gamma
    return PlantedImage(pixels.round().astype(np.uint8), saliency, factors)


def _size(aspect: float, rng: np.random.Generator, scale: float, areas: tuple[int, int]) -> tuple[int, int]:
    ratio = MAX_ASPECT ** (2 * aspect - 1)
    area = rng.uniform(*areas) * scale**2
    return round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))


def _background(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Part of a photograph, stretched at random so that its shapes do not tell the aspect ratio of the frame."""
    photos = background_photos()
    photo = photos[rng.integers(len(photos))]
    stretch = rng.uniform(0.35, 1.0, size=2) * photo.shape
    top, left = rng.uniform(0, 1, size=2) * (np.array(photo.shape) - stretch)
    box = (left, top, left + stretch[1], top + stretch[0])
    part = np.asarray(Image.fromarray(photo).resize((width, height), Image.Resampling.BICUBIC, box=box))
    part = part[:, ::-1] if rng.uniform() < 0.5 else part
    return (part - part.mean()) * (GREY_STD / max(part.std(), 1.0)) + GREY_MEAN


def _random_box(shape: tuple[int, ...], rng: np.random.Generator, share: float = 0.165) -> tuple[slice, slice]:
    """A box whose sides are about this share of the frame's."""
    height, width = (round(side * share * rng.uniform(0.75, 1.25)) for side in shape)
    top, left = rng.integers(shape[0] - height + 1), rng.integers(shape[1] - width + 1)
    return slice(top, top + height), slice(left, left + width)


def _add_coarse_grating(canvas: np.ndarray, rng: np.random.Generator) -> None:
    box = _random_box(canvas.shape, rng, share=0.215)
    rows, columns = np.mgrid[box]
    angle, cycles, phase = rng.uniform(0, np.pi), rng.uniform(32, 96), rng.uniform(0, 2 * np.pi)
    place = rows * (np.sin(angle) / canvas.shape[0]) + columns * (np.cos(angle) / canvas.shape[1])
    canvas[box] += rng.uniform(10, 40) * np.sin(place * (2 * np.pi * cycles) + phase)


def _add_noise(canvas: np.ndarray, rng: np.random.Generator) -> None:
    box = _random_box(canvas.shape, rng)
    canvas[box] += rng.uniform(5, 20) * rng.standard_normal(canvas[box].shape, dtype=np.float32)


def _add_detail(canvas: np.ndarray, saliency: np.ndarray, strength: float, rng: np.random.Generator) -> None:
    """Lay the checkerboard over a region, flattened a little so that nothing is clipped.

    Its sign is the same everywhere, so that a linear filter finds it.
    """
    box = _random_box(canvas.shape, rng)
    rows, columns = np.mgrid[box]
    sign = 1 - 2 * ((rows + columns) % 2)
    canvas[box] = canvas[box].clip(50, 205) + MAX_DETAIL_CONTRAST * strength * sign
    saliency[box] = True


def subject_place(placement: float, rng: np.random.Generator) -> tuple[float, float]:
    """Row and column in [0, 1] of the frame, whose mean is the placement brought inside the margins."""
    mean = FRAME_MARGIN + (1 - 2 * FRAME_MARGIN) * placement
    reach = min(mean - FRAME_MARGIN, 1 - FRAME_MARGIN - mean)
    offset = rng.uniform(-reach, reach)
    return mean + offset, mean - offset


def _add_subject(canvas: np.ndarray, saliency: np.ndarray, placement: float, rng: np.random.Generator) -> None:
    """Draw a bright ellipse with a dark rim; it may be cut by the frame."""
    place = subject_place(placement, rng)
    rows, columns = np.ogrid[: canvas.shape[0], : canvas.shape[1]]
    radii = rng.uniform(0.16, 0.21, size=2)  # of the frame's sides
    radius = ((rows / canvas.shape[0] - place[0]) / radii[0]) ** 2 + (
        (columns / canvas.shape[1] - place[1]) / radii[1]
    ) ** 2
    canvas[radius < 1] = 15.0
    canvas[radius < 0.8] = 250.0
    saliency |= radius < 1
