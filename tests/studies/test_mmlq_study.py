"""The study of MMLQ (studies/mmlq): its grammar, its runner, its tables, its figure."""

import csv
import re

import numpy as np
import pytest

from charm_hf.metrics import srcc
from studies.mmlq import figure, report
from studies.mmlq import run as study
from studies.mmlq.grammar import LEVELS, NEUTRAL, NOUNS, WORDS, Grammar, is_informative, known_answer
from studies.results import read_rows


RATINGS = np.linspace(0, 1, 400)


def test_what_is_said_follows_the_rating_only_where_it_should():
    comments = Grammar().comments(RATINGS, np.random.default_rng(0))
    assert srcc(known_answer(comments), RATINGS) > 0.5
    for words in (NEUTRAL, NOUNS):
        counts = [sum(word in words for comment in said for word in comment.split()) for said in comments]
        assert abs(srcc(counts, RATINGS)) < 0.12
    assert abs(srcc([len(said) for said in comments], RATINGS)) < 0.12


def test_the_tokenizer_knows_every_word_and_some_photos_have_no_comment():
    comments = Grammar().comments(RATINGS, np.random.default_rng(1))
    assert {word for said in comments for comment in said for word in comment.split()} <= set(WORDS)
    assert 0.05 < np.mean([not said for said in comments]) < 0.3
    assert sum(map(is_informative, WORDS)) == sum(map(len, LEVELS))


def test_the_known_answer_counts_the_right_words():
    assert known_answer([["the sky is stunning"], ["awful wooden light"], ["old sky"], []]).tolist() == [
        3.0,
        1.0,
        2.0,
        2.0,
    ]


@pytest.fixture
def folder(tmp_path):
    """Ten small photos with votes, in the columns of OASIS."""
    from dataset_builders import save_photo

    (tmp_path / "oasis" / "images").mkdir(parents=True)
    with open(tmp_path / "oasis" / "ratings.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "category", "theme", "split", *(f"c{value}" for value in range(1, 8)), "n", "mean"])
        for number in range(10):
            votes = [1 + (value == number % 7) * 9 for value in range(7)]
            mean = sum((place + 1) * count for place, count in enumerate(votes)) / sum(votes)
            save_photo(tmp_path / "oasis" / "images" / f"{number}.jpg", number / 10, seed=number)
            writer.writerow([f"{number}.jpg", "scene", "x", "train", *votes, sum(votes), mean])
    return tmp_path / "oasis"


def test_the_study_runs_goes_on_and_fills_the_page(folder, tmp_path, monkeypatch):
    results, page = tmp_path / "results.csv", tmp_path / "page.md"
    options = ["--data-dir", str(folder), "--results", str(results), "--steps", "2", "--sets", "2", "--no-report"]
    study.main([*options, "--seeds", "1", "--arms", "both", "image"])
    before = read_rows(results)
    study.main([*options, "--seeds", "2"])
    rows = read_rows(results)
    assert rows[:2] == before
    assert len(rows) == 2 * len(study.ARMS)
    page.write_text(
        "before\n<!-- table modalities -->\n<!-- end -->\n<!-- table blocks -->\nold\n<!-- end -->\nafter\n"
    )
    report.main(["--results", str(results), "--page", str(page)])
    text = page.read_text()
    assert "| image only |" in text
    assert "| **3** |" in text
    assert "old" not in text
    assert text.startswith("before\n")
    assert text.endswith("after\n")


def test_every_arm_stands_in_a_table_and_changes_one_thing():
    shown = {arm for _, arms in report.ABLATIONS.values() for arm in arms.values()} | set(report.MODALITIES)
    assert shown == set(study.ARMS)
    assert all(len(set(arm.fields)) <= 2 for arm in study.ARMS.values())


def test_the_figure_shows_the_numbers_of_the_model(tmp_path):
    figure.main(["--output", str(tmp_path / "figure.svg")])
    drawn, kept = (
        re.findall("<text[^>]*>(.*?)</text>", path.read_text()) for path in (tmp_path / "figure.svg", figure.FIGURE)
    )
    assert any("60.28 M of 472.9 M" in text for text in drawn)
    assert drawn == kept  # the page shows the model as it is built
