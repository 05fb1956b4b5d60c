import csv
import io
import json
import os
import shutil
import sys
import tarfile
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from charm_hf.scoring import DatasetSource, SourceOptions, list_items, open_source
from charm_hf.scoring.progress import Listing


def names_of(items, root):
    return [os.path.relpath(item.path, root) for item in items]


def make_tar(path, members):
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def test_a_folder_is_read_to_any_depth_in_the_order_of_names(tmp_path):
    folder = tmp_path
    for _ in range(300):
        folder = folder / "d"
    os.makedirs(folder)
    (folder / "deep.jpg").touch()
    (tmp_path / "a.JPG").touch()
    (tmp_path / "z.png").touch()
    assert [os.path.basename(item.path) for item in list_items([tmp_path])] == ["a.JPG", "deep.jpg", "z.png"]


def test_symbolic_links_are_followed_once_and_loops_end(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "photo.jpg").touch()
    (tmp_path / "a" / "b" / "up").symlink_to("../..")
    (tmp_path / "again").symlink_to("a")
    (tmp_path / "broken.jpg").symlink_to("nowhere")
    assert names_of(list_items([tmp_path]), tmp_path) == ["a/b/photo.jpg", "broken.jpg"]


def test_what_a_folder_holds_besides_images_is_told(tmp_path):
    for name in ("a.jpg", "notes.txt", "photo.doc", "photo.jpg.xmp"):
        (tmp_path / name).touch()
    passed_over = []
    assert names_of(list_items([tmp_path], on_skipped=lambda *told: passed_over.append(told)), tmp_path) == ["a.jpg"]
    assert [(os.path.basename(path), kind) for path, kind in passed_over] == [
        ("notes.txt", ".txt"),
        ("photo.doc", ".doc"),
        ("photo.jpg.xmp", ".xmp"),
    ]


JUNK = {
    "._a.jpg": "hidden",
    ".cache/b.jpg": "hidden",
    "@eaDir/a.jpg/SYNOPHOTO_THUMB_M.jpg": "in folders of thumbnails and bins",
    "Catalog Previews.lrdata/0/1.jpg": "in folders of thumbnails and bins",
    ".thumbnails/normal/c.png": "in folders of thumbnails and bins",
    "sub/notes.TXT": ".txt",
    "sub/README": "no extension",
}


def make_files(root, names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_junk_is_passed_over_and_every_file_of_it_is_counted_by_kind(tmp_path):
    make_files(tmp_path, [*JUNK, "a.jpg", "sub/b.jpg"])
    told = {}
    found = list_items([tmp_path], on_skipped=lambda path, kind: told.update({os.path.relpath(path, tmp_path): kind}))
    assert names_of(found, tmp_path) == ["a.jpg", "sub/b.jpg"]
    assert told == JUNK
    matched = list_items([f"{tmp_path}/*/*/*"])
    assert names_of(matched, tmp_path) == []
    named = [tmp_path / ".cache", tmp_path / "@eaDir" / "a.jpg", tmp_path / "._a.jpg"]
    assert names_of(list_items(named), tmp_path) == [
        ".cache/b.jpg",
        "@eaDir/a.jpg/SYNOPHOTO_THUMB_M.jpg",
        "._a.jpg",
    ]


def test_patterns_exclude_files_and_folders_and_include_only_some(tmp_path):
    make_files(tmp_path, ["a.jpg", "a_edited.jpg", "drafts/b.jpg", "drafts/deep/c.jpg", "x/d.PNG", "x/e.jpg"])

    def found(paths=(tmp_path,), **options):
        return names_of(list_items(paths, SourceOptions(**options)), tmp_path)

    assert found(exclude=("*_edited*", "drafts")) == ["a.jpg", "x/d.PNG", "x/e.jpg"]
    assert found(exclude=("drafts/deep/*",)) == ["a.jpg", "a_edited.jpg", "drafts/b.jpg", "x/d.PNG", "x/e.jpg"]
    assert found(include=("*.jpg",), exclude=("drafts",)) == ["a.jpg", "a_edited.jpg", "x/e.jpg"]
    assert found([f"{tmp_path}/*/*.jpg"], exclude=("e.*",)) == ["drafts/b.jpg"]
    assert found([tmp_path / "a_edited.jpg"], exclude=("*_edited*",)) == ["a_edited.jpg"]


def test_a_file_with_any_name_is_tried_when_it_is_named_or_matched(tmp_path):
    for name in ("scan", "photo.dat"):
        (tmp_path / name).touch()
    assert names_of(list_items([tmp_path / "scan", tmp_path / "*.dat"]), tmp_path) == ["scan", "photo.dat"]


def test_a_name_with_brackets_is_a_file_before_it_is_a_pattern(tmp_path):
    (tmp_path / "photo[1].jpg").touch()
    (tmp_path / "photo1.jpg").touch()
    assert names_of(list_items([tmp_path / "photo[1].jpg"]), tmp_path) == ["photo[1].jpg"]


@pytest.mark.parametrize(
    ("null", "content"), [(False, b"a.jpg\nb c.jpg\r\n\nd.jpg"), (True, b"a.jpg\0b c.jpg\0d.jpg\0")]
)
def test_paths_come_from_standard_input(monkeypatch, null, content):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    items = list_items(["-"], SourceOptions(null_separated=null))
    assert [item.path for item in items] == ["a.jpg", "b c.jpg", "d.jpg"]


def test_odd_names_stand_in_the_listing_and_in_the_table(tmp_path):
    odd = [b"new\nline.jpg", b"bad\xff\xfe.jpg", "smile😀.jpg".encode(), b'quote",comma.jpg']
    for name in odd:
        open(os.path.join(os.fsencode(tmp_path), name), "wb").close()
    listing = Listing.write(tmp_path / "listing.jsonl", list_items([tmp_path]))
    items = list(listing.items())
    assert sorted(os.fsencode(os.path.basename(item.image)) for item in items) == sorted(odd)
    assert {os.path.basename(item.path) for item in items} == {
        "new\nline.jpg",
        r"bad\xff\xfe.jpg",
        "smile😀.jpg",
        'quote",comma.jpg',
    }
    assert all(os.path.exists(item.image) for item in items)


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
def test_a_table_names_images_relative_to_its_own_folder(tmp_path, ending):
    rows = [{"id": 7, "file_name": "x/a.jpg"}, {"id": 8, "file_name": "/abs/b.jpg"}, {"id": 9, "file_name": None}]
    table = tmp_path / f"list.{ending}"
    if ending == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), table)
    elif ending == "jsonl":
        table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        with table.open("w", newline="", encoding="utf-8-sig") as file:
            writer = csv.DictWriter(file, rows[0], delimiter="\t" if ending == "tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    items = list(list_items([table], SourceOptions(key_column="id")))
    assert [item.path for item in items][:2] == ["x/a.jpg", "/abs/b.jpg"]
    assert [item.image for item in items] == [f"{tmp_path}/x/a.jpg", "/abs/b.jpg", None]
    assert [item.key for item in items] == ["7", "8", "9"]
    assert "Row 3 has no path" in items[2].error
    assert next(list_items([table], SourceOptions(root="/photos"))).image == "/photos/x/a.jpg"


def test_a_table_without_a_column_of_paths_names_the_columns_it_has(tmp_path):
    (tmp_path / "list.csv").write_text("id,where\n1,a.jpg\n")
    with pytest.raises(ValueError, match="--path-column; found 'id', 'where'"):
        list(list_items([tmp_path / "list.csv"]))
    with pytest.raises(ValueError, match="a column 'photo', found 'id', 'where'"):
        list(list_items([tmp_path / "list.csv"], SourceOptions(path_column="photo")))
    assert next(list_items([tmp_path / "list.csv"], SourceOptions(path_column="where"))).path == "a.jpg"


def test_a_shard_gives_its_images_with_webdataset_keys(tmp_path):
    members = {"000/a.jpg": b"A" * 700, "000/a.json": b"{}", "000/b.left.png": b"B" * 3, "c.txt": b"no image"}
    shard = make_tar(tmp_path / "shard-0.tar", members)
    items = list(list_items([tmp_path / "*.tar"]))
    assert [(item.path, item.key) for item in items] == [
        (f"{shard}/000/a.jpg", "000/a"),
        (f"{shard}/000/b.left.png", "000/b"),
    ]
    assert [item.read()["bytes"] for item in items] == [members["000/a.jpg"], members["000/b.left.png"]]


def test_damage_in_a_shard_is_a_row_and_never_a_silent_end(tmp_path):
    shard = make_tar(tmp_path / "shard.tar", {f"{index}.jpg": b"x" * 100 for index in range(4)})
    content = bytearray(shard.read_bytes())
    content[2048:2100] = b"\xff" * 52  # the third header
    shard.write_bytes(content)
    items = list(list_items([shard]))
    assert [item.key for item in items] == ["0", "1", None]
    assert "damaged after '1.jpg'" in items[2].error
    (tmp_path / "no.tar").write_bytes(b"this is no archive" * 100)
    (item,) = list_items([tmp_path / "no.tar"])
    assert "cannot be read" in item.error


@pytest.fixture
def dataset(photos):
    paths = sorted(str(path) for path in photos.glob("*.*"))
    rows = {"name": [os.path.basename(path) for path in paths], "photo": paths}
    return datasets.Dataset.from_dict(rows).cast_column("photo", datasets.Image())


def test_a_dataset_on_disk_gives_undecoded_images_from_any_row_on(dataset, tmp_path):
    dataset.save_to_disk(tmp_path / "saved")
    source = open_source([tmp_path / "saved"], SourceOptions(key_column="name"))
    assert source.count == 4
    assert [item.key for item in source.items(2)] == ["c.jpg", "d.webp"]
    again = open_source([tmp_path / "saved"], SourceOptions(key_column="name"))
    assert source.identity() == again.identity()
    assert all(isinstance(item.image, (dict, str)) for item in source.items())


def test_a_streamed_dataset_and_a_parquet_file_of_images_give_the_same_items(dataset, tmp_path):
    streamed = list(DatasetSource(dataset.to_iterable_dataset(), key_column="name").items(1))
    assert [item.key for item in streamed] == ["b.png", "c.jpg", "d.webp"]
    content = [{"path": path.name, "bytes": path.read_bytes()} for path in map(Path, _paths(dataset))]
    pq.write_table(pa.table({"image": content}), tmp_path / "images.parquet")
    items = list(open_source([tmp_path / "images.parquet"]).items())
    assert [(item.path, item.key) for item in items] == [
        (name, str(number)) for number, name in enumerate(dataset["name"])
    ]
    assert items[0].image["bytes"] == content[0]["bytes"]


def _paths(dataset):
    return [row["path"] for row in dataset.cast_column("photo", datasets.Image(decode=False))["photo"]]


def test_wrong_columns_splits_and_mixtures_are_named(dataset, tmp_path):
    datasets.DatasetDict({"test": dataset, "extra": dataset}).save_to_disk(tmp_path / "splits")
    with pytest.raises(ValueError, match="no split 'train': found 'test', 'extra'"):
        open_source([tmp_path / "splits"])
    assert open_source([tmp_path / "splits"], SourceOptions(split="test")).count == 4
    with pytest.raises(ValueError, match="no column 'id': found 'name', 'photo'"):
        open_source([tmp_path / "splits"], SourceOptions(key_column="id", split="test"))
    with pytest.raises(ValueError, match="score it alone"):
        open_source([tmp_path / "splits", tmp_path])
    shutil.rmtree(tmp_path / "splits")


def test_a_pattern_of_parquet_files_that_hold_images_is_one_dataset(photos, tmp_path):
    content = [{"bytes": path.read_bytes(), "path": path.name} for path in sorted(photos.glob("*.jpg"))]
    pq.write_table(pa.table({"image": content[:1]}), tmp_path / "part-0.parquet")
    pq.write_table(pa.table({"image": content[1:]}), tmp_path / "part-1.parquet")
    source = open_source([f"{tmp_path}/part-*.parquet"])
    assert source.count == len(content)
    assert [item.path for item in source.items()] == [image["path"] for image in content]
    with pytest.raises(ValueError, match="score it alone"):
        list(open_source([f"{tmp_path}/*"]).items())
    with pytest.raises(ValueError, match="score it alone"):
        open_source([f"{tmp_path}/part-*.parquet", photos])
