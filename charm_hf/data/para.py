"""PARA (Yang et al., CVPR 2022): votes on nine levels from 1 to 5."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from .annotation_files import clean_name, read_columns, require_file, require_folder, to_floats
from .annotations import Annotations
from .images import FolderImages
from .labels import LabelScale


_FILES = {"train": "PARA-GiaaTrain.csv", "test": "PARA-GiaaTest.csv"}


@dataclass
class ParaReader:
    """`annotation/PARA-GiaaTrain.csv`, `annotation/PARA-GiaaTest.csv` and `imgs/<sessionId>/<imageName>`.

    `image_id` is `<sessionId>/<imageName>`. The score is the mean of the nine columns, so that it never disagrees
    with the distribution, and not the file's own rounded mean.

    Attributes:
        root: folder of the download.
    """

    root: Path

    name: ClassVar[str] = "para"
    test_size: ClassVar[None] = None

    def official_splits(self) -> tuple[str, ...]:
        """The two splits of the authors."""
        return tuple(_FILES)

    def read(self, part: str) -> Annotations:
        """Rows of one split."""
        require_folder(self.root, self.name)
        scale = LabelScale.of_preset(self.name)
        levels = [f"aestheticScore_{value:.1f}" for value in scale.score_values or ()]
        table = read_columns(require_file(self.root / "annotation" / _FILES[part], self.name))
        table.require("imageName", "sessionId", *levels)
        sessions, names = table.get("sessionId"), table.get("imageName")
        files = [clean_name(f"{session}/{name}") for session, name in zip(sessions, names, strict=True)]
        return Annotations(
            image_ids=files,
            images=FolderImages(files, self.root / "imgs"),
            scale=scale,
            counts=np.stack([to_floats(table.get(level)) for level in levels], axis=1),
            left_out={"malformed": table.malformed},
        )
