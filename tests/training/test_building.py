import numpy as np
import pytest
import torch
from support import tiny_backbone_config, tiny_model, tiny_processor

from charm_hf import CharmConfig
from charm_hf.models.scores_charm import percentile_of_score
from charm_hf.training.building import build_model, build_processor, label_column, score_quantiles


HEAD = {"dataset_name": "mine", "score_range": (1, 5), "score_values": (1, 2, 3, 4, 5)}
COLUMNS = ["image", "score", "distribution"]


def config(**head):
    return CharmConfig(backbone_config=tiny_backbone_config("dinov2"), **head)


@pytest.mark.parametrize(
    ("loss", "head", "columns", "expected"),
    [
        ("auto", HEAD, COLUMNS, "distribution"),
        ("auto", HEAD, COLUMNS[:2], "score"),
        ("auto", {}, COLUMNS, "score"),
        ("mse", HEAD, COLUMNS, "score"),
        ("emd", HEAD, COLUMNS, "distribution"),
    ],
)
def test_the_loss_decides_which_labels_are_read(loss, head, columns, expected):
    assert label_column(loss, config(**head), columns) == expected


@pytest.mark.parametrize(("head", "columns"), [({}, COLUMNS), (HEAD, COLUMNS[:2])])
def test_emd_needs_distributions_on_both_sides(head, columns):
    with pytest.raises(ValueError, match="EMD compares distributions"):
        label_column("emd", config(**head), columns)


def test_a_model_starts_from_one_thing():
    backbone = tiny_backbone_config("vit").to_dict()
    with pytest.raises(ValueError, match="either a checkpoint"):
        build_model("somewhere", backbone, HEAD)
    with pytest.raises(ValueError, match="either a checkpoint"):
        build_model(None, None, HEAD)


def test_a_backbone_from_a_config_gets_the_head_and_scales_asked_for():
    backbone = {
        "model_type": "vit",
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "patch_size": 8,
    }
    model = build_model(None, backbone, HEAD, num_scales=3)
    assert model.config.num_labels == 5
    assert (model.config.num_scales, model.config.patch_size, model.config.dataset_name) == (3, 8, "mine")
    assert build_processor(None, model.config, None, {"max_num_patches": 77}).num_scales == 3


def test_a_warm_start_keeps_a_head_of_the_same_shape_and_its_processor(tmp_path):
    old = tiny_model("dinov2", dataset=None, **HEAD)
    old.save_pretrained(tmp_path)
    tiny_processor(old, max_num_patches=99).save_pretrained(tmp_path)
    new = build_model(str(tmp_path), None, {**HEAD, "dataset_name": "other"}, num_scales=3)
    assert torch.equal(new.classifier.weight, old.classifier.weight)
    assert (new.config.num_scales, new.config.dataset_name) == (2, "other")
    assert build_processor(str(tmp_path), new.config, None, {}).max_num_patches == 99


def test_a_published_dataset_gives_its_processor_and_parameters_win():
    processor = build_processor(None, config(), "spaq", {"max_num_patches": 50})
    assert (processor.size, processor.max_num_patches, processor.patch_size) == ({"longest_edge": 1024}, 50, 14)


def test_pixels_are_normalized_as_the_backbone_was_pretrained(tmp_path):
    model = tiny_model("dinov2", dataset=None, **HEAD)
    assert build_processor(None, model.config, "ava", {}).image_mean == pytest.approx([0.485, 0.456, 0.406])
    vit = tiny_model("vit", dataset=None, **HEAD)
    assert build_processor(None, vit.config, "ava", {}).image_mean == [0.5, 0.5, 0.5]
    (tmp_path / "preprocessor_config.json").write_text(
        '{"image_processor_type": "ViTImageProcessor", "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}'
    )
    tiny_backbone_config("dinov2").save_pretrained(tmp_path)
    for dataset in ("ava", None):
        processor = build_processor(str(tmp_path), model.config, dataset, {})
        assert (processor.image_mean, processor.image_std) == ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5])
    assert build_processor(str(tmp_path), model.config, "ava", {"image_mean": [0.1, 0.2, 0.3]}).image_mean[0] == 0.1


def test_quantiles_of_the_ratings_tell_the_percentile_of_a_score():
    quantiles = score_quantiles(np.linspace(2, 4, 1001))
    assert len(quantiles) == 101
    assert percentile_of_score(2.5, quantiles) == pytest.approx(25, abs=0.1)
