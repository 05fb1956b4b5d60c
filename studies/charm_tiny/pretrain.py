"""Give a small Charm model with random weights a start from the photos alone, without their ratings.

    python -m studies.charm_tiny.pretrain --config studies/charm_tiny/pretrain.yaml --data_dir PHOTOS \
        --output_dir START
    accelerate launch examples/train.py --config examples/configs/charm-tiny.yaml --data_dir PHOTOS \
        --model_name_or_path START --output_dir CHECKPOINT

The model learns to predict statistics of colours and edges and a bag of visual words (`photo_statistics.py`) from the
tokens of cropped and mirrored photos. It is meant for a few hundred photos and a model that has no pretrained
backbone, and runs in one process. With `--fold`, the photos of that fold are not looked at, so that a cross-validation
stays honest.
"""

from __future__ import annotations

import argparse
import logging
import math
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, concatenate_datasets
from tqdm.auto import tqdm
from transformers import get_cosine_schedule_with_warmup, set_seed

from charm_hf.models.image_processing_charm import CharmImageProcessor
from charm_hf.training.arguments import mapping, parse_arguments
from charm_hf.training.augmentation import TrainingAugmentation
from charm_hf.training.batches import EpochBatchSampler, derive_seed, make_loader
from charm_hf.training.building import build_model, build_processor
from charm_hf.training.optimization import build_parameter_groups
from charm_hf.training.partition import hold_out_fold, load_clean_split, require_scale
from studies.charm_tiny.photo_statistics import PhotoStatistics, StatisticsHead


logger = logging.getLogger(__name__)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line and the YAML file; flags mean what they mean in `train.py`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--dataset_name", required=True)
    add("--data_dir")
    add("--dataset_options", type=mapping, default={})
    add("--train_split", default="train", help="several are joined with a plus: train+validation")
    add("--fold", type=int, help="leave this fold of the training split out")
    add("--num_folds", type=int, default=5)
    add("--fold_seed", type=int, default=0)
    add("--stratify_column")
    add("--num_workers", type=int, default=2)
    add("--backbone", type=mapping, required=True, help="configuration of a backbone with random weights")
    add("--processor", type=mapping, default={}, help="parameters of CharmImageProcessor")
    add("--num_scales", type=int, default=2)
    add("--classifier_dropout", type=float, default=0.1)
    add("--flip", type=float, default=0.5)
    add("--rotation", type=float, default=0.0)
    add("--min_crop_area", type=float, default=0.6)
    add("--num_words", type=int, default=100, help="visual words to predict")
    add("--per_device_train_batch_size", type=int, default=32)
    add("--learning_rate", type=float, default=2e-3)
    add("--weight_decay", type=float, default=0.05)
    add("--max_grad_norm", type=float, default=1.0)
    add("--num_train_epochs", type=int, default=30)
    add("--warmup_ratio", type=float, default=0.1)
    add("--seed", type=int, default=0)
    add("--output_dir", type=Path, required=True)
    return parse_arguments(parser, argv)


class StatisticsDataset(torch.utils.data.Dataset[dict[str, Any]]):
    """Augmented photos as tokens, with the statistics of what was left of them, by `(epoch, index)`."""

    def __init__(
        self,
        dataset: Dataset,
        processor: CharmImageProcessor,
        statistics: PhotoStatistics,
        augmentation: TrainingAugmentation,
        seed: int,
    ) -> None:
        self.dataset, self.processor, self.statistics = dataset, processor, statistics
        self.augmentation, self.seed = augmentation, seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, torch.Tensor]:
        epoch, index = key
        seed = derive_seed(self.seed, "pretrain", epoch, index)
        (photo,) = self.augmentation(self.dataset[index]["image"].convert("RGB"), seed=seed)
        tokens = self.processor(photo, seed=seed, patch_selection="random")
        return {**{name: value[0] for name, value in tokens.items()}, "statistics": self.statistics(photo)}


def load_photos(args: argparse.Namespace) -> Dataset:
    """The training photos, without the fold that is held out."""
    parts = [
        load_clean_split(args.dataset_name, args.data_dir, name, **args.dataset_options)
        for name in args.train_split.split("+")
    ]
    photos = concatenate_datasets(parts)
    if args.fold is None:
        return photos
    return hold_out_fold(photos, args.fold, args.num_folds, args.fold_seed, args.stratify_column)[0]


def main(argv: list[str] | None = None) -> None:
    """Pretrain, from the flags to a checkpoint that `train.py` starts from."""
    args = parse_args(argv)
    logging.basicConfig(format="%(asctime)s %(name)s: %(message)s", level=logging.INFO)
    photos = load_photos(args)
    scale = require_scale(photos)
    set_seed(args.seed)
    head = {
        "score_range": scale.score_range,
        "score_values": scale.score_values,
        "classifier_dropout": args.classifier_dropout,
    }
    model = build_model(None, args.backbone, head=head, num_scales=args.num_scales)
    processor = build_processor(None, model.config, None, args.processor)
    statistics = PhotoStatistics((row["image"] for row in photos), args.num_words, args.seed)
    task = StatisticsHead(2 * model.config.hidden_size, len(statistics))

    sampler = EpochBatchSampler(len(photos), args.per_device_train_batch_size, args.seed)
    augmentation = TrainingAugmentation(args.flip, args.rotation, args.min_crop_area)
    dataset = StatisticsDataset(photos, processor, statistics, augmentation, args.seed)
    loader = make_loader(dataset, sampler, args.num_workers, args.seed)
    # The classifier has no part in the task: it stays as it was drawn.
    groups = build_parameter_groups(model.charm, args.learning_rate, args.weight_decay)
    optimizer = torch.optim.AdamW(
        [*groups, {"params": list(task.parameters()), "weight_decay": 0.0}], lr=args.learning_rate
    )
    num_steps = len(sampler) * args.num_train_epochs
    scheduler = get_cosine_schedule_with_warmup(optimizer, round(args.warmup_ratio * num_steps), num_steps)

    model.train()
    for epoch in (bar := tqdm(range(args.num_train_epochs), "Pretraining")):
        sampler.set_position(epoch)
        losses = []
        for batch in loader:
            targets = batch.pop("statistics")
            loss = task.loss(model.dropout(model(**batch).pooler_output), targets)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_([*model.charm.parameters(), *task.parameters()], args.max_grad_norm)
            optimizer.step()
            scheduler.step()
            losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            raise FloatingPointError(f"The loss is {losses[-1]} in epoch {epoch + 1}: lower --learning_rate.")
        bar.set_postfix(loss=f"{sum(losses) / len(losses):.4f}")
    model.save_pretrained(args.output_dir)
    processor.save_pretrained(args.output_dir)
    logger.info("%s holds the model for --model_name_or_path", args.output_dir)


if __name__ == "__main__":
    main()
