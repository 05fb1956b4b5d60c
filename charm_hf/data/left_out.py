"""What a reader found: how many rows it kept, and which it left out and why."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple


# Why a row is left out, in the order in which rows are looked at: a row counts once, under the first that applies.
REASONS = {
    "malformed": "row of another shape than the format's",
    "out_of_range": "label outside the score range, not a number, or without votes",
    "duplicated": "image seen before; its first usable row is kept",
    "missing": "no such image file",
    "unreadable": 'image file that does not decode (found by `verify="decode"` only)',
}
_NAMES_SHOWN = 3


class LeftOut(NamedTuple):
    """One row that was left out: the image id (or the file and line) and what is wrong with it."""

    name: str
    detail: str


def _count(reason: str) -> Any:
    return property(lambda report: len(report.left_out[reason]), doc=f"Number of rows left out: {REASONS[reason]}.")


@dataclass
class DatasetReport:
    """Rows of one split of one dataset, kept and left out; `str(report)` is for people.

    Attributes:
        dataset_name: name of a published dataset, or of the user's table or Hub dataset.
        split: `"train"`, `"validation"` or `"test"`.
        rows: rows of the split, `kept` and left out together. Malformed lines of a file that holds several splits
            tell no split, and count in each.
        kept: rows of the dataset that was returned.
        left_out: reason (a key of `REASONS`) -> every row left out for it.
        label_range: lowest and highest kept score; `None` when no row was kept.
        score_range: lowest and highest possible score in the dataset's own units; `None` when nobody told.
        malformed, out_of_range, duplicated, missing, unreadable: how many rows were left out, by reason.
        split_files: files that hold the seeded parts, written by this call or read from an earlier one.
    """

    dataset_name: str
    split: str
    rows: int = 0
    kept: int = 0
    left_out: dict[str, list[LeftOut]] = field(default_factory=lambda: {reason: [] for reason in REASONS})
    label_range: tuple[float, float] | None = None
    score_range: tuple[float, float] | None = None
    split_files: list[str] = field(default_factory=list)

    malformed, out_of_range, duplicated, missing, unreadable = map(_count, REASONS)

    def add(self, reason: str, rows: Iterable[LeftOut]) -> None:
        """Record rows that are left out for `reason`."""
        self.left_out[reason].extend(rows)

    def __str__(self) -> str:
        lines = [f"{self.dataset_name} {self.split}: kept {self.kept:,} of {self.rows:,} rows"]
        lines += [f"  {reason}: {_summary(rows)}" for reason, rows in self.left_out.items() if rows]
        if self.label_range is not None:
            low, high = self.label_range
            scale = "" if self.score_range is None else " on a scale of {:g} to {:g}".format(*self.score_range)
            lines.append(f"  scores: {low:g} to {high:g}{scale}")
        lines += [f"  seeded split: {path}" for path in self.split_files]
        return "\n".join(lines)


def _summary(rows: list[LeftOut]) -> str:
    shown = "; ".join(f"{row.name} ({row.detail})" for row in rows[:_NAMES_SHOWN])
    more = f"; and {len(rows) - _NAMES_SHOWN:,} more" if len(rows) > _NAMES_SHOWN else ""
    return f"{len(rows):,}: {shown}{more}"
