import base64
import csv
import hashlib
import io
import json
import os
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from charm_hf.choosing.score_table import read_scores
from charm_hf.look import report
from charm_hf.look.report import write_report


HOSTILE_NAMES = (
    "<img src=x onerror=alert(1)>.jpg",
    "</script><script>alert(1)</script>.jpg",
    "<!--<script>.jpg",
    "{{data}}{{title}} &amp; \"quoted\" 'single'.jpg",
    "line\u2028break\nand\ttab.jpg",
    "\ud800 half a pair.jpg",
)


class Page(HTMLParser):
    """The scripts, styles, policy and texts that a browser would find in the page."""

    def __init__(self, path):
        super().__init__(convert_charrefs=True)
        self.tags, self.scripts, self.styles, self.meta = [], [], [], {}
        self.open = None
        self.feed(path.read_text(encoding="utf-8"))
        self.data = json.loads(next(text for kind, text in self.scripts if kind == "application/json"))
        blocks = [text.split("\n") for kind, text in self.scripts if kind == "text/plain"]
        self.thumbnails = [line for block in blocks for line in block]
        self.code = [text for kind, text in self.scripts if kind is None]

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        if tag == "meta":
            self.meta[attributes.get("http-equiv") or attributes.get("name")] = attributes.get("content")
        if tag in ("script", "style"):
            self.open = tag
            (self.scripts if tag == "script" else self.styles).append((attributes.get("type"), ""))

    def handle_data(self, text):
        if self.open:
            found = self.scripts if self.open == "script" else self.styles
            found[-1] = (found[-1][0], found[-1][1] + text)

    def handle_endtag(self, tag):
        if tag == self.open:
            self.open = None

    @property
    def photos(self):
        return [dict(zip(self.data["columns"], row, strict=True)) for row in self.data["rows"]]


def save_photo(path, size=(60, 40), colour=(200, 80, 20), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path, **options)
    return path


def write_csv(path, rows):
    with open(path, "w", encoding="utf-8", newline="", errors="backslashreplace") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def make_row(path, score, **more):
    row = {"path": str(path), "score": score, "normalized_score": None, "std": None, "width": 60, "height": 40}
    return {**row, "tokens": 12, "error": "", **more}


@pytest.fixture
def table(tmp_path):
    rows = [
        make_row(save_photo(tmp_path / "photos" / "middling.jpg"), 5.0, std=1.25),
        make_row(save_photo(tmp_path / "photos" / "trip" / "best.png"), 7.5, distribution="[0.25, 0.75]"),
        make_row(tmp_path / "photos" / "broken.jpg", "", width="", height="", tokens="", error="cannot be decoded"),
        make_row(save_photo(tmp_path / "photos" / "trip" / "worst.jpg"), 2.0, camera="Holga"),
    ]
    columns = dict.fromkeys(key for row in rows for key in row)
    return write_csv(tmp_path / "scores.csv", [{key: row.get(key, "") for key in columns} for row in rows])


def test_the_page_lists_photos_best_first_and_failures_apart(table, tmp_path):
    summary = write_report(table, tmp_path / "report.html")
    page = Page(summary.path)

    assert [(photo["name"], photo["score"]) for photo in page.photos] == [
        ("best.png", 7.5),
        ("middling.jpg", 5.0),
        ("worst.jpg", 2.0),
    ]
    assert page.data["errors"] == [[str(tmp_path / "photos" / "broken.jpg"), "cannot be decoded"]]
    assert (summary.num_photos, summary.num_failed, summary.num_without_picture) == (3, 1, 0)
    assert summary.num_bytes == (tmp_path / "report.html").stat().st_size


def test_every_column_of_the_table_reaches_the_page(table, tmp_path):
    best, middling, worst = Page(write_report(table, tmp_path / "report.html").path).photos

    assert best["distribution"] == [0.25, 0.75]
    assert middling["std"] == 1.25
    assert worst["extra"] == {"camera": "Holga"}
    assert (worst["width"], worst["height"], worst["tokens"]) == (60, 40, 12)


def test_photos_of_an_archive_are_called_by_their_key(tmp_path):
    rows = [make_row("shard.tar", 2.0, key="a/1.jpg"), make_row("shard.tar", 1.0, key="a/2.jpg")]

    page = Page(write_report(rows, tmp_path / "report.html").path)

    assert [photo["name"] for photo in page.photos] == ["a/1.jpg", "a/2.jpg"]


def test_csv_jsonl_parquet_and_rows_give_the_same_photos(table, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    photos = [tmp_path / "photos" / name for name in ("middling.jpg", "trip/best.png", "trip/worst.jpg")]
    rows = [make_row(path, score) for path, score in zip(photos, (5.5, 7.5, 2.25), strict=True)]
    rows.append(make_row(tmp_path / "lost.jpg", None, error="cannot be decoded", width=None, height=None, tokens=None))
    write_csv(
        tmp_path / "same.csv", [{key: "" if value is None else value for key, value in row.items()} for row in rows]
    )
    (tmp_path / "same.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "same.parquet")

    pages = [
        Page(write_report(source, tmp_path / "report.html", title="Same").path).data
        for source in (rows, tmp_path / "same.csv", tmp_path / "same.jsonl", tmp_path / "same.parquet")
    ]

    assert all(page == pages[0] for page in pages)


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_no_file_name_title_or_reason_becomes_markup(name, tmp_path):
    rows = [make_row(f"{name}/{name}", 1.0, note=name), make_row(name, None, error=name)]
    harmless = [make_row("a/b.jpg", 1.0, note="c"), make_row("d.jpg", None, error="e")]

    page = Page(write_report(rows, tmp_path / "report.html", title=name).path)
    plain = Page(write_report(harmless, tmp_path / "plain.html").path)

    assert [tag for tag, _ in page.tags] == [tag for tag, _ in plain.tags]
    assert page.code == plain.code
    assert page.photos[0]["path"] == f"{name}/{name}"
    assert page.photos[0]["extra"] == {"note": name}
    assert page.data["errors"] == [[name, name]]


def test_the_policy_admits_the_scripts_of_the_page_and_nothing_else(table, tmp_path):
    page = Page(write_report(table, tmp_path / "report.html", link_originals=False).path)
    rules = dict(rule.split(" ", 1) for rule in page.meta["Content-Security-Policy"].split("; "))

    def hashes(texts):
        return [f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in texts]

    assert rules["script-src"].split() == hashes(page.code)
    assert rules["style-src"].split() == hashes(text for _, text in page.styles)
    assert (rules["default-src"], rules["img-src"]) == ("'none'", "data:")
    assert (rules["base-uri"], rules["form-action"]) == ("'none'", "'none'")


def test_the_page_asks_no_network_and_builds_no_markup_from_text(table, tmp_path):
    page = Page(write_report(table, tmp_path / "report.html").path)
    code = "\n".join(page.code)

    addresses = re.findall(r"https?://[^\s\"']+", (tmp_path / "report.html").read_text(encoding="utf-8"))
    assert set(addresses) <= {"http://www.w3.org/2000/svg"}  # a name, never fetched
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|fetch\(|XMLHttpRequest", code
    )
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on") or (name in ("src", "href"))], tag


def test_thumbnails_are_small_upright_and_carry_no_metadata(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    exif[0x010F] = "A camera with a serial number"
    photo = save_photo(tmp_path / "tall.jpg", size=(400, 100), exif=exif)

    page = Page(write_report([make_row(photo, 1.0)], tmp_path / "report.html", thumbnail_size=80).path)
    content = base64.b64decode(page.thumbnails[0])
    thumbnail = Image.open(io.BytesIO(content))

    assert (thumbnail.format, thumbnail.size) == ("JPEG", (20, 80))
    assert not thumbnail.getexif()
    assert b"serial number" not in content


def test_thumbnails_stand_in_the_order_of_the_photos_across_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "_CHUNK", 3)
    greys = range(20, 220, 25)
    rows = [make_row(save_photo(tmp_path / f"{grey}.png", colour=(grey,) * 3), grey) for grey in greys]

    page = Page(write_report(rows, tmp_path / "report.html", workers=4).path)

    shown = [np.asarray(Image.open(io.BytesIO(base64.b64decode(line)))).mean() for line in page.thumbnails]
    assert shown == pytest.approx(sorted(greys, reverse=True), abs=2)
    assert page.data["chunk"] == 3


def test_the_same_table_gives_the_same_bytes_with_any_number_of_workers(table, tmp_path):
    first = write_report(table, tmp_path / "first.html", workers=1).path.read_bytes()
    second = write_report(table, tmp_path / "second.html", workers=3).path.read_bytes()

    assert first == second


def test_the_more_photos_the_smaller_the_thumbnails(tmp_path, monkeypatch):
    photo = save_photo(tmp_path / "photo.jpg", size=(900, 600))
    edges = []
    monkeypatch.setattr(report, "_with_thumbnail", lambda photo, edge, quality: edges.append(edge) or photo)
    for number in (500, 501, 2001):
        write_report([make_row(photo, 1.0)] * number, tmp_path / "report.html")

    assert sorted(set(edges), reverse=True) == [384, 256, 160]


def test_a_photo_that_can_no_longer_be_read_is_listed_with_the_reason(tmp_path, caplog):
    (tmp_path / "notes.jpg").write_text("not a photo")
    os.mkfifo(tmp_path / "pipe.jpg")  # would block a reader for ever
    rows = [make_row(tmp_path / name, 1.0) for name in ("gone.jpg", "notes.jpg", "pipe.jpg")]
    rows.append(make_row("https://example.org/photo.jpg", 1.0))

    summary = write_report(rows, tmp_path / "report.html")

    notes = [photo["note"] for photo in Page(summary.path).photos]
    assert notes[0] == notes[2] == "The file is not there any more"
    assert "not an image" in notes[1]
    assert notes[3] == "Not a file on this machine"
    assert summary.num_without_picture == 4
    assert "gone.jpg" in caplog.text


def test_relative_paths_start_from_the_working_folder_then_from_the_table_or_from_the_given_root(
    tmp_path, monkeypatch
):
    save_photo(tmp_path / "work" / "here.jpg")
    save_photo(tmp_path / "archive" / "there.jpg")
    save_photo(tmp_path / "elsewhere" / "here.jpg")
    table = write_csv(tmp_path / "archive" / "scores.csv", [make_row("here.jpg", 2.0), make_row("there.jpg", 1.0)])
    monkeypatch.chdir(tmp_path / "work")

    found = [photo["original"] for photo in Page(write_report(table, tmp_path / "a.html").path).photos]
    rooted = write_report(table, tmp_path / "b.html", image_root=tmp_path / "elsewhere").path

    assert found == ["./work/here.jpg", "./archive/there.jpg"]
    assert [photo["original"] for photo in Page(rooted).photos] == ["./elsewhere/here.jpg", ""]


def test_a_name_that_is_not_utf8_is_found_by_its_escapes(tmp_path):
    raw = os.fsencode(tmp_path) + b"/caf\xe9.png"
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    with open(raw, "wb") as file:
        file.write(buffer.getvalue())
    escaped = raw.decode("utf-8", "backslashreplace")

    page = Page(write_report([make_row(escaped, 1.0)], tmp_path / "report.html").path)

    assert page.photos[0]["path"].endswith(r"caf\xe9.png")
    assert page.photos[0]["original"] == "./caf%E9.png"
    assert page.thumbnails[0]


def test_linked_photos_are_addressed_relative_to_the_page(tmp_path):
    photo = save_photo(tmp_path / "photos" / "50% off #1?.jpg")
    rows = [make_row(photo, 1.0)]
    (tmp_path / "out").mkdir()

    linked = Page(write_report(rows, tmp_path / "out" / "linked.html", thumbnails="link").path)
    bare = Page(write_report(rows, tmp_path / "out" / "bare.html", thumbnails="none", link_originals=False).path)

    assert linked.photos[0]["link"] == "./../photos/50%25%20off%20%231%3F.jpg"
    assert not linked.thumbnails
    assert "file:" in linked.meta["Content-Security-Policy"]
    assert not bare.thumbnails
    assert (bare.photos[0]["link"], bare.photos[0]["original"]) == ("", "")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name,value\na,1\n", "expected the columns `path` and `score`, found name, value"),
        ("path,score\n", "holds no rows"),
        ("", "found none"),
        ("path,score\na.jpg,1\nb.jpg,good\n", r"row 2, column score: expected a number, found 'good'"),
    ],
)
def test_a_table_that_cannot_be_shown_says_what_was_expected(content, message, tmp_path):
    (tmp_path / "scores.csv").write_text(content)

    with pytest.raises(ValueError, match=message):
        write_report(tmp_path / "scores.csv", tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_wrong_files_and_options_are_refused_before_any_work(table, tmp_path):
    with pytest.raises(FileNotFoundError, match="no score table"):
        write_report(tmp_path / "missing.csv", tmp_path / "report.html")
    with pytest.raises(FileNotFoundError, match="no folder"):
        write_report(table, tmp_path / "missing" / "report.html")
    with pytest.raises(ValueError, match=r"\.csv, \.jsonl or \.parquet"):
        read_scores(tmp_path / "scores.xlsx")
    with pytest.raises(ValueError, match="`thumbnails` must be one of"):
        write_report(table, tmp_path / "report.html", thumbnails="base64")
    with pytest.raises(ValueError, match="16 to 2048"):
        write_report(table, tmp_path / "report.html", thumbnail_size=4)


def test_a_score_that_is_no_number_or_missing_counts_as_failed(tmp_path):
    rows = [make_row("a.jpg", float("nan")), make_row("b.jpg", None), make_row("c.jpg", 1.0)]

    page = Page(write_report(rows, tmp_path / "report.html", thumbnails="none").path)

    assert [path for path, _ in page.data["errors"]] == ["a.jpg", "b.jpg"]
    assert [photo["name"] for photo in page.photos] == ["c.jpg"]


def test_an_interrupted_report_leaves_the_one_before_as_it_was(table, tmp_path, monkeypatch):
    output = write_report(table, tmp_path / "report.html").path
    before = output.read_bytes()
    monkeypatch.setattr(report, "_page_data", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))

    with pytest.raises(KeyboardInterrupt):
        write_report(table, output)

    assert output.read_bytes() == before
    assert list(tmp_path.glob(".tmp-*")) == []


def test_a_hostile_table_still_becomes_a_page(tmp_path):
    deep: list = []
    for _ in range(3000):
        deep = [deep]
    rows = [
        make_row(
            "nan.jpg", 3.0, std=float("nan"), distribution=[float("inf"), 0.5], width=10**400, extra=float("nan")
        ),
        make_row("huge.jpg", 2.0, tokens="1e999", note="x" * 3_000_000, number=10**5000, distribution="[" * 50_000),
        make_row("deep.jpg", 1.0, tree=deep, distribution=[10**400, 1], number=-(10**400)),
        make_row("p" * 1_000_000, 10**400),
        make_row("inf.jpg", "-inf", error="e" * 1_000_000),
    ]

    page = Page(write_report(rows, tmp_path / "report.html", thumbnails="none").path)

    assert [photo["name"] for photo in page.photos] == ["nan.jpg", "huge.jpg", "deep.jpg"]
    assert all(photo["distribution"] is None for photo in page.photos)
    assert len(page.data["errors"]) == 2
    assert (tmp_path / "report.html").stat().st_size < 1_000_000


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_huge_cells_and_deep_json_in_a_file_are_shown_or_named(tmp_path, ending):
    table = tmp_path / f"scores.{ending}"
    if ending == "csv":
        table.write_text(f"path,score,note\na.jpg,1,{'x' * 300_000}\n")
        assert Page(write_report(table, tmp_path / "report.html", thumbnails="none").path).photos[0]["name"] == "a.jpg"
    for row in ('{"path": "a", "score": ' + "[" * 100_000, '{"path": "a", "score": 1' + "0" * 5000 + "}"):
        table.write_text(row if ending == "jsonl" else f"path,score\na.jpg,{row[20:]}\n")
        with pytest.raises(ValueError, match="scores") as refusal:
            write_report(table, tmp_path / "report.html")
        assert len(str(refusal.value)) < 1000
