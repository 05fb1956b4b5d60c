"""Labels in a dataset's own units: their scale, kept with the data, and which of them are usable."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import numpy as np
from datasets import Dataset

from charm_hf.models.presets_charm import get_dataset_preset


# Rounding in a published table is no fault; as a share of the score range.
_TOLERANCE = 1e-6
_MARK = "charm_hf_labels="


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

    def describe(self) -> str:
        """One line for `DatasetInfo.description`, read back by `get_label_scale`."""
        return _MARK + json.dumps(asdict(self))


def get_label_scale(dataset: Dataset) -> LabelScale | None:
    """The scale written into a dataset by `load_aesthetic_dataset`; `None` for any other dataset.

    It stands in `dataset.info.description`, which `select`, `filter`, `map`, `shuffle`, `train_test_split`,
    `concatenate_datasets` and `save_to_disk` keep.

    Raises:
        ValueError: if datasets of unlike scales were concatenated.
    """
    lines = (dataset.info.description or "").splitlines()
    found = list(dict.fromkeys(line for line in lines if line.startswith(_MARK)))
    if not found:
        return None
    scales = [_parse(line) for line in found]
    if len({(scale.score_range, scale.score_values) for scale in scales}) > 1:
        raise ValueError(
            f"Expected labels on one scale, found {' and '.join(map(str, scales))}: bring the scores to one range "
            "before you concatenate datasets."
        )
    return scales[0]


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
    """Row -> what is wrong with its label.

    Args:
        scores: (N,) scores; NaN where the table has no number.
        score_range: lowest and highest possible score; `None` lets every finite score pass.
        counts: (N, K) votes a bin, if any: none may be negative or NaN, and a row needs at least one vote.
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


def _parse(line: str) -> LabelScale:
    fields = json.loads(line.removeprefix(_MARK))
    score_range, score_values = fields["score_range"], fields["score_values"]
    return LabelScale(
        fields["dataset_name"],
        None if score_range is None else (score_range[0], score_range[1]),
        None if score_values is None else tuple(score_values),
    )


def _short(values: np.ndarray) -> str:
    return "[" + ", ".join(f"{value:g}" for value in values) + "]"
