"""The checkpoints that the authors of Charm published, as `assets/model_cards/released.yaml` tells of them.

Needs neither torch nor the network. Ranges, bins and sequence lengths of the datasets are presets of `models`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml


# Photographs of every kind, and a distribution of ratings instead of a mean alone.
DEFAULT_DATASET = "ava"
# Of the checkpoints and of the encoders in them.
RELEASED_LICENSE = "apache-2.0"

_FACTS: dict[str, Any] = yaml.safe_load(
    (Path(__file__).parent / "assets" / "model_cards" / "released.yaml").read_text(encoding="utf-8")
)
# `name` and `url` of the paper, the `base_model` that its table is for, and a `caveat` on its numbers.
PAPER: dict[str, str] = _FACTS["paper"]
# Encoder -> number of its parameters.
PARAMETERS: dict[str, int] = _FACTS["parameters"]


@dataclass(frozen=True)
class ReleasedCheckpoint:
    """One published checkpoint and the dataset that it was trained on.

    Attributes:
        weights: name of the pickle with the model.
        title: name of the dataset.
        content: what is in it and who rated it.
        split: its parts, and what is not known of the ones that the authors used.
        bias: what its pictures and raters bring with them.
        numbers: PLCC, SRCC and ACC of Charm in the paper's table.
        positions: name of the pickle with the position embeddings.
        base_model: the backbone of this checkpoint.
    """

    weights: str
    title: str
    content: str
    split: str
    bias: str
    numbers: Mapping[str, float]
    positions: str = "dino_small_pos.pt"
    base_model: str = PAPER["base_model"]


RELEASED = {dataset: ReleasedCheckpoint(**facts) for dataset, facts in _FACTS["checkpoints"].items()}
