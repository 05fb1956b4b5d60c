"""`charm-hf select`, `compare-ratings` and `personalize`: photos by their scores, and scores by a person's taste."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from .light import without_registration
from .support import (
    EXIT_ALL_DONE,
    EXIT_SOME_FAILED,
    STARS,
    TABLES,
    XMP_PLACES,
    DeviceOption,
    ModelOption,
    list_names,
    put_out,
    say,
    usage_errors,
)


if TYPE_CHECKING:
    from charm_hf.choosing.choice import Chosen
    from charm_hf.choosing.delivery import Delivered


app = typer.Typer()

ScoresArgument = Annotated[
    Path, typer.Argument(metavar="SCORES", help=f"Table of charm-hf score: {list_names(TABLES)}.")
]
ImageRootOption = Annotated[Path | None, typer.Option(help="Where relative paths of the table start.")]
TopOption = Annotated[int | None, typer.Option(min=1, help="Keep this many of the best, best first.")]
ThresholdOption = Annotated[float | None, typer.Option(help="Keep photos with at least this score.")]
CopyToOption = Annotated[Path | None, typer.Option(metavar="DIR", help="Copy the kept photos there.")]
WriteXmpOption = Annotated[
    str | None,
    typer.Option("--write-xmp", metavar="[PLACE]", help=f"Rate the kept photos in XMP: {list_names(XMP_PLACES)}."),
]
StarsOption = Annotated[
    str, typer.Option(help=f"Stars by fifths of the table, of the range, or of the training set: {list_names(STARS)}.")
]


class XmpCommand(TyperCommand):
    """A command whose option `--write-xmp` stands alone or before a place."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Give `--write-xmp` its value before the options are read."""
        joined: list[str] = []
        for argument in args:
            if joined[-1:] == ["--write-xmp"]:
                joined[-1] += f"={argument if argument in XMP_PLACES else XMP_PLACES[0]}"
                if argument in XMP_PLACES:
                    continue
            joined.append(argument)
        if joined[-1:] == ["--write-xmp"]:
            joined[-1] += f"={XMP_PLACES[0]}"
        return super().parse_args(ctx, joined)


@app.command(cls=XmpCommand)
def select(
    scores: ScoresArgument,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Table of the kept rows; stdout if not given."),
    ] = None,
    top: TopOption = None,
    threshold: ThresholdOption = None,
    percentile: Annotated[
        float | None, typer.Option(min=0, max=100, help="Keep photos from this percentile on; 90: the best tenth.")
    ] = None,
    per_folder: Annotated[int | None, typer.Option(min=1, help="Keep at most this many of each folder.")] = None,
    best_of_series: Annotated[
        bool, typer.Option("--best-of-series", help="Of photos of one moment keep the best, and say why.")
    ] = False,
    seconds: Annotated[float, typer.Option(min=0, help="Between neighbours of one series.")] = 2.0,
    copies: Annotated[
        bool, typer.Option("--copies", help="Let copies of a photo into --top and --per-folder.")
    ] = False,
    copy_to: CopyToOption = None,
    rank_prefix: Annotated[
        bool, typer.Option("--rank-prefix", help="Begin names of --copy-to with the rank.")
    ] = False,
    write_xmp: WriteXmpOption = None,
    stars: StarsOption = "percentile",
    model: ModelOption = None,
    label: Annotated[str | None, typer.Option(help="Colour label to write beside the rating, such as Green.")] = None,
    reject_rest: Annotated[bool, typer.Option("--reject-rest", help="Rate the other photos -1, rejected.")] = False,
    backup: Annotated[bool, typer.Option("--backup", help="Keep each changed file as NAME_original.")] = False,
    image_root: ImageRootOption = None,
) -> None:
    """Choose photos from a table of scores, without scoring again. The table stays as it is, and so does every photo.

    Exit code: 0 done, 1 some kept photos were not there to copy or rate, 2 wrong usage.
    """
    with without_registration(), usage_errors():
        from charm_hf.choosing.choice import Choice
        from charm_hf.choosing.delivery import Delivery, select_photos
        from charm_hf.choosing.series import can_compare_looks

        choice = Choice(threshold, percentile, best_of_series, per_folder, top, seconds, copies)
        quantiles = _training_quantiles(model) if stars == "training" else None
        delivery = Delivery(copy_to, rank_prefix, write_xmp, stars, label, reject_rest, backup, quantiles)
        if best_of_series and not can_compare_looks():
            say("Series are told by time alone: pip install 'charm-hf[photos]' compares looks as well.")
        chosen, done = select_photos(scores, choice, delivery, output or sys.stdout, image_root)
    report_choice(chosen, done)
    raise typer.Exit(EXIT_SOME_FAILED if done.missing else EXIT_ALL_DONE)


def _training_quantiles(model: str | None) -> Sequence[float] | None:
    """What a checkpoint says of the ratings that it learnt from; its weights are not read."""
    from charm_hf.hub import embedded_model_path, resolve_checkpoint
    from charm_hf.hub.cards import read_config

    folder = embedded_model_path() if model is None else resolve_checkpoint(model)
    return read_config(folder).get("score_quantiles")


def report_choice(chosen: Chosen, done: Delivered) -> None:
    """Say on standard error what became of every row, and of the photos of those that were kept."""
    rest = {"are copies of these": chosen.copies, "others": chosen.below, "have no score": chosen.failed}
    words = [f"{count:,} {which}" for which, count in rest.items() if count]
    total = len(chosen.places) + sum(rest.values())
    say(f"Kept {len(chosen.places):,} of {total:,} rows" + (f"; {', '.join(words)}." if words else "."))
    if chosen.series:
        say(f"{len(chosen.series):,} photos in {len(set(chosen.series.values())):,} series.")
    if chosen.unseen:
        say(f"{chosen.unseen:,} photos could not be read again: each of them is a series of its own.")
    acts = {"copied": done.copied, "rated": done.rated, "rejected": done.rejected}
    if any(acts.values()):
        say(f"Photos {', '.join(f'{act}: {count:,}' for act, count in acts.items() if count)}.")
    if done.left_alone:
        say(f"Left the ratings of {done.left_alone:,} photos alone that somebody else gave.")
    if done.missing:
        say(f"{done.missing:,} photos are no files here: neither copied nor rated.")


@app.command("compare-ratings")
def compare(
    scores: ScoresArgument,
    ratings: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Table of ratings, of series or of pairs; XMP if not given."),
    ] = None,
    image_root: ImageRootOption = None,
) -> None:
    """Compare scores with your own ratings: those in the photos' XMP, but for what this package wrote, or in a table,
    which may also hold series of photos in order (group, path, rank) or pairs (left, right, preference).

    Exit code: 0 done, 2 wrong usage, or no photo with both.
    """
    with usage_errors():
        from charm_hf.choosing.ratings import compare_ratings

        agreement = compare_ratings(scores, ratings, image_root)
    if agreement.by_rating:
        put_out("rating,photos,mean_score")
    for rating, count, mean in agreement.by_rating:
        put_out(f"{rating:g},{count},{mean:.6f}")
    values = ", ".join(f"{name.replace('_', ' ').upper()} {value:.3f}" for name, value in agreement.metrics.items())
    say(f"{agreement.count:,} photos with a rating of yours: {values}.")


@app.command()
def personalize(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Checkpoint to write.")],
    ratings: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Table with columns of paths and of ratings.")
    ] = None,
    from_xmp: Annotated[
        Path | None, typer.Option("--from-xmp", metavar="DIR", help="Folder of photos with stars in their XMP.")
    ] = None,
    model: ModelOption = None,
    lowest: Annotated[
        float | None, typer.Option(help="Lowest possible rating; the lowest given if not given.")
    ] = None,
    highest: Annotated[float | None, typer.Option(help="Highest possible rating; likewise.")] = None,
    folds: Annotated[int, typer.Option(min=2, help="Of the cross-validation.")] = 5,
    seed: Annotated[int, typer.Option(help="Which photos fall into which fold.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Write it even if it is no better than the model.")] = False,
    device: DeviceOption = None,
) -> None:
    """Learn your taste from your ratings: a new linear head on a model's features, a checkpoint like any other.

    It is written only if it agrees better with your ratings than the model does, on photos that it did not learn from.

    Exit code: 0 written, 1 not written because it is no better, 2 wrong usage.
    """
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    with usage_errors():
        from charm_hf.choosing.ratings import STAR_RANGE, ratings_from_table, ratings_from_xmp
        from charm_hf.scoring import load_for_scoring
        from charm_hf.scoring.personal import personalize as learn

        if ratings is not None and from_xmp is None:
            given, known = ratings_from_table(ratings), None
        elif from_xmp is not None and ratings is None:
            given, known = ratings_from_xmp(from_xmp), STAR_RANGE
        else:
            raise ValueError("Expected ratings from one place: --ratings FILE or --from-xmp DIR.")
        low, high = known or (min(given.values(), default=0.0), max(given.values(), default=1.0))
        score_range = (low if lowest is None else lowest, high if highest is None else highest)
        loaded, processor = load_for_scoring(model, device=device)
        taste = learn(given, loaded, processor, score_range, folds=folds, seed=seed, num_workers=None)
        say(
            f"Agreement with your ratings of {taste.photos:,} photos (SRCC, {folds} folds): "
            f"{taste.srcc:.3f}, the model itself {taste.base_srcc:.3f}."
            + (f" {taste.unreadable:,} photos could not be read." if taste.unreadable else "")
        )
        if not (taste.is_better or force):
            say("Not written, because it is no better: rate more photos, or --force it.")
            raise typer.Exit(EXIT_SOME_FAILED)
        taste.model.save_pretrained(output)
        processor.save_pretrained(output)
    put_out(output)
