"""What networks that teach a Charm encoder say of photos: seen once each, and kept as small maps (`distill.py`)."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from datasets import Dataset
from PIL import Image
from scipy.stats import spearmanr
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from tqdm.auto import tqdm
from transformers import AutoImageProcessor, AutoModel

from charm_hf.models.image_loading_charm import load_image
from charm_hf.training.partition import require_scale


class PublishedTeacher(nn.Module):
    """A vision model of transformers or timm: its last feature map, or its patch tokens laid out as a map."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.network = AutoModel.from_pretrained(name, use_safetensors=True)  # never a pickle
        statistics = AutoImageProcessor.from_pretrained(name)
        timm = getattr(statistics, "data_config", None)  # the processor of a timm model has no names of its own
        self.mean = timm["mean"] if timm else statistics.image_mean
        self.std = timm["std"] if timm else statistics.image_std

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Turn (B, 3, H, W) pixels in [0, 1] into a (B, C, h, w) map."""
        patch = getattr(self.network.config, "patch_size", None)
        if patch is not None:
            size = [max(patch, side // patch * patch) for side in pixels.shape[2:]]
            pixels = F.interpolate(pixels, size, mode="bicubic", antialias=True)
        mean, std = (pixels.new_tensor(values)[:, None, None] for values in (self.mean, self.std))
        # ViTs of one table size must be asked to stretch it; those that always do take no such argument.
        asks = "interpolate_pos_encoding" in inspect.signature(self.network.forward).parameters
        options = {"interpolate_pos_encoding": True} if asks else {}
        hidden = self.network((pixels - mean) / std, **options).last_hidden_state
        if hidden.ndim == 4:
            return hidden
        if patch is None:
            raise ValueError(f"{type(self.network).__name__} gives neither a map nor patch tokens: write an adapter.")
        rows, columns = size[0] // patch, size[1] // patch
        return hidden[:, -rows * columns :].transpose(1, 2).unflatten(2, (rows, columns))


def load_teacher(name: str) -> nn.Module:
    """Make the teacher that a flag names: a repository, or `module:function` and perhaps `=argument`."""
    if ":" not in name:
        return PublishedTeacher(name).eval().requires_grad_(False)
    path, _, argument = name.partition("=")
    module, _, function = path.partition(":")
    teacher = getattr(importlib.import_module(module), function)(*([argument] if argument else []))
    return teacher.eval().requires_grad_(False)


class TeacherMaps:
    """What the teachers say of each photo, kept in a folder: pixels as they saw them, and a small map of features.

    Of each teacher's features the `dim` directions of largest variance are kept, each divided by the fourth root of
    its variance: between all directions alike and as large as they come. The mean square of the whole is 1.
    `basis.npz` holds the directions; they are found once, from the first photos of a seeded order, and then stay.
    """

    def __init__(self, folder: Path, names: Sequence[str], dim: int, longest_edge: int, device: torch.device) -> None:
        self.folder, self.names, self.dim, self.longest_edge, self.device = folder, names, dim, longest_edge, device
        self.basis: list[tuple[np.ndarray, np.ndarray]] = []
        folder.mkdir(parents=True, exist_ok=True)

    def fill(self, photos: Sequence[Path | bytes], basis_photos: int, seed: int) -> list[str]:
        """See the photos (files, or what is in them) that the folder lacks; return the key of each, a hash."""
        contents = (photo if isinstance(photo, bytes) else photo.read_bytes() for photo in photos)
        keys = [hashlib.sha1(content, usedforsecurity=False).hexdigest() for content in contents]
        missing = {key: photo for key, photo in zip(keys, photos, strict=True) if not self._file(key).exists()}
        if missing:
            teachers = [load_teacher(name).to(self.device) for name in self.names]
            if not (self.folder / "basis.npz").exists():
                chosen = random.Random(seed).sample(list(photos), min(basis_photos, len(photos)))
                self._find_basis(teachers, chosen)
            stored = np.load(self.folder / "basis.npz")
            self.basis = [(stored[f"mean{i}"], stored[f"basis{i}"]) for i in range(len(teachers))]
            for key, photo in tqdm(missing.items(), "Teacher"):
                self._see(teachers, key, photo)
        return keys

    def __getitem__(self, key: str) -> tuple[np.ndarray, np.ndarray]:
        """Pixels (H, W, 3) and features (h, w, D) of a photo."""
        return np.load(self._file(key, "pixels"), mmap_mode="r"), np.load(self._file(key), mmap_mode="r")

    def pooled(self, key: str) -> np.ndarray:
        """Mean features (D,) of a whole photo."""
        return np.load(self._file(key)).mean(axis=(0, 1), dtype=np.float32)

    def _file(self, key: str, kind: str = "map") -> Path:
        return self.folder / f"{key}.{kind}.npy"

    def _read(self, photo: Path | bytes) -> Image.Image:
        image = load_image(photo).convert("RGB")
        image.thumbnail((self.longest_edge, self.longest_edge), Image.Resampling.BICUBIC)
        return image

    @torch.no_grad()
    def _maps(self, teachers: Sequence[nn.Module], image: Image.Image) -> list[torch.Tensor]:
        """(h, w, C) of each teacher."""
        pixels = torch.from_numpy(np.array(image)).to(self.device).permute(2, 0, 1)[None].float() / 255
        return [teacher(pixels)[0].permute(1, 2, 0).float().cpu() for teacher in teachers]

    def _find_basis(self, teachers: Sequence[nn.Module], photos: Sequence[Path | bytes]) -> None:
        cells: list[list[torch.Tensor]] = [[] for _ in teachers]
        for photo in tqdm(photos, "Directions"):
            for own, features in zip(cells, self._maps(teachers, self._read(photo)), strict=True):
                own.append(features.flatten(0, 1)[:: max(1, features.shape[0] * features.shape[1] // 50)])
        basis: dict[str, Any] = {}
        for i, own in enumerate(cells):
            features = torch.cat(own)
            mean = features.mean(0)
            variances, directions = torch.linalg.eigh((features - mean).T @ (features - mean) / len(features))
            variances, directions = variances[-self.dim :].clamp(min=1e-9), directions[:, -self.dim :]
            scaled = directions * variances**-0.25
            basis |= {f"mean{i}": mean.numpy(), f"basis{i}": (scaled / variances.sqrt().mean().sqrt()).numpy()}
        np.savez(self.folder / "basis.npz", **basis)

    def _see(self, teachers: Sequence[nn.Module], key: str, photo: Path | bytes) -> None:
        image = self._read(photo)
        maps = [
            (features - torch.from_numpy(mean)) @ torch.from_numpy(basis)
            for features, (mean, basis) in zip(self._maps(teachers, image), self.basis, strict=True)
        ]
        size = maps[0].shape[:2]
        maps = [F.interpolate(m.permute(2, 0, 1)[None], size, mode="bilinear")[0].permute(1, 2, 0) for m in maps]
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


class Ridge(NamedTuple):
    """Reads ratings out of pooled features: distributions, or scores where the dataset has no votes."""

    estimator: Any
    score_range: tuple[float, float] | None
    distribution: bool
    cross_validated_srcc: float

    def __call__(self, pooled: np.ndarray) -> np.ndarray:
        """Rate (N, D) pooled features: (N, K) distributions, or (N,) scores in the dataset's own units."""
        said = self.estimator.predict(pooled).astype(np.float32)
        if not self.distribution:
            return said if self.score_range is None else said.clip(*self.score_range)
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
