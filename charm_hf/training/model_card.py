"""The draft of a model card that a run leaves beside its weights: what was measured, on what, and how to repeat it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from charm_hf.models.checkpoint_charm import METRIC_NAMES, PIPELINE_TAG, card_metadata
from charm_hf.models.configuration_mmlq import MmlqConfig


# A model that reads comments is measured without them, too.
_MEASURED = {
    **METRIC_NAMES,
    **{f"{key}_no_comments": f"{name}, without comments" for key, name in METRIC_NAMES.items()},
}
_TEMPLATE = """---
{metadata}
---

# {name}

*Written by `examples/train.py`; complete it before you publish the model.*

Scores how good photos look, from {low:g} to {high:g}. {architecture}, trained on {train_images:,} photos of {dataset}.

```python
import charm_hf
from transformers import pipeline

pipeline("image-aesthetics", model="path/or/repository")("photo.jpg")
```

## Results

{results}

## How it was trained

```
{command}
```

{seed}, {versions}. Hashes are SHA-256 of the sorted image ids, one a line:

| part | photos | hash |
|---|---|---|
{splits}

## Limits

The taste is that of the raters of {dataset}. Photos unlike the training photos get a score as well, with nothing to
warn you. Scores of models trained on other datasets are not comparable.
"""


def describe_architecture(config: Any) -> str:
    """One phrase on what a model is, for people."""
    if isinstance(config, MmlqConfig):
        vision, text = config.vision_config.model_type, config.text_config.model_type
        return f"Multi-modal learnable queries over a {vision} and a {text} encoder, which reads comments on the photo"
    return f"Charm with {config.num_scales} scales on a {config.backbone_config.model_type} encoder"


def draft_model_card(name: str, config: Any, run: Mapping[str, Any], record: Mapping[str, Any]) -> ModelCard:
    """Write the card of a trained model.

    Args:
        name: of the model.
        config: of the model.
        run: what `describe_run` gave.
        record: of the epoch that was kept, with the validation metrics if there are any.
    """
    dataset = config.dataset_name or "photos"
    validation = run["splits"].get("validation")
    metrics = {key: record[key] for key in _MEASURED if key in record}
    data = ModelCardData(
        model_name=name,
        **card_metadata(config.to_dict()),
        eval_results=[_result(dataset, validation, key, value) for key, value in metrics.items()] or None,
    )
    content = _TEMPLATE.format(
        metadata=data.to_yaml(),
        name=name,
        low=config.score_range[0],
        high=config.score_range[1],
        architecture=describe_architecture(config),
        dataset=dataset,
        train_images=run["splits"]["train"]["images"],
        results=_results_text(run, record, metrics),
        command=run["command"],
        seed=f"Seed {run['flags']['seed']}",
        versions=", ".join(f"{package} {version}" for package, version in run["versions"].items()),
        splits="\n".join(
            f"| {part} | {split['images']:,} | `{split['sha256']}` |" for part, split in run["splits"].items()
        ),
    )
    return ModelCard(content, ignore_metadata_errors=False)


def _results_text(run: Mapping[str, Any], record: Mapping[str, Any], metrics: Mapping[str, float]) -> str:
    if "validation" not in run["splits"]:
        return "Nothing was measured: the run had no validation part."
    chosen = run["flags"]["metric_for_best_model"] != "last"
    rows = "\n".join(f"| {_MEASURED[key]} | {value:.4f} |" for key, value in metrics.items())
    return (
        f"On the validation part, {run['splits']['validation']['images']:,} photos, after epoch {record['epoch']}"
        + (
            ", which was chosen by it. A test part, measured with `examples/evaluate_model.py`, is the more honest "
            "number."
            if chosen
            else ", the last; no epoch was chosen by it."
        )
        + f"\n\n| metric | value |\n|---|---|\n{rows}"
    )


def _result(dataset: str, split: Mapping[str, Any], metric: str, value: float) -> EvalResult:
    return EvalResult(
        task_type=PIPELINE_TAG,
        task_name="Image aesthetics",
        dataset_type=dataset,
        dataset_name=dataset,
        dataset_split="validation",
        dataset_args={"images": split["images"], "image_ids_sha256": split["sha256"]},
        metric_type=metric,
        metric_name=_MEASURED[metric],
        metric_value=round(value, 6),
    )
