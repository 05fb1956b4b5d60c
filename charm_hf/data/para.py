"""PARA (Yang et al., CVPR 2022): votes on nine levels from 1 to 5."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from .annotation_files import clean_name, to_floats
from .annotations import Annotations
from .images import FolderImages
from .labels import LabelScale
from .published import PublishedReader


class ParaReader(PublishedReader):
    """`annotation/PARA-GiaaTrain.csv`, `annotation/PARA-GiaaTest.csv` and `imgs/<sessionId>/<imageName>`.

    `image_id` is `<sessionId>/<imageName>`. The score is the mean of the nine columns, so that it never disagrees
    with the distribution, and not the file's own rounded mean.
    """

    name: ClassVar[str] = "para"
    splits: ClassVar[dict[str, str]] = {"train": "PARA-GiaaTrain.csv", "test": "PARA-GiaaTest.csv"}

    def read(self, part: str) -> Annotations:
        """Rows of one split."""
        scale = LabelScale.of_preset(self.name)
        levels = [f"aestheticScore_{value:.1f}" for value in scale.score_values or ()]
        table = self.table(f"annotation/{self.splits[part]}", "imageName", "sessionId", *levels)
        names = zip(table.get("sessionId"), table.get("imageName"), strict=True)
        files = [clean_name(f"{session}/{name}") for session, name in names]
        return Annotations(
            image_ids=files,
            images=FolderImages(files, self.root / "imgs"),
            scale=scale,
            counts=np.stack([to_floats(table.get(level)) for level in levels], axis=1),
            left_out={"malformed": table.malformed},
        )
