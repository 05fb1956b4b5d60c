"""The Charm model: a native vision encoder over multi-scale tokens, and a head that scores (CVPR 2025)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, logging
from transformers.utils.generic import can_return_tuple
from transformers.utils.output_capturing import capture_outputs

from .backbones_charm import as_backbone_config, get_backbone, leave_out_parts, pixel_statistics, vision_tower
from .checkpoint_charm import CheckpointMixin, refuse_misfit
from .configuration_charm import CharmConfig
from .embeddings_charm import CharmEmbeddings, CharmScaleEmbeddings, CharmTokens
from .packed_attention_charm import PACKED_SDPA, PackedBounds, can_pack, pack_images, tell_bounds
from .positions_charm import (
    REFERENCE_EXCESS,
    grid_sizes,
    jitter_centres,
    patch_centres,
    raster_order,
    rotate_by,
)
from .scores_charm import AestheticOutput, aesthetic_loss, interpret_logits


logger = logging.get_logger(__name__)


class CharmPreTrainedModel(CheckpointMixin, PreTrainedModel):
    """Loading and initialization shared by the Charm models."""

    config_class = CharmConfig
    config: CharmConfig
    base_model_prefix = "charm"
    head_prefix = "classifier."
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    _no_split_modules = ("CharmScaleEmbeddings", "CharmEmbeddings")  # and those that the backbone names
    _can_compile_fullgraph = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, CharmScaleEmbeddings) and module.scale_embeddings is not None:
            init.normal_(module.scale_embeddings, mean=0.0, std=self.config.initializer_range)


class CharmModel(CharmPreTrainedModel):
    """The encoder without a head: tokens of [`CharmImageProcessor`] in, hidden states out."""

    # What may be asked for. The backbone's own layers, whose classes differ, carry the hooks that record it.
    _can_record_outputs = {"hidden_states": "backbone_layer", "attentions": "backbone_attention"}  # noqa: RUF012

    def __init__(self, config: CharmConfig) -> None:
        super().__init__(config)
        self.row = get_backbone(config.backbone_config.model_type)
        self.embeddings = CharmScaleEmbeddings(config)
        self.backbone = AutoModel.from_config(config.backbone_config)
        leave_out_parts(self.backbone, self.row.unused_parts(config.pooling))
        native = self.backbone.get_submodule(self.row.embeddings)
        self.backbone.set_submodule(self.row.embeddings, CharmEmbeddings(config, native))
        if self.backbone.config._attn_implementation == "sdpa":
            # The same attention, which can leave the padding of a batch out.
            self.backbone.set_attn_implementation(PACKED_SDPA)
        self.post_init()

    @property
    def _token_embeddings(self) -> nn.Module:
        return self.backbone.get_submodule(self.row.embeddings)

    def get_input_embeddings(self) -> nn.Module:
        """The patch projection."""
        return self._token_embeddings.get_submodule(self.row.projection)

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the patch projection, (N, C, P, P) to (N, d, 1, 1)."""
        self._token_embeddings.set_submodule(self.row.projection, value)

    @can_return_tuple
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        pixel_values: torch.Tensor,
        pixel_attention_mask: torch.Tensor | None = None,
        scale_ids: torch.Tensor | None = None,
        patch_positions: torch.Tensor | None = None,
        spatial_shapes: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPooling:
        """Encode a batch of tokens.

        Args:
            pixel_values: (B, L, C·P·P), channel first inside a token.
            pixel_attention_mask: (B, L), 1 for a token and 0 for padding; all ones if not given.
            scale_ids: (B, L). patch_positions: (B, L, 2). spatial_shapes: (B, num_scales, 2).
            kwargs: `output_hidden_states`, `output_attentions` (eager attention only).

        Returns:
            `last_hidden_state` (B, 1+R+L, d) as the encoder itself gives it: after the final layernorm (CLIP: before),
            R registers behind CLS, where it has these. `pooler_output` (B, 2d): CLS, or what the encoder's own
            attention pooling gives, beside the mean of the true patches; (B, d) the mean alone (see `config.pooling`).

        Raises:
            ValueError: for inputs of other shapes, or attentions asked for under another implementation than eager.
        """
        if scale_ids is None or patch_positions is None or spatial_shapes is None:
            raise ValueError(
                "Charm needs `scale_ids`, `patch_positions` and `spatial_shapes` beside `pixel_values`: pass "
                "everything that `CharmImageProcessor` returns, `model(**inputs)`."
            )
        mask = torch.ones_like(scale_ids) if pixel_attention_mask is None else pixel_attention_mask
        self._check_inputs(pixel_values, spatial_shapes)
        recorded = {
            name: kwargs.get(name) or getattr(self.config, name)
            for name in ("output_hidden_states", "output_attentions")
        }
        self._check_attention(bool(recorded["output_attentions"]))
        sizes, positions = grid_sizes(scale_ids, spatial_shapes), patch_positions
        if self.config.position_mode == "reference":
            sizes, positions = sizes + REFERENCE_EXCESS, raster_order(scale_ids, patch_positions, mask)
        tokens = CharmTokens(pixel_values, scale_ids, positions, sizes)
        packs = not any(recorded.values()) and self._can_leave_out_padding(mask)
        present = mask.bool() if packs else None
        embeddings = self._token_embeddings(tokens, self.embeddings(scale_ids), present)
        num_prefix = embeddings.shape[1] - pixel_values.shape[1]
        mask = F.pad(mask.to(embeddings.device).bool(), (num_prefix, 0), value=True)
        embeddings = self._norm(self.row.pre_norm, embeddings)
        rotations = self._rotations(tokens, num_prefix, embeddings) if self.row.rotary else ()
        hidden_states = (self._encode_packed if packs else self._encode_padded)(embeddings, mask, rotations)
        return BaseModelOutputWithPooling(
            last_hidden_state=hidden_states, pooler_output=self._pool(hidden_states, mask, num_prefix)
        )

    def _norm(self, name: str | None, hidden_states: torch.Tensor) -> torch.Tensor:
        return hidden_states if name is None else self.backbone.get_submodule(name)(hidden_states)

    def _rotations(self, tokens: CharmTokens, num_prefix: int, embeddings: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Cosines and sines (B, T, D) of the angles by which queries and keys of the tokens are turned."""
        config = self.backbone.config
        centres = patch_centres(tokens.positions, tokens.grid_sizes)
        if self.training:
            centres = jitter_centres(
                centres, config.pos_embed_shift, config.pos_embed_jitter, config.pos_embed_rescale
            )
        head_size = config.hidden_size // config.num_attention_heads
        turned = rotate_by(centres, head_size, config.rope_theta, num_prefix)
        return tuple(part.to(embeddings) for part in turned)

    def _can_leave_out_padding(self, mask: torch.Tensor) -> bool:
        """Whether there is padding, and the attention can be told where the images of a packed batch begin.

        Traced layers expect a whole batch; stochastic depth drops whole images; checkpointing cannot save nested
        tensors.
        """
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            return False
        implementation, on_cpu = self.backbone.config._attn_implementation, mask.device.type == "cpu"
        if implementation == PACKED_SDPA and not on_cpu and self.config._attn_implementation != PACKED_SDPA:
            return False  # nobody asked for nested tensors, whose bookkeeping costs time
        if not (implementation == PACKED_SDPA or self.row.passes_bounds) or not can_pack(implementation):
            return False
        if bool(mask.all()):
            return False
        if not self.training:
            return True
        checkpoints = any(getattr(module, "gradient_checkpointing", False) for module in self.modules())
        drops_images = getattr(self.backbone.config, "drop_path_rate", 0.0) > 0
        return not (drops_images or (checkpoints and not on_cpu))

    def _encode_padded(
        self, embeddings: torch.Tensor, mask: torch.Tensor, rotations: tuple[torch.Tensor, ...]
    ) -> torch.Tensor:
        """Encode embeddings (B, T, d) whose padding is masked (B, T)."""
        attention_mask = create_bidirectional_mask(
            config=self.backbone.config, inputs_embeds=embeddings, attention_mask=mask
        )
        return self._run_layers(embeddings, attention_mask, rotations).masked_fill(~mask[..., None], 0)

    def _encode_packed(
        self, embeddings: torch.Tensor, tokens: torch.Tensor, rotations: tuple[torch.Tensor, ...]
    ) -> torch.Tensor:
        """Encode the tokens of a batch (B, T, d) as one sequence without padding; on a CPU as several."""
        encoded = []
        for pack in pack_images(tokens.sum(1)):
            present = tokens[pack]
            bounds, told = tell_bounds(present.sum(1), self.backbone.config._attn_implementation)
            turned = tuple(part[pack][present][None] for part in rotations)
            packed = self._run_layers(embeddings[pack][present][None], bounds, turned, **told)
            encoded.append(packed.new_zeros(embeddings[pack].shape).masked_scatter(present[..., None], packed))
        return torch.cat(encoded)

    def _run_layers(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | PackedBounds | None,
        rotations: tuple[torch.Tensor, ...],
        **kwargs: Any,
    ) -> torch.Tensor:
        if rotations:
            kwargs["position_embeddings"] = tuple(part[:, None] for part in rotations)
        for layer in self.backbone.get_submodule(self.row.layers):
            hidden_states = layer(hidden_states, attention_mask, **kwargs)
        return self._norm(self.row.norm, hidden_states)

    def _pool(self, hidden_states: torch.Tensor, mask: torch.Tensor, num_prefix: int) -> torch.Tensor:
        """What the head sees, (B, 2d) or (B, d), of hidden states whose padding is zero and their mask (B, T)."""
        if self.row.pooled_norm is not None:
            hidden_states = self._norm(self.row.pooled_norm, hidden_states).masked_fill(~mask[..., None], 0)
        count = mask[:, num_prefix:].sum(1, keepdim=True).clamp(min=1)
        mean = hidden_states[:, num_prefix:].sum(1) / count.to(hidden_states.dtype)
        if self.config.pooling == "mean":
            return mean
        if self.config.pooling == "cls":
            return torch.cat([hidden_states[:, 0], mean], dim=-1)
        head: Any = self.backbone.get_submodule(str(self.row.pooling_head))
        probe = head.probe.expand(hidden_states.shape[0], -1, -1)
        pooled = head.attention(probe, hidden_states, hidden_states, key_padding_mask=~mask, need_weights=False)[0]
        pooled = pooled + head.mlp(head.layernorm(pooled))
        return torch.cat([pooled[:, 0], mean], dim=-1)

    def _check_inputs(self, pixel_values: torch.Tensor, spatial_shapes: torch.Tensor) -> None:
        channels, patch_size = self.backbone.config.num_channels, self.config.patch_size
        expected = channels * patch_size**2
        if pixel_values.ndim != 3 or pixel_values.shape[-1] != expected:
            raise ValueError(
                f"`pixel_values` must be (batch, tokens, {expected}) for {patch_size}×{patch_size} patches of "
                f"{channels} channels, got {tuple(pixel_values.shape)}. Does the processor's `patch_size` fit?"
            )
        if spatial_shapes.shape[-2] != self.config.num_scales:
            raise ValueError(
                f"The model has {self.config.num_scales} scales, the tokens have {spatial_shapes.shape[-2]}: set "
                f"`num_scales={self.config.num_scales}` in the processor."
            )

    def _check_attention(self, wants_attentions: bool) -> None:
        implementation = self.config._attn_implementation
        if wants_attentions and self.backbone.config._attn_implementation != "eager":
            raise ValueError(
                f"Attentions are only computed by eager attention, this model uses {implementation!r}: load it with "
                '`attn_implementation="eager"`.'
            )


@dataclass
class CharmAestheticOutput(AestheticOutput):
    """What [`CharmForAestheticScoring`] returns: the fields of [`AestheticOutput`], and those of the encoder.

    Attributes:
        last_hidden_state: (B, 1+R+L, d): CLS and R register tokens, where the encoder has them, and patch tokens. Rows
            of padding hold no information.
        pooler_output: (B, 2d) or (B, d), see [`CharmModel`].
        hidden_states, attentions: of every layer, when asked for.
    """

    attentions: tuple[torch.Tensor, ...] | None = None


class CharmForAestheticScoring(CharmPreTrainedModel):
    """Charm with a head: softmax over rating bins, or a sigmoid (with AADB's attributes beside it)."""

    def __init__(self, config: CharmConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.charm = CharmModel(config)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(config.pooled_size, config.num_labels)
        self.post_init()

    @classmethod
    def from_backbone(
        cls,
        backbone: str | PretrainedConfig | PreTrainedModel | Any,
        dataset: str | None = None,
        backbone_kwargs: Mapping[str, Any] | None = None,
        **config_kwargs: Any,
    ) -> CharmForAestheticScoring:
        """Build a model on a pretrained encoder; head and scale embeddings start at random.

        Of a Charm checkpoint the scale embeddings are taken, too; the head is new.

        Args:
            backbone: repository or local folder of a checkpoint of a type in `BACKBONES`, of two towers (CLIP, SigLIP)
                whose vision tower is one, or of Charm; such a model, or its configuration (random weights).
            dataset: take head, bins and score range from the preset of a published dataset.
            backbone_kwargs: for the backbone's `from_pretrained` (`revision`, `cache_dir`, `token`, …).
            config_kwargs: for [`CharmConfig`].

        Raises:
            ValueError: for another type of backbone, the message lists those supported; or if weights are missing.
        """
        source = _load_source(backbone, backbone_kwargs or {})
        found, inherited = (backbone if source is None else source.config), {}
        if isinstance(found, CharmConfig):
            names = ("num_scales", "position_mode", "pooling", "pixel_statistics")
            inherited = {name: getattr(found, name) for name in names}
            if source is not None and config_kwargs.get("num_scales", found.num_scales) != found.num_scales:
                raise ValueError(f"The Charm checkpoint has {found.num_scales} scales, got {config_kwargs}.")
            found = found.backbone_config
        elif not isinstance(backbone, (PretrainedConfig, PreTrainedModel)):
            inherited["pixel_statistics"] = pixel_statistics(backbone, **(backbone_kwargs or {})) or None
        build = CharmConfig if dataset is None else partial(CharmConfig.for_dataset, dataset)
        model = cls(build(backbone_config=found, **{**inherited, **config_kwargs}))
        if isinstance(source, CharmModel):
            model.charm.load_state_dict(source.state_dict())
        elif source is not None:
            unused = model.charm.row.unused_parts(model.config.pooling)
            weights = {name: value for name, value in source.state_dict().items() if name.split(".")[0] not in unused}
            model.charm.backbone.load_state_dict(weights, strict=True)
        return model

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        pixel_attention_mask: torch.Tensor | None = None,
        scale_ids: torch.Tensor | None = None,
        patch_positions: torch.Tensor | None = None,
        spatial_shapes: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        attribute_targets: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> CharmAestheticOutput:
        """Score a batch of tokens; the inputs are those of [`CharmModel`].

        Args:
            labels: (B,) scores in the data set's own units, or (B, K) distributions over the bins (normalized to sum
                1). Scores give the mean squared error of normalized scores, distributions the EMD loss (r = 2).
            attribute_targets: (B, num_attributes) in [-1, 1], whose mean squared error is added.

        Raises:
            ValueError: for labels of another shape, or attributes that the head does not have.
        """
        outputs = self.charm(pixel_values, pixel_attention_mask, scale_ids, patch_positions, spatial_shapes, **kwargs)
        logits = self.classifier(self.dropout(outputs.pooler_output))
        predicted = interpret_logits(logits, self.config)
        loss = None
        if labels is not None:
            loss = aesthetic_loss(predicted, labels, self.config.score_range, attribute_targets)
        return CharmAestheticOutput(
            loss=loss,
            logits=logits,
            **predicted._asdict(),
            last_hidden_state=outputs.last_hidden_state,
            pooler_output=outputs.pooler_output,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


def _load_source(backbone: Any, options: Mapping[str, Any]) -> PreTrainedModel | None:
    """The encoder of a model, folder or repository; `None` for a configuration."""
    if isinstance(backbone, PretrainedConfig):
        return None
    if isinstance(backbone, PreTrainedModel):
        return vision_tower(backbone)
    config = AutoConfig.from_pretrained(backbone, **options)
    if isinstance(config, CharmConfig):
        return CharmModel.from_pretrained(backbone, **options)
    tower = as_backbone_config(config)  # refuses an unsupported type before its weights are fetched
    row = get_backbone(tower.model_type)
    if row.licence is not None and not os.path.isdir(backbone):
        logger.warning("Weights of %s come under %r: read it before you use them.", backbone, row.licence)
    options = {"use_safetensors": True, **options}
    source, loaded = AutoModel.from_pretrained(backbone, config=tower, output_loading_info=True, **options)
    missing = [name for name in loaded["missing_keys"] if set(row.unused).isdisjoint(name.split("."))]
    refuse_misfit(type(source).__name__, backbone, missing=missing)
    return source


__all__ = ["CharmForAestheticScoring", "CharmModel", "CharmPreTrainedModel"]
