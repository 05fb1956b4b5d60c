"""`examples/distill.py` as a user runs it, with a teacher that knows the colours of a place."""

import numpy as np
import pytest
import torch
from PIL import Image
from script_runs import load_script, read_json, run_in_process, same_weights, weights
from torch import nn

from charm_hf import CharmForAestheticScoring, CharmImageProcessor
from charm_hf.training.teacher_maps import sample_map


class ColourTeacher(nn.Module):
    """The mean colour of every 8×8 pixels: (B, 3, h/8, w/8)."""

    seen = 0

    def forward(self, pixels):
        ColourTeacher.seen += 1
        return nn.functional.avg_pool2d(pixels, 8)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Eight photos of two colours each; the redder, the higher they are rated."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "images").mkdir()
    rows = ["image,split,c1,c2,c3"]
    for number in range(8):
        pixels = np.full((48, 64, 3), 30 * number, dtype=np.uint8)
        pixels[:, 32:, 1] = np.random.default_rng(number).integers(0, 256)
        Image.fromarray(pixels).save(folder / "images" / f"{number}.png")
        rows.append(f"{number}.png,train,{8 - number},1,{number + 1}")
    (folder / "ratings.csv").write_text("\n".join(rows) + "\n")
    return folder


BACKBONE = (
    "{model_type: vit, image_size: 64, patch_size: 8, hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1,"
    " num_attention_heads: 2}"
)
NEW = ("--backbone", BACKBONE, "--num_views", 480, "--saving_steps", 40)
RATED = ("--dataset_name", "csv", "--dataset_options", "{score_range: [1, 3]}")


def distil(photos, output_dir, *flags):
    run_in_process(
        "distill",
        *("--photos", photos / "images", "--teacher", f"{__name__}:ColourTeacher", "--teacher_dim", 3),
        *("--feature_cache", photos / "maps", "--output_dir", output_dir, "--processor", "{max_num_patches: 24}"),
        *("--min_longest_edge", 48, "--max_longest_edge", 64, "--num_workers", 0, "--per_device_train_batch_size", 4),
        *("--learning_rate", "5e-3", "--ema_decay", 0.9, *flags),
    )


@pytest.fixture(scope="module")
def distilled(photos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("distilled") / "checkpoint"
    distil(photos, folder, *NEW, "--data_dir", photos, *RATED)
    return folder


def test_the_student_learns_what_the_teacher_sees_at_each_place_and_what_it_would_rate(distilled):
    first, *_, last = read_json(distilled / "history.json")
    assert last["dense"] < 0.6 * first["dense"]
    assert last["pooled"] < 0.8 * first["pooled"]
    assert last["rating"] < first["rating"]


def test_it_leaves_a_checkpoint_that_training_starts_from_with_the_head_of_the_ratings(distilled):
    model = CharmForAestheticScoring.from_pretrained(distilled)
    processor = CharmImageProcessor.from_pretrained(distilled)
    assert model.config.score_values == [1, 2, 3]
    assert model(**processor(Image.new("RGB", (80, 60), "red"))).scores.isfinite().all()
    assert read_json(distilled / "run.json")["ridge_srcc"] > 0.5


def test_the_teacher_sees_each_photo_once_and_another_run_takes_what_it_saw(photos, distilled, tmp_path):
    seen = ColourTeacher.seen
    distil(photos, tmp_path / "again", *NEW, "--data_dir", photos, *RATED)
    assert ColourTeacher.seen == seen
    assert same_weights(distilled, tmp_path / "again")


def test_a_run_goes_on_from_a_checkpoint_and_the_held_out_fold_is_not_looked_at(photos, distilled, tmp_path):
    flags = ("--model_name_or_path", distilled, "--num_views", 8, "--data_dir", photos, *RATED)
    distil(photos / "maps", tmp_path, *flags, "--photos", tmp_path, "--fold", 0, "--folds", "{number: 4}")
    assert read_json(tmp_path / "run.json")["photos"] == 6
    moved = (
        weights(tmp_path)["charm.backbone.layernorm.weight"] - weights(distilled)["charm.backbone.layernorm.weight"]
    )
    assert 0 < moved.abs().max() < 0.1


def test_a_view_is_told_what_the_teacher_saw_at_its_own_place(photos, distilled):
    script = load_script("distill")
    crop = script.Crop(left=0.25, top=0.5, width=0.5, height=0.25, mirrored=True)
    assert crop.to_photo(np.array([[0.0, 0.0], [1.0, 1.0]])).tolist() == [[0.75, 0.5], [0.25, 0.75]]
    rows = np.arange(12, dtype=np.float32).reshape(3, 4, 1)
    found = sample_map(rows, np.array([[0.125, 0.5 / 3], [0.5, 0.5], [1.0, 1.0]]))
    assert found.ravel().tolist() == pytest.approx([0.0, 5.5, 11.0])


def test_muon_takes_the_matrices_of_the_layers_and_adamw_the_rest(photos, tmp_path):
    script = load_script("distill")
    flags = ["--photos", "x", "--teacher", "x", "--feature_cache", "x", "--num_views", "1", "--output_dir", "x"]
    args = script.parse_args([*flags, "--backbone", BACKBONE, "--optimizer", "muon"])
    model, _ = script.build_student(args, None)
    adamw, muon = script.build_optimizers(args, script.Distilled(model, 3, 1.0, args))
    matrices = {id(parameter) for group in muon.param_groups for parameter in group["params"]}
    others = {id(parameter) for group in adamw.param_groups for parameter in group["params"]}
    assert len(matrices) == 6
    assert not matrices & others
    assert torch.optim.Muon is type(muon)
