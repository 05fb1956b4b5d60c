"""What is wrong with real downloads: met with a count and a list, or with an error that says what was expected."""

import logging

import datasets
import openpyxl
import pytest
from dataset_builders import (
    BUILDERS,
    save_photo,
    write_aadb,
    write_ava,
    write_baid,
    write_csv,
    write_koniq10k,
    write_para,
    write_spaq,
    write_tad66k,
)

from charm_hf.data import load_aesthetic_dataset


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def tad66k(tmp_path):
    """Folder and training ids of a miniature TAD66K."""
    return tmp_path / "tad66k", write_tad66k(tmp_path / "tad66k")["train"]


def _names(report, reason):
    return [row.name for row in report.left_out[reason]]


def test_missing_images_are_left_out_counted_listed_and_logged(tad66k, caplog):
    root, ids = tad66k
    (root / "images" / ids[1]).unlink()

    with caplog.at_level(logging.INFO, logger="charm_hf.data"):
        dataset, report = load_aesthetic_dataset("tad66k", root, "train", return_report=True)

    assert dataset["image_id"][:] == [ids[0], *ids[2:]]
    assert (report.rows, report.kept, report.missing) == (9, 8, 1)
    assert str(root / "images" / ids[1]) in report.left_out["missing"][0].detail
    record = caplog.records[-1]
    assert record.levelno == logging.WARNING
    assert "kept 8 of 9 rows" in record.message
    assert ids[1] in record.message


def test_a_flawless_split_is_logged_without_a_warning(tad66k, caplog):
    with caplog.at_level(logging.INFO, logger="charm_hf.data"):
        load_aesthetic_dataset("tad66k", tad66k[0], "train")
    assert [record.levelno for record in caplog.records] == [logging.INFO]


def test_truncated_empty_and_foreign_files_are_found_by_decoding_only(tad66k):
    root, ids = tad66k
    whole = (root / "images" / ids[0]).read_bytes()
    (root / "images" / ids[0]).write_bytes(whole[: len(whole) // 2])
    (root / "images" / ids[1]).write_bytes(b"")
    (root / "images" / ids[2]).write_text("<html>404</html>")
    (root / "images" / ids[3]).unlink()

    _, by_name = load_aesthetic_dataset("tad66k", root, "train", return_report=True)
    dataset, decoded = load_aesthetic_dataset("tad66k", root, "train", verify="decode", return_report=True)

    assert (by_name.missing, by_name.unreadable) == (1, 0)
    assert _names(decoded, "unreadable") == ids[:3]
    assert "empty" in decoded.left_out["unreadable"][1].detail
    assert _names(decoded, "missing") == [ids[3]]
    assert dataset["image_id"][:] == ids[4:]


@pytest.mark.parametrize("verify", [None, "none"])
def test_images_are_not_looked_at_unless_asked(tad66k, verify, monkeypatch):
    root, ids = tad66k
    (root / "images" / ids[0]).unlink()
    monkeypatch.setattr("os.scandir", lambda *_: pytest.fail("listed a folder"))
    dataset = load_aesthetic_dataset("tad66k", root, "train", verify=verify)
    assert dataset["image_id"][:] == ids


def test_existence_is_told_by_one_listing_of_the_folder(tad66k, monkeypatch):
    import builtins
    import os

    root, _ = tad66k
    images = str(root / "images")
    listed, real_scandir, real_open = [], os.scandir, builtins.open
    monkeypatch.setattr("os.scandir", lambda path=".": listed.append(str(path)) or real_scandir(path))
    monkeypatch.setattr(
        "builtins.open", lambda path, *a, **k: pytest.fail(path) if images in str(path) else real_open(path, *a, **k)
    )

    load_aesthetic_dataset("tad66k", root, "train")

    assert listed.count(images) == 1


def test_names_that_differ_in_case_separator_or_folder_are_found(tmp_path):
    ids = write_baid(tmp_path)["train"]
    rows = [
        [f"images\\{ids[0]}", 5],
        [f".\\{ids[1]}", 5],
        [ids[2].replace(".jpg", ".JPG"), 5],
        [f"images/{ids[3]}", 5],
    ]
    write_csv(tmp_path / "train_set.csv", ["image", "score"], rows, newline="\r\n", bom=True)

    dataset, report = load_aesthetic_dataset("baid", tmp_path, "train", return_report=True)

    assert report.kept == 4
    assert [row["image"].size for row in dataset] == [(48, 36)] * 4


def test_windows_sessions_of_para_are_found(tmp_path):
    ids = write_para(tmp_path)["test"]
    path = tmp_path / "annotation" / "PARA-GiaaTest.csv"
    path.write_text(path.read_text().replace("session1", ".\\session1").replace("session2", "session2\\"))
    dataset = load_aesthetic_dataset("para", tmp_path, "test")
    assert len(dataset) == len(ids)


def test_duplicated_rows_are_dropped_and_the_first_usable_one_is_kept(tad66k):
    root, ids = tad66k
    rows = [[ids[0], 4.0], [ids[1], 99], [ids[0], 6.0], [ids[1], 2.5], [ids[0], 4.0]]
    write_csv(root / "train.csv", ["image", "score"], rows)

    dataset, report = load_aesthetic_dataset("tad66k", root, "train", return_report=True)

    assert dict(zip(dataset["image_id"], dataset["score"], strict=True)) == {ids[0]: 4.0, ids[1]: 2.5}
    assert (report.rows, report.kept, report.duplicated, report.out_of_range) == (5, 2, 2, 1)


@pytest.mark.parametrize("score", ["10.5", "-0.1", "nan", "inf", "", "n/a", "1,5"])
def test_a_score_out_of_range_or_no_number_is_listed_and_left_out(tad66k, score):
    root, ids = tad66k
    write_csv(root / "train.csv", ["image", "score"], [[ids[0], score], [ids[1], 10], [ids[2], 0]])

    dataset, report = load_aesthetic_dataset("tad66k", root, "train", return_report=True)

    assert dataset["score"][:] == [10, 0]
    assert _names(report, "out_of_range") == [ids[0]]


def test_distributions_without_votes_or_with_negative_ones_are_listed(tmp_path):
    write_ava(tmp_path)
    lines = (tmp_path / "AVA.txt").read_text().splitlines()
    train = [
        line
        for line in lines
        if line.split()[1] not in (tmp_path / "aesthetics_image_lists/generic_test.jpgl").read_text()
    ]
    fields = [line.split() for line in train]
    fields[0][2:12] = ["0"] * 10
    fields[1][2] = "-3"
    (tmp_path / "AVA.txt").write_text("\n".join(" ".join(row) for row in fields))

    dataset, report = load_aesthetic_dataset("ava", tmp_path, "train", return_report=True)

    assert _names(report, "out_of_range") == [fields[0][1], fields[1][1]]
    assert report.left_out["out_of_range"][0].detail == "distribution of all zeros"
    assert len(dataset) == len(train) - 2


def test_broken_lines_of_ava_are_listed_by_number(tmp_path):
    ids = write_ava(tmp_path)
    path = tmp_path / "AVA.txt"
    flawed = (
        "\ufeff" + path.read_text().replace("\n", " \r\n") + "\r\n13 abc 0 0 1 1 1 1 1 1 1 1 1 22 1396\r\n14 15 16\r\n"
    )
    path.write_bytes(flawed.encode())
    (tmp_path / "aesthetics_image_lists/generic_test.jpgl").write_text(
        "\ufeff" + "\r\n".join([*ids["test"], "1234567"])
    )

    dataset, report = load_aesthetic_dataset("ava", tmp_path, "test", return_report=True)

    assert dataset["image_id"][:] == ids["test"]
    assert _names(report, "malformed") == ["AVA.txt:14", "AVA.txt:15", "1234567"]
    assert "expected 15 columns, found 3" in report.left_out["malformed"][1].detail
    assert report.rows == report.kept + report.malformed == 6


def test_rows_of_another_length_are_listed_by_line(tad66k):
    root, ids = tad66k
    text = f"image,score\r\n{ids[0]},3\r\n{ids[1]}\r\n\r\n{ids[2]},3,extra\r\n{ids[3]},3,,\r\n"
    (root / "train.csv").write_bytes(text.encode())

    dataset, report = load_aesthetic_dataset("tad66k", root, "train", return_report=True)

    assert dataset["image_id"][:] == [ids[0], ids[3]]
    assert _names(report, "malformed") == ["train.csv:3", "train.csv:5"]


def test_broken_lines_of_aadb_are_listed(tmp_path):
    ids = write_aadb(tmp_path)["train"]
    path = tmp_path / "imgListFiles_label" / "imgListTrainRegression_score.txt"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n") + b"alone.jpg\r\nwords.jpg good\r\n")

    dataset, report = load_aesthetic_dataset("aadb", tmp_path, "train", return_report=True)

    assert dataset["image_id"][:] == ids
    assert _names(report, "malformed") == ["imgListTrainRegression_score.txt:7"]
    assert _names(report, "out_of_range") == ["words.jpg"]


def test_spreadsheets_keep_their_numbers_through_blank_and_flawed_rows(tmp_path):
    ids = write_spaq(tmp_path)["all"]
    path = tmp_path / "Annotations" / "MOS and Image attribute scores.xlsx"
    workbook = openpyxl.load_workbook(path)
    sheet = workbook.active
    sheet["A1"], sheet["B1"] = " Image name ", "MOS "
    sheet["B2"], sheet["B3"] = "55.5", 101
    sheet.append([])
    sheet.append([None, 50])
    sheet.append([ids[3], 40])
    workbook.save(path)

    options = {"test_size": 1, "seed": 1, "splits_dir": tmp_path / "splits"}
    reports = [load_aesthetic_dataset("spaq", tmp_path, s, return_report=True, **options) for s in ("train", "test")]

    scores = {i: s for dataset, _ in reports for i, s in zip(dataset["image_id"], dataset["score"], strict=True)}
    assert scores[ids[0]] == 55.5
    assert ids[1] not in scores
    assert sum(report.duplicated for _, report in reports) == 1
    assert reports[0][1].malformed == 1


def test_unknown_sets_of_koniq10k_are_listed(tmp_path):
    write_koniq10k(tmp_path)
    path = tmp_path / "koniq10k_distributions_sets.csv"
    path.write_text(path.read_text().replace("training", "trian", 1))

    _, report = load_aesthetic_dataset("koniq10k", tmp_path, "train", return_report=True)

    assert report.kept == 5
    assert "'trian'" in report.left_out["malformed"][0].detail


@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_a_wrong_folder_tells_what_was_expected_and_what_is_there(tmp_path, name):
    (tmp_path / "holiday.jpg").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=r"expected .*found in .*holiday.jpg"):
        load_aesthetic_dataset(name, tmp_path, "train")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_aesthetic_dataset(name, tmp_path / "nowhere", "train")
    with pytest.raises(ValueError, match="expected a folder, found a file"):
        load_aesthetic_dataset(name, tmp_path / "holiday.jpg", "train")


@pytest.mark.parametrize(
    ("name", "file", "old", "new", "message"),
    [
        ("tad66k", "train.csv", "image,score", "img_name,mos", r"expected .*image, score.*found img_name, mos"),
        ("baid", "train_set.csv", "image,score", "image,score_mean", r"missing score"),
        ("para", "annotation/PARA-GiaaTrain.csv", "aestheticScore_2.5", "score_2.5", r"missing aestheticScore_2.5"),
        ("koniq10k", "koniq10k_distributions_sets.csv", "MOS", "mean", r"missing MOS"),
        ("koniq10k", "koniq10k_distributions_sets.csv", ",set", ",part", r"either a column `set` .*MOS_zscore.*found"),
        ("ava", "AVA.txt", " 1 22 1396", "", r"expected 15 integers a line.*found 12"),
        ("aadb", "imgListFiles_label/imgListTrainRegression_score.txt", " ", ",", r"expected `name value` a line"),
    ],
)
def test_a_header_of_another_version_tells_what_was_expected_and_found(tmp_path, name, file, old, new, message):
    BUILDERS[name](tmp_path)
    path = tmp_path / file
    path.write_bytes(path.read_bytes().replace(old.encode(), new.encode()))
    with pytest.raises(ValueError, match=message):
        load_aesthetic_dataset(name, tmp_path, "train")


def test_a_spreadsheet_of_another_version_is_refused(tmp_path):
    write_spaq(tmp_path)
    path = tmp_path / "Annotations" / "MOS and Image attribute scores.xlsx"
    workbook = openpyxl.load_workbook(path)
    workbook.active["B1"] = "Score"
    workbook.save(path)
    with pytest.raises(ValueError, match=r"missing MOS"):
        load_aesthetic_dataset("spaq", tmp_path, "train")
    path.write_text("Image name,MOS\n1.jpg,3\n")
    with pytest.raises(ValueError, match="expected an Excel workbook"):
        load_aesthetic_dataset("spaq", tmp_path, "train")


def test_a_split_without_a_usable_image_is_an_error_that_lists_where_it_looked(tad66k):
    root, ids = tad66k
    for image in (root / "images").iterdir():
        image.unlink()
    with pytest.raises(ValueError, match=rf"(?s)No usable image.*missing: 9: .*{ids[0]}"):
        load_aesthetic_dataset("tad66k", root, "train")


def test_an_annotation_file_without_rows_is_an_error(tad66k):
    (tad66k[0] / "train.csv").write_text("image,score\r\n")
    with pytest.raises(ValueError, match="No usable image"):
        load_aesthetic_dataset("tad66k", tad66k[0], "train")
    (tad66k[0] / "train.csv").write_text("")
    with pytest.raises(ValueError, match="missing image, score"):
        load_aesthetic_dataset("tad66k", tad66k[0], "train")


def test_wrong_arguments_are_refused_with_the_right_ones(tad66k):
    root, _ = tad66k
    with pytest.raises(ValueError, match="train, validation, test"):
        load_aesthetic_dataset("tad66k", root, "dev")
    with pytest.raises(ValueError, match="exists"):
        load_aesthetic_dataset("tad66k", root, "train", verify="open")
    with pytest.raises(TypeError, match="unknown option attributes"):
        load_aesthetic_dataset("tad66k", root, "train", attributes=True)
    with pytest.raises(ValueError, match=r"ava, aadb.*Hub id"):
        load_aesthetic_dataset("tad66", root, "train")
    with pytest.raises(ValueError, match="give the folder"):
        load_aesthetic_dataset("tad66k", split="train")


def test_a_cache_that_cannot_be_written_costs_memory_and_not_the_dataset(tad66k, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    dataset = load_aesthetic_dataset("tad66k", tad66k[0], "train", cache_dir=tmp_path / "file")
    assert len(dataset) == 9
    assert "stays in memory" in caplog.text


def test_the_report_is_readable(tmp_path):
    ids = write_tad66k(tmp_path)["train"]
    for image_id in ids[:5]:
        (tmp_path / "images" / image_id).unlink()
    save_photo(tmp_path / "images" / "unlisted.jpg", 0.5)

    _, report = load_aesthetic_dataset("tad66k", tmp_path, "train", return_report=True)

    lines = str(report).splitlines()
    assert lines[0] == "tad66k train: kept 4 of 9 rows"
    assert lines[1].startswith(f"  missing: 5: {ids[0]} (no file {tmp_path}")
    assert lines[1].endswith("; and 2 more")
    assert lines[2].startswith("  scores: ")
    assert lines[2].endswith("on a scale of 0 to 10")
