"""Train and measure several times, with other seeds or on the folds of a cross-validation, and say how far it spreads.

    python examples/train_repeatedly.py --seeds 0 1 2 3 4 --config examples/configs/spaq.yaml --data_dir data/spaq \
        --output_dir runs/spaq-5-seeds
    python examples/train_repeatedly.py --folds 5 --config examples/configs/csv.yaml --data_dir my_photos \
        --output_dir runs/mine-5-folds

A seed decides weights and order and, where the data set has no official parts, the split. Each run is measured on
`--split`; with `--folds`, on the fold that it has not seen, and its last epoch is kept, because an epoch chosen on the
fold would flatter it. All other flags go to `train.py`, or to `train_mmlq.py` with `--script train_mmlq`. The folder
gets `results.csv`, a row a run, and `summary.json`, the mean and standard deviation of each metric (and of the epoch
that was kept). A stopped command goes on where it was.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from charm_hf.files import replaced_file, write_json


HERE = Path(__file__).parent
# Flags of a training run that its evaluation takes as well.
SHARED = (
    *("dataset_name", "data_dir", "dataset_options", "validation_size", "fold", "folds", "input", "saliency_dir"),
    *("num_workers", "per_device_eval_batch_size", "mixed_precision"),
)


def parse_args(argv: list[str] | None = None) -> tuple[argparse.Namespace, list[str]]:
    """Read the command line; what is not known here is for the training script."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--folds", type=int, help="number of folds, each held out in turn")
    parser.add_argument("--script", choices=("train", "train_mmlq"), default="train")
    parser.add_argument("--split", default="test", help="part to measure on; the held-out fold with --folds")
    parser.add_argument("--num_processes", type=int, default=1)
    parser.add_argument("--output_dir", type=Path, required=True)
    return parser.parse_known_args(argv)


def launch(script: str, num_processes: int, *flags: object) -> None:
    """Run one of the scripts under Accelerate."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", str(num_processes)]
    command += ["--multi_gpu"] if num_processes > 1 else []
    subprocess.run([*command, str(HERE / f"{script}.py"), *map(str, flags)], check=True)


def run_once(args: argparse.Namespace, flags: list[str], seed: int, fold: int | None) -> dict[str, Any]:
    """Train and measure, unless it is done; gives a row of the results."""
    folder = args.output_dir / (f"seed-{seed}" if fold is None else f"seed-{seed}-fold-{fold}")
    train = ["--seed", seed, "--dataset_options", f"{{seed: {seed}}}", "--output_dir", folder]
    if fold is not None:
        train += ["--fold", fold, "--folds", f"{{number: {args.folds}, seed: {seed}}}"]
        train += ["--metric_for_best_model", "last"]
    if not (folder / "README.md").exists():
        launch(args.script, args.num_processes, *flags, *train, "--resume_from_checkpoint", "latest")
    trained = json.loads((folder / "run.json").read_text(encoding="utf-8"))["flags"]
    if not (folder / "test" / "metrics.json").exists():
        given = {name: trained[name] for name in SHARED if trained.get(name) is not None}
        given["split"] = args.split if fold is None else trained["train_split"]
        shared = [text for name, value in given.items() for text in (f"--{name}", _as_text(value))]
        launch("evaluate_model", 1, *shared, "--model_name_or_path", folder, "--output_dir", folder / "test")
    report = json.loads((folder / "test" / "metrics.json").read_text(encoding="utf-8"))
    history = json.loads((folder / "history.json").read_text(encoding="utf-8"))
    metric = trained["metric_for_best_model"]
    best = max(history, key=lambda record: (record.get(metric, record["epoch"]), -record["epoch"]))
    metrics = {name: entry["value"] for name, entry in report["metrics"].items()}
    return {"seed": seed, "fold": fold, "images": report["images"], "epoch": best["epoch"], **metrics}


def _as_text(value: Any) -> str:
    return json.dumps(value) if isinstance(value, dict) else str(value)


def summarize(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Mean and standard deviation of each metric over the runs."""
    columns = [name for name in rows[0] if name not in ("seed", "fold", "images")]
    values = {name: [row[name] for row in rows] for name in columns}
    return {
        name: {"mean": mean(found), "std": stdev(found) if len(found) > 1 else 0.0, "runs": len(found)}
        for name, found in values.items()
    }


def main(argv: list[str] | None = None) -> None:
    """Run after run, then the summary."""
    args, flags = parse_args(argv)
    folds: list[int | None] = [None] if args.folds is None else list(range(args.folds))
    rows: list[dict[str, Any]] = []
    for seed in args.seeds:
        for fold in folds:
            rows.append(run_once(args, flags, seed, fold))
            with replaced_file(args.output_dir / "results.csv") as path, path.open("w", newline="") as file:
                writer = csv.DictWriter(file, list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)
    summary = summarize(rows)
    write_json(args.output_dir / "summary.json", summary)
    for name, found in summary.items():
        print(f"{name.upper():<8}{found['mean']:>9.4f} ± {found['std']:.4f} over {found['runs']} runs")


if __name__ == "__main__":
    main()
