"""KonIQ-10k (Hosu et al., TIP 2020): two files on two scales, told apart by their headers."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from .annotation_files import Columns, read_columns, require_file
from .annotations import Annotations
from .left_out import LeftOut
from .published import PublishedReader


_WITH_SETS = "koniq10k_distributions_sets.csv"
_WITHOUT_SETS = "koniq10k_scores_and_distributions.csv"
# MOS of the file without sets; the preset holds the range of the file with sets.
_RANGE_WITHOUT_SETS = (1.0, 5.0)


@dataclass
class Koniq10kReader(PublishedReader):
    """One of the two annotation files, and `1024x768/`.

    `koniq10k_distributions_sets.csv` (a column `set`: official splits, MOS from 0 to 100) is taken if it is there,
    else `koniq10k_scores_and_distributions.csv` (a column `MOS_zscore`: no splits, MOS from 1 to 5).

    Attributes:
        annotation_file: another file of one of the two kinds; the header tells which.
    """

    annotation_file: str | os.PathLike[str] | None = None

    name: ClassVar[str] = "koniq10k"
    splits: ClassVar[dict[str, str]] = {"train": "training", "validation": "validation", "test": "test"}
    test_size: ClassVar[float] = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        self._table = self._read_table()
        self._has_sets = "set" in self._table.names

    def official_splits(self) -> tuple[str, ...]:
        """Three splits or none."""
        return super().official_splits() if self._has_sets else ()

    def read(self, part: str) -> Annotations:
        """Rows of one split, or all rows of the file without sets."""
        annotations = self.scored(self._table, "image_name", "MOS", "1024x768")
        if not self._has_sets:
            annotations.scale = replace(annotations.scale, score_range=_RANGE_WITHOUT_SETS)
            return annotations
        known = list(self.splits.values())
        sets = np.array([name.lower() for name in self._table.get("set")])
        annotations.left_out["malformed"] += [
            LeftOut(annotations.image_ids[row], f"set is {sets[row]!r}, expected one of {', '.join(known)}")
            for row in np.flatnonzero(~np.isin(sets, known))
        ]
        return annotations.take(np.flatnonzero(sets == self.splits[part]))

    def _read_table(self) -> Columns:
        there = [name for name in (_WITH_SETS, _WITHOUT_SETS) if (self.root / name).is_file()]
        path = Path(self.annotation_file or self.root / (there or [_WITH_SETS])[0])
        table = read_columns(require_file(path, f"{self.name} (this or {_WITHOUT_SETS})"))
        table.require("image_name", "MOS")
        if ("set" in table.names) == ("MOS_zscore" in table.names):
            raise ValueError(
                f"{path}: expected either a column `set` (MOS from 0 to 100, as in {_WITH_SETS}) or a column "
                f"`MOS_zscore` (MOS from 1 to 5, as in {_WITHOUT_SETS}); found {', '.join(table.names)}."
            )
        return table
