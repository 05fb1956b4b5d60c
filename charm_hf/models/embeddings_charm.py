"""Tokens to embeddings: patch projection, position and scale of each, and the encoder's own tokens in front."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from .backbones_charm import get_backbone
from .configuration_charm import CharmConfig
from .positions_charm import sample_table


class CharmTokens(NamedTuple):
    """What is known of each token, (B, L) of them, or (N) in a row.

    Attributes:
        pixel_values: (..., C·P·P), channel first inside a token.
        scale_ids: (...), 0 for the coarsest.
        positions: (..., 2), row and column in the grid of the token's scale.
        grid_sizes: (..., 2), rows and columns of that grid.
    """

    pixel_values: torch.Tensor
    scale_ids: torch.Tensor
    positions: torch.Tensor
    grid_sizes: torch.Tensor


class CharmPatchProjection(nn.Conv2d):
    """The native convolution, for patches one at a time: one matrix product, which is several times as fast."""

    @classmethod
    def of(cls, native: Any) -> CharmPatchProjection:
        """Take over the weights of a convolution whose stride is its kernel size."""
        projection = cls(native.in_channels, native.out_channels, native.kernel_size, native.stride, device="meta")
        projection.weight, projection.bias = native.weight, native.bias
        projection._is_hf_initialized = getattr(native, "_is_hf_initialized", False)  # type: ignore[assignment]
        return projection

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """(N, C, P, P) to (N, d, 1, 1)."""
        return F.linear(patches.flatten(1), self.weight.flatten(1), self.bias)[..., None, None]


class CharmScaleEmbeddings(nn.Module):
    """What tells the scales apart: one learnt embedding a scale, where there is more than one."""

    def __init__(self, config: CharmConfig) -> None:
        super().__init__()
        self.scale_embeddings = (
            nn.Parameter(torch.empty(1, config.num_scales, config.hidden_size)) if config.num_scales > 1 else None
        )

    def forward(self, scale_ids: torch.Tensor) -> torch.Tensor | None:
        """(B, L) to (B, L, d)."""
        return None if self.scale_embeddings is None else F.embedding(scale_ids, self.scale_embeddings[0])


class CharmEmbeddings(nn.Module):
    """Tokens to embeddings: patch projection + scale embedding + position, with CLS and registers in front.

    It takes the place of the native embedding module and holds that module's weights under their own names.
    """

    def __init__(self, config: CharmConfig, native: nn.Module) -> None:
        super().__init__()
        self.config = config
        self.row = get_backbone(config.backbone_config.model_type)
        for name, module in native.named_children():
            self.add_module(name, module)
        for name, parameter in native.named_parameters(recurse=False):
            if name in self.row.unused:
                self.register_buffer(name, parameter.detach())
            else:
                self.register_parameter(name, parameter)
        if not self.row.flat_patches:
            projection = CharmPatchProjection.of(self.get_submodule(self.row.projection))
            self.set_submodule(self.row.projection, projection)
        self.dropout = nn.Dropout(getattr(config.backbone_config, "hidden_dropout_prob", 0.0))

    @torch.no_grad()
    def initialize(self, name: str) -> None:
        """Start a parameter of its own anew: the encoder's initialization looks for the native module."""
        nn.init.trunc_normal_(self.get_parameter(name), std=self.config.initializer_range)

    def forward(
        self, tokens: CharmTokens, scales: torch.Tensor | None, present: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Embed a batch of tokens.

        Args:
            tokens: (B, L).
            scales: (B, L, d) embeddings of their scales.
            present: (B, L), false for padding that is left out; its rows are zero.

        Returns:
            (B, 1+R+L, d).
        """
        if present is not None:
            tokens = CharmTokens(*(item[present] for item in tokens))
            scales = None if scales is None else scales[present]
        embeddings = self._project(tokens.pixel_values)
        if scales is not None:
            embeddings = embeddings + scales.to(embeddings.dtype)
        prefix, table = self._prefix_and_table(tokens.positions.device)
        if table is not None:
            interpolation = self.row.interpolation if self.config.position_mode == "exact" else "bicubic"
            positions = sample_table(table, tokens.positions, tokens.grid_sizes, interpolation)
            embeddings = embeddings + positions.to(embeddings.dtype)
        if present is not None:
            embeddings = embeddings.new_zeros(*present.shape, embeddings.shape[-1]).masked_scatter(
                present[..., None], embeddings
            )
        if prefix is not None:
            batch_size = embeddings.shape[0]  # `len` would make it a constant of an exported graph
            embeddings = torch.cat([prefix.expand(batch_size, -1, -1), embeddings], dim=1)
        return self.dropout(embeddings)

    def _prefix_and_table(self, device: torch.device) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """The tokens in front, (1+R, d) with their positions, and the positions of patches, (S·S, d)."""
        parts = [torch.atleast_2d(self.get_parameter(name)).flatten(0, -2) for name in self.row.prefix]
        prefix = torch.cat(parts) if parts else None
        if self.row.position_table is None:
            return prefix, None
        table: Any = getattr(self, self.row.position_table)
        if hasattr(table, "num_embeddings"):  # called, so that hooks which fetch its weight run
            table = table(torch.arange(table.num_embeddings, device=device))
        table = table.flatten(0, -2)
        count = len(table) - int(len(table) ** 0.5) ** 2
        if prefix is not None:
            prefix = torch.cat([prefix[:count] + table[:count], prefix[count:]])
        return prefix, table[count:]

    def _project(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Patches (..., C·P·P) to (..., d)."""
        projection: Any = self.get_submodule(self.row.projection)
        size = self.config.patch_size
        patches = pixel_values.to(projection.weight.dtype).unflatten(-1, (-1, size, size))
        if self.row.flat_patches:
            return projection(patches.movedim(-3, -1).flatten(-3))
        return projection(patches.flatten(0, -4)).flatten(1).unflatten(0, pixel_values.shape[:-1])


__all__ = ["CharmEmbeddings", "CharmScaleEmbeddings", "CharmTokens"]
