"""A person's taste: a new linear head on frozen features, learnt from ratings in seconds.

The head starts from the base model's own opinion, to first order a direction among its features, and adds what a ridge
regression finds beyond it. The fewer or noisier the ratings, the stronger the ridge, by generalized cross-validation
(Golub et al. 1979), down to the base's opinion alone.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..metrics import srcc
from ..models.modeling_charm import CharmForAestheticScoring
from ..models.scores_charm import interpret_logits, normalize_scores
from .engine import Scorer, ScoringOptions
from .items import Item


_FEWEST = 10
_EDGE = 0.02  # of the range: where a sigmoid cannot reach, nothing can be learnt
_STRENGTHS = np.logspace(0, 8, 33)


@dataclass(frozen=True)
class Taste:
    """A personal model, and what it is worth.

    Attributes:
        model: the base with the new head, a checkpoint like any other.
        photos: rated photos that could be read.
        unreadable: rated photos that could not.
        base_srcc: rank correlation of the base model's scores with the ratings.
        srcc: that of the personal model, each photo scored by a head that did not see its fold.
    """

    model: CharmForAestheticScoring
    photos: int
    unreadable: int
    base_srcc: float
    srcc: float

    @property
    def is_better(self) -> bool:
        """Whether the personal model agrees better with the person than the base does."""
        return self.srcc > self.base_srcc


def personalize(
    ratings: Mapping[Any, float],
    model: Any,
    processor: Any,
    score_range: tuple[float, float],
    *,
    folds: int = 5,
    seed: int = 0,
    num_workers: int | None = 0,
) -> Taste:
    """Learn a person's taste.

    Args:
        ratings: photo, as a path, to rating.
        model: a [`CharmForAestheticScoring`].
        processor: its processor.
        score_range: lowest and highest possible rating.
        folds: of the cross-validation that tells what it is worth.
        seed: which photos fall into which.
        num_workers: processes that decode photos.

    Raises:
        ValueError: for fewer than ten readable photos, ratings that are all the same, or another kind of model.
    """
    if not isinstance(model, CharmForAestheticScoring):
        raise ValueError(f"Expected a Charm model, got {type(model).__name__}.")
    scorer = Scorer(model, processor, ScoringOptions(embeddings=True, num_workers=num_workers))
    rows = list(scorer.score(Item.from_file(os.fspath(photo)) for photo in ratings))
    seen = [(row, rating) for row, rating in zip(rows, ratings.values(), strict=True) if row.score is not None]
    given = np.array([rating for _, rating in seen])
    if len(seen) < max(_FEWEST, folds) or len(set(given)) < 2:
        raise ValueError(
            f"Expected at least {max(_FEWEST, folds)} readable photos with unlike ratings, got {len(seen)} with "
            f"{len(set(given))} ratings."
        )
    features = np.array([row.embedding for row, _ in seen], dtype=np.float64)
    normalized = normalize_scores(given, score_range).clip(_EDGE, 1 - _EDGE)
    wanted = np.log(normalized / (1 - normalized))
    opinion = _opinion(model, features.mean(0))
    held_out = held_out_scores(features, wanted, opinion, folds, seed)
    personal = _with_head(model, *fit_head(features, wanted, opinion), score_range)
    base = np.array([row.score for row, _ in seen])
    return Taste(personal, len(seen), len(rows) - len(seen), float(srcc(base, given)), float(srcc(held_out, given)))


def _opinion(model: CharmForAestheticScoring, features: np.ndarray) -> np.ndarray:
    """(D,) how the score changes with the features, at these (D,)."""
    weight, bias = (parameter.detach().float().cpu() for parameter in (model.classifier.weight, model.classifier.bias))
    with torch.inference_mode(False), torch.enable_grad():
        here = torch.tensor(features, dtype=torch.float32, requires_grad=True)
        score = interpret_logits((weight.clone() @ here + bias.clone())[None], model.config).scores.sum()
        return torch.autograd.grad(score, here)[0].double().numpy()


def held_out_scores(
    features: np.ndarray, wanted: np.ndarray, opinion: np.ndarray, folds: int = 5, seed: int = 0
) -> np.ndarray:
    """(N,) what heads say that learnt from the other folds; see [`fit_head`].

    Without their biases, which follow the mean rating of the other folds: the better the photos of a fold, the lower
    its bias, so that the order across folds would be worse than that of any one head.
    """
    fold = np.random.default_rng(seed).permutation(len(features)) % folds
    features, held_out = features - features.mean(0), np.empty(len(features))
    for number in range(folds):
        inside = fold != number
        held_out[~inside] = features[~inside] @ fit_head(features[inside], wanted[inside], opinion)[0]
    return held_out


def fit_head(features: np.ndarray, wanted: np.ndarray, opinion: np.ndarray) -> tuple[np.ndarray, float]:
    """Weights (D,) and bias: least squares on the base's opinion, then a ridge on what that leaves.

    Args:
        features: (N, D).
        wanted: (N,) logits of the ratings.
        opinion: (D,) how the base's score changes with the features.
    """
    mean, spread = features.mean(0), features.std(0) + 1e-6
    said = (features - mean) @ opinion
    slope = max(0.0, float(said @ wanted) / max(float(said @ said), 1e-12))
    rest = wanted - wanted.mean() - slope * said
    left, values, right = np.linalg.svd((features - mean) / spread, full_matrices=False)
    along = left.T @ rest
    errors = []
    for strength in _STRENGTHS:
        kept = values**2 / (values**2 + strength)
        residual = float(rest @ rest) - float(((2 - kept) * kept) @ along**2)
        errors.append(residual / (len(rest) - 2 - kept.sum()) ** 2 if kept.sum() < len(rest) - 3 else np.inf)
    best = _STRENGTHS[int(np.argmin(errors))]
    ridge = right.T @ (values / (values**2 + best) * along)
    weights = slope * opinion + ridge / spread
    return weights, float(wanted.mean() - mean @ weights)


def _with_head(
    model: CharmForAestheticScoring, weights: np.ndarray, bias: float, score_range: tuple[float, float]
) -> CharmForAestheticScoring:
    low, high = score_range
    personal = CharmForAestheticScoring.from_backbone(model, score_range=(float(low), float(high)))
    classifier = personal.classifier
    with torch.no_grad():
        classifier.weight.copy_(torch.from_numpy(weights)[None])
        classifier.bias.fill_(bias)
    return personal.eval()


__all__ = ["Taste", "fit_head", "held_out_scores", "personalize"]
