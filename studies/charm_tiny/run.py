"""Make the embedded checkpoint `charm-tiny` again, and cross-validate the recipe that makes it.

    python -m studies.charm_tiny.run --data_dir PHOTOS --output_dir runs/charm-tiny            # the checkpoint
    python -m studies.charm_tiny.run --data_dir PHOTOS --output_dir runs/cv --folds 0 1 2 3 4  # the evidence

`PHOTOS` holds `images/` and `ratings.csv` (columns `image`, `category`, `split`, votes `c1` to `c7`). Each run is
`pretrain.py` of this folder, then `examples/train.py` from what it wrote, then, for a fold,
`examples/evaluate_model.py` on the photos that neither has seen. `results.csv` gets a row a fold and seed, and their
mean and standard deviation are printed.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
from pathlib import Path
from statistics import mean, stdev

from studies.charm_tiny import pretrain


HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
METRICS = ("srcc", "plcc", "mae", "mse")


def run_script(name: str, *flags: object) -> None:
    """Run one of the examples under Accelerate."""
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "1"]
    subprocess.run([*launcher, str(ROOT / "examples" / f"{name}.py"), *map(str, flags)], check=True)


def train(args: argparse.Namespace, folder: Path, seed: int, fold: int | None) -> Path:
    """Both stages; the folder of the finished checkpoint."""
    shared = ["--data_dir", args.data_dir, "--seed", seed, "--num_workers", args.num_workers]
    shared += [] if fold is None else ["--fold", fold]
    start, checkpoint = folder / "start", folder / "checkpoint"
    pretrain.main([*map(str, ["--config", HERE / "pretrain.yaml", *shared, "--output_dir", start])])
    options = ["--model_name_or_path", start, "--output_dir", checkpoint]
    run_script("train", "--config", ROOT / "examples" / "configs" / "charm-tiny.yaml", *shared, *options)
    return checkpoint


def evaluate(args: argparse.Namespace, checkpoint: Path, fold: int) -> dict[str, float]:
    """Metrics on the fold that was held out."""
    flags = ["--dataset_name", "csv", "--data_dir", args.data_dir, "--split", "train+validation", "--fold", fold]
    flags += [
        "--dataset_options",
        "{score_range: [1, 7], extra_columns: [category]}",
        "--folds",
        "{stratify_column: category}",
    ]
    output = checkpoint.parent / "evaluation"
    run_script("evaluate_model", *flags, "--model_name_or_path", checkpoint, "--output_dir", output)
    found = json.loads((output / "metrics.json").read_text(encoding="utf-8"))["metrics"]
    return {name: found[name]["value"] if isinstance(found[name], dict) else found[name] for name in METRICS}


def main() -> None:
    """Train the checkpoint, or a model a fold and seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument(
        "--folds", type=int, nargs="*", default=[], help="folds to hold out in turn; none: train on all"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--num_workers", type=int, default=2)
    args = parser.parse_args()
    if not args.folds:
        print(train(args, args.output_dir, args.seeds[0], None))
        return
    rows = []
    for seed in args.seeds:
        for fold in args.folds:
            checkpoint = train(args, args.output_dir / f"seed{seed}-fold{fold}", seed, fold)
            rows.append({"seed": seed, "fold": fold, **evaluate(args, checkpoint, fold)})
            with open(args.output_dir / "results.csv", "w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, rows[0].keys())
                writer.writeheader()
                writer.writerows(rows)
    for name in METRICS:
        values = [row[name] for row in rows]
        print(f"{name} {mean(values):.3f} ± {stdev(values) if len(values) > 1 else 0:.3f} over {len(values)} runs")


if __name__ == "__main__":
    main()
