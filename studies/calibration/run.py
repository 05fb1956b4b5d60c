"""How far the predicted distributions can be trusted: against the single votes that photos really got.

    python -m studies.calibration.run runs/fold*/predictions.csv --ratings ratings.csv --output calibration.png

Predictions are those of `examples/evaluate_model.py` for a distribution head (`image_id` and one column `p_VALUE` a
bin), on photos that the model was not trained on. Ratings are a CSV with the file name in `image` and the votes in
`c1`, `c2`, ….
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from studies.results import markdown, read_rows, write_rows


COVERAGES = (0.5, 0.8, 0.95)


def pit_curve(predicted: np.ndarray, votes: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Share of the votes that fall below the predicted quantile of each level; equal to the level if calibrated.

    The probability integral transform for ordered bins: a vote in a bin counts as spread evenly over the probability
    that was predicted for it (Czado, Gneiting, Held, Biometrics 2009, eq. 2). Every photo weighs the same.

    Args:
        predicted: (N, K) probabilities. votes: (N, K) numbers of votes. levels: (M,) in [0, 1].

    Returns:
        (M,) in [0, 1].
    """
    upper = predicted.cumsum(1)
    lower = upper - predicted
    below = (levels[:, None, None] - lower) / np.maximum(predicted, 1e-12)
    shares = votes / votes.sum(1, keepdims=True)
    return (np.clip(below, 0, 1) * shares).sum(2).mean(1)


def coverage(predicted: np.ndarray, votes: np.ndarray, share: float) -> float:
    """Share of the votes inside the central predicted interval that should hold `share` of them."""
    low, high = pit_curve(predicted, votes, np.array([(1 - share) / 2, (1 + share) / 2]))
    return float(high - low)


def mean_and_std(distributions: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Moments, each (N,), of (N, K) distributions or votes over (K,) bin centres."""
    shares = distributions / distributions.sum(1, keepdims=True)
    mean = shares @ values
    return mean, np.sqrt((shares * (values - mean[:, None]) ** 2).sum(1))


def read_predictions(paths: Sequence[Path]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Names (N,), predicted distributions (N, K) and bin centres (K,) of some tables together."""
    names: list[str] = []
    rows: list[list[float]] = []
    for path in paths:
        for row in read_rows(path):
            bins = [column for column in row if column.startswith("p_")]
            names.append(Path(row["image_id"]).name)
            rows.append([float(row[column]) for column in bins])
    if not rows or not rows[0]:
        raise SystemExit(
            f"Expected columns p_VALUE in {', '.join(map(str, paths))}: a distribution head's predictions."
        )
    if len(set(names)) < len(names):
        raise SystemExit("A photo stands in the predictions twice: give each held-out part once.")
    return names, np.array(rows), np.array([float(column[2:]) for column in bins])


def read_votes(path: Path, names: Sequence[str]) -> np.ndarray:
    """Votes (N, K) of the named photos."""
    table = {
        row["image"]: [float(row[column]) for column in row if column[:1] == "c" and column[1:].isdigit()]
        for row in read_rows(path)
    }
    missing = [name for name in names if name not in table]
    if missing:
        raise SystemExit(f"{path} holds no votes for {len(missing)} of the photos, such as {missing[0]}.")
    return np.array([table[name] for name in names])


def draw(predicted: np.ndarray, votes: np.ndarray, values: np.ndarray, output: Path) -> None:
    """Reliability of the quantiles, of the mean and of the standard deviation, side by side."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    levels = np.linspace(0, 1, 101)
    figure, axes = plt.subplots(1, 3, figsize=(12.5, 4.2), constrained_layout=True)
    axes[0].plot(levels, pit_curve(predicted, votes, levels), color="#1f6fd6", linewidth=2)
    axes[0].set(xlabel="predicted quantile", ylabel="share of votes below it", title="Quantiles")
    pairs = zip(
        mean_and_std(predicted, values), mean_and_std(votes, values), ("mean", "standard deviation"), strict=True
    )
    for axis, (said, was, name) in zip(axes[1:], pairs, strict=True):
        axis.scatter(said, was, s=10, alpha=0.5, color="#1f6fd6", edgecolors="none")
        axis.set(xlabel=f"predicted {name}", ylabel=f"{name} of the votes", title=name.capitalize())
    for axis in axes:
        low = min(axis.get_xlim()[0], axis.get_ylim()[0])
        high = max(axis.get_xlim()[1], axis.get_ylim()[1])
        axis.plot([low, high], [low, high], color="#888888", linewidth=1, linestyle="--", zorder=0)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(output, dpi=110)
    plt.close(figure)


def measure(predicted: np.ndarray, votes: np.ndarray, values: np.ndarray) -> dict[str, float]:
    """The same in figures: what is measured, and how much it is."""
    (said_mean, said_std), (mean, std) = mean_and_std(predicted, values), mean_and_std(votes, values)
    return {
        "photos": len(votes),
        "votes": int(votes.sum()),
        **{f"share of votes in the central {share:.0%}": coverage(predicted, votes, share) for share in COVERAGES},
        "standard deviation, predicted": float(said_std.mean()),
        "standard deviation, of the votes": float(std.mean()),
        "standard deviation, rank correlation": float(spearmanr(said_std, std).statistic),
        "mean, absolute error": float(np.abs(said_mean - mean).mean()),
        "mean, rank correlation": float(spearmanr(said_mean, mean).statistic),
    }


def main() -> None:
    """Print the figures, write them, and draw the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("predictions", nargs="+", type=Path)
    parser.add_argument("--ratings", required=True, type=Path)
    parser.add_argument("--results", type=Path, help="CSV file for the figures")
    parser.add_argument("--output", type=Path, help="picture to write")
    arguments = parser.parse_args()
    names, predicted, values = read_predictions(arguments.predictions)
    votes = read_votes(arguments.ratings, names)
    measured = measure(predicted, votes, values)
    rows = [(name, f"{value:.4g}" if isinstance(value, float) else value) for name, value in measured.items()]
    print(markdown(["measured", "value"], [[name, str(value)] for name, value in rows]))
    if arguments.results is not None:
        write_rows(arguments.results, ("measured", "value"), rows)
    if arguments.output is not None:
        draw(predicted, votes, values, arguments.output)


if __name__ == "__main__":
    main()
