"""The Charm model: a native DINOv2 or ViT encoder over multi-scale tokens, and a head that scores (CVPR 2025)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils.generic import can_return_tuple
from transformers.utils.output_capturing import capture_outputs

from .checkpoint_charm import CheckpointMixin
from .configuration_charm import CharmConfig
from .packed_attention_charm import can_pack, packing_arguments
from .scores_charm import AestheticOutput, aesthetic_loss, interpret_logits


# ---------------------------------------------------------------------------------------------------------------------
# Positions: where a token stands in its scale's grid, as a row of the backbone's position table.


def bicubic_weights(
    index: torch.Tensor, size: torch.Tensor, table_size: int, antialias: bool, extra: float = 0.0
) -> torch.Tensor:
    """Weights with which torch's bicubic interpolation mixes a table of `table_size` entries.

    A tensor-only form of `F.interpolate`, for tracing, where grid sizes are not known as numbers.

    Args:
        index: (...) rows (or columns) in a grid.
        size: (...) number of rows of that grid.
        antialias: widen the filter when the grid is smaller than the table, with torch's other cubic coefficient.
        extra: added to the size when the scale factor is formed (0.1 in the released code).

    Returns:
        (..., table_size) float32.
    """
    scale = table_size / (size.clamp(min=1).float() + extra)[..., None]
    centre = (index.float()[..., None] + 0.5) * scale - 0.5
    entries = torch.arange(table_size, device=index.device, dtype=torch.float32)
    if antialias:
        weights = _cubic((entries - centre) / scale.clamp(min=1), -0.5)
        return weights / weights.sum(-1, keepdim=True)
    taps = centre.floor() + torch.arange(-1, 3, device=index.device)
    weights = _cubic(taps - centre, -0.75)
    hits = taps.clamp(0, table_size - 1)[..., None] == entries
    return (weights[..., None] * hits).sum(-2)


def _cubic(x: torch.Tensor, a: float) -> torch.Tensor:
    """Keys' cubic kernel."""
    x = x.abs()
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return torch.where(x <= 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


def raster_order(scale_ids: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Give the i-th token of a scale the i-th position, in raster order, of all that scale's tokens.

    The released code lists tokens region by region but picks their position rows in raster order; checkpoints trained
    so need the same mismatch.

    Args:
        scale_ids, mask: (B, L). positions: (B, L, 2).

    Returns:
        (B, L, 2) permuted positions; padding stays behind.
    """
    columns = positions[..., 1].amax() + 1
    cells = (positions[..., 0].amax() + 1) * columns
    raster = positions[..., 0] * columns + positions[..., 1]
    # Tokens already come sorted by scale, so sorting by (scale, raster) permutes inside each scale only.
    key = torch.where(mask.bool(), scale_ids * cells + raster, torch.iinfo(torch.int64).max)
    order = key.argsort(dim=1, stable=True)
    return positions.gather(1, order[..., None].expand(-1, -1, 2))


class CharmPositionCache:
    """Interpolated position tables by grid, kept while the backbone's own table stays what it was.

    Validity is decided by the table's values: whatever changes them (an optimizer, `load_state_dict`, an edit in place
    or through `.data`, a move to another dtype or device) makes the cache empty.
    """

    def __init__(self, max_grids: int = 256) -> None:
        self.max_grids = max_grids
        self._grids: dict[tuple[int, int], torch.Tensor] = {}
        self._snapshot: torch.Tensor | None = None

    def validate(self, table: torch.Tensor) -> None:
        """Forget everything unless `table` equals the one that the cached grids were made from."""
        snapshot = self._snapshot
        same = (
            snapshot is not None
            and snapshot.dtype == table.dtype
            and snapshot.device == table.device
            and torch.equal(snapshot, table)
        )
        if not same or len(self._grids) > self.max_grids:
            self._grids.clear()
            self._snapshot = table.detach().clone()

    def get(self, grid: tuple[int, int]) -> torch.Tensor | None:
        """Rows of a grid, (rows · columns, d), if known."""
        return self._grids.get(grid)

    def put(self, grid: tuple[int, int], rows: torch.Tensor) -> None:
        """Keep the rows of a grid."""
        self._grids[grid] = rows.detach()

    def __len__(self) -> int:
        return len(self._grids)

    def __deepcopy__(self, memo: dict[int, Any]) -> CharmPositionCache:
        return CharmPositionCache(self.max_grids)

    def __reduce__(self) -> tuple[Any, ...]:
        return CharmPositionCache, (self.max_grids,)


# ---------------------------------------------------------------------------------------------------------------------
# Modules.


def on_its_device(module: nn.Module) -> AbstractContextManager:
    """Bring the offloaded weights of a module in while they are used without calling its forward."""
    if not hasattr(module, "_hf_hook"):
        return nullcontext()
    from accelerate.utils import align_module_device

    return align_module_device(module)


class CharmEmbeddings(nn.Module):
    """Tokens to embeddings: patch projection + scale embedding + position, with CLS and registers in front.

    Projection, CLS, registers and the position table are the native backbone's own; only the scale embedding is added.
    """

    def __init__(self, config: CharmConfig) -> None:
        super().__init__()
        self.config = config
        self.scale_embeddings = (
            nn.Parameter(torch.empty(1, config.num_scales, config.hidden_size)) if config.num_scales > 1 else None
        )
        self.dropout = nn.Dropout(config.backbone_config.hidden_dropout_prob)
        self.position_cache = CharmPositionCache()

    def embed(
        self,
        native: nn.Module,
        pixel_values: torch.Tensor,
        pixel_attention_mask: torch.Tensor,
        scale_ids: torch.Tensor,
        patch_positions: torch.Tensor,
        spatial_shapes: torch.Tensor,
    ) -> torch.Tensor:
        """Embed (B, L, C·P·P) tokens into (B, 1+R+L, d) with the backbone's `native` embedding module.

        Not called `forward`: the hooks of an offloaded model would try to move the module among its arguments.
        """
        projection: Any = native.get_submodule("patch_embeddings.projection")
        with on_its_device(projection):
            weight = projection.weight
            pixel_values = pixel_values.to(device=weight.device, dtype=weight.dtype)
            embeddings = F.linear(pixel_values, weight.flatten(1), projection.bias)
        scale_ids, patch_positions, spatial_shapes, pixel_attention_mask = (
            tensor.to(embeddings.device)
            for tensor in (scale_ids, patch_positions, spatial_shapes, pixel_attention_mask)
        )
        with on_its_device(self):
            if self.scale_embeddings is not None:
                embeddings = embeddings + F.embedding(scale_ids, self.scale_embeddings[0].to(embeddings))
        return self.dropout(
            self._add_positions(native, embeddings, pixel_attention_mask, scale_ids, patch_positions, spatial_shapes)
        )

    def _add_positions(
        self,
        native: Any,
        embeddings: torch.Tensor,
        pixel_attention_mask: torch.Tensor,
        scale_ids: torch.Tensor,
        patch_positions: torch.Tensor,
        spatial_shapes: torch.Tensor,
    ) -> torch.Tensor:
        """Add each token's position and put CLS and registers in front."""
        with on_its_device(native):
            if self.config.position_mode == "reference":
                patch_positions = raster_order(scale_ids, patch_positions, pixel_attention_mask)
            positions = self._positions(native, scale_ids, patch_positions, spatial_shapes)
            prefix = (native.cls_token + native.position_embeddings[:, :1]).expand(embeddings.shape[0], -1, -1)
            parts = [prefix, embeddings + positions.to(embeddings.dtype)]
            if (registers := getattr(native, "register_tokens", None)) is not None:
                parts.insert(1, registers.expand(embeddings.shape[0], -1, -1))
            return torch.cat(parts, dim=1)

    def _positions(
        self, native: Any, scale_ids: torch.Tensor, patch_positions: torch.Tensor, spatial_shapes: torch.Tensor
    ) -> torch.Tensor:
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            return self._traceable_positions(native, scale_ids, patch_positions, spatial_shapes)
        use_cache = not (self.training or (torch.is_grad_enabled() and native.position_embeddings.requires_grad))
        if use_cache:
            self.position_cache.validate(native.position_embeddings)
        tables: dict[tuple[int, int], torch.Tensor] = {}
        offsets: list[int] = []
        length = 0
        starts: dict[tuple[int, int], int] = {}
        for rows, columns in spatial_shapes.flatten(0, 1).tolist():
            grid = (rows, columns)
            if grid not in tables and rows * columns > 0:
                tables[grid] = self._grid(native, grid, use_cache)
                starts[grid] = length
                length += rows * columns
            offsets.append(starts.get(grid, 0))
        offset = torch.tensor(offsets, device=scale_ids.device).view(spatial_shapes.shape[:2])
        columns_of_token = spatial_shapes[..., 1].gather(1, scale_ids)
        index = offset.gather(1, scale_ids) + patch_positions[..., 0] * columns_of_token + patch_positions[..., 1]
        return F.embedding(index, torch.cat(list(tables.values())))

    def _grid(self, native: Any, grid: tuple[int, int], use_cache: bool) -> torch.Tensor:
        rows = self.position_cache.get(grid) if use_cache else None
        if rows is None:
            rows = self._interpolate(native, grid)
            if use_cache:
                self.position_cache.put(grid, rows)
        return rows

    def _interpolate(self, native: Any, grid: tuple[int, int]) -> torch.Tensor:
        """Position rows of a grid, (rows · columns, d): the backbone's own interpolation, or the released one."""
        rows, columns = grid
        table = native.position_embeddings
        if self.config.position_mode == "exact":
            # Only the shape of its first argument is read.
            shape_of = torch.empty(1, 1 + rows * columns, table.shape[-1], device="meta")
            size = self.config.patch_size
            return native.interpolate_pos_encoding(shape_of, rows * size, columns * size)[0, 1:]
        side = int((table.shape[1] - 1) ** 0.5)
        square = table[0, 1:].float().T.reshape(1, -1, side, side)
        scale_factor = ((rows + 0.1) / side, (columns + 0.1) / side)
        resized = F.interpolate(square, scale_factor=scale_factor, mode="bicubic", align_corners=False)
        if resized.shape[-2:] != grid:
            raise RuntimeError(f"Interpolated positions to {tuple(resized.shape[-2:])}, expected {grid}.")
        return resized[0].flatten(1).T.to(table.dtype)

    def _traceable_positions(
        self, native: Any, scale_ids: torch.Tensor, patch_positions: torch.Tensor, spatial_shapes: torch.Tensor
    ) -> torch.Tensor:
        """The same positions from tensor operations only, for `torch.compile` and export: (B, L, d)."""
        table = native.position_embeddings[0, 1:]
        side = int(table.shape[0] ** 0.5)
        exact = self.config.position_mode == "exact"
        antialias = exact and self.config.backbone_config.model_type == "dinov2_with_registers"
        shape_of_token = spatial_shapes.gather(1, scale_ids[..., None].expand(-1, -1, 2))
        rows, columns = (
            bicubic_weights(
                patch_positions[..., axis], shape_of_token[..., axis], side, antialias, 0.0 if exact else 0.1
            )
            for axis in (0, 1)
        )
        weights = (rows[..., :, None] * columns[..., None, :]).flatten(-2)
        return (weights @ table.float()).to(table.dtype)


class CharmPreTrainedModel(CheckpointMixin, PreTrainedModel):
    """Loading and initialization shared by the Charm models."""

    config_class = CharmConfig
    config: CharmConfig
    base_model_prefix = "charm"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    _no_split_modules = (
        "CharmEmbeddings",
        *(
            f"{prefix}{part}"
            for prefix in ("Dinov2", "Dinov2WithRegisters", "ViT")
            for part in ("Embeddings", "Layer")
        ),
    )
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, CharmEmbeddings) and module.scale_embeddings is not None:
            init.normal_(module.scale_embeddings, mean=0.0, std=0.02)


# Where each native backbone keeps its layers.
_LAYERS = {"dinov2": "encoder.layer", "dinov2_with_registers": "encoder.layer", "vit": "layers"}


class CharmModel(CharmPreTrainedModel):
    """The encoder without a head: tokens of [`CharmImageProcessor`] in, hidden states out."""

    # A CPU encodes the images of each length apart, which is faster there; tests pack on it nevertheless.
    _packs_on_cpu = False
    # What may be asked for; the backbone's own layers carry the hooks that record it.
    _can_record_outputs = {"hidden_states": "backbone_layer", "attentions": "backbone_attention"}  # noqa: RUF012

    def __init__(self, config: CharmConfig) -> None:
        super().__init__(config)
        self.embeddings = CharmEmbeddings(config)
        self.backbone = AutoModel.from_config(config.backbone_config)
        # Never used here; left in, they would be parameters without a gradient in data-parallel training.
        if getattr(self.backbone, "pooler", None) is not None:
            self.backbone.pooler = None
        if getattr(self.backbone.embeddings, "mask_token", None) is not None:
            self.backbone.embeddings.mask_token.requires_grad_(False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The patch projection."""
        return self.backbone.embeddings.patch_embeddings

    @can_return_tuple
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        pixel_values: torch.Tensor,
        pixel_attention_mask: torch.Tensor | None = None,
        scale_ids: torch.Tensor | None = None,
        patch_positions: torch.Tensor | None = None,
        spatial_shapes: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPooling:
        """Encode a batch of tokens.

        Args:
            pixel_values: (B, L, C·P·P), channel first inside a token.
            pixel_attention_mask: (B, L), 1 for a token and 0 for padding; all ones if not given.
            scale_ids: (B, L). patch_positions: (B, L, 2). spatial_shapes: (B, num_scales, 2).
            kwargs: `output_hidden_states`, `output_attentions` (eager attention only).

        Returns:
            `last_hidden_state` (B, 1+R+L, d) after the final layernorm, `pooler_output` (B, 2d): CLS beside the mean
            of the true patch tokens.

        Raises:
            ValueError: for inputs of other shapes, or attentions asked for under another implementation than eager.
        """
        self._check_inputs(pixel_values, scale_ids, patch_positions, spatial_shapes, kwargs)
        # Checked above, which a type checker cannot see.
        assert scale_ids is not None
        assert patch_positions is not None
        assert spatial_shapes is not None
        if pixel_attention_mask is None:
            pixel_attention_mask = torch.ones_like(scale_ids)
        encode = self._choose_encoding(pixel_attention_mask, kwargs)
        hidden_states = encode(pixel_values, pixel_attention_mask, scale_ids, patch_positions, spatial_shapes)
        num_prefix = hidden_states.shape[1] - pixel_values.shape[1]
        return BaseModelOutputWithPooling(
            last_hidden_state=hidden_states,
            pooler_output=_pool(hidden_states, pixel_attention_mask, num_prefix),
        )

    def _choose_encoding(self, mask: torch.Tensor, kwargs: Mapping[str, Any]) -> Callable[..., torch.Tensor]:
        """Choose how to encode a batch: without its padding where there is some and nothing else stands against it.

        Layers that are recorded or traced expect a whole batch, once; stochastic depth drops whole images;
        checkpointing cannot save nested tensors.
        """
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            return self._encode
        on_cpu = self.backbone.layernorm.weight.device.type == "cpu" and mask.device.type == "cpu"
        packs = can_pack(self.backbone.config._attn_implementation) and (self._packs_on_cpu or not on_cpu)
        recorded = any(
            kwargs.get(name) or getattr(self.config, name) for name in ("output_hidden_states", "output_attentions")
        )
        if recorded or not (packs or on_cpu) or bool(mask.all()):
            return self._encode
        if packs:
            drops_images = getattr(self.backbone.config, "drop_path_rate", 0.0) > 0
            checkpoints = any(getattr(module, "gradient_checkpointing", False) for module in self.modules())
            needs_images_apart = self.training and (drops_images or checkpoints)
            return self._encode if needs_images_apart else self._encode_packed
        # On a CPU a larger batch is not faster a token, so that padding costs time that nothing gives back.
        padded_at_the_end = bool((mask[:, 1:] <= mask[:, :-1]).all())
        return self._encode_by_length if padded_at_the_end else self._encode

    def _encode(
        self, pixel_values: torch.Tensor, pixel_attention_mask: torch.Tensor, *layout: torch.Tensor
    ) -> torch.Tensor:
        """Embed and encode a batch whose padding is masked: (B, 1+R+L, d)."""
        hidden_states, token_mask = self._embed(pixel_values, pixel_attention_mask, *layout)
        attention_mask = create_bidirectional_mask(
            config=self.backbone.config, inputs_embeds=hidden_states, attention_mask=token_mask
        )
        return self._run_layers(hidden_states, attention_mask)

    def _encode_packed(
        self, pixel_values: torch.Tensor, pixel_attention_mask: torch.Tensor, *layout: torch.Tensor
    ) -> torch.Tensor:
        """Encode all tokens of a batch as one sequence without padding, whose rows become zeros."""
        hidden_states, token_mask = self._embed(pixel_values, pixel_attention_mask, *layout)
        tokens = token_mask.bool()
        packed = self._run_layers(hidden_states[tokens][None], None, **packing_arguments(tokens.sum(1)))
        encoded = packed.new_zeros(hidden_states.shape)
        encoded[tokens] = packed[0]
        return encoded

    def _embed(
        self, pixel_values: torch.Tensor, pixel_attention_mask: torch.Tensor, *layout: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Embed tokens: (B, 1+R+L, d), and the mask that counts CLS and registers in."""
        hidden_states = self.embeddings.embed(self.backbone.embeddings, pixel_values, pixel_attention_mask, *layout)
        num_prefix = hidden_states.shape[1] - pixel_values.shape[1]
        return hidden_states, F.pad(pixel_attention_mask.to(hidden_states.device), (num_prefix, 0), value=1)

    def _run_layers(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None, **kwargs: Any
    ) -> torch.Tensor:
        for layer in self.backbone.get_submodule(_LAYERS[self.backbone.config.model_type]):
            hidden_states = layer(hidden_states, attention_mask, **kwargs)
        return self.backbone.layernorm(hidden_states)

    def _encode_by_length(
        self,
        pixel_values: torch.Tensor,
        pixel_attention_mask: torch.Tensor,
        scale_ids: torch.Tensor,
        patch_positions: torch.Tensor,
        spatial_shapes: torch.Tensor,
    ) -> torch.Tensor:
        """Embed and encode the images of one length at a time, without their padding, whose rows become zeros."""
        lengths = pixel_attention_mask.sum(1)
        encoded = None
        for length in lengths.unique().tolist():
            (images,) = (lengths == length).nonzero(as_tuple=True)
            tokens = (pixel_values, pixel_attention_mask, scale_ids, patch_positions)
            alone = self._encode(*(tensor[images, :length] for tensor in tokens), spatial_shapes[images])
            num_prefix = alone.shape[1] - length
            if encoded is None:
                shape = len(pixel_values), num_prefix + pixel_values.shape[1], alone.shape[-1]
                encoded = alone.new_zeros(shape)
            encoded[images, : num_prefix + length] = alone
        assert encoded is not None
        return encoded

    def _check_inputs(
        self,
        pixel_values: torch.Tensor,
        scale_ids: torch.Tensor | None,
        patch_positions: torch.Tensor | None,
        spatial_shapes: torch.Tensor | None,
        kwargs: Mapping[str, Any],
    ) -> None:
        if scale_ids is None or patch_positions is None or spatial_shapes is None:
            raise ValueError(
                "Charm needs `scale_ids`, `patch_positions` and `spatial_shapes` beside `pixel_values`: pass "
                "everything that `CharmImageProcessor` returns, `model(**inputs)`."
            )
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
        wants_attentions = kwargs.get("output_attentions", self.config.output_attentions)
        implementation = self.backbone.config._attn_implementation
        if wants_attentions and implementation != "eager":
            raise ValueError(
                f"Attentions are only computed by eager attention, this model uses {implementation!r}: load it with "
                '`attn_implementation="eager"`.'
            )


def _pool(hidden_states: torch.Tensor, mask: torch.Tensor, num_prefix: int) -> torch.Tensor:
    patches = hidden_states[:, num_prefix:]
    weights = mask.to(patches.dtype)[..., None]
    # Padding is replaced, not multiplied away: 0 times infinity would be NaN.
    total = torch.where(weights.bool(), patches, torch.zeros_like(patches)).sum(1)
    return torch.cat([hidden_states[:, 0], total / weights.sum(1).clamp(min=1)], dim=-1)


@dataclass
class CharmAestheticOutput(AestheticOutput):
    """What [`CharmForAestheticScoring`] returns: the fields of [`AestheticOutput`], and those of the encoder.

    Attributes:
        last_hidden_state: (B, 1+R+L, d) after the final layernorm: CLS, R register tokens, patch tokens. Rows of
            padding hold no information.
        pooler_output: (B, 2d) CLS beside the mean of the true patch tokens.
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
        self.classifier = nn.Linear(2 * config.hidden_size, config.num_labels)
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

        Args:
            backbone: repository or local folder of a DINOv2, DINOv2-with-registers or ViT checkpoint, such a model, or
                its configuration (random weights).
            dataset: take head, bins and score range from the preset of a published dataset.
            backbone_kwargs: for the backbone's `from_pretrained` (`revision`, `cache_dir`, `token`, …).
            config_kwargs: for [`CharmConfig`].

        Raises:
            ValueError: for another type of backbone; the message lists those supported.
        """
        options = dict(backbone_kwargs or {})
        if isinstance(backbone, PreTrainedModel):
            source = backbone.base_model
            backbone_config = source.config
        elif isinstance(backbone, PretrainedConfig):
            source, backbone_config = None, backbone
        else:
            backbone_config = AutoConfig.from_pretrained(backbone, **options)
            source = None
        build = CharmConfig if dataset is None else (lambda **kwargs: CharmConfig.for_dataset(dataset, **kwargs))
        config = build(backbone_config=backbone_config, **config_kwargs)  # raises for an unsupported type
        if source is None and not isinstance(backbone, PretrainedConfig):
            source = AutoModel.from_pretrained(backbone, **options)
        model = cls(config)
        if source is not None:
            weights = {name: value for name, value in source.state_dict().items() if not name.startswith("pooler.")}
            model.charm.backbone.load_state_dict(weights, strict=True)
        return model

    def get_input_embeddings(self) -> nn.Module:
        """The patch projection."""
        return self.charm.get_input_embeddings()

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
        **kwargs: Any,
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


__all__ = ["CharmForAestheticScoring", "CharmModel", "CharmPreTrainedModel"]
