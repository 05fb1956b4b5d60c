"""Which rows of a score table to take: the best, one of each moment, no photo twice."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from .series import SECONDS, Copies, Sight, can_compare_looks, find_series, look_at


@dataclass(frozen=True)
class Choice:
    """Which rows are taken; those without a score never are.

    Args:
        threshold: lowest score, in the data set's own units.
        percentile: share of the table's scores, in percent, that a score must not fall below; 90 takes the best tenth.
        best_of_series: of photos of one moment (see [`find_series`]) take the best only.
        per_folder: at most this many of each folder.
        top: this many of the best, best first; of equal ones the first. Without it, rows keep the table's order.
        seconds: between neighbours of one series.
        copies: let copies of a photo fill the places of `top` and `per_folder`.
    """

    threshold: float | None = None
    percentile: float | None = None
    best_of_series: bool = False
    per_folder: int | None = None
    top: int | None = None
    seconds: float = SECONDS
    copies: bool = False

    def __post_init__(self) -> None:
        for name in ("top", "per_folder"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}.")
        if self.percentile is not None and not 0 <= self.percentile <= 100:
            raise ValueError(f"`percentile` must be 0 to 100, got {self.percentile}.")

    @property
    def takes_all(self) -> bool:
        """Whether every scored photo is taken."""
        wishes = (self.threshold, self.percentile, self.per_folder, self.top)
        return wishes == (None, None, None, None) and not self.best_of_series


@dataclass
class Chosen:
    """What [`choose`] took.

    Attributes:
        places: of the rows, in the order of the list.
        ranks: place to rank among those taken, from 1 for the best.
        series: place to the number of its series, for every scored row, where series were asked for.
        reasons: place to the reason why it was taken and not another of its series.
        copies: photos passed over because a copy of them was taken.
        below: scored photos passed over for another reason.
        failed: rows without a score.
        unseen: photos whose file could not be read, where series or copies were looked for.
    """

    places: list[int] = field(default_factory=list)
    ranks: dict[int, int] = field(default_factory=dict)
    series: dict[int, int] = field(default_factory=dict)
    reasons: dict[int, str] = field(default_factory=dict)
    copies: int = 0
    below: int = 0
    failed: int = 0
    unseen: int = 0


def choose(rows: Sequence[Mapping[str, Any]], choice: Choice, file_of: Callable[[int], Path | None]) -> Chosen:
    """Choose rows.

    Args:
        rows: with `path` and `score`, and where known `std` and `spread`.
        choice: what is wanted.
        file_of: place of a row to its photo's file; asked only where photos must be looked at.
    """
    score = {place: row["score"] for place, row in enumerate(rows) if row["score"] is not None}
    ranked = sorted(score, key=lambda place: -score[place])
    low = -np.inf if choice.threshold is None else choice.threshold
    if choice.percentile is not None and score:
        low = max(low, float(np.percentile(list(score.values()), choice.percentile, method="lower")))
    passing = [place for place in ranked if score[place] >= low]
    chosen = Chosen(failed=len(rows) - len(score))

    @cache
    def see(place: int) -> Sight | None:
        return look_at(file_of(place))

    if choice.best_of_series:
        passing = _best_of_series(rows, ranked, passing, choice.seconds, see, chosen)
    may_repeat = choice.copies or (choice.top is None and choice.per_folder is None)
    taken, compares_looks = Copies(), can_compare_looks()
    of_folder: Counter[str] = Counter()
    for place in passing:
        folder = os.path.dirname(rows[place]["path"])
        if len(chosen.places) == choice.top or (choice.per_folder and of_folder[folder] >= choice.per_folder):
            continue
        if not may_repeat and taken.holds(rows[place]["path"], file_of(place), see(place) if compares_looks else None):
            chosen.copies += 1
            continue
        of_folder[folder] += 1
        chosen.places.append(place)
    chosen.ranks = {place: rank for rank, place in enumerate(chosen.places, start=1)}
    if choice.top is None:
        chosen.places.sort()
    chosen.below = len(score) - len(chosen.places) - chosen.copies
    chosen.unseen = sum(see(place) is None for place in ranked) if choice.best_of_series else 0
    return chosen


def _best_of_series(
    rows: Sequence[Mapping[str, Any]],
    ranked: Sequence[int],
    passing: Sequence[int],
    seconds: float,
    see: Callable[[int], Sight | None],
    chosen: Chosen,
) -> list[int]:
    """The best of each series among those that pass; says of each why it is taken."""
    in_order = sorted(ranked)
    first = find_series([see(place) for place in in_order], seconds)
    numbers = {place: number for number, place in enumerate(sorted(set(first)), start=1)}
    chosen.series = {place: numbers[label] for place, label in zip(in_order, first, strict=True)}
    members: dict[int, list[int]] = {}
    for place in ranked:
        members.setdefault(chosen.series[place], []).append(place)
    best = [place for place in passing if members[chosen.series[place]][0] == place]
    chosen.reasons = {place: _reason(rows, members[chosen.series[place]], see) for place in best}
    return best


def _reason(rows: Sequence[Mapping[str, Any]], members: Sequence[int], see: Callable[[int], Sight | None]) -> str:
    """Why the first of a series, best first, is taken: its lead beside what the scores scatter by, and flags."""
    if len(members) == 1:
        return "alone"
    best, second = (rows[place] for place in members[:2])
    known = {"std": "ratings scatter by", "spread": "views by"}
    scatter = [f"{words} ±{best[name]:.2g}" for name, words in known.items() if best.get(name)]
    parts = [
        f"best of {len(members)}: {best['score'] - second['score']:.2g} above {os.path.basename(second['path'])}"
        + (f" ({', '.join(scatter)})" if scatter else "")
    ]
    sights = [sight for place in members if (sight := see(place)) is not None]
    sharpest = max((sight.sharpness for sight in sights), default=0.0)
    for place in members:
        sight = see(place)
        if sight is not None and (flags := sight.flags(sharpest)):
            name = "it" if place == members[0] else os.path.basename(rows[place]["path"])
            parts.append(f"{name}: {', '.join(flags)}")
    return "; ".join(parts)


__all__ = ["Choice", "Chosen", "choose"]
