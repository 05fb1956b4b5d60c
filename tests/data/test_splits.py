"""Seeded parts: the same on every machine, written down, and read again."""

import itertools
import json
import logging

import datasets
import pytest
from dataset_builders import write_aadb, write_ava, write_koniq10k_without_sets, write_spaq, write_tad66k

from charm_hf.data import load_aesthetic_dataset, split_hash
from charm_hf.data.splits import draw_part


SIZES = {"train": 20}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def _ids(name, root, split, **options):
    return load_aesthetic_dataset(name, root, split, **options)["image_id"][:]


@pytest.mark.parametrize(("name", "write"), [("spaq", write_spaq), ("koniq10k", write_koniq10k_without_sets)])
def test_datasets_without_official_splits_are_divided_80_to_20(tmp_path, name, write):
    ids = write(tmp_path, SIZES)["all"]

    train, test = (_ids(name, tmp_path, split) for split in ("train", "test"))

    assert (len(train), len(test)) == (16, 4)
    assert sorted(train + test) == ids


def test_the_written_split_is_read_again_and_says_how_it_was_made(tmp_path):
    write_spaq(tmp_path, SIZES)
    test, report = load_aesthetic_dataset("spaq", tmp_path, "test", return_report=True)

    path = tmp_path / "charm_hf_splits" / "spaq-test0.2-seed0.json"
    record = json.loads(path.read_text())

    assert report.split_files == [str(path)]
    assert record["image_ids"] == test["image_id"][:]
    assert record["sha256"] == split_hash(test["image_id"])
    assert record["drawn_from"]["images"] == 20
    # What stands in the file is what counts from now on.
    record["image_ids"] = ["00001.jpg", "00002.jpg"]
    path.write_text(json.dumps(record))
    assert _ids("spaq", tmp_path, "test") == ["00001.jpg", "00002.jpg"]
    assert "00001.jpg" not in _ids("spaq", tmp_path, "train")


def test_a_split_depends_on_the_seed_and_on_nothing_but_ids(tmp_path):
    write_spaq(tmp_path / "a", SIZES, seed=0)
    write_spaq(tmp_path / "b", SIZES, seed=1)  # other scores, same names
    for image in sorted((tmp_path / "b" / "TestImage").iterdir())[:3]:
        image.unlink()

    a, b = (set(_ids("spaq", tmp_path / folder, "test")) for folder in "ab")
    other_seed = set(_ids("spaq", tmp_path / "a", "test", seed=1))

    assert b <= a, "a missing image moves no other image between the parts"
    assert other_seed != a


def test_the_draw_is_pinned():
    ids = [str(number) for number in range(10)]
    assert draw_part(ids, 3, seed=0) == draw_part(ids, 0.3, seed=0)
    assert set(draw_part(ids, 3, seed=0)) == set(draw_part(ids[::-1], 3, seed=0))
    # for i in $(seq 0 9); do echo "$(printf '0:%s' $i | sha256sum) $i"; done | sort | head -3
    assert draw_part(ids, 3, seed=0) == ["4", "7", "9"]


@pytest.mark.parametrize("size", [0, 20, 1.0, -0.5, 0.0, 1.5])
def test_a_part_must_leave_images_on_both_sides(size):
    with pytest.raises(ValueError, match="leave an image on both"):
        draw_part([str(number) for number in range(20)], size, seed=0)


@pytest.mark.parametrize("size", [4, 0.2])
def test_a_validation_part_is_taken_out_of_train_on_request(tmp_path, size):
    ids = write_ava(tmp_path, {"train": 20, "test": 5})

    train, validation, test = (
        _ids("ava", tmp_path, split, validation_size=size) for split in ("train", "validation", "test")
    )

    assert len(validation) == 4
    assert sorted(train + validation) == sorted(ids["train"])
    assert test == ids["test"]
    assert _ids("ava", tmp_path, "train") == ids["train"], "without the option, train is whole"


def test_a_validation_part_of_a_seeded_train_part_leaves_test_alone(tmp_path):
    ids = write_spaq(tmp_path, SIZES)["all"]
    parts = [_ids("spaq", tmp_path, split, validation_size=0.25) for split in ("train", "validation", "test")]

    assert [len(part) for part in parts] == [12, 4, 4]
    assert sorted(itertools.chain(*parts)) == ids
    assert parts[2] == _ids("spaq", tmp_path, "test")


def test_asking_for_a_part_that_is_not_there_tells_how_to_get_it(tmp_path):
    write_tad66k(tmp_path / "tad66k")
    write_aadb(tmp_path / "aadb")
    with pytest.raises(ValueError, match=r"only train, test: give `validation_size="):
        load_aesthetic_dataset("tad66k", tmp_path / "tad66k", "validation")
    with pytest.raises(ValueError, match="official validation part"):
        load_aesthetic_dataset("aadb", tmp_path / "aadb", "train", validation_size=0.1)
    with pytest.raises(ValueError, match=r"official splits train, test"):
        load_aesthetic_dataset("tad66k", tmp_path / "tad66k", "test", test_size=0.1)


def test_a_split_of_other_annotations_is_refused(tmp_path):
    write_spaq(tmp_path, SIZES)
    load_aesthetic_dataset("spaq", tmp_path, "test")
    (tmp_path / "Annotations" / "MOS and Image attribute scores.xlsx").unlink()
    (tmp_path / "Annotations").rmdir()
    write_spaq(tmp_path, {"train": 21})

    with pytest.raises(ValueError, match=r"drawn from other images \(20\) than the annotations hold now \(21\)"):
        load_aesthetic_dataset("spaq", tmp_path, "train")
    assert len(_ids("spaq", tmp_path, "train", splits_dir=tmp_path / "new")) == 17


def test_a_foreign_file_in_the_place_of_a_split_is_refused(tmp_path):
    write_spaq(tmp_path, SIZES)
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits" / "spaq-test0.2-seed0.json").write_text("[1, 2]")
    with pytest.raises(ValueError, match="expected a split file"):
        load_aesthetic_dataset("spaq", tmp_path, "train", splits_dir=tmp_path / "splits")


def test_the_split_of_a_read_only_dataset_is_kept_in_the_cache(tmp_path, caplog):
    write_spaq(tmp_path / "spaq", SIZES)
    (tmp_path / "spaq" / "charm_hf_splits").write_text("a file in the way, as a read-only folder would be")

    with caplog.at_level(logging.WARNING):
        test, report = load_aesthetic_dataset("spaq", tmp_path / "spaq", "test", return_report=True)

    assert report.split_files[0].startswith(str(tmp_path / "cache"))
    assert "could not be written beside the data" in caplog.text
    assert set(_ids("spaq", tmp_path / "spaq", "train")).isdisjoint(test["image_id"][:])


def test_duplicated_rows_do_not_cross_the_border_between_parts(tmp_path):
    ids = write_tad66k(tmp_path, {"train": 20, "test": 2})["train"]
    path = tmp_path / "train.csv"
    path.write_bytes(path.read_bytes() + b"".join(path.read_bytes().splitlines(keepends=True)[1:]))

    reports = [
        load_aesthetic_dataset("tad66k", tmp_path, split, validation_size=5, return_report=True)[1]
        for split in ("train", "validation")
    ]

    assert [report.kept for report in reports] == [15, 5]
    assert sum(report.duplicated for report in reports) == len(ids)
