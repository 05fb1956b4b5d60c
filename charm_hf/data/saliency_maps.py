"""Saliency maps of photos: image files in a folder, one a photo, of the same name but for its suffix."""

from __future__ import annotations

import os
from pathlib import Path

from PIL import Image

from ..models.image_loading_charm import load_image
from .annotation_files import require_folder
from .images import FolderIndex, fold_name


# What counts as a suffix of a photo's name; anything else behind a dot is part of the name.
_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")


class SaliencyFolder:
    """Gives the map of a photo by the photo's name.

    Of `photos/4/sea.jpg` it is `maps/photos/4/sea.png`; where that is not there, `maps/4/sea.png`; where that is not
    there, `maps/sea.png`. A map may have any of the usual suffixes.

    Args:
        folder: of the maps. Pixels above zero are salient.

    Raises:
        FileNotFoundError: if there is no such folder.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = require_folder(Path(folder), "saliency maps")
        self._index = FolderIndex(key=_key)

    def __call__(self, name: str, size: tuple[int, int]) -> Image.Image:
        """Read the map of a photo.

        Args:
            name: of the photo, or its path inside its folder; an `image_id` of a dataset.
            size: width and height of the photo, to which a map of the same shape is brought (nearest pixels).

        Returns:
            Grey levels, mode `L`, of the photo's size.

        Raises:
            FileNotFoundError: if the photo has no map.
            ValueError: if the map is no image, or of another shape than the photo.
        """
        *inner, file = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..")] or [name]
        for start in range(len(inner) + 1):
            folder = self.folder.joinpath(*inner[start:])
            if (found := self._index.find(str(folder), file)) is not None:
                return _read(folder / found, name, size)
        raise FileNotFoundError(f"{self.folder} holds no saliency map for {name!r}, such as {_stem(file)}.png.")


def _stem(name: str) -> str:
    stem, suffix = os.path.splitext(name)
    return stem if suffix.lower() in _SUFFIXES else name


def _key(name: str) -> str:
    return fold_name(_stem(name))


def _read(path: Path, name: str, size: tuple[int, int]) -> Image.Image:
    try:
        grey = load_image(path).convert("L")
    except (OSError, ValueError) as error:
        raise ValueError(f"The saliency map {path} of {name!r} cannot be read: {error}") from error
    if abs(grey.width / grey.height / (size[0] / size[1]) - 1) > 0.02:
        raise ValueError(
            f"The saliency map {path} has another shape ({grey.width}×{grey.height} pixels) than its photo {name!r} "
            f"({size[0]}×{size[1]})."
        )
    return grey if grey.size == size else grey.resize(size, Image.Resampling.NEAREST)
