"""The one reader of images: every command, dataset and processor of the package sees pixels through `load_image`.

The rule, in order:

1. an animation or multi-page file gives its first frame;
2. EXIF orientation is applied;
3. 16-bit grey keeps its high byte (as PIL itself does for 16-bit colour); float grey is taken as [0, 1];
4. transparency, also of a palette, is composed on white;
5. palette, grey, CMYK, YCbCr, LAB and HSV become RGB by PIL's own conversion; ICC profiles are not applied.

The caller's image object is never changed.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError


if TYPE_CHECKING:
    import torch  # imported where tensors are made, so that files are read without it

# 537 MB of RGB: beyond it a file is taken for a decompression bomb, as PIL does at its default settings.
MAX_IMAGE_PIXELS = 178_956_970

_URL_PREFIXES = ("http://", "https://")
_URL_TIMEOUT_SECONDS = 30.0


def source_path(source: Any) -> str | None:
    """Path or URL of an image, if it has one."""
    name = source if isinstance(source, (str, os.PathLike)) else getattr(source, "filename", None)
    if isinstance(source, dict):
        name = source.get("path")
    return os.fspath(name) if name else None


def describe_source(source: Any, index: int | None = None) -> str:
    """Name an image for an error message: its path or URL if it has one, else its place in the batch."""
    if name := source_path(source):
        return repr(name)
    return "the image" if index is None else f"image {index} of the batch"


@contextmanager
def _errors_naming(name: str) -> Iterator[None]:
    """Turn what PIL raises at broken content into a `ValueError` that names the image."""
    try:
        yield
    except (FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except UnidentifiedImageError:
        raise ValueError(f"{name} is not an image that PIL can read.") from None
    except Image.DecompressionBombError as error:
        raise ValueError(f"{name} is too large: {error}") from None
    except (OSError, SyntaxError, EOFError, TypeError, IndexError, OverflowError, MemoryError) as error:
        raise ValueError(f"{name} cannot be decoded: {error}") from error


def load_image(
    source: Any, *, name: str | None = None, on_size: Callable[[int, int], tuple[int, int] | None] | None = None
) -> Image.Image:
    """Read an image by the rule at the top of this file.

    Args:
        source: path (`str` or `os.PathLike`), `http(s)` URL, encoded bytes, binary file object, PIL image, or the
            `{"path": …, "bytes": …}` of an undecoded `datasets` column.
        name: how errors call the image; its path or URL if not given.
        on_size: called with the width and height, after EXIF orientation, before any pixel is decoded, so that a
            photo is opened once for both. It may return a width and height under which the result must not fall: a
            JPEG file is then decoded at 1/2, 1/4 or 1/8 of its size where that suffices; other sources ignore it.

    Returns:
        An RGB image that shares nothing with `source`.

    Raises:
        FileNotFoundError, PermissionError: if the path cannot be opened.
        ValueError: if the content is empty, broken, no image, or larger than `MAX_IMAGE_PIXELS`; it names the image.
    """
    name = name or describe_source(source)
    with _errors_naming(name):
        if isinstance(source, Image.Image):
            if on_size is not None:
                on_size(*_oriented_size(source))
            return _to_rgb(_first_frame(source), name)
        with _open(source, name) as image:
            smallest = None if on_size is None else on_size(*_oriented_size(image))
            if smallest is not None and image.format == "JPEG" and image.mode in ("RGB", "L"):
                image.draft(image.mode, smallest if _oriented_size(image) == image.size else smallest[::-1])
            return _to_rgb(image, name)


def image_size(source: Any, *, name: str | None = None) -> tuple[int, int]:
    """Width and height in pixels after EXIF orientation, without decoding the pixels of a file.

    Raises:
        FileNotFoundError, PermissionError, ValueError: as [`load_image`].
    """
    name = name or describe_source(source)
    if isinstance(source, Image.Image):
        return _oriented_size(source)
    with _errors_naming(name), _open(source, name) as image:
        return _oriented_size(image)


def rgb_planes(image: Image.Image, height: int, width: int) -> np.ndarray:
    """Pixels of an RGB image, (3, height, width) `uint8`, cropped or zero-padded at the right and the bottom.

    One band at a time, PIL packs pixels several times faster than whole ones.
    """
    planes = np.empty((3, height, width), dtype=np.uint8)
    planes[:, image.height :] = 0
    planes[:, :, image.width :] = 0
    for plane, band in zip(planes, "RGB", strict=True):
        pixels = np.frombuffer(image.tobytes("raw", band), dtype=np.uint8).reshape(image.height, image.width)
        plane[: image.height, : image.width] = pixels[:height, :width]
    return planes


def array_to_tensor(array: np.ndarray | torch.Tensor, name: str, input_data_format: str | None = None) -> torch.Tensor:
    """Bring an array to channels first.

    Args:
        array: (H, W), (H, W, C) or (C, H, W) with 1, 3 or 4 channels; integers 0-255 (`uint16`: 0-65535) or floats in
            [0, 1]. Alpha is composed on white. A tensor keeps its device and its gradient.
        name: how errors call the image.
        input_data_format: `"channels_first"` or `"channels_last"`; told from the shape if not given, where an array
            that could be either counts as channels first.

    Returns:
        (3, H, W), `uint8` for integers, else float.

    Raises:
        ValueError: for another shape, values out of range, NaN or infinity.
    """
    import torch

    if isinstance(array, np.ndarray) and array.dtype == np.uint16:
        array = (array >> 8).astype(np.uint8)
    tensor = torch.from_numpy(np.require(array, requirements=["C", "W"])) if isinstance(array, np.ndarray) else array
    if tensor.ndim == 2:
        tensor = tensor[None]
    elif tensor.ndim != 3:
        raise ValueError(f"{name}: expected an array of 2 or 3 dimensions, got shape {tuple(tensor.shape)}.")
    elif not _is_channels_first(tensor, name, input_data_format):
        tensor = tensor.permute(2, 0, 1)
    if tensor.numel() == 0:
        raise ValueError(f"{name} is empty: shape {tuple(tensor.shape)}.")
    return _three_channels(_check_values(tensor, name))


def _is_channels_first(tensor: torch.Tensor, name: str, input_data_format: str | None) -> bool:
    channels = (1, 3, 4)
    if input_data_format is not None:
        first = str(getattr(input_data_format, "value", input_data_format)) in ("channels_first", "first")
        if tensor.shape[0 if first else -1] not in channels:
            raise ValueError(
                f"{name}: shape {tuple(tensor.shape)} is not {input_data_format} with 1, 3 or 4 channels."
            )
        return first
    if tensor.shape[0] in channels:
        return True
    if tensor.shape[-1] in channels:
        return False
    raise ValueError(f"{name}: expected 1, 3 or 4 channels first or last, got shape {tuple(tensor.shape)}.")


def _check_values(tensor: torch.Tensor, name: str) -> torch.Tensor:
    import torch

    if tensor.dtype == torch.bool:
        return tensor.to(torch.uint8) * 255
    low, high = tensor.detach().aminmax()
    if tensor.is_floating_point():
        # NaN fails both comparisons, and so does infinity. A little overshoot of a resampling is let through.
        if not (low >= -0.1 and high <= 1.1):
            raise ValueError(
                f"{name}: float pixels must lie in [0, 1], found {low.item():.4g} to {high.item():.4g}. "
                "Give integers 0-255, or divide by 255 first."
            )
        return tensor.float()
    if low < 0 or high > 255:
        raise ValueError(f"{name}: integer pixels must lie in 0-255, found {low.item()} to {high.item()}.")
    return tensor.to(torch.uint8)


def _three_channels(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.shape[0] == 1:
        return tensor.expand(3, -1, -1)
    if tensor.shape[0] == 3:
        return tensor
    white = 1.0 if tensor.is_floating_point() else 255.0
    colour, alpha = tensor[:3].float(), tensor[3:].float() / white
    composed = colour * alpha + white * (1 - alpha)
    return composed if tensor.is_floating_point() else composed.round().byte()


def _open(source: Any, name: str) -> Image.Image:
    if isinstance(source, dict):
        content = source.get("bytes")
        source = content if content is not None else source.get("path")
    if isinstance(source, str) and source.startswith(_URL_PREFIXES):
        source = _download(source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        if len(source) == 0:
            raise ValueError(f"{name} is empty: zero bytes.")
        source = io.BytesIO(source)
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        if path.is_dir():
            raise IsADirectoryError(f"{name} is a folder, expected an image file.")
        if path.stat().st_size == 0:
            raise ValueError(f"{name} is empty: zero bytes.")
        image = Image.open(path)
    elif hasattr(source, "read"):
        image = Image.open(source)
    else:
        raise ValueError(
            f"{name}: expected a path, URL, bytes, file object, PIL image, NumPy array or torch tensor, got "
            f"{type(source).__name__}."
        )
    _check_size(image, name)
    return image


def _download(url: str) -> bytes:
    from huggingface_hub import get_session

    response = get_session().get(url, timeout=_URL_TIMEOUT_SECONDS, follow_redirects=True)
    if response.status_code != 200:
        raise ValueError(f"{url!r} answered with status {response.status_code}, expected 200.")
    return response.content


def _check_size(image: Image.Image, name: str) -> None:
    width, height = image.size
    if width == 0 or height == 0:
        raise ValueError(f"{name} is empty: {width}×{height} pixels.")
    if width * height > MAX_IMAGE_PIXELS:
        raise ValueError(f"{name} has {width}×{height} pixels, more than the limit of {MAX_IMAGE_PIXELS:,}.")


def _first_frame(image: Image.Image) -> Image.Image:
    """Copy the first frame of the caller's image and leave the image at the frame where it stood."""
    if not getattr(image, "is_animated", False):
        return image.copy()
    frame = image.tell()
    image.seek(0)
    try:
        return image.copy()
    finally:
        image.seek(frame)


def _oriented_size(image: Image.Image) -> tuple[int, int]:
    width, height = image.size
    # The base class's method, because a PNG's own one decodes all pixels in search of EXIF data behind them.
    rotated = Image.Image.getexif(image).get(0x0112, 1) in (5, 6, 7, 8)
    return (height, width) if rotated else (width, height)


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    _check_size(image, name)
    image.load()
    # The image is ours alone, and a copy of a photo costs more than any other step here.
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = _grey_to_8bit(image, name)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _grey_to_8bit(image: Image.Image, name: str) -> Image.Image:
    values = np.asarray(image)
    if image.mode == "F":
        if not (values.min() >= 0.0 and values.max() <= 1.0):
            raise ValueError(f"{name}: float grey pixels must lie in [0, 1], found {values.min()} to {values.max()}.")
        return Image.fromarray(np.round(values * 255).astype(np.uint8))
    return Image.fromarray((np.clip(values, 0, 65535).astype(np.uint16) >> 8).astype(np.uint8))


__all__ = ["array_to_tensor", "describe_source", "image_size", "load_image", "rgb_planes", "source_path"]
