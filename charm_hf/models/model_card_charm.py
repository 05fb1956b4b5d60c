"""The metadata block of a model card, completed wherever a checkpoint is pushed from."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard


# The Hub knows a fixed list of tasks, and image aesthetics is not one of them.
PIPELINE_TAG = "image-classification"
TAGS = ("image-aesthetics", "image-quality-assessment", "vision", "charm")
# Of the code that travels with every checkpoint, and of the DINOv2 weights that most grow from.
LICENSE = "apache-2.0"
# What a card calls each metric.
METRIC_NAMES = {
    "plcc": "PLCC",
    "srcc": "SRCC",
    "acc": "ACC",
    "mse": "MSE",
    "mae": "MAE",
    "emd_r1": "EMD (r = 1)",
    "emd_r2": "EMD (r = 2)",
}


def find_base_models(config: Mapping[str, Any]) -> list[str]:
    """Repositories of the pretrained encoders that the content of a `config.json` names.

    A local path is left out: it means nothing elsewhere, and is nobody else's business.
    """
    backbone = (config.get("backbone_config") or {}).get("_name_or_path")
    names = [name or "" for name in (backbone, config.get("vision_repository"), config.get("text_repository"))]
    return [name for name in names if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name) and not Path(name).exists()]


def card_metadata(config: Mapping[str, Any], license: str = LICENSE) -> dict[str, Any]:
    """What a card's metadata says of a checkpoint, given the content of its `config.json` (empty: a processor's)."""
    metadata = {
        "license": license,
        "library_name": "transformers",
        "pipeline_tag": PIPELINE_TAG,
        "tags": list(TAGS),
        "base_model": find_base_models(config) or None,
        "datasets": [config["dataset_name"]] if config.get("dataset_name") else None,
    }
    return {key: value for key, value in metadata.items() if value is not None}


def complete_card(card: ModelCard, metadata: Mapping[str, Any]) -> ModelCard:
    """Add to a card the metadata that it lacks, and touch nothing that it has."""
    for key, value in metadata.items():
        if value is not None and not card.data.get(key):
            card.data[key] = value
    return card


class CardMixin:
    """Completes the card that `push_to_hub` of transformers writes, in the same commit."""

    def _upload_modified_files(self, working_dir: Any, *args: Any, **kwargs: Any) -> Any:
        folder = Path(working_dir)
        config = folder / "config.json"
        described = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
        if (folder / "README.md").is_file():
            complete_card(ModelCard.load(folder / "README.md"), card_metadata(described)).save(folder / "README.md")
        return super()._upload_modified_files(working_dir, *args, **kwargs)  # type: ignore[misc]
