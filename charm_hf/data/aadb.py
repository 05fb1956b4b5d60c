"""AADB (Kong et al., ECCV 2016): scores and eleven attributes of photographs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from datasets import List, Value

from ..models.presets_charm import AADB_ATTRIBUTES
from .annotation_files import clean_name, parse_lines, to_floats
from .annotations import Annotations
from .images import FolderImages, fold_name
from .labels import LabelScale
from .left_out import LeftOut
from .published import PublishedReader


_ATTRIBUTE_RANGE = (-1.0, 1.0)
_SCORE_PREFIX = re.compile(r"^[01]\.\d+_")


@dataclass
class AadbReader(PublishedReader):
    """`imgListFiles_label/imgList<Split>Regression_<what>.txt` and two image folders.

    Names of the new test images may carry their score in front (`0.500_farm1_….jpg`), in the lists or on disk or in
    both; they are matched, and given as `image_id`, without it.

    Attributes:
        attributes: add the column `attributes`, 11 numbers in [-1, 1] in the order of `AADB_ATTRIBUTES`.
    """

    attributes: bool = False

    name: ClassVar[str] = "aadb"
    # split -> its part in the names of the list files, and its image folder
    splits: ClassVar[dict[str, tuple[str, str]]] = {
        "train": ("Train", "datasetImages_originalSize"),
        "validation": ("Validation", "datasetImages_originalSize"),
        "test": ("TestNew", "AADB_newtest_originalSize"),
    }

    def read(self, part: str) -> Annotations:
        """Rows of one split."""
        files, scores, malformed = self._read_list(part, "score")
        annotations = Annotations(
            image_ids=[strip_score_prefix(file) for file in files],
            images=FolderImages(files, self.root / self.splits[part][1], key=_match_key),
            scale=LabelScale.of_preset(self.name),
            scores=scores,
            left_out={"malformed": malformed},
        )
        return self._with_attributes(annotations, part) if self.attributes else annotations

    def _with_attributes(self, annotations: Annotations, part: str) -> Annotations:
        table = np.full((len(annotations.image_ids), len(AADB_ATTRIBUTES)), np.nan)
        for column, attribute in enumerate(AADB_ATTRIBUTES):
            files, numbers, _ = self._read_list(part, attribute)
            by_id = dict(zip(map(strip_score_prefix, files), numbers, strict=True))
            table[:, column] = [by_id.get(image_id, np.nan) for image_id in annotations.image_ids]

        low, high = _ATTRIBUTE_RANGE
        usable = (table >= low) & (table <= high)  # NaN is not
        faults = [
            LeftOut(
                annotations.image_ids[row],
                ", ".join(f"{AADB_ATTRIBUTES[i]} is {table[row, i]:g}" for i in np.flatnonzero(~usable[row]))
                + f", expected {low:g} to {high:g}",
            )
            for row in np.flatnonzero(~usable.all(axis=1))
        ]
        rows = np.flatnonzero(usable.all(axis=1))
        annotations = annotations.take(rows)
        annotations.extra["attributes"] = (table[rows].tolist(), List(Value("float64"), length=len(AADB_ATTRIBUTES)))
        annotations.left_out["out_of_range"] = faults
        return annotations

    def _read_list(self, part: str, what: str) -> tuple[list[str], np.ndarray, list[LeftOut]]:
        """File names, values, and malformed lines of a list `name value`."""
        path = self.file(f"imgListFiles_label/imgList{self.splits[part][0]}Regression_{what}.txt")
        rows, malformed = parse_lines(path, _name_and_value, "`name value` a line")
        return [file for file, _ in rows], to_floats([value for _, value in rows]), malformed


def _name_and_value(line: str) -> tuple[str, str]:
    fields = line.rsplit(maxsplit=1)
    if len(fields) != 2:
        raise ValueError(f"expected `name value`, found {line!r}")
    return clean_name(fields[0]), fields[1]


def strip_score_prefix(name: str) -> str:
    """Name of an image without the score that some copies carry in front of it.

    >>> strip_score_prefix("0.500_farm1_262_20009074919_cdd9c88d5f_b.jpg")
    'farm1_262_20009074919_cdd9c88d5f_b.jpg'
    """
    folder, slash, file = name.rpartition("/")
    return folder + slash + _SCORE_PREFIX.sub("", file)


def _match_key(name: str) -> str:
    return fold_name(strip_score_prefix(name))
