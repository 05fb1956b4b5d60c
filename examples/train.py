"""Train Charm on a dataset of rated photos.

    accelerate launch examples/train.py --config examples/configs/ava.yaml --data_dir AVA --output_dir runs/ava
    accelerate launch examples/train.py --config examples/configs/csv.yaml --data_dir my_photos --output_dir runs/mine

Every flag can stand in the YAML file under the same name; the command line wins. A run that was killed goes on, with
the same flags, where its last whole checkpoint stands, and ends with the weights it would have had:

    accelerate launch examples/train.py … --resume_from_checkpoint latest

The folder then holds a checkpoint for `from_pretrained` (best epoch), `README.md` (a draft of the model card),
`history.json`, `curves.png`, `run.json` (flags, versions and hashes of the splits), and the states to resume from.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import math
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.logging import get_logger
from accelerate.utils import set_seed
from datasets import Dataset, concatenate_datasets
from tqdm.auto import tqdm
from transformers import SchedulerType, get_scheduler

from charm_hf.data import LabelScale
from charm_hf.files import remove_folder, replaced_folder, write_json
from charm_hf.hub import push_checkpoint
from charm_hf.models.presets_charm import DATASET_PRESETS
from charm_hf.models.processing_mmlq import MmlqProcessor
from charm_hf.training.arguments import mapping, parse_arguments, size
from charm_hf.training.augmentation import TrainingAugmentation
from charm_hf.training.building import build_model, build_processor, label_column, score_quantiles
from charm_hf.training.checkpointing import (
    Progress,
    TrainingParts,
    find_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from charm_hf.training.curves import plot_curves
from charm_hf.training.ema import make_ema
from charm_hf.training.evaluation import evaluate_predictions, predict
from charm_hf.training.frozen_features import FeatureDataset, FrozenFeatures
from charm_hf.training.loading import EpochBatchSampler, TokenizedDataset, WaitClock, evaluation_batches, make_loader
from charm_hf.training.losses import correlation_loss
from charm_hf.training.mixout import add_mixout, state_dict_without_mixout
from charm_hf.training.mmlq import CommentedDataset, build_mmlq, is_mmlq
from charm_hf.training.model_card import draft_model_card
from charm_hf.training.parameter_groups import build_parameter_groups
from charm_hf.training.processes import exit_with_launcher
from charm_hf.training.run_folder import claim_output_dir, describe_run, publish_files
from charm_hf.training.splits import hold_out_fold, load_clean_split, require_scale


logger = get_logger(__name__)

SCHEDULERS = [kind.value for kind in SchedulerType if kind.value not in ("reduce_lr_on_plateau", "greedy")]


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line and the YAML file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    # Data
    add("--dataset_name", required=True, help="ava, aadb, para, tad66k, baid, spaq, koniq10k, csv, or a Hub dataset")
    add("--data_dir", help="folder of the official download, or a table with an image folder")
    add("--dataset_options", type=mapping, default={}, help="further options of load_aesthetic_dataset")
    add("--train_split", default="train", help="several are joined with a plus: train+validation")
    add("--validation_split", default="validation", help='"none" trains without, and keeps the last epoch')
    add(
        "--validation_size", type=size, help="share or number of training photos, where no validation part is official"
    )
    add("--fold", type=int, help="cross-validation: hold this fold of the training split out as the validation part")
    add("--num_folds", type=int, default=5)
    add("--fold_seed", type=int, default=0)
    add("--stratify_column", help="a column whose values are spread evenly over the folds")
    add("--num_workers", "--dataloader_num_workers", type=int, default=4, help="processes that read and tokenize")
    # Model and tokens
    add("--model_name_or_path", help="pretrained backbone, or a Charm checkpoint for a warm start")
    add("--backbone", type=mapping, help="instead: configuration of a backbone with random weights")
    add("--processor", type=mapping, default={}, help="parameters of CharmImageProcessor")
    add("--num_scales", type=int, default=2, help="of a new model; a Charm checkpoint keeps its own")
    add("--head", choices=("auto", "distribution", "regression"), default="auto", help="auto: as the labels are")
    add("--classifier_dropout", type=float, default=0.1)
    # Photos with comments: multi-modal learnable queries between a vision encoder (--model_name_or_path) and this one
    add("--text_encoder", help="BERT-like repository or folder; trains MMLQ instead of Charm")
    add("--mmlq", type=mapping, default={}, help="fields of MmlqConfig, such as {num_hidden_layers: 6}")
    add("--max_text_length", type=int, default=512, help="tokens of comments a photo")
    add("--feature_cache", type=Path, help="compute what the frozen encoders give once, and keep it in this folder")
    add("--feature_cache_dtype", choices=("float16", "float32"), default="float16")
    # Augmentation, in training only
    add("--train_patch_selection", default="random", help="evaluation uses the processor's own, frequency")
    add("--stochastic_selection", action="store_true", help="draw regions from twice as many candidates")
    add("--flip", type=float, default=0.5, help="probability of a horizontal flip")
    add("--rotation", type=float, default=0.5, help="probability of a rotation by 90, 180 or 270 degrees")
    add("--min_crop_area", type=float, default=1.0, help="smallest share of the photo that a random crop keeps")
    add("--max_crop_stretch", type=float, default=1.0)
    # Optimization
    add("--loss", choices=("auto", "emd", "mse"), default="auto", help="auto: emd for distributions, mse for scores")
    add("--correlation_weight", type=float, default=0.0, help="weight of 1 - PLCC of the batch, added to the loss")
    add("--per_device_train_batch_size", type=int, default=16)
    add("--per_device_eval_batch_size", type=int, default=16)
    add("--gradient_accumulation_steps", type=int, default=1)
    add("--learning_rate", type=float, default=1e-5)
    add("--embeddings_learning_rate", type=float, help="of patch, position and scale embeddings")
    add("--head_learning_rate", type=float)
    add("--weight_decay", type=float, default=0.02)
    add("--max_grad_norm", type=float, default=1.0)
    add("--num_train_epochs", type=int, default=30)
    add("--lr_scheduler_type", choices=SCHEDULERS, default="cosine_with_min_lr")
    add("--lr_scheduler_kwargs", type=mapping, help="default for cosine_with_min_lr: {min_lr: 1e-6}")
    add("--num_warmup_steps", type=int, default=0)
    add("--freeze_backbone", action="store_true", help="train head and scale embeddings only")
    add("--mixout", type=float, default=0.0, help="probability of Mixout on the encoder")
    add("--ema_decay", type=float, help="evaluate and keep a moving average of the weights")
    add("--mixed_precision", choices=("no", "bf16"), default="no")
    add("--seed", type=int, default=0)
    # Selection, output, resuming
    add(
        "--metric_for_best_model",
        choices=("plcc", "srcc", "last"),
        default="plcc",
        help="last: choose no epoch by its metrics",
    )
    add("--early_stopping_patience", type=int, help="stop after so many epochs without a better one")
    add("--output_dir", type=Path, required=True)
    add("--checkpointing_steps", default="epoch", help='optimizer steps between checkpoints, or "epoch"')
    add("--save_total_limit", type=int, default=2, help="number of checkpoints to keep")
    add("--resume_from_checkpoint", help='"latest", or a checkpoint folder')
    add("--with_tracking", action="store_true")
    add("--report_to", default="tensorboard", help="tensorboard, wandb, … or all")
    add("--push_to_hub", action="store_true")
    add("--hub_model_id")
    args = parse_arguments(parser, argv)
    if args.checkpointing_steps != "epoch" and not (
        args.checkpointing_steps.isdigit() and int(args.checkpointing_steps)
    ):
        parser.error(f'--checkpointing_steps takes a number of steps or "epoch", got {args.checkpointing_steps!r}')
    if args.fold is not None and not 0 <= args.fold < args.num_folds:
        parser.error(f"--fold must be 0 to {args.num_folds - 1}, got {args.fold}")
    if args.feature_cache and (args.rotation or args.min_crop_area < 1 or args.max_crop_stretch > 1):
        parser.error("--feature_cache keeps photos as they are and mirrored: it needs --rotation 0 and no crops")
    if args.push_to_hub and not args.hub_model_id:
        parser.error("--push_to_hub needs --hub_model_id owner/name")
    return args


def load_splits(args: argparse.Namespace) -> tuple[Dataset, Dataset | None, LabelScale]:
    """Training part, validation part and the scale of their labels."""
    sizes = {} if args.validation_size is None else {"validation_size": args.validation_size}
    load = partial(load_clean_split, args.dataset_name, args.data_dir, **sizes, **args.dataset_options)
    train = concatenate_datasets([load(split) for split in args.train_split.split("+")])
    validation = None
    if args.fold is not None:
        train, validation = hold_out_fold(train, args.fold, args.num_folds, args.fold_seed, args.stratify_column)
    elif args.validation_split != "none":
        validation = load(args.validation_split)
    return train, validation, require_scale(train)


def build_network(args: argparse.Namespace, train: Dataset, scale: LabelScale) -> tuple[Any, Any]:
    """Model, and the processor that fits it."""
    distribution = scale.score_values is not None and args.head != "regression"
    head = {
        "dataset_name": scale.dataset_name,
        "score_range": scale.score_range,
        "score_values": scale.score_values if distribution else None,
        "score_quantiles": score_quantiles(np.array(train["score"][:])),
    }
    if is_mmlq(args.model_name_or_path, args.text_encoder):
        return build_mmlq(args.model_name_or_path, args.text_encoder, head, args.mmlq, args.max_text_length)
    head |= {
        "num_attributes": len(train[0]["attributes"]) if "attributes" in train.column_names else 0,
        "classifier_dropout": args.classifier_dropout,
    }
    model = build_model(args.model_name_or_path, args.backbone, head=head, num_scales=args.num_scales)
    preset = args.dataset_name if args.dataset_name in DATASET_PRESETS else None
    processor = build_processor(args.model_name_or_path, model.config, preset, args.processor)
    if args.freeze_backbone:
        model.charm.backbone.requires_grad_(False)
    elif args.mixout:
        add_mixout([model.charm.backbone], args.mixout)
    return model, processor


def build_parts(args: argparse.Namespace, model: Any) -> TrainingParts:
    """Model, optimizer, scheduler and average."""
    rates = (args.learning_rate, args.weight_decay, args.embeddings_learning_rate, args.head_learning_rate)
    optimizer = torch.optim.AdamW(build_parameter_groups(model, *rates), lr=args.learning_rate)
    cosine = {"min_lr": min(1e-6, args.learning_rate)} if args.lr_scheduler_type == "cosine_with_min_lr" else {}
    scheduler = get_scheduler(
        args.lr_scheduler_type,
        optimizer,
        args.num_warmup_steps,
        args.steps_per_epoch * args.num_train_epochs,
        scheduler_specific_kwargs=args.lr_scheduler_kwargs or cosine,
    )
    return TrainingParts(model, optimizer, scheduler, make_ema(model, args.ema_decay) if args.ema_decay else None)


def compute_features(
    args: argparse.Namespace,
    accelerator: Accelerator,
    model: Any,
    processor: Any,
    train: Dataset,
    validation: Dataset | None,
) -> FrozenFeatures | None:
    """What the frozen encoders say about all photos and comments, if it is to be kept; the encoders are let go."""
    if args.feature_cache is None:
        return None
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
    processor: Any,
    features: FrozenFeatures | None,
    label: str,
    dataset: Dataset,
    training: bool = False,
    max_comments: int | None = None,
) -> torch.utils.data.Dataset:
    """Photos, or their features, as the model takes them; augmented in training."""
    if features is not None:
        return FeatureDataset(dataset, features, label, args.flip if training else 0.0, args.seed, max_comments)
    augmentation, selection = None, {}
    if training:
        augmentation = TrainingAugmentation(args.flip, args.rotation, args.min_crop_area, args.max_crop_stretch)
        selection = {"patch_selection": args.train_patch_selection, "stochastic_selection": args.stochastic_selection}
    options = (dataset, processor, label, augmentation, selection, args.seed)
    if isinstance(processor, MmlqProcessor):
        return CommentedDataset(*options, max_comments=max_comments)
    return TokenizedDataset(*options)


def batch_loss(model: torch.nn.Module, batch: dict[str, torch.Tensor], correlation_weight: float) -> torch.Tensor:
    """EMD or squared error, as the labels are, plus the correlation loss if it is wanted."""
    outputs = model(**{name: value for name, value in batch.items() if name not in ("index", "scores")})
    if not correlation_weight or len(batch["scores"]) < 2:
        return outputs.loss
    return outputs.loss + correlation_weight * correlation_loss(outputs.scores, batch["scores"])


def require_finite(name: str, value: torch.Tensor, image_ids: Any, batches: list[dict[str, torch.Tensor]]) -> None:
    """Stop the run where it goes wrong, with the photos that it went wrong on."""
    if not value.isfinite():
        ids = ", ".join(image_ids[index] for batch in batches for index in batch["index"].tolist())
        raise FloatingPointError(f"The {name} is {value.item()} in a batch of the photos {ids}.")


def train_steps(
    args: argparse.Namespace,
    accelerator: Accelerator,
    parts: TrainingParts,
    wrapped: torch.nn.Module,
    batches: Iterator[dict[str, torch.Tensor]],
    image_ids: Any,
) -> Iterator[float]:
    """Make one optimizer step after another, and yield the loss of each, averaged over photos and processes."""
    parameters = [parameter for parameter in parts.model.parameters() if parameter.requires_grad]
    while group := list(itertools.islice(batches, args.gradient_accumulation_steps)):
        photos = sum(len(batch["index"]) for batch in group)
        total = torch.zeros((), device=accelerator.device)
        for number, batch in enumerate(group, start=1):
            batch = {name: tensor.to(accelerator.device, non_blocking=True) for name, tensor in batch.items()}
            # Gradients are exchanged once a step, and a short last batch counts for the photos that it has.
            with nullcontext() if number == len(group) else accelerator.no_sync(wrapped):
                loss = batch_loss(wrapped, batch, args.correlation_weight) * (len(batch["index"]) / photos)
                require_finite("loss", loss, image_ids, [batch])
                accelerator.backward(loss)
            total += loss.detach()
        norm = accelerator.clip_grad_norm_(parameters, args.max_grad_norm)
        require_finite("gradient", norm, image_ids, group)
        parts.optimizer.step()
        parts.optimizer.zero_grad()
        parts.scheduler.step()
        if parts.ema is not None:
            parts.ema.update_parameters(parts.model)
        yield accelerator.reduce(total, "mean").item()


def best_folder(args: argparse.Namespace, record: dict[str, Any]) -> Path:
    """Where the model of an epoch is kept while it is the best."""
    return args.output_dir / f"checkpoint-best-epoch-{record['epoch']:04d}"


def save_model(folder: Path, parts: TrainingParts, processor: Any) -> None:
    """Write a checkpoint for `from_pretrained`: the average of the weights, if there is one."""
    model = parts.model if parts.ema is None else parts.ema.module
    with replaced_folder(folder) as temporary:
        model.save_pretrained(temporary, state_dict=state_dict_without_mixout(model.state_dict()))
        processor.save_pretrained(temporary)


def finish(args: argparse.Namespace, run: dict[str, Any], parts: TrainingParts, best: dict[str, Any]) -> None:
    """Leave the best checkpoint at the top of the run's folder, with a card, and push it if that is wanted."""
    publish_files(best_folder(args, best), args.output_dir)
    name = args.hub_model_id or args.output_dir.resolve().name
    card = draft_model_card(name, parts.model.config, run, best)
    card.save(args.output_dir / "README.md")
    logger.info("%s holds the checkpoint of epoch %d", args.output_dir, best["epoch"])
    if args.push_to_hub:
        push_checkpoint(args.output_dir, args.hub_model_id)


def main(argv: list[str] | None = None) -> None:
    """Train, from the flags to the checkpoint."""
    args = parse_args(argv)
    logging.basicConfig(format="%(asctime)s %(name)s: %(message)s", level=logging.INFO)
    trackers = args.report_to if args.with_tracking else None
    accelerator = Accelerator(
        mixed_precision=args.mixed_precision, log_with=trackers, project_dir=args.output_dir / "logs"
    )
    exit_with_launcher()
    world, rank = accelerator.num_processes, accelerator.process_index

    # What to train on
    with accelerator.main_process_first():  # it writes seeded splits and mapped tables, the others find them
        train, validation, scale = load_splits(args)
    run = describe_run(args, argv, {"train": train, "validation": validation}, world)
    if accelerator.is_main_process:
        claim_output_dir(args.output_dir, run, resume=args.resume_from_checkpoint is not None)
    sampler = EpochBatchSampler(len(train), args.per_device_train_batch_size, args.seed, world, rank)
    args.steps_per_epoch = math.ceil(len(sampler) / args.gradient_accumulation_steps)

    # What to train
    set_seed(args.seed)  # the same weights in every process
    model, processor = build_network(args, train, scale)
    features = compute_features(args, accelerator, model, processor, train, validation)
    parts = build_parts(args, model)
    scored = parts.model if parts.ema is None else parts.ema.to(accelerator.device).module
    wrapped = accelerator.prepare(parts.model)
    torch.manual_seed(args.seed + rank)  # from here on, each process drops out on its own

    # How photos reach it
    label = label_column(args.loss, scored.config, train.column_names)
    make_data = partial(make_photos, args, processor, features, label)
    train_loader = make_loader(make_data(train, training=True), sampler, args.num_workers, args.seed)
    eval_loaders = {}
    if validation is not None:
        batches = evaluation_batches(len(validation), args.per_device_eval_batch_size, world, rank)
        eval_loaders[""] = make_loader(make_data(validation), batches, args.num_workers, args.seed)
        if "comments" in validation.column_names:
            silent = make_data(validation, max_comments=0)
            eval_loaders["_no_comments"] = make_loader(silent, batches, args.num_workers, args.seed)

    progress = Progress()
    if args.resume_from_checkpoint and (found := find_checkpoint(args.resume_from_checkpoint, args.output_dir)):
        progress = load_checkpoint(found, accelerator, parts)
        logger.info("Going on from %s: %d epochs are done", found, progress.epoch)
    if trackers:
        accelerator.init_trackers("charm", {k: v for k, v in vars(args).items() if isinstance(v, (int, float, str))})

    metric = args.metric_for_best_model
    while not progress.is_over(args.num_train_epochs, metric, args.early_stopping_patience):
        clock = WaitClock()
        sampler.set_position(progress.epoch, progress.epoch_step * args.gradient_accumulation_steps)
        parts.model.train()
        bar = tqdm(
            train_steps(args, accelerator, parts, wrapped, clock.watch(train_loader), train["image_id"]),
            f"Epoch {progress.epoch + 1}/{args.num_train_epochs}",
            args.steps_per_epoch,
            initial=progress.epoch_step,
            disable=not accelerator.is_local_main_process,
        )
        for loss in bar:
            progress.step, progress.epoch_step = progress.step + 1, progress.epoch_step + 1
            progress.epoch_loss += loss
            bar.set_postfix(loss=f"{loss:.4f}", waiting=f"{clock.share:.0%}")
            accelerator.log({"step_loss": loss}, step=progress.step)
            if args.checkpointing_steps != "epoch" and progress.step % int(args.checkpointing_steps) == 0:
                save_checkpoint(args.output_dir, accelerator, parts, progress, args.save_total_limit)

        record = {
            "epoch": progress.epoch + 1,
            "step": progress.step,
            "train_loss": progress.epoch_loss / args.steps_per_epoch,
            "learning_rate": parts.scheduler.get_last_lr()[0],
            "data_wait": round(clock.share, 4),
        }
        for suffix, loader in eval_loaders.items():
            predictions = predict(scored, loader, accelerator)
            metrics = evaluate_predictions(predictions, validation, scale, scored.config.score_values)
            squared_error = metrics["mse"] / (scale.score_range[1] - scale.score_range[0]) ** 2
            metrics = {"eval_loss": metrics["emd_r2"] if label == "distribution" else squared_error, **metrics}
            record |= {f"{name}{suffix}": value for name, value in metrics.items()}
        progress.end_epoch(record)
        logger.info(", ".join(f"{k} {v:.4f}" if isinstance(v, float) else f"{k} {v}" for k, v in record.items()))
        accelerator.log({k: v for k, v in record.items() if k != "step"}, step=progress.step)
        best = progress.best(metric)
        if accelerator.is_main_process:
            if best is record:
                save_model(best_folder(args, best), parts, processor)
            write_json(args.output_dir / "history.json", progress.history)
            plot_curves(progress.history, args.output_dir / "curves.png")
        save_checkpoint(args.output_dir, accelerator, parts, progress, args.save_total_limit)
        if accelerator.is_main_process:  # only now can no resumed run ask for an earlier one
            for folder in set(args.output_dir.glob("checkpoint-best-epoch-*")) - {best_folder(args, best)}:
                remove_folder(folder)

    if accelerator.is_main_process:
        finish(args, run, parts, progress.best(metric))
    accelerator.end_training()


if __name__ == "__main__":
    main()
