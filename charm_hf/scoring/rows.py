"""What the scoring of one image leaves in the table."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field, fields
from types import NoneType
from typing import Any, get_args, get_type_hints

import torch

from ..tables import DECIMALS, escape_controls


_ON_REQUEST = {"on_request": True}


@dataclass
class ScoreRow:
    """One image, scored or not. The fields are the columns of a table, in its order and of its types.

    Attributes:
        path: as it was given; of an image inside a tar shard, `SHARD/MEMBER`; see [`escape_bytes`].
        key: name of the sample in a dataset, a table or a WebDataset shard.
        score: in the data set's own units; `None` if the image could not be scored.
        normalized_score: in [0, 1].
        std: standard deviation of the predicted ratings in the units of `score`; `None` for a regression head.
        width, height: pixels of the photo as it is seen, EXIF orientation applied; `None` if its header is unreadable.
        tokens: length of its token sequence.
        error: why there is no score.
        spread: standard deviation of the score over several views; `None` for a single view.
        distribution: probability of each rating bin; `None` for a regression head.
        embedding: the model's `pooler_output`; `None` where it was not asked for.
        stamp: size in bytes and time of the last change in nanoseconds of the file that holds the photo.
    """

    path: str
    _: KW_ONLY
    key: str | None = field(default=None, metadata=_ON_REQUEST)
    score: float | None = None
    normalized_score: float | None = None
    std: float | None = None
    width: int | None = None
    height: int | None = None
    tokens: int | None = None
    error: str | None = None
    spread: float | None = field(default=None, metadata=_ON_REQUEST)
    distribution: list[float] | None = field(default=None, metadata=_ON_REQUEST)
    embedding: list[float] | None = field(default=None, metadata=_ON_REQUEST)
    stamp: list[int] | None = field(default=None, metadata=_ON_REQUEST)

    def known(self) -> dict[str, Any]:
        """Fields that have a value, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def update(self, values: Mapping[str, Any]) -> None:
        """Set the fields that `values` names."""
        for name, value in values.items():
            setattr(self, name, value)


def _type_of_values(hint: Any) -> Any:
    kinds = [kind for kind in get_args(hint) if kind is not NoneType]
    return kinds[0] if NoneType in get_args(hint) else hint


# `str`, `int`, `float` or `list[float]` for each column.
COLUMN_TYPES = {name: _type_of_values(hint) for name, hint in get_type_hints(ScoreRow).items() if name != "_"}


def table_columns(*requested: str) -> tuple[str, ...]:
    """Columns that every table has, and those requested, in their order."""
    return tuple(
        column.name for column in fields(ScoreRow) if not column.metadata.get("on_request") or column.name in requested
    )


def _read_answer(answer: dict[str, Any]) -> dict[str, Any]:
    for name, value in answer.items():
        numbers = value if isinstance(value, list) else [value]
        if not all(map(math.isfinite, numbers)):
            return {"error": f"The model's answer is no finite number: {name} is {value}."}
        rounded = [round(number, DECIMALS) for number in numbers]
        answer[name] = rounded if isinstance(value, list) else rounded[0]
    return answer


def read_answers(averaged: Mapping[str, torch.Tensor]) -> list[dict[str, Any]]:
    """Fields of [`ScoreRow`] that a model's answers give, rounded to the decimals that tables carry.

    Args:
        averaged: what `average_views` gives for B images.

    Returns:
        B times the fields; only an `error` for an image whose answer is not a finite number.
    """
    known = {name: value.tolist() for name, value in averaged.items() if name in COLUMN_TYPES}
    return [_read_answer(dict(zip(known, values, strict=True))) for values in zip(*known.values(), strict=True)]


def describe_error(error: BaseException) -> str:
    """One line that says why an image has no score."""
    if isinstance(error, OSError) and error.strerror:
        return f"{type(error).__name__}: {error.strerror}"
    return escape_controls(" ".join(str(error).split())) or type(error).__name__
