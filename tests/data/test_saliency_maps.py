import pickle

import numpy as np
import pytest
from PIL import Image

from charm_hf.data.saliency_maps import SaliencyFolder


def write(path, size=(6, 4), value=200):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, value).save(path)


def test_a_photo_finds_the_map_of_its_name_whatever_the_suffix(tmp_path):
    write(tmp_path / "sea.png", value=1)
    write(tmp_path / "953619.png", value=2)
    write(tmp_path / "v1.5.png", value=3)
    maps = SaliencyFolder(tmp_path)
    for name, value in (("sea.jpg", 1), ("SEA.JPEG", 1), ("953619", 2), ("v1.5", 3), ("v1.5.jpg", 3)):
        assert np.unique(maps(name, (6, 4))).tolist() == [value]


def test_a_map_in_the_same_inner_folder_counts_before_one_at_the_top(tmp_path):
    write(tmp_path / "sea.png", value=1)
    write(tmp_path / "b" / "sea.png", value=2)
    maps = SaliencyFolder(tmp_path)
    assert [np.asarray(maps(name, (6, 4))).max() for name in ("a/sea.jpg", "b/sea.jpg", "b\\sea.jpg")] == [1, 2, 2]


def test_maps_may_lie_as_the_photos_do_from_any_folder_on(tmp_path):
    write(tmp_path / "maps" / "4" / "sea.png", value=1)
    write(tmp_path / "maps" / "sea.png", value=2)
    write(tmp_path / "photos" / "sea.jpg", value=3)
    maps = SaliencyFolder(tmp_path / "maps")
    names = (f"{tmp_path}/photos/4/sea.jpg", f"{tmp_path}/photos/5/sea.jpg", "../photos/sea.jpg")  # no photo is a map
    assert [np.asarray(maps(name, (6, 4))).max() for name in names] == [1, 2, 2]


def test_maps_go_to_other_processes(tmp_path):
    write(tmp_path / "sea.png", value=1)
    assert np.asarray(pickle.loads(pickle.dumps(SaliencyFolder(tmp_path)))("sea.jpg", (6, 4))).max() == 1


def test_a_smaller_map_of_the_same_shape_is_brought_to_the_size_of_its_photo(tmp_path):
    mask = np.zeros((4, 6), dtype=np.uint8)
    mask[:2] = 255
    Image.fromarray(mask).save(tmp_path / "sea.png")
    found = np.asarray(SaliencyFolder(tmp_path)("sea.jpg", (60, 40)))
    assert found.shape == (40, 60)
    assert set(np.unique(found)) == {0, 255}  # a mask stays one
    assert found[:20].min() == 255


def test_what_is_missing_broken_or_of_another_shape_is_named(tmp_path):
    write(tmp_path / "sea.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    maps = SaliencyFolder(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no saliency map for 'moon\.jpg', such as moon\.png"):
        maps("moon.jpg", (6, 4))
    with pytest.raises(ValueError, match=r"another shape \(6×4 pixels\) than its photo 'sea\.jpg' \(4×6\)"):
        maps("sea.jpg", (4, 6))
    with pytest.raises(ValueError, match="cannot be read"):
        maps("broken.jpg", (6, 4))
    with pytest.raises(FileNotFoundError, match="saliency maps"):
        SaliencyFolder(tmp_path / "none")
