"""Every kind of source that docs/scoring.md lists, as a user types it: the scores are those of the files by name."""

import io
import json
import os
import subprocess
import sys
import tarfile

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_fixtures import hub_environment


def as_folder(photos, tmp_path, monkeypatch):
    return [photos]


def as_pattern(photos, tmp_path, monkeypatch):
    return [photos / "**" / "*.*g"]


def as_lines(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\n".join(files_of(photos)).encode())))
    return ["-", "--num-workers", "0"]


def as_null_separated_paths(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\0".join(files_of(photos)).encode())))
    return ["-", "--null", "--num-workers", "0"]


def as_csv(photos, tmp_path, monkeypatch):
    (photos / "list.csv").write_text("\n".join(["file_name", *names_of(photos)]))
    return [photos / "list.csv"]


def as_tsv(photos, tmp_path, monkeypatch):
    rows = ["label\twhere", *(f"1\t{name}" for name in names_of(photos))]
    (tmp_path / "list.tsv").write_text("\n".join(rows))
    return [tmp_path / "list.tsv", "--path-column", "where", "--root", photos]


def as_jsonl(photos, tmp_path, monkeypatch):
    (tmp_path / "list.jsonl").write_text("\n".join(json.dumps({"image": path}) for path in files_of(photos)))
    return [tmp_path / "list.jsonl"]


def as_parquet_of_paths(photos, tmp_path, monkeypatch):
    pq.write_table(pa.table({"filepath": files_of(photos)}), tmp_path / "list.parquet")
    return [tmp_path / "list.parquet"]


def as_shard(photos, tmp_path, monkeypatch):
    with tarfile.open(tmp_path / "shard-000.tar", "w") as tar:
        for name in names_of(photos):
            tar.add(photos / name, name)
    return [tmp_path / "shard-*.tar"]


def as_parquet_of_images(photos, tmp_path, monkeypatch):
    pq.write_table(pa.table({"image": images_of(photos)}), tmp_path / "images.parquet")
    return [tmp_path / "images.parquet"]


def as_saved_dataset(photos, tmp_path, monkeypatch):
    dataset = datasets.Dataset.from_dict({"id": names_of(photos), "image": files_of(photos)})
    dataset = dataset.cast_column("image", datasets.Image())
    datasets.DatasetDict({"test": dataset, "extra": dataset}).save_to_disk(tmp_path / "saved")
    return [tmp_path / "saved", "--split", "test", "--path-column", "image", "--key-column", "id"]


def names_of(photos):
    return [os.path.relpath(path, photos) for path in files_of(photos)]


def files_of(photos):
    return sorted(str(path) for path in photos.rglob("*.*g"))


def images_of(photos):
    return [{"path": name, "bytes": (photos / name).read_bytes()} for name in names_of(photos)]


def scores_of(rows):
    return {os.path.basename(row["path"]): float(row["score"]) for row in rows}


@pytest.fixture
def expected(score_photos, photos):
    """Scores of the photos that each source holds, by name, and the photos."""
    (photos / "d.webp").unlink()
    code, rows, _ = score_photos(*files_of(photos))
    assert (code, len(rows)) == (0, 5)
    return photos, scores_of(rows)


@pytest.mark.parametrize("output", [None, "scores.jsonl"])
@pytest.mark.parametrize(
    "make",
    [
        as_folder,
        as_pattern,
        as_lines,
        as_null_separated_paths,
        as_csv,
        as_tsv,
        as_jsonl,
        as_parquet_of_paths,
        as_shard,
        as_parquet_of_images,
        as_saved_dataset,
    ],
)
def test_every_kind_of_source_is_scored(score_photos, expected, tmp_path, monkeypatch, make, output):
    photos, scores = expected
    arguments = make(photos, tmp_path, monkeypatch)
    if output is None:
        code, rows, messages = score_photos(*arguments)
    else:
        code, _, messages = score_photos(*arguments, "--output", tmp_path / output)
        rows = [json.loads(line) for line in (tmp_path / output).read_text().splitlines()]
    assert code == 0, messages
    assert len(rows) == len(scores)
    assert scores_of(rows) == pytest.approx(scores, abs=2e-5)


@pytest.mark.parametrize("hub", ["lfs"], indirect=True)
@pytest.mark.parametrize("options", [[], pytest.param(["--streaming"], marks=pytest.mark.slow)])
def test_a_dataset_on_the_hub_is_scored(hub, checkpoint, expected, tmp_path, options):
    photos, scores = expected
    pq.write_table(pa.table({"image": images_of(photos)}), tmp_path / "train.parquet")
    revision = hub.create(
        "alice/photos", {"data/train-00000-of-00001.parquet": (tmp_path / "train.parquet").read_bytes()}
    )
    source = f"hf://datasets/alice/photos@{revision}"
    command = [
        sys.executable,
        "-m",
        "charm_hf_cli",
        "score",
        source,
        "--model",
        checkpoint,
        "--output",
        "scores.jsonl",
    ]
    done = subprocess.run(
        [*map(str, command), *options],
        cwd=tmp_path,
        env=hub_environment(hub, tmp_path / "cache"),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    assert scores_of(rows) == pytest.approx(scores, abs=2e-5)
