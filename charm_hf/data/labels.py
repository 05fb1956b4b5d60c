"""Labels in a dataset's own units: their scale, kept in every row, and which of them are usable."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset

from ..models.presets_charm import get_dataset_preset


# Rounding in a published table is no fault; as a share of the score range.
_TOLERANCE = 1e-6
# Columns that tell the scale, in every row.
LABEL_COLUMNS = ("score_range", "score_values")


@dataclass(frozen=True)
class LabelScale:
    """The scale of a dataset's labels.

    Attributes:
        dataset_name: name of a published dataset, or of the user's table or Hub dataset.
        score_range: lowest and highest possible score; `None` when nobody told (a table of the user's own).
        score_values: centres of the rating bins, ascending; `None` without distributions.
    """

    dataset_name: str
    score_range: tuple[float, float] | None = None
    score_values: tuple[float, ...] | None = None

    @classmethod
    def of_preset(cls, name: str) -> LabelScale:
        """The scale of a published dataset."""
        preset = get_dataset_preset(name)
        return cls(name, preset.score_range, preset.score_values)

    def columns(self) -> dict[str, tuple[float, ...]]:
        """What stands in every row of a dataset on this scale: column name -> its one value."""
        known = {"score_range": self.score_range, "score_values": self.score_values}
        return {name: value for name, value in known.items() if value is not None}


def get_label_scale(dataset: Dataset) -> LabelScale | None:
    """The scale of a dataset from `load_aesthetic_dataset`; `None` for any other dataset.

    It stands in the columns `score_range` and `score_values`, the same in every row, because columns are what every
    operation of `datasets` keeps.

    Raises:
        ValueError: if datasets of unlike scales were concatenated.
    """
    score_range, score_values = (_read_constant(dataset, name) for name in LABEL_COLUMNS)
    if score_range is None:
        return None
    return LabelScale(dataset.info.dataset_name or "", (score_range[0], score_range[1]), score_values)


def dataset_score_range(dataset: Dataset) -> tuple[float, float] | None:
    """Lowest and highest possible score of a dataset from `load_aesthetic_dataset`, in its own units.

    KonIQ-10k comes on two scales, told apart by the header of its file; this gives the one that was read. `None` for
    a table or Hub dataset whose range was not given with `score_range=`.
    """
    scale = get_label_scale(dataset)
    return None if scale is None else scale.score_range


def normalize_distributions(counts: np.ndarray) -> np.ndarray:
    """Bring each row of (N, K) non-negative counts to sum 1; NaN for a row without votes."""
    totals = counts.sum(axis=1, keepdims=True)
    return np.divide(counts, totals, out=np.full(counts.shape, np.nan), where=totals > 0)


def find_label_faults(
    scores: np.ndarray, score_range: tuple[float, float] | None, counts: np.ndarray | None = None
) -> dict[int, str]:
    """Row -> what is wrong with its label: one of N scores, NaN where the table has no number.

    Without a range every finite score passes. Of (N, K) votes a bin none may be negative or NaN, and a row needs one.
    """
    faults: dict[int, str] = {}
    if counts is not None:
        for row in np.flatnonzero(~(np.isfinite(counts) & (counts >= 0)).all(axis=1)):
            faults[int(row)] = f"counts {_short(counts[row])} are not all non-negative numbers"
        for row in np.flatnonzero((counts == 0).all(axis=1)):
            faults[int(row)] = "distribution of all zeros"
    for row in np.flatnonzero(~np.isfinite(scores)):
        faults.setdefault(int(row), "score is not a finite number")
    if score_range is not None:
        low, high = score_range
        slack = _TOLERANCE * (high - low)
        for row in np.flatnonzero((scores < low - slack) | (scores > high + slack)):
            faults.setdefault(int(row), f"score {scores[row]:g} is outside {low:g} to {high:g}")
    return faults


def _read_constant(dataset: Dataset, name: str) -> tuple[float, ...] | None:
    """The one value of a column of lists; `None` without such a column, and where it is empty."""
    if name not in dataset.column_names:
        return None
    column = dataset.select_columns([name]).with_format("arrow")[:][name].drop_null()
    if not len(column):
        return None
    values = pc.list_flatten(column).to_numpy().reshape(len(column), -1)
    if (values != values[0]).any():
        low, high = values.min(axis=0).tolist(), values.max(axis=0).tolist()
        raise ValueError(
            f"Expected labels on one scale, found a `{name}` from {low} to {high}: bring the scores to one range "
            "before you concatenate datasets."
        )
    return tuple(values[0].tolist())


def _short(values: np.ndarray) -> str:
    return "[" + ", ".join(f"{value:g}" for value in values) + "]"
