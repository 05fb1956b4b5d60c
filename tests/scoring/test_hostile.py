"""Whatever is given: one row each, with a score or a reason."""

import csv
import json
import os
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from charm_hf.scoring import load_for_scoring, score_images, tokenizing
from charm_hf.scoring.rows import read_answers
from charm_hf.tables import Table


def png_header(width, height):
    """A PNG that claims a size and has next to no content."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


@pytest.fixture
def hostile(tmp_path, write_photo):
    """Files by what is wrong with them, and what their reason must say; `None` where there is to be a score."""
    folder = tmp_path / "hostile"
    photo = write_photo(folder / "photo.jpg", 300, 200)
    content = photo.read_bytes()
    files = {
        "bomb.png": (png_header(50_000, 50_000), "limit"),
        "cut.jpg": (content[: len(content) // 2], "cannot be decoded"),
        "header only.jpg": (content[:400], "cannot be decoded"),
        "lies.png": (png_header(300, 200), "cannot be"),
        "text.jpg": (b"hello world", "not an image"),
        "zero bytes.jpg": (b"", "zero bytes"),
        "jpeg.png": (content, None),
        "new\nline.jpg": (content, None),
        'quote",comma.jpg': (content, None),
        "=formula.jpg": (content, None),
    }
    expected = {str(photo): None}
    for name, (data, reason) in files.items():
        (folder / name).write_bytes(data)
        expected[str(folder / name)] = reason
    degenerate = {"1x1.png": (1, 1), "1x20000.png": (20_000, 1), "13x900.png": (13, 900), "20x1020.png": (1020, 20)}
    for name, size in {**degenerate, "16x16.png": (16, 16), "panorama.png": (1600, 32)}.items():
        Image.new("RGB", size, (9, 80, 200)).save(folder / name)
        expected[str(folder / name)] = "no score would mean anything" if name in degenerate else None
    with open(os.path.join(os.fsencode(folder), b"latin-\xe9.jpg"), "wb") as file:
        file.write(content)
    expected[f"{folder}/latin-\\xe9.jpg"] = None
    (folder / "gone.jpg").symlink_to("nowhere.jpg")
    expected[f"{folder}/gone.jpg"] = "No such file"
    return folder, expected


@pytest.mark.parametrize("output", [None, "scores.csv"])
def test_each_hostile_file_is_one_row_with_a_score_or_its_reason(score_photos, hostile, tmp_path, output):
    folder, expected = hostile
    arguments = [] if output is None else ["--output", tmp_path / output]
    code, rows, _ = score_photos(folder, *arguments)
    if output is not None:
        rows = list(csv.DictReader((tmp_path / output).open(newline="", encoding="utf-8")))
    assert code == 1
    assert {row["path"] for row in rows} == set(expected)
    assert len(rows) == len(expected)
    for row in rows:
        reason = expected[row["path"]]
        if reason is None:
            assert row["error"] == ""
            assert 1 <= float(row["score"]) <= 10
        else:
            assert reason in row["error"]
            assert row["score"] == ""
            assert "\n" not in row["error"]


def test_arrays_with_nan_or_out_of_range_are_rows_with_a_reason(checkpoint):
    good = np.random.default_rng(0).random((50, 60, 3), dtype=np.float32)
    bad = good.copy()
    bad[3, 4, 1] = np.nan
    rows = list(score_images([good, bad, good * 255, np.zeros((0, 5, 3)), np.zeros((5, 5, 7))], model=str(checkpoint)))
    assert [row.error is None for row in rows] == [True, False, False, False, False]
    assert "nan" in rows[1].error


def test_a_file_that_vanishes_between_its_header_and_its_pixels_is_a_row(checkpoint, photos, monkeypatch):
    measure = tokenizing.measure

    def measure_and_remove(item, plan):
        measured = measure(item, plan)
        if item.path.endswith("c.jpg"):
            os.unlink(item.image)
        return measured

    monkeypatch.setattr("charm_hf.scoring.engine.measure", measure_and_remove)
    rows = {os.path.basename(row.path): row for row in score_images(photos, model=str(checkpoint))}
    assert len(rows) == 6
    assert "No such file" in rows["c.jpg"].error
    assert (rows["c.jpg"].width, rows["c.jpg"].height) == (320, 240)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root reads every file")
def test_files_and_folders_without_permission_are_rows(score_photos, photos):
    (photos / "a.jpg").chmod(0)
    (photos / "sub").chmod(0)
    code, rows, _ = score_photos(photos)
    (photos / "sub").chmod(0o755)
    failed = {os.path.basename(row["path"]): row["error"] for row in rows if row["error"]}
    assert code == 1
    assert "Permission denied" in failed["a.jpg"]
    assert "cannot be listed" in failed["sub"]


_MEMORY_OF_ONE = """
import json, resource, sys
from charm_hf.scoring import score_images, load_for_scoring
model, processor = load_for_scoring(sys.argv[1], device="cpu")
options = {"processor_parameters": json.loads(sys.argv[4])}
list(score_images(sys.argv[2], model, processor, **options))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
(row,) = score_images(sys.argv[3], model, processor, **options)
print(row.tokens, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.parametrize(
    ("options", "limit"),
    [({}, 700), ({"overflow": "resize"}, 700), ({"overflow": "resize", "reduced_decoding": True}, 150)],
)
@pytest.mark.slow
def test_a_100_megapixel_jpeg_takes_little_memory(checkpoint, tmp_path, write_photo, options, limit):
    small = write_photo(tmp_path / "small.jpg", 1225, 816)
    huge = tmp_path / "huge.jpg"  # its pixels take 300 MB
    Image.open(small).resize((12_250, 8_166), Image.Resampling.BICUBIC).save(huge, quality=92)
    command = [sys.executable, "-c", _MEMORY_OF_ONE, checkpoint, small, huge, json.dumps(options)]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    tokens, megabytes = map(float, done.stdout.split())
    assert tokens <= 64
    assert megabytes < limit


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_a_score_that_is_no_number_is_an_error_and_never_stands_in_a_table(
    score_photos, checkpoint, photos, tmp_path, ending
):
    model, processor = load_for_scoring(str(checkpoint), device="cpu")
    model.classifier.bias.data[3] = float("nan")
    model.save_pretrained(tmp_path / "broken")
    processor.save_pretrained(tmp_path / "broken")
    output = tmp_path / f"scores.{ending}"
    options = ["--model", tmp_path / "broken", "--distribution", "--top", 3, "--write-xmp", "--output", output]
    code, _, messages = score_photos(photos, *options)
    assert code == 1
    assert "is no finite number" in messages
    rows = list(Table(output).rows())
    assert len(rows) == 6
    for row in rows:
        assert "is no finite number" in row["error"]
        assert all(row[name] in (None, "") for name in ("score", "normalized_score", "std", "distribution"))
        assert int(row["width"]) > 0
    assert not list(photos.rglob("*.xmp"))


def test_an_infinite_score_of_one_photo_costs_only_that_photo():
    scores = torch.tensor([2.0, float("inf"), 3.0])
    good, bad, other = read_answers({"score": scores, "normalized_score": scores / 4, "attributes": torch.ones(3, 11)})
    assert good == {"score": 2.0, "normalized_score": 0.5}
    assert list(bad) == ["error"]
    assert other["score"] == 3.0
