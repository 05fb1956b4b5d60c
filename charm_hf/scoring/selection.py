"""What becomes of scored images: a selection of them, copies, ratings beside them."""

from __future__ import annotations

import filecmp
import heapq
import itertools
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..files import replaced_file, write_text
from .items import Item
from .rows import ScoreRow


# Sidecars with this mark are ours to overwrite; others hold a person's work.
_TOOLKIT = "charm-hf"

_SIDECAR = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="{toolkit}">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:Rating="{rating}"/>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>
"""


@dataclass(frozen=True)
class Selection:
    """Which rows the table keeps.

    Images without a score always keep their row: at its place, or at the end under `top`.

    Args:
        threshold: lowest score, in the data set's own units.
        top: this many of the highest scores, best first; of equal ones the first.
    """

    threshold: float | None = None
    top: int | None = None

    def __post_init__(self) -> None:
        if self.top is not None and self.top < 1:
            raise ValueError(f"`top` must be at least 1, got {self.top}.")

    def apply(self, pairs: Iterable[tuple[ScoreRow, Item | None]]) -> Iterator[tuple[ScoreRow, Item | None]]:
        """Keep what is selected; memory does not grow with the number of rows."""
        kept = (pair for pair in pairs if self._passes(pair[0]))
        return kept if self.top is None else self._best(kept, self.top)

    def _passes(self, row: ScoreRow) -> bool:
        return row.score is None or self.threshold is None or row.score >= self.threshold

    def _best(
        self, pairs: Iterable[tuple[ScoreRow, Item | None]], count: int
    ) -> Iterator[tuple[ScoreRow, Item | None]]:
        failed = []
        best: list[tuple[float, int, ScoreRow, Item | None]] = []
        for place, (row, item) in enumerate(pairs):
            if row.score is None:
                failed.append((row, item))
                continue
            entry = (row.score, -place, row, item)
            if len(best) < count:
                heapq.heappush(best, entry)
            else:
                heapq.heappushpop(best, entry)
        yield from ((row, item) for _, _, row, item in sorted(best, key=lambda entry: entry[:2], reverse=True))
        yield from failed


def stars(normalized_score: float) -> int:
    """Rating from 1 to 5: fifths of the score's range."""
    return min(5, 1 + int(5 * max(0.0, normalized_score)))


def write_rating(photo: str | os.PathLike, normalized_score: float) -> bool:
    """Write a rating as an XMP sidecar, `photo.jpg.xmp`, where digiKam and darktable look for it.

    Returns:
        Whether it was written: a sidecar that another program made is left alone.
    """
    sidecar = Path(f"{os.fspath(photo)}.xmp")
    if sidecar.exists() and not re.search(rb'x:xmptk="charm-hf', sidecar.read_bytes()[:2000]):
        return False
    write_text(sidecar, _SIDECAR.format(toolkit=_TOOLKIT, rating=stars(normalized_score)))
    return True


def copy_photo(item: Item, folder: Path) -> Path:
    """Copy an image into a folder under its own name; `name-2.jpg` if another image has it.

    A copy that is already there is kept, so that doing it twice changes nothing.

    Raises:
        ValueError: for an image that is neither a file nor encoded.
    """
    file, content = item.file, b""
    name = os.path.basename(file or item.path)
    if file is None:
        image = item.read()
        if not (isinstance(image, dict) and image.get("bytes") is not None):
            raise ValueError(f"{item.path}: only image files can be copied, this is a {type(item.image).__name__}.")
        content = image["bytes"]
        if not Path(name).suffix:
            name = re.sub(r"[^\w.-]", "_", item.key or name) + ".img"
    folder.mkdir(parents=True, exist_ok=True)
    stem, suffix = os.path.splitext(name)
    for number in itertools.count(1):
        target = folder / (name if number == 1 else f"{stem}-{number}{suffix}")
        if not os.path.lexists(target):
            break
        if target.is_file() and (filecmp.cmp(file, target, shallow=False) if file else target.read_bytes() == content):
            return target
    with replaced_file(target) as draft:
        shutil.copy2(file, draft) if file else draft.write_bytes(content)
    return target
