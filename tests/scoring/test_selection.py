import io
from xml.etree import ElementTree

import pytest
from PIL import Image

from charm_hf.scoring import (
    Item,
    Scorer,
    ScoreRow,
    ScoringOptions,
    Selection,
    Summary,
    TableOptions,
    load_for_scoring,
)
from charm_hf.scoring.batching import chunk_items
from charm_hf.scoring.run import write_table
from charm_hf.scoring.selection import copy_photo, stars, write_rating


ROWS = [
    ScoreRow("a", score=5.0, normalized_score=0.5),
    ScoreRow("b", error="broken"),
    ScoreRow("c", score=7.0, normalized_score=0.7),
    ScoreRow("d", score=5.0, normalized_score=0.5),
    ScoreRow("e", score=2.0, normalized_score=0.2),
]


def kept(**options):
    return "".join(row.path for row, _ in Selection(**options).apply((row, None) for row in ROWS))


def test_a_threshold_keeps_the_order_and_top_gives_the_best_first_and_failures_stay():
    assert kept() == "abcde"
    assert kept(threshold=5.0) == "abcd"
    assert kept(top=2) == "cab"
    assert kept(top=9) == "cadeb"
    assert kept(top=9, threshold=5.0) == "cadb"


def test_ratings_are_fifths_of_the_range():
    assert [stars(score) for score in (-0.1, 0.0, 0.19, 0.2, 0.59, 0.6, 0.99, 1.0)] == [1, 1, 1, 2, 3, 4, 5, 5]


def test_a_sidecar_is_valid_xmp_and_never_replaces_a_persons(tmp_path):
    photo = tmp_path / "photo.jpg"
    assert write_rating(photo, 0.7)
    sidecar = tmp_path / "photo.jpg.xmp"
    (description,) = ElementTree.fromstring(sidecar.read_bytes()).iter(
        "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description"
    )
    assert description.attrib["{http://ns.adobe.com/xap/1.0/}Rating"] == "4"
    assert write_rating(photo, 0.1)
    assert 'xmp:Rating="1"' in sidecar.read_text(encoding="utf-8")
    theirs = sidecar.read_text(encoding="utf-8").replace("charm-hf", "XMP Core 6.0")
    sidecar.write_text(theirs, encoding="utf-8")
    assert not write_rating(photo, 0.9)
    assert sidecar.read_text(encoding="utf-8") == theirs


def test_copies_keep_apart_what_has_the_same_name_and_doing_it_twice_adds_nothing(tmp_path):
    for folder, content in (("one", b"1"), ("two", b"2")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "photo.jpg").write_bytes(content)
    for _ in range(2):
        for folder in ("one", "two"):
            copy_photo(Item.from_file(tmp_path / folder / "photo.jpg"), tmp_path / "best")
    assert {path.name: path.read_bytes() for path in (tmp_path / "best").iterdir()} == {
        "photo.jpg": b"1",
        "photo-2.jpg": b"2",
    }


def test_images_without_a_file_are_copied_by_content_or_refused(tmp_path):
    copy = copy_photo(Item("cats/x.png", {"bytes": b"content", "path": None}, key="7"), tmp_path)
    assert (copy.name, copy.read_bytes()) == ("x.png", b"content")
    with pytest.raises(ValueError, match="only image files can be copied"):
        copy_photo(Item("0", Image.new("RGB", (4, 4))), tmp_path)


def test_the_best_are_copied_with_their_ratings_from_the_command_line(score_photos, photos, tmp_path):
    code, rows, _ = score_photos(photos, "--top", 2, "--copy-to", tmp_path / "best", "--write-xmp")
    assert (code, len(rows)) == (0, 2)
    assert float(rows[0]["score"]) >= float(rows[1]["score"])
    names = {row["path"].rsplit("/", 1)[1] for row in rows}
    assert {path.name for path in (tmp_path / "best").iterdir()} == names | {f"{name}.xmp" for name in names}
    assert not list(photos.rglob("*.xmp"))
    code, rows, _ = score_photos(photos, "--threshold", rows[0]["score"], "--output", tmp_path / "best.csv")
    assert (tmp_path / "best.csv").read_text().count("\n") == 2


def test_a_photo_that_cannot_be_copied_any_more_does_not_cost_the_table(checkpoint, photos, tmp_path, caplog):
    model, processor = load_for_scoring(str(checkpoint), device="cpu")
    scorer = Scorer(model, processor)
    forward = scorer._forward

    def forward_and_remove(inputs):
        (photos / "c.jpg").unlink(missing_ok=True)
        return forward(inputs)

    scorer._forward = forward_and_remove
    scorer.options = ScoringOptions(num_workers=0, token_budget=100_000)
    items = [Item.from_file(photos / "c.jpg"), Item.from_file(photos / "a.jpg")]
    stream = io.StringIO()
    table = TableOptions(copy_to=tmp_path / "best")
    write_table(scorer.score_pairs(chunk_items(items)), stream, table, Summary(), model)
    assert stream.getvalue().count("\n") == 3
    assert "neither copied nor rated" in caplog.text
    assert [path.name for path in (tmp_path / "best").iterdir()] == ["a.jpg"]
