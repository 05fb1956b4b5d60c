"""What cameras and phones write and PIL does not read by itself: HEIC files, and the previews inside RAW files.

The packages that do are an extra, `charm-hf[photos]`: pillow-heif and rawpy.
"""

from __future__ import annotations

import io
import os
from importlib import import_module
from typing import IO, Any

from PIL import Image


RAW_EXTENSIONS = frozenset((".cr2", ".cr3", ".nef", ".arw", ".dng", ".raf", ".orf", ".rw2"))
# What stands after `ftyp` in files of the HEIF family.
_HEIF_BRANDS = frozenset((b"heic", b"heix", b"hevc", b"hevx", b"hevm", b"hevs", b"heim", b"heis", b"mif1", b"msf1"))
# How LibRaw says that a picture lies -> EXIF orientation.
_ORIENTATIONS = {3: 3, 5: 8, 6: 6}
_TURNS = {3: Image.Transpose.ROTATE_180, 5: Image.Transpose.ROTATE_90, 6: Image.Transpose.ROTATE_270}
_EXIF_ORIENTATION = 0x0112


def is_heif(file: str | os.PathLike | IO[bytes]) -> bool:
    """Whether a file begins like one of the HEIF family."""
    if isinstance(file, (str, os.PathLike)):
        with open(file, "rb") as opened:
            return is_heif(opened)
    file.seek(0)
    start = file.read(12)
    file.seek(0)
    return start[4:8] == b"ftyp" and start[8:] in _HEIF_BRANDS


def register_heif() -> None:
    """Let PIL open HEIC files.

    Raises:
        ImportError: if pillow-heif is not installed; it says what to do.
    """
    if "HEIF" not in Image.OPEN:
        _import("pillow_heif", "HEIC files").register_heif_opener()


def is_raw(file: Any) -> bool:
    """Whether a path is that of a RAW file, by its ending: inside, many are TIFF files with a tiny picture first."""
    return isinstance(file, (str, os.PathLike)) and os.path.splitext(file)[1].lower() in RAW_EXTENSIONS


def open_raw_preview(file: str | os.PathLike | IO[bytes]) -> Image.Image:
    """Open the largest picture that the camera put into a RAW file, its orientation set; a JPEG is not decoded.

    Raises:
        ImportError: if rawpy is not installed; it says what to do.
        ValueError: if there is no picture in it, or it is no RAW file.
    """
    rawpy = _import("rawpy", "RAW files")
    try:
        with rawpy.imread(os.fspath(file) if isinstance(file, (str, os.PathLike)) else file) as raw:
            preview, flip = raw.extract_thumb(), raw.sizes.flip
    except rawpy.LibRawError as error:
        reason = error.args[0].decode() if error.args and isinstance(error.args[0], bytes) else error
        raise ValueError(f"No preview can be read from this RAW file: {reason}") from error
    if preview.format != rawpy.ThumbFormat.JPEG:
        image = Image.fromarray(preview.data)
        return image.transpose(_TURNS[flip]) if flip in _TURNS else image
    image = Image.open(io.BytesIO(preview.data), formats=["JPEG"])
    exif = image.getexif()
    if _EXIF_ORIENTATION not in exif and flip in _ORIENTATIONS:
        exif[_EXIF_ORIENTATION] = _ORIENTATIONS[flip]
    return image


def _import(name: str, what: str) -> Any:
    try:
        return import_module(name)  # not a statement, or whoever loads a checkpoint would be asked to install it
    except ImportError:
        raise ImportError(f"{what} are read with an extra: pip install 'charm-hf[photos]'.") from None


__all__ = ["RAW_EXTENSIONS", "is_heif", "is_raw", "open_raw_preview", "register_heif"]
