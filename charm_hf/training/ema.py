"""A moving average of the weights over the steps, which often scores better than the last weights."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel


Tensors = tuple[torch.Tensor, ...] | list[torch.Tensor]


def make_ema(model: nn.Module, decay: float) -> AveragedModel:
    """Average the weights of `model` exponentially; call `update_parameters(model)` after each optimizer step.

    The decay is reached gradually, `min(decay, (1 + n) / (10 + n))` at step n, so that short runs do not end with
    weights that remember the random start.

    Args:
        model: the bare model.
        decay: weight of the old average at each step, in (0, 1).

    Returns:
        The average; its `module` is a model.

    Raises:
        ValueError: if `decay` is out of its range.
    """
    if not 0 < decay < 1:
        raise ValueError(f"The decay of the average must be between 0 and 1, got {decay}.")

    @torch.no_grad()
    def update(averages: Tensors, currents: Tensors, num_averaged: torch.Tensor | int) -> None:
        count = int(num_averaged)
        weight = 1 - min(decay, (1 + count) / (10 + count))
        for average, current in zip(averages, currents, strict=True):
            average.lerp_(current, weight)

    averaged = AveragedModel(model, multi_avg_fn=update)
    averaged.requires_grad_(False)
    return averaged.eval()
