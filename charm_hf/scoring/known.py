"""The rows of a finished table, so that the next run over the same photos scores what is new or has changed.

Beside `scores.csv` lies `.scores.csv.rows`: each row with the size and time of its photo's file, and at the end what
model gave the scores. A row is used again if model and file are the same and it has a score.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from .batching import Chunk
from .progress import DamagedProgressError, read_facts, write_lines
from .rows import ScoreRow


logger = logging.getLogger(__name__)

_TOPICS = ("model", "preprocessing", "comments")
_BATCHING = ("token_budget", "batch_size", "chunk")


def _what_scores(identity: dict[str, Any]) -> dict[str, Any]:
    """What of a run's identity decides a photo's score beyond the last bits."""
    topics = {topic: identity[topic] for topic in _TOPICS}
    options = {name: value for name, value in identity["options"].items() if name not in _BATCHING}
    return json.loads(json.dumps({**topics, "options": options, "charm_hf": identity["software"]["charm_hf"]}))


class KnownRows:
    """What an earlier run found out about photos.

    Memory grows with the number of their paths, not with the rows.

    Args:
        output: the table; without it nothing is known.
        identity: of this run (see `Scorer.identity`).
        forget: start anew.
    """

    def __init__(self, output: Path, identity: dict[str, Any], forget: bool = False) -> None:
        self.file = output.with_name(f".{output.name}.rows")
        self.identity = _what_scores(identity)
        self.other_model = False
        self._places: dict[str, int] = {}
        if forget or not output.exists() or not self.file.exists():
            return
        try:
            self.other_model = read_facts(self.file, "All photos are scored again.") != self.identity
        except DamagedProgressError as error:
            logger.warning("%s", error)
            return
        if not self.other_model:
            self._index()

    def __len__(self) -> int:
        return len(self._places)

    def row(self, path: str) -> ScoreRow | None:
        """Row of the photo that the table calls by this path."""
        place = self._places.get(path)
        if place is None:
            return None
        with open(self.file, "rb") as lines:
            lines.seek(place)
            return ScoreRow(**json.loads(lines.readline()))

    def restore(self, chunk: Chunk) -> None:
        """Give a chunk the rows of its photos that have not changed."""
        for place, item in enumerate(chunk.items):
            row = self.row(item.path) if place not in chunk.finished else None
            if row is not None and row.error is None and row.stamp is not None and row.stamp == item.stamp():
                row.key = item.key
                chunk.reuse(place, row)

    def others(self, paths: Iterable[str]) -> Iterator[ScoreRow]:
        """Rows of photos that are not among these."""
        seen = set(paths) if self._places else set()
        for path in self._places:
            if path not in seen:
                row = self.row(path)
                assert row is not None
                yield row

    def write(self, rows: Iterable[ScoreRow]) -> None:
        """Remember rows for the next run."""
        write_lines(self.file, (json.dumps(row.known(), allow_nan=False) for row in rows), self.identity)

    def _index(self) -> None:
        place = 0
        with open(self.file, "rb") as lines:
            for line in lines:
                path = json.loads(line).get("path")
                if path is not None:
                    self._places[path] = place
                place += len(line)
