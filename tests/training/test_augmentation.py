import random

import numpy as np
import pytest
from PIL import Image

from charm_hf.training.augmentation import (
    TrainingAugmentation,
    random_crop,
    random_horizontal_flip,
    random_right_angle_rotation,
)


@pytest.fixture
def photo():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def same(first, second):
    return first.size == second.size and first.tobytes() == second.tobytes()


def test_a_flip_mirrors_left_and_right(photo):
    flipped = random_horizontal_flip(photo, 1.0, random.Random(0))
    assert np.array_equal(np.asarray(flipped), np.asarray(photo)[:, ::-1])
    assert random_horizontal_flip(photo, 0.0, random.Random(0)) is photo


def test_rotations_are_by_90_180_and_270_degrees_and_never_by_none(photo):
    turned = {random_right_angle_rotation(photo, 1.0, random.Random(seed)).tobytes() for seed in range(40)}
    expected = {np.rot90(np.asarray(photo), turns).tobytes() for turns in (1, 2, 3)}
    assert turned == expected


def test_a_crop_keeps_the_shape_and_at_least_the_area_asked_for(photo):
    for seed in range(50):
        part = random_crop(photo, 0.5, random.Random(seed))
        assert part.width * part.height >= 0.47 * photo.width * photo.height  # sizes are rounded to whole pixels
        assert part.width / part.height == pytest.approx(photo.width / photo.height, rel=0.05)


def test_a_stretched_crop_still_has_the_aspect_ratio_of_the_photo(photo):
    for seed in range(50):
        part = random_crop(photo, 0.5, random.Random(seed), max_stretch=1.4)
        assert part.width / part.height == pytest.approx(photo.width / photo.height, rel=0.05)


def test_a_crop_of_the_whole_area_is_the_photo(photo):
    assert same(random_crop(photo, 1.0, random.Random(0)), photo)


@pytest.mark.parametrize(("area", "stretch"), [(0.0, 1.0), (1.5, 1.0), (0.5, 0.9)])
def test_a_crop_refuses_impossible_ranges(photo, area, stretch):
    with pytest.raises(ValueError, match="min_area"):
        random_crop(photo, area, random.Random(0), stretch)


def test_a_one_pixel_photo_survives_every_augmentation():
    photo = Image.new("RGB", (1, 1), "red")
    augment = TrainingAugmentation(rotation=1.0, min_crop_area=0.3, max_crop_stretch=1.5)
    assert all(augment(photo, seed=seed)[0].size == (1, 1) for seed in range(20))


def test_the_same_seed_gives_the_same_photo_and_another_seed_another(photo):
    augment = TrainingAugmentation(min_crop_area=0.5)
    assert same(augment(photo, seed="0-1-a.jpg")[0], augment(photo, seed="0-1-a.jpg")[0])
    assert len({augment(photo, seed=f"0-{epoch}-a.jpg")[0].tobytes() for epoch in range(10)}) > 5


def test_a_photo_and_its_map_are_augmented_alike(photo):
    augment = TrainingAugmentation(rotation=1.0, min_crop_area=0.5)
    for seed in range(10):
        first, second = augment(photo, photo.copy(), seed=seed)
        assert same(first, second)


def test_the_callers_photo_is_not_changed(photo):
    before = photo.tobytes()
    TrainingAugmentation(flip=1.0, rotation=1.0, min_crop_area=0.5, max_crop_stretch=1.3)(photo, seed=3)
    assert photo.tobytes() == before
