"""What numbers a configuration may hold: checked before anything is built from them, since files come from strangers.

The limits lie far beyond any vision or text encoder that exists, and far below what hangs a machine.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from transformers import PretrainedConfig


# Whole numbers, lowest and highest; of pairs such as `image_size`, each.
_WHOLE = {
    "num_scales": (1, 4),
    "num_attributes": (0, 1024),
    "num_labels": (1, 100_000),
    "num_hidden_layers": (1, 256),
    "num_attention_heads": (1, 512),
    "hidden_size": (1, 2**14),
    "intermediate_size": (1, 2**17),
    "patch_size": (1, 256),
    "image_size": (1, 2**13),
    "num_patches": (1, 2**20),
    "num_channels": (1, 16),
    "num_register_tokens": (0, 2**12),
    "num_visual_queries": (0, 2**12),
    "num_textual_queries": (0, 2**12),
    "vocab_size": (1, 2**22),
    "max_position_embeddings": (1, 2**20),
    "type_vocab_size": (1, 2**10),
}
_REQUIRED = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_scales")
# Real numbers from 0 to 1.
_SHARES = (
    *("hidden_dropout_prob", "attention_probs_dropout_prob", "attention_dropout", "classifier_dropout"),
    *("comment_dropout", "drop_path_rate", "initializer_range", "layer_norm_eps"),
)
# Lists of finite numbers, and their greatest length.
_LISTS = {"score_range": 1024, "score_values": 1024, "score_quantiles": 100_001}
_MOST_WEIGHTS = 4e10


def check_numbers(config: Mapping[str, Any] | PretrainedConfig, path: str = "") -> None:
    """Raise `ValueError`, naming the field, unless every number of a configuration is of its kind and within limits.

    Args:
        config: the fields; those of configurations and dictionaries inside it are checked too.
        path: where it stands in another.
    """
    fields = vars(config) if isinstance(config, PretrainedConfig) else config
    for name, value in fields.items():
        where = f"`{path}{name}`"
        if isinstance(value, PretrainedConfig) or (isinstance(value, Mapping) and name.endswith("_config")):
            check_numbers(value, f"{path}{name}.")
        elif value is None:
            if name in _REQUIRED:
                raise ValueError(f"{where} must be a whole number, got None.")
        elif name in _WHOLE:
            _check_whole(where, value, *_WHOLE[name])
        elif name in _SHARES and not (_is_real(value) and 0 <= value <= 1):
            raise ValueError(f"{where} must be a number from 0 to 1, got {value!r}.")
        elif name in _LISTS:
            is_list = isinstance(value, (list, tuple, range)) and len(value) <= _LISTS[name]
            if not is_list or not all(map(_is_real, value)):
                raise ValueError(
                    f"{where} must be a list of at most {_LISTS[name]:,} finite numbers, got {_short(value)}."
                )
    width, depth = fields.get("hidden_size"), fields.get("num_hidden_layers")
    if isinstance(width, int) and isinstance(depth, int):
        inner = fields.get("intermediate_size")
        weights = depth * width * (4 * width + 2 * (inner if isinstance(inner, int) else 4 * width))
        if weights > _MOST_WEIGHTS:
            raise ValueError(f"{path or 'The configuration '}asks for {weights / 1e9:,.0f} billion weights.")


def _check_whole(where: str, value: Any, low: int, high: int) -> None:
    values = value if isinstance(value, (list, tuple)) and 0 < len(value) <= 3 else [value]
    for number in values:
        if not isinstance(number, int) or isinstance(number, bool) or not low <= number <= high:
            raise ValueError(f"{where} must be {low} to {high}, got {_short(value)}.")


def _is_real(value: Any) -> bool:
    return (
        isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e100 and math.isfinite(value)
    )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"


__all__ = ["check_numbers"]
