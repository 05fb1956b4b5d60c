r"""Measure a checkpoint on a dataset, as a paper would print it.

    accelerate launch examples/evaluate_model.py --model_name_or_path runs/ava --dataset_name ava --data_dir AVA \
        --output_dir results/ava

Prints and writes PLCC, SRCC, ACC, MSE, MAE and, where model and dataset have the same bins, EMD, each with a bootstrap
interval, beside the size of the split and a hash of its image ids: two numbers compare only if these are the same. The
output folder gets `metrics.json`, `predictions.csv` (or `.parquet`) with a row a photo, and `scatter.png`. With
`--group_column` it says how well photos are ordered within their series too: pair accuracy and series top-1.

The dataset may be another one than the checkpoint was trained on. Scores are then carried over from the one range to
the other, so that MSE, MAE and ACC are in the units of the dataset.

A checkpoint that reads comments is measured with those that the dataset has, with none, or with a few of them:

    accelerate launch examples/evaluate_model.py … --dataset_options '{comments: true}' --comments none
"""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from accelerate import Accelerator
from datasets import Dataset
from pyarrow import csv, parquet
from transformers import AutoModel

from charm_hf import CharmImageProcessor, MmlqForAestheticScoring, MmlqProcessor
from charm_hf.data import LabelScale, split_hash
from charm_hf.data.saliency_maps import SaliencyFolder
from charm_hf.files import replaced_file, write_json
from charm_hf.metrics import bootstrap_intervals, compute_aesthetic_metrics, series_agreement, series_intervals
from charm_hf.training.arguments import MAPPING, add_data_flags, parse_arguments
from charm_hf.training.batches import TokenizedDataset, evaluation_batches, make_loader
from charm_hf.training.curves import plot_scatter
from charm_hf.training.evaluation import Predictions, predict, references_of
from charm_hf.training.inputs import INPUT_KINDS
from charm_hf.training.mmlq import CommentedDataset
from charm_hf.training.partition import load_measured_part, require_scale


def comment_limit(text: str) -> int | None:
    """Type of `--comments`: `None` for all."""
    limit = {"all": None, "none": 0}.get(text, text)
    return limit if limit is None else int(limit)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line and the YAML file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add_data_flags(parser)
    add("--model_name_or_path", required=True, help="a Charm or an MMLQ checkpoint")
    add("--split", default="test", help="several are joined with a plus: train+validation")
    add("--processor", **MAPPING, help="parameters of the checkpoint's processor to change")
    add("--input", choices=INPUT_KINDS, default="charm", help="as in training, if it was `padded`")
    add("--saliency_dir", help="folder of saliency maps, for patch_selection: saliency")
    add("--comments", type=comment_limit, help="all, none, or at most so many of a photo, drawn by --seed")
    add("--accuracy_rule", choices=("charm", "mmlq"), default="charm", help="see charm_hf.metrics.accuracy")
    add("--bootstrap_samples", type=int, default=1000)
    add("--confidence", type=float, default=0.95)
    add("--seed", type=int, default=0, help="of the bootstrap and of random selections")
    add("--predictions_format", choices=("csv", "parquet"), default="csv")
    add("--output_dir", type=Path, required=True)
    return parse_arguments(parser, argv)


def tokenized(args: argparse.Namespace, model: Any, dataset: Dataset) -> TokenizedDataset:
    """Photos, with their comments if the model reads them, as it takes them."""
    if not isinstance(model, MmlqForAestheticScoring):
        processor = CharmImageProcessor.from_pretrained(args.model_name_or_path, **args.processor)
        saliency = SaliencyFolder(args.saliency_dir) if args.saliency_dir else None
        prepare = INPUT_KINDS[args.input].in_evaluation
        return TokenizedDataset(dataset, processor, seed=args.seed, prepare=prepare, saliency=saliency)
    processor = MmlqProcessor.from_pretrained(args.model_name_or_path)
    processor.check_text_encoder(model.config.text_config)
    return CommentedDataset(
        dataset, processor, processor_kwargs=args.processor, seed=args.seed, max_comments=args.comments
    )


def measure(args: argparse.Namespace, predictions: Predictions, dataset: Dataset, scale: LabelScale) -> dict[str, Any]:
    """Value and interval of each metric, and what ACC means here."""
    predicted, rated, options = references_of(predictions, dataset, scale)
    options["accuracy_rule"] = args.accuracy_rule
    values = compute_aesthetic_metrics(predicted, rated, **options)
    resampling = {"confidence": args.confidence, "num_resamples": args.bootstrap_samples, "seed": args.seed}
    intervals = bootstrap_intervals(predicted, rated, **resampling, **options)
    if args.group_column is not None:
        order = predictions.normalized_scores, dataset["score"][:], dataset[args.group_column][:]
        values |= series_agreement(*order)
        intervals |= series_intervals(*order, **resampling)
    return {
        "accuracy_threshold": options["accuracy_threshold"],
        "accuracy_rule": args.accuracy_rule,
        "metrics": {name: {"value": value, "interval": intervals[name]} for name, value in values.items()},
    }


def predictions_table(predictions: Predictions, dataset: Dataset, scale: LabelScale) -> pa.Table:
    """One row a photo: what people said, what the model says, in the dataset's units and in [0, 1]."""
    columns: dict[str, Any] = {
        "image_id": dataset["image_id"][:],
        "score": np.array(dataset["score"][:]),
        "predicted_score": predictions.scores(scale),
        "normalized_score": predictions.normalized_scores,
    }
    if predictions.distributions is not None:
        for value, shares in zip(predictions.config.score_values, predictions.distributions.T, strict=True):
            columns[f"p_{value:g}"] = shares
    return pa.table(columns)


def format_table(report: dict[str, Any]) -> str:
    """The report for people."""
    lines = [
        f"{report['model']} on {report['dataset']} {report['split']}: {report['images']:,} photos, "
        f"hash {report['image_ids_sha256'][:16]}…"
    ]
    width = max(6, *map(len, report["metrics"])) + 1
    for name, entry in report["metrics"].items():
        low, high = entry["interval"]
        title = name.replace("_", " ").upper().ljust(width)
        lines.append(f"  {title}{entry['value']:>10.4f}   {report['confidence']:.0%} {low:.4f} to {high:.4f}")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Measure, from the flags to the report."""
    args = parse_args(argv)
    logging.basicConfig(format="%(asctime)s %(name)s: %(message)s", level=logging.INFO)
    accelerator = Accelerator(mixed_precision=args.mixed_precision)
    with accelerator.main_process_first():  # it writes seeded splits and mapped tables, the others find them
        dataset, left_out = load_measured_part(args)
    scale = require_scale(dataset)

    model = AutoModel.from_pretrained(args.model_name_or_path).to(accelerator.device).eval()
    photos = tokenized(args, model, dataset)
    batches = evaluation_batches(
        len(dataset), args.per_device_eval_batch_size, accelerator.num_processes, accelerator.process_index
    )
    loader = make_loader(photos, batches, args.num_workers)
    predictions = predict(model, loader, accelerator)
    if accelerator.is_main_process:
        report = {
            "model": args.model_name_or_path,
            "trained_on": model.config.dataset_name,
            "dataset": scale.dataset_name,
            "split": args.split if args.fold is None else f"fold {args.fold} ({args.folds}) of {args.split}",
            "images": len(dataset),
            "image_ids_sha256": split_hash(dataset["image_id"][:]),
            "left_out": left_out,
            **({"comments": args.comments} if isinstance(photos, CommentedDataset) else {}),
            "score_range": scale.score_range,
            "confidence": args.confidence,
            **measure(args, predictions, dataset, scale),
            "command": shlex.join(["accelerate", "launch", "examples/evaluate_model.py", *(argv or sys.argv[1:])]),
        }
        args.output_dir.mkdir(parents=True, exist_ok=True)
        write_json(args.output_dir / "metrics.json", report)
        table = predictions_table(predictions, dataset, scale)
        with replaced_file(args.output_dir / f"predictions.{args.predictions_format}") as path:
            csv.write_csv(table, path) if path.suffix == ".csv" else parquet.write_table(table, path)
        title = f"{scale.dataset_name}, {len(dataset):,} photos"
        plot_scatter(
            table["predicted_score"].to_numpy(), table["score"].to_numpy(), title, args.output_dir / "scatter.png"
        )
        print(format_table(report))
    accelerator.end_training()


if __name__ == "__main__":
    main()
