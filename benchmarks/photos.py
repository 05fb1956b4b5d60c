"""Photos to measure on: four sharp ones of scikit-image and scikit-learn side by side, repeated to the size asked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
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


def unlike_photos(folder: Path, width: int = 1024, height: int = 768) -> dict[str, Path]:
    """Ten pictures that have little in common, each as a JPEG (quality 92) of about as many pixels."""
    names = {
        "stars": "hubble_deep_field.jpg",
        "a page of text": "page.png",
        "a portrait": "astronaut.png",
        "a retina": "retina.jpg",
        "grass": "grass.png",
        "bricks": "brick.png",
        "a cat": "chelsea.png",
    }
    pictures = {name: Image.open(wheel_photo(file)).convert("RGB") for name, file in names.items()}
    pictures = {name: picture.resize((width, height), Image.Resampling.BICUBIC) for name, picture in pictures.items()}
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    pictures["noise"] = Image.fromarray(noise)
    pictures["fog"] = Image.fromarray(noise[:6, :8]).resize((width, height), Image.Resampling.BICUBIC)
    panorama = Image.open(wheel_photo("rocket.jpg")).convert("RGB")
    pictures["a 4:1 panorama"] = panorama.resize((2 * width, height // 2), Image.Resampling.BICUBIC)
    paths = {}
    for name, picture in pictures.items():
        paths[name] = folder / f"{name.replace(' ', '-').replace(':', '-')}.jpg"
        picture.save(paths[name], quality=92)
    return paths


def decode(path: Path) -> None:
    """Decode with PIL and nothing else."""
    with Image.open(path) as image:
        image.load()
