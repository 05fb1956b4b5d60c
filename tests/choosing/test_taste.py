"""A person's ratings against scores, and a model that learns from them: as typed."""

import csv
import io
import json

import numpy as np
import pytest
from camera_photos import scene, write_scores
from PIL import Image
from typer.testing import CliRunner

from charm_hf.choosing.xmp import rate
from charm_hf_cli import app


def charm_hf(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def give_stars(photo, stars):
    """What a photo program writes."""
    photo.with_name(f"{photo.name}.xmp").write_text(
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:Rating="{stars}"/></rdf:RDF></x:xmpmeta>'
    )


@pytest.fixture
def red_photos(tmp_path):
    """40 photos, and how red they are."""
    random = np.random.default_rng(0)
    redness = {}
    for number in range(40):
        red = random.uniform(0, 1)
        pixels = np.asarray(scene(number, 96, 64), dtype=float) * [red, 1 - red, 0.5]
        file = tmp_path / "photos" / f"{number}.png"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(file)
        redness[file] = red
    return redness


def test_scores_are_compared_with_a_persons_stars_and_not_with_ours(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scores = {f"{number}.png": 4 + number / 10 for number in range(6)}
    for number, name in enumerate(scores):
        scene(number, 60, 40).save(tmp_path / name)
    write_scores(tmp_path / "scores.csv", scores)
    assert charm_hf("compare-ratings", "scores.csv").exit_code == 2
    for name, stars in {"0.png": -1, "1.png": 2, "2.png": 1, "3.png": 5}.items():
        give_stars(tmp_path / name, stars)
    rate(tmp_path / "4.png", {"Rating": "1"})
    done = charm_hf("compare-ratings", "scores.csv")
    assert done.exit_code == 0, done.output
    table = list(csv.reader(io.StringIO(done.stdout)))
    assert table[1:] == [
        ["0", "1", "4.000000"],
        ["1", "1", "4.200000"],
        ["2", "1", "4.100000"],
        ["5", "1", "4.300000"],
    ]
    assert "4 photos with a rating of yours: SRCC 0.800" in done.stderr

    (tmp_path / "mine.csv").write_text("file,rating\n0.png,3\n5.png,4\n9.png,1\n")
    assert (
        "2 photos with a rating of yours: SRCC 1.000"
        in charm_hf("compare-ratings", "scores.csv", "--ratings", "mine.csv").stderr
    )


@pytest.mark.parametrize(
    "judged",
    [
        "group,path,rank\na,0.png,3\na,1.png,1\na,2.png,2\nb,3.png,1\nb,4.png,2\n",
        "series,file,score\na,0.png,1\na,1.png,3\na,2.png,2\nb,3.png,5\nb,4.png,4\n",
        "left,right,preference\n1.png,0.png,left\n0.png,2.png,-1\n2.png,1.png,right\n3.png,4.png,0.5\n0.png,4.png,0\n",
    ],
)
def test_the_order_within_series_and_pairs_is_compared(tmp_path, monkeypatch, judged):
    monkeypatch.chdir(tmp_path)
    scores = {f"{number}.png": 4 + number / 10 for number in range(5)}
    for name in scores:
        scene(1, 60, 40).save(tmp_path / name)
    write_scores(tmp_path / "scores.csv", scores)
    (tmp_path / "judged.csv").write_text(judged)
    done = charm_hf("compare-ratings", "scores.csv", "--ratings", "judged.csv")
    assert done.exit_code == 0, done.output
    assert done.stdout == ""
    # Of four pairs, 1 > 0 and 2 > 0 are as scored; 1 > 2 and 3 > 4 are not.
    top = 0.5 if "left" in judged else 0.0
    assert f"5 photos with a rating of yours: PAIR ACCURACY 0.500, SERIES TOP1 {top:.3f}." in done.stderr


@pytest.mark.parametrize("source", ["--ratings", "--from-xmp"])
def test_a_taste_is_learnt_and_scores_like_any_checkpoint(red_photos, checkpoint, tmp_path, source):
    stars = {file: 1 + round(4 * red) for file, red in red_photos.items()}
    if source == "--ratings":
        place = tmp_path / "mine.csv"
        place.write_text("path,rating\n" + "".join(f"{file},{given}\n" for file, given in stars.items()))
    else:
        place = tmp_path / "photos"
        for file, given in stars.items():
            give_stars(file, given)
    done = charm_hf("personalize", source, place, "--model", checkpoint, "-o", tmp_path / "mine")
    assert done.exit_code == 0, done.output
    assert "of 40 photos (SRCC, 5 folds): 0." in done.stderr
    learnt, base = (
        float(word.strip(". \n")) for word in done.stderr.split("folds): ")[1].split(", the model itself ")
    )
    assert learnt > max(0.6, base)

    scored = charm_hf("score", tmp_path / "photos", "--model", tmp_path / "mine")
    scores = {row["path"]: float(row["score"]) for row in csv.DictReader(io.StringIO(scored.stdout))}
    ranks = np.argsort(np.argsort([scores[str(file)] for file in red_photos]))
    assert np.corrcoef(ranks, np.argsort(np.argsort(list(red_photos.values()))))[0, 1] > 0.7
    config = json.loads((tmp_path / "mine" / "config.json").read_text())
    assert config["score_range"] == ([1.0, 5.0] if source == "--ratings" else [0.0, 5.0])
    assert min(scores.values()) > config["score_range"][0]


def test_what_is_no_better_is_not_written_unless_forced(red_photos, checkpoint, tmp_path):
    scored = charm_hf("score", tmp_path / "photos", "--model", checkpoint)
    scores = {row["path"]: row["score"] for row in csv.DictReader(io.StringIO(scored.stdout))}
    table = tmp_path / "same.csv"
    table.write_text("path,rating\n" + "".join(f"{path},{score}\n" for path, score in scores.items()))
    arguments = ["personalize", "--ratings", table, "--model", checkpoint, "-o", tmp_path / "mine"]
    done = charm_hf(*arguments)
    assert done.exit_code == 1
    assert "the model itself 1.000" in done.stderr
    assert not (tmp_path / "mine").exists()
    assert charm_hf(*arguments, "--force").exit_code == 0
    assert (tmp_path / "mine" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("path,rating\nphotos/0.png,3\n", "at least 10 readable photos"),
        ("path,stars\nphotos/0.png,3\n", "expected a column with the score"),
        ("path,rating\nphotos/0.png,good\n", "row 1: expected a rating, got 'good'"),
    ],
)
def test_too_little_to_learn_from_is_wrong_usage(red_photos, checkpoint, tmp_path, content, reason):
    (tmp_path / "mine.csv").write_text(content)
    done = charm_hf("personalize", "--ratings", tmp_path / "mine.csv", "--model", checkpoint, "-o", tmp_path / "mine")
    assert done.exit_code == 2, done.output
    assert reason in done.stderr
    assert done.stderr.count("Error") == 1
