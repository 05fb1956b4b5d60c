"""Losses beside the model's own, which gives the earth mover's distance or the squared error for `labels`."""

from __future__ import annotations

import torch


def correlation_loss(scores: torch.Tensor, targets: torch.Tensor, eps: float = 1e-8) -> torch.Tensor:
    """One minus Pearson's correlation between predicted and rated scores of a batch.

    It rewards the order and spacing of the photos within a batch and is blind to shift and scale, so that it is added
    to another loss rather than used alone. It is not a mean over photos: over several processes it is taken of each
    process's own share of the batch.

    Args:
        scores: predicted scores (B,), any units.
        targets: rated scores (B,), any units.
        eps: smallest standard deviation that is divided by; a batch of constant scores then has correlation 0.

    Returns:
        Scalar in [0, 2].

    Raises:
        ValueError: if the two are not of one shape (B,) with B of at least 2.
    """
    if scores.ndim != 1 or scores.shape != targets.shape or len(scores) < 2:
        raise ValueError(
            f"Expected two tensors of one shape (B,), B >= 2, got {tuple(scores.shape)} and {tuple(targets.shape)}."
        )
    scores, targets = scores - scores.mean(), targets - targets.mean()
    scale = scores.square().mean().clamp_min(eps**2).sqrt() * targets.square().mean().clamp_min(eps**2).sqrt()
    return 1.0 - (scores * targets).mean() / scale
