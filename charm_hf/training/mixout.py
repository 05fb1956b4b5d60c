"""Mixout (Lee, Cho and Kang, ICLR 2020): dropout towards the pretrained weights instead of towards zero."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import nn
from torch.nn.utils import parametrize


ORIGINAL_SUFFIX = ".original"
PARAMETRIZATIONS = "parametrizations."


def mix_weights(
    weight: torch.Tensor, anchor: torch.Tensor, probability: float, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Replace each weight by its pretrained value, `anchor` of the same shape, keeping the expectation (equation 7).

    Returns:
        `(mask·anchor + (1 - mask)·weight - probability·anchor) / (1 - probability)`, whose expectation is `weight`;
        the mask is drawn with the given probability, in [0, 1).
    """
    if probability == 0:
        return weight
    drawn = torch.rand(weight.shape, generator=generator, device=weight.device)
    mixed = torch.where(drawn < probability, anchor, weight)
    return (mixed - probability * anchor) / (1 - probability)


class Mixout(nn.Module):
    """A parametrization that mixes a weight with the value it had when this was made, in training mode only."""

    anchor: torch.Tensor

    def __init__(self, anchor: torch.Tensor, probability: float) -> None:
        super().__init__()
        self.probability = probability
        self.register_buffer("anchor", anchor.detach().clone(), persistent=False)

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the weights to compute with, of the same shape."""
        return mix_weights(weight, self.anchor, self.probability) if self.training else weight


def add_mixout(modules: Iterable[nn.Module], probability: float) -> int:
    """Put Mixout on the weight and bias of every linear layer in `modules`; what they hold now is the anchor.

    Call it before a training state is loaded: a resumed run is pulled towards the weights it started from. Parameters
    are renamed while Mixout is on; `state_dict_without_mixout` gives the names that `save_pretrained` needs.

    Args:
        modules: with everything below them; usually the encoder, not the new head.
        probability: share of the weights that are replaced in each forward pass, in [0, 1).

    Returns:
        Number of linear layers found.

    Raises:
        ValueError: if `probability` is not in [0, 1).
    """
    if not 0 <= probability < 1:
        raise ValueError(f"The probability of Mixout must be in [0, 1), got {probability}.")
    linears = [layer for module in modules for layer in module.modules() if isinstance(layer, nn.Linear)]
    for layer in linears:
        for name, parameter in list(layer.named_parameters(recurse=False)):
            parametrize.register_parametrization(layer, name, Mixout(parameter, probability))
    return len(linears)


def state_dict_without_mixout(state_dict: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Give the weights of a model with Mixout the names they have without it; tensors are shared, not copied."""
    return {
        name.removesuffix(ORIGINAL_SUFFIX).replace(PARAMETRIZATIONS, "")
        if PARAMETRIZATIONS in name and name.endswith(ORIGINAL_SUFFIX)
        else name: tensor
        for name, tensor in state_dict.items()
    }
