"""The steps that make `charm-tiny`, and that what lies in the package is what they are for."""

from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import torch
from PIL import Image
from support import photo_path, tiny_backbone_config, tiny_processor

from charm_hf import CharmForAestheticScoring, CharmImageProcessor, embedded_model_path
from charm_hf.files import sha256_of
from charm_hf.training.partition import assign_folds
from studies.calibration.run import read_predictions
from studies.charm_tiny import baselines, head, inputs, start
from studies.results import read_rows, write_rows


ROOT = Path(__file__).parents[2]


def test_the_embedded_model_sees_a_typical_photo_at_two_scales_with_native_regions():
    processor = CharmImageProcessor.from_pretrained(embedded_model_path())
    tokens = processor(photo_path("coffee"))
    assert tokens["scale_ids"].unique().tolist() == [0, 1]
    assert (tokens["scale_ids"] == 1).sum() >= 48
    assert tokens["pixel_values"].shape[1] <= processor.max_num_patches


def test_the_embedded_model_computes_in_single_precision_and_tells_photos_apart():
    model = CharmForAestheticScoring.from_pretrained(embedded_model_path()).eval()
    processor = CharmImageProcessor.from_pretrained(embedded_model_path())
    assert model.dtype == torch.float32
    with torch.no_grad():
        scores = [model(**processor(photo_path(name))).scores.item() for name in ("coffee", "chelsea", "astronaut")]
    assert max(scores) - min(scores) > 0.1


def test_the_card_tells_of_the_shipped_files_and_the_committed_folds():
    card = (ROOT / "model_cards" / "charm-tiny.md").read_text("utf-8")
    for name in ("model.safetensors", "config.json", "preprocessor_config.json"):
        assert f"| `{name}` | `{sha256_of(Path(embedded_model_path()) / name)}` |" in card
    rows = read_rows(ROOT / "studies" / "charm_tiny" / "results.csv")
    for metric in ("srcc", "plcc", "mae", "mse"):
        found = [float(row[metric]) for row in rows]
        assert f" {np.mean(found):.3f} ± {np.std(found, ddof=1):.3f} |" in card


def test_it_starts_from_a_projection_that_whitens_patches():
    tokens = torch.randn(2000, 12) @ torch.diag(torch.arange(1.0, 13.0))
    rows = start.whitening(tokens, 6, strength=0.0)
    covariance = torch.cov(((tokens - tokens.mean(0)) @ rows.T).T)
    torch.testing.assert_close(covariance, torch.eye(6), atol=0.02, rtol=0)


def test_places_that_are_near_have_positions_that_are_alike():
    table = start.sines(8, 8, 64).view(8, 8, 64)
    near, far = (table[0, 0] - table[0, 1]).norm(), (table[0, 0] - table[0, 7]).norm()
    assert near < far


def test_the_head_in_closed_form_finds_what_features_say_of_votes(monkeypatch):
    monkeypatch.setattr(head, "ALPHA", 1e-3)
    generator = np.random.default_rng(0)
    encoded = generator.normal(size=(200, 5))
    logits = encoded @ generator.normal(size=(5, 3)) * 0.3
    distributions = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    weight, bias = head.fit_head(encoded, distributions, np.arange(50), distributions[:50])
    found = np.exp(encoded @ weight.T + bias)
    np.testing.assert_allclose(found / found.sum(1, keepdims=True), distributions, atol=0.01)


def test_the_cross_validation_keeps_what_each_photo_was_given_while_held_out(tmp_path):
    generator = np.random.default_rng(0)
    shares = generator.dirichlet(np.ones(3), 40)
    columns = {"image_id": [f"{number}.jpg" for number in range(40)], "category": ["a", "b"] * 20}
    votes = {"score": shares @ [1, 2, 3], "distribution": shares.tolist()}
    scale = {"score_range": [[1.0, 3.0]] * 40, "score_values": [[1.0, 2.0, 3.0]] * 40}
    photos = datasets.Dataset.from_dict({**columns, **votes, **scale})
    features = generator.normal(size=(50, 4)).astype(np.float32)
    rated = head.Rated(photos, features, features, 10)
    head.cross_validate(rated, np.array([1.0, 2.0, 3.0]), tmp_path / "folds.csv", tmp_path / "predictions.csv")
    names, predicted, values = read_predictions([tmp_path / "predictions.csv"])
    assert names == columns["image_id"]
    assert values.tolist() == [1, 2, 3]
    assert np.allclose(predicted.sum(1), 1, atol=1e-5)
    scores = predicted @ values
    folds = np.array(assign_folds(names, columns["category"], 0))
    expected = float(read_rows(tmp_path / "folds.csv")[2]["mae"])
    assert abs(np.abs(scores - shares @ values)[folds == 2].mean() - expected) < 1e-4


def test_a_model_is_compared_with_the_ridge_fold_by_fold(tmp_path):
    rows = [(seed, fold, 0.5 + 0.1 * fold) for seed in (0, 1) for fold in range(5)]
    write_rows(tmp_path / "results.csv", ("seed", "fold", "srcc"), rows)
    ridge = [{"srcc": 0.4 + 0.1 * fold + 0.01 * (fold % 2)} for fold in range(5)]
    found = baselines.advantage(tmp_path / "results.csv", {0: ridge})  # seed 1 has no ridge
    assert round(found.mean, 3) == 0.096
    # Student's factor for five folds, and a variance of 1/5 + 1/4.
    assert round(found.half, 4) == round(2.7764 * np.std([0.1, 0.09, 0.1, 0.09, 0.1], ddof=1) * 0.45**0.5, 4)


def test_the_start_is_a_checkpoint_of_random_layers_that_scores(tmp_path, monkeypatch):
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (96, 128, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    flags = [
        "--patch_size",
        "8",
        "--longest_edge",
        "64",
        "--max_num_patches",
        "40",
        "--width",
        "32",
        "--layers",
        "1",
        "--heads",
        "2",
    ]
    monkeypatch.setattr(
        "sys.argv", ["start", "--photos", str(tmp_path), "--output_dir", str(tmp_path / "out"), *flags]
    )
    start.main()
    model = CharmForAestheticScoring.from_pretrained(tmp_path / "out").eval()
    processor = CharmImageProcessor.from_pretrained(tmp_path / "out")
    assert model(**processor(Image.open(tmp_path / "0.png"))).scores.isfinite().all()


def test_the_inputs_are_compared_at_equal_length_and_a_stopped_comparison_goes_on(tmp_path, monkeypatch, capsys):
    lines = ["image,category,split,mean"]
    (tmp_path / "oasis" / "images").mkdir(parents=True)
    for number in range(10):
        pixels = np.random.default_rng(number).integers(0, 256, (400, 500, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "oasis" / "images" / f"{number}.png")
        lines.append(f"{number}.png,{'ab'[number % 2]},train,{2 + number / 3}")
    (tmp_path / "oasis" / "ratings.csv").write_text("\n".join(lines))
    model = CharmForAestheticScoring.from_backbone(
        tiny_backbone_config("vit", patch_size=32, image_size=160), num_scales=2
    )
    model.save_pretrained(tmp_path / "small")
    tiny_processor(model).save_pretrained(tmp_path / "small")
    monkeypatch.setattr(inputs, "RECIPE", replace(inputs.RECIPE, updates=2, batch_size=4))
    output = tmp_path / "results.csv"
    flags = ["--start", tmp_path / "small", "--data_dir", tmp_path / "oasis", "--work_dir", tmp_path / "work"]
    flags += ["--output", output, "--seeds", "1"]
    inputs.main([str(flag) for flag in [*flags, "--arms", "charm"]])
    first = read_rows(output)
    inputs.main([str(flag) for flag in [*flags, "--arms", "charm", "kept-aspect", "native"]])
    rows = read_rows(output)
    assert rows[:5] == first
    assert len(rows) == 15
    tokens = {row["arm"]: float(row["tokens"]) for row in rows}
    assert tokens["charm"] <= 104
    assert tokens["kept-aspect"] <= 100
    assert tokens["native"] == 16 * 13
    assert "| small | kept-aspect |" in capsys.readouterr().out
