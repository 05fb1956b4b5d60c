"""What is known of each published dataset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


AADB_ATTRIBUTES = (
    "BalacingElements",  # spelt so in the dataset's own files
    "ColorHarmony",
    "Content",
    "DoF",
    "Light",
    "MotionBlur",
    "Object",
    "Repetition",
    "RuleOfThirds",
    "Symmetry",
    "VividColor",
)


@dataclass(frozen=True)
class DatasetPreset:
    """What the papers fix for one dataset.

    Attributes:
        max_num_patches: sequence length without CLS.
        longest_edge: photos with a longer edge are shrunk to it first; `None` keeps the size.
        photo_edge: longest edge up to which a converted checkpoint takes photos as they are; it shrinks larger ones to
            it, instead of making 15,000 tokens of 12 megapixels. The size of the dataset's own photos where they have
            one (AVA 800, KonIQ-10k 1024), else 1600.
        score_range: lowest and highest possible score, in the dataset's own units.
        score_values: centres of the rating bins for a distribution head; `None` means a regression head.
        released_score_range: what the sigmoid of the released checkpoint is scaled by; it differs from `score_range`
            only for KonIQ-10k, whose released training divided a 1-5 score by 5.
        released_label_range: lowest and highest label on that scale, if they are not its ends.
        accuracy_threshold: scores above it count as "good" in the ACC metric, in the dataset's own units.
    """

    max_num_patches: int
    score_range: tuple[float, float]
    longest_edge: int | None = None
    photo_edge: int = 1600
    score_values: tuple[float, ...] | None = None
    released_score_range: tuple[float, float] | None = None
    released_label_range: tuple[float, float] | None = None
    accuracy_threshold: float = 0.5

    @property
    def released_edge(self) -> int:
        """Longest edge, in pixels, up to which a converted checkpoint cuts photos as they are."""
        return self.longest_edge or self.photo_edge


DATASET_PRESETS: dict[str, DatasetPreset] = {
    "ava": DatasetPreset(
        512,
        (1.0, 10.0),
        photo_edge=800,
        score_values=tuple(float(value) for value in range(1, 11)),
        accuracy_threshold=5.0,
    ),
    "aadb": DatasetPreset(1024, (0.0, 1.0)),
    "tad66k": DatasetPreset(768, (0.0, 10.0), accuracy_threshold=5.0),
    "para": DatasetPreset(
        1024,
        (1.0, 5.0),
        longest_edge=1024,
        score_values=tuple(1.0 + 0.5 * step for step in range(9)),
        accuracy_threshold=3.0,
    ),
    "baid": DatasetPreset(1024, (0.0, 10.0), accuracy_threshold=5.0),
    "spaq": DatasetPreset(1024, (0.0, 100.0), longest_edge=1024, accuracy_threshold=50.0),
    # The range of file (a), `koniq10k_distributions_sets.csv`; the reader replaces it for file (b), rated 1-5, where
    # the published threshold is 2.5.
    "koniq10k": DatasetPreset(
        1024,
        (0.0, 100.0),
        photo_edge=1024,
        released_score_range=(0.0, 5.0),
        released_label_range=(1.0, 5.0),
        accuracy_threshold=37.5,
    ),
}


def get_dataset_preset(name: str) -> DatasetPreset:
    """Return the preset of a published dataset.

    Raises:
        ValueError: if `name` is not one of the published datasets; the message lists them.
    """
    if name not in DATASET_PRESETS:
        raise ValueError(f"Unknown dataset {name!r}: expected one of {', '.join(sorted(DATASET_PRESETS))}.")
    return DATASET_PRESETS[name]


def label_range(dataset_name: str | None, score_range: Sequence[float]) -> tuple[float, float]:
    """Lowest and highest label behind a range: its ends, but for released KonIQ-10k checkpoints (see above)."""
    preset = DATASET_PRESETS.get(dataset_name or "")
    if preset is not None and preset.released_label_range and tuple(score_range) == preset.released_score_range:
        return preset.released_label_range
    low, high = score_range
    return low, high


def head_for_dataset(name: str) -> dict[str, Any]:
    """Fields of a configuration that a published dataset decides: `dataset_name`, `score_range`, `score_values`.

    Raises:
        ValueError: if `name` is not one of the published datasets; the message lists them.
    """
    preset = get_dataset_preset(name)
    return {"dataset_name": name, "score_range": preset.score_range, "score_values": preset.score_values}


__all__ = ["AADB_ATTRIBUTES", "DATASET_PRESETS", "DatasetPreset", "get_dataset_preset"]
