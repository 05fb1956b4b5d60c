"""Tables of `docs/mmlq.md`, from `results.csv`.

    python -m studies.mmlq.report

In the page, what stands between `<!-- table NAME -->` and `<!-- end -->` is replaced.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from studies.mmlq.run import ARMS, HERE
from studies.results import Rows, fill_page, markdown, read_rows
from studies.statistics_of_runs import Estimate, claims, estimate


PAGE = HERE.parents[1] / "docs" / "mmlq.md"
# Test photos by training photos: each seed holds another of five folds out.
FOLD_RATIO = 0.25

# Tables: the rows of each, and what its first column is called.
ABLATIONS = {
    "blocks": (
        "blocks",
        {"1": "blocks-1", "2": "blocks-2", "**3**": "both", "4": "blocks-4", "5": "blocks-5", "6": "blocks-6"},
    ),
    "queries": ("queries a modality", {"1": "queries-1", "**2**": "both", "4": "queries-4", "8": "queries-8"}),
    "layers": (
        "replaceable layers (self-attention, feed-forward)",
        {
            "**`none`, `shared`**": "both",
            "`shared`, `shared`": "self-shared",
            "`separate`, `shared`": "self-separate",
            "`joint`, `shared`": "self-joint",
            "`none`, `separate`": "feed-separate",
        },
    ),
    "dropout": ("`comment_dropout`", {"0": "dropout-0", "**0.2**": "both", "0.5": "dropout-5"}),
}
MODALITIES = ("image", "comments", "comments-bert-trained", "both", "shuffled", "bert-trained")


def values_of(rows: Rows, arm: str, column: str) -> dict[str, float]:
    """A column of an arm by seed."""
    return {row["seed"]: float(row[column]) for row in rows if row["arm"] == arm}


def mean_of(rows: Rows, arm: str, column: str) -> Estimate:
    """Mean over the seeds, with its interval."""
    return estimate(list(values_of(rows, arm, column).values()), FOLD_RATIO)


def gain(rows: Rows, arm: str, rival: str, column: str = "srcc") -> Estimate | None:
    """Arm minus rival, paired by seed, for the SRCC of the rival; nothing for the rival itself."""
    if (arm, column) == (rival, "srcc"):
        return None
    ours, theirs = values_of(rows, arm, column), values_of(rows, rival, "srcc")
    return estimate([ours[seed] - theirs[seed] for seed in ours if seed in theirs], FOLD_RATIO)


def modality_table(rows: Rows) -> str:
    """What the model was given, and how well it ranks."""
    asked = [(ARMS[arm].title, arm, "srcc") for arm in MODALITIES]
    asked.insert(4, ("image and comments, asked without comments", "both", "srcc_no_comments"))
    gains = claims([[gain(rows, arm, "image", column)] for _, arm, column in asked])
    lines = [
        [title, str(mean_of(rows, arm, column)), str(mean_of(rows, arm, "plcc")) if column == "srcc" else "", *cells]
        for (title, arm, column), cells in zip(asked, gains, strict=True)
    ]
    known = ["*a rule that knows the grammar, comments only*", str(mean_of(rows, "both", "known")), "", ""]
    return markdown(["given", "SRCC", "PLCC", "SRCC, gain over image only"], [*lines, known])


def ablation_table(rows: Rows, name: str) -> str:
    """One choice of the configuration, everything else as in the middle."""
    title, arms = ABLATIONS[name]
    gains = claims([[gain(rows, arm, "both")] for arm in arms.values()])
    lines = [
        [
            label,
            f"{int(next(row['parameters'] for row in rows if row['arm'] == arm)) / 1e3:.0f} k",
            str(mean_of(rows, arm, "srcc")),
            str(mean_of(rows, arm, "srcc_no_comments")),
            *cells,
        ]
        for (label, arm), cells in zip(arms.items(), gains, strict=True)
    ]
    return markdown([title, "trained parameters", "SRCC", "SRCC without comments", "difference"], lines)


def attention_table(rows: Rows) -> str:
    """What the textual queries look at."""
    lines = [
        [words, str(mean_of(rows, "both", column)), str(mean_of(rows, "shuffled", column))]
        for words, column in (
            ("adjectives that depend on the rating", "attention_informative"),
            ("all other words", "attention_other"),
        )
    ]
    return markdown(["attention to", "comments of the photo", "comments of another photo"], lines)


def make_tables(rows: Rows) -> dict[str, str]:
    """Every table by name."""
    tables = {"modalities": modality_table(rows), "attention": attention_table(rows)}
    tables |= {name: ablation_table(rows, name) for name in ABLATIONS}
    seconds = float(np.sum([float(row["seconds"]) for row in rows]))
    cost = f"{len(rows)} runs, {seconds / 60:.0f} minutes of one CPU thread in all."
    return {**tables, "cost": cost}


def main(argv: Sequence[str] | None = None) -> None:
    """Fill the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=HERE / "results.csv")
    parser.add_argument("--page", type=Path, default=PAGE)
    args = parser.parse_args(argv)
    fill_page(args.page, make_tables(read_rows(args.results)))


if __name__ == "__main__":
    main()
