"""Readers of the published aesthetics datasets, and of tables and Hub datasets in the same shape."""

from .ava import load_ava_comments
from .labels import LabelScale, dataset_score_range, get_label_scale
from .left_out import DatasetReport, LeftOut
from .readers import load_aesthetic_dataset
from .saliency_maps import SaliencyFolder
from .splits import split_hash


__all__ = [
    "DatasetReport",
    "LabelScale",
    "LeftOut",
    "SaliencyFolder",
    "dataset_score_range",
    "get_label_scale",
    "load_aesthetic_dataset",
    "load_ava_comments",
    "split_hash",
]
