"""Results of the studies: rows in CSV files, compressed where they are many, and tables of the pages."""

from __future__ import annotations

import csv
import gzip
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from charm_hf.files import write_bytes
from charm_hf.tables import Table


Rows = list[dict[str, str]]


def read_rows(path: Path) -> Rows:
    """Rows of a CSV file, compressed or not; none if it is not there."""
    return list(Table(path).rows()) if path.exists() else []


def write_rows(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a CSV file, compressed if its name ends in `.gz`; equal rows give equal bytes."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    content = text.getvalue().encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)


def markdown(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    parts = [header, ["---"] * len(header), *lines]
    return "\n".join("| " + " | ".join(part) + " |" for part in parts)


def fill_page(page: Path, tables: Mapping[str, str]) -> None:
    """Replace what stands between `<!-- table NAME -->` and `<!-- end -->` in a page."""
    text = page.read_text(encoding="utf-8")
    for name, table in tables.items():
        pattern = re.compile(rf"(<!-- table {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        text = pattern.sub(lambda match, new=table: f"{match[1]}{new}\n{match[2]}", text)  # type: ignore[misc]
    page.write_text(text, encoding="utf-8")
