import csv
import io
import json
import subprocess
import sys

import pyarrow.parquet as pq
import pytest
from transformers import pipeline

from charm_hf.cli import main


@pytest.fixture
def score(checkpoint, capsys):
    """Run `charm-hf score` in this process: exit code, rows of the table on stdout, messages."""

    def run(*arguments):
        with pytest.raises(SystemExit) as stop:
            main(["score", "--model", str(checkpoint), *map(str, arguments)])
        captured = capsys.readouterr()
        return stop.value.code, list(csv.DictReader(io.StringIO(captured.out, newline=""))), captured.err

    return run


def test_a_folder_becomes_a_table_in_the_order_of_its_names(score, photos):
    code, rows, messages = score(photos)
    assert code == 0
    names = ["a.jpg", "b.png", "c.jpg", "d.webp", "sub/e.jpg", "sub/f.png"]
    assert [row["path"] for row in rows] == [f"{photos}/{name}" for name in names]
    assert list(rows[0]) == ["path", "score", "normalized_score", "std", "width", "height", "tokens", "error"]
    assert all(1 <= float(row["score"]) <= 10 for row in rows)
    assert "6/6" in messages


def test_scores_are_those_of_the_pipeline(score, photos, checkpoint):
    paths = [photos / "a.jpg", photos / "b.png", photos / "sub/f.png"]
    _, rows, _ = score(*paths)
    expected = pipeline("image-aesthetics", model=str(checkpoint))([str(path) for path in paths])
    for row, result in zip(rows, expected, strict=True):
        for name in ("score", "normalized_score", "std"):
            assert float(row[name]) == pytest.approx(result[name], abs=2e-5)


def test_views_and_selection_are_those_of_the_pipeline(score, photos, checkpoint):
    path = photos / "sub/e.jpg"
    options = {"num_views": 3, "patch_selection": "gradient", "seed": 5}
    _, rows, _ = score(path, "--num-views", 3, "--patch-selection", "gradient", "--seed", 5)
    expected = pipeline("image-aesthetics", model=str(checkpoint))(str(path), **options)
    assert float(rows[0]["score"]) == pytest.approx(expected["score"], abs=2e-5)
    assert float(rows[0]["std"]) == pytest.approx(expected["std"], abs=2e-5)


def test_a_broken_image_gets_a_row_with_its_reason_and_the_rest_is_scored(score, photos):
    (photos / "broken.jpg").write_bytes((photos / "c.jpg").read_bytes()[:600])
    (photos / "empty.png").touch()
    code, rows, messages = score(photos)
    assert code == 1
    failed = {row["path"].rsplit("/", 1)[1]: row["error"] for row in rows if row["error"]}
    assert set(failed) == {"broken.jpg", "empty.png"}
    assert "zero bytes" in failed["empty.png"]
    assert all(bool(row["score"]) != bool(row["error"]) for row in rows)
    assert "broken.jpg" in messages


def test_a_missing_file_is_a_row_and_a_pattern_without_match_is_wrong_usage(score, photos):
    code, rows, _ = score(photos / "a.jpg", photos / "missing.jpg")
    assert (code, len(rows)) == (1, 2)
    assert "No such file" in rows[1]["error"]
    code, rows, messages = score(photos / "*.tiff")
    assert (code, rows) == (2, [])
    assert "Found no images" in messages


@pytest.mark.parametrize("arguments", [["--output", "scores.xlsx"], ["--model", "/nowhere"], ["--seed", "x"]])
def test_wrong_usage_exits_with_2_before_anything_is_scored(score, photos, arguments):
    code, rows, messages = score(photos, *arguments)
    assert (code, rows) == (2, [])
    assert messages


def test_csv_jsonl_and_parquet_hold_the_same_rows(score, photos, tmp_path):
    (photos / "empty.png").touch()
    _, rows, _ = score(photos)
    for ending in ("csv", "jsonl", "parquet"):
        code, printed, _ = score(photos, "--output", tmp_path / f"scores.{ending}")
        assert (code, printed) == (1, [])
    lines = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    records = pq.read_table(tmp_path / "scores.parquet").to_pylist()
    written = list(csv.DictReader((tmp_path / "scores.csv").open(newline="")))
    assert written == rows
    for row, line, record in zip(rows, lines, records, strict=True):
        assert line.get("error") == record["error"] == (row["error"] or None)
        assert line["score"] == record["score"] == (float(row["score"]) if row["score"] else None)
        assert line["width"] == record["width"] == (int(row["width"]) if row["width"] else None)


def test_the_installed_command_prints_data_to_stdout_and_messages_to_stderr(photos, checkpoint):
    command = [sys.executable, "-m", "charm_hf.cli", "score", str(photos / "*.jpg"), "--model", str(checkpoint)]
    done = subprocess.run([*command, "--num-workers", "1"], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    assert [line.split(",")[0] for line in done.stdout.splitlines()] == [
        "path",
        f"{photos}/a.jpg",
        f"{photos}/c.jpg",
    ]
    assert "2/2" in done.stderr
