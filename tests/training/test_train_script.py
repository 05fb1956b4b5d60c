"""`examples/train.py` as a user runs it: runs that end, stop, go on, or refuse to start."""

import shutil
import subprocess
import sys

import pytest
import torch
from dataset_builders import save_photo, write_csv
from huggingface_hub import HfApi, ModelCard
from PIL import Image
from script_runs import (
    EXAMPLES,
    TINY_FLAGS,
    finish_process,
    load_script,
    read_json,
    run_in_process,
    same_weights,
    start_process,
    weights,
)
from support import tiny_model, tiny_processor

from charm_hf import CharmForAestheticScoring, CharmImageProcessor
from charm_hf.training import loop
from charm_hf.training.partition import load_training_parts
from charm_hf.training.run_state import find_state, saved_states


def flags_for(table, output, *more):
    return ["--dataset_name", "csv", "--data_dir", table, "--output_dir", output, *TINY_FLAGS, *more]


@pytest.fixture(scope="module")
def finished(photo_table, tmp_path_factory):
    """A finished run with everything random on."""
    output = tmp_path_factory.mktemp("finished") / "run"
    run_in_process("train", *flags_for(photo_table, output, "--ema_decay", "0.9", "--mixout", "0.2"))
    return output


def test_a_run_leaves_a_checkpoint_that_scores_photos(finished, photo_table):
    model = CharmForAestheticScoring.from_pretrained(finished)
    processor = CharmImageProcessor.from_pretrained(finished)
    inputs = processor(Image.open(photo_table / "images" / "1.jpg"))
    assert set(inputs["scale_ids"].flatten().tolist()) == {0, 1}  # regions were chosen
    assert 1 <= model(**inputs).scores.item() <= 5
    assert model.config.score_values == [1, 2, 3, 4, 5]
    assert processor.patch_selection == "frequency"


def test_a_run_leaves_history_curves_flags_and_split_hashes(finished):
    history, run = read_json(finished / "history.json"), read_json(finished / "run.json")
    assert [record["epoch"] for record in history] == [1, 2]
    assert {"train_loss", "eval_loss", "plcc", "srcc", "acc", "data_wait"} <= history[0].keys()
    assert Image.open(finished / "curves.png").width > 100
    assert run["splits"]["train"]["images"] == 16
    assert run["splits"]["validation"]["images"] == 8
    assert len(run["splits"]["validation"]["sha256"]) == 64


def test_the_best_epoch_is_the_one_kept(finished):
    history = read_json(finished / "history.json")
    best = max(history, key=lambda record: record["plcc"])["epoch"]
    assert same_weights(finished, finished / f"checkpoint-best-epoch-{best:04d}")


def test_the_checkpoint_knows_the_quantiles_of_the_training_ratings(finished):
    quantiles = CharmForAestheticScoring.from_pretrained(finished).config.score_quantiles
    assert len(quantiles) == 101
    assert 1 <= quantiles[0] <= quantiles[50] <= quantiles[100] <= 5
    assert quantiles == sorted(quantiles)


def test_a_second_run_with_the_same_seed_has_the_same_weights_and_another_seed_others(finished, photo_table, tmp_path):
    options = ("--ema_decay", "0.9", "--mixout", "0.2")
    run_in_process("train", *flags_for(photo_table, tmp_path / "same", *options))
    run_in_process("train", *flags_for(photo_table, tmp_path / "other", *options, "--seed", "1"))
    assert same_weights(finished, tmp_path / "same")
    assert not same_weights(finished, tmp_path / "other")


def test_data_workers_do_not_change_the_weights(finished, photo_table, tmp_path):
    options = ("--ema_decay", "0.9", "--mixout", "0.2", "--num_workers", "2")
    run_in_process("train", *flags_for(photo_table, tmp_path / "run", *options))
    assert same_weights(finished, tmp_path / "run")


@pytest.mark.parametrize("step", [1, 4, 7])
def test_an_interrupted_run_goes_on_to_the_same_weights(finished, photo_table, tmp_path, monkeypatch, step):
    flags = flags_for(
        photo_table, tmp_path / "run", "--ema_decay", "0.9", "--mixout", "0.2", "--checkpointing_steps", "1"
    )
    real_save = loop.save_state

    def save_and_stop(output_dir, accelerator, parts, progress, keep=None):
        real_save(output_dir, accelerator, parts, progress, keep)
        if progress.step == step:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop, "save_state", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        run_in_process("train", *flags)
    monkeypatch.undo()
    torch.manual_seed(12345)
    run_in_process("train", *flags, "--resume_from_checkpoint", "latest")
    assert same_weights(finished, tmp_path / "run")
    first, second = (read_json(folder / "history.json") for folder in (finished, tmp_path / "run"))
    assert [r["train_loss"] for r in first] == [r["train_loss"] for r in second]


def test_a_checkpoint_that_was_being_written_is_never_taken(finished, photo_table, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    newest = saved_states(tmp_path / "run")[-1]
    half = tmp_path / "run" / ".tmp-checkpoint-99999999"
    shutil.copytree(newest, half)
    (half / "model.safetensors").write_bytes(b"half")
    (tmp_path / "run" / "checkpoint-99999998").mkdir()
    for step, name in enumerate(("model.safetensors", "state.json"), start=99999996):
        broken = tmp_path / "run" / f"checkpoint-{step}"
        shutil.copytree(newest, broken)
        (broken / name).write_bytes((newest / name).read_bytes()[:-100])
    assert find_state("latest", tmp_path / "run") == newest


def test_a_finished_run_that_is_resumed_stays_as_it_is(finished, photo_table, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    options = ("--ema_decay", "0.9", "--mixout", "0.2", "--resume_from_checkpoint", "latest")
    run_in_process("train", *flags_for(photo_table, tmp_path / "run", *options))
    assert same_weights(finished, tmp_path / "run")


def test_a_run_stopped_before_its_first_checkpoint_starts_from_the_beginning(finished, photo_table, tmp_path):
    options = ("--ema_decay", "0.9", "--mixout", "0.2", "--resume_from_checkpoint", "latest")
    run_in_process("train", *flags_for(photo_table, tmp_path / "run", *options))
    assert same_weights(finished, tmp_path / "run")


def test_a_folder_that_holds_a_run_is_not_trained_into(finished, photo_table):
    with pytest.raises(FileExistsError, match="already holds a run"):
        run_in_process("train", *flags_for(photo_table, finished))


def test_a_run_does_not_go_on_with_other_settings(finished, photo_table):
    options = ("--ema_decay", "0.9", "--mixout", "0.3", "--resume_from_checkpoint", "latest")
    with pytest.raises(ValueError, match=r"mixout was 0\.2, is 0\.3"):
        run_in_process("train", *flags_for(photo_table, finished, *options))


def test_a_folder_that_another_process_trains_into_is_refused(photo_table, tmp_path):
    (tmp_path / "run").mkdir()
    code = (
        "import fcntl, sys, time; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); print(1); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-uc", code, str(tmp_path / "run" / ".lock")], stdout=subprocess.PIPE
    ) as other:
        other.stdout.readline()
        with pytest.raises(RuntimeError, match="Another process is training into"):
            run_in_process("train", *flags_for(photo_table, tmp_path / "run"))
        other.kill()


def test_no_file_of_a_run_is_a_pickle(finished):
    suffixes = {path.suffix for path in finished.rglob("*") if path.is_file()}
    assert suffixes <= {"", ".safetensors", ".json", ".py", ".md", ".png"}


def test_a_short_batch_and_accumulation_give_the_gradient_of_the_whole(photo_table, tmp_path):
    """16 photos as 3 × 5 + 1, two batches a step; the reference takes the same photos in one batch."""
    still = ("--backbone", TINY_FLAGS[1].replace("0.1", "0.0"), "--classifier_dropout", "0", "--num_train_epochs", "1")
    common = flags_for(photo_table, tmp_path / "a", *still, "--validation_split", "none")
    run_in_process("train", *common, "--per_device_train_batch_size", "5", "--gradient_accumulation_steps", "2")
    run_in_process("train", *common, "--per_device_train_batch_size", "10", "--output_dir", tmp_path / "b")
    a, b = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert all(torch.allclose(a[name], b[name], atol=2e-6) for name in a)


def test_a_nan_loss_stops_the_run_and_names_the_photos(photo_table, tmp_path, monkeypatch):
    real = CharmForAestheticScoring.forward

    def poisoned(self, *args, **kwargs):
        outputs = real(self, *args, **kwargs)
        if outputs.loss is not None:
            outputs.loss = outputs.loss * float("nan")
        return outputs

    monkeypatch.setattr(CharmForAestheticScoring, "forward", poisoned)
    with pytest.raises(FloatingPointError, match=r"The loss is nan .* \d+\.jpg, \d+\.jpg, \d+\.jpg, \d+\.jpg"):
        run_in_process("train", *flags_for(photo_table, tmp_path / "run"))
    assert not (tmp_path / "run" / "model.safetensors").exists()


def table_with(tmp_path, *labels, header=("image", "score")):
    for index in range(len(labels)):
        save_photo(tmp_path / "data" / "images" / f"{index}.jpg", 0.5, seed=index)
    write_csv(tmp_path / "data" / "t.csv", header, [[f"{i}.jpg", *label] for i, label in enumerate(labels)])
    return tmp_path / "data"


@pytest.mark.parametrize(
    ("labels", "header", "message"),
    [
        ([[1], [11], [5]], ["image", "score"], r"1 of 3 labels .*1\.jpg: score 11 is outside 1 to 10"),
        ([[3, 1], [0, 0], [1, 2]], ["image", "c1", "c10"], r"1\.jpg: distribution of all zeros"),
        ([["nan"], [1], [5]], ["image", "score"], r"0\.jpg: score is not a finite number"),
    ],
)
def test_a_wrong_label_is_an_error_before_the_first_step(tmp_path, labels, header, message):
    data = table_with(tmp_path, *labels, header=header)
    flags = flags_for(
        data, tmp_path / "run", "--dataset_options", "{score_range: [1, 10]}", "--validation_split", "none"
    )
    with pytest.raises(ValueError, match=message):
        run_in_process("train", *flags)
    assert not (tmp_path / "run").exists()


def test_scores_without_a_known_range_are_an_error(tmp_path):
    data = table_with(tmp_path, [1], [2], [3])
    with pytest.raises(ValueError, match="range of the scores is not known"):
        run_in_process("train", *flags_for(data, tmp_path / "run", "--validation_split", "none"))


def test_a_split_without_a_photo_is_an_error(tmp_path):
    data = table_with(tmp_path, [1], [2])
    shutil.rmtree(data / "images")
    (data / "images").mkdir()
    flags = flags_for(
        data, tmp_path / "run", "--dataset_options", "{score_range: [1, 10]}", "--validation_split", "none"
    )
    with pytest.raises(ValueError, match="No usable image"):
        run_in_process("train", *flags)


def test_an_unreadable_photo_stops_the_run_with_its_name(photo_table, tmp_path):
    shutil.copytree(photo_table, tmp_path / "data")
    (tmp_path / "data" / "images" / "7.jpg").write_bytes(b"\xff\xd8\xff broken")
    with pytest.raises(RuntimeError, match=r"7\.jpg"):
        run_in_process("train", *flags_for(tmp_path / "data", tmp_path / "run"))


def test_early_stopping_waits_as_long_as_it_was_told(photo_table, tmp_path, monkeypatch):
    options = ("--num_train_epochs", "9", "--early_stopping_patience", "2", "--learning_rate", "1e-12")
    run_in_process("train", *flags_for(photo_table, tmp_path / "run", *options))
    history = read_json(tmp_path / "run" / "history.json")
    best = max(history, key=lambda record: record["plcc"])["epoch"]
    assert len(history) == best + 2 < 9


def test_cross_validation_holds_out_every_photo_once(photo_table, tmp_path):
    module = load_script("train")
    held_out = []
    options = ("--train_split", "train+validation", "--folds", "{number: 3, stratify_column: kind}")
    for fold in range(3):
        flags = flags_for(
            photo_table, tmp_path, *options, "--fold", fold, "--dataset_options", "{extra_columns: [kind]}"
        )
        train, validation, _ = load_training_parts(module.parse_args([str(flag) for flag in flags]))
        assert not set(train["image_id"]) & set(validation["image_id"])
        assert list(validation["kind"]).count("a") == 4
        held_out += validation["image_id"]
    assert sorted(held_out) == sorted(f"{index}.jpg" for index in range(24))


def test_a_fold_takes_the_place_of_a_seeded_validation_part(tmp_path):
    data = table_with(tmp_path, *([score] for score in range(1, 9)))
    flags = flags_for(data, tmp_path, "--dataset_options", "{score_range: [1, 10]}", "--validation_size", "0.25")
    args = load_script("train").parse_args([str(flag) for flag in [*flags, "--fold", "0", "--folds", "{number: 4}"]])
    train, validation, _ = load_training_parts(args)
    assert (len(train), len(validation)) == (6, 2)


def test_a_warm_start_takes_over_the_encoder_and_replaces_a_head_of_another_shape(finished, tmp_path):
    data = table_with(tmp_path, [1], [9], [4], [6])
    flags = ["--dataset_name", "csv", "--data_dir", data, "--dataset_options", "{score_range: [0, 10]}"]
    flags += ["--model_name_or_path", finished, "--validation_split", "none", "--num_train_epochs", "1"]
    run_in_process("train", *flags, "--num_workers", "0", "--learning_rate", "1e-9", "--output_dir", tmp_path / "run")
    old, new = weights(finished), weights(tmp_path / "run")
    name = "charm.backbone.embeddings.position_embeddings"
    assert torch.allclose(old[name], new[name], atol=1e-6)
    assert len(new["classifier.bias"]) == 1
    assert CharmForAestheticScoring.from_pretrained(tmp_path / "run").config.score_range == [0, 10]


def test_a_head_is_of_the_kind_that_was_asked_for_or_refused(photo_table, tmp_path):
    flags = ["--num_train_epochs", "1", "--num_workers", "0", "--head"]
    run_in_process("train", *flags_for(photo_table, tmp_path / "run", *flags, "regression"))
    config = CharmForAestheticScoring.from_pretrained(tmp_path / "run").config
    assert (config.head, config.score_values, config.score_range) == ("regression", None, [1, 5])
    data = table_with(tmp_path, [1], [9], [4], [6])
    flags = ["--dataset_options", "{score_range: [0, 10]}", "--validation_split", "none", *flags]
    with pytest.raises(ValueError, match="'distribution' .* scores alone: take 'regression'"):
        run_in_process("train", *flags_for(data, tmp_path / "other", *flags, "distribution"))


def test_a_frozen_backbone_stays_as_it_was(finished, photo_table, tmp_path):
    flags = [
        "--dataset_name",
        "csv",
        "--data_dir",
        photo_table,
        "--model_name_or_path",
        finished,
        "--num_workers",
        "0",
    ]
    flags += ["--freeze_backbone", "--learning_rate", "1e-2", "--num_train_epochs", "1"]
    run_in_process("train", *flags, "--output_dir", tmp_path / "run")
    old, new = weights(finished), weights(tmp_path / "run")
    moved = {name for name in old if not torch.equal(old[name], new[name])}
    assert moved == {"classifier.weight", "classifier.bias", "charm.embeddings.scale_embeddings"}


def test_tracking_logs_the_run_for_tensorboard(photo_table, tmp_path):
    options = ("--report_to", "tensorboard", "--num_train_epochs", "1")
    run_in_process("train", *flags_for(photo_table, tmp_path / "run", *options))
    assert list((tmp_path / "run" / "logs").rglob("events.out.tfevents.*"))


def test_a_finished_run_is_pushed_without_its_states(photo_table, tmp_path, hub, unchecked):
    options = ("--push_to_hub", "alice/mine", "--num_train_epochs", "1")
    run_in_process("train", *flags_for(photo_table, tmp_path / "run", *options))
    api = HfApi()
    files = set(api.list_repo_files("alice/mine"))
    assert {"config.json", "model.safetensors", "preprocessor_config.json", "README.md"} <= files
    assert not any(name.startswith("checkpoint-") for name in files)
    (result, *_) = ModelCard.load("alice/mine").data.eval_results
    assert (
        result.dataset_args["image_ids_sha256"]
        == read_json(tmp_path / "run" / "run.json")["splits"]["validation"]["sha256"]
    )


def test_bf16_and_the_correlation_loss_train(photo_table, tmp_path):
    options = ("--mixed_precision", "bf16", "--correlation_weight", "0.5", "--loss", "mse", "--num_train_epochs", "1")
    run_in_process("train", *flags_for(photo_table, tmp_path / "run", *options))
    assert weights(tmp_path / "run")["classifier.weight"].dtype == torch.float32


def test_the_order_within_series_is_trained_and_measured(photo_table, tmp_path):
    options = ("--ranking_weight", "0.5", "--group_column", "kind", "--num_train_epochs", "1")
    run_in_process("train", *flags_for(photo_table, tmp_path / "run", *options))
    (record,) = read_json(tmp_path / "run" / "history.json")
    assert {"pair_accuracy", "series_top1"} <= record.keys()
    assert 0 <= record["pair_accuracy"] <= 1


@pytest.mark.slow
def test_two_processes_have_the_loss_curve_of_one_with_twice_the_batch(photo_table, tmp_path):
    still = ("--backbone", TINY_FLAGS[1].replace("0.1", "0.0"), "--classifier_dropout", "0")
    launch = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2")
    two = start_process(*launch, EXAMPLES / "train.py", *flags_for(photo_table, tmp_path / "two", *still))
    finish_process(two)
    eight = ("--per_device_train_batch_size", "8")
    run_in_process("train", *flags_for(photo_table, tmp_path / "one", *still, *eight))
    assert read_json(tmp_path / "two" / "run.json")["num_processes"] == 2
    first, second = (read_json(tmp_path / name / "history.json") for name in ("one", "two"))
    for key in ("train_loss", "eval_loss", "plcc", "srcc"):
        assert [r[key] for r in first] == pytest.approx([r[key] for r in second], abs=1e-5)
    a, b = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert all(torch.allclose(a[name], b[name], atol=1e-5) for name in a)


@pytest.mark.slow
def test_two_processes_train_on_from_a_checkpoint_of_dinov2(photo_table, tmp_path):
    """Loading makes each parameter anew, also those that no score depends on and data-parallel training waits for."""
    start = tiny_model("dinov2")
    start.save_pretrained(tmp_path / "start")
    tiny_processor(start).save_pretrained(tmp_path / "start")
    launch = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", EXAMPLES / "train.py")
    flags = ["--dataset_name", "csv", "--data_dir", photo_table, "--model_name_or_path", tmp_path / "start"]
    flags += ["--num_train_epochs", "1", "--num_workers", "0", "--processor", "{max_num_patches: 20}"]
    finish_process(start_process(*launch, *flags, "--output_dir", tmp_path / "run"))
    assert read_json(tmp_path / "run" / "run.json")["num_processes"] == 2
    old, new = weights(tmp_path / "start"), weights(tmp_path / "run")
    moved = {key for key, value in new.items() if key in old and not torch.equal(value, old[key])}
    assert any("layer.0" in key for key in moved)
