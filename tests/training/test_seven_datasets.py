"""The commands of docs/training.md, on miniature copies of the seven datasets."""

import re
from pathlib import Path

import numpy as np
import pyarrow.csv
import pytest
import torch
import yaml
from dataset_builders import BUILDERS
from huggingface_hub import ModelCard
from PIL import Image
from script_runs import EXAMPLES, finish_process, load_script, read_json, run_in_process, start_process
from transformers import Dinov2Config, Dinov2Model

from charm_hf import CharmForAestheticScoring, CharmImageProcessor
from charm_hf.data import split_hash
from charm_hf.models.presets_charm import DATASET_PRESETS


DOCS = EXAMPLES.parent / "docs" / "training.md"
SIZES = {"train": 8, "validation": 3, "test": 4}


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    """A tiny stand-in for facebook/dinov2-small, with its patch size."""
    folder = tmp_path_factory.mktemp("backbone") / "dinov2-tiny"
    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, mlp_ratio=2, image_size=70, patch_size=14
    )
    Dinov2Model(config).save_pretrained(folder)
    return folder


def commands(dataset):
    """Training and evaluation as the documentation has them: script and flags, for a folder of data."""
    line = re.search(
        rf"^accelerate launch examples/train\.py \S+ \S+/{dataset}\.yaml .* && .*$",
        DOCS.read_text("utf-8"),
        re.MULTILINE,
    )
    train, evaluate = (part.split("examples/", 1)[1].split() for part in line[0].split(" && "))
    return {"train": train[1:], "evaluate_model": evaluate[1:]}


def placed(flags, tmp_path):
    """Flags with the folders of a test in place of the documentation's."""
    configs = str(EXAMPLES / "configs")
    return [
        flag.replace("examples/configs", configs)
        .replace("data/", f"{tmp_path}/data/")
        .replace("runs/", f"{tmp_path}/runs/")
        for flag in flags
    ]


@pytest.mark.parametrize("dataset", sorted(BUILDERS))
def test_a_published_dataset_trains_evaluates_and_reloads(dataset, backbone, tmp_path):
    BUILDERS[dataset](tmp_path / "data" / dataset, SIZES)
    documented = commands(dataset)
    small = ["--model_name_or_path", str(backbone), "--num_train_epochs", "2", "--num_workers", "0"]
    run_in_process("train", *placed(documented["train"], tmp_path), *small)
    run_in_process("evaluate_model", *placed(documented["evaluate_model"], tmp_path), "--num_workers", "0")

    run, results = tmp_path / "runs" / dataset, tmp_path / "runs" / dataset / "test"
    assert len(read_json(run / "history.json")) == 2
    report = read_json(results / "metrics.json")
    assert {"plcc", "srcc", "acc", "mse", "mae"} <= report["metrics"].keys()
    assert ("emd_r2" in report["metrics"]) == (DATASET_PRESETS[dataset].score_values is not None)
    predictions = pyarrow.csv.read_csv(results / "predictions.csv")
    assert report["images"] == len(predictions) > 0
    assert set(report["left_out"].values()) == {0}
    assert report["image_ids_sha256"] == split_hash(predictions["image_id"].to_pylist())
    low, high = DATASET_PRESETS[dataset].score_range
    predicted = predictions["predicted_score"].to_numpy()
    assert ((low <= predicted) & (predicted <= high)).all()

    model = CharmForAestheticScoring.from_pretrained(run).eval()
    processor = CharmImageProcessor.from_pretrained(run)
    assert model.config.dataset_name == dataset
    assert processor.max_num_patches == DATASET_PRESETS[dataset].max_num_patches
    stem = Path(str(predictions["image_id"][0])).stem
    photo = next(path for path in (tmp_path / "data").rglob("*.jpg") if path.stem.endswith(stem))
    with torch.no_grad():
        score = model(**processor(Image.open(photo))).scores.item()
    assert score == pytest.approx(predicted[0], abs=1e-3 * (high - low))
    card = ModelCard.load(run / "README.md")
    assert {result.metric_type for result in card.data.eval_results} >= {"plcc", "srcc"}
    assert read_json(run / "run.json")["splits"]["validation"]["sha256"] in card.content
    assert f"--config {dataset}.yaml" in card.content
    assert str(EXAMPLES) not in card.content  # nor any other path of this machine


@pytest.mark.slow
def test_the_documented_command_runs_under_accelerate_launch(backbone, tmp_path):
    BUILDERS["baid"](tmp_path / "data" / "baid", SIZES)
    launch = ["-m", "accelerate.commands.launch", "--num_processes", "1"]
    for script, flags in commands("baid").items():
        more = ["--model_name_or_path", backbone, "--num_train_epochs", "1"] if script == "train" else []
        output = finish_process(
            start_process(*launch, EXAMPLES / f"{script}.py", *placed(flags, tmp_path), *more, "--num_workers", "1")
        )
    assert "PLCC" in output


def test_aadb_trains_with_its_attributes(backbone, tmp_path):
    BUILDERS["aadb"](tmp_path / "data" / "aadb", SIZES)
    flags = placed(commands("aadb")["train"], tmp_path)
    options = ["--dataset_options", "{attributes: true}", "--num_train_epochs", "1", "--num_workers", "0"]
    run_in_process("train", *flags, *options, "--model_name_or_path", backbone)
    config = CharmForAestheticScoring.from_pretrained(tmp_path / "runs" / "aadb").config
    assert (config.num_labels, config.num_attributes) == (12, 11)


@pytest.mark.parametrize("path", sorted((EXAMPLES / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_config_is_understood_and_the_command_line_wins(path):
    script = "train_mmlq" if path.stem.startswith("mmlq") else "train"
    args = load_script(script).parse_args(["--config", str(path), "--output_dir", "x", "--learning_rate", "3"])
    assert args.learning_rate == 3
    given = yaml.safe_load(path.read_text("utf-8"))
    assert args.per_device_train_batch_size == given["per_device_train_batch_size"]


@pytest.mark.parametrize("dataset", sorted(DATASET_PRESETS))
def test_the_config_of_a_published_dataset_is_the_published_recipe(dataset):
    path = EXAMPLES / "configs" / f"{dataset}.yaml"
    args = load_script("train").parse_args(["--config", str(path), "--output_dir", "x"])
    assert (args.dataset_name, args.model_name_or_path) == (dataset, "facebook/dinov2-small")
    assert (args.learning_rate, args.weight_decay, args.max_grad_norm) == (1e-5, 0.02, 1.0)
    assert (args.per_device_train_batch_size, args.num_train_epochs, args.classifier_dropout) == (16, 30, 0.1)
    assert (args.lr_scheduler_type, args.lr_scheduler_kwargs) == ("cosine_with_min_lr", {"min_lr": 1e-6})
    assert args.processor["overflow"] == "keep"  # every token at evaluation, a random part in training
    assert args.train_processor == {"patch_selection": "random", "overflow": "drop"}
    assert args.augmentation == {"flip": 0.5, "rotation": 0.5}
    assert (args.loss, args.metric_for_best_model) == ("auto", "plcc")


def test_a_checkpoint_is_measured_on_another_dataset_in_that_datasets_units(backbone, tmp_path):
    for dataset in ("ava", "aadb"):
        BUILDERS[dataset](tmp_path / "data" / dataset, SIZES)
    small = ["--model_name_or_path", backbone, "--num_train_epochs", "1", "--num_workers", "0"]
    run_in_process("train", *placed(commands("ava")["train"], tmp_path), *small)
    flags = placed(commands("aadb")["evaluate_model"], tmp_path)
    flags += [
        "--model_name_or_path",
        tmp_path / "runs" / "ava",
        "--predictions_format",
        "parquet",
        "--num_workers",
        "0",
    ]
    run_in_process("evaluate_model", *flags)
    results = Path(tmp_path / "runs" / "aadb" / "test")
    report = read_json(results / "metrics.json")
    assert (report["trained_on"], report["dataset"]) == ("ava", "aadb")
    assert "emd_r2" not in report["metrics"]
    table = pyarrow.parquet.read_table(results / "predictions.parquet")
    predicted, rated = table["predicted_score"].to_numpy(), table["score"].to_numpy()
    assert ((predicted >= 0) & (predicted <= 1)).all()
    assert report["metrics"]["mae"]["value"] == pytest.approx(np.abs(predicted - rated).mean())
    low, high = report["metrics"]["mae"]["interval"]
    assert low <= report["metrics"]["mae"]["value"] <= high


@pytest.mark.slow
def test_two_processes_count_each_photo_once(checkpoint, photo_table, tmp_path):
    common = ["--model_name_or_path", checkpoint, "--dataset_name", "csv", "--data_dir", photo_table]
    common += [
        "--split",
        "train",
        "--num_workers",
        "0",
        "--per_device_eval_batch_size",
        "3",
        "--fold",
        "0",
        "--folds",
        "{number: 3}",
    ]
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    finish_process(start_process(*launch, EXAMPLES / "evaluate_model.py", *common, "--output_dir", tmp_path / "two"))
    run_in_process("evaluate_model", *common, "--output_dir", tmp_path / "one")
    one, two = (pyarrow.csv.read_csv(tmp_path / name / "predictions.csv").to_pydict() for name in ("one", "two"))
    assert len(one["image_id"]) == len(set(one["image_id"])) == 6
    assert one["image_id"] == two["image_id"]
    assert one["predicted_score"] == pytest.approx(two["predicted_score"], abs=1e-5)
