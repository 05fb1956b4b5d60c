"""`charm-hf score --comments`: checkpoints that read what people said."""

import csv
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mmlq_fixtures import tiny_model, tiny_processor

from charm_hf.scoring import Comments, Item, read_comments, score_images
from charm_hf_cli import main


@pytest.fixture(scope="module", params=["clip", "charm"])
def reader(request, tmp_path_factory):
    """Folder of a checkpoint that reads comments, with its model and processor."""
    folder = tmp_path_factory.mktemp("reader") / request.param
    model, processor = tiny_model(request.param), tiny_processor(request.param)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder, model, processor


@pytest.fixture
def score(capsys):
    def run(*arguments):
        with pytest.raises(SystemExit) as stop:
            main(["score", *map(str, arguments)])
        captured = capsys.readouterr()
        return stop.value.code, list(csv.DictReader(io.StringIO(captured.out, newline=""))), captured.err

    return run


def write_comments(path, *rows):
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("path", "comment"), *rows])
    return path


def test_a_photo_is_scored_with_and_without_comments(score, reader, photos, tmp_path):
    folder, model, processor = reader
    photo = photos / "a.jpg"
    comments = write_comments(tmp_path / "comments.csv", (photo, "great light"), (photo, "lovely, tone"))
    code, (said,), messages = score(photo, "--model", folder, "--comments", comments)
    assert code == 0
    assert "Comments were found on 1 of 1 photos." in messages
    _, (silent,), _ = score(photo, "--model", folder)
    for row, texts in ((said, ["great light", "lovely, tone"]), (silent, None)):
        expected = model(**processor(photo, texts))
        assert float(row["score"]) == pytest.approx(expected.scores.item(), abs=2e-5)
        assert float(row["std"]) == pytest.approx(expected.std.item(), abs=2e-5)
    assert abs(float(said["score"]) - float(silent["score"])) > 1e-3


def test_a_folder_is_scored_with_comments_on_some_of_its_photos(score, reader, photos, tmp_path):
    folder, model, processor = reader
    comments = write_comments(tmp_path / "comments.csv", ("b.png", "dull colours"), (photos / "sub/e.jpg", "great"))
    output = tmp_path / "scores.csv"
    options = ("--comments", comments, "--output", output, "--batch-size", 3)
    code, _, messages = score(photos, "--model", folder, *options)
    assert code == 0
    assert "Comments were found on 2 of 6 photos." in messages
    said = {"b.png": ["dull colours"], "e.jpg": ["great"]}
    for row in csv.DictReader(output.open()):
        texts = said.get(row["path"].rsplit("/", 1)[1])
        assert float(row["score"]) == pytest.approx(model(**processor(row["path"], texts)).scores.item(), abs=2e-5)
        if folder.name == "clip":
            assert (
                int(row["tokens"])
                == (model.config.vision_config.image_size // model.config.vision_config.patch_size) ** 2
            )


def test_a_checkpoint_that_reads_nothing_refuses_comments(score, checkpoint, photos, tmp_path):
    comments = write_comments(tmp_path / "comments.csv", ("a.jpg", "great"))
    code, rows, messages = score(photos / "a.jpg", "--model", checkpoint, "--comments", comments)
    assert code == 2
    assert rows == []
    assert "reads no comments" in messages


def test_the_library_scores_with_comments_as_the_command_does(reader, photos):
    folder, model, processor = reader
    (row,) = score_images(photos / "a.jpg", folder, comments=Comments({"a.jpg": ["great light"]}))
    assert row.score == pytest.approx(model(**processor(photos / "a.jpg", ["great light"])).scores.item(), abs=2e-5)


def test_parameters_of_charm_are_refused_by_other_encoders(score, reader, photos):
    folder = reader[0]
    code, _, messages = score(photos / "a.jpg", "--model", folder, "--patch-selection", "gradient")
    assert code == (0 if folder.name == "charm" else 2)
    assert ("only Charm tokens have these parameters" in messages) == (folder.name != "charm")


def test_comments_come_from_any_kind_of_table(tmp_path):
    rows = [("a.jpg", "great"), ("b.jpg", "dull"), ("a.jpg", "sharp")]
    write_comments(tmp_path / "c.csv", *rows)
    (tmp_path / "c.tsv").write_text("file_name\ttext\n" + "".join(f"{path}\t{text}\n" for path, text in rows))
    lists = [{"image": "a.jpg", "comments": ["great", "sharp"]}, {"image": "b.jpg", "comments": ["dull"]}]
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lists))
    pq.write_table(pa.Table.from_pylist(lists), tmp_path / "c.parquet")
    for kind in ("csv", "tsv", "jsonl", "parquet"):
        assert read_comments(tmp_path / f"c.{kind}").by_photo == {"a.jpg": ["great", "sharp"], "b.jpg": ["dull"]}


def test_a_photo_is_found_by_path_key_or_a_name_that_only_one_has():
    comments = Comments({"x/1.jpg": ["a"], "y/1.jpg": ["b"], "2.jpg": ["c"], "sample-7": ["d"]})
    assert comments.of(Item("x/1.jpg")) == ["a"]
    assert comments.of(Item("z/1.jpg")) == []
    assert comments.of(Item("z/2.jpg")) == ["c"]
    assert comments.of(Item("shard.tar/7.jpg", key="sample-7")) == ["d"]
    assert comments.digest() != Comments({"2.jpg": ["c"]}).digest()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c.txt", "path,comment\n", "ends in .csv"),
        ("c.csv", "path,score\na.jpg,1\n", "a column with the comment"),
        ("c.csv", "photo,comment\na.jpg,great\n", "a column with the path"),
        ("c.jsonl", '{"path": "a.jpg", "comment": 3}\n', "Row 1 .* must hold a path and text"),
        ("c.jsonl", '{"path": "a.jpg", "comment"\n', "cannot be read as .jsonl"),
    ],
)
def test_a_table_without_comments_is_refused(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        read_comments(tmp_path / name)
