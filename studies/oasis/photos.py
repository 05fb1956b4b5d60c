"""Real photographs with real ratings: the beauty votes of OASIS."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from charm_hf.tables import Table
from charm_hf.training.partition import assign_folds


RATING_RANGE = (1.0, 7.0)


def read_ratings(folder: Path) -> list[dict[str, str]]:
    """Rows of `ratings.csv`: one a photo."""
    return list(Table(folder / "ratings.csv").rows())


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
