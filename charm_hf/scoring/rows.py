"""What the scoring of one image leaves in the table."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from typing import Any


# Decimals of every number from the model. Float32 carries no more, and what a row says is what a threshold compares.
DECIMALS = 6

COLUMNS = ("path", "score", "normalized_score", "std", "width", "height", "tokens", "error")


@dataclass
class ScoreRow:
    """One image, scored or not.

    Attributes:
        path: as it was given; of an image inside a tar shard, `SHARD/MEMBER`; see [`display_path`].
        score: in the data set's own units; `None` if the image could not be scored.
        normalized_score: in [0, 1].
        std: standard deviation of the predicted ratings in the units of `score`; `None` for a regression head.
        width, height: pixels of the photo as it is seen, EXIF orientation applied; `None` if its header is unreadable.
        tokens: length of its token sequence.
        error: why there is no score.
        spread: standard deviation of the score over several views; `None` for a single view.
        distribution: probability of each rating bin; `None` for a regression head.
        key: name of the sample in a dataset, a table or a WebDataset shard.
    """

    path: str
    score: float | None = None
    normalized_score: float | None = None
    std: float | None = None
    width: int | None = None
    height: int | None = None
    tokens: int | None = None
    error: str | None = None
    spread: float | None = None
    distribution: list[float] | None = None
    key: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Every field by name."""
        return asdict(self)


def round_value(value: Any) -> Any:
    """Round a number, or a list of them, to the decimals that tables carry."""
    if isinstance(value, float):
        return round(value, DECIMALS)
    return [round_value(item) for item in value] if isinstance(value, list) else value


def display_path(path: str | os.PathLike) -> str:
    r"""Text of a path for a table: itself, with bytes that are not UTF-8 as `\xNN`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def describe_error(error: BaseException) -> str:
    """One line that says why an image has no score."""
    if isinstance(error, OSError) and error.strerror:
        return f"{type(error).__name__}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__
