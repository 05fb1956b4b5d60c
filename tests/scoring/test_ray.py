import math
import subprocess
import sys
from pathlib import Path

import datasets
import pyarrow.parquet as pq
import pytest

from charm_hf.scoring import CharmScorer, score_images


SCRIPT = Path(__file__).parents[2] / "examples" / "score_ray.py"


def test_a_datasets_map_adds_the_columns_of_the_table(checkpoint, photos):
    (photos / "e.jpg").write_bytes(b"not an image")
    paths = sorted(str(path) for path in photos.glob("*.*"))
    dataset = datasets.Dataset.from_dict({"image": paths, "label": list(range(5))})
    scored = dataset.map(CharmScorer(str(checkpoint), device="cpu"), batched=True, batch_size=3)
    expected = list(score_images(paths, model=str(checkpoint)))
    assert scored["label"] == list(range(5))
    for row, known in zip(scored, expected, strict=True):
        assert row["error"] == row["aesthetic_error"] == (known.error or "")
        if known.score is None:
            assert math.isnan(row["score"])
            assert math.isnan(row["aesthetic_score"])
        else:
            assert row["score"] == pytest.approx(known.score, abs=2e-5)
            assert row["aesthetic_score"] == pytest.approx(known.normalized_score, abs=2e-5)
        assert (row["width"], row["tokens"]) == (known.width or 0, known.tokens or 0)


@pytest.fixture
def local_cluster(monkeypatch):
    """Address of a Ray cluster on this machine."""
    monkeypatch.setenv("RAY_worker_niceness", "0")  # other tests keep the cores busy
    ray = pytest.importorskip("ray", reason="needs the extra charm-hf[ray]")
    yield ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False).address_info["gcs_address"]
    ray.shutdown()


@pytest.mark.slow
@pytest.mark.timeout(900)  # a cluster is started; a busy machine takes minutes for it
def test_the_ray_example_scores_a_folder_and_parquet_files_on_a_local_cluster(
    local_cluster, checkpoint, photos, tmp_path
):
    (photos / "broken.jpg").write_bytes(b"not an image")
    expected = {row.path: row for row in score_images(photos, model=str(checkpoint))}
    command = [sys.executable, str(SCRIPT), "--model", str(checkpoint), "--actors", "2", "--cpus", "0.5"]
    command += ["--address", local_cluster]
    subprocess.run([*command, str(photos), str(tmp_path / "scores")], check=True, timeout=420)
    rows = pq.read_table(tmp_path / "scores").to_pylist()
    assert {row["path"] for row in rows} == set(expected)
    for row in rows:
        known = expected[row["path"]]
        assert row["error"] == "" if known.error is None else row["error"]
        assert known.score is None or row["score"] == pytest.approx(known.score, abs=2e-5)
    images = {"path": list(expected), "photo": [Path(path).read_bytes() for path in expected]}
    datasets.Dataset.from_dict(images).to_parquet(tmp_path / "photos.parquet")
    again = [*command, "--image-column", "photo", str(tmp_path / "photos.parquet"), str(tmp_path / "again")]
    subprocess.run(again, check=True, timeout=420)
    for row in pq.read_table(tmp_path / "again").to_pylist():
        known = expected[row["path"]]
        assert known.score is None or row["score"] == pytest.approx(known.score, abs=2e-5)
        assert "photo" not in row
