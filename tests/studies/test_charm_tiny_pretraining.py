"""`studies/charm_tiny/pretrain.py` as a user runs it, on a few made photos."""

import numpy as np
import pytest
import torch
from PIL import Image

from charm_hf import CharmForAestheticScoring, CharmImageProcessor
from studies.charm_tiny import pretrain


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    (folder / "images").mkdir()
    generator, rows = np.random.default_rng(0), ["image,split,c1,c2,c3"]
    for number in range(6):
        pixels = generator.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((80, 60)).save(folder / "images" / f"{number}.png")
        rows.append(f"{number}.png,train,1,2,{number}")
    (folder / "ratings.csv").write_text("\n".join(rows) + "\n")
    return folder


def flags(photos, output_dir, **changes):
    backbone = "{model_type: dinov2, image_size: 40, patch_size: 10, hidden_size: 16, num_hidden_layers: 1, "
    options = {
        "dataset_name": "csv",
        "dataset_options": "{score_range: [1, 3]}",
        "data_dir": photos,
        "backbone": backbone + "num_attention_heads: 2, mlp_ratio: 2}",
        "processor": "{do_resize: true, size: {longest_edge: 40}, max_num_patches: 16}",
        "num_words": 8,
        "num_workers": 0,
        "per_device_train_batch_size": 3,
        "num_train_epochs": 2,
        "output_dir": output_dir,
        **changes,
    }
    return [text for name, value in options.items() for text in (f"--{name}", str(value))]


def test_it_writes_a_checkpoint_that_training_can_start_from(photos, tmp_path):
    pretrain.main(flags(photos, tmp_path / "start"))
    model = CharmForAestheticScoring.from_pretrained(tmp_path / "start")
    processor = CharmImageProcessor.from_pretrained(tmp_path / "start")
    assert model.config.score_values == [1, 2, 3]
    assert model(**processor(Image.new("RGB", (80, 60), "red"))).scores.isfinite().all()


def test_the_same_seed_gives_the_same_weights_and_the_ratings_have_no_say(photos, tmp_path):
    pretrain.main(flags(photos, tmp_path / "first"))
    table = photos / "ratings.csv"
    rated = table.read_text()
    table.write_text(rated.replace(",1,2,", ",9,1,"))
    pretrain.main(flags(photos, tmp_path / "second"))
    table.write_text(rated)
    pretrain.main(flags(photos, tmp_path / "third", seed=1))
    first, second, third = (
        CharmForAestheticScoring.from_pretrained(tmp_path / name).state_dict() for name in ("first", "second", "third")
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["classifier.weight"], third["classifier.weight"])


def test_the_held_out_fold_is_not_looked_at(photos, tmp_path):
    args = pretrain.parse_args(flags(photos, tmp_path / "start", fold=0, num_folds=3))
    everything = pretrain.load_photos(pretrain.parse_args(flags(photos, tmp_path / "start")))
    kept = pretrain.load_photos(args)
    assert len(everything) == 6
    assert len(kept) == 4
    assert set(kept["image_id"]) < set(everything["image_id"])
