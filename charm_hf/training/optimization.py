"""What the optimizer is given: one learning rate for each part of the model, no weight decay where it does harm."""

from __future__ import annotations

import argparse
import re
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel
from transformers import get_scheduler

from charm_hf.training.run_state import TrainingParts


PARTS = ("embeddings", "encoder", "head")
# Tables of rows that are added to tokens: decaying them pulls every position and scale towards the same one.
UNDECAYED_TABLES = (
    *("position_embedding", "scale_embeddings", "cls_token", "class_embedding", "mask_token", "register_tokens"),
    *("distillation_token", "probe"),
    "queries.",  # learnable queries, which start the rows that attend
)
# Every type of encoder calls its layers so, below different modules.
_LAYER = re.compile(r"(.*\blayers?)\.(\d+)\.")
Tensors = tuple[torch.Tensor, ...] | list[torch.Tensor]


def build_parts(args: argparse.Namespace, model: nn.Module, steps_per_epoch: int) -> TrainingParts:
    """Model, optimizer, scheduler and average, by the flags of a run whose epochs have so many optimizer steps."""
    groups = build_parameter_groups(model, args.learning_rate, args.weight_decay, **args.learning_rates)
    optimizer = torch.optim.AdamW(groups, lr=args.learning_rate)
    cosine = {"min_lr": min(1e-6, args.learning_rate)} if args.lr_scheduler_type == "cosine_with_min_lr" else {}
    scheduler = get_scheduler(
        args.lr_scheduler_type,
        optimizer,
        args.num_warmup_steps,
        steps_per_epoch * args.num_train_epochs,
        scheduler_specific_kwargs=args.lr_scheduler_kwargs or cosine,
    )
    return TrainingParts(model, optimizer, scheduler, make_ema(model, args.ema_decay) if args.ema_decay else None)


def build_parameter_groups(
    model: nn.Module,
    learning_rate: float,
    weight_decay: float,
    embeddings: float | None = None,
    head: float | None = None,
    layer_decay: float = 1.0,
) -> list[dict[str, Any]]:
    """Sort the trainable parameters into groups for `torch.optim.AdamW`.

    Args:
        model: `CharmForAestheticScoring` or `MmlqForAestheticScoring`.
        learning_rate: of the encoder, and of the other parts unless they have their own.
        weight_decay: of matrices. Biases, norms, layer scales and embedding tables are not decayed.
        embeddings: learning rate of the patch projection and the position, scale and CLS embeddings.
        head: learning rate of the classifier.
        layer_decay: by what the rate is multiplied from each layer of an encoder to the one below it, in (0, 1]; the
            last layer has `layer_decay` times `learning_rate`, the embeddings the least, unless they have their own.

    Returns:
        Groups with `params`, `lr`, `weight_decay` and `name` (such as `"encoder/no_decay"`, or `"encoder.11/decay"`
        for the last of 12 layers with a rate of its own), in a fixed order; frozen parameters are in none.

    Raises:
        ValueError: if no parameter is trainable, or for another `layer_decay`.
    """
    if not 0 < layer_decay <= 1:
        raise ValueError(f"`layer_decay` must be above 0 and at most 1, got {layer_decay}.")
    own = {"embeddings": embeddings, "head": head}
    places = {name: found for name, _ in model.named_parameters() if (found := _LAYER.match(name))}
    depths: dict[str, int] = {}
    for place in places.values():
        depths[place[1]] = max(depths.get(place[1], 0), int(place[2]) + 1)
    groups: dict[tuple[int, int, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        part, layer, below = part_of_parameter(name), -1, 0
        decayed = parameter.ndim > 1 and not any(table in name for table in UNDECAYED_TABLES)
        if layer_decay < 1 and name in places:
            layer = int(places[name][2])
            below = depths[places[name][1]] - layer
        elif part == "embeddings":
            below = max(depths.values(), default=0) + 1
        rate = own.get(part)
        label = part if layer < 0 else f"{part}.{layer}"
        group = {
            "params": [],
            "lr": learning_rate * layer_decay**below if rate is None else rate,
            "weight_decay": weight_decay if decayed else 0.0,
            "name": f"{label}/{'decay' if decayed else 'no_decay'}",
        }
        groups.setdefault((PARTS.index(part), layer, not decayed), group)["params"].append(parameter)
    if not groups:
        raise ValueError("Nothing to train: every parameter of the model is frozen.")
    return [groups[key] for key in sorted(groups)]


def part_of_parameter(name: str) -> str:
    """Tell by its name which part of a Charm or MMLQ model a parameter belongs to.

    `"head"` is the classifier; `"embeddings"` the patch projection, position, scale, CLS and register embeddings;
    `"encoder"` everything else.
    """
    modules = name.split(".")
    if modules[0] in ("classifier", "head"):
        return "head"
    return "embeddings" if "embeddings" in modules else "encoder"


def make_ema(model: nn.Module, decay: float) -> AveragedModel:
    """Average the weights of `model` exponentially; call `update_parameters(model)` after each optimizer step.

    `decay`, in (0, 1), is the weight of the old average at each step, reached gradually, `min(decay, (1 + n) / (10 +
    n))` at step n, so that short runs do not end with weights that remember the random start. The average's `module`
    is a model, and often scores better than the last weights.

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
