"""How checkpoints are measured, compared, and trained several times."""

import csv
import itertools

import numpy as np
import pytest
from dataset_builders import write_koniq10k, write_koniq10k_without_sets
from script_runs import TINY_FLAGS, load_script, read_json, run_in_process
from support import tiny_model, tiny_processor

from charm_hf.training import evaluation


SIZES = {"train": 8, "validation": 3, "test": 6}


@pytest.mark.parametrize(
    ("write", "threshold", "score_range"),
    [(write_koniq10k, 37.5, [0, 100]), (write_koniq10k_without_sets, 2.5, [1, 5])],
    ids=["file a", "file b"],
)
def test_a_perfect_released_koniq_checkpoint_is_perfect_on_either_file(
    tmp_path, monkeypatch, write, threshold, score_range
):
    """The released training divides a MOS from 1 to 5 by 5, and calls a photo good above 2.5."""
    write(tmp_path / "data", SIZES)
    model = tiny_model(dataset=None, dataset_name="koniq10k", score_range=(0, 5))
    model.save_pretrained(tmp_path / "released")
    tiny_processor(model).save_pretrained(tmp_path / "released")
    low, high = score_range

    def perfect(model, loader, accelerator):
        rated = np.array(loader.dataset.dataset["score"][:])
        return evaluation.Predictions(model.config, (1 + 4 * (rated - low) / (high - low)) / 5)

    monkeypatch.setattr(evaluation, "predict", perfect)
    flags = [
        "--model_name_or_path",
        tmp_path / "released",
        "--dataset_name",
        "koniq10k",
        "--data_dir",
        tmp_path / "data",
    ]
    run_in_process("evaluate_model", *flags, "--num_workers", "0", "--output_dir", tmp_path / "test")
    report = read_json(tmp_path / "test" / "metrics.json")
    assert (report["score_range"], report["accuracy_threshold"]) == (score_range, threshold)
    found = {name: entry["value"] for name, entry in report["metrics"].items()}
    assert found == pytest.approx({"plcc": 1, "srcc": 1, "acc": 1, "mae": 0, "mse": 0}, abs=1e-9)


@pytest.fixture(scope="module")
def evaluations(checkpoint, photo_table, tmp_path_factory):
    """One checkpoint, measured as it is and on less of each photo."""
    root = tmp_path_factory.mktemp("evaluations")
    flags = [
        "--model_name_or_path",
        checkpoint,
        "--dataset_name",
        "csv",
        "--data_dir",
        photo_table,
        "--split",
        "train",
    ]
    flags += ["--num_workers", "0", "--bootstrap_samples", "10"]
    run_in_process("evaluate_model", *flags, "--output_dir", root / "whole")
    less = ["--processor", "{max_num_patches: 6, overflow: resize}", "--predictions_format", "parquet"]
    run_in_process("evaluate_model", *flags, *less, "--output_dir", root / "less")
    run_in_process("evaluate_model", *flags, "--fold", "0", "--output_dir", root / "fold")
    run_in_process("evaluate_model", *flags, "--group_column", "kind", "--output_dir", root / "series")
    return root


def test_the_order_within_series_is_measured(evaluations):
    found = read_json(evaluations / "series" / "metrics.json")["metrics"]
    rows = list(csv.DictReader((evaluations / "series" / "predictions.csv").open()))
    pairs = [
        (float(one["predicted_score"]) > float(other["predicted_score"]))
        for one, other in itertools.permutations(rows, 2)
        if int(one["image_id"].split(".")[0]) % 2 == int(other["image_id"].split(".")[0]) % 2  # of one kind
        and float(one["score"]) > float(other["score"])
    ]
    assert found["pair_accuracy"]["value"] == pytest.approx(sum(pairs) / len(pairs))
    assert 0 <= found["series_top1"]["interval"][0] <= found["series_top1"]["interval"][1] <= 1
    assert found.keys() - read_json(evaluations / "whole" / "metrics.json")["metrics"].keys() == {
        *("pair_accuracy", "series_top1")
    }


def test_two_checkpoints_are_compared_on_the_same_photos(evaluations, tmp_path, capsys):
    compare = load_script("compare_models").main
    compare([str(evaluations / "whole"), str(evaluations / "less"), "--output", str(tmp_path / "found.json")])
    found, printed = read_json(tmp_path / "found.json"), capsys.readouterr().out
    for name, entry in found.items():
        whole, less = (read_json(evaluations / side / "metrics.json")["metrics"][name] for side in ("whole", "less"))
        assert entry["difference"] == pytest.approx(whole["value"] - less["value"], abs=1e-6)
        assert entry["low"] <= entry["difference"] <= entry["high"]
    assert "PLCC" in printed
    compare([str(evaluations / "whole"), str(evaluations / "whole")])
    assert "differ" not in capsys.readouterr().out


def test_checkpoints_measured_on_other_photos_are_not_compared(evaluations):
    with pytest.raises(SystemExit, match="measured on other photos"):
        load_script("compare_models").main([str(evaluations / "whole"), str(evaluations / "fold")])


def test_a_run_several_times_is_a_row_each_and_one_summary(photo_table, tmp_path, monkeypatch):
    """In this process; `accelerate launch` does the same."""
    script = load_script("train_repeatedly")
    launched = []

    def launch(name, num_processes, *flags):
        launched.append(name)
        run_in_process(name, *flags)

    monkeypatch.setattr(script, "launch", launch)
    flags = ["--dataset_name", "csv", "--data_dir", photo_table, *TINY_FLAGS, "--num_train_epochs", "1"]
    own = ["--train_split", "train+validation", "--folds", "2", "--seeds", "3", "4", "--output_dir", tmp_path / "runs"]
    script.main([str(flag) for flag in [*own, *flags]])
    rows = list(csv.DictReader((tmp_path / "runs" / "results.csv").open()))
    assert [(row["seed"], row["fold"], row["images"]) for row in rows] == [
        (seed, fold, "12") for seed in "34" for fold in "01"
    ]
    summary = read_json(tmp_path / "runs" / "summary.json")
    plcc = [float(row["plcc"]) for row in rows]
    assert summary["plcc"] == pytest.approx({"mean": np.mean(plcc), "std": np.std(plcc, ddof=1), "runs": 4})
    held_out = [
        {
            row["image_id"]
            for row in csv.DictReader((tmp_path / "runs" / f"seed-3-fold-{k}" / "test" / "predictions.csv").open())
        }
        for k in (0, 1)
    ]
    assert not held_out[0] & held_out[1]
    assert read_json(tmp_path / "runs" / "seed-3-fold-0" / "run.json")["flags"]["metric_for_best_model"] == "last"
    assert launched == ["train", "evaluate_model"] * 4
    script.main([str(flag) for flag in [*own, *flags]])
    assert len(launched) == 8  # nothing is done twice


def test_seeds_give_other_splits_where_there_are_no_official_ones(tmp_path, monkeypatch):
    from dataset_builders import write_spaq

    write_spaq(tmp_path / "data", {"train": 16, "validation": 0, "test": 4})
    script = load_script("train_repeatedly")
    monkeypatch.setattr(script, "launch", lambda name, num_processes, *flags: run_in_process(name, *flags))
    flags = ["--dataset_name", "spaq", "--data_dir", tmp_path / "data", *TINY_FLAGS, "--num_train_epochs", "1"]
    own = ["--seeds", "0", "1", "--output_dir", tmp_path / "runs", "--validation_split", "none"]
    script.main([str(flag) for flag in [*own, *flags]])
    hashes = [
        read_json(tmp_path / "runs" / f"seed-{seed}" / "test" / "metrics.json")["image_ids_sha256"] for seed in "01"
    ]
    assert hashes[0] != hashes[1]
