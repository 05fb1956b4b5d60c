"""Images by the dozen, for tests that ask whether two computations agree."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image


WIDTH, HEIGHT = 784, 644


def make_photos(count: int) -> list[torch.Tensor]:
    """Crops, of unlike places and sizes, of the photos that scikit-image and scikit-learn ship: (3, 644, 784) each."""
    import skimage.data
    import sklearn.datasets

    folders = Path(skimage.data.__file__).parent, Path(sklearn.datasets.__file__).parent / "images"
    names = (
        "astronaut.png",
        "coffee.png",
        "chelsea.png",
        "motorcycle_left.png",
        "hubble_deep_field.jpg",
        "rocket.jpg",
    )
    files = [folders[0] / name for name in names if (folders[0] / name).exists()]
    files += [folders[1] / "china.jpg", folders[1] / "flower.jpg"]
    sources = [Image.open(file).convert("RGB") for file in files]
    random = np.random.default_rng(0)
    photos = []
    for index in range(count):
        source = sources[index % len(sources)]
        scale = random.uniform(0.6, 1.0)
        width, height = source.width * scale, source.height * scale
        left, top = random.uniform(0, source.width - width), random.uniform(0, source.height - height)
        photo = source.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC, (left, top, left + width, top + height))
        if index % 5 == 4:  # overexposed: whole regions of one value
            photo = photo.point(lambda value: min(255, value * 2))
        photos.append(torch.from_numpy(np.ascontiguousarray(np.asarray(photo).transpose(2, 0, 1))))
    return photos


def _plain(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(np.broadcast_to(pixels, (3, HEIGHT, WIDTH))).astype(np.uint8))


def _noise(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (3, HEIGHT, WIDTH))


_ACROSS = np.arange(WIDTH)
_DOWN = np.arange(HEIGHT)[:, None]

PLAIN_IMAGES: dict[str, Callable[[], torch.Tensor]] = {
    "black": lambda: _plain(np.zeros(1)),
    "white": lambda: _plain(np.full(1, 255)),
    "grey": lambda: _plain(np.full(1, 77)),
    "squares of many greys": lambda: _plain((_ACROSS // 28 * 37 + _DOWN // 28 * 91) % 256),
    "stripes of 3": lambda: _plain(255 * (_ACROSS // 3 % 2)),
    "stripes of 7": lambda: _plain(255 * (_ACROSS // 7 % 2)),
    "checkerboard": lambda: _plain(200 * ((_ACROSS // 7 + _DOWN // 7) % 2)),
    "the same textures again and again": lambda: _plain(np.tile(_noise()[:, :28, :56], (1, 23, 14))),
    "saturated": lambda: _plain(np.where(_noise() > 127, 255, 0)),
    "half black noise": lambda: _plain(_noise() * (_ACROSS < WIDTH // 2)),
    "ramp": lambda: _plain(_ACROSS * 255 // WIDTH),
}
