"""The photos that a run trains and validates on, refused where their labels are wrong."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from datasets import Dataset

from charm_hf.data import LabelScale, get_label_scale, load_aesthetic_dataset
from charm_hf.training.folds import assign_folds


_ROWS_SHOWN = 5


def load_clean_split(name: str, root: str | os.PathLike[str] | None, split: str, **options: Any) -> Dataset:
    """Load a split; photos that are not there are left out with a warning, but a wrong label is an error.

    Args:
        name, root, split, options: as for `load_aesthetic_dataset`.

    Raises:
        ValueError: if a label is outside the range or a distribution has no votes, and if the split has no photo.
    """
    dataset, report = load_aesthetic_dataset(name, root, split, return_report=True, **options)
    if report.out_of_range:
        rows = "; ".join(f"{row.name}: {row.detail}" for row in report.left_out["out_of_range"][:_ROWS_SHOWN])
        raise ValueError(
            f"{report.out_of_range} of {report.rows} labels of the {split} split of {name} cannot be trained on "
            f"({rows}). Correct these rows or take them out, or give the right `score_range`."
        )
    return dataset


def hold_out_fold(
    dataset: Dataset, fold: int, num_folds: int, seed: int = 0, stratify_column: str | None = None
) -> tuple[Dataset, Dataset]:
    """Split for cross-validation: everything but one fold, and that fold (see `assign_folds`).

    Raises:
        ValueError: if there is no such fold or column, or a side would be empty.
    """
    if stratify_column is not None and stratify_column not in dataset.column_names:
        raise ValueError(
            f"The dataset has no column {stratify_column!r} to stratify the folds by, only "
            f"{', '.join(dataset.column_names)}; a table keeps a column named in `extra_columns`."
        )
    names = dataset["image_id"][:]
    groups = [""] * len(names) if stratify_column is None else [str(value) for value in dataset[stratify_column][:]]
    held_out = np.array(assign_folds(names, groups, seed, num_folds)) == fold
    if not held_out.any() or held_out.all():
        raise ValueError(f"Fold {fold} of {num_folds} would leave one part of {len(names)} photos empty.")
    return dataset.select(np.flatnonzero(~held_out)), dataset.select(np.flatnonzero(held_out))


def require_scale(dataset: Dataset) -> LabelScale:
    """The scale of a dataset's labels.

    Raises:
        ValueError: if the range of its scores is not known.
    """
    scale = get_label_scale(dataset)
    if scale is None or scale.score_range is None:
        raise ValueError(
            "The range of the scores is not known: give the lowest and highest possible score to the dataset, as in "
            "--dataset_options '{score_range: [1, 10]}'."
        )
    return scale
