"""Tables of `docs/mmlq.md`, from `results.csv`.

    python -m studies.mmlq.report

In the page, what stands between `<!-- table NAME -->` and `<!-- end -->` is replaced.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from studies.mmlq.run import ARMS, HERE, read_results
from studies.tokenization.report import fill_page, markdown
from studies.tokenization.statistics_of_runs import Estimate, estimate


PAGE = HERE.parents[1] / "docs" / "mmlq.md"
# Test photos by training photos: each seed holds another of five folds out.
FOLD_RATIO = 0.25
Rows = list[dict[str, str]]

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
MODALITIES = ("image", "comments", "both", "shuffled", "bert-trained")


def values_of(rows: Rows, arm: str, column: str) -> dict[str, float]:
    """A column of an arm by seed."""
    return {row["seed"]: float(row[column]) for row in rows if row["arm"] == arm}


def mean_of(rows: Rows, arm: str, column: str) -> Estimate:
    """Mean over the seeds, with its interval."""
    return estimate(list(values_of(rows, arm, column).values()), FOLD_RATIO)


def gain(rows: Rows, arm: str, rival: str, column: str = "srcc") -> str:
    """Arm minus rival, paired by seed; bold if the interval excludes zero."""
    ours, theirs = values_of(rows, arm, column), values_of(rows, rival, column)
    return estimate([ours[seed] - theirs[seed] for seed in ours if seed in theirs], FOLD_RATIO).signed


def modality_table(rows: Rows) -> str:
    """What the model was given, and how well it ranks."""
    lines = [
        [
            ARMS[arm].title,
            str(mean_of(rows, arm, "srcc")),
            str(mean_of(rows, arm, "plcc")),
            "" if arm == "image" else gain(rows, arm, "image"),
        ]
        for arm in MODALITIES
    ]
    silent = mean_of(rows, "both", "srcc_no_comments")
    ours, theirs = values_of(rows, "both", "srcc_no_comments"), values_of(rows, "image", "srcc")
    change = estimate([ours[seed] - theirs[seed] for seed in ours], FOLD_RATIO).signed
    lines.insert(3, ["image and comments, asked without comments", str(silent), "", change])
    known = ["*a rule that knows the grammar, comments only*", str(mean_of(rows, "both", "known")), "", ""]
    return markdown(["given", "SRCC", "PLCC", "SRCC, gain over image only"], [*lines, known])


def ablation_table(rows: Rows, name: str) -> str:
    """One choice of the configuration, everything else as in the middle."""
    title, arms = ABLATIONS[name]
    lines = [
        [
            label,
            f"{int(next(row['parameters'] for row in rows if row['arm'] == arm)) / 1e3:.0f} k",
            str(mean_of(rows, arm, "srcc")),
            str(mean_of(rows, arm, "srcc_no_comments")),
            "" if arm == "both" else gain(rows, arm, "both"),
        ]
        for label, arm in arms.items()
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
    tables = make_tables(read_results(args.results))
    args.page.write_text(fill_page(args.page.read_text(encoding="utf-8"), tables), encoding="utf-8")


if __name__ == "__main__":
    main()
