"""KonIQ-10k (Hosu et al., TIP 2020): two files on two scales, told apart by their headers."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from .annotation_files import Columns, clean_name, read_columns, require_file, require_folder, to_floats
from .annotations import Annotations
from .images import FolderImages
from .labels import LabelScale
from .left_out import LeftOut


_WITH_SETS = "koniq10k_distributions_sets.csv"
_WITHOUT_SETS = "koniq10k_scores_and_distributions.csv"
_SETS = {"train": "training", "validation": "validation", "test": "test"}
# MOS of the file without sets; the preset holds the range of the file with sets.
_RANGE_WITHOUT_SETS = (1.0, 5.0)


@dataclass
class Koniq10kReader:
    """One of the two annotation files, and `1024x768/`.

    `koniq10k_distributions_sets.csv` (a column `set`: official splits, MOS from 0 to 100) is taken if it is there,
    else `koniq10k_scores_and_distributions.csv` (a column `MOS_zscore`: no splits, MOS from 1 to 5).

    Attributes:
        root: folder of the download.
        annotation_file: another file of one of the two kinds; the header tells which.
    """

    root: Path
    annotation_file: str | os.PathLike[str] | None = None

    name: ClassVar[str] = "koniq10k"
    test_size: ClassVar[float] = 0.2

    def official_splits(self) -> tuple[str, ...]:
        """Three splits or none."""
        return tuple(_SETS) if self._has_sets else ()

    def read(self, part: str) -> Annotations:
        """Rows of one split, or all rows of the file without sets."""
        table, scale = self._table, LabelScale.of_preset(self.name)
        names = [clean_name(name) for name in table.get("image_name")]
        annotations = Annotations(
            image_ids=names,
            images=FolderImages(names, self.root / "1024x768", fallback=self.root),
            scale=scale if self._has_sets else replace(scale, score_range=_RANGE_WITHOUT_SETS),
            scores=to_floats(table.get("MOS")),
            left_out={"malformed": list(table.malformed)},
        )
        if not self._has_sets:
            return annotations
        sets = np.array([name.lower() for name in table.get("set")])
        annotations.left_out["malformed"] += [
            LeftOut(names[row], f"set is {sets[row]!r}, expected one of {', '.join(_SETS.values())}")
            for row in np.flatnonzero(~np.isin(sets, list(_SETS.values())))
        ]
        return annotations.take(np.flatnonzero(sets == _SETS[part]))

    def __post_init__(self) -> None:
        require_folder(self.root, self.name)
        self._table = self._read_table()
        self._has_sets = "set" in self._table.names

    def _read_table(self) -> Columns:
        if self.annotation_file is not None:
            path = Path(self.annotation_file)
        elif (self.root / _WITH_SETS).is_file() or not (self.root / _WITHOUT_SETS).is_file():
            path = self.root / _WITH_SETS
        else:
            path = self.root / _WITHOUT_SETS
        table = read_columns(require_file(path, f"{self.name} (this or {_WITHOUT_SETS})"))
        table.require("image_name", "MOS")
        if ("set" in table.names) == ("MOS_zscore" in table.names):
            raise ValueError(
                f"{path}: expected either a column `set` (MOS from 0 to 100, as in {_WITH_SETS}) or a column "
                f"`MOS_zscore` (MOS from 1 to 5, as in {_WITHOUT_SETS}); found {', '.join(table.names)}."
            )
        return table
