"""Which files are opened as images, and how much memory one may take: the one list of formats, and the bounds.

A photo takes at most `MAX_PHOTO_BYTES` from its file to its tokens, beside the file itself where that is handed over
as bytes, and beside a picture or an array that the caller holds. What would take more is refused before it is decoded.
"""

from __future__ import annotations

import io
import math
import os
from typing import IO, NamedTuple

from PIL import Image, UnidentifiedImageError

from .camera_files_charm import RAW_EXTENSIONS, is_heif, is_raw, open_raw_preview, register_heif


# A file beyond it is taken for a decompression bomb, as PIL does at its default settings.
MAX_IMAGE_PIXELS = 178_956_970
MAX_PHOTO_BYTES = 1_000_000_000
# Files of formats that have to be read whole.
MAX_WHOLE_BYTES = 64 * 2**20
# A photo to be scored has at least so many pixels on its shorter side, and is at most so many times as long as wide.
MIN_EDGE = 16
MAX_ASPECT_RATIO = 50


class ImageFormat(NamedTuple):
    """What opening a format may cost.

    Attributes:
        bytes_per_pixel: memory that decoding takes at most, the decoded picture included.
        whole: whether the whole file is read before anything is known of it.
    """

    bytes_per_pixel: int
    whole: bool = False


# By PIL's names; nothing else is opened. To add one: enter it here, measure what decoding takes, and add a file of it
# to `tests/helpers/image_files.py`, from which the tests of reading, of memory and of damage take theirs.
FORMATS = {
    "JPEG": ImageFormat(4),  # and what `_coefficient_bytes` adds; MPO, which phones write, too
    "PNG": ImageFormat(4),
    "WEBP": ImageFormat(20, whole=True),
    "GIF": ImageFormat(8),
    "BMP": ImageFormat(8),
    "TIFF": ImageFormat(12),
    "AVIF": ImageFormat(24, whole=True),
    "JPEG2000": ImageFormat(40),
    "PPM": ImageFormat(12),
    "DIB": ImageFormat(8),
    "TGA": ImageFormat(8),
    "PSD": ImageFormat(12),  # the picture that Photoshop flattened
    "HEIF": ImageFormat(16, whole=True),
}
# Files in a folder that are taken for photos. A file that is named, or matched by a pattern, is always tried.
IMAGE_EXTENSIONS = RAW_EXTENSIONS | {
    f".{name}"
    for name in (
        *("jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "bmp", "dib", "tif", "tiff", "avif", "heic", "heif"),
        *("jp2", "j2k", "pbm", "pgm", "ppm", "pnm", "tga", "psd", "hif"),
    )
}


def open_image(file: str | os.PathLike | IO[bytes], name: str | None = None) -> Image.Image:
    """Open an image by its path or as a binary file, if it is of one of the formats; no pixel is decoded.

    Of a RAW file, known by the ending of its path or of the `name` of what is no path, the camera's preview is opened.

    Raises:
        ImportError: if the file needs a package that is not installed; it says what to do.
        PIL.UnidentifiedImageError: if it is of none, or too large a file of one that is read whole.
    """
    if is_raw(name or file):
        return open_raw_preview(file)
    small = _num_bytes(file) <= MAX_WHOLE_BYTES
    Image.init()
    formats = [name for name, known in FORMATS.items() if name in Image.OPEN and (small or not known.whole)]
    try:
        return Image.open(file, formats=formats)
    except UnidentifiedImageError:
        if "HEIF" in Image.OPEN or not is_heif(file):
            raise
        register_heif()
        return open_image(file)


def _num_bytes(file: str | os.PathLike | IO[bytes]) -> int:
    if isinstance(file, (str, os.PathLike)):
        return os.path.getsize(file)
    return file.seek(0, io.SEEK_END) if file.seekable() else 0


def decoding_bytes(image: Image.Image, whole: tuple[int, int]) -> int:
    """Memory that it takes at most to decode an opened image and turn it into upright RGB.

    Args:
        image: of the size at which it will be decoded.
        whole: width and height of the picture in the file.
    """
    pixels = image.width * image.height
    known = FORMATS.get(str(image.format), FORMATS["JPEG"])  # phones' JPEG files may call themselves MPO
    decoder = pixels * known.bytes_per_pixel + math.prod(whole) * _coefficient_bytes(image)
    return int(max(decoder, 8 * pixels))  # two pictures, where it is converted or turned


def _coefficient_bytes(image: Image.Image) -> float:
    """Bytes a pixel that a JPEG decoder keeps beside the picture: where the file comes in several scans, all of it."""
    layers, file = getattr(image, "layer", None), getattr(image, "fp", None)
    if not layers or file is None:
        return 0
    place = file.tell()  # PIL stops behind the header of the first scan, which is of 16 bytes at most
    file.seek(max(0, place - 16))
    _, marker, header = file.read(min(16, place)).rpartition(b"\xff\xda")
    file.seek(place)
    if marker and header[2:3] == bytes([len(layers)]) and "progressive" not in image.info:
        return 0
    samples = [horizontal * vertical for _, horizontal, vertical, _ in layers]
    return 2 * sum(samples) / max(samples)
