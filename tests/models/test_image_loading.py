"""Every kind of picture file becomes the RGB pixels that a person sees, or an error that names it."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support import photo_path

from charm_hf.models import image_loading_charm
from charm_hf.models.image_loading_charm import array_to_tensor, image_size, load_image


RED = (255, 0, 0)


def encode(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=format, **options)
    return buffer.getvalue()


def gradient(mode: str = "RGB") -> Image.Image:
    ramp = np.arange(32 * 48, dtype=np.uint32).reshape(32, 48)
    return Image.fromarray(np.stack([ramp % 256, ramp // 6 % 256, 255 - ramp % 256], -1).astype(np.uint8)).convert(
        mode
    )


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    upright = gradient()
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # PIL's transposition that stores a photo under an orientation
    stored = upright if orientation == 1 else upright.transpose(Image.Transpose(undo[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encode(stored, "PNG", exif=exif)

    assert np.array_equal(np.asarray(load_image(content)), np.asarray(upright))
    assert image_size(content) == upright.size


def test_transparency_is_composed_on_white() -> None:
    half_red = Image.new("RGBA", (4, 4), (255, 0, 0, 128))
    assert load_image(half_red).getpixel((0, 0)) == (255, 127, 127)
    clear = Image.new("LA", (4, 4), (0, 0))
    assert load_image(clear).getpixel((0, 0)) == (255, 255, 255)
    palette = Image.new("RGB", (4, 4), RED).convert("P", palette=Image.Palette.ADAPTIVE)
    content = encode(palette, "PNG", transparency=palette.getpixel((0, 0)))
    assert load_image(content).getpixel((0, 0)) == (255, 255, 255)


def test_16_bit_grey_keeps_its_high_byte() -> None:
    values = np.array([[0, 255, 256], [0x1234, 0x80FF, 65535]], dtype=np.uint16)
    content = encode(Image.fromarray(values), "PNG")
    assert np.asarray(load_image(content))[..., 0].tolist() == [[0, 0, 1], [0x12, 0x80, 255]]
    assert array_to_tensor(values, "array")[0].tolist() == [[0, 0, 1], [0x12, 0x80, 255]]


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "YCbCr", "HSV", "LAB"])
def test_other_modes_become_rgb_by_pils_own_conversion(mode: str) -> None:
    image = gradient("RGB").convert(mode) if mode != "LAB" else Image.new("LAB", (5, 5), (128, 10, 20))
    assert np.array_equal(np.asarray(load_image(image)), np.asarray(image.convert("RGB")))


def test_an_animation_gives_its_first_frame_and_is_left_where_it_stood() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, (0, 255, 0), (0, 0, 255))]
    content = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert load_image(content).getpixel((0, 0)) == RED
    opened = Image.open(io.BytesIO(content))
    opened.seek(2)
    assert load_image(opened).getpixel((0, 0)) == RED
    assert opened.tell() == 2


def test_all_ways_to_hand_over_a_file_give_the_same_pixels(tmp_path: Path) -> None:
    path = tmp_path / "photo with spaces.jpg"
    Image.open(photo_path("coffee")).save(path, quality=90)
    loaded = Image.open(path)
    loaded.load()
    sources = [
        str(path), path, path.read_bytes(), io.BytesIO(path.read_bytes()), Image.open(path), loaded,
        {"path": str(path), "bytes": None}, {"path": None, "bytes": path.read_bytes()},
    ]  # fmt: skip
    expected = np.asarray(Image.open(path).convert("RGB"))
    for source in sources:
        assert np.array_equal(np.asarray(load_image(source)), expected)


def test_the_callers_image_is_never_changed() -> None:
    image = Image.new("RGBA", (6, 4), (10, 20, 30, 40))
    before = (image.mode, image.size, image.tobytes())
    load_image(image).putpixel((0, 0), RED)
    assert (image.mode, image.size, image.tobytes()) == before


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "zero bytes"),
        (b"not an image at all", "not an image"),
        (encode(Image.open(photo_path("coffee")), "JPEG")[:5000], "cannot be decoded"),
    ],
)
def test_a_broken_file_is_an_error_that_names_it(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "broken.jpg"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"broken.jpg.*{reason}"):
        load_image(path)


@pytest.mark.parametrize("read", [load_image, image_size])
def test_a_file_beyond_pils_own_limit_is_an_error_that_names_it(read, monkeypatch: pytest.MonkeyPatch) -> None:
    content = encode(Image.new("1", (2000, 1000)), "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500_000)
    with pytest.raises(ValueError, match="bomb.png is too large"):
        read(content, name="bomb.png")


def test_the_largest_photo_is_the_largest_that_pil_opens() -> None:
    assert image_loading_charm.MAX_IMAGE_PIXELS == 2 * Image.MAX_IMAGE_PIXELS


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere.jpg"):
        load_image(tmp_path / "nowhere.jpg")
    with pytest.raises(IsADirectoryError, match="folder"):
        load_image(tmp_path)


def test_a_decompression_bomb_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    content = encode(Image.new("1", (2000, 1000)), "PNG")
    monkeypatch.setattr(image_loading_charm, "MAX_IMAGE_PIXELS", 1_000_000)
    with pytest.raises(ValueError, match="2000×1000 pixels"):
        load_image(content, name="bomb.png")


def test_a_draft_decodes_a_jpeg_no_smaller_than_asked() -> None:
    content = encode(Image.open(photo_path("coffee")), "JPEG")
    assert load_image(content, on_size=lambda width, height: (300, 200)).size == (300, 200)
    assert load_image(content, on_size=lambda width, height: (301, 200)).size == (600, 400)
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side
    content = encode(Image.open(photo_path("coffee")), "JPEG", exif=exif)
    assert load_image(content, on_size=lambda width, height: (200, 300)).size == (200, 300)


def test_arrays_are_read_in_either_layout_and_range() -> None:
    pixels = np.asarray(gradient())
    expected = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
    assert torch.equal(array_to_tensor(pixels, "a"), expected)
    assert torch.equal(array_to_tensor(pixels.transpose(2, 0, 1), "a"), expected)
    assert torch.equal(array_to_tensor(expected, "a"), expected)
    as_float = array_to_tensor(pixels.astype(np.float64) / 255, "a")
    assert as_float.dtype == torch.float32
    assert torch.allclose(as_float, expected / 255)
    assert array_to_tensor(pixels[..., 0], "a").shape == (3, 32, 48)
    ambiguous = np.zeros((3, 5, 3), dtype=np.uint8)
    assert array_to_tensor(ambiguous, "a").shape == (3, 5, 3)
    assert array_to_tensor(ambiguous, "a", "channels_last").shape == (3, 3, 5)
    transparent = np.zeros((4, 4, 4), dtype=np.uint8)
    assert array_to_tensor(transparent, "a").unique().tolist() == [255]


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros((5, 5, 7)), "channels"),
        (np.zeros((2, 3, 4, 5)), "dimensions"),
        (np.zeros((0, 5, 3), np.uint8), "empty"),
        (np.full((4, 4), np.nan), "nan"),
        (np.full((4, 4), 200.0), r"\[0, 1\]"),
        (np.full((4, 4), -3, np.int64), "0-255"),
    ],
)
def test_an_impossible_array_is_an_error_that_says_what_was_found(array: np.ndarray, reason: str) -> None:
    with pytest.raises(ValueError, match=f"image 7.*{reason}"):
        array_to_tensor(array, "image 7")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_named(tmp_path: Path) -> None:
    path = tmp_path / "secret.png"
    gradient().save(path)
    path.chmod(0)
    with pytest.raises(PermissionError, match="secret.png"):
        load_image(path)


def test_a_url_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from http.server import HTTPServer, SimpleHTTPRequestHandler
    from threading import Thread

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    gradient().save(tmp_path / "photo.png")

    class Quiet(SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(tmp_path))

        def log_message(self, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Quiet) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        base = f"http://127.0.0.1:{server.server_port}"
        assert np.array_equal(np.asarray(load_image(f"{base}/photo.png")), np.asarray(gradient()))
        with pytest.raises(ValueError, match="status 404"):
            load_image(f"{base}/nothing.png")
        server.shutdown()
