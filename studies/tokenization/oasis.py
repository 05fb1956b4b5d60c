"""Real photographs with real ratings: the beauty votes of OASIS, cross-validated."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from charm_hf.training.partition import assign_folds


OASIS_ARMS = ("charm-recipe", "squash", "centre-crop", "kept-aspect")
RATING_RANGE = (1.0, 7.0)


def read_ratings(folder: Path) -> list[dict[str, str]]:
    """Rows of `ratings.csv`: one a photo."""
    with open(folder / "ratings.csv", newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))


@dataclass(frozen=True)
class OasisData:
    """The photos' paths, categories, and mean ratings brought to [0, 1], (N, 1)."""

    paths: tuple[Path, ...]
    categories: tuple[str, ...]
    targets: np.ndarray

    @classmethod
    def read(cls, folder: Path) -> OasisData:
        """Read `ratings.csv`."""
        rows = read_ratings(folder)
        low, high = RATING_RANGE
        ratings = np.array([[float(row["mean"])] for row in rows])
        paths = tuple(folder / "images" / row["image"] for row in rows)
        return cls(paths, tuple(row["category"] for row in rows), (ratings - low) / (high - low))

    def photos(self) -> list[tuple[np.ndarray, np.ndarray | None]]:
        """All photos (H, W, 3)."""
        return [(np.asarray(Image.open(path).convert("RGB")), None) for path in self.paths]

    def folds(self, seed: int) -> np.ndarray:
        """Fold of each photo."""
        return np.array(assign_folds([path.name for path in self.paths], self.categories, seed))


def flip_tokens(batch: dict[str, torch.Tensor], rng: np.random.Generator, patch_size: int) -> dict[str, torch.Tensor]:
    """Mirror photos left and right with probability one half, without going back to their pixels.

    Each token is mirrored, and so is its column in the grid of its scale.
    """
    flipped = torch.from_numpy(rng.random(len(batch["scale_ids"])) < 0.5)
    values = batch["pixel_values"]
    mirrored = values.unflatten(-1, (-1, patch_size, patch_size)).flip(-1).flatten(-3)
    columns = batch["spatial_shapes"][..., 1].gather(1, batch["scale_ids"])
    positions = batch["patch_positions"].clone()
    positions[..., 1] = torch.where(
        (batch["pixel_attention_mask"] == 1) & flipped[:, None],
        columns - 1 - positions[..., 1],
        positions[..., 1],
    )
    return {
        **batch,
        "pixel_values": torch.where(flipped[:, None, None], mirrored, values),
        "patch_positions": positions,
    }
