"""A card of 500 files of every kind, from its photos to the best of them, as typed: every file is accounted for."""

import csv
import hashlib
import io
import json
import shutil
import subprocess
import unicodedata
from types import SimpleNamespace

import pytest
from camera_photos import raw_file, save_taken, scene
from headless_chromium import open_chromium
from image_files import encoded
from typer.testing import CliRunner

from charm_hf_cli import app


pytestmark = pytest.mark.slow

BURSTS, FRAMES, SINGLES, COPIES, HEICS, AVIFS, RAWS = 40, 4, 100, 30, 30, 10, 20
ODD = [
    *(
        "🏔️ Gipfel.jpg",
        "👩‍👩‍👧‍👦.jpg",
        "日本.jpg",
        "עברית.jpg",
        "Größe, “schön”.jpg",
        "it's 100% #1?.jpg",
        "a & <b>.jpg",
    ),
    *("=1+1.jpg", "-o.jpg", " leading.jpg", "two  spaces.jpg", "semi;colon.jpg", "new\nline.jpg", "tab\there.jpg"),
    *("back\\slash.jpg", "$HOME.jpg", "x.y.z.JPEG", "[1].jpg", unicodedata.normalize("NFC", "Zürich.jpg")),
    unicodedata.normalize("NFD", "Zürich.jpg"),
]
MOMENTS = BURSTS + SINGLES + HEICS + AVIFS + RAWS + len(ODD)
SCORED = MOMENTS + BURSTS * (FRAMES - 1) + 2 * COPIES
BROKEN = {"empty.jpg": b"", "text.jpg": b"no photo", "page.png": b"<html>", "cut.jpg": None, "forged.CR2": b"II*\0 no"}
JUNK = ("DCIM/100BOX/._{}.JPG", "@eaDir/{}.jpg/S.jpg", ".thumbnails/{}.png", "X Previews.lrdata/{}.jpg", "{}.mov")


def small(seed):
    return scene(seed, 120, 80)


def fill_card(card):
    """500 files."""
    seeds = iter(range(1000))
    for burst in range(BURSTS):
        whole = scene(next(seeds), 132, 92)
        for frame in range(FRAMES):
            part = whole.crop((frame, frame, 120 + frame, 80 + frame))
            save_taken(part, card / f"DCIM/100BOX/B{burst}_{frame}.JPG", f"2024:05:01 12:{burst:02}:0{frame}")
    for single in range(SINGLES):
        taken = f"2024:05:02 {single // 60:02}:{single % 60:02}:00"
        file = save_taken(small(next(seeds)), card / f"DCIM/101BOX/S{single}.jpg", taken)
        if single < COPIES:
            (card / "backup").mkdir(exist_ok=True)
            shutil.copy(file, card / f"backup/S{single}.jpg")
            (card / "sent").mkdir(exist_ok=True)
            small(single + BURSTS).resize((90, 60)).save(card / f"sent/{single}.jpg", quality=60)
    for folder, count, ending in (("phone", HEICS, "HEIC"), ("phone", AVIFS, "avif"), ("raw", RAWS, "DNG")):
        (card / folder).mkdir(exist_ok=True)
        for number in range(count):
            kind = "JPEG" if ending == "DNG" else ending.upper()
            content = encoded(kind, scene(next(seeds), 160, 120))
            (card / folder / f"IMG_{number}.{ending}").write_bytes(raw_file(content) if kind == "JPEG" else content)
    for name in ODD:
        save_taken(small(next(seeds)), card / "odd" / name)
    whole = encoded("JPEG", small(0))
    for number in range(4):
        for name, content in BROKEN.items():
            (card / "broken" / str(number)).mkdir(parents=True, exist_ok=True)
            (card / "broken" / str(number) / name).write_bytes(whole[:90] if content is None else content)
    for number in range(16):
        for pattern in JUNK:
            junk = card / pattern.format(number)
            junk.parent.mkdir(parents=True, exist_ok=True)
            junk.write_bytes(whole)


def contents(card):
    return {path: hashlib.md5(path.read_bytes()).hexdigest() for path in card.rglob("*") if path.is_file()}


def charm_hf(*arguments):
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code in (0, 1), done.output
    return done


@pytest.fixture(scope="module")
def taken_through(checkpoint, tmp_path_factory):
    """The card after `score`, `select` and `report`, and what they said."""
    for package in ("pillow_heif", "rawpy", "imagehash"):
        pytest.importorskip(package, reason="needs the extra `charm-hf[photos]`")
    folder = tmp_path_factory.mktemp("card")
    card, scores, best, page = (folder / name for name in ("card", "scores.csv", "best.csv", "report.html"))
    fill_card(card)
    before = contents(card)
    scored = charm_hf("score", card, "--model", checkpoint, "-o", scores, "--num-workers", 0)
    table = scores.read_bytes()
    selected = charm_hf("select", scores, "--best-of-series", "--write-xmp", "--reject-rest", "-o", best)
    reported = charm_hf("report", scores, "-o", page, "--stacks")
    assert scores.read_bytes() == table

    def rows(file):
        return list(csv.DictReader(io.StringIO(file.read_text(encoding="utf-8"), newline="")))

    return SimpleNamespace(**locals())


def test_every_file_is_a_score_a_failure_or_junk_and_none_is_changed(taken_through):
    found = taken_through
    rows, best = found.rows(found.scores), found.rows(found.best)
    assert len(found.before) == 500
    assert sum(row["score"] != "" for row in rows) == SCORED
    failed = [row for row in rows if row["error"]]
    assert {row["path"].split("card/broken/")[1][2:] for row in failed} == set(BROKEN)
    assert len(failed) == 4 * len(BROKEN)
    passed_over = 500 - SCORED - len(failed)
    assert f"Passed over {passed_over} files" in found.scored.stderr
    assert f"{SCORED} scored, {len(failed)} failed" in found.scored.stderr
    assert found.scored.exit_code == 1

    assert len(best) == MOMENTS
    said = f"Kept {MOMENTS} of {len(rows)} rows; {SCORED - MOMENTS} others, {len(failed)} have no score."
    assert said in found.selected.stderr
    assert f"rated: {MOMENTS}, rejected: {SCORED - MOMENTS}" in found.selected.stderr
    reasons = [row["reason"] for row in best]
    assert sum(reason.startswith("best of 4: ") for reason in reasons) == BURSTS
    assert sum(reason.startswith("best of 3: ") for reason in reasons) == COPIES
    assert reasons.count("alone") == MOMENTS - BURSTS - COPIES

    after = contents(found.card)
    assert found.before.items() <= after.items()
    assert {path.suffix for path in after.keys() - found.before.keys()} == {".xmp"}


def test_exiftool_reads_the_stars_of_every_photo(taken_through):
    if shutil.which("exiftool") is None:
        pytest.skip("needs exiftool: `apt-get install libimage-exiftool-perl`")
    asked = ["exiftool", "-q", "-j", "-r", "-ext", "xmp", "-XMP-xmp:Rating", "-Warning", taken_through.card]
    read = json.loads(subprocess.run(asked, capture_output=True, check=True).stdout)
    assert all(set(found) == {"SourceFile", "Rating"} for found in read)
    stars = {found["SourceFile"]: found["Rating"] for found in read}
    assert len(stars) == SCORED + RAWS
    best = {row["path"]: float(row["score"]) for row in taken_through.rows(taken_through.best)}
    ranked = sorted(best, key=best.__getitem__)
    given = [stars[f"{path}.xmp"] for path in ranked]
    assert given == sorted(given)
    assert set(given) == {1, 2, 3, 4, 5}
    for path in best:
        if path.endswith(".DNG"):
            assert stars[path.replace(".DNG", ".xmp")] == stars[f"{path}.xmp"]
    assert sum(rating == -1 for rating in stars.values()) == SCORED - MOMENTS


def test_a_browser_shows_moments_failures_and_odd_names(taken_through):
    with open_chromium() as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        faults = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda message: message.type == "error" and faults.append(message.text))
        page.goto(taken_through.page.as_uri())
        page.wait_for_selector("#app:not([hidden])")
        assert page.locator("#counts").text_content() == f"{MOMENTS} of {SCORED} photos"
        page.uncheck("#stacked")
        for name in ("🏔️ Gipfel.jpg", "a & <b>.jpg", "Größe, “schön”.jpg"):
            page.fill("#search", name)
            page.wait_for_function("document.querySelectorAll('.card').length === 1")
            assert page.locator(".card .name").text_content() == name
        page.click("#failed a, #failed button")
        assert str(4 * len(BROKEN)) in page.locator("#errors-summary").text_content()
        assert "card/broken/0/text.jpg" in page.locator("#error-rows").text_content()
        assert faults == []
