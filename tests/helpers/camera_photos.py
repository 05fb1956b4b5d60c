"""Photos as a camera leaves them on its card: bursts with times and models in their EXIF data."""

from __future__ import annotations

import csv
import struct
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


def raw_file(preview: bytes | None, orientation: int = 1, width: int = 64, height: int = 48) -> bytes:
    """A DNG with a Bayer mosaic and, as cameras put it in, a preview as JPEG."""
    mosaic = np.random.default_rng(0).integers(0, 4096, (height, width), dtype=np.uint16).tobytes()
    base = 8
    blocks = {"mosaic": mosaic, "preview": preview or b""}
    place = {"mosaic": base, "preview": base + len(mosaic)}
    start = base + sum(map(len, blocks.values()))
    matrix = [(1, 1), (0, 1), (0, 1), (0, 1), (1, 1), (0, 1), (0, 1), (0, 1), (1, 1)]
    sensor = {
        254: (4, [0]), 256: (4, [width]), 257: (4, [height]), 258: (3, [16]), 259: (3, [1]), 262: (3, [32803]),
        273: (4, [place["mosaic"]]), 277: (3, [1]), 278: (4, [height]), 279: (4, [len(mosaic)]),
        33421: (3, [2, 2]), 33422: (1, [0, 1, 1, 2]), 50717: (4, [4095]),
    }  # fmt: skip
    described = {
        254: (4, [1]), 271: (2, b"Box\0"), 272: (2, b"Box 3\0"), 274: (3, [orientation]), 330: (4, [0]),
        50706: (1, [1, 4, 0, 0]), 50708: (2, b"Box 3\0"), 50721: (10, matrix), 50728: (5, [(1, 1)] * 3),
        50778: (3, [21]),
    }  # fmt: skip
    if preview is not None:
        described |= {
            256: (4, [160]), 257: (4, [120]), 258: (3, [8, 8, 8]), 259: (3, [7]), 262: (3, [6]), 277: (3, [3]),
            273: (4, [place["preview"]]), 278: (4, [120]), 279: (4, [len(preview)]),
        }  # fmt: skip
    behind = start + len(_directory(described, start))
    described[330] = (4, [behind])
    header = b"II*\0" + struct.pack("<I", start)
    return header + b"".join(blocks.values()) + _directory(described, start) + _directory(sensor, behind)


def _directory(tags: dict, start: int) -> bytes:
    """A directory of a TIFF file that stands at `start`, with the values that do not fit into it behind it."""
    codes = {1: "B", 3: "H", 4: "I"}
    entries, further = b"", b""
    end = start + 2 + 12 * len(tags) + 4
    for tag, (kind, values) in sorted(tags.items()):
        if kind == 2:
            content = values
        elif kind in (5, 10):
            content = b"".join(struct.pack("<ii", *pair) for pair in values)
        else:
            content = struct.pack(f"<{len(values)}{codes[kind]}", *values)
        count = len(content) if kind == 2 else len(values)
        stored = content.ljust(4, b"\0") if len(content) <= 4 else struct.pack("<I", end + len(further))
        entries += struct.pack("<HHI", tag, kind, count) + stored
        further += content + b"\0" * (len(content) % 2) if len(content) > 4 else b""
    return struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0) + further
