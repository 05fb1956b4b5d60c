"""What the papers' baselines see: crops, squares and one scale, in training and in evaluation."""

import random

import numpy as np
import pytest
import torch
from PIL import Image
from script_runs import BACKBONE, TINY_FLAGS, run_in_process

from charm_hf import CharmForAestheticScoring, CharmImageProcessor, load_aesthetic_dataset
from charm_hf.data.saliency_maps import SaliencyFolder
from charm_hf.training.batches import TokenizedDataset
from charm_hf.training.inputs import INPUT_KINDS, pad_to_square, random_square_crop, square_crop


@pytest.fixture
def photo():
    """A gradient, so that a pixel's value tells where it was."""
    columns = np.linspace(0, 255, 400, dtype=np.uint8)
    return Image.fromarray(np.broadcast_to(columns[None, :, None], (300, 400, 3)).copy())


def tokens_of(photo, kind, training):
    kind = INPUT_KINDS[kind]
    processor = CharmImageProcessor.for_dataset("ava", **kind.processor)
    prepare = kind.in_training if training else kind.in_evaluation
    image = photo if prepare is None else prepare(photo, random.Random(3))
    return processor(image, **(kind.train_processor if training else {}))


def test_the_standard_input_is_a_random_crop_in_training_and_the_middle_in_evaluation(photo):
    crops = [random_square_crop(photo, random.Random(seed)) for seed in range(20)]
    assert {crop.size for crop in crops} == {(224, 224)}
    assert len({np.asarray(crop).mean().round() for crop in crops}) > 5
    for training in (True, False):
        tokens = tokens_of(photo, "standard", training)
        assert tokens["scale_ids"].shape == (1, 256)
        assert tokens["spatial_shapes"].tolist() == [[[16, 16]]]
    middle = CharmImageProcessor(num_scales=1, overflow="keep")(square_crop(photo, 224))
    assert torch.allclose(tokens_of(photo, "standard", False)["pixel_values"], middle["pixel_values"], atol=0.05)


def test_a_padded_square_holds_the_whole_photo_between_black_bars(photo):
    square = np.asarray(pad_to_square(photo, 224))
    assert square.shape == (224, 224, 3)
    assert square[:28].max() == square[-28:].max() == 0
    assert square[100, -1].min() > 240
    assert tokens_of(photo, "padded", True)["pixel_values"].equal(tokens_of(photo, "padded", False)["pixel_values"])
    assert tokens_of(photo, "padded", False)["spatial_shapes"].tolist() == [[[16, 16]]]


def test_kept_aspect_is_one_scale_within_the_sequence(photo):
    tokens = tokens_of(photo, "kept_aspect", False)
    rows, columns = tokens["spatial_shapes"][0, 0].tolist()
    assert columns / rows == pytest.approx(4 / 3, rel=0.06)
    assert 450 < tokens["scale_ids"].shape[1] <= 512


@pytest.mark.parametrize("kind", ["standard", "padded", "kept_aspect"])
def test_a_baseline_trains_and_its_checkpoint_has_one_scale(kind, photo_table, tmp_path):
    # Patches of 16 pixels: with the usual 4, a square of 224 has 3,136 tokens.
    backbone = BACKBONE.replace("image_size: 16", "image_size: 32").replace("patch_size: 4", "patch_size: 16")
    flags = ["--dataset_name", "csv", "--data_dir", photo_table, *TINY_FLAGS, "--backbone", backbone]
    flags += ["--num_train_epochs", "1"]
    run_in_process("train", *flags, "--input", kind, "--output_dir", tmp_path / "run")
    assert CharmForAestheticScoring.from_pretrained(tmp_path / "run").config.num_scales == 1
    expected = "original" if kind == "standard" else "random" if kind == "padded" else "frequency"
    assert CharmImageProcessor.from_pretrained(tmp_path / "run").patch_selection == expected


@pytest.fixture
def maps(photo_table, tmp_path):
    """The left third of every photo is salient."""
    mask = np.zeros((72, 96), dtype=np.uint8)
    mask[:, :32] = 255
    for index in range(24):
        Image.fromarray(mask).save(tmp_path / f"{index}.png")
    return tmp_path


def test_regions_are_chosen_where_the_map_of_a_photo_says(photo_table, maps):
    processor = CharmImageProcessor(patch_size=4, max_num_patches=220, patch_selection="saliency")
    photos = TokenizedDataset(load_aesthetic_dataset("csv", photo_table), processor, saliency=SaliencyFolder(maps))
    item = photos[0, 0]
    fine = item["patch_positions"][item["scale_ids"] == 1]
    assert len(fine)
    assert fine[:, 1].max() < 32 / 4


def test_a_map_is_mirrored_with_its_photo(photo_table, maps):
    from charm_hf.training.augmentation import TrainingAugmentation

    processor = CharmImageProcessor(patch_size=4, max_num_patches=220, patch_selection="saliency")
    rows = load_aesthetic_dataset("csv", photo_table)
    mirrored = TrainingAugmentation(flip=1.0, rotation=0.0)
    item = TokenizedDataset(rows, processor, augmentation=mirrored, saliency=SaliencyFolder(maps))[0, 0]
    assert item["patch_positions"][item["scale_ids"] == 1][:, 1].min() >= (96 - 32) / 4


def test_saliency_without_maps_is_refused_before_a_photo_is_read(photo_table):
    processor = CharmImageProcessor(patch_selection="saliency")
    with pytest.raises(ValueError, match="--saliency_dir"):
        TokenizedDataset(load_aesthetic_dataset("csv", photo_table), processor)


def test_a_model_trains_and_is_measured_with_saliency_maps(photo_table, maps, tmp_path):
    flags = ["--dataset_name", "csv", "--data_dir", photo_table, "--saliency_dir", maps, "--num_workers", "0"]
    selection = "{patch_selection: saliency, max_num_patches: 220}"
    training = ["--train_processor", "{patch_selection: saliency, stochastic_selection: true}"]
    training += [*TINY_FLAGS, "--processor", selection, "--num_train_epochs", "1"]
    run_in_process("train", *flags, *training, "--output_dir", tmp_path / "run")
    measured = ["--model_name_or_path", tmp_path / "run", "--split", "validation", "--bootstrap_samples", "10"]
    run_in_process("evaluate_model", *flags, *measured, "--output_dir", tmp_path / "test")
    assert (tmp_path / "test" / "metrics.json").exists()
    with pytest.raises(ValueError, match="--saliency_dir"):
        run_in_process("evaluate_model", *flags[:4], *measured, "--output_dir", tmp_path / "without")
