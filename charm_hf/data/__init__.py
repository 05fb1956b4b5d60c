"""Readers of the published aesthetics datasets, and of tables and Hub datasets in the same shape."""

from charm_hf.data.ava import load_ava_comments
from charm_hf.data.labels import LabelScale, dataset_score_range, get_label_scale
from charm_hf.data.loading import load_aesthetic_dataset
from charm_hf.data.report import DatasetReport, LeftOut
from charm_hf.data.splits import split_hash


__all__ = [
    "DatasetReport",
    "LabelScale",
    "LeftOut",
    "dataset_score_range",
    "get_label_scale",
    "load_aesthetic_dataset",
    "load_ava_comments",
    "split_hash",
]
