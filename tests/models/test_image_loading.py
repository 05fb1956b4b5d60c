"""Every kind of picture file becomes the RGB pixels that a person sees, or an error that names it."""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from image_files import KINDS, encoded, photo_like
from PIL import Image
from support import photo_path

from charm_hf.models import image_formats_charm, image_loading_charm
from charm_hf.models.image_loading_charm import array_to_tensor, image_size, load_image, scorable_size


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


# ---------------------------------------------------------------------------------------------------------------------
# What is opened, and what broken parts cost.


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_is_read_and_its_size_is_known_before(kind: str) -> None:
    content = encoded(kind, photo_like(60, 40))
    picture = load_image(content)
    assert picture.mode == "RGB"
    assert image_size(content) == picture.size == ((40, 60) if "turned" in kind else (60, 40))


def test_a_turned_tiff_is_upright_and_planned_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encode(gradient(), "TIFF", exif=exif)
    assert image_size(content) == load_image(content).size == (32, 48)


@pytest.mark.parametrize("name", ["program.jpg", "program.eps"])
def test_postscript_is_refused_whatever_it_is_called_and_starts_no_interpreter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    program = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n%%EndComments\nshowpage\n%%EOF\n"
    (tmp_path / name).write_bytes(program)
    with Image.open(tmp_path / name) as opened:
        assert opened.format == "EPS", "PIL opens it, so refusing it proves something"
    monkeypatch.setattr("subprocess.Popen", None)
    with pytest.raises(ValueError, match="program.*not an image"):
        load_image(tmp_path / name)


def test_only_the_listed_formats_are_opened() -> None:
    content = encode(gradient(), "PCX")
    with pytest.raises(ValueError, match="not an image"):
        load_image(content)


def test_a_large_file_of_a_format_that_is_read_whole_is_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_formats_charm, "MAX_WHOLE_BYTES", 10_000)
    path = tmp_path / "padded.webp"
    path.write_bytes(encode(gradient(), "WEBP") + bytes(10_000))
    with pytest.raises(ValueError, match=r"padded\.webp"):
        load_image(path)
    path.write_bytes(encode(gradient(), "PNG") + bytes(10_000))
    assert load_image(path).size == (48, 32)


def test_a_jpeg_in_several_scans_is_known_to_need_more_memory() -> None:
    photo = photo_like(64, 64)

    def bytes_a_pixel(content: bytes) -> float:
        return image_formats_charm.decoding_bytes(image_formats_charm.open_image(io.BytesIO(content)), (64, 64)) / 4096

    assert bytes_a_pixel(encode(photo, "JPEG", subsampling=0)) == 8
    assert bytes_a_pixel(encode(photo, "JPEG", subsampling=0, progressive=True)) == 10
    several = bytearray(encode(photo, "JPEG", subsampling=0))
    several[several.index(b"\xff\xda") + 4] = 1
    assert bytes_a_pixel(bytes(several)) == 10


def exif_of_one_entry(kind: int, value: int) -> bytes:
    """An orientation of this TIFF type and value."""
    return b"Exif\0\0II*\0" + struct.pack("<IHHHIII", 8, 1, 0x0112, kind, 1, value, 0)


BROKEN_EXIF = {
    "cut off": b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x05\x01",
    "no byte order": b"Exif\x00\x00XX\x00*\x00\x00\x00\x08",
    "a far directory": b"Exif\x00\x00II*\x00\xff\xff\xff\xff\x01\x00",
    "an orientation of 77": exif_of_one_entry(3, 77),
    "an orientation of text": exif_of_one_entry(2, ord("x")),
    "nothing": b"Exif\x00\x00",
}


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("broken", BROKEN_EXIF)
def test_broken_exif_costs_no_pixels(broken: str, format: str) -> None:
    photo = Image.new("RGB", (48, 32), (200, 60, 30))
    content = encode(photo, format, exif=BROKEN_EXIF[broken])
    picture = load_image(content)
    assert image_size(content) == picture.size == (48, 32)
    assert np.abs(np.asarray(picture, dtype=int) - np.asarray(photo)).mean() < 10


@pytest.mark.parametrize(
    "raised", [struct.error("unpack"), NotImplementedError("mode"), RuntimeError("x"), SyntaxError("broken PNG"),
               ZeroDivisionError(), KeyError("tile"), ValueError("buffer is not large enough"), MemoryError()],
    ids=lambda raised: type(raised).__name__,
)  # fmt: skip
def test_whatever_a_decoder_raises_is_an_error_that_names_the_image(
    raised: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(self: object) -> None:
        raise raised

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", load)
    with pytest.raises(ValueError, match="odd.png cannot be decoded"):
        load_image(encode(gradient(), "PNG"), name="odd.png")


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4, 3), complex),
        np.full((4, 4), None),
        np.array([["a"]]),
        np.full((4, 4, 3), 300, np.uint32),
        np.full((4, 4, 3), 2**63 + 5, np.uint64),
        torch.zeros(3, 4, 4, device="meta"),
        torch.zeros(3, 4, 4, dtype=torch.complex64),
        torch.zeros(3, 4, 4).to_sparse(),
    ],
    ids=["complex", "objects", "text", "uint32", "uint64", "meta", "complex tensor", "sparse"],
)
def test_an_array_that_holds_no_pixels_is_an_error_that_names_it(array: object) -> None:
    with pytest.raises(ValueError, match="image 7"):
        array_to_tensor(array, "image 7")


@pytest.mark.parametrize("dtype", ["uint32", "uint64", ">i4", ">u2", "int8"])
def test_whole_numbers_of_any_width_are_pixels(dtype: str) -> None:
    values = np.arange(105).reshape(5, 7, 3) * (256 if dtype == ">u2" else 1)
    assert array_to_tensor(values.astype(dtype), "a").flatten().sort().values.tolist() == list(range(105))


def test_a_photo_too_small_or_too_thin_has_no_size_to_score() -> None:
    for size in ((16, 16), (800, 16), (20, 1000)):
        assert scorable_size(Image.new("RGB", size)) == size
        assert scorable_size(np.zeros((size[1], size[0], 3), np.uint8)) == size
    for size in ((15, 15), (15, 700), (801, 16), (1, 2000)):
        with pytest.raises(ValueError, match=f"line.png has {size[0]}×{size[1]} pixels: no score"):
            scorable_size(Image.new("RGB", size), name="line.png")
