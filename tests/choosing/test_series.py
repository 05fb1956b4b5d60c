"""Which photos belong to one moment."""

import pytest
from camera_photos import save_taken, scene
from PIL import Image, ImageFilter

from charm_hf.choosing.series import find_series, look_at


@pytest.fixture(autouse=True)
def _imagehash():
    pytest.importorskip("imagehash", reason="needs the extra `charm-hf[photos]`")


def series_of(*files, **options):
    return find_series([look_at(file) for file in files], **options)


def test_a_burst_is_one_series_and_what_looks_unlike_is_not(tmp_path):
    burst = [
        save_taken(scene(1).crop((3 * n, 2 * n, 230, 150)), tmp_path / f"{n}.jpg", f"2024:05:01 23:59:5{n + 7}"[:19])
        for n in range(3)
    ]
    midnight = save_taken(scene(1).crop((1, 1, 231, 151)), tmp_path / "m.jpg", "2024:05:02 00:00:00.40")
    other = save_taken(scene(2), tmp_path / "o.jpg", "2024:05:02 00:00:01")
    assert series_of(*burst, midnight, other, None) == [0, 0, 0, 0, 4, 5]
    assert series_of(burst[0], other, seconds=10**6) == [0, 1]


def test_another_camera_or_a_later_time_is_another_moment_unless_it_is_a_copy(tmp_path):
    first = save_taken(scene(3), tmp_path / "a.jpg", "2024:05:01 12:00:00")
    shifted = scene(3).crop((14, 10, 240, 160))
    phone = save_taken(shifted, tmp_path / "b.jpg", "2024:05:01 12:00:01", camera="Phone")
    later = save_taken(shifted, tmp_path / "c.jpg", "2024:05:01 12:00:09")
    small = tmp_path / "d.png"
    scene(3).resize((180, 120)).save(small)
    found = series_of(first, phone, later, small)
    assert found[0] == found[3] == 0
    assert found[1] == found[2] == 1  # the very same picture, saved twice
    assert series_of(first, phone) == [0, 1]


def test_softness_and_lost_shadows_and_highlights_are_told(tmp_path):
    sharp = save_taken(scene(4), tmp_path / "sharp.png")
    soft = save_taken(scene(4).filter(ImageFilter.GaussianBlur(2)), tmp_path / "soft.png")
    burnt = save_taken(scene(4).point(lambda value: min(255, 2 * value)), tmp_path / "burnt.png")
    black = save_taken(Image.new("RGB", (60, 40)), tmp_path / "black.png")
    sharpest = look_at(sharp).sharpness
    assert look_at(sharp).flags(sharpest) == []
    assert look_at(soft).flags(sharpest)[0].startswith("soft (")
    assert any("highlights" in flag for flag in look_at(burnt).flags(sharpest))
    assert "100% lost in shadows" in look_at(black).flags(sharpest)


def test_what_cannot_be_read_is_not_seen(tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no photo")
    assert look_at(tmp_path / "broken.jpg") is None
    assert look_at(tmp_path / "none.jpg") is None
