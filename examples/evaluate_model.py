r"""Measure a checkpoint on a dataset, as a paper would print it.

    accelerate launch examples/evaluate_model.py --model_name_or_path runs/ava --dataset_name ava --data_dir AVA \
        --output_dir results/ava

Prints and writes PLCC, SRCC, ACC, MSE, MAE and, where model and dataset have the same bins, EMD, each with a bootstrap
interval, beside the size of the split and a hash of its image ids: two numbers compare only if these are the same. The
output folder gets `metrics.json`, `predictions.csv` (or `.parquet`) with a row a photo, and `scatter.png`.

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
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from accelerate import Accelerator
from accelerate.logging import get_logger
from datasets import Dataset, concatenate_datasets
from pyarrow import csv, parquet
from transformers import AutoModel

from charm_hf.data import LabelScale, load_aesthetic_dataset, split_hash
from charm_hf.files import write_json
from charm_hf.metrics import bootstrap_intervals, compute_aesthetic_metrics
from charm_hf.models.image_processing_charm import CharmImageProcessor
from charm_hf.models.modeling_mmlq import MmlqForAestheticScoring
from charm_hf.models.processing_mmlq import MmlqProcessor
from charm_hf.training.arguments import mapping, parse_arguments, size
from charm_hf.training.curves import plot_scatter
from charm_hf.training.evaluation import Predictions, predict, references_of
from charm_hf.training.loading import TokenizedDataset, evaluation_batches, make_loader
from charm_hf.training.mmlq import CommentedDataset
from charm_hf.training.splits import hold_out_fold, require_scale


logger = get_logger(__name__)


def comment_limit(text: str) -> int | None:
    """Type of `--comments`: `None` for all."""
    limit = {"all": None, "none": 0}.get(text, text)
    return limit if limit is None else int(limit)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line and the YAML file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model_name_or_path", required=True, help="a Charm or an MMLQ checkpoint")
    add("--dataset_name", required=True, help="ava, aadb, para, tad66k, baid, spaq, koniq10k, csv, or a Hub dataset")
    add("--data_dir", help="folder of the official download, or a table with an image folder")
    add("--dataset_options", type=mapping, default={}, help="further options of load_aesthetic_dataset")
    add("--split", default="test", help="several are joined with a plus: train+validation")
    add("--validation_size", type=size, help="as in training, to find the same validation part")
    add("--fold", type=int, help="cross-validation: measure on this fold of the split")
    add("--num_folds", type=int, default=5)
    add("--fold_seed", type=int, default=0)
    add("--stratify_column", help="as in training")
    add("--processor", type=mapping, default={}, help="parameters of the checkpoint's processor to change")
    add(
        "--comments",
        type=comment_limit,
        default=None,
        help="all, none, or at most so many of a photo, drawn by --seed",
    )
    add("--per_device_eval_batch_size", type=int, default=16)
    add("--num_workers", "--dataloader_num_workers", type=int, default=4, help="processes that read and tokenize")
    add("--mixed_precision", choices=("no", "bf16"), default="no")
    add("--bootstrap_samples", type=int, default=1000)
    add("--confidence", type=float, default=0.95)
    add("--seed", type=int, default=0, help="of the bootstrap")
    add("--predictions_format", choices=("csv", "parquet"), default="csv")
    add("--output_dir", type=Path, required=True)
    return parse_arguments(parser, argv)


def load_split(args: argparse.Namespace) -> tuple[Dataset, dict[str, int]]:
    """The photos to measure on, and the number of rows left out for each reason."""
    sizes = {} if args.validation_size is None else {"validation_size": args.validation_size}
    load = partial(load_aesthetic_dataset, args.dataset_name, args.data_dir, **sizes, **args.dataset_options)
    parts, reports = zip(*(load(split, return_report=True) for split in args.split.split("+")), strict=True)
    dataset = concatenate_datasets(list(parts))
    left_out = {reason: sum(len(report.left_out[reason]) for report in reports) for reason in reports[0].left_out}
    if args.fold is not None:
        _, dataset = hold_out_fold(dataset, args.fold, args.num_folds, args.fold_seed, args.stratify_column)
    return dataset, left_out


def tokenized(args: argparse.Namespace, model: Any, dataset: Dataset) -> TokenizedDataset:
    """Photos, with their comments if the model reads them, as it takes them."""
    if not isinstance(model, MmlqForAestheticScoring):
        return TokenizedDataset(
            dataset, CharmImageProcessor.from_pretrained(args.model_name_or_path, **args.processor)
        )
    processor = MmlqProcessor.from_pretrained(args.model_name_or_path)
    processor.check_text_encoder(model.config.text_config)
    return CommentedDataset(
        dataset, processor, processor_kwargs=args.processor, seed=args.seed, max_comments=args.comments
    )


def measure(
    args: argparse.Namespace, predictions: Predictions, dataset: Dataset, scale: LabelScale, model_values: Any
) -> dict[str, dict[str, Any]]:
    """Value and interval of each metric."""
    predicted, rated, options = references_of(predictions, dataset, scale, model_values)
    values = compute_aesthetic_metrics(predicted, rated, **options)
    intervals = bootstrap_intervals(
        predicted, rated, confidence=args.confidence, num_resamples=args.bootstrap_samples, seed=args.seed, **options
    )
    return {name: {"value": value, "interval": intervals[name]} for name, value in values.items()}


def predictions_table(
    predictions: Predictions, dataset: Dataset, scale: LabelScale, model_values: list[float] | None
) -> pa.Table:
    """One row a photo: what people said, what the model says, in the dataset's units and in [0, 1]."""
    columns: dict[str, Any] = {
        "image_id": dataset["image_id"][:],
        "score": np.array(dataset["score"][:]),
        "predicted_score": predictions.scores(scale.score_range),
        "normalized_score": predictions.normalized_scores,
    }
    if predictions.distributions is not None:
        for value, shares in zip(model_values or [], predictions.distributions.T, strict=True):
            columns[f"p_{value:g}"] = shares
    return pa.table(columns)


def format_table(report: dict[str, Any]) -> str:
    """The report for people."""
    lines = [
        f"{report['model']} on {report['dataset']} {report['split']}: {report['images']:,} photos, "
        f"hash {report['image_ids_sha256'][:16]}…"
    ]
    for name, entry in report["metrics"].items():
        low, high = entry["interval"]
        lines.append(
            f"  {name.upper():<7}{entry['value']:>10.4f}   {report['confidence']:.0%} {low:.4f} to {high:.4f}"
        )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Measure, from the flags to the report."""
    args = parse_args(argv)
    logging.basicConfig(format="%(asctime)s %(name)s: %(message)s", level=logging.INFO)
    accelerator = Accelerator(mixed_precision=args.mixed_precision)
    with accelerator.main_process_first():  # it writes seeded splits and mapped tables, the others find them
        dataset, left_out = load_split(args)
    scale = require_scale(dataset)

    model = AutoModel.from_pretrained(args.model_name_or_path).to(accelerator.device).eval()
    photos = tokenized(args, model, dataset)
    batches = evaluation_batches(
        len(dataset), args.per_device_eval_batch_size, accelerator.num_processes, accelerator.process_index
    )
    loader = make_loader(photos, batches, args.num_workers)
    predictions = predict(model, loader, accelerator)
    if accelerator.is_main_process:
        values = model.config.score_values
        report = {
            "model": args.model_name_or_path,
            "trained_on": model.config.dataset_name,
            "dataset": scale.dataset_name,
            "split": args.split if args.fold is None else f"fold {args.fold} of {args.num_folds} of {args.split}",
            "images": len(dataset),
            "image_ids_sha256": split_hash(dataset["image_id"][:]),
            "left_out": left_out,
            **({"comments": args.comments} if isinstance(photos, CommentedDataset) else {}),
            "score_range": scale.score_range,
            "confidence": args.confidence,
            "metrics": measure(args, predictions, dataset, scale, values),
            "command": shlex.join(["accelerate", "launch", "examples/evaluate_model.py", *(argv or sys.argv[1:])]),
        }
        args.output_dir.mkdir(parents=True, exist_ok=True)
        write_json(args.output_dir / "metrics.json", report)
        table = predictions_table(predictions, dataset, scale, values)
        path = args.output_dir / f"predictions.{args.predictions_format}"
        csv.write_csv(table, path) if path.suffix == ".csv" else parquet.write_table(table, path)
        title = f"{scale.dataset_name}, {len(dataset):,} photos"
        plot_scatter(
            table["predicted_score"].to_numpy(), table["score"].to_numpy(), title, args.output_dir / "scatter.png"
        )
        print(format_table(report))
    accelerator.end_training()


if __name__ == "__main__":
    main()
