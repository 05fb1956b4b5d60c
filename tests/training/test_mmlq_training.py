"""Training multi-modal learnable queries: by the script, with and without features computed beforehand."""

import json
import pickle
import shutil

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from dataset_builders import write_ava
from mmlq_fixtures import (
    TINY,
    tiny_image_processor,
    tiny_model,
    tiny_processor,
    tiny_text_config,
    tiny_tokenizer,
    tiny_vision_config,
)
from safetensors.torch import load_file
from script_runs import EXAMPLES, finish_process, load_script, read_json, run_in_process, same_weights, start_process
from transformers import AutoModel, AutoProcessor, BertModel, CLIPVisionModel

from charm_hf import CharmForAestheticScoring, MmlqForAestheticScoring, load_aesthetic_dataset
from charm_hf.models.checkpoint_charm import digest_weights
from charm_hf.training.feature_cache import FeatureStore, FrozenFeatures
from charm_hf.training.mmlq import choose_comments, comments_shown


@pytest.fixture(scope="module")
def ava(tmp_path_factory):
    """Miniature AVA with AVA-Comments."""
    root = tmp_path_factory.mktemp("ava")
    write_ava(root, {"train": 18, "validation": 0, "test": 6})
    return root


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    """Folders of pretrained encoders, as they lie on the Hub."""
    root = tmp_path_factory.mktemp("encoders")
    torch.manual_seed(0)
    CLIPVisionModel(tiny_vision_config()).save_pretrained(root / "clip")
    tiny_image_processor().save_pretrained(root / "clip")
    CharmForAestheticScoring(tiny_vision_config("charm")).save_pretrained(root / "charm")
    tiny_image_processor("charm").save_pretrained(root / "charm")
    BertModel(tiny_text_config(hidden_dropout_prob=0.1)).save_pretrained(root / "bert")
    tiny_tokenizer().save_pretrained(root / "bert")
    return root


def flags(ava, encoders, output, *more, vision="clip"):
    return [
        *("--dataset_name", "ava", "--data_dir", ava, "--dataset_options", "{comments: true}"),
        *("--validation_size", "0.3", "--model_name_or_path", encoders / vision, "--text_encoder", encoders / "bert"),
        *("--mmlq", json.dumps({**TINY, "encoders_in_checkpoint": False}), "--max_text_length", "16"),
        *("--rotation", "0", "--num_workers", "0", "--per_device_train_batch_size", "4", "--learning_rate", "1e-3"),
        *("--num_train_epochs", "2", "--output_dir", output, *more),
    ]


def cache_flags(folder):
    return ["--feature_cache", folder, "--feature_cache_dtype", "float32"]


@pytest.fixture(scope="module")
def finished(ava, encoders, tmp_path_factory):
    """A run that sees the photos."""
    output = tmp_path_factory.mktemp("finished") / "run"
    run_in_process("train_mmlq", *flags(ava, encoders, output))
    return output


@pytest.fixture(scope="module")
def cached(ava, encoders, tmp_path_factory):
    """The same run on features that were computed beforehand."""
    output = tmp_path_factory.mktemp("cached") / "run"
    run_in_process("train_mmlq", *flags(ava, encoders, output, *cache_flags(output.parent / "features")))
    return output


def test_a_run_leaves_a_checkpoint_that_scores_photos_with_and_without_comments(finished, ava):
    model, processor = AutoModel.from_pretrained(finished), AutoProcessor.from_pretrained(finished)
    assert isinstance(model, MmlqForAestheticScoring)
    assert not any("_model." in name for name in load_file(finished / "model.safetensors"))
    photo = next((ava / "images").iterdir())
    silent, said = (model(**processor(photo, comments)).scores.item() for comments in (None, ["great light"]))
    assert 1 <= silent <= 10
    assert silent != said
    assert processor.max_text_length == 16


def test_a_run_is_measured_with_comments_and_without(finished):
    record = read_json(finished / "history.json")[-1]
    for name in ("plcc", "srcc", "acc", "emd_r1", "emd_r2"):
        assert name in record
        assert f"{name}_no_comments" in record
    assert record["emd_r2"] != record["emd_r2_no_comments"]
    card = (finished / "README.md").read_text()
    assert "Multi-modal learnable queries over a clip_vision_model and a bert encoder" in card
    assert "| EMD (r = 1), without comments |" in card


def test_a_checkpoint_is_measured_with_all_some_or_no_comments(finished, ava, tmp_path):
    reports = {}
    for comments in ("all", "1", "none"):
        given = ["--model_name_or_path", finished, "--dataset_name", "ava", "--data_dir", ava, "--num_workers", "0"]
        given += ["--dataset_options", "{comments: true}", "--comments", comments, "--bootstrap_samples", "20"]
        run_in_process("evaluate_model", *given, "--output_dir", tmp_path / comments)
        reports[comments] = read_json(tmp_path / comments / "metrics.json")
    assert [report["comments"] for report in reports.values()] == [None, 1, 0]
    assert {"plcc", "srcc", "acc", "emd_r1", "emd_r2"} <= reports["all"]["metrics"].keys()
    errors = {report["metrics"]["mse"]["value"] for report in reports.values()}
    assert len(errors) == 3


def test_features_computed_beforehand_give_the_same_run(finished, cached):
    expected, found = read_json(finished / "history.json"), read_json(cached / "history.json")
    for old, new in zip(expected, found, strict=True):
        for name in ("train_loss", "eval_loss", "eval_loss_no_comments"):
            assert new[name] == pytest.approx(old[name], abs=1e-4)
    first, second = (load_file(folder / "model.safetensors") for folder in (finished, cached))
    assert first.keys() == second.keys()
    assert all(torch.allclose(first[name], second[name], atol=2e-3) for name in first)


def test_a_run_on_features_that_was_stopped_goes_on_to_the_same_weights(ava, encoders, cached, tmp_path):
    shutil.copytree(cached, tmp_path / "run")
    newest = sorted((tmp_path / "run").glob("checkpoint-0*"))[-1]
    shutil.rmtree(newest)
    shutil.copytree(cached.parent / "features", tmp_path / "features")
    run = read_json(tmp_path / "run" / "run.json")
    run["flags"]["feature_cache"] = str(tmp_path / "features")
    (tmp_path / "run" / "run.json").write_text(json.dumps(run))
    more = [*cache_flags(tmp_path / "features"), "--resume_from_checkpoint", "latest"]
    run_in_process("train_mmlq", *flags(ava, encoders, tmp_path / "run", *more))
    assert same_weights(cached, tmp_path / "run")


def test_an_epoch_on_features_reads_no_photo(ava, encoders, cached, tmp_path, monkeypatch):
    monkeypatch.setattr("charm_hf.models.processing_mmlq.MmlqProcessor.__call__", None)
    monkeypatch.setattr("charm_hf.models.modeling_mmlq.MmlqModel.encode_images", None)
    run_in_process("train_mmlq", *flags(ava, encoders, tmp_path / "run", *cache_flags(cached.parent / "features")))
    assert same_weights(cached, tmp_path / "run")


def test_features_of_another_encoder_are_refused(ava, encoders, cached, tmp_path):
    torch.manual_seed(5)
    shutil.copytree(encoders, tmp_path / "encoders")
    CLIPVisionModel(tiny_vision_config()).save_pretrained(tmp_path / "encoders" / "clip")
    more = cache_flags(cached.parent / "features")
    with pytest.raises(ValueError, match="made in another way \\(encoder"):
        run_in_process("train_mmlq", *flags(ava, tmp_path / "encoders", tmp_path / "run", *more))


def test_charm_is_the_eyes_of_a_run(ava, encoders, tmp_path):
    more = [*cache_flags(tmp_path / "features"), "--train_processor", "{patch_selection: frequency}"]
    run_in_process("train_mmlq", *flags(ava, encoders, tmp_path / "cached", *more, vision="charm"))
    run_in_process(
        "train_mmlq",
        *flags(ava, encoders, tmp_path / "run", "--train_processor", "{patch_selection: frequency}", vision="charm"),
    )
    expected, found = (read_json(tmp_path / name / "history.json")[-1] for name in ("run", "cached"))
    assert found["train_loss"] == pytest.approx(expected["train_loss"], abs=1e-4)
    assert AutoModel.from_pretrained(tmp_path / "run").config.vision_config.model_type == "charm"


def test_a_checkpoint_is_trained_further(ava, finished, tmp_path):
    given = flags(ava, finished.parent, tmp_path / "run")
    at = given.index("--text_encoder")
    del given[at : at + 2]
    given[given.index("--model_name_or_path") + 1] = finished
    run_in_process("train_mmlq", *given)
    assert (
        read_json(tmp_path / "run" / "history.json")[0]["train_loss"]
        < read_json(finished / "history.json")[0]["train_loss"]
    )


def test_rotations_and_a_cache_of_features_exclude_each_other(ava, encoders, tmp_path, capsys):
    given = flags(ava, encoders, tmp_path / "run", *cache_flags(tmp_path / "features"), "--rotation", "0.5")
    with pytest.raises(SystemExit):
        run_in_process("train_mmlq", *given)
    assert "--rotation 0" in capsys.readouterr().err


def test_the_recipe_for_ava_is_a_valid_command_line():
    args = load_script("train_mmlq").parse_args(
        ["--config", str(EXAMPLES / "configs" / "mmlq_ava.yaml"), "--output_dir", "runs/mmlq_ava"]
    )
    assert (args.dataset_name, args.dataset_options) == ("ava", {"comments": True})
    assert args.text_encoder == "google-bert/bert-base-uncased"


@pytest.mark.slow
def test_two_processes_share_the_features_and_train_as_one_with_twice_the_batch(ava, encoders, tmp_path):
    still = {**TINY, "encoders_in_checkpoint": False, "hidden_dropout_prob": 0.0, "comment_dropout": 0.0}
    more = ["--mmlq", json.dumps(still), "--validation_size", "2"]
    launch = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", EXAMPLES / "train_mmlq.py")
    cache = cache_flags(tmp_path / "features")
    finish_process(start_process(*launch, *flags(ava, encoders, tmp_path / "two", *more, *cache)))
    assert len(list((tmp_path / "features" / "visual").glob("shard-*"))) == 4  # two parts, two processes
    single = [*more, "--per_device_train_batch_size", "8"]
    run_in_process("train_mmlq", *flags(ava, encoders, tmp_path / "one", *single))
    first, second = (read_json(tmp_path / name / "history.json") for name in ("one", "two"))
    for key in ("train_loss", "eval_loss", "eval_loss_no_comments"):
        assert [record[key] for record in first] == pytest.approx([record[key] for record in second], abs=1e-4)


# The parts.


def test_the_number_of_comments_shown_can_be_limited(ava):
    said = ["a", "b", "c", "d"]
    assert choose_comments(said, None, 0) == said
    assert choose_comments(said, 0, 0) == []
    drawn = {tuple(choose_comments(said, 2, seed)) for seed in range(40)}
    assert len(drawn) == 6
    assert all(list(pair) == sorted(pair) for pair in drawn)
    dataset = load_aesthetic_dataset("ava", ava, "train", comments=True)
    for limit, lengths in ((None, {0, 2}), (1, {0, 1}), (0, {0})):
        assert {len(comments_shown(row, limit, seed=0)) for row in dataset} == lengths


def test_a_store_gives_back_what_was_put_in_after_it_is_opened_again(tmp_path):
    generator = np.random.default_rng(0)
    features = {str(index): generator.normal(size=(index + 1, 4)).astype(np.float32) for index in range(5)}
    store = FeatureStore(tmp_path / "store", {"encoder": "a"}, "float32")
    store.append({name: features[name] for name in "012"})
    other = FeatureStore(tmp_path / "store", {"encoder": "a"}, "float32")
    store.append({name: features[name] for name in "34"})
    assert "3" not in other
    other.refresh()
    for opened in (store, other, pickle.loads(pickle.dumps(other))):
        assert len(opened) == 5
        assert all(np.array_equal(opened[name], rows) for name, rows in features.items())
    rows = store["1"]
    rows += 1  # a copy
    assert np.array_equal(store["1"], features["1"])


def test_half_precision_halves_the_store(tmp_path):
    rows = np.linspace(-3, 3, 4000, dtype=np.float32).reshape(1000, 4)
    sizes = {}
    for dtype in ("float32", "float16"):
        store = FeatureStore(tmp_path / dtype, {}, dtype)
        store.append({"a": rows})
        assert np.allclose(store["a"], rows, atol=2e-3)
        sizes[dtype] = store.num_bytes()
    assert sizes["float16"] == pytest.approx(sizes["float32"] / 2, rel=0.02)


def test_what_a_process_that_died_left_behind_is_not_read(tmp_path, monkeypatch):
    store = FeatureStore(tmp_path / "store", {})
    monkeypatch.setattr("charm_hf.files.os.replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        store.append({"a": np.ones((2, 3))})
    monkeypatch.undo()
    assert len(FeatureStore(tmp_path / "store", {})) == 0


def test_a_store_of_another_key_precision_or_a_folder_of_other_files_is_refused(tmp_path):
    FeatureStore(tmp_path / "store", {"encoder": "a"}, "float16")
    with pytest.raises(ValueError, match="encoder: 'a', not 'b'"):
        FeatureStore(tmp_path / "store", {"encoder": "b"}, "float16")
    with pytest.raises(ValueError, match="dtype: 'float16', not 'float32'"):
        FeatureStore(tmp_path / "store", {"encoder": "a"}, "float32")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "1.jpg").touch()
    with pytest.raises(ValueError, match="is not empty and holds no features"):
        FeatureStore(tmp_path / "photos", {})


def test_a_fingerprint_tells_weights_apart():
    first, again, other = tiny_model(seed=0), tiny_model(seed=0), tiny_model(seed=1)
    assert digest_weights(first.mmlq.text_model) == digest_weights(again.mmlq.text_model)
    assert digest_weights(first.mmlq.text_model) != digest_weights(other.mmlq.text_model)


@pytest.mark.parametrize("change", ["preprocessing", "tokenizer"])
def test_features_of_another_preprocessing_are_refused(tmp_path, change):
    model, processor = tiny_model(), tiny_processor()
    FrozenFeatures(tmp_path, model, processor)
    FrozenFeatures(tmp_path, model, processor)
    if change == "preprocessing":
        processor.image_processor.image_mean = [0.5, 0.5, 0.5]
    else:
        processor.max_text_length = 20
    with pytest.raises(ValueError, match=change):
        FrozenFeatures(tmp_path, model, processor)


def test_features_of_an_encoder_that_is_trained_along_are_not_computed(tmp_path):
    with pytest.raises(ValueError, match="trained along"):
        FrozenFeatures(tmp_path, tiny_model(freeze_text_model=False), tiny_processor())


def test_only_what_is_missing_is_computed(ava, tmp_path, monkeypatch):
    model, processor = tiny_model(), tiny_processor()
    features = FrozenFeatures(tmp_path, model, processor)
    dataset = load_aesthetic_dataset("ava", ava, "train", comments=True)
    accelerator = Accelerator(cpu=True)
    features.fill(model, dataset.select(range(6)), accelerator)
    seen = []
    encode = model.mmlq.encode_images
    monkeypatch.setattr(model.mmlq, "encode_images", lambda **inputs: seen.append(1) or encode(**inputs))
    features.fill(model, dataset, accelerator, batch_size=1)
    assert len(seen) == len(dataset) - 6
    features.fill(model, dataset, accelerator, flips=True, batch_size=1)
    assert len(seen) == 2 * len(dataset) - 6
