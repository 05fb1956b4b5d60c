"""The photos that a run trains on and those that it is measured on, refused where their labels are wrong.

Rule of the folds, frozen, because the numbers about `charm-tiny` are measured on them: inside each category the photos
are sorted by the MD5 of `"<seed>:<file name>"` and dealt to the folds in turn, each category starting where the one
before (alphabetical) stopped. It needs no library and no order of the rows, so anybody who has the photos gets the
same folds.
"""

from __future__ import annotations

import argparse
import hashlib
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from datasets import Dataset, concatenate_datasets

from charm_hf.data import LabelScale, get_label_scale, load_aesthetic_dataset


_ROWS_SHOWN = 5


def load_training_parts(args: argparse.Namespace) -> tuple[Dataset, Dataset | None, LabelScale]:
    """Training part, validation part (`None` without one) and the scale of their labels, by the flags of a run."""

    def load(split: str) -> Dataset:
        return load_clean_split(args.dataset_name, args.data_dir, split, **_options(args, args.train_split))

    train = concatenate_datasets([load(split) for split in args.train_split.split("+")])
    validation = None
    if args.fold is not None:
        train, validation = hold_out_fold(train, args.fold, **args.folds)
    elif args.validation_split != "none":
        validation = load(args.validation_split)
    return train, validation, require_scale(train)


def load_measured_part(args: argparse.Namespace) -> tuple[Dataset, dict[str, int]]:
    """The photos to measure on, by the flags of `evaluate_model.py`, and the number of rows left out by reason."""
    where, options = (args.dataset_name, args.data_dir), _options(args, args.split)
    loaded = [load_aesthetic_dataset(*where, split, return_report=True, **options) for split in args.split.split("+")]
    dataset = concatenate_datasets([part for part, _ in loaded])
    reports = [report.left_out for _, report in loaded]
    left_out = {reason: sum(len(report[reason]) for report in reports) for reason in reports[0]}
    if args.fold is not None:
        _, dataset = hold_out_fold(dataset, args.fold, **args.folds)
    return dataset, left_out


def _options(args: argparse.Namespace, splits: str) -> dict[str, Any]:
    """Options of the dataset; a fold takes the place of a seeded validation part."""
    is_replaced = args.fold is not None and "validation" not in splits.split("+")
    sizes = {} if args.validation_size is None or is_replaced else {"validation_size": args.validation_size}
    columns = list(args.dataset_options.get("extra_columns", ()))
    if args.group_column not in (None, *columns):
        columns.append(args.group_column)
    return {**sizes, **args.dataset_options, **({"extra_columns": columns} if columns else {})}


def load_clean_split(name: str, root: str | os.PathLike[str] | None, split: str, **options: Any) -> Dataset:
    """`load_aesthetic_dataset`; photos that are not there are left out with a warning, but a wrong label is an error.

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


def hold_out_fold(
    dataset: Dataset, fold: int, number: int = 5, seed: int = 0, stratify_column: str | None = None
) -> tuple[Dataset, Dataset]:
    """Split for cross-validation: everything but one fold, and that fold (see `assign_folds`).

    Raises:
        ValueError: if there is no such fold or column, or a side would be empty.
    """
    if not 0 <= fold < number:
        raise ValueError(f"Expected a fold from 0 to {number - 1}, got {fold}.")
    if stratify_column is not None and stratify_column not in dataset.column_names:
        raise ValueError(
            f"The dataset has no column {stratify_column!r} to stratify the folds by, only "
            f"{', '.join(dataset.column_names)}; a table keeps a column named in `extra_columns`."
        )
    names = dataset["image_id"][:]
    groups = [""] * len(names) if stratify_column is None else [str(value) for value in dataset[stratify_column][:]]
    held_out = np.array(assign_folds(names, groups, seed, number)) == fold
    if not held_out.any() or held_out.all():
        raise ValueError(f"Fold {fold} of {number} would leave one part of {len(names)} photos empty.")
    return dataset.select(np.flatnonzero(~held_out)), dataset.select(np.flatnonzero(held_out))


def assign_folds(names: Sequence[str], categories: Sequence[str], seed: int = 0, num_folds: int = 5) -> list[int]:
    """Fold (0 to `num_folds` - 1) of each photo, of nearly equal size overall and inside each category.

    Args:
        names: file names, unique; they decide the fold, their order does not.
        categories: one label a photo, by which the folds are stratified.
        seed: another seed gives other folds.
        num_folds: how many there are.

    Raises:
        ValueError: if a name stands there twice or the two lists differ in length.
    """
    if len(names) != len(categories) or len(set(names)) != len(names):
        raise ValueError(
            f"Expected unique names and one category each, found {len(names)} names ({len(set(names))} of them "
            f"different) and {len(categories)} categories."
        )
    order = sorted(zip(categories, (_digest(seed, name) for name in names), range(len(names)), strict=True))
    folds = [0] * len(names)
    for rank, (_, _, index) in enumerate(order):
        folds[index] = rank % num_folds
    return folds


def _digest(seed: int, name: str) -> str:
    return hashlib.md5(f"{seed}:{name}".encode(), usedforsecurity=False).hexdigest()
