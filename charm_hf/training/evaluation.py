"""Predictions of a model for a whole dataset, each photo once, and the numbers that follow from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from datasets import Dataset
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from charm_hf.data import LabelScale
from charm_hf.metrics import compute_aesthetic_metrics, dataset_accuracy_threshold
from charm_hf.models.modeling_charm import CharmForAestheticScoring
from charm_hf.models.scores_charm import denormalize_scores


@dataclass
class Predictions:
    """What a model says about the photos of a dataset, in the dataset's order.

    Attributes:
        normalized_scores: (N,) in [0, 1].
        distributions: (N, K) probabilities of the model's bins; `None` for a regression head.
    """

    normalized_scores: np.ndarray
    distributions: np.ndarray | None = None

    def scores(self, score_range: tuple[float, float]) -> np.ndarray:
        """Scores (N,) in the units of a range, which may be another than the model was trained on."""
        return denormalize_scores(self.normalized_scores, score_range)


def predict(
    model: CharmForAestheticScoring, loader: DataLoader, accelerator: Accelerator, description: str = "Evaluating"
) -> Predictions:
    """Score every photo of a loader whose batches, over all processes, hold each photo once.

    Args:
        model: the bare model; it is left in the mode it was in.
        loader: as `make_loader` gives it for `evaluation_batches`.
        accelerator: of the run; all processes call this together, and each returns everything.
        description: of the progress bar.
    """
    training = model.training
    model.eval()
    columns: dict[str, list[torch.Tensor]] = {"index": [], "normalized_scores": [], "distribution": []}
    for batch in tqdm(loader, description, leave=False, disable=not accelerator.is_local_main_process):
        batch = {name: tensor.to(accelerator.device) for name, tensor in batch.items()}
        inputs = {name: value for name, value in batch.items() if name not in NOT_FOR_THE_MODEL}
        with torch.inference_mode(), accelerator.autocast():
            outputs = model(**inputs)
        columns["index"].append(batch["index"])
        columns["normalized_scores"].append(outputs.normalized_scores)
        if outputs.distribution is not None:
            columns["distribution"].append(outputs.distribution)
    model.train(training)
    index = _gather(columns["index"], (0,), torch.int64, accelerator)
    order = index.argsort()[(index == -1).sum() :]  # -1 marks what made the processes' shares equally long
    scores = _gather(columns["normalized_scores"], (0,), torch.float32, accelerator)[order]
    distributions = None
    if model.config.score_values is not None:
        empty = (0, len(model.config.score_values))
        distributions = _gather(columns["distribution"], empty, torch.float32, accelerator)[order]
    return Predictions(
        scores.double().cpu().numpy(), None if distributions is None else distributions.double().cpu().numpy()
    )


NOT_FOR_THE_MODEL = ("index", "scores", "labels", "attribute_targets")


def _gather(
    batches: list[torch.Tensor], empty: tuple[int, ...], dtype: torch.dtype, accelerator: Accelerator
) -> torch.Tensor:
    own = torch.cat([torch.empty(empty, dtype=dtype, device=accelerator.device), *batches])
    return accelerator.gather(accelerator.pad_across_processes(own, dim=0, pad_index=-1))


def references_of(
    predictions: Predictions, dataset: Dataset, scale: LabelScale, model_values: list[float] | None
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """What the metrics compare: predictions, references, and options of `compute_aesthetic_metrics`.

    Distributions are compared where both sides have them over the same bins, otherwise scores in the dataset's units.

    Raises:
        ValueError: if the dataset's range is not known.
    """
    if scale.score_range is None:
        raise ValueError(f"The score range of {scale.dataset_name} is not known: give `score_range` to the dataset.")
    scores = predictions.scores(scale.score_range)
    options: dict[str, Any] = {"accuracy_threshold": dataset_accuracy_threshold(scale.dataset_name, scale.score_range)}
    same_bins = scale.score_values is not None and list(scale.score_values) == model_values
    if predictions.distributions is None or "distribution" not in dataset.column_names or not same_bins:
        return scores, np.array(dataset["score"][:]), options
    return (
        predictions.distributions,
        np.array(dataset["distribution"][:]),
        {**options, "score_values": scale.score_values, "predicted_scores": scores},
    )


def evaluate_predictions(
    predictions: Predictions, dataset: Dataset, scale: LabelScale, model_values: list[float] | None
) -> dict[str, float]:
    """All metrics of predictions for a dataset, in the dataset's own units.

    Args:
        predictions: one a photo, in the dataset's order.
        dataset: with `score` and perhaps `distribution`.
        scale: of its labels.
        model_values: bins of the model, `config.score_values`.
    """
    predicted, rated, options = references_of(predictions, dataset, scale, model_values)
    return compute_aesthetic_metrics(predicted, rated, **options)
