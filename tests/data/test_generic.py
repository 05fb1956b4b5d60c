"""Tables of one's own, Hub datasets and saved folders."""

import itertools
import json

import datasets
import numpy as np
import pytest
from dataset_builders import save_photo, write_ava, write_csv

from charm_hf.data import dataset_score_range, get_label_scale, load_aesthetic_dataset


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def photos(tmp_path):
    """Folder with six photos in `images/`, and their names."""
    names = [f"{index}.jpg" for index in range(6)]
    for index, name in enumerate(names):
        save_photo(tmp_path / "mine" / "images" / name, index / 5, seed=index)
    return tmp_path / "mine", names


def _rows(names, column="image"):
    return [{column: name, "score": float(index)} for index, name in enumerate(names)]


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "json", "parquet"])
def test_a_table_of_scores_is_read_in_every_format(photos, suffix):
    root, names = photos
    path = root / f"ratings.{suffix}"
    if suffix == "parquet":
        datasets.Dataset.from_list(_rows(names)).to_parquet(path)
    elif suffix.startswith("json"):
        path.write_text("".join(json.dumps(row) + "\n" for row in _rows(names)))
    else:
        separator = "," if suffix == "csv" else "\t"
        path.write_text(
            "\n".join(
                separator.join(map(str, row)) for row in [("image", "score"), *zip(names, range(6), strict=True)]
            )
        )

    for place in (path, root):  # the table, or the folder of a single table
        dataset = load_aesthetic_dataset("csv", place, "train", score_range=(0, 5))
        assert dataset["image_id"][:] == names
        assert dataset["score"][:] == [0, 1, 2, 3, 4, 5]
        assert dataset[3]["image"].size == (48, 36)
        assert dataset_score_range(dataset) == (0, 5)


def test_numbered_columns_are_bins_and_tell_the_range(photos):
    root, names = photos
    rows = [[name, *np.eye(3, dtype=int)[index % 3] * 4, "outdoors"] for index, name in enumerate(names)]
    write_csv(root / "votes.csv", ["file_name", "c1", "c3", "c2", "place"], rows)

    dataset = load_aesthetic_dataset("csv", root / "votes.csv", extra_columns=["place"])

    assert dataset[0]["distribution"] == [1, 0, 0]
    assert dataset[1]["distribution"] == [0, 0, 1], "bins stand in the order of their numbers"
    assert dataset["score"][:3] == [1, 3, 2]
    assert dataset_score_range(dataset) == (1, 3)
    assert get_label_scale(dataset).score_values == (1, 2, 3)
    assert dataset["place"][:] == ["outdoors"] * 6


def test_columns_and_bins_of_any_name_can_be_given(photos):
    root, names = photos
    rows = [[index, name, 1 + index, "x", 1, 3] for index, name in enumerate(names)]
    write_csv(root / "t.csv", ["key", "photo", "beauty", "note", "bad", "good"], rows)
    options = {"image_column": "photo", "score_column": "beauty", "id_column": "key"}

    scored = load_aesthetic_dataset("csv", root / "t.csv", score_range=(1, 5), **options)
    voted = load_aesthetic_dataset(
        "csv", root / "t.csv", image_column="photo", distribution_columns=["bad", "good"], score_values=[0, 10]
    )

    assert scored["image_id"][:] == ["0", "1", "2", "3", "4"], "6 is above the range"
    assert voted["score"][:] == [7.5] * 6
    assert dataset_score_range(voted) == (0, 10)
    with pytest.raises(ValueError, match="score_values="):
        load_aesthetic_dataset("csv", root / "t.csv", image_column="photo", distribution_columns=["bad", "good"])
    with pytest.raises(ValueError, match="expected 2 `score_values`"):
        load_aesthetic_dataset(
            "csv", root / "t.csv", image_column="photo", distribution_columns=["bad", "good"], score_values=[1, 2, 3]
        )


def test_lists_of_votes_and_comments_come_from_json_lines(photos):
    root, names = photos
    rows = [
        {"path": name, "distribution": [1, 1, 2], "comments": ["nice"] * index} for index, name in enumerate(names)
    ]
    rows[4]["distribution"] = [1, 2]
    lines = [json.dumps(row) for row in rows]
    (root / "t.jsonl").write_text("\ufeff" + "\r\n".join([*lines, "{broken", "[1]", ""]))

    dataset, report = load_aesthetic_dataset(
        "csv", root / "t.jsonl", score_values=[1, 2, 3], extra_columns=["comments"], return_report=True
    )

    assert dataset[2] | {"image": None} == {
        "image": None,
        "image_id": "2.jpg",
        "score": 2.25,
        "score_range": [1, 3],
        "score_values": [1, 2, 3],
        "distribution": [0.25, 0.25, 0.5],
        "comments": ["nice", "nice"],
    }
    assert [row.name for row in report.left_out["out_of_range"]] == ["4.jpg"]
    assert [row.name for row in report.left_out["malformed"]] == ["t.jsonl:7", "t.jsonl:8"]


def test_splits_come_from_a_column_or_from_one_table_each(photos):
    root, names = photos
    parts = ["train", "Training", "train", "val", "test", "test"]
    write_csv(root / "all.csv", ["image", "mean", "set"], [[n, 1, p] for n, p in zip(names, parts, strict=True)])
    by_column = {
        split: load_aesthetic_dataset("csv", root, split)["image_id"][:] for split in ("train", "validation", "test")
    }
    (root / "all.csv").unlink()
    write_csv(root / "train.csv", ["image", "mean"], [[name, 1] for name in names[:3]])
    write_csv(root / "valid.csv", ["image", "mean"], [[name, 1] for name in names[3:4]])

    assert by_column == {"train": names[:3], "validation": names[3:4], "test": names[4:]}
    assert load_aesthetic_dataset("csv", root, "validation")["image_id"][:] == names[3:4]
    with pytest.raises(ValueError, match="has no test part, only train, validation"):
        load_aesthetic_dataset("csv", root, "test")


def test_a_single_table_is_divided_on_request(photos):
    root, names = photos
    write_csv(root / "all.csv", ["image", "score"], [[name, 1] for name in names])
    sizes = {"test_size": 2, "validation_size": 1}
    parts = [load_aesthetic_dataset("csv", root, s, **sizes)["image_id"][:] for s in ("train", "validation", "test")]

    assert [len(part) for part in parts] == [3, 1, 2]
    assert sorted(itertools.chain(*parts)) == names
    with pytest.raises(ValueError, match="test_size="):
        load_aesthetic_dataset("csv", root, "test")


def test_a_table_without_the_needed_columns_tells_what_it_looked_for(photos):
    root, names = photos
    write_csv(root / "t.csv", ["photo", "beauty"], [[name, 1] for name in names])
    with pytest.raises(ValueError, match=r"image_path.*`image_column=`; found 'photo', 'beauty'"):
        load_aesthetic_dataset("csv", root / "t.csv")
    with pytest.raises(ValueError, match=r"score, mos.*`score_column=`; found 'photo', 'beauty'"):
        load_aesthetic_dataset("csv", root / "t.csv", image_column="photo")
    with pytest.raises(ValueError, match=r"expected a column 'mos', found 'photo', 'beauty'"):
        load_aesthetic_dataset("csv", root / "t.csv", image_column="photo", score_column="mos")
    with pytest.raises(FileNotFoundError, match=r"one a split .*; found none"):
        load_aesthetic_dataset("csv", root / "images")
    with pytest.raises(ValueError, match=r"expected a table \(.csv"):
        load_aesthetic_dataset("csv", root / "images" / names[0])


def test_paths_in_a_table_may_be_absolute_or_start_beside_it(photos, tmp_path):
    root, names = photos
    save_photo(root / "extra" / "a b.jpg", 0.5)
    rows = [[str(root / "images" / names[0]), 1], ["images/" + names[1], 1], ["extra\\a b.jpg", 1], ["gone.jpg", 1]]
    write_csv(root / "t.csv", ["path", "score"], rows)

    dataset, report = load_aesthetic_dataset("csv", root / "t.csv", return_report=True)

    assert [row["image"].size for row in dataset] == [(48, 36)] * 3
    assert report.missing == 1


def _embedded(root, names):
    """Dataset with the images inside: one empty, one truncated."""
    contents = [(root / "images" / name).read_bytes() for name in names]
    rows = [{"picture": {"bytes": content, "path": n}, "mos": 1.0} for content, n in zip(contents, names, strict=True)]
    rows[1]["picture"] = None
    rows[2]["picture"]["bytes"] = contents[2][:300]
    rows[3]["mos"] = 11.0
    features = datasets.Features(picture=datasets.Image(), mos=datasets.Value("float32"))
    return datasets.Dataset.from_list(rows, features=features)


@pytest.mark.parametrize(
    "source", ["saved", "saved dict", "parquet builder", "parquet table", "parquet without features"]
)
def test_embedded_images_are_read_from_saved_folders_and_parquet(photos, tmp_path, source):
    root, names = photos
    embedded = _embedded(root, names)
    options = {"image_column": "picture", "score_range": (1, 10), "return_report": True}
    place = tmp_path / "out"
    place.mkdir()
    if source == "saved":
        embedded.save_to_disk(place)
        arguments = (str(place),)
    elif source == "saved dict":
        datasets.DatasetDict(train=embedded, test=embedded.select([0])).save_to_disk(place)
        arguments = (str(place),)
    elif source == "parquet without features":
        import pyarrow.parquet

        pyarrow.parquet.write_table(embedded.data.table.replace_schema_metadata(None), place / "train.parquet")
        arguments = ("csv", place)
    else:
        embedded.to_parquet(place / "train.parquet")
        arguments = ("parquet" if source == "parquet builder" else "csv", place)

    dataset, report = load_aesthetic_dataset(*arguments, **options)
    decoded, decode_report = load_aesthetic_dataset(*arguments, verify="decode", **options)

    assert isinstance(dataset.features["image"], datasets.Image)
    assert dataset.cache_files
    assert dataset["score"][:] == [1.0] * 4
    assert (report.rows, report.kept, report.missing, report.out_of_range) == (6, 4, 1, 1)
    assert (decode_report.kept, decode_report.unreadable) == (3, 1)
    assert [row["image"].size for row in decoded] == [(48, 36)] * 3
    assert decoded["image_id"][:] == [names[0], names[4], names[5]]
    assert dataset_score_range(decoded) == (1, 10)


def test_embedded_images_are_decoded_only_when_their_row_is_read(photos, tmp_path, monkeypatch):
    root, names = photos
    _embedded(root, names).to_parquet(tmp_path / "t.parquet")
    with monkeypatch.context() as patch:
        patch.setattr("PIL.Image.open", lambda *_: pytest.fail("decoded an image"))
        dataset = load_aesthetic_dataset("csv", tmp_path / "t.parquet", image_column="picture", score_range=(1, 10))
    assert dataset[0]["image"].size == (48, 36)


def test_what_this_package_saved_comes_back_whole(tmp_path):
    write_ava(tmp_path / "ava")
    original = load_aesthetic_dataset("ava", tmp_path / "ava", "train", comments=True)
    original.save_to_disk(tmp_path / "saved")

    again = load_aesthetic_dataset(str(tmp_path / "saved"), split="train")

    assert again.features == original.features
    assert again.remove_columns("image").to_dict() == original.remove_columns("image").to_dict()
    assert get_label_scale(again) == get_label_scale(original)
    assert str(again.split) == "train"


def test_a_saved_folder_is_read_without_network(tmp_path, monkeypatch):
    write_ava(tmp_path / "ava")
    load_aesthetic_dataset("ava", tmp_path / "ava", "test").save_to_disk(tmp_path / "saved")
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("touched the network"))
    assert load_aesthetic_dataset(str(tmp_path / "saved"), split="test")[0]["image"].size == (48, 36)


def test_image_dir_has_no_use_for_embedded_images(photos, tmp_path):
    root, names = photos
    _embedded(root, names).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(ValueError, match="carries its images itself"):
        load_aesthetic_dataset("csv", tmp_path / "t.parquet", image_column="picture", image_dir=root)


def test_a_hub_dataset_is_asked_for_by_its_id_and_options(photos, tmp_path, monkeypatch):
    root, names = photos
    calls = []

    def load_dataset(*arguments, **options):
        calls.append((arguments, options))
        return datasets.DatasetDict(train=_embedded(root, names), val=_embedded(root, names))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    options = {"image_column": "picture", "load_options": {"revision": "v1"}, "splits_dir": tmp_path}

    dataset = load_aesthetic_dataset("owner/name", split="validation", **options)

    assert calls == [(("owner/name",), {"revision": "v1"})]
    assert len(dataset) == 5
    assert dataset_score_range(dataset) is None
    with pytest.raises(ValueError, match="owner--name has no test part, only train, validation"):
        load_aesthetic_dataset("owner/name", split="test", **options)
