"""SPAQ (Fang et al., CVPR 2020): smartphone photographs, mean opinion scores from 0 to 100."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from .annotation_files import Columns, require_file
from .annotations import Annotations
from .left_out import LeftOut
from .published import PublishedReader


@dataclass
class SpaqReader(PublishedReader):
    """`Annotations/MOS and Image attribute scores.xlsx` and `TestImage/`; no official split.

    Attributes:
        annotation_file: another place of the spreadsheet.
    """

    annotation_file: str | os.PathLike[str] | None = None

    name: ClassVar[str] = "spaq"
    test_size: ClassVar[float] = 0.2

    def read(self, part: str) -> Annotations:
        """All rows."""
        path = Path(self.annotation_file or self.root / "Annotations/MOS and Image attribute scores.xlsx")
        table = read_spreadsheet(require_file(path, self.name))
        table.require("Image name", "MOS")
        return self.scored(table, "Image name", "MOS", "TestImage")


def read_spreadsheet(path: Path) -> Columns:
    """First sheet of an Excel workbook, its first row being the header.

    Raises:
        ValueError: if the file is no workbook.
    """
    from zipfile import BadZipFile

    import openpyxl
    from openpyxl.utils.exceptions import InvalidFileException

    try:
        workbook = openpyxl.load_workbook(path, read_only=True, data_only=True)
    except (BadZipFile, InvalidFileException, KeyError) as error:
        raise ValueError(f"{path}: expected an Excel workbook (.xlsx), found something else: {error}") from None
    try:
        sheet = workbook.worksheets[0]
        sheet.reset_dimensions()  # some writers record a wrong size, and reading would stop there
        rows = [["" if cell is None else str(cell).strip() for cell in row] for row in sheet.values]
    finally:
        workbook.close()
    header, *body = rows or [[]]
    numbered = [(number, row + [""] * len(header)) for number, row in enumerate(body, start=2) if any(row)]
    good = [row for _, row in numbered if row[0]]
    malformed = [LeftOut(f"{path.name}:{number}", "no image name") for number, row in numbered if not row[0]]
    columns = {name: [row[index] for row in good] for index, name in enumerate(header) if name}
    return Columns(str(path), columns, malformed)
