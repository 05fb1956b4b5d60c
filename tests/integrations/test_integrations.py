import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from curators import adapter
from PIL import Image

from charm_hf.integrations import ImageRater
from charm_hf.scoring import score_images


ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module")
def expected(checkpoint, photos) -> list[float]:
    return [row.normalized_score for row in score_images(photos, checkpoint)]


@pytest.fixture
def broken(tmp_path) -> str:
    (tmp_path / "broken.jpg").write_bytes(b"no photo")
    return str(tmp_path / "broken.jpg")


def test_a_batch_of_anything_is_rated_in_order_and_failures_say_why(checkpoint, photos, expected, broken):
    rate = ImageRater(checkpoint, device="cpu")
    images = [photos[0], Path(photos[1]).read_bytes(), np.asarray(Image.open(photos[2]).convert("RGB")), broken, None]
    *rated, unreadable, absent = rate(images)
    assert [rating.score for rating in rated] == pytest.approx(expected, abs=1e-4)
    assert all(0 <= rating.score <= 1 and rating.error is None for rating in rated)
    assert unreadable.score is None
    assert "broken.jpg" in unreadable.error
    assert absent == (None, "There is no image.")
    sent = pickle.dumps(rate)
    assert len(sent) < 1000  # the model stays behind
    assert pickle.loads(sent)(photos[:1])[0].score == pytest.approx(expected[0], abs=1e-4)


def test_daft_rates_a_column_of_paths_and_of_bytes(checkpoint, photos, expected, broken):
    daft = pytest.importorskip("daft", reason="needs daft")
    from charm_hf.integrations.daft import aesthetic_score

    rate = aesthetic_score(checkpoint, batch_size=2, device="cpu")
    found = {"path": [*photos, broken], "photo": [Path(path).read_bytes() for path in [*photos, broken]]}
    for column in found:
        rows = daft.from_pydict(found).with_column("rating", rate(daft.col(column))).to_pydict()["rating"]
        assert [row["aesthetic_score"] for row in rows[:3]] == pytest.approx(expected, abs=1e-4)
        assert [row["aesthetic_error"] for row in rows[:3]] == [None] * 3
        assert rows[3]["aesthetic_score"] is None
        assert rows[3]["aesthetic_error"]


def test_data_juicer_keeps_samples_by_their_images(checkpoint, photos, expected, broken, monkeypatch):
    data_juicer = adapter("data_juicer", monkeypatch)
    limit = sorted(expected)[1]
    samples = {"images": [[path] for path in photos] + [[broken], [], photos], "__dj__stats__": [{} for _ in range(6)]}
    keep = {}
    for strategy in ("any", "all"):
        found = data_juicer.CharmAestheticsFilter(checkpoint, min_score=limit - 1e-3, any_or_all=strategy)
        stats = found.compute_stats(samples)["__dj__stats__"]
        keep[strategy] = list(found.process(samples))
    assert stats[0]["aesthetic_score"] == pytest.approx(expected[:1], abs=1e-4)
    assert stats[3]["aesthetic_score"] == [None]
    assert "broken.jpg" in stats[3]["aesthetic_error"][0]
    alone = [score > limit - 1e-3 for score in expected]
    assert keep["any"] == [*alone, False, True, True]
    assert keep["all"] == [*alone, False, True, False]
    with pytest.raises(ValueError, match="any_or_all"):
        data_juicer.CharmAestheticsFilter(checkpoint, any_or_all="most")


def test_nemo_curator_sets_scores_and_drops_what_is_below_the_threshold(
    checkpoint, photos, expected, broken, monkeypatch
):
    nemo = adapter("nemo_curator", monkeypatch)
    tasks = sys.modules["nemo_curator.tasks"]

    def batch():
        return tasks.ImageBatch(
            dataset_name="photos", data=[tasks.ImageObject(image_path=path) for path in [*photos, broken]]
        )

    stage = nemo.CharmAestheticStage(checkpoint)
    stage.setup()
    *scored, failed = stage.process(batch()).data
    assert [found.aesthetic_score for found in scored] == pytest.approx(expected, abs=1e-4)
    assert failed.aesthetic_score is None
    assert "broken.jpg" in failed.metadata["aesthetic_error"]
    strict = nemo.CharmAestheticStage(checkpoint, score_threshold=max(expected) - 1e-3, num_gpus_per_worker=0.5)
    assert strict.resources.gpus == 0.5
    best, unknown = strict.process(batch()).data
    assert best.aesthetic_score == pytest.approx(max(expected), abs=1e-4)
    assert unknown.aesthetic_score is None


def test_fiftyone_gets_a_regression_a_sample(checkpoint, photos, expected, monkeypatch):
    fiftyone = adapter("fiftyone", monkeypatch)
    with_model = fiftyone.CharmAesthetics(checkpoint, device="cpu")
    images = [np.asarray(Image.open(path).convert("RGB")) for path in photos]
    labels = with_model.predict_all([*images, np.zeros((2, 2, 7), np.uint8)])
    assert [label["aesthetic_score"].value for label in labels[:3]] == pytest.approx(expected, abs=1e-4)
    assert with_model.predict(images[0])["aesthetic_score"].value == pytest.approx(expected[0], abs=1e-4)
    assert labels[3]["aesthetic_score"].value is None
    assert labels[3]["aesthetic_score"].aesthetic_error


def test_pyiqa_has_one_more_metric_which_is_differentiable_as_a_loss(checkpoint, photos, expected, monkeypatch):
    adapter("pyiqa", monkeypatch)
    pixels = np.asarray(Image.open(photos[1]).convert("RGB"))
    image = (torch.from_numpy(pixels.copy()).permute(2, 0, 1) / 255)[None]
    create = sys.modules["pyiqa"].create_metric
    score = create("charm", device=torch.device("cpu"), model=checkpoint)(image)
    assert score.shape == (1, 1)
    assert score.item() == pytest.approx(expected[1], abs=1e-4)
    image.requires_grad_(True)
    create("charm", as_loss=True, device=torch.device("cpu"), model=checkpoint)(image).backward()
    assert image.grad.abs().sum() > 0


def lines_of_the_page(host: str, language: str = "python") -> str:
    """The code that docs/pipelines.md shows for a host."""
    page = (ROOT / "docs" / "pipelines.md").read_text(encoding="utf-8")
    _, section = re.split(rf"^### {host}$", page, flags=re.M)
    return re.search(rf"^```{language}\n(.*?)^```", section, re.M | re.S)[1]


@pytest.mark.parametrize(
    ("host", "name"), [("nemo_curator", "NeMo Curator"), ("fiftyone", "FiftyOne"), ("pyiqa", "pyiqa")]
)
def test_the_lines_of_the_page_run(host, name, monkeypatch, capsys):
    shown = [str(path) for path in Path("examples/photos").glob("*.jpg" if host == "fiftyone" else "coffee.jpg")]
    best = max(rating.score for rating in ImageRater(device="cpu")(shown))
    adapter(host, monkeypatch)
    try:
        exec(lines_of_the_page(name), {})
    except Exception as error:
        if type(error).__name__ != "FiftyOneConfigError":
            raise
        pytest.skip(f"FiftyOne has no database here: {error}")
    assert str(best)[:5] in capsys.readouterr().out


def test_the_recipe_of_the_page_is_one_for_data_juicer(monkeypatch, tmp_path):
    data_juicer = adapter("data_juicer", monkeypatch)
    recipe = yaml.safe_load(lines_of_the_page("Data-Juicer", "yaml"))
    ((name, options),) = recipe["process"][0].items()
    assert name == data_juicer.NAME
    keep = data_juicer.CharmAestheticsFilter(**options)
    samples = {"images": [["examples/photos/coffee.jpg"]], "__dj__stats__": [{}]}
    assert list(keep.process(keep.compute_stats(samples))) == [True]
    command = Path(sys.executable).with_name("dj-process")
    if command.exists():
        photo = os.path.abspath("examples/photos/coffee.jpg")
        (tmp_path / "photos.jsonl").write_text(json.dumps({"text": "", "images": [photo]}))
        (tmp_path / "recipe.yaml").write_text(lines_of_the_page("Data-Juicer", "yaml"))
        subprocess.run([command, "--config", "recipe.yaml"], cwd=tmp_path, check=True)
        assert photo in (tmp_path / "chosen.jsonl").read_text()
