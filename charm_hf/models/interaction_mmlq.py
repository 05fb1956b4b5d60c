"""The layers in which learnable queries read features: attention, replaceable layers, interaction blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration_mmlq import MmlqConfig


def is_plain(linear: nn.Module) -> bool:
    """Whether a layer is its weight and bias and nothing else: no adapter, quantization, offloading or other hook."""
    hooked = hasattr(linear, "_hf_hook") or linear._forward_hooks or linear._forward_pre_hooks
    return type(linear) is nn.Linear and type(linear.weight) is nn.Parameter and not hooked


def folded_scores(query: torch.Tensor, features: torch.Tensor, key: nn.Linear) -> torch.Tensor:
    """`query · key(features)` of queries (B, heads, Q, head_dim) and features (B, S, width): (B, heads, Q, S)."""
    heads = (query.shape[1], query.shape[3])
    folded = torch.einsum("bhqe,hef->bhqf", query, key.weight.unflatten(0, heads))
    bias = torch.einsum("bhqe,he->bhq", query, key.bias.unflatten(0, heads))
    # Heads and queries are one dimension here: a broadcast product would copy the features for each head.
    return (folded.flatten(1, 2) @ features.mT).unflatten(1, (heads[0], -1)) + bias[..., None]


def folded_values(weights: torch.Tensor, features: torch.Tensor, value: nn.Linear) -> torch.Tensor:
    """`weights @ value(features)` of weights (B, heads, Q, S) and features (B, S, width): (B, heads, Q, head_dim)."""
    heads = (weights.shape[1], -1)
    mean = (weights.flatten(1, 2) @ features).unflatten(1, heads)
    attended = torch.einsum("bhqf,hef->bhqe", mean, value.weight.unflatten(0, heads))
    return attended + weights.sum(-1, keepdim=True) * value.bias.unflatten(0, heads)[:, None]


class MmlqAttention(nn.Module):
    """Multi-head attention of few queries (B, Q, d) to many features (B, S, feature_size).

    What is usually computed, `softmax(q · (W_k f + b_k)) (W_v f + b_v)`, is the same with `W_k` applied to the query
    and `W_v` to the mean of the features: two projections of some queries instead of hundreds of features. It is
    computed so where a layer's weight is all that the layer is.
    """

    def __init__(self, config: MmlqConfig, feature_size: int) -> None:
        super().__init__()
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.dropout = config.attention_probs_dropout_prob
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.k_proj = nn.Linear(feature_size, config.hidden_size)
        self.v_proj = nn.Linear(feature_size, config.hidden_size)
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self, queries: torch.Tensor, features: torch.Tensor, mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Attended values (B, Q, d) and the weights (B, heads, Q, S); `mask` (B, S) is true for what counts."""
        query = self._split_heads(self.q_proj(queries)) * self.head_dim**-0.5
        if is_plain(self.k_proj):
            scores = folded_scores(query, features, self.k_proj)
        else:
            scores = query @ self._split_heads(self.k_proj(features)).mT
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None, None], torch.finfo(scores.dtype).min)
        weights = scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
        weights = nn.functional.dropout(weights, self.dropout, training=self.training)
        if is_plain(self.v_proj):
            attended = folded_values(weights, features, self.v_proj)
        else:
            attended = weights @ self._split_heads(self.v_proj(features))
        return self.out_proj(attended.transpose(1, 2).flatten(2)), weights

    def _split_heads(self, states: torch.Tensor) -> torch.Tensor:
        """(B, T, d) to (B, heads, T, head_dim)."""
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
        mask: torch.Tensor | None,
        is_present: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Updated queries and attention weights; an image whose `is_present` (B,) is false keeps its queries."""
        update, weights = self.attention(self.norm(queries), features, mask)
        update = self.dropout(update)
        if is_present is not None:
            update = update * is_present[:, None, None]
            weights = weights * is_present[:, None, None, None]
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


class MmlqFeatures(NamedTuple):
    """What the queries of one modality attend to.

    Attributes:
        states: (B, S, feature_size).
        mask: (B, S), true for features that count; at least one of each image. `None`: all of them.
        is_present: (B,), false for an image that has nothing in this modality. `None`: all have.
    """

    states: torch.Tensor
    mask: torch.Tensor | None = None
    is_present: torch.Tensor | None = None


class MmlqQueries(nn.Module):
    """The learnable queries (1, Q, d) of each modality, and `no_comment` in place of the textual ones without text."""

    def __init__(self, config: MmlqConfig) -> None:
        super().__init__()
        counts = {name: config.num_queries(name) for name in config.modalities}
        if "textual" in counts:
            counts["no_comment"] = counts["textual"]
        for name, count in counts.items():
            self.register_parameter(name, nn.Parameter(torch.empty(1, count, config.hidden_size)))

    def forward(self, batch_size: int, has_comments: torch.Tensor | None) -> torch.Tensor:
        """Queries (B, Q, d) before the first block, visual ones in front; `has_comments` (B,), `None`: no image."""
        queries = {name: value.expand(batch_size, -1, -1) for name, value in self.named_parameters()}
        if "textual" in queries:
            unread = queries.pop("no_comment")
            queries["textual"] = (
                unread
                if has_comments is None
                else torch.where(has_comments[:, None, None], queries["textual"], unread)
            )
        return torch.cat(list(queries.values()), dim=1)


class MmlqInteractionBlock(GradientCheckpointingLayer):
    """A multi-modal interaction block: self-attention, cross-attention of each modality, feed-forward."""

    def __init__(self, config: MmlqConfig) -> None:
        super().__init__()
        modalities = config.modalities
        self.sizes = {name: config.num_queries(name) for name in modalities}
        self.self_attention = MmlqReplaceableLayer(
            config.self_attention, modalities, lambda: MmlqSelfAttentionLayer(config)
        )
        self.cross_attention = nn.ModuleDict(
            {name: MmlqCrossAttentionLayer(config, config.feature_size(name)) for name in modalities}
        )
        self.feed_forward = MmlqReplaceableLayer(config.feed_forward, modalities, lambda: MmlqFeedForwardLayer(config))

    def forward(
        self, hidden_states: torch.Tensor, *features: torch.Tensor | None
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Updated queries (B, Q, d) of all modalities, and the cross-attention weights by modality.

        Args:
            hidden_states: (B, Q, d).
            features: those of [`MmlqFeatures`] for each modality, one after the other, since reentrant checkpointing
                follows tensors only; without `states` the modality keeps its queries.
        """
        parts = hidden_states.split(list(self.sizes.values()), dim=1)
        queries = dict(self.self_attention(dict(zip(self.sizes, parts, strict=True))))
        attentions: dict[str, torch.Tensor] = {}
        for index, name in enumerate(self.sizes):
            states, mask, is_present = features[3 * index : 3 * index + 3]
            if states is not None:
                queries[name], attentions[name] = self.cross_attention[name](queries[name], states, mask, is_present)
        return torch.cat(list(self.feed_forward(queries).values()), dim=1), attentions


__all__ = ["MmlqFeatures", "MmlqInteractionBlock", "MmlqQueries"]
