"""Photos as a camera leaves them on its card: bursts with times and models in their EXIF data."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from PIL import Image


MODEL, DETAILS, TAKEN, SUBSECONDS = 0x0110, 0x8769, 0x9003, 0x9291


def scene(seed: int, width: int = 240, height: int = 160) -> Image.Image:
    """A picture of soft shapes that no other seed resembles."""
    random = np.random.default_rng(seed)
    small = Image.fromarray(random.integers(0, 256, (6, 9, 3), dtype=np.uint8))
    smooth = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC), dtype=float)
    return Image.fromarray((smooth + random.normal(0, 6, smooth.shape)).clip(0, 255).astype(np.uint8))


def save_taken(image: Image.Image, path: Path, taken: str | None = None, camera: str = "Box 3", **options) -> Path:
    """Save a photo that says when it was taken, such as `2024:05:01 12:00:00.50`, and by what."""
    exif = Image.Exif()
    exif[MODEL] = camera
    if taken is not None:
        moment, _, fraction = taken.partition(".")
        exif.get_ifd(DETAILS)[TAKEN] = moment
        if fraction:
            exif.get_ifd(DETAILS)[SUBSECONDS] = fraction
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, exif=exif, **options)
    return path


def write_scores(table: Path, scores: dict[str, float | None]) -> Path:
    """A table as `charm-hf score` writes it; `None` for a photo that could not be scored."""
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["path", "score", "normalized_score", "std", "width", "height", "tokens", "error"])
        for path, score in scores.items():
            known = ["", "", ""] if score is None else [f"{score:.6f}", f"{score / 10:.6f}", "1.200000"]
            writer.writerow([path, *known, 240, 160, 24, "broken" if score is None else ""])
    return table
