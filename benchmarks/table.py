"""One row of the table of measurements."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """A ratio, what it should reach, and the two values that it is made of.

    Attributes:
        more_is_better: whether `target` is the least or the most that the ratio may be.
    """

    name: str
    ratio: float
    target: float
    more_is_better: bool
    detail: str

    def __str__(self) -> str:
        reached = self.ratio >= self.target if self.more_is_better else self.ratio <= self.target
        bound = f"{'≥' if self.more_is_better else '≤'} {self.target:g}"
        return f"| {self.name} | {self.ratio:.2f} | {bound} | {'yes' if reached else 'no'} | {self.detail} |"


HEADER = "| row | ratio | reach | reached | made of |\n|---|---|---|---|---|"
