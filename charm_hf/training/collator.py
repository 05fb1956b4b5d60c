"""From single photos, as tokens or features, to a padded batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F


# What has one row a token, and is padded: Charm's tokens,
PADDED = ("pixel_values", "pixel_attention_mask", "scale_ids", "patch_positions")
# and comments and features, whatever the encoders are.
PADDED_BESIDE = (
    *("input_ids", "attention_mask", "token_type_ids", "text_features"),
    *("vision_features", "vision_attention_mask"),
)


@dataclass
class CharmDataCollator:
    """Pad photos to the longest of the batch and stack them, for a `DataLoader` or `transformers.Trainer`.

    Each feature is what [`CharmImageProcessor`] or [`MmlqProcessor`] returns for one photo, with the batch dimension
    of 1 or without it, and whatever else can become a tensor: `labels` (a score or a distribution), an index.

    Attributes:
        pad_to: pad Charm's tokens to this number, at least; equal shapes for compilers. `None` pads to the longest.

    >>> collate = CharmDataCollator()
    >>> batch = collate([{**processor(photo), "labels": 0.5} for photo in photos])  # doctest: +SKIP
    """

    pad_to: int | None = None

    def __call__(self, features: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Return `pixel_values` (B, L, C·P·P), `pixel_attention_mask` (B, L), … and every other key stacked."""
        rows = [_single(feature) for feature in features]
        # The pixels of other vision encoders have one shape, and are stacked as they are.
        tokens = PADDED if "scale_ids" in rows[0] else ()
        batch = {}
        for name in rows[0]:
            values = [row[name] for row in rows]
            if name in (*tokens, *PADDED_BESIDE):
                length = max(self.pad_to or 0 if name in tokens else 0, *map(len, values))
                values = [_pad(value, length) for value in values]
            batch[name] = torch.stack(values)
        return batch


def _single(feature: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    row = {name: _as_tensor(value) for name, value in feature.items() if value is not None}
    if "scale_ids" not in row:
        return row
    if row["scale_ids"].ndim == 2:
        own = (*PADDED, *PADDED_BESIDE, "spatial_shapes")
        row = {name: value[0] if name in own else value for name, value in row.items()}
    row.setdefault("pixel_attention_mask", torch.ones_like(row["scale_ids"]))
    return row


def _as_tensor(value: Any) -> torch.Tensor:
    tensor = torch.as_tensor(value)
    return tensor.float() if tensor.dtype == torch.float64 else tensor


def _pad(tensor: torch.Tensor, length: int) -> torch.Tensor:
    return F.pad(tensor, (0, 0) * (tensor.ndim - 1) + (0, length - len(tensor)))
