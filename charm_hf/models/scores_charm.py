"""What a score means: from logits to scores and distributions, from labels to a loss, from views to one answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from transformers.utils import ModelOutput


# Where the score stands among the logits of a head with attributes, as in the released checkpoints.
_SCORE_BESIDE_ATTRIBUTES = -3

Numbers = TypeVar("Numbers", float, np.ndarray, torch.Tensor)


# ---------------------------------------------------------------------------------------------------------------------
# Units: scores in the data set's own, normalized scores in [0, 1].


def normalize_scores(scores: Numbers, score_range: Sequence[float]) -> Numbers:
    """Map scores from the data set's own units to [0, 1]."""
    low, high = score_range
    return (scores - low) / (high - low)


def denormalize_scores(scores: Numbers, score_range: Sequence[float]) -> Numbers:
    """Map scores from [0, 1] to the data set's own units."""
    low, high = score_range
    return low + scores * (high - low)


def percentile_of_score(score: float, quantiles: Sequence[float]) -> float:
    """Share, in percent, of the ratings below a score.

    Args:
        score: in the units of the quantiles.
        quantiles: of the ratings, ascending, evenly spaced from 0 to 1.
    """
    return float(np.interp(score, quantiles, np.linspace(0.0, 100.0, len(quantiles))))


def expected_scores(distributions: np.ndarray, score_values: Sequence[float]) -> np.ndarray:
    """Mean score (N,) of distributions (N, K) over bins centred at `score_values`."""
    return distributions @ np.asarray(score_values, dtype=np.float64)


def distribution_moments(probabilities: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation, each (B,), of (B, K) distributions over (K,) bin centres."""
    # A product and a sum, since under autocast a matrix product would round the scores to half precision.
    mean = (probabilities * values).sum(-1)
    variance = (probabilities * (values - mean[:, None]).square()).sum(-1)
    return mean, variance.clamp(min=0).sqrt()


def check_score_range(score_range: Sequence[float], score_values: Sequence[float] | None) -> None:
    """Raise `ValueError` unless the range ascends and the bin centres, if any, ascend inside it."""
    if len(score_range) != 2 or not score_range[0] < score_range[1]:
        raise ValueError(f"`score_range` must be a pair (lowest, highest), got {score_range}.")
    if score_values is None:
        return
    low, high = score_range
    ascending = all(a < b for a, b in pairwise(score_values))
    if len(score_values) < 2 or not ascending or score_values[0] < low or score_values[-1] > high:
        raise ValueError(f"`score_values` must ascend inside `score_range` {score_range}, got {score_values}.")


def name_outputs(score_values: Sequence[float] | None, num_attributes: int = 0) -> list[str]:
    """What each logit stands for: a rating bin, or the score with the attributes around it."""
    if score_values is not None:
        return [f"{value:g}" for value in score_values]
    names = [f"attribute_{index}" for index in range(num_attributes)]
    names.insert(1 + num_attributes + _SCORE_BESIDE_ATTRIBUTES if num_attributes else 0, "score")
    return names


# ---------------------------------------------------------------------------------------------------------------------
# Logits to scores.


@dataclass
class AestheticOutput(ModelOutput):
    """What a scoring model returns.

    Attributes:
        loss: () if labels were given.
        logits: (B, K) before softmax, sigmoid and tanh.
        scores: (B,) in the data set's own units.
        normalized_scores: (B,) in [0, 1].
        distribution: (B, K) probabilities of the bins `config.score_values`; `None` for a regression head.
        std: (B,) standard deviation of the distribution in the data set's own units; `None` for a regression head.
        attributes: (B, 11) in [-1, 1]; `None` unless the head has them.
        last_hidden_state, pooler_output, hidden_states: of the encoder, as it describes them.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    scores: torch.Tensor | None = None
    normalized_scores: torch.Tensor | None = None
    distribution: torch.Tensor | None = None
    std: torch.Tensor | None = None
    attributes: torch.Tensor | None = None
    last_hidden_state: torch.Tensor | None = None
    pooler_output: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None


class PredictedScores(NamedTuple):
    """The fields of [`AestheticOutput`] that follow from the logits."""

    scores: torch.Tensor
    normalized_scores: torch.Tensor
    distribution: torch.Tensor | None = None
    std: torch.Tensor | None = None
    attributes: torch.Tensor | None = None


def interpret_logits(logits: torch.Tensor, config: Any) -> PredictedScores:
    """Turn logits (B, K) into scores; at least in float32, since a half-precision score has no third digit.

    Args:
        logits: with rating bins one a bin; else the score, with the attributes around it if the head has any.
        config: of the model: `score_range`, `score_values` and, if there is one, `num_attributes`.
    """
    raw = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if config.score_values is not None:
        distribution = raw.softmax(-1)
        values = torch.tensor(config.score_values, dtype=raw.dtype, device=raw.device)
        scores, std = distribution_moments(distribution, values)
        return PredictedScores(scores, normalize_scores(scores, config.score_range), distribution, std)
    attributes, column = None, 0
    if getattr(config, "num_attributes", 0):
        column = _SCORE_BESIDE_ATTRIBUTES
        attributes = torch.cat([raw[:, :column], raw[:, column + 1 :]], dim=-1).tanh()
    normalized = raw[:, column].sigmoid()
    return PredictedScores(denormalize_scores(normalized, config.score_range), normalized, attributes=attributes)


def average_views(
    outputs: Mapping[str, Any], num_views: int, score_values: Sequence[float] | None, with_embeddings: bool = False
) -> dict[str, torch.Tensor]:
    """Average the views of each photo, in double precision.

    Args:
        outputs: `scores` and `normalized_scores` (B·V,), and if there are any `distribution` (B·V, K) and
            `attributes` (B·V, A): the views of a photo stand side by side.
        num_views: V.
        score_values: K bin centres, `None` for a regression head.
        with_embeddings: average `pooler_output` (B·V, E), too.

    Returns:
        Doubles on the CPU: `score` and `normalized_score` (B,); with bins `std` (B,) and `distribution` (B, K), whose
        spread includes that between the views; `attributes` (B, A) and `embedding` (B, E) if there are any; with more
        than one view `spread` (B,), the standard deviation of the score over the views.
    """

    def views(name: str) -> torch.Tensor | None:
        value = outputs.get(name)
        return None if value is None else value.cpu().double().unflatten(0, (-1, num_views))

    scores, normalized = views("scores"), views("normalized_scores")
    assert scores is not None
    assert normalized is not None
    averaged = {"score": scores.mean(1), "normalized_score": normalized.mean(1)}
    if score_values is not None and (distribution := views("distribution")) is not None:
        averaged["distribution"] = distribution.mean(1)
        values = torch.tensor(score_values, dtype=torch.float64)
        averaged["std"] = distribution_moments(averaged["distribution"], values)[1]
    if (attributes := views("attributes")) is not None:
        averaged["attributes"] = attributes.mean(1)
    if with_embeddings and (embeddings := views("pooler_output")) is not None:
        averaged["embedding"] = embeddings.mean(1)
    if num_views > 1:
        averaged["spread"] = scores.std(1)
    return averaged


# ---------------------------------------------------------------------------------------------------------------------
# Losses.


def emd_loss(probabilities: torch.Tensor, target: torch.Tensor, r: int = 2) -> torch.Tensor:
    """Earth mover's distance between (B, K) distributions: `mean_k(|CDF - CDF|^r)^(1/r)` a sample, then the mean."""
    difference = (probabilities.cumsum(-1) - target.cumsum(-1)).abs()
    powered = difference.pow(r).mean(-1)
    # A root has no finite slope at 0, which a perfect prediction reaches.
    return powered.clamp(min=1e-12).pow(1 / r).mean()


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


def ranking_loss(
    scores: torch.Tensor, targets: torch.Tensor, groups: torch.Tensor, width: float = 0.1
) -> torch.Tensor:
    """How far scores are from ordering photos of one group as people do: RankNet (Burges et al. 2005).

    `log(1 + exp(-(s_better - s_worse) / width))`, the mean over the batch's pairs of one group and unlike targets.

    Args:
        scores: (B,) predicted, normalized.
        targets: (B,) rated, any units.
        groups: (B,) which series or pair a photo belongs to.
        width: by how much scores should differ.

    Returns:
        Scalar; 0 where the batch has no such pair.
    """
    better = (groups[:, None] == groups) & (targets[:, None] > targets)
    losses = F.softplus((scores - scores[:, None]) / width)
    return (losses * better).sum() / better.sum().clamp(min=1)


def aesthetic_loss(
    predicted: PredictedScores,
    labels: torch.Tensor,
    score_range: Sequence[float],
    attribute_targets: torch.Tensor | None = None,
) -> torch.Tensor:
    """What both models are trained with: squared error of normalized scores, or [`emd_loss`] of distributions.

    Args:
        predicted: by the model.
        labels: (B,) or (B, 1) scores in the data set's own units, or (B, K) distributions, which need not add up to 1.
        score_range: of the data set.
        attribute_targets: (B, A) in [-1, 1], whose mean squared error is added.

    Raises:
        ValueError: if labels or attributes are of another shape.
    """
    normalized, distribution = predicted.normalized_scores, predicted.distribution
    labels = labels.to(normalized)
    if labels.shape in (normalized.shape, (*normalized.shape, 1)):
        loss = F.mse_loss(normalized, normalize_scores(labels.view_as(normalized), score_range))
    elif distribution is not None and labels.shape == distribution.shape:
        loss = emd_loss(distribution, labels / labels.sum(-1, keepdim=True))
    else:
        distributions = "" if distribution is None else f" or {tuple(distribution.shape)} distributions"
        raise ValueError(f"`labels` must be ({len(normalized)},) scores{distributions}, got {tuple(labels.shape)}.")
    if attribute_targets is None:
        return loss
    if predicted.attributes is None or attribute_targets.shape != predicted.attributes.shape:
        expected = "absent for this head" if predicted.attributes is None else tuple(predicted.attributes.shape)
        raise ValueError(f"`attribute_targets` must be {expected}, got {tuple(attribute_targets.shape)}.")
    return loss + F.mse_loss(predicted.attributes, attribute_targets.to(predicted.attributes))


__all__ = ["AestheticOutput", "PredictedScores", "aesthetic_loss", "average_views", "interpret_logits"]
