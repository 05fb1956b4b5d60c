"""Give a Charm encoder what another vision network knows, from photos alone, before it is trained on ratings.

    accelerate launch examples/distill.py --photos PHOTOS MORE_PHOTOS --teacher timm/resnet50.a1_in1k \
        --feature_cache maps --backbone '{model_type: vit, hidden_size: 192, …}' --num_views 1000000 --output_dir START
    accelerate launch examples/train.py --model_name_or_path START …

The teacher sees each photo once, whole; its feature map, reduced to the directions that vary most, is kept in
`--feature_cache`. The student sees views: crops of varied size, shape, mirroring and colours, never the same one
twice, cut into Charm tokens. Each token learns the teacher's features at its own place (dense), the pooled output
their mean over the view. With `--dataset_name` a ridge regression reads ratings out of the teacher's pooled features,
and what it says of each view is a further target, on the model's own head: labels for photos that nobody rated.

A teacher is a repository or folder of a vision model of transformers or timm (`timm/…`, needs timm), or
`package.module:function`, perhaps with one argument, `package.module:function=ARGUMENT`: called once, it gives a
module that turns (B, 3, H, W) pixels in [0, 1] into a (B, C, h, w) map. Several teachers stand side by side.

Every flag can stand in a YAML file (`--config`). `--output_dir` then holds a checkpoint for `train.py`,
`history.json`, and `run.json` (flags, and what the ridge reaches on folds of the rated photos).
"""

from __future__ import annotations

import argparse
import logging
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.logging import get_logger
from accelerate.utils import set_seed
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from tqdm.auto import tqdm
from transformers import get_scheduler

from charm_hf import CharmForAestheticScoring, CharmImageProcessor
from charm_hf.files import write_json
from charm_hf.training.arguments import MAPPING, SCHEDULERS, parse_arguments
from charm_hf.training.batches import derive_seed, make_loader
from charm_hf.training.building import build_head, build_model, build_processor
from charm_hf.training.optimization import build_parameter_groups, make_ema
from charm_hf.training.partition import hold_out_fold, load_clean_split, require_scale
from charm_hf.training.teacher_maps import TeacherMaps, fit_ridge, sample_map


logger = get_logger(__name__)

PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
HEADS_FILE = "distillation.safetensors"
# The grid of points at which a view's mean features are read from the teacher's map.
POOLING_GRID = 8
# Ratios of width to height that views are drawn from, a batch each.
ASPECT_RATIOS = (0.67, 0.75, 0.8, 1.0, 1.25, 1.25, 1.33, 1.33, 1.5, 1.78)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line and the YAML file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    # Photos and teacher
    add("--photos", nargs="+", type=Path, required=True, help="folders, searched for photos at any depth")
    add("--teacher", nargs="+", required=True, help="a model of transformers or timm, or module:function[=argument]")
    add("--teacher_longest_edge", type=int, default=512, help="photos are shrunk to this before the teacher sees them")
    add("--teacher_dim", type=int, default=192, help="directions kept of each teacher's features")
    add("--basis_photos", type=int, default=300, help="photos from which these directions are found")
    add("--feature_cache", type=Path, required=True, help="folder of the maps; another run takes what it holds")
    # Ratings, if there are any: the flags of train.py
    add("--dataset_name", help="photos with ratings; they are looked at too")
    add("--data_dir")
    add("--dataset_options", **MAPPING)
    add("--train_split", default="train", help="several are joined with a plus: train+validation")
    add("--fold", type=int, help="keep this fold of the rated photos out of everything")
    add("--folds", **MAPPING, help="{number: 5, seed: 0, stratify_column: NAME} of the folds")
    # Model and tokens
    add("--model_name_or_path", help="a Charm checkpoint or a pretrained backbone to go on from")
    add("--backbone", **MAPPING, help="instead: configuration of a backbone with random weights")
    add("--num_scales", type=int, default=2, help="of a new model; a Charm checkpoint keeps its own")
    add("--processor", **MAPPING, help="parameters of CharmImageProcessor")
    # Views
    add("--num_views", type=int, required=True, help="in all; a photo gets its share of them")
    add("--min_crop_area", type=float, default=0.25, help="smallest share of a photo that a view shows")
    add("--max_crop_stretch", type=float, default=1.2)
    add("--min_longest_edge", type=int, default=384)
    add("--max_longest_edge", type=int, default=512)
    add("--flip", type=float, default=0.5)
    add("--colour", type=float, default=0.15, help="largest relative change of brightness, contrast and saturation")
    add("--random_selection", type=float, default=0.5, help="share of views whose regions are chosen at random")
    add("--num_workers", type=int, default=4)
    # Optimization
    add("--dense_weight", type=float, default=1.0)
    add("--pooled_weight", type=float, default=1.0)
    add("--rating_weight", type=float, default=5.0)
    add("--per_device_train_batch_size", type=int, default=32)
    add("--learning_rate", type=float, default=1e-3)
    add("--weight_decay", type=float, default=0.05)
    add("--max_grad_norm", type=float, default=1.0)
    add("--optimizer", choices=("adamw", "muon"), default="adamw", help="muon: for the matrices of the layers")
    add("--lr_scheduler_type", choices=SCHEDULERS, default="cosine")
    add("--warmup_ratio", type=float, default=0.05)
    add("--ema_decay", type=float, default=0.999)
    add("--mixed_precision", choices=("no", "bf16"), default="no")
    add("--seed", type=int, default=0)
    add("--output_dir", type=Path, required=True)
    add("--saving_steps", type=int, default=1000, help="optimizer steps between checkpoints")
    return parse_arguments(parser, argv)


# ---------------------------------------------------------------------------------------------------------------------
# Views of photos, never the same twice.


class ViewSampler:
    """Batches of `(view number, photo, (width, height))`: all views of a batch have one size, and thus no padding.

    Each photo comes once before any comes again. Of several processes, each draws its own batches.
    """

    def __init__(self, args: argparse.Namespace, num_photos: int, num_processes: int, process_index: int) -> None:
        self.args, self.num_photos = args, num_photos
        self.num_processes, self.process_index = num_processes, process_index

    def __len__(self) -> int:
        return self.args.num_views // (self.args.per_device_train_batch_size * self.num_processes)

    def __iter__(self) -> Iterator[list[tuple[int, int, tuple[int, int]]]]:
        size, args = self.args.per_device_train_batch_size, self.args
        order: list[int] = []
        for number in range(len(self) * self.num_processes):
            generator = random.Random(derive_seed(args.seed, "batch", number))
            while len(order) < size:
                order += generator.sample(range(self.num_photos), self.num_photos)
            batch, order = order[:size], order[size:]
            longest = generator.randint(args.min_longest_edge, args.max_longest_edge)
            ratio = generator.choice(ASPECT_RATIOS)
            shape = (longest, round(longest / ratio)) if ratio >= 1 else (round(longest * ratio), longest)
            if number % self.num_processes == self.process_index:
                yield [(number * size + place, photo, shape) for place, photo in enumerate(batch)]


class Crop(NamedTuple):
    """The part of a photo that a view shows, as shares of its width and height, and whether it is mirrored."""

    left: float
    top: float
    width: float
    height: float
    mirrored: bool

    def to_photo(self, points: np.ndarray) -> np.ndarray:
        """Move points (N, 2), x and y in [0, 1] of the view, to the photo."""
        x = 1 - points[:, 0] if self.mirrored else points[:, 0]
        return np.stack([self.left + self.width * x, self.top + self.height * points[:, 1]], axis=1)


class Views(torch.utils.data.Dataset[dict[str, Any]]):
    """Views as tokens, with the teacher's features at each token's place and over the view, and a rating perhaps."""

    def __init__(
        self,
        args: argparse.Namespace,
        maps: TeacherMaps,
        keys: Sequence[str],
        processor: CharmImageProcessor,
        rate: Callable[[np.ndarray], np.ndarray] | None,
    ) -> None:
        self.args, self.maps, self.keys, self.processor, self.rate = args, maps, keys, processor, rate
        edges = (np.arange(POOLING_GRID) + 0.5) / POOLING_GRID
        self.pooling_points = np.stack(np.meshgrid(edges, edges), axis=-1).reshape(-1, 2)

    def __getitem__(self, key: tuple[int, int, tuple[int, int]]) -> dict[str, Any]:
        number, photo, size = key
        seed = derive_seed(self.args.seed, "view", number)
        generator = random.Random(seed)
        pixels, features = self.maps[self.keys[photo]]
        image, crop = self._view(Image.fromarray(pixels), size, generator)
        random_regions = generator.random() < self.args.random_selection
        selection = {"patch_selection": "random"} if random_regions else {}
        item = {name: value[0] for name, value in self.processor(image, seed=seed, **selection).items()}
        points = crop.to_photo(self._token_centres(item, size))
        pooled = sample_map(features, crop.to_photo(self.pooling_points)).mean(0)
        item |= {"dense": sample_map(features, points), "pooled": pooled}
        return item if self.rate is None else {**item, "labels": self.rate(pooled[None])[0]}

    def _view(self, image: Image.Image, size: tuple[int, int], generator: random.Random) -> tuple[Image.Image, Crop]:
        """Cut out a part of nearly the view's shape, resize it, mirror it perhaps, change its colours a little."""
        stretch = self.args.max_crop_stretch ** generator.uniform(-1, 1)
        ratio = size[0] / size[1] * stretch * image.height / image.width  # of the shares of width and height
        largest = min(1.0, ratio) * min(1.0, 1 / ratio)
        area = generator.uniform(min(self.args.min_crop_area, largest), largest)
        width, height = min(1.0, math.sqrt(area * ratio)), min(1.0, math.sqrt(area / ratio))
        crop = Crop(
            generator.uniform(0, 1 - width),
            generator.uniform(0, 1 - height),
            width,
            height,
            generator.random() < self.args.flip,
        )
        left, top = crop.left * image.width, crop.top * image.height
        box = (left, top, left + width * image.width, top + height * image.height)
        view = image.resize(size, Image.Resampling.BICUBIC, box=box, reducing_gap=2.0)
        if crop.mirrored:
            view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return (self._recolour(view, generator) if self.args.colour else view), crop

    def _recolour(self, image: Image.Image, generator: random.Random) -> Image.Image:
        """Change saturation, contrast and brightness in one pass: a matrix on the colours."""
        saturation, contrast, brightness = (1 + self.args.colour * generator.uniform(-1, 1) for _ in range(3))
        grey = np.tile((1 - saturation) * np.array([0.299, 0.587, 0.114]), (3, 1)) + saturation * np.eye(3)
        offset = np.full((3, 1), 128 * (1 - contrast) * brightness)
        matrix = np.concatenate([grey * contrast * brightness, offset], axis=1)
        return image.convert("RGB", tuple(matrix.ravel()))

    def _token_centres(self, item: dict[str, Any], size: tuple[int, int]) -> np.ndarray:
        """Centre of each token in the view, (L, 2), x and y in [0, 1] of it (padding lies beyond 1)."""
        _, _, right, bottom = self.processor.covered_area(size[1], size[0])
        grid = item["spatial_shapes"][item["scale_ids"]].numpy()
        shares = (item["patch_positions"].numpy() + 0.5) / grid
        return np.stack([shares[:, 1] * right / size[0], shares[:, 0] * bottom / size[1]], axis=1)


# ---------------------------------------------------------------------------------------------------------------------
# The student and its losses.


class Distilled(nn.Module):
    """The student with two linear maps to the teacher's features, which are left behind afterwards."""

    def __init__(self, model: Any, dim: int, pooled_variance: float, args: argparse.Namespace) -> None:
        super().__init__()
        self.model = model
        self.dense = nn.Linear(model.config.hidden_size, dim)
        self.pooled = nn.Linear(model.config.pooled_size, dim)
        self.pooled_variance, self.args = pooled_variance, args

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The losses: shares of the teacher's variance that are left, about 1 at the start, and the rating's own."""
        dense, pooled = batch.pop("dense"), batch.pop("pooled")
        outputs = self.model(**batch)
        tokens = self.dense(outputs.last_hidden_state[:, -dense.shape[1] :])
        mask = batch["pixel_attention_mask"].bool()
        losses = {
            "dense": F.mse_loss(tokens.float()[mask], dense[mask]),
            "pooled": F.mse_loss(self.pooled(outputs.pooler_output).float(), pooled) / self.pooled_variance,
        }
        return losses if outputs.loss is None else {**losses, "rating": outputs.loss}

    def total(self, losses: dict[str, torch.Tensor]) -> torch.Tensor:
        """The weighted sum."""
        return torch.stack([getattr(self.args, f"{name}_weight") * loss for name, loss in losses.items()]).sum()


def load_rated(args: argparse.Namespace) -> datasets.Dataset | None:
    """The rated photos, without the fold that is held out."""
    if args.dataset_name is None:
        return None
    where = args.dataset_name, args.data_dir
    parts = [load_clean_split(*where, split, **args.dataset_options) for split in args.train_split.split("+")]
    rated = datasets.concatenate_datasets(parts)
    return rated if args.fold is None else hold_out_fold(rated, args.fold, **args.folds)[0]


def build_student(
    args: argparse.Namespace, rated: datasets.Dataset | None
) -> tuple[CharmForAestheticScoring, CharmImageProcessor]:
    """The model, with the head that the ratings ask for, and the processor that fits it."""
    head = {} if rated is None else build_head(rated, require_scale(rated))
    model = build_model(args.model_name_or_path, args.backbone or None, head, num_scales=args.num_scales)
    return model, build_processor(args.model_name_or_path, model.config, None, args.processor)


def build_optimizers(args: argparse.Namespace, student: Distilled) -> list[torch.optim.Optimizer]:
    """AdamW, and with `--optimizer muon` Muon for the matrices of the encoder's layers."""
    groups = build_parameter_groups(student, args.learning_rate, args.weight_decay)
    if args.optimizer == "adamw":
        return [torch.optim.AdamW(groups, lr=args.learning_rate)]
    matrices = {
        parameter
        for name, parameter in student.model.charm.backbone.named_parameters()
        if parameter.ndim == 2 and "layer" in name
    }
    for group in groups:
        group["params"] = [parameter for parameter in group["params"] if parameter not in matrices]
    muon = torch.optim.Muon(
        list(matrices), lr=args.learning_rate, weight_decay=args.weight_decay, adjust_lr_fn="match_rms_adamw"
    )
    return [torch.optim.AdamW([group for group in groups if group["params"]], lr=args.learning_rate), muon]


def save(folder: Path, student: Distilled, model: Any, processor: Any, history: list[dict[str, float]]) -> None:
    """Write a checkpoint that `train.py` starts from, and the maps to the teacher for a distillation that goes on."""
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    save_file({n: p for n, p in student.state_dict().items() if not n.startswith("model.")}, folder / HEADS_FILE)
    write_json(folder / "history.json", history)


def main(argv: list[str] | None = None) -> None:
    """Distil, from the flags to a checkpoint that `train.py` starts from."""
    args = parse_args(argv)
    accelerator = Accelerator(mixed_precision=args.mixed_precision)
    logging.basicConfig(format="%(asctime)s %(name)s: %(message)s", level=logging.INFO)
    set_seed(args.seed)

    photos = sorted(
        path for folder in args.photos for path in folder.rglob("*") if path.suffix.lower() in PHOTO_SUFFIXES
    )
    rated = load_rated(args)
    maps = TeacherMaps(
        args.feature_cache, args.teacher, args.teacher_dim, args.teacher_longest_edge, accelerator.device
    )
    with accelerator.main_process_first():
        keys = maps.fill(photos, args.basis_photos, args.seed)
        undecoded = [] if rated is None else rated.cast_column("image", datasets.Image(decode=False))["image"]
        rated_photos = [photo["bytes"] or Path(photo["path"]) for photo in undecoded]
        rated_keys = maps.fill(rated_photos, args.basis_photos, args.seed)
    keys = list(dict.fromkeys(keys + rated_keys))
    pooled = np.stack([maps.pooled(key) for key in keys])
    ridge = None if rated is None else fit_ridge(np.stack([maps.pooled(key) for key in rated_keys]), rated)
    run = {"arguments": vars(args), "photos": len(keys), "rated_photos": len(rated_keys)}
    run["ridge_srcc"] = None if ridge is None else ridge.cross_validated_srcc
    logger.info("%d photos, %d rated; SRCC of the teacher's ridge %s", len(keys), len(rated_keys), run["ridge_srcc"])

    model, processor = build_student(args, rated)
    if accelerator.device.type == "cpu":
        # PyTorch's fused attention goes backward three times as slowly as plain products on a CPU.
        model.set_attn_implementation("eager")
    student = Distilled(model, pooled.shape[1], float(pooled.var(0).mean()), args)
    if args.model_name_or_path and (heads := Path(args.model_name_or_path) / HEADS_FILE).exists():
        student.load_state_dict(load_file(heads), strict=False)
    optimizers = build_optimizers(args, student)
    sampler = ViewSampler(args, len(keys), accelerator.num_processes, accelerator.process_index)
    warmup = round(args.warmup_ratio * len(sampler))
    schedulers = [get_scheduler(args.lr_scheduler_type, each, warmup, len(sampler)) for each in optimizers]
    ema = make_ema(model, args.ema_decay)
    loader = make_loader(Views(args, maps, keys, processor, ridge), sampler, args.num_workers, args.seed)
    wrapped, *optimizers = accelerator.prepare(student, *optimizers)
    if accelerator.is_main_process:
        args.output_dir.mkdir(parents=True, exist_ok=True)
        write_json(args.output_dir / "run.json", run | {"arguments": {k: str(v) for k, v in vars(args).items()}})

    student.train()
    history: list[dict[str, float]] = []
    sums: dict[str, float] = {}
    started = time.perf_counter()
    bar = tqdm(loader, "Distilling", disable=not accelerator.is_local_main_process, mininterval=5)
    for step, batch in enumerate(bar, start=1):
        batch = {name: tensor.to(accelerator.device, non_blocking=True) for name, tensor in batch.items()}
        with accelerator.autocast():
            losses = wrapped(batch)
        loss = student.total(losses)
        if not loss.isfinite():
            raise FloatingPointError(f"The loss is {loss.item()} at step {step}: lower --learning_rate.")
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(student.parameters(), args.max_grad_norm)
        for optimizer, scheduler in zip(optimizers, schedulers, strict=True):
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()
        ema.update_parameters(model)
        sums = {name: sums.get(name, 0.0) + value.item() for name, value in losses.items()}
        if step % args.saving_steps == 0 or step == len(sampler):
            count = (step - 1) % args.saving_steps + 1
            record = {"step": step, "seconds": time.perf_counter() - started}
            history.append(record | {name: value / count for name, value in sums.items()})
            sums = {}
            logger.info(", ".join(f"{name} {value:.4g}" for name, value in history[-1].items()))
            if accelerator.is_main_process:
                save(args.output_dir, student, ema.module, processor, history)
    logger.info("%s holds the checkpoint for --model_name_or_path", args.output_dir)


if __name__ == "__main__":
    main()
