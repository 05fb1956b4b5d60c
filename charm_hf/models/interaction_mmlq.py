"""The layers in which learnable queries read features: attention, replaceable layers, interaction blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .configuration_mmlq import MmlqConfig


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attend from `query` (B, heads, Q, head_dim) to `key` and `value` (B, heads, S, head_dim).

    `attention_mask` (B, 1, Q, S) is added before the softmax. Gives (B, Q, heads, head_dim) and the weights (B, heads,
    Q, S), which fused implementations do not have.
    """
    weights = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        weights = weights + attention_mask
    weights = nn.functional.softmax(weights, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


class MmlqAttention(nn.Module):
    """Multi-head attention of queries (B, Q, d) to features (B, S, feature_size)."""

    def __init__(self, config: MmlqConfig, feature_size: int) -> None:
        super().__init__()
        self.config = config
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.is_causal = False
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.k_proj = nn.Linear(feature_size, config.hidden_size)
        self.v_proj = nn.Linear(feature_size, config.hidden_size)
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self, queries: torch.Tensor, features: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Attended values (B, Q, d) and, under eager attention, the weights (B, heads, Q, S)."""
        attend: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        output, weights = attend(
            self,
            self._split_heads(self.q_proj(queries)),
            self._split_heads(self.k_proj(features)),
            self._split_heads(self.v_proj(features)),
            attention_mask,
            scaling=self.scaling,
            dropout=self.config.attention_probs_dropout_prob if self.training else 0.0,
        )
        return self.out_proj(output.flatten(2)), weights

    def _split_heads(self, states: torch.Tensor) -> torch.Tensor:
        return states.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)


class MmlqSelfAttentionLayer(nn.Module):
    """Queries (B, Q, d) attend to one another: pre-norm, with a residual."""

    def __init__(self, config: MmlqConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = MmlqAttention(config, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, queries: torch.Tensor) -> torch.Tensor:
        """(B, Q, d) to (B, Q, d)."""
        normed = self.norm(queries)
        return queries + self.dropout(self.attention(normed, normed)[0])


class MmlqCrossAttentionLayer(nn.Module):
    """Queries (B, Q, d) attend to one modality's features: pre-norm, with a residual."""

    def __init__(self, config: MmlqConfig, feature_size: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = MmlqAttention(config, feature_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(
        self,
        queries: torch.Tensor,
        features: torch.Tensor,
        attention_mask: torch.Tensor | None,
        is_present: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Updated queries and attention weights; an image whose `is_present` (B,) is false keeps its queries."""
        update, weights = self.attention(self.norm(queries), features, attention_mask)
        update = self.dropout(update)
        if is_present is not None:
            update = update * is_present[:, None, None]
            weights = None if weights is None else weights * is_present[:, None, None, None]
        return queries + update, weights


class MmlqFeedForwardLayer(nn.Module):
    """Two linear layers on each query (B, Q, d): pre-norm, with a residual."""

    def __init__(self, config: MmlqConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACT2FN[config.hidden_act]
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, queries: torch.Tensor) -> torch.Tensor:
        """(B, Q, d) to (B, Q, d)."""
        return queries + self.dropout(self.fc2(self.activation(self.fc1(self.norm(queries)))))


class MmlqReplaceableLayer(nn.Module):
    """A layer over the queries of all modalities, in the arrangement that the configuration chooses.

    Args:
        arrangement: `"none"` (the queries pass through), `"shared"` (one layer, applied to each modality alone),
            `"separate"` (a layer of its own for each) or `"joint"` (one layer over all queries together).
        make_layer: builds one layer, (B, Q, d) to (B, Q, d).
    """

    def __init__(self, arrangement: str, modalities: Iterable[str], make_layer: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.arrangement = arrangement
        names = {"none": (), "separate": tuple(modalities)}.get(arrangement, (arrangement,))
        self.layers = nn.ModuleDict({name: make_layer() for name in names})

    def forward(self, queries: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Queries (B, Q, d) by modality, to the same."""
        if self.arrangement == "none":
            return queries
        if self.arrangement == "joint":
            sizes = [states.shape[1] for states in queries.values()]
            joint = self.layers["joint"](torch.cat(list(queries.values()), dim=1))
            return dict(zip(queries, joint.split(sizes, dim=1), strict=True))
        shared = self.arrangement == "shared"
        return {name: self.layers["shared" if shared else name](states) for name, states in queries.items()}


@dataclass
class MmlqFeatures:
    """What the queries of one modality attend to.

    Attributes:
        states: (B, S, feature_size).
        attention_mask: as the attention implementation wants it, or `None` if every feature counts.
        is_present: (B,) of 0 and 1; 0 = this image has nothing in this modality. `None`: all have.
    """

    states: torch.Tensor
    attention_mask: torch.Tensor | None = None
    is_present: torch.Tensor | None = None


class MmlqInteractionBlock(nn.Module):
    """A multi-modal interaction block: self-attention, cross-attention of each modality, feed-forward."""

    def __init__(self, config: MmlqConfig) -> None:
        super().__init__()
        modalities = config.modalities
        self.self_attention = MmlqReplaceableLayer(
            config.self_attention, modalities, lambda: MmlqSelfAttentionLayer(config)
        )
        self.cross_attention = nn.ModuleDict(
            {name: MmlqCrossAttentionLayer(config, config.feature_size(name)) for name in modalities}
        )
        self.feed_forward = MmlqReplaceableLayer(config.feed_forward, modalities, lambda: MmlqFeedForwardLayer(config))

    def forward(
        self, queries: dict[str, torch.Tensor], features: dict[str, MmlqFeatures]
    ) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor | None]]:
        """Updated queries and cross-attention weights, both by modality; one without features keeps its queries."""
        queries = dict(self.self_attention(queries))
        attentions: dict[str, torch.Tensor | None] = {}
        for name, given in features.items():
            queries[name], attentions[name] = self.cross_attention[name](
                queries[name], given.states, given.attention_mask, given.is_present
            )
        return self.feed_forward(queries), attentions


__all__ = ["MmlqFeatures", "MmlqInteractionBlock"]
