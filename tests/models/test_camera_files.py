"""What phones, cameras and Photoshop write is read as the picture that a person sees."""

import io
import struct
import sys

import numpy as np
import pytest
from camera_photos import raw_file, scene
from image_files import encoded
from PIL import Image

from charm_hf.models.image_formats_charm import IMAGE_EXTENSIONS
from charm_hf.models.image_loading_charm import image_size, load_image


def difference(one, other):
    return np.abs(np.asarray(one, dtype=float) - np.asarray(other, dtype=float)).mean()


@pytest.mark.parametrize(("kind", "ending"), [("HEIC", "heic"), ("HEIC", "HIF"), ("AVIF", "avif")])
def test_a_phones_photo_is_opened_by_path_and_by_content(tmp_path, kind, ending):
    pytest.importorskip("pillow_heif", reason="needs the extra `charm-hf[photos]`")
    content = encoded(kind, scene(1))
    file = tmp_path / f"photo.{ending}"
    file.write_bytes(content)
    assert image_size(file) == (240, 160)
    assert difference(load_image(file), scene(1)) < 12
    assert load_image(content).tobytes() == load_image(file).tobytes()
    assert f".{ending}".lower() in IMAGE_EXTENSIONS


def test_a_turned_phones_photo_stands_upright(tmp_path):
    heif = pytest.importorskip("pillow_heif", reason="needs the extra `charm-hf[photos]`")
    exif = Image.Exif()
    exif[0x0112] = 6
    file = tmp_path / "photo.heic"
    heif.register_heif_opener()
    scene(1).save(file, exif=exif.tobytes(), quality=80)
    assert image_size(file) == (160, 240)
    assert difference(load_image(file), scene(1).transpose(Image.Transpose.ROTATE_270)) < 12


@pytest.mark.parametrize(("orientation", "turn"), [(1, None), (6, "ROTATE_270"), (8, "ROTATE_90"), (3, "ROTATE_180")])
def test_of_a_raw_file_the_preview_is_seen_upright(tmp_path, orientation, turn):
    pytest.importorskip("rawpy", reason="needs the extra `charm-hf[photos]`")
    preview = scene(2, 160, 120)
    jpeg = io.BytesIO()
    preview.save(jpeg, "JPEG", quality=95)
    file = tmp_path / "IMG_1.DNG"
    file.write_bytes(raw_file(jpeg.getvalue(), orientation))
    seen = load_image(file)
    expected = preview if turn is None else preview.transpose(Image.Transpose[turn])
    assert image_size(file) == seen.size == expected.size
    assert difference(seen, expected) < 5
    in_archive = {"bytes": file.read_bytes(), "path": "card.tar/IMG_1.DNG"}
    assert load_image(in_archive).tobytes() == seen.tobytes()


def test_a_raw_file_without_a_preview_or_a_forged_one_says_so(tmp_path):
    pytest.importorskip("rawpy", reason="needs the extra `charm-hf[photos]`")
    for name, content in {
        "bare.dng": raw_file(None),
        "forged.cr2": b"II*\0 no camera",
        "photo.nef": b"\xff\xd8",
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name}.*No preview can be read from this RAW file"):
            load_image(tmp_path / name)


def test_photoshops_flattened_picture_is_read(tmp_path):
    pixels = np.asarray(scene(3, 40, 24))
    header = b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, 24, 40, 8, 3)
    content = header + struct.pack(">IIIH", 0, 0, 0, 0) + pixels.transpose(2, 0, 1).tobytes()
    (tmp_path / "poster.psd").write_bytes(content)
    assert (np.asarray(load_image(tmp_path / "poster.psd")) == pixels).all()


@pytest.mark.parametrize(("name", "package"), [("photo.heic", "pillow_heif"), ("photo.dng", "rawpy")])
def test_without_the_extra_it_says_what_to_install(tmp_path, monkeypatch, name, package):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    content = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" if package == "pillow_heif" else raw_file(None)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name}.*pip install 'charm-hf\[photos\]'"):
        load_image(tmp_path / name)
