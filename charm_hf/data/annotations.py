"""Rows of an annotation file, and the way from there to a dataset that is the same for every reader."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset, DatasetInfo, Features, List, NamedSplit, Value

from ..models.scores_charm import expected_scores
from .images import ImageSource
from .labels import LabelScale, find_label_faults, normalize_distributions
from .left_out import DatasetReport, LeftOut


@dataclass
class Annotations:
    """Rows of one part of a dataset, as its annotation file tells them.

    Attributes:
        image_ids: N ids; the same id twice is the same image twice.
        images: N images.
        scale: what the labels are measured on.
        scores: (N,) scores in the dataset's own units, NaN where there is no number; `None` to take the mean of the
            distributions.
        counts: (N, K) votes a bin, or shares of them.
        extra: further columns with their type, N values each.
        left_out: reason -> rows that the reader could make nothing of.
    """

    image_ids: list[str]
    images: ImageSource
    scale: LabelScale
    scores: np.ndarray | None = None
    counts: np.ndarray | None = None
    extra: dict[str, tuple[list[Any], Any]] = field(default_factory=dict)
    left_out: dict[str, list[LeftOut]] = field(default_factory=dict)

    def take(self, rows: np.ndarray) -> Annotations:
        """Some of the rows; what is left out stays."""
        return replace(
            self,
            image_ids=[self.image_ids[row] for row in rows],
            images=self.images.take(rows),
            scores=None if self.scores is None else self.scores[rows],
            counts=None if self.counts is None else self.counts[rows],
            extra={name: ([values[row] for row in rows], kind) for name, (values, kind) in self.extra.items()},
        )


def to_dataset(
    annotations: Annotations, split: str, verify: str | None, cache_dir: Path
) -> tuple[Dataset, DatasetReport]:
    """Leave out the rows of a split that cannot be used, and map the rest to a table in `cache_dir`.

    Images are checked as `verify` says: `"exists"`, `"decode"` or `None`.

    Raises:
        ValueError: if no row is left; the message holds the report.
    """
    scale = annotations.scale
    report = DatasetReport(scale.dataset_name, split, score_range=scale.score_range)
    for reason, left_out in annotations.left_out.items():
        report.add(reason, left_out)
    report.rows = len(annotations.image_ids) + sum(map(len, annotations.left_out.values()))

    scores, distributions = _labels(annotations)
    faults = find_label_faults(scores, scale.score_range, annotations.counts)
    usable = _leave_out(np.arange(len(scores)), "out_of_range", faults, annotations, report)
    usable = _leave_out(usable, "duplicated", _duplicates(annotations.image_ids, usable), annotations, report)
    images, missing, unreadable = annotations.images.take(usable).check(verify)
    missing, unreadable = ({int(usable[row]): text for row, text in found.items()} for found in (missing, unreadable))
    kept = _leave_out(usable, "missing", missing, annotations, report)
    kept = _leave_out(kept, "unreadable", unreadable, annotations, report)

    report.kept = len(kept)
    if not len(kept):
        raise ValueError(f"No usable image in the split. {report}")
    report.label_range = (float(scores[kept].min()), float(scores[kept].max()))
    table, features = _label_columns(
        annotations.take(kept), scores[kept], None if distributions is None else distributions[kept]
    )
    info = DatasetInfo(features=features, dataset_name=scale.dataset_name)
    kept_images = images.take(np.searchsorted(usable, kept))
    return kept_images.to_dataset(table, info, NamedSplit(split), cache_dir), report


def _labels(annotations: Annotations) -> tuple[np.ndarray, np.ndarray | None]:
    scores, distributions = annotations.scores, None
    if annotations.counts is not None:
        distributions = normalize_distributions(annotations.counts)
        if scores is None:
            if annotations.scale.score_values is None:
                raise ValueError("Distributions need the centres of their bins.")
            scores = expected_scores(distributions, annotations.scale.score_values)
    if scores is None:
        raise ValueError("Expected scores or distributions, found neither.")
    return scores, distributions


def _leave_out(
    rows: np.ndarray, reason: str, faults: dict[int, str], annotations: Annotations, report: DatasetReport
) -> np.ndarray:
    report.add(reason, (LeftOut(annotations.image_ids[row], faults[row]) for row in sorted(faults)))
    return rows[~np.isin(rows, list(faults))] if faults else rows


def _duplicates(image_ids: list[str], rows: np.ndarray) -> dict[int, str]:
    first: dict[str, int] = {}
    faults = {}
    for row in rows.tolist():
        seen = first.setdefault(image_ids[row], row)
        if seen != row:
            faults[row] = f"row {row + 1} repeats row {seen + 1}"
    return faults


def _label_columns(
    annotations: Annotations, scores: np.ndarray, distributions: np.ndarray | None
) -> tuple[pa.Table, Features]:
    columns: dict[str, Any] = {"image_id": annotations.image_ids, "score": scores}
    features = Features(image_id=Value("string"), score=Value("float64"))
    constants = annotations.scale.columns()
    lists = {name: np.tile(value, (len(scores), 1)) for name, value in constants.items()}
    if distributions is not None:
        lists["distribution"] = distributions
    for name, rows in lists.items():
        columns[name] = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel(), pa.float64()), rows.shape[1])
        features[name] = List(Value("float64"), length=rows.shape[1])
    for name, (values, kind) in annotations.extra.items():
        columns[name], features[name] = values, kind
    schema = features.arrow_schema
    arrays = [pa.array(column, schema.field(name).type) for name, column in columns.items()]
    return pa.Table.from_arrays(arrays, schema=pa.schema(list(schema))), features
