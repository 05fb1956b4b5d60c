"""Other encoders than DINOv2, through the commands that a user types: pretrained folder or distillation to a score."""

import csv
import json

import pytest
import torch
from safetensors.torch import load_file
from script_runs import run_in_process
from support import tiny_backbone_config
from transformers import AutoConfig, AutoModel
from typer.testing import CliRunner

from charm_hf import CharmForAestheticScoring, CharmImageProcessor
from charm_hf_cli import app


SMALL = {"hidden_size": 16, "patch_size": 4}
TEXT = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


class ColourTeacher(torch.nn.Module):
    """The mean colour of every 8×8 pixels: (B, 3, h/8, w/8)."""

    def forward(self, pixels):
        return torch.nn.functional.avg_pool2d(pixels, 8)


def charm_hf(*arguments):
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output


def start_with_siglip2(photo_table, folder):
    """Both towers and their processor, as they lie on the Hub."""
    vision = tiny_backbone_config("siglip2_vision_model", **SMALL).to_dict()
    AutoModel.from_config(AutoConfig.for_model("siglip2", vision_config=vision, text_config=TEXT)).save_pretrained(
        folder
    )
    stated = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3, "rescale_factor": 1 / 255}
    (folder / "preprocessor_config.json").write_text(json.dumps(stated))


def start_with_dinov3(photo_table, folder):
    """What is distilled into random weights."""
    backbone = json.dumps({"model_type": "dinov3_vit", **tiny_backbone_config("dinov3_vit", **SMALL).to_diff_dict()})
    run_in_process(
        "distill",
        *("--photos", photo_table / "images", "--teacher", f"{__name__}:ColourTeacher", "--teacher_dim", 3),
        *("--feature_cache", folder / "maps", "--output_dir", folder, "--processor", "{max_num_patches: 60}"),
        *("--min_longest_edge", 48, "--max_longest_edge", 64, "--num_workers", 0, "--per_device_train_batch_size", 4),
        *("--backbone", backbone, "--num_views", 8),
    )


@pytest.mark.slow
@pytest.mark.parametrize("start", [start_with_siglip2, start_with_dinov3])
def test_an_encoder_is_trained_and_its_model_scores_and_explains_photos(start, photo_table, tmp_path):
    run, source = tmp_path / "run", tmp_path / "source"
    source.mkdir()
    start(photo_table, source)
    run_in_process(
        "train",
        *("--model_name_or_path", source, "--dataset_name", "csv", "--data_dir", photo_table, "--output_dir", run),
        *("--processor", "{max_num_patches: 220}", "--num_workers", 0, "--per_device_train_batch_size", 4),
        *("--learning_rate", "1e-3", "--learning_rates", "{layer_decay: 0.8}", "--num_train_epochs", 1),
    )
    model, processor = CharmForAestheticScoring.from_pretrained(run), CharmImageProcessor.from_pretrained(run)
    if start is start_with_siglip2:
        assert (model.config.pooling, processor.image_std) == ("mean", [0.25] * 3)
        weights = load_file(source / "model.safetensors")
        name = "encoder.layers.0.self_attn.q_proj.weight"
        moved = model.charm.backbone.get_parameter(name) - weights[f"vision_model.{name}"]
        assert 0 < moved.abs().max() < 0.05  # trained from the pretrained weights
    photo = photo_table / "images" / "1.jpg"
    charm_hf("score", photo, "--model", run, "--output", tmp_path / "scores.csv")
    with (tmp_path / "scores.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert float(row["score"]) == pytest.approx(model(**processor(str(photo))).scores.item(), abs=1e-4)
    charm_hf("explain", photo, "--model", run, "--steps", 1, "-o", tmp_path / "explained.png")
    assert (tmp_path / "explained.png").stat().st_size > 10_000
