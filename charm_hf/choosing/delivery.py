"""What becomes of chosen photos: copies, ratings, a table of their rows."""

from __future__ import annotations

import bisect
import filecmp
import logging
import os
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any

from ..files import replaced_file
from ..tables import check_output, written_table
from .choice import Choice, Chosen, choose
from .score_table import NUMBERS, checked_rows, locate, photo_roots, read_scores
from .xmp import rate


logger = logging.getLogger(__name__)

STARS = ("percentile", "range", "training")
XMP_PLACES = ("sidecar", "embed")
REJECTED = "-1"
_SERIES_COLUMNS = ("series", "reason")


@dataclass(frozen=True)
class Delivery:
    """What is done with photos. Nothing is ever deleted.

    Args:
        copy_to: copy the chosen ones into this folder.
        rank_prefix: begin the copies' names with their rank.
        write_xmp: rate the chosen ones, or their copies: `"sidecar"` beside the photo, `"embed"` inside a JPEG.
        stars: by which a rating of 1 to 5 is given: `"percentile"`, fifths of the table's photos; `"range"`, fifths of
            the range of possible scores; `"training"`, fifths of the ratings that the model learnt from.
        label: `xmp:Label` of the chosen ones.
        reject_rest: rate scored photos that are not chosen as rejected.
        backup: keep an existing file before its first change (see [`rate`]).
        quantiles: of the ratings that the model learnt from (`CharmConfig.score_quantiles`), for `"training"`.
    """

    copy_to: Path | None = None
    rank_prefix: bool = False
    write_xmp: str | None = None
    stars: str = "percentile"
    label: str | None = None
    reject_rest: bool = False
    backup: bool = False
    quantiles: Sequence[float] | None = None

    def __post_init__(self) -> None:
        for name, names in (("write_xmp", (None, *XMP_PLACES)), ("stars", STARS)):
            if getattr(self, name) not in names:
                allowed = ", ".join(filter(None, names))
                raise ValueError(f"`{name}` must be one of {allowed}, got {getattr(self, name)!r}.")
        if self.stars == "training" and not self.quantiles:
            raise ValueError("`--stars training` needs a checkpoint with `score_quantiles`; this one has none.")
        if self.write_xmp is None and (self.label or self.reject_rest):
            raise ValueError("A label and rejecting the rest are written as XMP: they need `write_xmp` (--write-xmp).")

    @property
    def does_nothing(self) -> bool:
        """Whether no photo is touched."""
        return self.copy_to is None and self.write_xmp is None


@dataclass
class Delivered:
    """What was done.

    Attributes:
        copied, rated, rejected: photos.
        left_alone: photos whose own ratings, or XMP that cannot be merged, stayed.
        missing: photos that are no file here, or not any more.
    """

    copied: int = 0
    rated: int = 0
    rejected: int = 0
    left_alone: int = 0
    missing: int = 0


@dataclass(frozen=True)
class Photo:
    """A photo to act on.

    Attributes:
        row: its row in the table.
        name: of a copy, without folder.
        content: its file, or its encoded bytes; `None` if there is neither.
        rank: among the chosen, from 1; `None` if it is not chosen.
    """

    row: Mapping[str, Any]
    name: str
    content: Path | bytes | None
    rank: int | None


def deliver(photos: Iterable[Photo], delivery: Delivery, scores: Sequence[float], count: int) -> Delivered:
    """Copy and rate photos.

    Args:
        photos: chosen ones, and where the rest is rejected all.
        delivery: what to do.
        scores: of the whole table, for ratings by percentile.
        count: how many are chosen.

    Raises:
        ValueError: for ratings by range without normalized scores.
        OSError: if the disk is full.
    """
    done, ranked = Delivered(), sorted((delivery.stars == "training" and delivery.quantiles) or scores)
    for photo in photos:
        content = photo.content
        try:
            if photo.rank is not None and delivery.copy_to is not None and content is not None:
                prefix = f"{photo.rank:0{len(str(count))}d}_" if delivery.rank_prefix else ""
                content = copy_photo(content, prefix + photo.name, delivery.copy_to)
                done.copied += 1
            if content is None:
                done.missing += 1
            if delivery.write_xmp is None or not isinstance(content, Path):
                continue
            wanted = _rating(photo, delivery, ranked)
            if not rate(content, wanted, embed=delivery.write_xmp == "embed", backup=delivery.backup):
                done.left_alone += 1
            elif photo.rank is None:
                done.rejected += 1
            else:
                done.rated += 1
        except (FileNotFoundError, PermissionError) as error:  # it was there when it was scored
            done.missing += 1
            logger.warning("%s: neither copied nor rated. %s", photo.row["path"], error.strerror)
    return done


def _rating(photo: Photo, delivery: Delivery, ranked: Sequence[float]) -> dict[str, str]:
    if photo.rank is None:
        return {"Rating": REJECTED}
    if delivery.stars != "range":
        stars = stars_by_percentile(photo.row["score"], ranked)
    elif photo.row.get("normalized_score") is None:
        raise ValueError("Stars by range need the column `normalized_score`; `--stars percentile` does not.")
    else:
        stars = stars_by_range(photo.row["normalized_score"])
    return {"Rating": str(stars), **({"Label": delivery.label} if delivery.label else {})}


def stars_by_range(normalized_score: float) -> int:
    """Rating from 1 to 5: fifths of the score's range."""
    return min(5, 1 + int(5 * max(0.0, normalized_score)))


def stars_by_percentile(score: float, ranked: Sequence[float]) -> int:
    """Rating from 1 to 5: fifths of the sorted scores; equal ones share the middle of their places."""
    middle = (bisect.bisect_left(ranked, score) + bisect.bisect_right(ranked, score)) / 2
    return min(5, 1 + int(5 * middle / max(len(ranked), 1)))


def copy_photo(content: Path | bytes, name: str, folder: Path) -> Path:
    """Copy a photo into a folder; as `name-2.jpg` if another photo has the name there.

    A copy that is already there is kept, so that doing it twice changes nothing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stem, suffix = os.path.splitext(name)
    for number in range(1, 1 << 20):
        target = folder / (name if number == 1 else f"{stem}-{number}{suffix}")
        if not os.path.lexists(target):
            with replaced_file(target) as draft:
                if isinstance(content, bytes):
                    draft.write_bytes(content)
                else:
                    shutil.copy2(content, draft)
            return target
        if target.is_file():
            is_bytes = isinstance(content, bytes)
            if target.read_bytes() == content if is_bytes else filecmp.cmp(content, target, shallow=False):
                return target
    raise FileExistsError(f"{os.fspath(folder)!r} holds too many files called {name!r}.")


def name_of_copy(path: str, key: str | None = None) -> str:
    """Name of a copy of a photo that the table calls by this path, or by this key if the path names no file."""
    name = os.path.basename(path)
    return name if Path(name).suffix else re.sub(r"[^\w.-]", "_", key or name) + ".img"


def write_chosen(
    rows: Sequence[Mapping[str, Any]], chosen: Chosen, file: str | os.PathLike[str] | IO[str], columns: Sequence[str]
) -> None:
    """Write the chosen rows as a table, with `series` and `reason` where series were asked for."""
    further = _SERIES_COLUMNS if chosen.series else ()
    names = [*(name for name in columns if name not in further), *further]
    kinds: dict[str, Any] = {name: float for name in (*NUMBERS, "spread")} | {"distribution": list[float]}
    kinds |= dict.fromkeys(("width", "height", "tokens", "series"), int)

    def cell(row: Mapping[str, Any], name: str) -> Any:
        value = row.get(name)
        return float(value) if value and kinds.get(name) is float else value

    found = ({**rows[at], "series": chosen.series.get(at), "reason": chosen.reasons.get(at)} for at in chosen.places)
    records = [{name: cell(row, name) for name in names} for row in found]
    kinds = {name: kinds.get(name) or _kind_of(record[name] for record in records) for name in names}
    if isinstance(file, (str, os.PathLike)):
        check_output(file)
        with replaced_file(file) as draft, written_table(draft, names, kinds) as write:
            write(records)
        return
    with written_table(file, names, kinds) as write:
        write(records)


def _kind_of(values: Iterable[Any]) -> Any:
    """Kind of a column that only its values tell: numbers, lists of them, or whatever else."""
    known = [value for value in values if value is not None]
    if known and all(map(_is_number, known)):
        return float
    is_lists = known and all(isinstance(value, list) and all(map(_is_number, value)) for value in known)
    return list[float] if is_lists else object


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def select_photos(
    table: str | os.PathLike[str],
    choice: Choice,
    delivery: Delivery,
    output: str | os.PathLike[str] | IO[str] | None,
    image_root: str | os.PathLike[str] | None = None,
) -> tuple[Chosen, Delivered]:
    """Choose rows of a score table, act on their photos, and write the rows; the table itself is not touched.

    Args:
        table: written by `charm-hf score`.
        choice: which rows.
        delivery: what is done with their photos.
        output: table of the chosen rows, or a stream for CSV; none if not given.
        image_root: where relative paths start; the working folder, then the table's if not given.

    Raises:
        FileNotFoundError, ValueError: for a table that cannot be used, or an output that is the table.
    """
    if isinstance(output, (str, os.PathLike)) and os.path.realpath(output) == os.path.realpath(table):
        raise ValueError(f"{os.fspath(output)!r} is the table itself, which stays whole: name another file.")
    raw = read_scores(table)
    rows = checked_rows(raw, os.path.basename(table))
    roots = photo_roots(table, image_root)

    @cache
    def file_of(place: int) -> Path | None:
        return locate(rows[place]["path"], roots)[0]

    chosen = choose(rows, choice, file_of)
    scored = [place for place, row in enumerate(rows) if row["score"] is not None]
    photos = (
        Photo(rows[place], name_of_copy(rows[place]["path"]), file_of(place), chosen.ranks.get(place))
        for place in (scored if delivery.reject_rest else sorted(chosen.places, key=chosen.ranks.__getitem__))
    )
    done = Delivered()
    if not delivery.does_nothing:
        done = deliver(photos, delivery, [rows[place]["score"] for place in scored], len(chosen.places))
    if output is not None:
        write_chosen(rows, chosen, output, list(raw[0]))
    return chosen, done


__all__ = [
    "Delivered",
    "Delivery",
    "Photo",
    "copy_photo",
    "deliver",
    "name_of_copy",
    "select_photos",
    "stars_by_percentile",
    "stars_by_range",
    "write_chosen",
]
