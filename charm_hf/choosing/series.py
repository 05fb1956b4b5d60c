"""Which photos show one moment, and what tells them apart besides their score.

Two photos belong together if one camera took them within seconds and they look alike, or if they hardly differ, as a
copy or a second size of a photo does. Looks are compared by perceptual hashes (`imagehash`, in `charm-hf[photos]`):
64 bits, of which two unlike photos differ in about 32. Without it, time alone decides, and copies byte for byte.
"""

from __future__ import annotations

import filecmp
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image

from ..models.camera_files_charm import is_raw
from ..models.image_formats_charm import open_image
from ..models.image_loading_charm import load_image


SECONDS = 2.0
# Bits of 64 that may differ between photos of one moment, and between copies.
_ALIKE, _COPIES = 22, 4
_EDGE = 512
_DATE_TIME, _DATE_TIME_ORIGINAL, _SUBSEC, _EXIF, _MODEL = 0x0132, 0x9003, 0x9291, 0x8769, 0x0110
# Pixels that count as lost in shadows or highlights, and the share of them that is worth a word.
_SHADOW, _HIGHLIGHT, _LOST = 5, 250, 0.1
# A photo with less than this part of the sharpness of the sharpest of its series is called soft.
_SOFT = 0.5


@dataclass(frozen=True)
class Sight:
    """What one look at a photo tells.

    Attributes:
        time: when it was taken, in seconds; `None` if it does not say.
        camera: model of the camera.
        bits: (64,) of -1 and 1, the perceptual hash; `None` without `imagehash`.
        sharpness: variance of the Laplacian of its grey values at 512 pixels (Pech-Pacheco et al. 2000).
        dark, bright: shares of pixels lost in shadows (grey value up to 5 of 255) and in highlights (from 250).
    """

    time: float | None
    camera: str
    bits: np.ndarray | None
    sharpness: float
    dark: float
    bright: float

    def flags(self, sharpest: float) -> list[str]:
        """What is wrong with it beside a photo of the same moment with this sharpness."""
        soft = [f"soft ({self.sharpness / sharpest:.0%} of the sharpest)"] if self.sharpness < _SOFT * sharpest else []
        lost = {"shadows": self.dark, "highlights": self.bright}
        return soft + [f"{share:.0%} lost in {where}" for where, share in lost.items() if share >= _LOST]


def look_at(file: str | os.PathLike[str] | None) -> Sight | None:
    """Look at a photo once, small; `None` if it cannot be read."""
    if file is None:
        return None
    try:
        image = load_image(file, on_size=lambda width, height: (_EDGE, _EDGE)).convert("L")
    except (OSError, ValueError):
        return None
    time, camera = _taken(file)
    image.thumbnail((_EDGE, _EDGE), Image.Resampling.BILINEAR)
    grey = np.asarray(image, dtype=np.float32)
    edges = np.pad(grey, 1, mode="edge")
    laplacian = edges[2:, 1:-1] + edges[:-2, 1:-1] + edges[1:-1, 2:] + edges[1:-1, :-2] - 4 * grey
    dark, bright = float((grey <= _SHADOW).mean()), float((grey >= _HIGHLIGHT).mean())
    return Sight(time, camera, _hash_bits(image), float(laplacian.var()), dark, bright)


def can_compare_looks() -> bool:
    """Whether `imagehash` is installed."""
    try:
        import imagehash  # noqa: F401
    except ImportError:
        return False
    return True


def find_series(sights: Sequence[Sight | None], seconds: float = SECONDS) -> list[int]:
    """Which photos show one moment: for each the place of the first photo of its series."""
    parents = list(range(len(sights)))

    def first(place: int) -> int:
        while parents[place] != place:
            parents[place] = place = parents[parents[place]]
        return place

    for one, other in [*_in_time(sights, seconds), *_copies(sights)]:
        low, high = sorted((first(one), first(other)))
        parents[high] = low
    return [first(place) for place in range(len(sights))]


class Copies:
    """Photos, each of which is told whether it is the same as an earlier one: in path, bytes, or nearly in looks."""

    def __init__(self) -> None:
        self._paths: set[str] = set()
        self._by_size: dict[int, list[Path]] = {}
        self._bits: list[np.ndarray] = []

    def holds(self, path: str, file: Path | None, sight: Sight | None) -> bool:
        """Whether an earlier photo is the same; one that is not counts as earlier from now on."""
        if path in self._paths:
            return True
        bits = None if sight is None else sight.bits
        if bits is not None and self._bits and _distance(np.stack(self._bits), bits).min() <= _COPIES:
            return True
        same_size = [] if file is None else self._by_size.setdefault(file.stat().st_size, [])
        if file is not None and any(filecmp.cmp(file, other, shallow=False) for other in same_size):
            return True
        self._paths.add(path)
        same_size += [] if file is None else [file]
        self._bits += [] if bits is None else [bits]
        return False


def _taken(file: str | os.PathLike[str]) -> tuple[float | None, str]:
    """When a photo was taken, in seconds, and by what camera, as far as it says."""
    try:
        return _read_taken(file)
    except Exception:  # PIL's parser stumbles on broken data in ways of its own
        return None, ""


def _read_taken(file: str | os.PathLike[str]) -> tuple[float | None, str]:
    # Of a RAW file, PIL sees the TIFF around the picture, which has the EXIF data; where there is none, it raises.
    with Image.open(file, formats=["TIFF"]) if is_raw(file) else open_image(file) as image:
        exif = Image.Image.getexif(image)
        details = exif.get_ifd(_EXIF)
        text = str(details.get(_DATE_TIME_ORIGINAL) or exif.get(_DATE_TIME) or "").strip("\0 ")
        fraction = "".join(filter(str.isdigit, str(details.get(_SUBSEC) or "")))
        camera = str(exif.get(_MODEL) or "").strip("\0 ")
    if not re.match(r"\d{4}:\d\d:\d\d \d\d:\d\d:\d\d", text):
        return None, camera
    moment = datetime.strptime(text[:19], "%Y:%m:%d %H:%M:%S")
    return (moment - datetime(1970, 1, 1)).total_seconds() + float(f"0.{fraction or 0}"), camera


def _hash_bits(image: Image.Image) -> np.ndarray | None:
    try:
        from imagehash import phash
    except ImportError:
        return None
    return np.where(phash(image).hash.reshape(-1), 1, -1).astype(np.float32)


def _distance(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """In how many bits hashes differ: (…, 64), (64,) or (64, N)."""
    return (one.shape[-1] - one @ other) / 2


def _in_time(sights: Sequence[Sight | None], seconds: float) -> list[tuple[int, int]]:
    """Neighbours in time of one camera that look alike, or cannot be compared."""
    dated = [(s.camera, s.time, place) for place, s in enumerate(sights) if s is not None and s.time is not None]
    dated.sort()
    pairs = []
    for (camera, time, one), (next_camera, next_time, other) in pairwise(dated):
        if camera == next_camera and next_time - time <= seconds:
            bits = [sights[place].bits for place in (one, other)]  # type: ignore[union-attr]
            if any(found is None for found in bits) or _distance(*bits) <= _ALIKE:  # type: ignore[arg-type]
                pairs.append((one, other))
    return pairs


def _copies(sights: Sequence[Sight | None], block: int = 2048) -> list[tuple[int, int]]:
    """Pairs that hardly differ, wherever they lie."""
    known = {place: s.bits for place, s in enumerate(sights) if s is not None and s.bits is not None}
    if not known:
        return []
    places, bits = list(known), np.stack(list(known.values()))
    pairs = []
    for start in range(0, len(bits), block):
        near = _distance(bits[start : start + block], bits.T) <= _COPIES
        for one, other in np.argwhere(near).tolist():
            if start + one < other:
                pairs.append((places[start + one], places[other]))
    return pairs


__all__ = ["SECONDS", "Copies", "Sight", "can_compare_looks", "find_series", "look_at"]
