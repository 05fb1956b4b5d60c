"""From tokens of single photos to a padded batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F


# What has one row a token, and is padded.
PADDED = ("pixel_values", "pixel_attention_mask", "scale_ids", "patch_positions")


@dataclass
class CharmDataCollator:
    """Pad tokenized photos to the longest of the batch and stack them, for a `DataLoader` or `transformers.Trainer`.

    Each feature is what [`CharmImageProcessor`] returns for one photo, with the batch dimension of 1 or without it,
    and whatever else can become a tensor: `labels` (a score or a distribution), an index.

    Attributes:
        pad_to: pad to this number of tokens, at least; equal shapes for compilers. `None` pads to the longest.

    >>> collate = CharmDataCollator()
    >>> batch = collate([{**processor(photo), "labels": 0.5} for photo in photos])  # doctest: +SKIP
    """

    pad_to: int | None = None

    def __call__(self, features: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Return `pixel_values` (B, L, C·P·P), `pixel_attention_mask` (B, L), … and every other key stacked."""
        rows = [_single(feature) for feature in features]
        length = max(self.pad_to or 0, *(len(row["pixel_values"]) for row in rows))
        batch = {}
        for name in rows[0]:
            values = [row[name] for row in rows]
            batch[name] = torch.stack([_pad(value, length) for value in values] if name in PADDED else values)
        return batch


def _single(feature: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    tensors = {name: _as_tensor(value) for name, value in feature.items() if value is not None}
    batched = tensors["pixel_values"].ndim == 3
    own = (*PADDED, "spatial_shapes")
    row = {name: value[0] if batched and name in own else value for name, value in tensors.items()}
    row.setdefault("pixel_attention_mask", torch.ones_like(row["scale_ids"]))
    return row


def _as_tensor(value: Any) -> torch.Tensor:
    tensor = torch.as_tensor(value)
    return tensor.float() if tensor.dtype == torch.float64 else tensor


def _pad(tensor: torch.Tensor, length: int) -> torch.Tensor:
    return F.pad(tensor, (0, 0) * (tensor.ndim - 1) + (0, length - len(tensor)))
