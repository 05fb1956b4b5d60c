"""TAD66K (He et al., IJCAI 2022) and BAID (Yi et al., CVPR 2023): a table `image,score` for each split."""

from __future__ import annotations

from typing import ClassVar

from .annotations import Annotations
from .published import PublishedReader


class Tad66kReader(PublishedReader):
    """`train.csv`, `test.csv` and `images/`."""

    name: ClassVar[str] = "tad66k"
    splits: ClassVar[dict[str, str]] = {"train": "train.csv", "test": "test.csv"}

    def read(self, part: str) -> Annotations:
        """Rows of one split."""
        return self.scored(self.table(self.splits[part], "image", "score"), "image", "score", "images")


class BaidReader(Tad66kReader):
    """`train_set.csv`, `val_set.csv`, `test_set.csv` and `images/`."""

    name: ClassVar[str] = "baid"
    splits: ClassVar[dict[str, str]] = {"train": "train_set.csv", "validation": "val_set.csv", "test": "test_set.csv"}
