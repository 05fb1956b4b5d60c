"""What the readers of the published datasets share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from .annotation_files import Columns, clean_name, read_columns, require_file, require_folder, to_floats
from .annotations import Annotations
from .images import FolderImages
from .labels import LabelScale


@dataclass
class PublishedReader:
    """A dataset in the folder that its authors ship.

    Attributes:
        root: folder of the download.
        name: of the dataset, and of its preset if it has one.
        score_range: lowest and highest possible score; the preset's if not given.
        splits: official split -> where or how its rows are told; empty where there is none.
        test_size: share of a seeded test part where the authors made no split.
    """

    root: Path

    name: ClassVar[str]
    score_range: ClassVar[tuple[float, float] | None] = None
    splits: ClassVar[Mapping[str, Any]] = {}
    test_size: ClassVar[float | None] = None

    def __post_init__(self) -> None:
        require_folder(self.root, self.name)

    def official_splits(self) -> tuple[str, ...]:
        """Splits of the authors."""
        return tuple(self.splits)

    def read(self, part: str) -> Annotations:
        """Rows of an official split, or of the whole dataset where there is none."""
        raise NotImplementedError

    def file(self, name: str) -> Path:
        """A file of the download.

        Raises:
            FileNotFoundError: if it is not there; the message tells what is.
        """
        return require_file(self.root / name, self.name)

    def table(self, name: str, *columns: str) -> Columns:
        """A table of the download, which must have these columns."""
        table = read_columns(self.file(name))
        table.require(*columns)
        return table

    def scored(self, table: Columns, image_column: str, score_column: str, folder: str) -> Annotations:
        """Rows of a table with a file name and a score."""
        names = [clean_name(name) for name in table.get(image_column)]
        return Annotations(
            image_ids=names,
            images=FolderImages(names, self.root / folder, fallback=self.root),
            scale=LabelScale(self.name, self.score_range) if self.score_range else LabelScale.of_preset(self.name),
            scores=to_floats(table.get(score_column)),
            left_out={"malformed": list(table.malformed)},
        )
