"""Predictions of a model for a whole dataset, each photo once, and the numbers that follow from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from datasets import Dataset
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from charm_hf.data import LabelScale
from charm_hf.metrics import compute_aesthetic_metrics, dataset_accuracy_threshold, series_agreement
from charm_hf.models.modeling_charm import CharmForAestheticScoring
from charm_hf.models.presets_charm import label_range
from charm_hf.models.scores_charm import denormalize_scores, normalize_scores


# What stands in a batch beside the model's inputs.
_LABELS = ("index", "scores", "labels", "attribute_targets", "group")


@dataclass
class Predictions:
    """What a model says about the photos of a dataset, in the dataset's order.

    Attributes:
        config: of the model.
        normalized_scores: (N,) in [0, 1].
        distributions: (N, K) probabilities of the model's bins; `None` for a regression head.
    """

    config: Any
    normalized_scores: np.ndarray
    distributions: np.ndarray | None = None

    def scores(self, scale: LabelScale) -> np.ndarray:
        """Scores (N,) in the units of a dataset, which may be another than the model was trained on.

        The lowest label of the one range becomes the lowest of the other, and the highest the highest.

        Raises:
            ValueError: if the dataset's range is not known.
        """
        if scale.score_range is None:
            raise ValueError(
                f"The score range of {scale.dataset_name} is not known: give `score_range` to the dataset."
            )
        config = self.config
        own = denormalize_scores(self.normalized_scores, config.score_range)
        normalized = normalize_scores(own, label_range(config.dataset_name, config.score_range))
        return denormalize_scores(normalized, scale.score_range)


def predict(
    model: CharmForAestheticScoring, loader: DataLoader, accelerator: Accelerator, description: str = "Evaluating"
) -> Predictions:
    """Score every photo of a loader whose batches (`evaluation_batches`), over all processes, hold each photo once.

    All processes call this together, and each returns everything. The bare model is left in the mode it was in.
    """
    training = model.training
    model.eval()
    rows: list[tuple[int, float, list[float] | None]] = []
    for batch in tqdm(loader, description, leave=False, disable=not accelerator.is_local_main_process):
        inputs = {name: value.to(accelerator.device) for name, value in batch.items() if name not in _LABELS}
        with torch.inference_mode(), accelerator.autocast():
            outputs = model(**inputs)
        scores = outputs.normalized_scores.tolist()
        distributions = [None] * len(scores) if outputs.distribution is None else outputs.distribution.tolist()
        rows += zip(batch["index"].tolist(), scores, distributions, strict=True)
    model.train(training)
    _, scores, distributions = zip(*sorted(gather_object(rows)), strict=True)
    return Predictions(model.config, np.array(scores), None if distributions[0] is None else np.array(distributions))


def references_of(
    predictions: Predictions, dataset: Dataset, scale: LabelScale
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """What the metrics compare: predictions, references, and options of `compute_aesthetic_metrics`.

    Distributions are compared where both sides have them over the same bins, otherwise scores in the dataset's units.
    """
    scores = predictions.scores(scale)
    options: dict[str, Any] = {"accuracy_threshold": dataset_accuracy_threshold(scale.dataset_name, scale.score_range)}
    same_bins = scale.score_values is not None and list(scale.score_values) == predictions.config.score_values
    if predictions.distributions is None or "distribution" not in dataset.column_names or not same_bins:
        return scores, np.array(dataset["score"][:]), options
    return (
        predictions.distributions,
        np.array(dataset["distribution"][:]),
        {**options, "score_values": scale.score_values, "predicted_scores": scores},
    )


def measure(
    model: CharmForAestheticScoring,
    loader: DataLoader,
    accelerator: Accelerator,
    dataset: Dataset,
    scale: LabelScale,
    label: str,
    group_column: str | None = None,
) -> dict[str, float]:
    """All metrics of a model on a dataset, in the dataset's own units, and `eval_loss`.

    The loss is EMD where `label`, the column that the model is trained on, is `"distribution"`, else the squared error
    of normalized scores. `group_column`, which series or pair a photo is of, adds `pair_accuracy` and `series_top1`.
    """
    predictions = predict(model, loader, accelerator)
    predicted, rated, options = references_of(predictions, dataset, scale)
    metrics = compute_aesthetic_metrics(predicted, rated, **options)
    if group_column is not None:
        metrics |= series_agreement(predictions.normalized_scores, dataset["score"][:], dataset[group_column][:])
    low, high = scale.score_range  # type: ignore[misc]
    return {
        "eval_loss": metrics["emd_r2"] if label == "distribution" else metrics["mse"] / (high - low) ** 2,
        **metrics,
    }
