"""What the optimizer is given: one learning rate for each part of the model, no weight decay where it does harm."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


PARTS = ("embeddings", "encoder", "head")
# Tables of rows that are added to tokens: decaying them pulls every position and scale towards the same one.
UNDECAYED_TABLES = (
    *("position_embeddings", "scale_embeddings", "cls_token", "mask_token", "register_tokens"),
    "queries.",  # learnable queries, which start the rows that attend
)


def part_of_parameter(name: str) -> str:
    """Tell which part of `CharmForAestheticScoring` or `MmlqForAestheticScoring` a parameter belongs to, by its name.

    Returns:
        `"head"` for the classifier; `"embeddings"` for the patch projection, position, scale, CLS and register
        embeddings; `"encoder"` for everything else.
    """
    modules = name.split(".")
    if modules[0] in ("classifier", "head"):
        return "head"
    return "embeddings" if "embeddings" in modules else "encoder"


def build_parameter_groups(
    model: nn.Module,
    learning_rate: float,
    weight_decay: float,
    embeddings_learning_rate: float | None = None,
    head_learning_rate: float | None = None,
) -> list[dict[str, Any]]:
    """Sort the trainable parameters into groups for `torch.optim.AdamW`.

    Args:
        model: `CharmForAestheticScoring`.
        learning_rate: of the encoder, and of the other parts unless they have their own.
        weight_decay: of matrices. Biases, norms, layer scales and embedding tables are not decayed.
        embeddings_learning_rate: of the patch projection and the position, scale and CLS embeddings.
        head_learning_rate: of the classifier.

    Returns:
        Groups with `params`, `lr`, `weight_decay` and `name` (such as `"encoder/no_decay"`), in a fixed order; frozen
        parameters are in none, empty groups are left out.

    Raises:
        ValueError: if no parameter is trainable.
    """
    rates = {
        "embeddings": learning_rate if embeddings_learning_rate is None else embeddings_learning_rate,
        "encoder": learning_rate,
        "head": learning_rate if head_learning_rate is None else head_learning_rate,
    }
    members: dict[tuple[str, bool], list[nn.Parameter]] = {
        (part, decay): [] for part in PARTS for decay in (True, False)
    }
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            members[part_of_parameter(name), _is_decayed(name, parameter)].append(parameter)
    groups = [
        {
            "params": parameters,
            "lr": rates[part],
            "weight_decay": weight_decay if decay else 0.0,
            "name": f"{part}/{'decay' if decay else 'no_decay'}",
        }
        for (part, decay), parameters in members.items()
        if parameters
    ]
    if not groups:
        raise ValueError("Nothing to train: every parameter of the model is frozen.")
    return groups


def _is_decayed(name: str, parameter: torch.Tensor) -> bool:
    return parameter.ndim > 1 and not any(table in name for table in UNDECAYED_TABLES)
