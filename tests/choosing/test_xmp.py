"""Ratings in XMP, as exiftool and people's own files see them."""

import json
import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from camera_photos import save_taken, scene, write_scores
from PIL import Image
from typer.testing import CliRunner

from charm_hf import embedded_model_path
from charm_hf.choosing.delivery import stars_by_percentile, stars_by_range
from charm_hf.choosing.xmp import rate, read_rating
from charm_hf_cli import app


LIGHTROOM = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\r
<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="Adobe XMP Core 7.0">\r
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">\r
  <rdf:Description rdf:about=""\r
    xmlns:xmp="http://ns.adobe.com/xap/1.0/"\r
    xmlns:crs="http://ns.adobe.com/camera-raw-settings/1.0/"\r
   {rating}crs:Exposure2012="+0.35">\r
   <dc:subject xmlns:dc="http://purl.org/dc/elements/1.1/"><rdf:Bag><rdf:li>Übersee</rdf:li></rdf:Bag></dc:subject>\r
  </rdf:Description>\r
 </rdf:RDF>\r
</x:xmpmeta>\r
<?xpacket end="w"?>"""


@pytest.fixture
def photo(tmp_path):
    return save_taken(scene(0), tmp_path / "photo.jpg", "2024:05:01 12:00:00")


def exiftool(file, *tags):
    if shutil.which("exiftool") is None:
        pytest.skip("needs exiftool: `apt-get install libimage-exiftool-perl`")
    done = subprocess.run(["exiftool", "-j", "-G1", *tags, file], capture_output=True, text=True)
    return {name: value for name, value in json.loads(done.stdout)[0].items() if name != "SourceFile"}


def test_stars_are_fifths_of_the_photos_or_of_the_range():
    assert [stars_by_range(score) for score in (-0.1, 0.0, 0.19, 0.2, 0.59, 0.6, 0.99, 1.0)] == [
        1,
        1,
        1,
        2,
        3,
        4,
        5,
        5,
    ]
    ranked = [4.9 + number / 1000 for number in range(505)]
    given = [stars_by_percentile(score, ranked) for score in ranked]
    assert [given.count(stars) for stars in range(1, 6)] == [101] * 5
    assert given == sorted(given)
    assert {stars_by_percentile(5.0, [5.0] * 9)} == {3}


def test_exiftool_reads_the_rating_and_the_label_beside_the_photo(photo):
    assert rate(photo, {"Rating": "4", "Label": "Grün & <gut>"})
    sidecar = photo.with_name("photo.jpg.xmp")
    assert exiftool(sidecar, "-XMP-xmp:all", "-Warning") == {"XMP-xmp:Rating": 4, "XMP-xmp:Label": "Grün & <gut>"}
    assert rate(photo, {"Rating": "2", "Label": "Red"})
    assert exiftool(sidecar, "-XMP-xmp:all", "-Warning") == {"XMP-xmp:Rating": 2, "XMP-xmp:Label": "Red"}


def test_a_raw_file_is_rated_under_the_names_of_both_schools(tmp_path):
    raw = tmp_path / "IMG_1.CR2"
    raw.write_bytes(b"II*\0")
    assert rate(raw, {"Rating": "-1"})
    assert {path.name for path in tmp_path.iterdir()} == {"IMG_1.CR2", "IMG_1.CR2.xmp", "IMG_1.xmp"}
    assert {exiftool(path, "-XMP-xmp:Rating")["XMP-xmp:Rating"] for path in tmp_path.glob("*.xmp")} == {-1}


def test_a_persons_sidecar_gains_a_rating_and_keeps_every_other_byte(photo):
    sidecar = photo.with_name("photo.jpg.xmp")
    theirs = LIGHTROOM.format(rating="").encode()
    sidecar.write_bytes(theirs)
    assert rate(photo, {"Rating": "3"}, backup=True)
    merged = sidecar.read_bytes()
    place = merged.index(b"rdf:Description") + len(b"rdf:Description")
    added = len(merged) - len(theirs)
    assert merged[:place] + merged[place + added :] == theirs
    assert photo.with_name("photo.jpg.xmp_original").read_bytes() == theirs
    assert exiftool(sidecar, "-XMP-xmp:Rating", "-XMP-crs:Exposure2012", "-XMP-dc:Subject", "-Warning") == {
        "XMP-xmp:Rating": 3,
        "XMP-crs:Exposure2012": "+0.35",
        "XMP-dc:Subject": "Übersee",
    }
    assert rate(photo, {"Rating": "5"})
    assert len(sidecar.read_bytes()) == len(merged)
    assert photo.with_name("photo.jpg.xmp_original").read_bytes() == theirs


@pytest.mark.parametrize("form", ['xmp:Rating="2"\r\n   ', "xmp:Rating='2' "])
def test_a_persons_rating_stays(photo, form):
    theirs = LIGHTROOM.format(rating=form).encode()
    photo.with_name("photo.jpg.xmp").write_bytes(theirs)
    assert not rate(photo, {"Rating": "5"})
    assert photo.with_name("photo.jpg.xmp").read_bytes() == theirs
    assert read_rating(photo) == 2


def test_a_rating_that_a_person_changed_is_theirs_and_zero_stars_are_none(photo):
    sidecar = photo.with_name("photo.jpg.xmp")
    sidecar.write_bytes(LIGHTROOM.format(rating='xmp:Rating="0" ').encode())
    assert read_rating(photo) is None
    assert rate(photo, {"Rating": "4"})
    assert read_rating(photo) is None
    sidecar.write_bytes(sidecar.read_bytes().replace(b'xmp:Rating="4"', b'xmp:Rating="1"'))
    assert read_rating(photo) == 1
    assert not rate(photo, {"Rating": "5"})


@pytest.mark.parametrize("content", [b"", b"<x:xmpmeta", b'<!DOCTYPE x [<!ENTITY a "b">]><x>&a;</x>', b"\xff\xfe<\0"])
def test_what_is_no_xmp_is_left_alone(photo, content):
    photo.with_name("photo.jpg.xmp").write_bytes(content)
    assert not rate(photo, {"Rating": "5"})
    assert photo.with_name("photo.jpg.xmp").read_bytes() == content


def test_a_rating_inside_a_jpeg_leaves_its_pixels_and_everything_else(photo):
    before = photo.read_bytes()
    assert rate(photo, {"Rating": "5"}, embed=True, backup=True)
    after = photo.read_bytes()
    start = after.index(b"\xff\xe1", after.index(b"Exif\0"))
    length = 2 + struct.unpack(">H", after[start + 2 : start + 4])[0]
    assert after[:start] + after[start + length :] == before
    assert photo.with_name("photo.jpg_original").read_bytes() == before
    read = exiftool(photo, "-XMP-xmp:Rating", "-Validate")
    assert read == {"XMP-xmp:Rating": 5, **exiftool(photo.with_name("photo.jpg_original"), "-Validate")}
    assert rate(photo, {"Rating": "1"}, embed=True)
    assert Image.open(photo).tobytes() == Image.open(photo.with_name("photo.jpg_original")).tobytes()


def test_a_rating_inside_a_jpeg_that_exiftool_wrote_is_a_persons(photo):
    exiftool(photo)
    subprocess.run(["exiftool", "-q", "-overwrite_original", "-Rating=2", photo], check=True)
    theirs = photo.read_bytes()
    assert read_rating(photo) == 2
    assert not rate(photo, {"Rating": "5"}, embed=True)
    assert not rate(photo, {"Rating": "5"})
    assert photo.read_bytes() == theirs


def test_the_rest_is_rejected_and_stars_follow_the_whole_table(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scores = {f"{number}.jpg": 5 + number / 100 for number in range(10)}
    for number, name in enumerate(scores):
        save_taken(scene(number), tmp_path / name)
    write_scores(tmp_path / "scores.csv", scores)
    asked = ["select", "scores.csv", "--top", "4", "--write-xmp", "embed", "--reject-rest", "--label", "Green"]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0, done.output
    assert "rated: 4, rejected: 6" in done.stderr
    read = [exiftool(tmp_path / name, "-XMP-xmp:all") for name in scores]
    assert [found["XMP-xmp:Rating"] for found in read] == [-1] * 6 + [4, 4, 5, 5]
    assert [found.get("XMP-xmp:Label") for found in read] == [None] * 6 + ["Green"] * 4


def test_stars_follow_the_ratings_that_the_model_learnt_from(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scores = {f"{number}.jpg": float(number) for number in range(1, 8)}
    for number, name in enumerate(scores):
        save_taken(scene(number), tmp_path / name)
    write_scores(tmp_path / "scores.csv", scores)
    done = CliRunner().invoke(app, ["select", "scores.csv", "--write-xmp", "--stars", "training"])
    assert done.exit_code == 0, done.output
    given = [int(re.search(r'xmp:Rating="(.)"', (tmp_path / f"{name}.xmp").read_text())[1]) for name in scores]
    with open(Path(embedded_model_path()) / "config.json") as file:
        fifths = json.load(file)["score_quantiles"][20:100:20]
    assert given == [1 + sum(score > fifth for fifth in fifths) for score in scores.values()]
    assert (given[0], given[-1]) == (1, 5)
