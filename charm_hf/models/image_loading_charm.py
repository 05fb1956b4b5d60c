"""The one reader of images: every command, dataset and processor of the package sees pixels through `load_image`.

The rule, in order:

1. a file is opened if its format is in the one list, `image_formats_charm.FORMATS`;
2. an animation or multi-page file gives its first frame;
3. EXIF orientation is applied, if it stands before the pixels and can be read;
4. 16-bit grey keeps its high byte (as PIL itself does for 16-bit colour); float grey is taken as [0, 1];
5. transparency, also of a palette, is composed on white;
6. palette, grey, CMYK, YCbCr, LAB and HSV become RGB by PIL's own conversion; ICC profiles are not applied.

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
from PIL import Image, UnidentifiedImageError

from .image_formats_charm import (
    MAX_ASPECT_RATIO,
    MAX_IMAGE_PIXELS,
    MAX_PHOTO_BYTES,
    MIN_EDGE,
    decoding_bytes,
    open_image,
)
from .image_urls_charm import fetch_url, is_url


if TYPE_CHECKING:
    import torch  # imported where tensors are made, so that files are read without it

# EXIF orientation → how it is undone.
_TURNS = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}
# Where PIL keeps what says how an image is turned.
_EXIF_TAGS = ("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif")
# Pixels that are converted at once, so that a conversion takes no more memory than its result.
_STRIP_PIXELS = 2**21


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
    """Turn whatever a decoder raises at broken content into a `ValueError` that names the image."""
    try:
        yield
    except (FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except UnidentifiedImageError:
        raise ValueError(f"{name} is not an image that PIL can read.") from None
    except Image.DecompressionBombError as error:
        raise ValueError(f"{name} is too large: {error}") from None
    except Exception as error:
        if isinstance(error, ValueError) and str(error).startswith(name):
            raise
        raise ValueError(f"{name} cannot be decoded: {error or type(error).__name__}") from error


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
            _check_size(source, name)
            if on_size is not None:
                on_size(*_oriented_size(source))
            frame = _first_frame(source)
            return _to_rgb(frame, _orientation(frame), name)
        with _open(source, name) as image:
            orientation, whole = _orientation(image), image.size
            smallest = None if on_size is None else on_size(*_turned(image.size, orientation))
            if smallest is not None and image.format == "JPEG" and image.mode in ("RGB", "L"):
                image.draft(image.mode, _turned(smallest, orientation))
            if decoding_bytes(image, whole) > MAX_PHOTO_BYTES:
                raise ValueError(
                    f"{name} has {whole[0]}×{whole[1]} pixels: decoding so large a {image.format} file could take "
                    f"more than {MAX_PHOTO_BYTES / 1e9:g} GB of memory."
                )
            image.load()
            return _to_rgb(image, orientation, name)


def image_size(source: Any, *, name: str | None = None, input_data_format: str | None = None) -> tuple[int, int]:
    """Width and height in pixels after EXIF orientation, without decoding the pixels of a file.

    Args:
        source: what [`load_image`] and [`array_to_tensor`] take.
        name, input_data_format: as for these.

    Raises:
        FileNotFoundError, PermissionError, ValueError: as [`load_image`].
    """
    name = name or describe_source(source)
    if hasattr(source, "shape") and not isinstance(source, Image.Image):
        height, width = _array_size(source, name, input_data_format)
        return width, height
    with _errors_naming(name):
        if isinstance(source, Image.Image):
            return _oriented_size(source)
        with _open(source, name) as image:
            return _oriented_size(image)


def scorable_size(source: Any, *, name: str | None = None, input_data_format: str | None = None) -> tuple[int, int]:
    """[`image_size`] of a photo that is to be scored; every way to score asks here first.

    Raises:
        ValueError: also for a photo too small or too thin for its score to mean anything.
    """
    name = name or describe_source(source)
    width, height = image_size(source, name=name, input_data_format=input_data_format)
    short, long = sorted((width, height))
    if short < MIN_EDGE or long > MAX_ASPECT_RATIO * short:
        raise ValueError(
            f"{name} has {width}×{height} pixels: no score would mean anything below {MIN_EDGE} pixels on the shorter "
            f"side, or beyond {MAX_ASPECT_RATIO} times as long as wide."
        )
    return width, height


def rgb_planes(image: Image.Image, height: int, width: int) -> np.ndarray:
    """Pixels of an RGB image, (3, height, width) `uint8`, cropped or zero-padded at the right and the bottom.

    One band at a time, PIL packs pixels several times faster than whole ones.
    """
    planes = np.empty((3, height, width), dtype=np.uint8)
    planes[:, image.height :] = 0
    planes[:, :, image.width :] = 0
    for top, strip in _strips(image):
        rows = planes[:, top : top + strip.height, : image.width]
        for plane, band in zip(rows, "RGB", strict=True):
            pixels = np.frombuffer(strip.tobytes("raw", band), dtype=np.uint8).reshape(strip.height, strip.width)
            plane[:] = pixels[: len(plane), :width]
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

    _array_size(array, name, input_data_format)
    tensor = _as_tensor(array, name) if isinstance(array, np.ndarray) else array
    if tensor.is_complex() or tensor.is_quantized or tensor.layout != torch.strided or tensor.device.type == "meta":
        kind = f"{tensor.dtype}, {tensor.layout}, on {tensor.device}"
        raise ValueError(f"{name}: expected a dense tensor of whole or real numbers that is there, got {kind}.")
    if tensor.ndim == 2:
        tensor = tensor[None]
    elif not _is_channels_first(tensor, name, input_data_format):
        tensor = tensor.permute(2, 0, 1)
    return _three_channels(_check_values(tensor, name))


def _as_tensor(array: np.ndarray, name: str) -> torch.Tensor:
    import torch

    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        raise ValueError(f"{name}: expected an array of whole or real numbers, got {array.dtype}.")
    if array.dtype.kind == "u" and array.dtype.itemsize == 8:
        array = np.minimum(array, 2**62)  # which torch knows as a signed number
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))


def _array_size(array: Any, name: str, input_data_format: str | None) -> tuple[int, int]:
    """Height and width of an array or a tensor."""
    shape = tuple(array.shape)
    if len(shape) not in (2, 3):
        raise ValueError(f"{name}: expected an array of 2 or 3 dimensions, got shape {shape}.")
    if 0 in shape:
        raise ValueError(f"{name} is empty: shape {shape}.")
    if len(shape) == 2:
        return shape[0], shape[1]
    return shape[1:] if _is_channels_first(array, name, input_data_format) else shape[:2]


def _is_channels_first(tensor: Any, name: str, input_data_format: str | None) -> bool:
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
    if tensor.dtype == torch.uint16:
        return (tensor.int() >> 8).byte()
    if tensor.dtype in (torch.int8, torch.uint32, torch.uint64):
        tensor = tensor.long()  # torch does not compare the unsigned, nor the small with 255
    if tensor.is_floating_point():
        tensor = tensor.float()
    low, high = tensor.detach().aminmax()
    if tensor.is_floating_point():
        # NaN fails both comparisons, and so does infinity. A little overshoot of a resampling is let through.
        if not (low >= -0.1 and high <= 1.1):
            raise ValueError(
                f"{name}: float pixels must lie in [0, 1], found {low.item():.4g} to {high.item():.4g}. "
                "Give integers 0-255, or divide by 255 first."
            )
        return tensor
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
    inside = None
    if isinstance(source, dict):
        content, inside = source.get("bytes"), source.get("path")
        source = content if content is not None else source.get("path")
    if is_url(source):
        source = fetch_url(source)
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
        image = open_image(path)
    elif hasattr(source, "read"):
        image = open_image(source, inside)
    else:
        raise ValueError(
            f"{name}: expected a path, URL, bytes, file object, PIL image, NumPy array or torch tensor, got "
            f"{type(source).__name__}."
        )
    _check_size(image, name)
    return image


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


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8; upright where it cannot be read, since the pixels are good all the same."""
    if image.format == "TIFF":  # PIL turns it itself
        return 1
    try:
        # The base class's method, because a PNG's own one decodes all pixels in search of EXIF data behind them.
        found = Image.Image.getexif(image).get(0x0112, 1)
        return found if found in _TURNS else 1
    except Exception:  # PIL's parser raises whatever broken data makes it stumble on
        return 1


def _turned(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    return size if orientation < 5 else (size[1], size[0])


def _oriented_size(image: Image.Image) -> tuple[int, int]:
    return _turned(image.size, _orientation(image))


def _to_rgb(image: Image.Image, orientation: int, name: str) -> Image.Image:
    """Turn a loaded image, ours alone, into upright RGB."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = _converted(image, "L", lambda strip: _grey_to_8bit(strip, name))
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = _converted(image, "RGB", _on_white)
    if image.mode != "RGB":
        image = image.convert("RGB")
    if orientation == 1:
        return image
    image = image.transpose(Image.Transpose(_TURNS[orientation]))
    for tag in _EXIF_TAGS:  # or whoever is given the upright image would turn it again
        image.info.pop(tag, None)
    return image


def _strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """The image from top to bottom, in strips of bounded size, each with the row that it starts at."""
    rows = max(1, _STRIP_PIXELS // image.width)
    if rows >= image.height:
        yield 0, image
        return
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def _converted(image: Image.Image, mode: str, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """An image converted pixel by pixel, without a second whole copy underway."""
    result = Image.new(mode, image.size)
    for top, strip in _strips(image):
        result.paste(convert(strip), (0, top))
    return result


def _on_white(image: Image.Image) -> Image.Image:
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image).convert("RGB")


def _grey_to_8bit(image: Image.Image, name: str) -> Image.Image:
    values = np.asarray(image)
    if image.mode == "F":
        if not (values.min() >= 0.0 and values.max() <= 1.0):
            raise ValueError(f"{name}: float grey pixels must lie in [0, 1], found {values.min()} to {values.max()}.")
        return Image.fromarray(np.round(values * 255).astype(np.uint8))
    return Image.fromarray((np.clip(values, 0, 65535).astype(np.uint16) >> 8).astype(np.uint8))


__all__ = [
    "array_to_tensor",
    "describe_source",
    "image_size",
    "load_image",
    "rgb_planes",
    "scorable_size",
    "source_path",
]
