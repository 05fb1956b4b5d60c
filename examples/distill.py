"""Give a Charm encoder what another vision network knows, from photos alone, before it is trained on ratings.

    accelerate launch examples/distill.py --photos PHOTOS MORE_PHOTOS --teacher timm/resnet50.a1_in1k \
        --backbone '{model_type: vit, hidden_size: 192, …}' --output_dir runs/distilled
    accelerate launch examples/train.py --model_name_or_path runs/distilled …

The teacher sees each photo once, whole; its feature map, reduced to the directions that vary most, is kept in
`--feature_cache`. The student sees views: crops of varied size, shape, mirroring and colours, never the same one twice,
cut into Charm tokens. Each token learns the teacher's features at its own place (dense), the pooled output their mean over
the view. With `--ratings_dataset` a ridge regression reads ratings out of the teacher's pooled features, and what it says
of each view is a further target, on the model's own head: labels for photos that nobody rated.

A teacher is a timm model (`timm/NAME`, needs timm), a repository or folder of transformers, or `package.module:function`,
optionally with one argument, `package.module:function=ARGUMENT`: called once, it gives a module that turns (B, 3, H, W)
pixels in [0, 1] into a (B, C, h, w) map. Several teachers stand side by side.

Every flag can stand in a YAML file (`--config`). The folder then holds a checkpoint for `train.py`, `history.json`, and
`run.json` (flags and what the ridge reaches on folds of the rated photos).
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import logging
import math
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


# This folder, where Python looks first, holds an `evaluate.py` that is not the package of that name.
if str(Path(__file__).absolute().parent) in sys.path:
    sys.path.remove(str(Path(__file__).absolute().parent))

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.logging import get_logger
from accelerate.utils import set_seed
from datasets import Dataset, concatenate_datasets
from PIL import Image
from scipy.stats import spearmanr
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from tqdm.auto import tqdm
from transformers import AutoImageProcessor, AutoModel, SchedulerType, get_scheduler

from charm_hf.models.image_loading_charm import load_image
from charm_hf.models.image_processing_charm import CharmImageProcessor
from charm_hf.training.arguments import mapping, parse_arguments
from charm_hf.training.building import build_model, build_processor
from charm_hf.training.checkpointing import write_json
from charm_hf.training.ema import make_ema
from charm_hf.training.loading import derive_seed, make_loader
from charm_hf.training.parameter_groups import build_parameter_groups
from charm_hf.training.splits import hold_out_fold, load_clean_split, require_scale


logger = get_logger(__name__)

PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
# The grid of points at which a view's mean features are read from the teacher's map.
POOLING_GRID = 8
# Ratios of width to height that views are drawn from, a batch each.
ASPECT_RATIOS = (0.67, 0.75, 0.8, 1.0, 1.25, 1.25, 1.33, 1.33, 1.5, 1.78)
SCHEDULERS = [kind.value for kind in SchedulerType if kind.value not in ("reduce_lr_on_plateau", "greedy")]


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line and the YAML file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    # Photos and teacher
    add("--photos", nargs="+", type=Path, required=True, help="folders, searched for photos at any depth")
    add("--teacher", nargs="+", required=True, help="timm/NAME, a transformers model, or module:function[=argument]")
    add("--teacher_longest_edge", type=int, default=512, help="photos are shrunk to this before the teacher sees them")
    add("--teacher_dim", type=int, default=192, help="directions kept of each teacher's features")
    add("--basis_photos", type=int, default=300, help="photos from which these directions are found")
    add("--feature_cache", type=Path, required=True, help="folder for the maps; another run goes on with what it holds")
    # Ratings, if there are any
    add("--ratings_dataset", help="photos with ratings, as --dataset_name of train.py")
    add("--data_dir")
    add("--dataset_options", type=mapping, default={})
    add("--train_split", default="train", help="several are joined with a plus: train+validation")
    add("--fold", type=int, help="keep this fold of the rated photos out of everything")
    add("--num_folds", type=int, default=5)
    add("--fold_seed", type=int, default=0)
    add("--stratify_column")
    # Model and tokens
    add("--model_name_or_path", help="a Charm checkpoint or a pretrained backbone to go on from")
    add("--backbone", type=mapping, help="instead: configuration of a backbone with random weights")
    add("--processor", type=mapping, default={}, help="parameters of CharmImageProcessor")
    add("--num_scales", type=int, default=2)
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
# The teacher, and what it says of whole photos.


class TransformersTeacher(nn.Module):
    """A vision model of transformers: its patch tokens, or its last feature map, as a map."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.network = AutoModel.from_pretrained(name)
        statistics = AutoImageProcessor.from_pretrained(name)
        self.mean, self.std = statistics.image_mean, statistics.image_std

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Turn (B, 3, H, W) pixels in [0, 1] into a (B, C, h, w) map."""
        patch = getattr(self.network.config, "patch_size", 1)
        height, width = pixels.shape[2] // patch * patch, pixels.shape[3] // patch * patch
        pixels = F.interpolate(pixels, (height, width), mode="bicubic", antialias=True) if patch > 1 else pixels
        options = {"interpolate_pos_encoding": True} if patch > 1 and "vit" in self.network.config.model_type else {}
        hidden = self.network(_normalized(pixels, self.mean, self.std), **options).last_hidden_state
        if hidden.ndim == 4:
            return hidden
        rows, columns = height // patch, width // patch
        return hidden[:, -rows * columns :].transpose(1, 2).unflatten(2, (rows, columns))


class TimmTeacher(nn.Module):
    """A model of timm: what its `forward_features` gives, as a map."""

    def __init__(self, name: str) -> None:
        super().__init__()
        import timm

        self.network = timm.create_model(name, pretrained=True, num_classes=0)
        statistics = timm.data.resolve_model_data_config(self.network)
        self.mean, self.std = statistics["mean"], statistics["std"]

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Turn (B, 3, H, W) pixels in [0, 1] into a (B, C, h, w) map."""
        features = self.network.forward_features(_normalized(pixels, self.mean, self.std))
        if features.ndim != 4:
            raise ValueError("Only timm models with feature maps can teach; take ViTs from transformers.")
        return features


def _normalized(pixels: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    return (pixels - pixels.new_tensor(mean)[:, None, None]) / pixels.new_tensor(std)[:, None, None]


def load_teacher(name: str) -> nn.Module:
    """Make the teacher that a flag names (see the top of this file)."""
    teacher: nn.Module
    if name.startswith("timm/"):
        teacher = TimmTeacher(name.removeprefix("timm/"))
    elif ":" in name and not Path(name).exists():
        path, _, argument = name.partition("=")
        module, _, function = path.partition(":")
        teacher = getattr(importlib.import_module(module), function)(*([argument] if argument else []))
    else:
        teacher = TransformersTeacher(name)
    return teacher.eval().requires_grad_(False)


class TeacherMaps:
    """What the teachers say of each photo, kept in a folder: pixels as they saw them, and a small map of features.

    Of each teacher's features the `dim` directions of largest variance are kept, each divided by the fourth root of its
    variance: between all directions alike and as large as they come. The mean square of the whole is 1. `basis.npz`
    holds the directions; they are found once, from the first photos of a seeded order, and then stay.
    """

    def __init__(self, folder: Path, names: Sequence[str], dim: int, longest_edge: int, device: torch.device) -> None:
        self.folder, self.names, self.dim, self.longest_edge, self.device = folder, names, dim, longest_edge, device
        self.basis: list[tuple[np.ndarray, np.ndarray]] = []
        folder.mkdir(parents=True, exist_ok=True)

    def fill(self, photos: Sequence[Path], basis_photos: int, seed: int) -> list[str]:
        """See the photos that the folder does not hold yet; return the key of each, the hash of its file."""
        keys = [hashlib.sha1(path.read_bytes(), usedforsecurity=False).hexdigest() for path in photos]
        missing = {key: path for key, path in zip(keys, photos, strict=True) if not self._file(key).exists()}
        if missing:
            teachers = [load_teacher(name).to(self.device) for name in self.names]
            if not (self.folder / "basis.npz").exists():
                chosen = random.Random(seed).sample(sorted(photos), min(basis_photos, len(photos)))
                self._find_basis(teachers, chosen)
            stored = np.load(self.folder / "basis.npz")
            self.basis = [(stored[f"mean{i}"], stored[f"basis{i}"]) for i in range(len(teachers))]
            for key, path in tqdm(missing.items(), "Teacher"):
                self._see(teachers, key, path)
        return keys

    def __getitem__(self, key: str) -> tuple[np.ndarray, np.ndarray]:
        """Pixels (H, W, 3) and features (h, w, D) of a photo."""
        return np.load(self._file(key, "pixels")), np.load(self._file(key))

    def pooled(self, key: str) -> np.ndarray:
        """Mean features (D,) of a whole photo."""
        return np.load(self._file(key)).mean(axis=(0, 1), dtype=np.float32)

    def _file(self, key: str, kind: str = "map") -> Path:
        return self.folder / f"{key}.{kind}.npy"

    def _read(self, path: Path) -> Image.Image:
        image = load_image(path).convert("RGB")
        image.thumbnail((self.longest_edge, self.longest_edge), Image.Resampling.BICUBIC)
        return image

    @torch.no_grad()
    def _maps(self, teachers: Sequence[nn.Module], image: Image.Image) -> list[torch.Tensor]:
        """(h, w, C) of each teacher."""
        pixels = torch.from_numpy(np.array(image)).to(self.device).permute(2, 0, 1)[None].float() / 255
        return [teacher(pixels)[0].permute(1, 2, 0).float().cpu() for teacher in teachers]

    def _find_basis(self, teachers: Sequence[nn.Module], photos: Sequence[Path]) -> None:
        cells: list[list[torch.Tensor]] = [[] for _ in teachers]
        for path in tqdm(photos, "Directions"):
            for own, features in zip(cells, self._maps(teachers, self._read(path)), strict=True):
                own.append(features.flatten(0, 1)[:: max(1, features.shape[0] * features.shape[1] // 50)])
        basis = {}
        for i, own in enumerate(cells):
            features = torch.cat(own)
            mean = features.mean(0)
            variances, directions = torch.linalg.eigh((features - mean).T @ (features - mean) / len(features))
            variances, directions = variances[-self.dim :].clamp(min=1e-9), directions[:, -self.dim :]
            scaled = directions * variances**-0.25
            basis |= {f"mean{i}": mean.numpy(), f"basis{i}": (scaled / variances.sqrt().mean().sqrt()).numpy()}
        np.savez(self.folder / "basis.npz", **basis)

    def _see(self, teachers: Sequence[nn.Module], key: str, path: Path) -> None:
        image = self._read(path)
        maps = [
            (features - torch.from_numpy(mean)) @ torch.from_numpy(basis)
            for features, (mean, basis) in zip(self._maps(teachers, image), self.basis, strict=True)
        ]
        size = maps[0].shape[:2]
        maps = [
            F.interpolate(m.permute(2, 0, 1)[None], size, mode="bilinear")[0].permute(1, 2, 0) for m in maps
        ]
        np.save(self._file(key, "pixels"), np.array(image))
        np.save(self._file(key), torch.cat(maps, dim=2).half().numpy())


def sample_map(features: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Read a map (h, w, D) at points (N, 2), x and y in [0, 1] of its width and height, bilinearly: (N, D) float32."""
    height, width, _ = features.shape
    x = (points[:, 0] * width - 0.5).clip(0, width - 1)
    y = (points[:, 1] * height - 0.5).clip(0, height - 1)
    left, top = x.astype(int), y.astype(int)
    right, bottom = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    x, y = (x - left)[:, None].astype(np.float32), (y - top)[:, None].astype(np.float32)
    above = features[top, left] * (1 - x) + features[top, right] * x
    below = features[bottom, left] * (1 - x) + features[bottom, right] * x
    return above * (1 - y) + below * y


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


@dataclass
class Crop:
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
    """Views as tokens, with the teacher's features at each token's place and over the view, and the rating if known."""

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

    def _view(
        self, image: Image.Image, size: tuple[int, int], generator: random.Random
    ) -> tuple[Image.Image, Crop]:
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
        self.pooled = nn.Linear(2 * model.config.hidden_size, dim)
        self.pooled_variance, self.args = pooled_variance, args

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The losses, each about 1 for a student that knows nothing: shares of the teacher's variance, and the rating's."""
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


def load_rated(args: argparse.Namespace) -> Dataset | None:
    """The rated photos, without the fold that is held out."""
    if args.ratings_dataset is None:
        return None
    parts = [
        load_clean_split(args.ratings_dataset, args.data_dir, name, **args.dataset_options)
        for name in args.train_split.split("+")
    ]
    rated = concatenate_datasets(parts)
    if args.fold is None:
        return rated
    return hold_out_fold(rated, args.fold, args.num_folds, args.fold_seed, args.stratify_column)[0]


@dataclass
class Ridge:
    """Reads ratings out of pooled features: distributions, or scores where the dataset has no votes."""

    estimator: Any
    score_range: tuple[float, float]
    distribution: bool
    cross_validated_srcc: float

    def __call__(self, pooled: np.ndarray) -> np.ndarray:
        """Rate (N, D) pooled features: (N, K) distributions, or (N,) scores in the dataset's own units."""
        said = self.estimator.predict(pooled).astype(np.float32)
        if not self.distribution:
            return said.clip(*self.score_range)
        said = said.clip(min=1e-4)
        return said / said.sum(-1, keepdims=True)


def fit_ridge(pooled: np.ndarray, rated: Dataset) -> Ridge:
    """Fit the ridge, and tell what it reaches on five folds of these very photos."""
    scale = require_scale(rated)
    targets = np.array(rated["distribution" if scale.score_values is not None else "score"][:], dtype=np.float32)
    estimator = make_pipeline(StandardScaler(), RidgeCV(np.logspace(0, 6, 25)))
    said, scores = cross_val_predict(estimator, pooled, targets, cv=min(5, len(rated))), np.array(rated["score"][:])
    srcc = spearmanr(said if targets.ndim == 1 else said @ np.array(scale.score_values), scores)[0]
    return Ridge(estimator.fit(pooled, targets), scale.score_range, targets.ndim > 1, float(srcc))


def build_student(args: argparse.Namespace, rated: Dataset | None) -> tuple[Any, CharmImageProcessor]:
    """The model, with the head that the ratings ask for, and the processor that fits it."""
    head: dict[str, Any] = {"score_range": (0.0, 1.0), "score_values": None}
    if rated is not None:
        scale = require_scale(rated)
        head = {"score_range": scale.score_range, "score_values": scale.score_values}
    model = build_model(args.model_name_or_path, args.backbone, head=head, num_scales=args.num_scales)
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


def save(folder: Path, model: Any, processor: Any, history: list[dict[str, float]]) -> None:
    """Write a checkpoint that `train.py` starts from."""
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
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
        rated_paths = [] if rated is None else [Path(row["path"]) for row in rated.decode(False)["image"]]
        rated_keys = maps.fill(rated_paths, args.basis_photos, args.seed)
    keys = list(dict.fromkeys(keys + rated_keys))
    pooled = np.stack([maps.pooled(key) for key in keys])
    ridge = None if rated is None else fit_ridge(np.stack([maps.pooled(key) for key in rated_keys]), rated)
    run = {"arguments": vars(args), "photos": len(keys), "rated_photos": len(rated_keys)}
    run["ridge_srcc"] = None if ridge is None else ridge.cross_validated_srcc
    logger.info("%d photos, %d rated; SRCC of the teacher's ridge %s", len(keys), len(rated_keys), run["ridge_srcc"])

    model, processor = build_student(args, rated)
    student = Distilled(model, pooled.shape[1], float(pooled.var(0).mean()), args)
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
                save(args.output_dir, ema.module, processor, history)
    logger.info("%s holds the checkpoint for --model_name_or_path", args.output_dir)


if __name__ == "__main__":
    main()
