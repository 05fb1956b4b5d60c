import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from studies.calibration.run import coverage, mean_and_std, pit_curve
from studies.results import read_rows


ROOT = Path(__file__).parents[2]
VALUES = np.arange(1.0, 8.0)


def bell(centre, width):
    weights = np.exp(-0.5 * ((VALUES - centre) / width) ** 2)
    return weights / weights.sum()


@pytest.fixture
def photos():
    """Distributions that 60 photos' votes are really drawn from, and the votes."""
    generator = np.random.default_rng(0)
    truth = np.stack([bell(centre, 1.2) for centre in generator.uniform(2, 6, 60)])
    return truth, np.stack([generator.multinomial(300, row) for row in truth])


def test_the_true_distribution_is_calibrated(photos):
    truth, votes = photos
    levels = np.linspace(0, 1, 21)

    assert pit_curve(truth, votes, levels) == pytest.approx(levels, abs=0.01)
    assert coverage(truth, votes, 0.8) == pytest.approx(0.8, abs=0.01)


@pytest.mark.parametrize(("width", "holds"), [(0.5, "less"), (3.0, "more")])
def test_too_narrow_predictions_hold_too_few_votes_and_too_wide_ones_too_many(photos, width, holds):
    truth, votes = photos
    means, _ = mean_and_std(truth, VALUES)

    held = coverage(np.stack([bell(mean, width) for mean in means]), votes, 0.8)

    assert held < 0.7 if holds == "less" else held > 0.9


def test_predictions_that_are_too_high_show_in_the_curve(photos):
    truth, votes = photos
    means, _ = mean_and_std(truth, VALUES)

    curve = pit_curve(np.stack([bell(mean + 1, 1.2) for mean in means]), votes, np.array([0.5]))

    assert curve[0] > 0.7


def test_the_command_reads_the_tables_of_evaluation_and_draws(photos, tmp_path):
    truth, votes = photos
    for part in range(2):
        rows = ["image_id,score,predicted_score,normalized_score," + ",".join(f"p_{value:g}" for value in VALUES)]
        rows += [f"{n}.jpg,1,1,0.1," + ",".join(map(str, truth[n])) for n in range(30 * part, 30 * part + 30)]
        (tmp_path / f"fold{part}.csv").write_text("\n".join(rows) + "\n")
    header = "image,category," + ",".join(f"c{n}" for n in range(1, 8)) + ",n,mean"
    lines = [f"{n}.jpg,scene," + ",".join(map(str, row)) + f",{row.sum()},4.0" for n, row in enumerate(votes)]
    (tmp_path / "ratings.csv").write_text("\n".join([header, *lines]) + "\n")

    tables = [tmp_path / "fold0.csv", tmp_path / "fold1.csv"]
    options = [
        "--ratings",
        tmp_path / "ratings.csv",
        "--output",
        tmp_path / "plot.png",
        "--results",
        tmp_path / "results.csv",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "studies.calibration.run", *tables, *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stderr
    found = {row["measured"]: float(row["value"]) for row in read_rows(tmp_path / "results.csv")}
    assert (found["photos"], found["votes"]) == (60, 18_000)
    assert found["share of votes in the central 80%"] == pytest.approx(0.8, abs=0.01)
    assert "| share of votes in the central 80% | 0.8" in done.stdout
    assert Image.open(tmp_path / "plot.png").width > 1000
