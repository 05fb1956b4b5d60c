"""A file of each kind that is opened as an image: for the tests of reading, of memory and of damage."""

from __future__ import annotations

import io
from importlib.util import find_spec

import numpy as np
from PIL import Image

from charm_hf.models.camera_files_charm import register_heif


# What is encoded, and how: (PIL's format, mode, options).
KINDS: dict[str, tuple[str, str, dict[str, object]]] = {
    "JPEG": ("JPEG", "RGB", {}),
    "JPEG, grey": ("JPEG", "L", {}),
    "JPEG, CMYK": ("JPEG", "CMYK", {}),
    "JPEG, progressive": ("JPEG", "RGB", {"progressive": True, "subsampling": 0}),
    "JPEG, turned": ("JPEG", "RGB", {"orientation": 6}),
    "MPO": ("MPO", "RGB", {}),
    "PNG": ("PNG", "RGB", {"compress_level": 1}),
    "PNG, transparent": ("PNG", "RGBA", {"compress_level": 1}),
    "PNG, palette": ("PNG", "P", {"compress_level": 1}),
    "PNG, 16-bit grey": ("PNG", "I;16", {"compress_level": 1}),
    "WebP": ("WEBP", "RGB", {"method": 0}),
    "WebP, transparent": ("WEBP", "RGBA", {"method": 0}),
    "WebP, lossless": ("WEBP", "RGB", {"lossless": True, "method": 0}),
    "GIF": ("GIF", "P", {}),
    "BMP": ("BMP", "RGB", {}),
    "DIB": ("DIB", "RGB", {}),
    "TIFF": ("TIFF", "RGB", {}),
    "TIFF, LZW": ("TIFF", "RGB", {"compression": "tiff_lzw"}),
    "TIFF, one strip": ("TIFF", "RGBA", {"compression": "tiff_deflate", "tiffinfo": {278: 2**20}}),
    "TIFF, JPEG inside": ("TIFF", "RGB", {"compression": "tiff_jpeg"}),
    "TIFF, float": ("TIFF", "F", {}),
    "AVIF": ("AVIF", "RGB", {"speed": 10}),
    "AVIF, transparent": ("AVIF", "RGBA", {"speed": 10, "subsampling": "4:4:4"}),
    "JPEG 2000": ("JPEG2000", "RGB", {}),
    "JPEG 2000, transparent": ("JPEG2000", "RGBA", {}),
    "PPM": ("PPM", "RGB", {}),
    "TGA": ("TGA", "RGBA", {"compression": "tga_rle"}),
}
if find_spec("pillow_heif"):  # of the extra `charm-hf[photos]`
    KINDS |= {"HEIC": ("HEIF", "RGB", {"quality": 50}), "HEIC, transparent": ("HEIF", "RGBA", {"quality": 50})}


def photo_like(width: int, height: int, seed: int = 0) -> Image.Image:
    """Soft random colours."""
    small = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def encoded(kind: str, image: Image.Image) -> bytes:
    """An image as the content of a file."""
    name, mode, options = KINDS[kind]
    if name == "HEIF":
        register_heif()
    options = dict(options)
    if "orientation" in options:
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = options.pop("orientation")
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    elif mode == "F":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.float32) / 255)
    elif mode == "P":
        image = image.quantize(16, Image.Quantize.FASTOCTREE)
    else:
        image = image.convert(mode)
        if mode == "RGBA":
            image.putalpha(128)
    buffer = io.BytesIO()
    image.save(buffer, name, **options)
    return buffer.getvalue()
