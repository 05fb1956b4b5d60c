"""One self-contained HTML page to look through scored photos: `charm-hf report SCORES.csv -o report.html`.

Data flow: score table → rows (best first) → thumbnails and JSON inside the template of `assets/report`. The page asks
the network for nothing and runs no script but its own: names of files reach it only as JSON text, and its content
security policy lists the hashes of the scripts and the style that may run.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import logging
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import quote

from PIL import Image
from tqdm import tqdm

from ..choosing.score_table import NUMBERS, checked_rows, locate, photo_roots, read_scores
from ..choosing.series import find_series, look_at
from ..files import replaced_file
from ..models.image_loading_charm import load_image


logger = logging.getLogger(__name__)

THUMBNAILS = ("embed", "link", "none")
# Longest edge of an embedded thumbnail by the number of photos: some 60 MB of page for 10,000 detailed photos.
_THUMBNAIL_SIZES = ((500, 384), (2_000, 256), (math.inf, 160))
_CHUNK = 200
_LONGEST_TEXT = 4096  # so that a hostile table cannot make the page much larger than its photos do
_ASSETS = ("report.css", "rows.js", "sheet.js", "viewer.js", "page.js")


@dataclass(frozen=True)
class ReportSummary:
    """What `write_report` wrote.

    Attributes:
        path: the page.
        num_photos: photos with a score.
        num_failed: rows with an error, listed apart.
        num_without_picture: photos whose file could not be read again.
        num_bytes: size of the page.
    """

    path: Path
    num_photos: int
    num_failed: int
    num_without_picture: int
    num_bytes: int


@dataclass(frozen=True)
class _Photo:
    row: dict[str, Any]
    file: Path | None  # where the photo lies now
    note: str = ""  # why there is no picture
    thumbnail: str = ""  # base64 of a JPEG
    series: int | None = None  # number of the moment that it shares with others


def write_report(
    scores: str | os.PathLike[str] | Iterable[Mapping[str, Any]],
    output: str | os.PathLike[str],
    *,
    title: str | None = None,
    image_root: str | os.PathLike[str] | None = None,
    thumbnails: str = "embed",
    thumbnail_size: int | None = None,
    thumbnail_quality: int = 72,
    link_originals: bool = True,
    stacks: bool = False,
    explain: Callable[[Path], Image.Image] | None = None,
    explained: int = 0,
    workers: int | None = None,
    progress: bool = False,
) -> ReportSummary:
    """Write one HTML page that shows scored photos.

    Args:
        scores: a table written by `charm-hf score` (`.csv`, `.jsonl` or `.parquet`), or its rows. `path` and `score`
            are needed; `normalized_score`, `std`, `width`, `height`, `tokens`, `distribution` and further columns are
            shown where they are. Rows with an `error` are listed apart.
        output: the page; an existing file is replaced once the new one is whole.
        title: heading of the page; names the table if not given.
        image_root: folder that relative paths of the table start from. If not given: the working folder, and for files
            that are not there the folder of the table.
        thumbnails: `"embed"` puts small JPEGs into the page, `"link"` shows the files from where they lie (a small
            page, which works on this machine only), `"none"` shows names.
        thumbnail_size: longest edge of an embedded thumbnail in pixels; 384 up to 500 photos, 256 to 2,000, then 160.
        thumbnail_quality: JPEG quality of the thumbnails, 1 to 95.
        link_originals: whether the large view may show the photo's own file, by its path relative to the page.
        stacks: show photos of one moment as a stack, its best on top (see `find_series`); so is shown what a column
            `series` of the table says.
        explain: draws why a photo has its score, from its file.
        explained: how many of the best and of the worst photos it is drawn for; the large view shows it.
        workers: threads that make thumbnails; one a core if not given.
        progress: whether to draw a progress bar on stderr.

    Raises:
        FileNotFoundError: if there is no such table, or no folder to write to.
        ValueError: for a table of another format, without the needed columns, without rows, or with a score that is no
            number; it names the table and the row.
    """
    output = Path(output)
    _check_options(output, thumbnails, thumbnail_size, thumbnail_quality)
    table = Path(scores) if isinstance(scores, (str, os.PathLike)) else None
    name = table.name if table is not None else "the given rows"
    rows = checked_rows(read_scores(table) if table is not None else scores, name)  # type: ignore[arg-type]
    scored = sorted((row for row in rows if row["score"] is not None), key=lambda row: -row["score"])
    failed = [row for row in rows if row["score"] is None]

    roots = photo_roots(table, image_root)
    edge = thumbnail_size or next(size for limit, size in _THUMBNAIL_SIZES if len(scored) <= limit)
    shrink = partial(_with_thumbnail, edge=edge, quality=thumbnail_quality) if thumbnails == "embed" else None
    photos = [_Photo(row, *locate(row["path"], roots)) for row in scored]
    photos = _in_series(photos, stacks)
    title = title or f"Scores of {name}"

    with (
        replaced_file(output) as unfinished,
        open(unfinished, "w", encoding="utf-8", errors="replace", newline="\n") as page,
    ):
        before, after = _template(title, link_files=thumbnails == "link" or link_originals)
        page.write(before)
        if shrink is not None:
            photos = _write_thumbnails(page, photos, shrink, workers, progress)
        reasons = [] if explain is None else _explanations(photos, explain, explained, progress)
        if reasons:
            pictures = "\n".join(picture for _, picture in reasons)
            page.write(f'<script type="text/plain" id="explanations">{pictures}</script>\n')
        data = _page_data(photos, failed, output.absolute().parent, thumbnails, link_originals)
        data["explained"] = [place for place, _ in reasons]
        page.write(after.replace("{{data}}", _script_json(data), 1))
    missing = [f"{photo.row['path']!r}: {photo.note}" for photo in photos if photo.note]
    if missing:
        logger.warning("%d of %d photos cannot be shown: %s", len(missing), len(photos), missing[0])
    return ReportSummary(output, len(photos), len(failed), len(missing), output.stat().st_size)


def _check_options(output: Path, thumbnails: str, size: int | None, quality: int) -> None:
    if thumbnails not in THUMBNAILS:
        raise ValueError(f"`thumbnails` must be one of {THUMBNAILS}, got {thumbnails!r}.")
    if not 1 <= quality <= 95:
        raise ValueError(f"`thumbnail_quality` must be 1 to 95, got {quality}.")
    if size is not None and not 16 <= size <= 2048:
        raise ValueError(f"`thumbnail_size` must be 16 to 2048 pixels, got {size}.")
    if not output.absolute().parent.is_dir():
        raise FileNotFoundError(f"There is no folder {os.fspath(output.absolute().parent)!r} to write the report to.")


def _in_series(photos: Sequence[_Photo], look: bool) -> list[_Photo]:
    """Photos with the number of their series, where it has several of them."""
    labels: Sequence[Any] = [photo.row.get("series") or None for photo in photos]
    if look:
        labels = find_series([look_at(photo.file) for photo in photos])
    counts = Counter(labels)
    numbers = {label: number for number, label in enumerate(counts) if label is not None and counts[label] > 1}
    return [replace(photo, series=numbers.get(label)) for photo, label in zip(photos, labels, strict=True)]


def _explanations(
    photos: Sequence[_Photo], explain: Callable[[Path], Image.Image], count: int, progress: bool
) -> list[tuple[int, str]]:
    """Place and picture, base64 of a WebP, of the best and the worst photos."""
    wanted = [place for place in range(len(photos)) if place < count or place >= len(photos) - count]
    found = []
    for place in tqdm(wanted, "explanations", unit="photo", disable=not progress):
        file = photos[place].file
        if file is None:
            continue
        try:
            picture = explain(file)
        except (OSError, ValueError) as error:
            logger.warning("%s: not explained. %s", photos[place].row["path"], error)
            continue
        buffer = io.BytesIO()
        picture.save(buffer, "WEBP", quality=80)
        found.append((place, base64.b64encode(buffer.getvalue()).decode("ascii")))
    return found


def _with_thumbnail(photo: _Photo, edge: int, quality: int) -> _Photo:
    """Decode the photo as small as the format allows, and shrink it to `edge` pixels at its own aspect ratio."""
    if photo.file is None:
        return photo
    try:
        image = load_image(photo.file, on_size=lambda width, height: (edge, edge))
    except (OSError, ValueError) as error:
        return replace(photo, file=None, note=f"The file cannot be read: {error}")
    image.thumbnail((edge, edge), Image.Resampling.LANCZOS, reducing_gap=3.0)
    buffer = io.BytesIO()
    # Made anew, so that no EXIF (places, serial numbers) of the photo gets into the page.
    Image.frombytes("RGB", image.size, image.tobytes()).save(buffer, "JPEG", quality=quality, optimize=True)
    return replace(photo, thumbnail=base64.b64encode(buffer.getvalue()).decode("ascii"))


def _write_thumbnails(
    page: TextIO, photos: Sequence[_Photo], shrink: Any, workers: int | None, progress: bool
) -> list[_Photo]:
    """Write the thumbnails in blocks of lines as they are made, and return the photos without them."""
    done: list[_Photo] = []
    with (
        ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool,
        tqdm(total=len(photos), unit="photo", desc="thumbnails", disable=not progress) as bar,
    ):
        for start in range(0, len(photos), _CHUNK):
            block = list(pool.map(shrink, photos[start : start + _CHUNK]))
            lines = "\n".join(photo.thumbnail for photo in block)
            page.write(f'<script type="text/plain" class="thumbnails">{lines}</script>\n')
            done += [replace(photo, thumbnail="") for photo in block]
            bar.update(len(block))
    return done


def _page_data(
    photos: Sequence[_Photo], failed: Sequence[dict[str, Any]], folder: Path, thumbnails: str, link_originals: bool
) -> dict[str, Any]:
    """What the page reads: see `readReport` in `assets/report/rows.js`."""
    columns = ["path", "name", "folder", *NUMBERS, "distribution", "extra", "note", "original", "link", "series"]
    known = {"path", "error", "distribution", "series", "embedding", *NUMBERS}
    folders: dict[str, int] = {}
    rows = []
    for photo in photos:
        row = photo.row
        parent, name = os.path.split(row["path"])
        url = _url(photo.file, folder) if photo.file is not None else ""
        place = folders.setdefault(parent.replace(os.sep, "/"), len(folders))
        extra = {key: _plain(value) for key, value in row.items() if key not in known and value not in (None, "")}
        links = [url if link_originals else "", url if thumbnails == "link" else ""]
        numbers = [row[column] for column in NUMBERS]
        name = _plain(str(row.get("key") or name))  # of photos in an archive, which share a path
        cells = _plain(row["path"]), name, place, *numbers, row["distribution"], extra or None
        rows.append([*cells, photo.note, *links, photo.series])
    exported = [column for column in (photos[0].row if photos else {}) if column != "error"]
    errors = [[_plain(row["path"]), _plain(row["error"])] for row in failed]
    identity = hashlib.sha256(json.dumps([row[0] for row in rows]).encode()).hexdigest()[:16]
    data = {"id": identity, "chunk": _CHUNK, "columns": columns, "folders": list(folders)}
    return {**data, "rows": rows, "errors": errors, "exported": exported}


def _plain(value: Any) -> Any:
    """A cell as the page shows it: numbers that JSON and its readers know, and text of bounded length."""
    if isinstance(value, (bool, int, float)) and -(2**53) < value < 2**53:
        return value
    try:
        text = value if isinstance(value, str) else json.dumps(value, default=str)
    except (ValueError, RecursionError):
        text = f"a {type(value).__name__} that cannot be shown"
    return text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}…"


def _url(file: Path, folder: Path) -> str:
    """Address of a file relative to the page's folder, so that both can be moved together."""
    try:
        relative = os.path.relpath(file.absolute(), folder)
    except ValueError:  # another drive
        return file.absolute().as_uri()
    return "./" + quote(os.fsencode(relative.replace(os.sep, "/")))


def _template(title: str, link_files: bool) -> tuple[str, str]:
    """Fill the template; the thumbnails belong between the two parts, and `{{data}}` stands in the second."""
    folder = files("charm_hf") / "assets" / "report"
    style, *scripts = ((folder / name).read_text(encoding="utf-8") for name in _ASSETS)
    fields = {
        "title": html.escape(title),
        "policy": _policy(scripts, style, link_files),
        "style": style,
        "scripts": "\n".join(f"<script>{script}</script>" for script in scripts),
    }
    before, after = (folder / "page.html").read_text(encoding="utf-8").split("{{thumbnails}}")
    fill = partial(re.sub, r"\{\{(\w+)\}\}", lambda found: fields.get(found[1], found[0]))
    return fill(before), fill(after)


def _policy(scripts: Iterable[str], style: str, link_files: bool) -> str:
    """Content security policy: the page's own scripts and style by their hash, embedded pictures, nothing else."""
    images = "data: 'self' file:" if link_files else "data:"
    return "; ".join(
        [
            "default-src 'none'",
            f"script-src {' '.join(map(_source_hash, scripts))}",
            f"style-src {_source_hash(style)}",
            f"img-src {images}",
            "base-uri 'none'",
            "form-action 'none'",
            "require-trusted-types-for 'script'",
        ]
    )


def _source_hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}'"


def _script_json(data: Any) -> str:
    """JSON that can stand in a `<script>` element: no character of it can end the element or open a comment."""
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


__all__ = ["ReportSummary", "write_report"]
