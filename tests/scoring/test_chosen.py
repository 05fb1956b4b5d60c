import csv
import io
import os

from PIL import Image

from charm_hf.choosing.choice import Choice, choose
from charm_hf.choosing.delivery import Delivery, copy_photo, name_of_copy
from charm_hf.scoring import (
    PathSource,
    Scorer,
    ScoringOptions,
    TableOptions,
    engine,
    load_for_scoring,
    score_to_stream,
)


ROWS = [
    {"path": path, "score": score} for path, score in (("a", 5.0), ("b", None), ("c", 7.0), ("d", 5.0), ("e", 2.0))
]


def kept(**options):
    return "".join(ROWS[place]["path"] for place in choose(ROWS, Choice(**options), lambda place: None).places)


def test_a_threshold_keeps_the_order_and_top_gives_the_best_first():
    assert kept() == "acde"
    assert kept(threshold=5.0) == "acd"
    assert kept(top=2) == "ca"
    assert kept(top=9) == "cade"
    assert kept(top=9, threshold=5.0) == "cad"


def test_copies_keep_apart_what_has_the_same_name_and_doing_it_twice_adds_nothing(tmp_path):
    for folder, content in (("one", b"1"), ("two", b"2")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "photo.jpg").write_bytes(content)
    for _ in range(2):
        for folder in ("one", "two"):
            copy_photo(tmp_path / folder / "photo.jpg", "photo.jpg", tmp_path / "best")
    assert {path.name: path.read_bytes() for path in (tmp_path / "best").iterdir()} == {
        "photo.jpg": b"1",
        "photo-2.jpg": b"2",
    }


def test_images_without_a_file_are_copied_by_their_content(tmp_path):
    assert name_of_copy("cats/x.png", "7") == "x.png"
    assert name_of_copy("0", "cat/7 b") == "cat_7_b.img"
    for _ in range(2):
        assert copy_photo(b"content", "x.png", tmp_path).read_bytes() == b"content"
    assert copy_photo(b"other", "x.png", tmp_path).name == "x-2.png"


def paths_in(table):
    with table.open(newline="", encoding="utf-8") as file:
        return [row["path"] for row in csv.DictReader(file)]


def test_the_best_are_copied_with_their_ratings_and_failures_stay(score_photos, photos, tmp_path):
    (photos / "broken.jpg").write_bytes(b"no photo")
    code, rows, messages = score_photos(photos, "--top", 2, "--copy-to", tmp_path / "best", "--write-xmp")
    assert (code, len(rows)) == (1, 3)
    assert float(rows[0]["score"]) >= float(rows[1]["score"])
    assert rows[2]["path"].endswith("broken.jpg")
    names = {row["path"].rsplit("/", 1)[1] for row in rows[:2]}
    assert {path.name for path in (tmp_path / "best").iterdir()} == names | {f"{name}.xmp" for name in names}
    assert not list(photos.rglob("*.xmp"))
    assert "Kept 2 of 7 rows; 4 others, 1 have no score." in messages


def test_a_table_in_a_file_stays_whole_and_what_is_kept_lies_beside_it(score_photos, photos, tmp_path):
    output = tmp_path / "scores.csv"
    assert score_photos(photos, "--output", output)[0] == 0
    whole = output.read_bytes()
    code, _, messages = score_photos(photos, "--top", 2, "--output", output)
    assert (code, output.read_bytes()) == (0, whole)
    assert len(paths_in(tmp_path / "scores.chosen.csv")) == 2
    assert "scores.chosen.csv those that were kept" in messages
    assert score_photos(photos, "--write-xmp", "--output", output)[0] == 0
    assert len(list(photos.rglob("*.xmp"))) == 6


def test_a_photo_that_cannot_be_copied_any_more_does_not_cost_the_table(checkpoint, photos, tmp_path, caplog):
    model, processor = load_for_scoring(str(checkpoint), device="cpu")
    scorer = Scorer(model, processor)
    forward = scorer.answer

    def forward_and_remove(inputs):
        (photos / "c.jpg").unlink(missing_ok=True)
        return forward(inputs)

    scorer.answer = forward_and_remove
    scorer.options = ScoringOptions(num_workers=0, token_budget=100_000)
    stream = io.StringIO()
    source = PathSource([photos / "c.jpg", photos / "a.jpg"])
    summary = score_to_stream(source, scorer, stream, TableOptions(delivery=Delivery(copy_to=tmp_path / "best")))
    assert stream.getvalue().count("\n") == 3
    assert (summary.delivered.copied, summary.delivered.missing) == (1, 1)
    assert "neither copied nor rated" in caplog.text
    assert [path.name for path in (tmp_path / "best").iterdir()] == ["a.jpg"]


def test_images_of_a_dataset_are_copied(score_photos, photos, tmp_path):
    import datasets

    content = [{"image": {"path": "cat.png", "bytes": (photos / "b.png").read_bytes()}}]
    features = datasets.Features({"image": datasets.Image()})
    datasets.Dataset.from_list(content, features=features).save_to_disk(tmp_path / "saved")
    code, _, _ = score_photos(tmp_path / "saved", "--copy-to", tmp_path / "best")
    assert code == 0
    (copy,) = (tmp_path / "best").iterdir()
    assert Image.open(copy).size == (90, 200)


def counted(monkeypatch):
    """How many images went through the model since."""
    scored = []
    forward = engine.Scorer.answer

    def counting(self, inputs):
        answers = forward(self, inputs)
        scored.extend(answers)
        return answers

    monkeypatch.setattr(engine.Scorer, "answer", counting)
    return scored


def test_a_second_run_scores_what_is_new_or_has_changed(score_photos, photos, write_photo, tmp_path, monkeypatch):
    output = tmp_path / "scores.csv"
    (photos / "broken.jpg").write_bytes(b"no photo")
    score_photos(photos, "--output", output)
    before = dict(zip(paths_in(output), output.read_text().splitlines()[1:], strict=True))
    scored = counted(monkeypatch)
    assert score_photos(photos, "--output", output)[0] == 1
    assert scored == []

    write_photo(photos / "new.jpg", 100, 80, seed=50)
    write_photo(photos / "a.jpg", 160, 120, seed=51)
    os.utime(photos / "b.png", ns=(1, 1))
    (photos / "d.webp").unlink()
    write_photo(photos / "broken.jpg", 60, 60, seed=52)
    _, _, messages = score_photos(photos, "--output", output, "--distribution")
    assert len(scored) == 4
    assert "1 new photos, 3 scored again, 3 known from before." in messages
    assert "Kept (--prune drops them) 1 rows of photos that are not there any more." in messages
    after = dict(zip(paths_in(output), output.read_text().splitlines()[1:], strict=True))
    assert list(after)[-1] == str(photos / "d.webp")
    for name in ("c.jpg", "d.webp", "sub/e.jpg"):
        assert after[str(photos / name)].startswith(before[str(photos / name)])
    assert after[str(photos / "a.jpg")] != before[str(photos / "a.jpg")]

    _, _, messages = score_photos(photos, "--output", output, "--prune")
    assert len(scored) == 4
    assert "Dropped 1 rows" in messages
    assert len(paths_in(output)) == 7


def test_another_model_or_a_wish_to_begin_anew_scores_all_again(score_photos, photos, tmp_path, monkeypatch):
    output = tmp_path / "scores.csv"
    score_photos(photos, "--output", output)
    scored = counted(monkeypatch)
    _, _, messages = score_photos(photos, "--output", output, "--patch-selection", "entropy")
    assert len(scored) == 6
    assert "all photos were scored again" in messages
    score_photos(photos, "--output", output, "--patch-selection", "entropy", "--restart")
    assert len(scored) == 12
    output.unlink()
    score_photos(photos, "--output", output, "--patch-selection", "entropy")
    assert len(scored) == 18
    (tmp_path / ".scores.csv.rows").write_bytes(b"damaged")
    score_photos(photos, "--output", output, "--patch-selection", "entropy")
    assert len(scored) == 24
