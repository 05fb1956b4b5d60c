"""Train multi-modal learnable queries on photos with comments, between a vision and a text encoder.

    accelerate launch examples/train_mmlq.py --config examples/configs/mmlq_ava.yaml --data_dir AVA \
        --output_dir runs/mmlq_ava --feature_cache AVA/features

Flags, files, resuming and several processes are those of `train.py`. Validation is measured with the comments and
without. `--feature_cache` computes what the frozen encoders give once, so that an epoch costs the queries only.
"""

from __future__ import annotations

import argparse
import logging
import math
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from datasets import Dataset

from charm_hf import MmlqForAestheticScoring, MmlqProcessor
from charm_hf.hub import draft_model_card, push_checkpoint
from charm_hf.training.arguments import MAPPING, add_training_flags, parse_training_arguments
from charm_hf.training.augmentation import TrainingAugmentation
from charm_hf.training.batches import EpochBatchSampler, evaluation_batches, make_loader
from charm_hf.training.building import build_head, label_column
from charm_hf.training.evaluation import measure
from charm_hf.training.feature_cache import FeatureDataset, FrozenFeatures
from charm_hf.training.loop import Run
from charm_hf.training.mmlq import CommentedDataset, build_mmlq
from charm_hf.training.optimization import build_parts
from charm_hf.training.partition import load_training_parts
from charm_hf.training.run_folder import claim_output_dir, describe_run, exit_with_launcher


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line and the YAML file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_training_flags(parser)  # photos, optimization, what is kept
    add = parser.add_argument
    add("--model_name_or_path", required=True, help="vision encoder, or an MMLQ checkpoint to go on from")
    add("--text_encoder", help="BERT-like repository or folder; not for an MMLQ checkpoint")
    add("--mmlq", **MAPPING, help="fields of MmlqConfig, such as {num_hidden_layers: 6}")
    add("--max_text_length", type=int, default=512, help="tokens of comments a photo")
    add("--feature_cache", type=Path, help="compute what the frozen encoders give once, and keep it in this folder")
    add("--feature_cache_dtype", choices=("float16", "float32"), default="float16")
    add("--flip", type=float, default=0.5, help="probability of a horizontal flip")
    add("--rotation", type=float, default=0.0, help="probability of a rotation by 90, 180 or 270 degrees")
    add(
        "--train_processor",
        **{**MAPPING, "default": {"patch_selection": "random"}},
        help="parameters of a Charm encoder's processor that differ in training",
    )
    args = parse_training_arguments(parser, argv)
    if args.feature_cache and args.rotation:
        parser.error("--feature_cache keeps photos as they are and mirrored: it needs --rotation 0")
    return args


def compute_features(
    args: argparse.Namespace,
    accelerator: Accelerator,
    model: MmlqForAestheticScoring,
    processor: MmlqProcessor,
    train: Dataset,
    validation: Dataset | None,
) -> FrozenFeatures:
    """What the frozen encoders say about all photos and comments; the encoders are let go."""
    with accelerator.main_process_first():
        features = FrozenFeatures(args.feature_cache, model, processor, args.feature_cache_dtype)
    options = {"batch_size": args.per_device_eval_batch_size, "num_workers": args.num_workers}
    features.fill(model, train, accelerator, flips=args.flip > 0, **options)
    if validation is not None:
        features.fill(model, validation, accelerator, **options)
    model.mmlq.drop_encoders()
    return features


def make_photos(
    args: argparse.Namespace,
    processor: MmlqProcessor,
    features: FrozenFeatures | None,
    label: str,
    dataset: Dataset,
    training: bool = False,
    max_comments: int | None = None,
) -> torch.utils.data.Dataset:
    """Photos with comments, or their features, as the model takes them; augmented in training."""
    if features is not None:
        return FeatureDataset(dataset, features, label, args.flip if training else 0.0, args.seed, max_comments)
    augmentation = TrainingAugmentation(args.flip, args.rotation) if training else None
    parameters = args.train_processor if training else {}
    return CommentedDataset(dataset, processor, label, augmentation, parameters, args.seed, max_comments=max_comments)


def main(argv: list[str] | None = None) -> None:
    """Train, from the flags to the checkpoint."""
    args = parse_args(argv)
    logging.basicConfig(format="%(asctime)s %(name)s: %(message)s", level=logging.INFO)
    accelerator = Accelerator(
        mixed_precision=args.mixed_precision, log_with=args.report_to, project_dir=args.output_dir / "logs"
    )
    world, rank = accelerator.num_processes, accelerator.process_index
    exit_with_launcher()

    # What to train on
    with accelerator.main_process_first():  # it writes seeded splits and mapped tables, the others find them
        train, validation, scale = load_training_parts(args)
    description = describe_run(__file__, args, argv, {"train": train, "validation": validation}, world)
    if accelerator.is_main_process:
        claim_output_dir(args.output_dir, description, resume=args.resume_from_checkpoint is not None)

    # What to train
    set_seed(args.seed)  # the same weights in every process
    head = build_head(train, scale)
    model, processor = build_mmlq(args.model_name_or_path, args.text_encoder, head, args.mmlq, args.max_text_length)
    features = None
    if args.feature_cache:
        features = compute_features(args, accelerator, model, processor, train, validation)
    sampler = EpochBatchSampler(len(train), args.per_device_train_batch_size, args.seed, world, rank)
    parts = build_parts(args, model, math.ceil(len(sampler) / args.gradient_accumulation_steps))
    run = Run(args, accelerator, parts, sampler)

    # How photos and comments reach it
    label = label_column(args.loss, model.config, train.column_names)
    photos_of = partial(make_photos, args, processor, features, label)
    train_loader = make_loader(photos_of(train, training=True), sampler, args.num_workers, args.seed)
    eval_loaders = {}
    if validation is not None:
        batches = evaluation_batches(len(validation), args.per_device_eval_batch_size, world, rank)
        shown = {"": None, "_no_comments": 0} if "comments" in validation.column_names else {"": None}
        eval_loaders = {
            suffix: make_loader(photos_of(validation, max_comments=limit), batches, args.num_workers, args.seed)
            for suffix, limit in shown.items()
        }

    run.resume()
    while not run.is_over():
        record = run.train_epoch(train_loader, train["image_id"])
        for suffix, loader in eval_loaders.items():
            metrics = measure(run.scored_model, loader, accelerator, validation, scale, label)
            record |= {f"{name}{suffix}": value for name, value in metrics.items()}
        run.end_epoch(record, processor)
    if best := run.finish():  # in the main process
        name = args.push_to_hub or args.output_dir.resolve().name
        draft_model_card(name, model.config, description, best).save(args.output_dir / "README.md")
        if args.push_to_hub:
            push_checkpoint(args.output_dir, args.push_to_hub)


if __name__ == "__main__":
    main()
