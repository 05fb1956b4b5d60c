"""What produced a score: as columns of the table, and as an identity by which a run recognizes itself."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import PIL
import torch
import transformers

from ..models.checkpoint_charm import describe_provenance, digest_weights
from .engine import CHUNK_BYTES, CHUNK_IMAGES, Scorer


# Entries of a config that say how it was saved or loaded, not what the model is.
_INCIDENTAL = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "auto_map", "custom_pipelines")


def provenance_columns(model: Any) -> dict[str, str]:
    """Columns that tell where scores come from (see `describe_provenance`); empty text for what does not apply."""
    return {name: value or "" for name, value in describe_provenance(model).items()}


def identify(source: Any, scorer: Scorer) -> dict[str, Any]:
    """Everything that decides what a table holds, by topic, as JSON; how many processes share the work does not."""
    from .. import __version__

    model, options = scorer.model, asdict(scorer.options)
    processor = options.pop("processor")
    options.pop("num_workers")
    device = model.device.type
    return {
        "images": source.identity(),
        "model": {"weights": digest_weights(model), "config": _essential(model.config.to_dict())},
        "preprocessing": _essential({**scorer.processor.to_dict(), **processor}),
        "options": {**options, "token_budget": scorer.token_budget, "chunk": [CHUNK_IMAGES, CHUNK_BYTES]},
        "device": torch.cuda.get_device_name(model.device) if device == "cuda" else device,
        "software": {
            "charm_hf": __version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "pillow": PIL.__version__,
        },
    }


def _essential(config: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _essential(value) if isinstance(value, dict) else value
        for name, value in sorted(config.items())
        if name not in _INCIDENTAL
    }
