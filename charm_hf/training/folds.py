"""The cross-validation folds that every number about `charm-tiny` is measured on.

Rule, frozen: inside each category the photos are sorted by the MD5 of `"<seed>:<file name>"` and dealt to the folds in
turn, each category starting where the one before (alphabetical) stopped. It needs no library and no order of the rows,
so anybody who has the photos gets the same folds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence


def assign_folds(names: Sequence[str], categories: Sequence[str], seed: int = 0, num_folds: int = 5) -> list[int]:
    """Fold (0 to `num_folds` - 1) of each photo, of nearly equal size overall and inside each category.

    Args:
        names: file names, unique; they decide the fold, their order does not.
        categories: one label a photo, by which the folds are stratified.
        seed: another seed gives other folds.
        num_folds: how many there are.

    Raises:
        ValueError: if a name stands there twice or the two lists differ in length.
    """
    if len(names) != len(categories) or len(set(names)) != len(names):
        raise ValueError(
            f"Expected unique names and one category each, found {len(names)} names ({len(set(names))} of them "
            f"different) and {len(categories)} categories."
        )
    order = sorted(zip(categories, (_digest(seed, name) for name in names), range(len(names)), strict=True))
    folds = [0] * len(names)
    for rank, (_, _, index) in enumerate(order):
        folds[index] = rank % num_folds
    return folds


def _digest(seed: int, name: str) -> str:
    return hashlib.md5(f"{seed}:{name}".encode(), usedforsecurity=False).hexdigest()
