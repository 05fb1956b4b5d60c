"""The faults of the released code, one at a time, put back into our model by small wrappers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from charm_hf import CharmForAestheticScoring


@dataclass(frozen=True)
class Fault:
    """What differs from our defaults.

    Attributes:
        title: for the table.
        position_mode: of the model.
        freeze_scales: the scale embeddings keep their random start.
        attends_padding: padding is attended to and averaged in; and is always there, up to the limit.
        normalize: mean and deviation taken out of pixels in [0, 1]; `None` for the usual.
        shuffles: whether each epoch has another order.
    """

    title: str
    position_mode: str = "exact"
    freeze_scales: bool = False
    attends_padding: bool = False
    normalize: tuple[float, float] | None = None
    shuffles: bool = True

    @property
    def pads_to_limit(self) -> bool:
        """As the released training does; a masked model would not notice."""
        return self.attends_padding

    def wrap(self, model: CharmForAestheticScoring) -> Any:
        """The model as it is, or one that attends to padding."""
        return AttendedPadding(model) if self.attends_padding else model


FAULTS = {
    "ours": Fault("our defaults"),
    "reference-positions": Fault("positions in the released order", position_mode="reference"),
    "frozen-scales": Fault("scale embeddings never trained", freeze_scales=True),
    "attended-padding": Fault("padding attended to and averaged in", attends_padding=True),
    "raw-pixels": Fault("pixels in [0, 1], not normalized", normalize=(0.0, 1.0)),
    "unshuffled": Fault("training images always in the same order", shuffles=False),
}


class AttendedPadding(nn.Module):
    """Charm as it was released: padding becomes a learnt token of scale 0 without a position, like any other token."""

    def __init__(self, model: CharmForAestheticScoring) -> None:
        super().__init__()
        self.model = model
        self.mask_embeddings = nn.Parameter(torch.zeros(model.config.hidden_size))
        self._padding: torch.Tensor | None = None
        model.charm.backbone.embeddings.register_forward_hook(self._embed_padding)

    def _embed_padding(self, module: nn.Module, inputs: Any, embedded: torch.Tensor) -> torch.Tensor:
        assert self._padding is not None
        is_padding = F.pad(self._padding, (embedded.shape[1] - self._padding.shape[1], 0), value=False)
        token = self.mask_embeddings
        if (scales := self.model.charm.embeddings.scale_embeddings) is not None:
            token = token + scales[0, 0]
        return torch.where(is_padding[..., None], token, embedded)

    def forward(self, pixel_attention_mask: torch.Tensor, **inputs: torch.Tensor) -> Any:
        """As the model, blind to the mask."""
        self._padding = pixel_attention_mask == 0
        return self.model(pixel_attention_mask=torch.ones_like(pixel_attention_mask), **inputs)
