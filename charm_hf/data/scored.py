"""TAD66K (He et al., IJCAI 2022) and BAID (Yi et al., CVPR 2023): a table `image,score` for each split."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from .annotation_files import clean_name, read_columns, require_file, require_folder, to_floats
from .annotations import Annotations
from .images import FolderImages
from .labels import LabelScale


@dataclass
class Tad66kReader:
    """`train.csv`, `test.csv` and `images/`.

    Attributes:
        root: folder of the download.
    """

    root: Path

    name: ClassVar[str] = "tad66k"
    files: ClassVar[dict[str, str]] = {"train": "train.csv", "test": "test.csv"}
    test_size: ClassVar[None] = None

    def official_splits(self) -> tuple[str, ...]:
        """The splits of the authors."""
        return tuple(self.files)

    def read(self, part: str) -> Annotations:
        """Rows of one split."""
        require_folder(self.root, self.name)
        table = read_columns(require_file(self.root / self.files[part], self.name))
        table.require("image", "score")
        names = [clean_name(name) for name in table.get("image")]
        return Annotations(
            image_ids=names,
            images=FolderImages(names, self.root / "images", fallback=self.root),
            scale=LabelScale.of_preset(self.name),
            scores=to_floats(table.get("score")),
            left_out={"malformed": table.malformed},
        )


@dataclass
class BaidReader(Tad66kReader):
    """`train_set.csv`, `val_set.csv`, `test_set.csv` and `images/`."""

    name: ClassVar[str] = "baid"
    files: ClassVar[dict[str, str]] = {"train": "train_set.csv", "validation": "val_set.csv", "test": "test_set.csv"}
