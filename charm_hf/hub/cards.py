"""Model cards: what goes into the templates that `push`, the converter and the training scripts fill."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from .._registration import DEFAULT_REPOSITORY
from ..models.checkpoint_charm import LICENSE, METRIC_NAMES, PIPELINE_TAG, card_metadata, find_base_models
from ..models.presets_charm import AADB_ATTRIBUTES, get_dataset_preset
from ..released import PAPER, RELEASED
from .layout import ASSETS, CONFIG_NAME


TEMPLATES = ASSETS / "model_cards"
EVAL_RESULTS_NAME = "eval_results.json"
# The pickles do not say which backbone they grew from; among DINOv2 models the width tells.
_DINOV2_OF_WIDTH = {384: "facebook/dinov2-small", 768: "facebook/dinov2-base", 1024: "facebook/dinov2-large"}
# A model that reads comments is measured without them, too.
_MEASURED = {
    **METRIC_NAMES,
    **{f"{key}_no_comments": f"{name}, without comments" for key, name in METRIC_NAMES.items()},
}
_MARKUP = re.compile(r"([\\`*_{}\[\]<>#|])")


@dataclass
class CardContext:
    """What a card needs beside the config.

    Attributes:
        repo_id: where the card will stand.
        subfolder: of the checkpoint inside the repository; empty for the root.
        results: metric name -> value, measured by whoever trained it.
        conversion: how and from what a published checkpoint was converted.
        license: SPDX name, lower case.
        run: what a training script says of its run: `command`, `flags`, `versions`, and `splits` (name -> number of
            `images` and their `sha256`). The results are then those of its validation part.
        epoch: the one that the run kept.
    """

    repo_id: str
    subfolder: str = ""
    results: Mapping[str, float] = field(default_factory=dict)
    conversion: str = ""
    license: str = LICENSE
    run: Mapping[str, Any] | None = None
    epoch: int = 0


def render_card(config: Mapping[str, Any], context: CardContext, published: bool = False) -> ModelCard:
    """Fill the card of one checkpoint.

    Args:
        config: the content of its `config.json`.
        context: what else the card says.
        published: whether it is a conversion of the checkpoint that the authors published for its dataset.
    """
    dataset = config.get("dataset_name") or ""
    facts = RELEASED.get(dataset)
    title = facts.title if facts else _MARKUP.sub(r"\\\1", " ".join(dataset.split())) or "unnamed data"
    bases = find_base_models(config) or (_guess_released_base(config) if published else [])
    if published:
        results = _published_results(dataset, bases)
    else:
        measured = context.results.items()
        results = [_result(dataset or "custom", title, metric, value, context) for metric, value in measured]
    name = {"charm": "Charm", "mmlq": "MMLQ"}.get(config.get("model_type", ""), "Model")
    metadata = {**card_metadata(config, context.license), "base_model": bases or None}
    return _fill(
        "checkpoint.md",
        _metadata(metadata, results, context.repo_id if context.run else f"{name} {title}"),
        title=context.repo_id if context.run else f"{name} · {title}",
        summary=f"{name}, trained on {title}",
        bases=bases,
        config=config,
        context=context,
        command=_portable(context.run["command"]) if context.run else "",
        facts=facts,
        published=published,
        released_edge=get_dataset_preset(dataset).released_edge if published else None,
        same_base=bases[:1] == [PAPER["base_model"]],
        numbers=_table(facts.numbers if published and facts else context.results),
    )


def draft_model_card(name: str, config: Any, run: Mapping[str, Any], record: Mapping[str, Any]) -> ModelCard:
    """Write the card of a model that was just trained, for its owner to complete.

    Args:
        name: of the model.
        config: of the model.
        run: see [`CardContext`].
        record: of the epoch that was kept, with the validation metrics if there are any.
    """
    results = {key: record[key] for key in _MEASURED if key in record}
    return render_card(config.to_dict(), CardContext(name, results=results, run=run, epoch=record["epoch"]))


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
    bases = {dataset: find_base_models(config) or _guess_released_base(config) for dataset, config in configs.items()}
    rows = [
        {
            "subfolder": dataset,
            "facts": RELEASED[dataset],
            "base_model": " ".join(bases[dataset][:1]) or "unknown",
            "score": "{:g}-{:g}".format(*config["score_range"]),
        }
        for dataset, config in configs.items()
    ]
    results = [result for dataset, found in bases.items() for result in _published_results(dataset, found)]
    found = sorted({base for names in bases.values() for base in names[:1]})
    metadata = {**card_metadata({}), "base_model": found or None, "datasets": list(configs)}
    return _fill(
        "repository.md",
        _metadata(metadata, results, "Charm"),
        rows=rows,
        default_title=RELEASED[default].title,
        repo_id=repo_id,
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
    file = Path(folder) / CONFIG_NAME
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} cannot be read as JSON: {error}") from None
    if not isinstance(config, dict):
        raise ValueError(f"{file}: expected a JSON object, found {type(config).__name__}.")
    return config


def write_published_cards(folder: str | os.PathLike) -> list[Path]:
    """Write `charm-<dataset>.md`, one for each published checkpoint, as they read before a conversion was run."""
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    written = []
    for dataset in RELEASED:
        context = CardContext(DEFAULT_REPOSITORY, dataset, conversion=name_pickles(dataset))
        card = render_card(_released_config(dataset), context, published=True)
        path = target / f"charm-{dataset}.md"
        path.write_text(str(card), encoding="utf-8")
        written.append(path)
    return written


def name_pickles(dataset: str) -> str:
    """The pickles that a published checkpoint is converted from."""
    return f"`{RELEASED[dataset].weights}` and `{RELEASED[dataset].positions}`"


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
    return ModelCard.from_template(data, template_path=str(TEMPLATES / template), paper=PAPER, **fields)


def _guess_released_base(config: Mapping[str, Any]) -> list[str]:
    """Backbone of a published checkpoint, whose config names none."""
    width = (config.get("backbone_config") or {}).get("hidden_size")
    return [_DINOV2_OF_WIDTH[width]] if width in _DINOV2_OF_WIDTH else []


def _published_results(dataset: str, bases: list[str]) -> list[EvalResult]:
    """The paper's numbers, where they are of the backbone that the checkpoint has."""
    if bases[:1] != [PAPER["base_model"]]:
        return []
    facts = RELEASED[dataset]
    return [_result(dataset, facts.title, name, value) for name, value in facts.numbers.items()]


def _result(dataset: str, title: str, metric: str, value: float, context: CardContext | None = None) -> EvalResult:
    """One measured number; without a context, one of the paper's."""
    split = context.run["splits"].get("validation") if context and context.run else None
    return EvalResult(
        task_type=PIPELINE_TAG,
        task_name="Image aesthetics",
        dataset_type=dataset,
        dataset_name=title,
        dataset_split="validation" if split else "test",
        dataset_args={"images": split["images"], "image_ids_sha256": split["sha256"]} if split else None,
        metric_type=metric,
        metric_name=_MEASURED[metric],
        metric_value=round(value, 6),
        source_name=None if context else PAPER["name"],
        source_url=None if context else PAPER["url"],
    )


def _table(numbers: Mapping[str, float]) -> str:
    names = [_MEASURED[name] for name in numbers]
    values = [f"{value:.3f}" for value in numbers.values()]
    return f"| {' | '.join(names)} |\n|{'---|' * len(names)}\n| {' | '.join(values)} |"


def _portable(command: str) -> str:
    """A command with absolute paths, which are nobody else's business, cut to their last part."""
    return shlex.join(PurePath(word).name if PurePath(word).is_absolute() else word for word in shlex.split(command))
