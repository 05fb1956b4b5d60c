"""What a person thinks of photos, from XMP or a table, and how far scores agree with it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..metrics import series_agreement, srcc
from ..models.image_formats_charm import IMAGE_EXTENSIONS
from ..tables import Table, find_column
from .score_table import checked_rows, locate, photo_roots, read_scores
from .xmp import read_rating


# Stars as photo programs give them; a rejected photo counts as one below the lowest.
STAR_RANGE = (0.0, 5.0)


def ratings_from_xmp(folder: str | os.PathLike[str]) -> dict[Path, float]:
    """A person's stars of the photos in a folder, to any depth; rejected ones count as 0.

    Raises:
        NotADirectoryError: if it is no folder.
    """
    if not os.path.isdir(folder):
        raise NotADirectoryError(f"Expected a folder of rated photos, {os.fspath(folder)!r} is none.")
    files = sorted(
        file for file in Path(folder).rglob("*") if file.suffix.lower() in IMAGE_EXTENSIONS and file.is_file()
    )
    found = {file: read_rating(file) for file in files}
    return {file: float(max(rating, 0)) for file, rating in found.items() if rating is not None}


def ratings_from_table(table: str | os.PathLike[str]) -> dict[Path, float]:
    """Ratings in a table with a column of paths and one of ratings (see `USUAL_COLUMNS`).

    Raises:
        ValueError: for a table without such columns, or a rating that is no number.
    """
    source = Table(table)
    photos, ratings = (find_column(source.names, what, repr(os.fspath(table))) for what in ("path", "score"))
    found = {}
    for number, row in enumerate(source.rows([photos, ratings]), start=1):
        file, _ = locate(str(row.get(photos) or ""), photo_roots(table, None))
        try:
            if file is not None and row[ratings] not in (None, ""):
                found[file] = float(row[ratings])
        except ValueError:
            raise ValueError(f"{os.fspath(table)!r}, row {number}: expected a rating, got {row[ratings]!r}.") from None
    return found


@dataclass(frozen=True)
class Agreement:
    """How far scores agree with a person.

    Attributes:
        count: photos that have both.
        metrics: `srcc`, of ratings; `pair_accuracy` and `series_top1`, of series and pairs (see `series_agreement`).
        by_rating: rating, number of photos and mean score, ascending; of series and pairs none.
    """

    count: int
    metrics: dict[str, float]
    by_rating: list[tuple[float, int, float]]


def compare_ratings(
    table: str | os.PathLike[str],
    ratings: str | os.PathLike[str] | None = None,
    image_root: str | os.PathLike[str] | None = None,
) -> Agreement:
    """Compare a table of scores with a person's ratings of its photos.

    Args:
        table: written by `charm-hf score`.
        ratings: a table of them, or of series or pairs (see [`judgements`]); XMP beside and inside the photos if not
            given.
        image_root: where relative paths of the scores start.

    Raises:
        ValueError: if no photo has both.
    """
    rows: Sequence[Mapping[str, Any]] = checked_rows(read_scores(table), os.path.basename(table))
    roots = photo_roots(table, image_root)
    files = {
        file: row["score"] for row in rows if row["score"] is not None and (file := locate(row["path"], roots)[0])
    }
    judged = None if ratings is None else judgements(ratings)
    if judged is not None:
        return _compare_series(judged, {os.path.realpath(file): score for file, score in files.items()}, ratings)
    if ratings is None:
        given = {file: float(max(stars, 0)) for file in files if (stars := read_rating(file)) is not None}
    else:
        by_place = {os.path.realpath(file): rating for file, rating in ratings_from_table(ratings).items()}
        given = {file: by_place[place] for file in files if (place := os.path.realpath(file)) in by_place}
    if not given:
        raise ValueError(f"None of the {len(files):,} scored photos that are here has a rating of yours.")
    pairs = [(rating, files[file]) for file, rating in given.items()]
    kinds = sorted({rating for rating, _ in pairs})
    scores = {kind: [score for rating, score in pairs if rating == kind] for kind in kinds}
    by_rating = [(kind, len(of), sum(of) / len(of)) for kind, of in scores.items()]
    return Agreement(len(pairs), {"srcc": float(srcc(*zip(*pairs, strict=True)))}, by_rating)


def _compare_series(judged: Sequence[tuple[Any, str, float]], scores: Mapping[str, float], table: Any) -> Agreement:
    roots = photo_roots(table, None)
    places = {path: os.path.realpath(locate(path, roots)[0] or path) for _, path, _ in judged}
    known = [(scores[places[path]], value, series) for series, path, value in judged if places[path] in scores]
    if not known:
        raise ValueError(f"None of the {len(places):,} photos in {os.fspath(table)!r} is among those with a score.")
    count = sum(place in scores for place in places.values())
    return Agreement(count, series_agreement(*zip(*known, strict=True)), [])


def judgements(table: str | os.PathLike[str]) -> list[tuple[Any, str, float]] | None:
    """Series and pairs of photos that somebody put in order, as (series, path, the higher the better).

    Args:
        table: with the columns `group` (or `series`), a path and `rank` (1 is the best) or a rating; or a row a pair,
            `left`, `right` and `preference`: `left` or `right`, a number above 0 for the left and below for the right
            one, or 0 for neither.

    Returns:
        `None` for a table of another form.

    Raises:
        ValueError: for a rank or a preference that is neither.
    """
    source = Table(table)
    by_lower = {name.lower(): name for name in source.names}
    found: list[tuple[Any, str, float]] = []
    series, rank = by_lower.get("group") or by_lower.get("series"), by_lower.get("rank")
    is_pairs = {"left", "right", "preference"} <= by_lower.keys()
    if series is None and not is_pairs:
        return None
    path = said = ""
    if not is_pairs:
        path = find_column(source.names, "path", repr(os.fspath(table)))
        said = rank or find_column(source.names, "score", repr(os.fspath(table)))
    for number, row in enumerate(source.rows(), start=1):
        try:
            if is_pairs:
                text = str(row[by_lower["preference"]]).strip().lower()
                value = {"left": 1.0, "right": -1.0}.get(text) or float(text)
                found += [(number, str(row[by_lower["left"]]), value), (number, str(row[by_lower["right"]]), -value)]
            else:
                found.append((row[series or ""], str(row[path]), -float(row[said]) if rank else float(row[said])))
        except (TypeError, ValueError):
            raise ValueError(
                f"{os.fspath(table)!r}, row {number}: expected a rank or preference, got {row}."
            ) from None
    return found


__all__ = ["STAR_RANGE", "Agreement", "compare_ratings", "judgements", "ratings_from_table", "ratings_from_xmp"]
