"""Photos to measure on: four sharp ones of scikit-image and scikit-learn side by side, repeated to the size asked."""

from __future__ import annotations

from pathlib import Path

import skimage.data
import sklearn.datasets
from PIL import Image


QUARTER = (512, 384)


def wheel_photo(name: str) -> Path:
    """A photo that comes with scikit-image."""
    return Path(skimage.data.__file__).parent / name


def make_photo(folder: Path, width: int, height: int) -> Path:
    """Write a JPEG (quality 92) of this size."""
    paths = [wheel_photo(name) for name in ("motorcycle_left.png", "coffee.png", "astronaut.png")]
    paths.append(Path(sklearn.datasets.__file__).parent / "images" / "china.jpg")
    quarters = [Image.open(path).convert("RGB").crop((0, 0, *QUARTER)) for path in paths]
    photo = Image.new("RGB", (width, height))
    for row, top in enumerate(range(0, height, QUARTER[1])):
        for column, left in enumerate(range(0, width, QUARTER[0])):
            photo.paste(quarters[2 * (row % 2) + column % 2], (left, top))
    path = folder / f"photo-{width}x{height}.jpg"
    photo.save(path, quality=92)
    return path


def decode(path: Path) -> None:
    """Decode with PIL and nothing else."""
    with Image.open(path) as image:
        image.load()
