"""`charm-hf select`, as typed: rows of a table are chosen and acted on; the table and every photo stay."""

import csv
import io
import json
import shutil

import pyarrow.parquet as pq
import pytest
from camera_photos import save_taken, scene, write_scores
from typer.testing import CliRunner

from charm_hf_cli import app


def charm_hf(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def card(tmp_path, monkeypatch):
    """A table of two folders of photos: a burst, a copy of its best under another name, and two of other things."""
    monkeypatch.chdir(tmp_path)
    for number in range(3):
        frame = scene(1).crop((10 * number, 7 * number, 200 + 10 * number, 130 + 7 * number))
        save_taken(frame, tmp_path / f"a/burst{number}.jpg", f"2024:05:01 12:00:0{number}")
    save_taken(scene(2), tmp_path / "b/hill.jpg", "2024:05:01 12:00:01", camera="Phone")
    save_taken(scene(3), tmp_path / "b/lake.jpg", "2024:05:01 15:00:00")
    shutil.copy(tmp_path / "a/burst1.jpg", tmp_path / "b/copy.jpg")
    scores = {"a/burst0.jpg": 5.0, "a/burst1.jpg": 7.0, "a/burst2.jpg": 6.0}
    scores |= {"b/copy.jpg": 6.9, "b/hill.jpg": 4.0, "b/lake.jpg": 6.5, "b/broken.jpg": None}
    return write_scores(tmp_path / "scores.csv", scores)


def kept(*arguments):
    done = charm_hf("select", "scores.csv", *arguments)
    assert done.exit_code == 0, done.output
    return [row["path"] for row in csv.DictReader(io.StringIO(done.stdout))]


def test_rows_are_kept_by_score_percentile_folder_and_rank(card):
    before = card.read_bytes()
    assert kept("--threshold", 6) == ["a/burst1.jpg", "a/burst2.jpg", "b/copy.jpg", "b/lake.jpg"]
    assert kept("--percentile", 80) == ["a/burst1.jpg", "b/copy.jpg"]
    assert kept("--per-folder", 1) == ["a/burst1.jpg", "b/lake.jpg"]
    assert kept("--top", 9, "--copies") == [
        *("a/burst1.jpg", "b/copy.jpg", "b/lake.jpg", "a/burst2.jpg", "a/burst0.jpg", "b/hill.jpg")
    ]
    assert card.read_bytes() == before


def test_a_column_that_only_its_values_tell_keeps_its_kind_in_parquet(tmp_path):
    rows = [
        {"path": f"{place}.jpg", "score": place + 0.5, "new": place / 4, "list": [0.5, 1], "is": True, "tags": ["a"]}
        for place in range(3)
    ]
    (tmp_path / "scores.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = charm_hf("select", tmp_path / "scores.jsonl", "--top", 1, "--copies", "-o", tmp_path / "best.parquet")

    assert done.exit_code == 0, done.output
    assert pq.read_table(tmp_path / "best.parquet").to_pylist() == [
        {"path": "2.jpg", "score": 2.5, "new": 0.5, "list": [0.5, 1.0], "is": "true", "tags": '["a"]'}
    ]


def test_a_copy_never_fills_a_place_of_the_best(card):
    done = charm_hf("select", "scores.csv", "--top", 3)
    assert [row.split(",")[0] for row in done.stdout.splitlines()[1:]] == [
        "a/burst1.jpg",
        "b/lake.jpg",
        "a/burst2.jpg",
    ]
    assert "Kept 3 of 7 rows; 1 are copies of these, 2 others, 1 have no score." in done.stderr


def test_the_best_of_each_moment_is_kept_with_a_reason(card):
    pytest.importorskip("imagehash", reason="needs the extra `charm-hf[photos]`")
    done = charm_hf("select", "scores.csv", "--best-of-series", "-o", "best.jsonl")
    rows = list(map(json.loads, (card.parent / "best.jsonl").read_text(encoding="utf-8").splitlines()))
    assert [row["path"] for row in rows] == ["a/burst1.jpg", "b/hill.jpg", "b/lake.jpg"]
    assert rows[0]["reason"].startswith("best of 4: 0.1 above copy.jpg (ratings scatter by ±1.2)")
    assert [row["reason"] for row in rows[1:]] == ["alone", "alone"]
    assert len({row["series"] for row in rows}) == 3
    assert "6 photos in 3 series." in done.stderr


def test_the_kept_are_copied_by_rank_and_doing_it_twice_adds_nothing(card, tmp_path):
    for _ in range(2):
        done = charm_hf("select", "scores.csv", "--top", 2, "--copy-to", "best", "--rank-prefix", "--write-xmp")
    assert done.exit_code == 0
    names = {path.name for path in (tmp_path / "best").iterdir()}
    assert names == {"1_burst1.jpg", "1_burst1.jpg.xmp", "2_lake.jpg", "2_lake.jpg.xmp"}
    assert "copied: 2, rated: 2" in done.stderr
    assert not list((tmp_path / "a").glob("*.xmp"))


def test_photos_that_are_gone_are_counted_and_their_rows_stay(card, tmp_path):
    (tmp_path / "a/burst1.jpg").unlink()
    done = charm_hf("select", "scores.csv", "--top", 1, "--copy-to", "best", "-o", "best.csv")
    assert done.exit_code == 1
    assert "1 photos are no files here" in done.stderr
    assert "burst1" in (tmp_path / "best.csv").read_text()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["scores.csv", "-o", "scores.csv"], "the table itself"),
        (["scores.csv", "--label", "Green"], "--write-xmp"),
        (["scores.csv", "--write-xmp", "--stars", "moon"], "percentile, range, training"),
        (
            ["scores.csv", "--write-xmp", "--stars", "training", "--model", "bare"],
            "`score_quantiles`; this one has none",
        ),
        (["nothing.csv"], "no score table"),
        (["scores.csv", "-o", "best.xlsx"], "ending in .csv"),
    ],
)
def test_wrong_usage_is_one_line_and_changes_nothing(card, arguments, reason):
    before = card.read_bytes()
    (card.parent / "bare").mkdir()
    (card.parent / "bare/config.json").write_text("{}")
    done = charm_hf("select", *arguments)
    assert done.exit_code == 2
    assert reason in done.stderr
    assert done.stderr.count("\n") == 1
    assert card.read_bytes() == before
