"""Compare two checkpoints on the same photos: the difference of each metric, with an interval.

    python examples/compare_models.py runs/charm/test runs/standard/test

Both folders were written by `evaluate_model.py`, for the same photos. The interval is a bootstrap over photos in which
both models are always measured on the same ones, so that what is easy or hard for both cancels out. It says nothing
about another run of the same training: for that, `train_repeatedly.py`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from charm_hf.files import write_json
from charm_hf.metrics import compare_predictions
from charm_hf.tables import Table


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first", type=Path, help="folder that evaluate_model.py wrote")
    parser.add_argument("second", type=Path, help="the same of the other checkpoint")
    parser.add_argument("--bootstrap_samples", type=int, default=1000)
    parser.add_argument("--confidence", type=float, default=0.95)
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap")
    parser.add_argument("--output", type=Path, help="JSON file for the differences")
    return parser.parse_args(argv)


def read_evaluation(folder: Path) -> tuple[dict[str, Any], dict[str, tuple[float, float]]]:
    """The report of an evaluation, and rated and predicted score of each photo."""
    report = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    path = next(path for path in sorted(folder.glob("predictions.*")) if path.suffix in (".csv", ".parquet"))
    rows = Table(path).rows(["image_id", "score", "predicted_score"])
    return report, {row["image_id"]: (float(row["score"]), float(row["predicted_score"])) for row in rows}


def main(argv: list[str] | None = None) -> None:
    """Compare, and print a table."""
    args = parse_args(argv)
    (report, ours), (rival, theirs) = read_evaluation(args.first), read_evaluation(args.second)
    if {name: rated for name, (rated, _) in ours.items()} != {name: rated for name, (rated, _) in theirs.items()}:
        raise SystemExit(
            f"{args.first} and {args.second} are measured on other photos or ratings: {report['images']} of "
            f"{report['dataset']} {report['split']} and {rival['images']} of {rival['dataset']} {rival['split']}."
        )
    rated, predicted = np.array(list(ours.values())).T
    rival_predicted = np.array([theirs[name][1] for name in ours])
    found = compare_predictions(
        predicted,
        rival_predicted,
        rated,
        accuracy_threshold=report["accuracy_threshold"],
        accuracy_rule=report["accuracy_rule"],
        confidence=args.confidence,
        num_resamples=args.bootstrap_samples,
        seed=args.seed,
    )
    print(f"{report['model']} minus {rival['model']} on {report['images']:,} photos of {report['dataset']}")
    for name, (difference, low, high) in found.items():
        verdict = "" if low <= 0 <= high else "  differ"
        print(f"  {name.upper():<7}{difference:>+10.4f}   {args.confidence:.0%} {low:+.4f} to {high:+.4f}{verdict}")
    if args.output:
        names = ("difference", "low", "high")
        write_json(args.output, {name: dict(zip(names, values, strict=True)) for name, values in found.items()})


if __name__ == "__main__":
    main()
