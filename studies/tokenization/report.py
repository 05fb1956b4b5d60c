"""Tables and plots of the results: all tables in `results/README.md`, the short ones in `docs/evidence.md`.

    python -m studies.tokenization.report

In the pages, what stands between `<!-- table NAME -->` and `<!-- end -->` is replaced.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
import numpy as np

from studies.results import Rows, fill_page, markdown, read_rows
from studies.statistics_of_runs import DrawSpread, Estimate, claims, draw_spread, estimate
from studies.tokenization.arms import ARMS, OVERFLOW_ARMS
from studies.tokenization.faults import FAULTS
from studies.tokenization.planted_images import QUESTIONS


matplotlib.use("Agg")
import matplotlib.pyplot as plt


HERE = Path(__file__).parent
PAGES = (HERE / "results" / "README.md", HERE.parents[1] / "docs" / "evidence.md")
IMAGES = HERE.parents[1] / "docs" / "images"
# What the Charm arms are held against.
RIVALS = ("kept-aspect", "squash", "centre-crop", "pad-to-square")
# Charm arms held against each other: what is it worth to choose regions, to draw in training, to add a scale?
SELECTIONS = (
    *((arm, "charm-random") for arm in ("charm-frequency", "charm-gradient", "charm-entropy", "charm-saliency")),
    ("charm-recipe", "charm-random"),
    ("charm-recipe", "charm-frequency"),
    ("charm-3-recipe", "charm-recipe"),
)
# Colours on a light and on a dark page: of the ground, of text, of the rivals and of Charm.
SCHEMES = {"light": ("#ffffff", "#1f2328", "#1f77b4", "#d62728"), "dark": ("#0d1117", "#e6edf3", "#58a6ff", "#ff7b72")}
# Test photos by training photos of five folds.
FOLD_RATIO = 0.25


def values_of(rows: Rows, arm: str, factor: str | None, column: str) -> dict[tuple[str, str], float]:
    """A column by (seed, factor)."""
    return {
        (row["seed"], row["factor"]): float(row[column])
        for row in rows
        if row["arm"] == arm and factor in (None, row["factor"])
    }


def difference(
    rows: Rows, arm: str, rival: str, factor: str | None, column: str = "srcc", variance_factor: float = 0.0
) -> Estimate:
    """Arm minus rival, paired by seed (and fold)."""
    ours, theirs = values_of(rows, arm, factor, column), values_of(rows, rival, factor, column)
    return estimate([ours[key] - theirs[key] for key in ours if key in theirs], variance_factor)


def present(rows: Rows, order: Sequence[str]) -> list[str]:
    """Arms that have results, in the given order."""
    found = {row["arm"] for row in rows}
    return [arm for arm in order if arm in found]


def planted_table(rows: Rows, column: str) -> str:
    """Mean and interval of each arm and question, beside tokens and GMACs."""
    lines = []
    for arm in present(rows, list(ARMS)):
        first = next(row for row in rows if row["arm"] == arm)
        cells = [str(estimate(list(values_of(rows, arm, question, column).values()))) for question in QUESTIONS]
        lines.append([ARMS[arm].title, f"{float(first['tokens']):.0f}", f"{float(first['gmacs']):.4f}", *cells])
    return markdown(["arm", "tokens", "GMACs", *QUESTIONS], lines)


def large_table(rows: Rows) -> str:
    """What models learn of large images: mean and interval of each arm and question."""
    lines = []
    for arm in present(rows, list(OVERFLOW_ARMS)):
        tokens = next(row["tokens"] for row in rows if row["arm"] == arm)
        cells = [str(estimate(list(values_of(rows, arm, question, "srcc").values()))) for question in QUESTIONS]
        lines.append([OVERFLOW_ARMS[arm].title, f"{float(tokens):.0f}", *cells])
    return markdown(["arm", "tokens", *QUESTIONS], lines)


def survival_table(rows: Rows) -> str:
    """What is left of a planted checkerboard in the best token, a column for each range of megapixels."""
    ranges = list(dict.fromkeys(row["megapixels"] for row in rows))
    titles = {arm.train: arm.title for arm in OVERFLOW_ARMS.values()} | {"charm-drop": "drop, one draw"}
    lines = []
    for name in dict.fromkeys(row["tokenization"] for row in rows):
        own = {row["megapixels"]: row for row in rows if row["tokenization"] == name}
        lines.append([titles.get(name, name), *(f"{own[each]['survives']} ({own[each]['srcc']})" for each in ranges)])
    return markdown(["arm", *(f"{each} megapixels" for each in ranges)], lines)


def epochs_table(rows: Rows) -> str:
    """Epochs to the best validation result."""
    return markdown(
        ["arm", *QUESTIONS],
        [
            [ARMS[arm].title, *(f"{_mean(rows, arm, question):.1f}" for question in QUESTIONS)]
            for arm in present(rows, list(ARMS))
        ],
    )


def _mean(rows: Rows, arm: str, question: str) -> float:
    return float(np.mean(list(values_of(rows, arm, question, "best_epoch").values())))


def differences_table(rows: Rows, pairs: Sequence[tuple[str, str]]) -> str:
    """One arm minus another, paired by seed."""
    found = {row["arm"] for row in rows}
    there = [pair for pair in pairs if {*pair} <= found]
    cells = claims([[difference(rows, *pair, asked) for asked in QUESTIONS] for pair in there])
    lines = [[ARMS[arm].title, ARMS[rival].title, *line] for (arm, rival), line in zip(there, cells, strict=True)]
    return markdown(["arm", "minus", *QUESTIONS], lines)


def rivals_table(rows: Rows) -> str:
    """Charm minus each rival."""
    return differences_table(rows, [(arm, rival) for arm in ARMS if arm.startswith("charm") for rival in RIVALS])


def costs_table(rows: Rows) -> str:
    """What one image costs."""
    lines = [
        [
            ARMS[row["arm"]].title,
            f"{float(row['tokens']):.0f}",
            f"{float(row['gmacs']):.4f}",
            f"{float(row['tokenize_ms']):.1f}",
            f"{float(row['score_ms']):.2f}",
            f"{float(row['train_seconds']):.1f}",
        ]
        for row in rows
    ]
    return markdown(["arm", "tokens", "GMACs", "tokenize, ms", "score, ms", "one training run, s"], lines)


def faults_table(rows: Rows) -> str:
    """Each fault minus our defaults, paired by seed, for the questions that were asked."""
    found = {row["factor"] for row in rows}
    asked = [question for question in QUESTIONS if question in found]
    ours = [str(estimate(list(values_of(rows, "ours", question, "srcc").values()))) for question in asked]
    faults = present(rows, [name for name in FAULTS if name != "ours"])
    cells = claims([[difference(rows, fault, "ours", question) for question in asked] for fault in faults])
    lines = [[FAULTS[fault].title, *line] for fault, line in zip(faults, cells, strict=True)]
    return markdown(["instead of our default", *asked], [["our defaults (SRCC itself)", *ours], *lines])


def oasis_table(rows: Rows) -> str:
    """Each arm on real ratings, and Charm against it."""
    lines = []
    for arm in present(rows, list(ARMS)):
        first = next(row for row in rows if row["arm"] == arm)
        cells = [
            str(estimate(list(values_of(rows, arm, None, column).values()), FOLD_RATIO)) for column in ("srcc", "plcc")
        ]
        against = (
            "" if arm == "charm-recipe" else _test(difference(rows, "charm-recipe", arm, None, "srcc", FOLD_RATIO))
        )
        lines.append([ARMS[arm].title, f"{float(first['tokens']):.0f}", *cells, against])
    return markdown(["arm", "tokens", "SRCC", "PLCC", "Charm minus this arm, SRCC"], lines)


def _test(found: Estimate) -> str:
    return f"{found.signed} (p = {found.p:.2f})"


def spreads(rows: Rows) -> list[DrawSpread]:
    """Spread between draws, one a seed."""
    tables = []
    for seed in sorted({row["seed"] for row in rows}):
        own = [row for row in rows if row["seed"] == seed]
        shape = (1 + max(int(row["draw"]) for row in own), 1 + max(int(row["image"]) for row in own))
        table = np.zeros(shape)
        for row in own:
            table[int(row["draw"]), int(row["image"])] = float(row["score"])
        tables.append(draw_spread(table))
    return tables


def selection_table(rows: Rows) -> str:
    """How many draws make a score stable."""
    found = spreads(rows)
    lines = [
        ["standard deviation of one photo's score between draws", str_of(found, lambda s: s.between_draws, 4)],
        ["standard deviation between photos", str_of(found, lambda s: s.between_images, 4)],
        *(
            [f"reliability of the mean of {draws}", str_of(found, lambda s, n=draws: s.reliability(n), 3)]  # type: ignore[misc]
            for draws in (1, 2, 4, 8, 16)
        ),
        ["draws needed for a reliability of .95", str_of(found, lambda s: s.draws_needed(0.95), 1)],
        ["draws needed for a reliability of .99", str_of(found, lambda s: s.draws_needed(0.99), 1)],
    ]
    return markdown(["", "mean over seeds, 95 % interval"], lines)


def str_of(found: Sequence[DrawSpread], what: Callable[[DrawSpread], float], digits: int) -> str:
    """Mean and interval of a property over the seeds."""
    result = estimate([what(spread) for spread in found])
    return f"{result.mean:.{digits}f} ± {result.half:.{digits}f}"


def plot_planted(rows: Rows, path: Path, ground: str, ink: str, rival: str, ours: str) -> None:
    """SRCC with intervals, one panel a question, all on one scale.

    Args:
        rows: of the planted images.
        path: the picture, at twice the size at which a page shows it.
        ground, ink: colours of the page and of its text.
        rival, ours: colours of the rivals and of the Charm arms.
    """
    arms = present(rows, list(ARMS))[::-1]
    style = {name: ink for name in ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")}
    with plt.rc_context({**style, "axes.facecolor": ground, "savefig.facecolor": ground, "font.size": 10.5}):
        figure, axes = plt.subplots(
            1, len(QUESTIONS), figsize=(11, 0.36 * len(arms) + 1), sharex=True, sharey=True, layout="constrained"
        )
        for axis, question in zip(axes, QUESTIONS, strict=True):
            for place, arm in enumerate(arms):
                found = estimate(list(values_of(rows, arm, question, "srcc").values()))
                colour = ours if arm.startswith("charm") else ink if arm == "native" else rival
                axis.errorbar(found.mean, place, xerr=found.half, fmt="o", color=colour, markersize=5, capsize=2.5)
            axis.set(title=question, xlabel="SRCC", xlim=(-0.12, 1.06), xticks=(0, 0.5, 1))
            axis.axvline(0, color=ink, linewidth=0.6)
            axis.grid(alpha=0.25)
            axis.spines[:].set_visible(False)
            axis.tick_params(length=0)
        axes[0].set_yticks(range(len(arms)), [ARMS[arm].title for arm in arms])
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=160, metadata={"Software": None})
        plt.close(figure)


def make_tables(results: Path) -> dict[str, str]:
    """All tables whose results are there."""
    makers: list[tuple[str, str, Callable[[Rows], str]]] = [
        ("planted", "planted/results.csv", lambda rows: planted_table(rows, "srcc")),
        ("planted-plcc", "planted/results.csv", lambda rows: planted_table(rows, "plcc")),
        ("rivals", "planted/results.csv", rivals_table),
        ("selections", "planted/results.csv", lambda rows: differences_table(rows, SELECTIONS)),
        ("epochs", "planted/results.csv", epochs_table),
        ("costs", "planted/costs.csv", costs_table),
        ("large", "large/planted/results.csv", large_table),
        ("survival", "large/survival.csv", survival_table),
        ("faults", "faults/results.csv", faults_table),
        ("oasis", "oasis/results.csv", oasis_table),
        ("selection", "selection/results.csv.gz", selection_table),
    ]
    read = [(name, make, read_rows(results / file)) for name, file, make in makers]
    return {name: make(rows) for name, make, rows in read if rows}


def main(argv: Sequence[str] | None = None) -> None:
    """Fill the pages and draw the plots."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--pages", type=Path, nargs="*", default=PAGES)
    parser.add_argument("--images", type=Path, default=IMAGES)
    args = parser.parse_args(argv)
    tables = make_tables(args.results)
    for page in args.pages:
        fill_page(page, tables)
    if "planted" in tables:
        for scheme, colours in SCHEMES.items():
            planted = read_rows(args.results / "planted" / "results.csv")
            plot_planted(planted, args.images / f"evidence-{scheme}.png", *colours)
    for name, table in tables.items():
        print(f"\n{name}\n\n{table}")


if __name__ == "__main__":
    main()
