import csv
import json
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from transformers import pipeline

from charm_hf import CharmImageProcessor
from charm_hf.data import SaliencyFolder
from charm_hf.look import demo
from charm_hf.scoring import CharmScorer, score_images


def test_a_folder_becomes_a_table_in_the_order_of_its_names(score_photos, photos):
    code, rows, messages = score_photos(photos)
    assert code == 0
    names = ["a.jpg", "b.png", "c.jpg", "d.webp", "sub/e.jpg", "sub/f.png"]
    assert [row["path"] for row in rows] == [f"{photos}/{name}" for name in names]
    assert list(rows[0]) == ["path", "score", "normalized_score", "std", "width", "height", "tokens", "error"]
    assert all(1 <= float(row["score"]) <= 10 for row in rows)
    assert "6/6" in messages


def test_scores_are_those_of_the_pipeline(score_photos, photos, checkpoint):
    paths = [photos / "a.jpg", photos / "b.png", photos / "sub/f.png"]
    _, rows, _ = score_photos(*paths)
    expected = pipeline("image-aesthetics", model=str(checkpoint))([str(path) for path in paths])
    for row, result in zip(rows, expected, strict=True):
        for name in ("score", "normalized_score", "std"):
            assert float(row[name]) == pytest.approx(result[name], abs=2e-5)


def test_a_large_photo_has_the_same_score_from_every_entrance(score_photos, checkpoint, write_photo, tmp_path):
    path = write_photo(tmp_path / "large.jpg", 1500, 1100)
    shrinking = shutil.copytree(checkpoint, tmp_path / "shrinking")
    CharmImageProcessor(patch_size=16, max_num_patches=64, overflow="resize").save_pretrained(shrinking)
    aesthetics = pipeline("image-aesthetics", model=str(shrinking))
    expected = aesthetics(str(path))["normalized_score"]
    _, (printed,), messages = score_photos(path, "--model", shrinking)
    assert "1 of 1 photos were shrunk as a whole, and nothing of them was seen at full resolution" in messages
    (row,) = score_images(path, str(shrinking))
    column = CharmScorer(str(shrinking), device="cpu")({"image": [path.read_bytes()]})
    (shown,) = demo.score_photos([str(path)], aesthetics)
    scores = [float(printed["normalized_score"]), row.normalized_score, column["normalized_score"][0]]
    assert [*scores, shown.result["normalized_score"]] == pytest.approx([expected] * 4, abs=1e-4)
    _, (reduced,), _ = score_photos(path, "--model", shrinking, "--reduced-decoding")
    assert reduced["normalized_score"] != printed["normalized_score"]


def test_views_and_selection_are_those_of_the_pipeline(score_photos, photos, checkpoint):
    path = photos / "sub/e.jpg"
    options = {"num_views": 3, "patch_selection": "gradient", "seed": 5}
    _, rows, _ = score_photos(path, "--num-views", 3, "--patch-selection", "gradient", "--seed", 5)
    expected = pipeline("image-aesthetics", model=str(checkpoint))(str(path), **options)
    assert float(rows[0]["score"]) == pytest.approx(expected["score"], abs=2e-5)
    assert float(rows[0]["std"]) == pytest.approx(expected["std"], abs=2e-5)


@pytest.fixture
def maps(photos, tmp_path):
    """A folder with a saliency map for each photo: its lower right quarter is salient."""
    for photo in photos.rglob("*.*"):
        with Image.open(photo) as image:
            mask = Image.new("L", image.size)
        mask.paste(255, (mask.width // 2, mask.height // 2, mask.width, mask.height))
        target = tmp_path / "maps" / photo.relative_to(photos).with_suffix(".png")
        target.parent.mkdir(parents=True, exist_ok=True)
        mask.save(target)
    return tmp_path / "maps"


def test_regions_are_selected_by_a_folder_of_saliency_maps(score_photos, photos, maps, checkpoint):
    by_map = ("--patch-selection", "saliency", "--saliency-dir", maps)
    code, rows, _ = score_photos(photos, *by_map)
    assert code == 0
    # In worker processes, by the pipeline with a folder, and by it with a map a photo.
    assert score_photos(photos, *by_map, "--num-workers", 1)[1] == rows
    aesthetics = pipeline("image-aesthetics", model=str(checkpoint), patch_selection="saliency")
    paths = [row["path"] for row in rows]
    pairs = [
        {"image": path, "saliency_map": str(maps / Path(path).relative_to(photos).with_suffix(".png"))}
        for path in paths
    ]
    for found in (aesthetics(paths, saliency_maps=SaliencyFolder(maps)), aesthetics(pairs)):
        for row, result in zip(rows, found, strict=True):
            assert float(row["score"]) == pytest.approx(result["score"], abs=2e-5)
    elsewhere = score_photos(photos / "sub/e.jpg")[1][0]
    assert elsewhere["score"] != next(row["score"] for row in rows if row["path"] == elsewhere["path"])
    (maps / "a.png").unlink()
    code, rows, _ = score_photos(photos / "a.jpg", photos / "b.png", *by_map)
    assert code == 1
    assert "no saliency map for" in rows[0]["error"]
    assert rows[1]["score"]


def test_saliency_without_maps_is_wrong_usage_and_the_spectral_residual_needs_none(score_photos, photos, maps):
    for wrong, reason in (
        (["--patch-selection", "saliency"], "'spectral_residual' finds what is salient by itself"),
        (["--saliency-dir", maps], "by the selection 'saliency' (--patch-selection) only, not by 'frequency'"),
        (["--patch-selection", "saliency", "--saliency-dir", maps / "none"], "none"),
    ):
        code, rows, messages = score_photos(photos, *wrong)
        assert (code, rows) == (2, [])
        assert reason in messages
        assert len(messages.splitlines()) == 1
    code, rows, _ = score_photos(photos, "--patch-selection", "spectral_residual")
    assert code == 0
    assert rows[4]["score"] != score_photos(photos)[1][4]["score"]


def test_a_broken_image_gets_a_row_with_its_reason_and_the_rest_is_scored(score_photos, photos):
    (photos / "broken.jpg").write_bytes((photos / "c.jpg").read_bytes()[:600])
    (photos / "empty.png").touch()
    code, rows, messages = score_photos(photos)
    assert code == 1
    failed = {row["path"].rsplit("/", 1)[1]: row["error"] for row in rows if row["error"]}
    assert set(failed) == {"broken.jpg", "empty.png"}
    assert "zero bytes" in failed["empty.png"]
    assert all(bool(row["score"]) != bool(row["error"]) for row in rows)
    assert "broken.jpg" in messages


def test_a_missing_file_is_a_row_and_a_pattern_without_match_is_wrong_usage(score_photos, photos):
    code, rows, _ = score_photos(photos / "a.jpg", photos / "missing.jpg")
    assert (code, len(rows)) == (1, 2)
    assert "No such file" in rows[1]["error"]
    code, rows, messages = score_photos(photos / "*.tiff")
    assert (code, rows) == (2, [])
    assert "Found no images" in messages


@pytest.mark.parametrize("arguments", [["--output", "scores.xlsx"], ["--model", "/nowhere"], ["--seed", "x"]])
def test_wrong_usage_exits_with_2_before_anything_is_scored(score_photos, photos, arguments):
    code, rows, messages = score_photos(photos, *arguments)
    assert (code, rows) == (2, [])
    assert messages


def test_csv_jsonl_and_parquet_hold_the_same_rows(score_photos, photos, tmp_path):
    (photos / "empty.png").touch()
    _, rows, _ = score_photos(photos)
    for ending in ("csv", "jsonl", "parquet"):
        code, printed, _ = score_photos(photos, "--output", tmp_path / f"scores.{ending}")
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
    command = [sys.executable, "-m", "charm_hf_cli", "score", str(photos / "*.jpg"), "--model", str(checkpoint)]
    done = subprocess.run([*command, "--num-workers", "1"], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    assert [line.split(",")[0] for line in done.stdout.splitlines()] == [
        "path",
        f"{photos}/a.jpg",
        f"{photos}/c.jpg",
    ]
    assert "2/2" in done.stderr


def test_embeddings_are_what_the_pipeline_and_the_model_give_and_float16_in_parquet(
    score_photos, photos, checkpoint, tmp_path
):
    path = photos / "a.jpg"
    aesthetics = pipeline("image-aesthetics", model=str(checkpoint))
    features = aesthetics.model.get_image_features(**aesthetics.image_processor(str(path))).pooler_output[0].tolist()
    expected = pytest.approx(features, abs=2e-3)
    assert aesthetics(str(path), return_embeddings=True)["embedding"] == expected
    assert "embedding" not in aesthetics(str(path))
    score_photos(path, "--embeddings", "--output", tmp_path / "scores.parquet")
    table = pq.read_table(tmp_path / "scores.parquet")
    assert str(table.schema.field("embedding").type) == "list<element: halffloat>"
    assert table["embedding"][0].as_py() == expected
    _, (row,), _ = score_photos(path, "--embeddings")
    assert json.loads(row["embedding"]) == expected
    assert CharmScorer(str(checkpoint), embeddings=True)({"image": [str(path)]})["embedding"][0] == expected
    extract = pipeline("image-feature-extraction", model=str(checkpoint))
    assert np.shape(extract(str(path))) == (1, 1 + int(row["tokens"]), 32)
    assert extract(str(path), pool=True)[0] == expected


def test_what_to_install_is_said_once_for_all_photos_that_need_it(score_photos, photos, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    for number in range(25):
        (photos / f"IMG_{number}.HEIC").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    code, rows, messages = score_photos(photos)
    assert (code, len(rows)) == (1, 31)
    assert all("pip install 'charm-hf[photos]'" in row["error"] for row in rows if "HEIC" in row["path"])
    assert messages.count("pip install") == 1
    assert "(and 24 more like it)" in messages


def test_a_phones_photo_has_a_score(score_photos, photos):
    heif = pytest.importorskip("pillow_heif", reason="needs the extra `charm-hf[photos]`")
    heif.register_heif_opener()
    Image.open(photos / "a.jpg").save(photos / "IMG_1.HEIC")
    code, rows, _ = score_photos(photos / "IMG_1.HEIC")
    assert (code, rows[0]["error"]) == (0, "")


def test_warnings_of_libraries_stay_out_of_the_messages(photos, checkpoint, warm_commands):
    exif = Image.Exif()
    exif[0x010E] = "text"
    broken = exif.tobytes().replace(b"\x02\x00\x05\x00\x00\x00", b"\x02\x00\xff\xff\x00\x00")
    Image.new("RGB", (64, 64), "red").save(photos / "exif.jpg", exif=broken)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Image.open(photos / "exif.jpg").getexif()
    assert caught  # or the test shows nothing
    command = [warm_commands / "charm-hf", "score", photos, "--model", checkpoint]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "arning" not in done.stderr
