"""Model cards: the templates that `push` and the converter fill, and what goes into them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from .._registration import DEFAULT_REPOSITORY
from ..models.checkpoint_charm import LICENSE, METRIC_NAMES, PIPELINE_TAG, card_metadata, find_base_models
from ..models.presets_charm import AADB_ATTRIBUTES, get_dataset_preset
from ..released import PAPER_BASE_MODEL, PAPER_NAME, PAPER_URL, RELEASED
from .layout import ASSETS, CONFIG_NAME


TEMPLATES = ASSETS / "model_cards"
EVAL_RESULTS_NAME = "eval_results.json"
# The pickles do not say which backbone they grew from; among DINOv2 models the width tells.
_DINOV2_OF_WIDTH = {384: "facebook/dinov2-small", 768: "facebook/dinov2-base", 1024: "facebook/dinov2-large"}


_PAPER_CAVEAT = (
    "These numbers are copied from the paper and were **not measured on this conversion**. The released evaluation "
    "drops the last incomplete batch of the test set and pads every photograph to a fixed length, padding attended "
    "to; here padding is masked, so that a photograph has one score. The best epoch was chosen by validation PLCC."
)
_POSITION_LIMIT = (
    "The released training gave high-resolution tokens the positions of other tokens "
    '(`position_mode="reference"` in the config keeps that) and did not train the scale embeddings; the conversion '
    "reproduces the model, faults included."
)
_COMMON_LIMITS = (
    "The taste is that of the set's raters: of their culture, their time and the pictures they were shown. "
    "Photographs unlike the training set get a score as well, with nothing to warn you.",
    "Scores of different checkpoints are not comparable, not even on the normalized scale.",
)


@dataclass
class CardContext:
    """What a card needs beside the config.

    Attributes:
        repo_id: where the card will stand.
        subfolder: of the checkpoint inside the repository; empty for the root.
        results: metric name -> value, measured by whoever trained it.
        conversion: how and from what a published checkpoint was converted.
        license: SPDX name, lower case.
    """

    repo_id: str
    subfolder: str = ""
    results: Mapping[str, float] = field(default_factory=dict)
    conversion: str = ""
    license: str = LICENSE


def render_card(config: Mapping[str, Any], context: CardContext, published: bool = False) -> ModelCard:
    """Fill the card of one checkpoint.

    Args:
        config: the content of its `config.json`.
        context: what else the card says.
        published: whether it is a conversion of the checkpoint that the authors published for its dataset.
    """
    dataset = config.get("dataset_name") or ""
    facts = RELEASED.get(dataset)
    title = facts.title if facts else (dataset or "unnamed data")
    bases = find_base_models(config) or (_guess_released_base(config) if published else [])
    base_model = bases[0] if bases else None
    if published:
        results, results_text = _published_results(dataset, base_model), _published_text(dataset, base_model)
    else:
        results, results_text = _own_results(context.results, dataset, title), _own_text(context.results)
    name = {"charm": "Charm", "mmlq": "MMLQ"}.get(config.get("model_type", ""), "Model")
    return _fill(
        "checkpoint.md",
        _metadata({**card_metadata(config, context.license), "base_model": bases or None}, results, f"{name} {title}"),
        title=f"{name} · {title}",
        summary=f"Scores how much people like a picture. {name}, trained on {title}"
        + (f", from {' and '.join(f'`{base}`' for base in bases)}." if bases else "."),
        model_type=config.get("model_type"),
        repo_id=context.repo_id,
        subfolder=context.subfolder,
        score_text=_score_text(config),
        data_text=f"{facts.content} {facts.split}" if facts else "The repository's owner has not described it.",
        results_text=results_text,
        limits=[*([facts.bias] if facts else []), *([_POSITION_LIMIT] if published else []), *_COMMON_LIMITS],
        conversion_text=context.conversion,
    )


def render_repository_card(
    configs: Mapping[str, Mapping[str, Any]], default: str, repo_id: str, conversion: str
) -> ModelCard:
    """Fill the card of a repository that holds several published checkpoints.

    Args:
        configs: dataset, which is also the subfolder -> content of its `config.json`.
        default: which of them stands at the root.
        repo_id: where the card will stand.
        conversion: what was converted.
    """
    found = {dataset: find_base_models(config) or _guess_released_base(config) for dataset, config in configs.items()}
    bases = {dataset: names[0] if names else None for dataset, names in found.items()}
    rows = [
        {
            "subfolder": dataset,
            "title": RELEASED[dataset].title,
            "base_model": bases[dataset] or "unknown",
            "score": "{:g}-{:g}".format(*config["score_range"]),
        }
        for dataset, config in configs.items()
    ]
    results = [result for dataset, base in bases.items() for result in _published_results(dataset, base)]
    return _fill(
        "repository.md",
        _metadata(
            {
                **card_metadata({}),
                "base_model": sorted(filter(None, set(bases.values()))) or None,
                "datasets": list(configs),
            },
            results,
            "Charm",
        ),
        rows=rows,
        default_title=RELEASED[default].title,
        repo_id=repo_id,
        results_text=_published_table(list(configs)) + "\n\n" + _PAPER_CAVEAT,
        conversion_text=conversion,
    )


def read_card(path: str | os.PathLike) -> ModelCard:
    """Read a card from a file.

    Raises:
        ValueError: if its metadata cannot be parsed; the message names the file.
    """
    try:
        return ModelCard(Path(path).read_text(encoding="utf-8"))
    except Exception as error:
        raise ValueError(f"The metadata block at the top of {path} is not valid: {error}") from error


def read_results(folder: str | os.PathLike) -> dict[str, float]:
    """Read the metrics of `eval_results.json` in a checkpoint folder, `eval_` prefixes dropped; empty without one."""
    path = Path(folder) / EVAL_RESULTS_NAME
    if not path.is_file():
        return {}
    held = {key.removeprefix("eval_"): value for key, value in json.loads(path.read_text(encoding="utf-8")).items()}
    return {name: float(held[name]) for name in METRIC_NAMES if isinstance(held.get(name), int | float)}


def read_config(folder: str | os.PathLike) -> dict[str, Any]:
    """Read the `config.json` of a checkpoint folder."""
    config: dict[str, Any] = json.loads((Path(folder) / CONFIG_NAME).read_text(encoding="utf-8"))
    return config


def write_published_cards(folder: str | os.PathLike) -> list[Path]:
    """Write `charm-<dataset>.md`, one for each published checkpoint, as they read before a conversion was run."""
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    written = []
    for dataset in RELEASED:
        context = CardContext(DEFAULT_REPOSITORY, dataset, conversion=conversion_text(dataset))
        card = render_card(_released_config(dataset), context, published=True)
        path = target / f"charm-{dataset}.md"
        path.write_text(str(card), encoding="utf-8")
        written.append(path)
    return written


def conversion_text(dataset: str, source: str | None = None) -> str:
    """Tell how the conversion of a published checkpoint is checked.

    Args:
        dataset: what the checkpoint was trained on.
        source: what was converted, when it was: repository, commit and file hashes.
    """
    source = source or f"`{RELEASED[dataset].weights}` and `{RELEASED[dataset].positions}`"
    return (
        f"Converted from {source}. The pickle is read as data: tensors and plain attributes are rebuilt, and no code "
        "in it is run.\n\nThe converter is tested on checkpoints pickled as the authors' training code pickles them, "
        "with small random weights: the converted model gives what the published code predicts for the same "
        "photographs, unpadded, to 1e-4. The tests cannot reach the published weights themselves. Before a converted "
        "folder is pushed, its weights are searched for numbers that are not finite, and a process without the "
        "package loads it, with no weight missing, unexpected or misshapen, and scores a picture."
    )


def _released_config(dataset: str) -> dict[str, Any]:
    """The part of a converted checkpoint's config that its card shows."""
    preset = get_dataset_preset(dataset)
    return {
        "model_type": "charm",
        "dataset_name": dataset,
        "score_range": preset.released_score_range or preset.score_range,
        "score_values": preset.score_values,
        "num_attributes": len(AADB_ATTRIBUTES) if dataset == "aadb" else 0,
        "backbone_config": {"_name_or_path": RELEASED[dataset].base_model},
    }


def _metadata(common: Mapping[str, Any], results: list[EvalResult], name: str) -> ModelCardData:
    """Card metadata: what every card has, and a `model-index` where there are results."""
    if not results:
        return ModelCardData(**common)
    metrics = sorted({result.metric_type for result in results})
    return ModelCardData(**common, metrics=metrics, model_name=name, eval_results=results)


def _fill(template: str, data: ModelCardData, **fields: Any) -> ModelCard:
    return ModelCard.from_template(data, template_path=str(TEMPLATES / template), **fields)


def _guess_released_base(config: Mapping[str, Any]) -> list[str]:
    """Backbone of a published checkpoint, whose config names none."""
    width = (config.get("backbone_config") or {}).get("hidden_size")
    return [_DINOV2_OF_WIDTH[width]] if width in _DINOV2_OF_WIDTH else []


def _score_text(config: Mapping[str, Any]) -> str:
    low, high = config["score_range"]
    text = f"`score` lies between {low:g} and {high:g}; `normalized_score` is the same on 0 to 1."
    values = config.get("score_values")
    if values:
        text += (
            f" The model gives a distribution over {len(values)} ratings ({values[0]:g} to {values[-1]:g}), of which "
            "`score` is the mean and `std` the standard deviation."
        )
    else:
        text += " The model gives a single number: `std` and `distribution` are empty."
    if config.get("num_attributes"):
        text += f" Beside the score it rates {config['num_attributes']} attributes (`attributes` of the result)."
    return text


def _published_results(dataset: str, base_model: str | None) -> list[EvalResult]:
    if base_model != PAPER_BASE_MODEL:
        return []
    facts = RELEASED[dataset]
    return [_result(dataset, facts.title, name, value, PAPER_NAME, PAPER_URL) for name, value in facts.numbers.items()]


def _published_text(dataset: str, base_model: str | None) -> str:
    table = f"([{PAPER_NAME}]({PAPER_URL})):\n\n{_table(RELEASED[dataset].numbers)}\n\n{_PAPER_CAVEAT}"
    if base_model == PAPER_BASE_MODEL:
        return f"As the paper reports them {table}"
    built_on = f"`{base_model}`" if base_model else "another model"
    return (
        f"No number is known for this checkpoint: it is built on {built_on}, and the paper's table is for "
        f"`{PAPER_BASE_MODEL}`. That says {table}"
    )


def _published_table(datasets: list[str]) -> str:
    lines = ["| dataset | PLCC | SRCC | ACC |", "|---|---|---|---|"]
    for facts in (RELEASED[dataset] for dataset in datasets):
        lines.append(f"| {facts.title} | " + " | ".join(f"{value:.3f}" for value in facts.numbers.values()) + " |")
    source = f"([{PAPER_NAME}]({PAPER_URL}))"
    return f"The paper's table, which is for `{PAPER_BASE_MODEL}` {source}:\n\n" + "\n".join(lines)


def _own_results(results: Mapping[str, float], dataset: str, title: str) -> list[EvalResult]:
    return [_result(dataset or "custom", title, name, value) for name, value in results.items()]


def _own_text(results: Mapping[str, float]) -> str:
    if not results:
        return f"None are given. `charm-hf push` takes them from an `{EVAL_RESULTS_NAME}` beside the weights."
    return f"As the repository's owner measured them (`{EVAL_RESULTS_NAME}`):\n\n{_table(results)}"


def _table(numbers: Mapping[str, float]) -> str:
    names = [METRIC_NAMES[name] for name in numbers]
    values = [f"{value:.3f}" for value in numbers.values()]
    return f"| {' | '.join(names)} |\n|{'---|' * len(names)}\n| {' | '.join(values)} |"


def _result(
    dataset: str, title: str, metric: str, value: float, source: str | None = None, url: str | None = None
) -> EvalResult:
    return EvalResult(
        task_type=PIPELINE_TAG,
        task_name="Image aesthetics",
        dataset_type=dataset,
        dataset_name=title,
        dataset_split="test",
        metric_type=metric,
        metric_name=METRIC_NAMES[metric],
        metric_value=value,
        source_name=source,
        source_url=url,
    )
