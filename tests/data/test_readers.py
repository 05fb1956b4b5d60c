"""Each published dataset, read from a miniature folder in its official format."""

import json
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
from dataset_builders import (
    BUILDERS,
    save_photo,
    write_aadb,
    write_ava,
    write_csv,
    write_koniq10k,
    write_koniq10k_without_sets,
    write_para,
    write_spaq,
    write_tad66k,
)
from PIL import Image

import charm_hf
from charm_hf.data import dataset_score_range, load_aesthetic_dataset, load_ava_comments, split_hash
from charm_hf.data.published import PublishedReader
from charm_hf.models.presets_charm import AADB_ATTRIBUTES, DATASET_PRESETS


OFFICIAL_SPLITS = {
    "ava": ["train", "test"],
    "aadb": ["train", "validation", "test"],
    "tad66k": ["train", "test"],
    "para": ["train", "test"],
    "baid": ["train", "validation", "test"],
    "koniq10k": ["train", "validation", "test"],
}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.mark.parametrize(
    ("name", "split"), [(name, split) for name, parts in OFFICIAL_SPLITS.items() for split in parts]
)
def test_official_split_holds_the_images_that_the_official_file_lists(tmp_path, name, split):
    ids = BUILDERS[name](tmp_path / name)

    dataset, report = load_aesthetic_dataset(name, tmp_path / name, split, return_report=True)

    assert dataset["image_id"][:] == ids[split]
    assert (report.rows, report.kept) == (len(ids[split]), len(ids[split]))
    assert str(dataset.split) == split


@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_every_dataset_gives_lazy_mapped_images_and_scores_in_its_own_range(tmp_path, name):
    BUILDERS[name](tmp_path / name)

    dataset, report = charm_hf.load_aesthetic_dataset(name, tmp_path / name, "train", return_report=True)

    preset = DATASET_PRESETS[name]
    assert isinstance(dataset.features["image"], datasets.Image)
    assert dataset.cache_files, "the table is mapped from a file"
    assert dataset[0]["image"].size == (48, 36)
    assert dataset.cast_column("image", datasets.Image(decode=False))[0]["image"]["bytes"] is None
    assert dataset_score_range(dataset) == preset.score_range == report.score_range
    assert preset.score_range[0] <= min(dataset["score"]) < max(dataset["score"]) <= preset.score_range[1]
    assert report.label_range == (min(dataset["score"]), max(dataset["score"]))
    assert ("distribution" in dataset.column_names) == (preset.score_values is not None)


@pytest.mark.parametrize("name", ["ava", "para"])
def test_distributions_sum_to_one_and_their_mean_is_the_score(tmp_path, name):
    BUILDERS[name](tmp_path)

    dataset = load_aesthetic_dataset(name, tmp_path, "train").with_format("numpy")

    distributions = dataset["distribution"][:]
    assert distributions.shape == (9, len(DATASET_PRESETS[name].score_values))
    np.testing.assert_allclose(distributions.sum(axis=1), 1, atol=1e-12)
    np.testing.assert_allclose(distributions @ DATASET_PRESETS[name].score_values, dataset["score"][:], atol=1e-12)


def test_a_reader_of_a_dataset_without_a_preset_tells_its_range_itself(tmp_path):
    class OwnReader(PublishedReader):
        name = "own"
        score_range = (1.0, 7.0)

    save_photo(tmp_path / "photos" / "a.jpg", 0.5)
    write_csv(tmp_path / "own.csv", ("photo", "rating"), [["a.jpg", 6]])
    reader = OwnReader(tmp_path)

    assert reader.scored(reader.table("own.csv", "photo"), "photo", "rating", "photos").scale.score_range == (1.0, 7.0)


def test_the_ava_line_of_the_official_file_is_read_as_documented(tmp_path):
    write_ava(tmp_path)
    (tmp_path / "AVA.txt").write_text("1 953619 0 1 5 17 38 36 15 6 5 1 1 22 1396\n")
    save_photo(tmp_path / "images" / "953619.jpg", 0.5)

    row = load_aesthetic_dataset("ava", tmp_path, "train")[0]

    counts = [0, 1, 5, 17, 38, 36, 15, 6, 5, 1]
    assert row["image_id"] == "953619"
    assert row["num_votes"] == sum(counts) == 124
    assert row["distribution"] == pytest.approx([count / 124 for count in counts])
    assert row["score"] == pytest.approx(sum(value * count for value, count in enumerate(counts, start=1)) / 124)


def test_comments_stand_beside_their_ava_image_and_are_empty_where_there_are_none(tmp_path):
    write_ava(tmp_path)
    comments = load_ava_comments(tmp_path / "AVA_Comments_Full.txt")

    by_flag = load_aesthetic_dataset("ava", tmp_path, "train", comments=True)
    by_path = load_aesthetic_dataset("ava", tmp_path, "train", comments=tmp_path / "AVA_Comments_Full.txt")
    by_value = load_aesthetic_dataset("ava", tmp_path, "train", comments=comments)

    assert by_flag["comments"][:] == by_path["comments"][:] == by_value["comments"][:]
    found = dict(zip(by_flag["image_id"], by_flag["comments"], strict=True))
    assert found["1007"] == ["great light, number 1", "I like it"]
    assert [] in found.values()


def test_comment_files_are_read_with_every_flaw_they_have(tmp_path):
    path = tmp_path / "AVA_Comments_Full.txt"
    lines = [
        "\ufeff0# 77 #Nice!# #second comment\r",  # BOM, padded id, empty comment, Windows line end
        "1#not an id#lost",
        "2",
        "3#78#we are #1\u2028in this\rchallenge",  # "#" splits; other line separators do not end the line
        "4#79#caf\u00e9",
        "5#77#on another line",
    ]
    path.write_bytes("\n".join(lines).encode() + b"\n6#80#bad \xff byte\n\n")

    comments = load_ava_comments(path)

    assert comments == {
        "77": ["Nice!", "second comment", "on another line"],
        "78": ["we are", "1\u2028in this\rchallenge"],
        "79": ["café"],
        "80": ["bad \ufffd byte"],
    }
    assert load_ava_comments(path, image_ids={"79"}) == {"79": ["café"]}


def test_a_file_without_comments_is_refused(tmp_path):
    (tmp_path / "other.txt").write_text("image,comment\n1,good\n")
    with pytest.raises(ValueError, match="field0#image_id#comment1"):
        load_ava_comments(tmp_path / "other.txt")
    with pytest.raises(FileNotFoundError, match=r"found in .*other"):
        load_ava_comments(tmp_path / "AVA_Comments_Full.txt")


@pytest.mark.parametrize("prefix_in_list", [False, True])
def test_new_test_images_of_aadb_are_found_under_their_score_prefix(tmp_path, prefix_in_list):
    ids = write_aadb(tmp_path, prefix_in_list=prefix_in_list)
    unprefixed = sorted((tmp_path / "AADB_newtest_originalSize").iterdir())[0]
    unprefixed.rename(unprefixed.with_name(unprefixed.name.split("_", 1)[1]))  # one copy lost its prefix

    dataset, report = load_aesthetic_dataset("aadb", tmp_path, "test", attributes=True, return_report=True)

    assert dataset["image_id"][:] == ids["test"]
    assert report.missing == 0
    assert all(row["image"].size == (48, 36) for row in dataset)


def test_aadb_attributes_come_in_the_order_of_the_configuration(tmp_path):
    ids = write_aadb(tmp_path)

    dataset = load_aesthetic_dataset("aadb", tmp_path, "validation", attributes=True)

    assert "attributes" not in load_aesthetic_dataset("aadb", tmp_path, "validation").column_names
    for column, attribute in enumerate(AADB_ATTRIBUTES):
        lines = (tmp_path / "imgListFiles_label" / f"imgListValidationRegression_{attribute}.txt").read_text()
        expected = {line.split()[0]: float(line.split()[1]) for line in lines.splitlines()}
        found = {row["image_id"]: row["attributes"][column] for row in dataset}
        assert found == {name: expected[name] for name in ids["validation"]}


def test_aadb_rows_with_an_attribute_missing_or_out_of_range_are_listed(tmp_path):
    ids = write_aadb(tmp_path)["train"]
    light = tmp_path / "imgListFiles_label" / "imgListTrainRegression_Light.txt"
    lines = light.read_text().splitlines()
    light.write_text("\n".join([lines[0].split()[0] + " 1.7", *lines[2:]]))

    dataset, report = load_aesthetic_dataset("aadb", tmp_path, "train", attributes=True, return_report=True)

    assert dataset["image_id"][:] == ids[2:]
    assert [(row.name, row.detail) for row in report.left_out["out_of_range"]] == [
        (ids[0], "Light is 1.7, expected -1 to 1"),
        (ids[1], "Light is nan, expected -1 to 1"),
    ]


def test_para_images_of_one_name_in_two_sessions_are_two_images(tmp_path):
    write_para(tmp_path)
    path = tmp_path / "annotation" / "PARA-GiaaTest.csv"
    header, row = path.read_text().splitlines()[:2]
    path.write_text(f"{header}\n{row}\n{row.replace('session1', 'session9').replace('session2', 'session9')}\n")
    name = row.split(",")[0]
    save_photo(tmp_path / "imgs" / "session9" / name, 0.5)

    dataset = load_aesthetic_dataset("para", tmp_path, "test")

    assert [image_id.split("/")[1] for image_id in dataset["image_id"]] == [name, name]


def test_the_header_tells_the_scale_of_koniq10k(tmp_path):
    write_koniq10k(tmp_path / "a")
    write_koniq10k_without_sets(tmp_path / "b")
    (tmp_path / "both").mkdir()
    for folder in ("a", "b"):
        for path in (tmp_path / folder).glob("*.csv"):
            (tmp_path / "both" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "both" / "1024x768").symlink_to(tmp_path / "a" / "1024x768")
    without_sets = tmp_path / "both" / "koniq10k_scores_and_distributions.csv"

    a = load_aesthetic_dataset("koniq10k", tmp_path / "a", "train")
    b, report = load_aesthetic_dataset("koniq10k", tmp_path / "b", "train", return_report=True)
    both = load_aesthetic_dataset("koniq10k", tmp_path / "both", "train")
    chosen = load_aesthetic_dataset("koniq10k", tmp_path / "both", "train", annotation_file=without_sets)

    assert (dataset_score_range(a), dataset_score_range(b)) == ((0, 100), (1, 5))
    assert report.score_range == (1, 5)
    assert max(a["score"]) > 5 >= max(b["score"])
    assert dataset_score_range(both) == (0, 100)
    assert dataset_score_range(chosen) == (1, 5)


def test_the_score_range_survives_what_users_do_with_a_dataset(tmp_path):
    write_koniq10k_without_sets(tmp_path / "koniq10k")
    train = load_aesthetic_dataset("koniq10k", tmp_path / "koniq10k", "train")
    test = load_aesthetic_dataset("koniq10k", tmp_path / "koniq10k", "test")

    train.save_to_disk(tmp_path / "saved")
    kept = [
        train.select([0, 2]),
        train.shuffle(seed=0),
        train.filter(lambda row: row["score"] > 2),
        train.map(lambda row: {"double": 2 * row["score"]}, remove_columns=["image_id"]),
        train.train_test_split(2)["test"],
        datasets.concatenate_datasets([train, test]),
        datasets.load_from_disk(tmp_path / "saved"),
        load_aesthetic_dataset(str(tmp_path / "saved"), split="train"),
    ]

    assert [dataset_score_range(dataset) for dataset in kept] == [(1, 5)] * len(kept)


def test_datasets_on_unlike_scales_are_not_taken_for_one(tmp_path):
    write_koniq10k(tmp_path / "a")
    write_koniq10k_without_sets(tmp_path / "b")
    a, b = (load_aesthetic_dataset("koniq10k", tmp_path / folder, "train") for folder in "ab")

    with pytest.raises(ValueError, match="one scale"):
        dataset_score_range(datasets.concatenate_datasets([a, b]))
    assert dataset_score_range(datasets.Dataset.from_dict({"score": [1.0]})) is None


def test_exif_rotation_is_applied_and_the_row_fits_the_image_reader(tmp_path):
    from charm_hf.models.image_loading_charm import load_image

    ids = write_tad66k(tmp_path)["train"]
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20), "red").save(tmp_path / "images" / ids[0], exif=exif)

    image = load_aesthetic_dataset("tad66k", tmp_path, "train")[0]["image"]

    assert image.size == load_image(image).size == load_image(tmp_path / "images" / ids[0]).size == (20, 40)


def test_images_may_lie_elsewhere(tmp_path):
    write_spaq(tmp_path / "spaq")
    (tmp_path / "spaq" / "TestImage").rename(tmp_path / "photos")

    dataset = load_aesthetic_dataset("spaq", tmp_path / "spaq", "train", image_dir=tmp_path / "photos")

    assert dataset[0]["image"].size == (48, 36)
    with pytest.raises(FileNotFoundError, match="TestImage"):
        load_aesthetic_dataset("spaq", tmp_path / "spaq", "train")


def test_relative_roots_give_paths_that_hold_from_any_folder(tmp_path, monkeypatch):
    write_tad66k(tmp_path / "tad66k")
    monkeypatch.chdir(tmp_path)
    dataset = load_aesthetic_dataset("tad66k", "tad66k", "train")

    monkeypatch.chdir("/")
    assert dataset[0]["image"].size == (48, 36)


@pytest.mark.slow
def test_another_process_sees_the_same_dataset_and_the_same_mapped_file(tmp_path):
    write_spaq(tmp_path / "spaq")
    options = {"validation_size": 2, "cache_dir": str(tmp_path / "shared-cache")}
    code = (
        "import json, sys; from charm_hf import load_aesthetic_dataset\n"
        f"d = load_aesthetic_dataset('spaq', {str(tmp_path / 'spaq')!r}, 'train', **{options!r})\n"
        "json.dump([d['image_id'][:], d.cache_files, d._fingerprint], sys.stdout)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True)

    here = load_aesthetic_dataset("spaq", tmp_path / "spaq", "train", **options)

    assert json.loads(run.stdout) == [here["image_id"][:], here.cache_files, here._fingerprint]
    assert Path(here.cache_files[0]["filename"]).is_relative_to(tmp_path / "shared-cache")


def test_the_hash_of_a_split_does_not_depend_on_the_order():
    assert split_hash(["2", "10", "1"]) == split_hash(["1", "2", "10"]) != split_hash(["1", "2"])
    # printf 'a\nb' | sha256sum
    assert split_hash(["b", "a"]) == "7e18f737311b2dc3b2f269dd78396b0351f14fb66efa879f768cb23181883c78"


def test_bom_and_windows_line_ends_change_nothing(tmp_path):
    write_para(tmp_path)
    expected = load_aesthetic_dataset("para", tmp_path, "train").to_dict()
    path = tmp_path / "annotation" / "PARA-GiaaTrain.csv"
    rows = [line.split(",") for line in path.read_text().splitlines()]
    write_csv(path, rows[0], rows[1:], newline="\r\n", bom=True)

    assert load_aesthetic_dataset("para", tmp_path, "train").to_dict() == expected
