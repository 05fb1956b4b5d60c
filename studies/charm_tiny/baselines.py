"""Two baselines for `charm-tiny` on photos with votes: predict the mean, and a ridge regression on colour statistics.

    python -m studies.charm_tiny.baselines --data-dir PATH_TO_OASIS

`--data-dir` holds `images/` and `ratings.csv` (columns `image`, `category`, `mean`). Prints one JSON object: for each
baseline SRCC, PLCC, MSE and MAE, each as the mean and the standard deviation over folds and over seeds of the folds
(see `charm_hf/training/partition.py` for their rule); and by how much the SRCC of the model whose folds are in
`--model` is higher than the ridge's, paired by fold, with a 95 % interval. Everything fitted, the scaling of the
features and the strength of the ridge included, is fitted inside the training folds.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.stats import pearsonr, spearmanr
from sklearn.dummy import DummyRegressor
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from studies.oasis.photos import OasisData, read_ratings
from studies.results import read_rows
from studies.statistics_of_runs import Estimate, estimate


LONGEST_EDGE = 250
RIDGE = "ridge on colour statistics"
BASELINES: dict[str, Callable[[], Any]] = {
    "predict the mean": DummyRegressor,
    RIDGE: lambda: make_pipeline(StandardScaler(), RidgeCV(np.logspace(-1, 5, 25))),
}


def colour_statistics(image: Image.Image) -> np.ndarray:
    """Mean, standard deviation and cube root of the third central moment of nine channels, 27 numbers.

    The channels are red, green, blue, hue, saturation, value, and lightness, a and b of CIELAB, each in [0, 1], of the
    photo shrunk to a longest edge of 250 pixels.
    """
    image = image.convert("RGB")
    image.thumbnail((LONGEST_EDGE, LONGEST_EDGE), Image.Resampling.BICUBIC)
    channels = np.concatenate([_pixels(image), _pixels(image.convert("HSV")), _lab(_pixels(image))], axis=1)
    return np.concatenate([channels.mean(0), channels.std(0), np.cbrt(((channels - channels.mean(0)) ** 3).mean(0))])


def _pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image, dtype=np.float64).reshape(-1, 3) / 255


def _lab(rgb: np.ndarray) -> np.ndarray:
    """CIELAB (D65) of sRGB pixels (N, 3), scaled so that each channel lies about in [0, 1]."""
    linear = np.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    to_xyz = np.array(
        [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.119192, 0.9503041]]
    )
    ratio = linear @ to_xyz.T / to_xyz.sum(1)
    root = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = root.T
    return np.stack([1.16 * y - 0.16, 2.5 * (x - y) + 0.5, 1.0 * (y - z) + 0.5], axis=1)


def metrics(predicted: np.ndarray, rated: np.ndarray) -> dict[str, float]:
    """SRCC, PLCC (0 for a constant prediction, for which they are not defined), MSE and MAE."""
    constant = np.ptp(predicted) == 0
    return {
        "srcc": 0.0 if constant else float(spearmanr(predicted, rated)[0]),
        "plcc": 0.0 if constant else float(pearsonr(predicted, rated)[0]),
        "mse": float(np.mean((predicted - rated) ** 2)),
        "mae": float(np.mean(np.abs(predicted - rated))),
    }


def cross_validate(
    make_model: Callable[[], Any], features: np.ndarray, rated: np.ndarray, folds: np.ndarray
) -> list[dict[str, float]]:
    """Metrics of each fold, predicted by a model that was fitted on the other folds."""
    results = []
    for fold in sorted(set(folds)):
        held_out = folds == fold
        model = make_model().fit(features[~held_out], rated[~held_out])
        results.append(metrics(model.predict(features[held_out]), rated[held_out]))
    return results


def summarize(by_seed: list[list[dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Mean of each metric, its spread over single folds, and over the means of the seeds."""
    summary = {}
    for name in by_seed[0][0]:
        values = np.array([[fold[name] for fold in folds] for folds in by_seed])
        summary[name] = {
            "mean": round(float(values.mean()), 4),
            "sd_over_folds": round(float(values.std(axis=1).mean()), 4),
            "sd_over_seeds": round(float(values.mean(axis=1).std()), 4),
        }
    return summary


def advantage(results: Path, ridge: dict[int, list[dict[str, float]]]) -> Estimate:
    """Mean SRCC of a model minus the ridge's on the same folds; the variance knows that folds share training photos.

    Args:
        results: table with `seed`, `fold` and `srcc` of the model.
        ridge: seed to the metrics of each fold.
    """
    rows = [row for row in read_rows(results) if int(row["seed"]) in ridge]
    return estimate(
        [float(row["srcc"]) - ridge[int(row["seed"])][int(row["fold"])]["srcc"] for row in rows],
        variance_factor=1 / 4,  # a fold is tested on a fourth of what it was trained on
    )


def main() -> None:
    """Print the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True, help="folder with images/ and ratings.csv")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="seeds of the folds")
    parser.add_argument("--model", type=Path, default=Path(__file__).with_name("results.csv"), help="folds of a model")
    args = parser.parse_args()
    rows, data = read_ratings(args.data_dir), OasisData.read(args.data_dir)
    features = np.stack([colour_statistics(Image.open(path)) for path in data.paths])
    rated = np.array([float(row["mean"]) for row in rows])
    report: dict[str, object] = {"photos": len(rows), "folds": 5, "seeds": args.seeds}
    for name, make_model in BASELINES.items():
        by_seed = {seed: cross_validate(make_model, features, rated, data.folds(seed)) for seed in args.seeds}
        report[name] = summarize(list(by_seed.values()))
        if name == RIDGE:
            report[f"{args.model.stem} minus {name}, SRCC"] = advantage(args.model, by_seed).signed
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
