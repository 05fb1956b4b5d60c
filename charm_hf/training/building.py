"""The model and processor that a run starts from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import AutoConfig

from charm_hf.data import LabelScale
from charm_hf.models.backbones_charm import pixel_statistics
from charm_hf.models.configuration_charm import CharmConfig
from charm_hf.models.image_processing_charm import CharmImageProcessor
from charm_hf.models.modeling_charm import CharmForAestheticScoring


# The ratings' quantiles that a checkpoint carries: every percent.
NUM_QUANTILES = 101


def build_head(train: Dataset, scale: LabelScale, kind: str = "auto") -> dict[str, Any]:
    """Fields of a configuration that the labels of the training part decide, the quantiles of its ratings among them.

    `"auto"` predicts a distribution where the labels have one; otherwise, only a score, as `"regression"` always does.

    Raises:
        ValueError: if the head needs distributions of ratings, and the labels are scores alone.
    """
    if kind not in ("auto", "regression") and scale.score_values is None:
        raise ValueError(
            f"A head of the kind {kind!r} predicts how ratings are distributed, and the labels of "
            f"{scale.dataset_name} are scores alone: take 'regression'."
        )
    return {
        "dataset_name": scale.dataset_name,
        "score_range": scale.score_range,
        "score_values": None if kind == "regression" else scale.score_values,
        "score_quantiles": score_quantiles(np.array(train["score"][:])),
        **({} if kind == "auto" else {"head": kind}),
    }


def build_model(
    source: str | None, backbone: Mapping[str, Any] | None, head: Mapping[str, Any], **options: Any
) -> CharmForAestheticScoring:
    """Make the model to train.

    Args:
        source: repository or folder of a Charm checkpoint (a warm start: its head is kept if it has the same shape) or
            of a pretrained backbone.
        backbone: instead of it, the configuration of a backbone with random weights, `model_type` included.
        head: `score_range`, `score_values`, `num_attributes`, `dataset_name`, `classifier_dropout` of the new head.
        options: further fields of [`CharmConfig`] for a model that does not start from a Charm checkpoint.

    Raises:
        ValueError: unless exactly one of `source` and `backbone` is given, or if the backbone is not supported.
    """
    if (source is None) == (not backbone):
        raise ValueError(
            "Give either a checkpoint to start from (`model_name_or_path`) or the configuration of a backbone with "
            f"random weights (`backbone`); got {source!r} and {backbone!r}."
        )
    if source is None:
        config = CharmConfig(backbone_config=dict(backbone or {}), **head, **options)
        return CharmForAestheticScoring.from_backbone(config.backbone_config, **head, **options)
    if AutoConfig.from_pretrained(source).model_type != CharmConfig.model_type:
        return CharmForAestheticScoring.from_backbone(source, **head, **options)
    old = CharmConfig.from_pretrained(source)
    kept = ("backbone_config", "num_scales", "position_mode", "pooling", "pixel_statistics")
    config = CharmConfig(**{name: getattr(old, name) for name in kept}, **head)
    return CharmForAestheticScoring.from_pretrained(source, config=config, ignore_mismatched_sizes=True)


def build_processor(
    source: str | None, config: CharmConfig, dataset_name: str | None, parameters: Mapping[str, Any]
) -> CharmImageProcessor:
    """Make the processor that fits the model.

    Args:
        source: a Charm checkpoint whose processor is taken over, if there is one.
        config: of the model; patch size and number of scales follow it.
        dataset_name: a published dataset gives its sequence length and longest edge.
        parameters: of the processor; they win.
    """
    fitting = {**pixel_statistics(source), **parameters}
    is_charm = source is not None and AutoConfig.from_pretrained(source).model_type == CharmConfig.model_type
    if dataset_name is None and is_charm:
        fitting = {"patch_size": config.patch_size, "num_scales": config.num_scales, **fitting}
        return CharmImageProcessor.from_pretrained(source, **fitting)
    return CharmImageProcessor.for_model(config, dataset_name, **fitting)


def label_column(loss: str, config: Any, columns: Sequence[str]) -> str:
    """The column of a dataset that a loss is computed from: `"distribution"` for EMD, `"score"` for the squared error.

    `loss` is `"emd"`, `"mse"`, or `"auto"`, which takes EMD if head and dataset have distributions.

    Raises:
        ValueError: for EMD without distributions.
    """
    possible = config.score_values is not None and "distribution" in columns
    if loss == "emd" and not possible:
        raise ValueError(
            "EMD compares distributions: it needs a dataset with votes and a distribution head, got a dataset with "
            f"{', '.join(columns)} and a {getattr(config, 'head', 'distribution')} head. Use the squared error, "
            "`loss: mse`."
        )
    return "distribution" if possible and loss != "mse" else "score"


def score_quantiles(scores: np.ndarray) -> list[float]:
    """Quantiles of the training ratings, at every percent, for `CharmConfig.score_quantiles`."""
    return [round(float(value), 6) for value in np.quantile(scores, np.linspace(0, 1, NUM_QUANTILES))]
