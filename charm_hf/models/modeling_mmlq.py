"""Multi-modal learnable queries: an aesthetic score from a photo and from what people said about it (ICME 2024)."""

from __future__ import annotations

import inspect
import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs
from transformers.utils.generic import can_return_tuple
from transformers.utils.output_capturing import capture_outputs

from .checkpoint_charm import CheckpointMixin
from .configuration_mmlq import MmlqConfig
from .encoders_mmlq import HUB_ARGUMENTS, HoldsEncoders, find_encoder
from .interaction_mmlq import MmlqFeatures, MmlqInteractionBlock, MmlqQueries
from .scores_charm import AestheticOutput, aesthetic_loss, interpret_logits


def drop_comments(has_comments: torch.Tensor, probability: float) -> torch.Tensor:
    """Hide the comments of a random share of the images (B,), with torch's global generator as dropout does."""
    return has_comments & (torch.rand(has_comments.shape, device=has_comments.device) >= probability)


def extend_mask_to_features(mask: torch.Tensor | None, features: torch.Tensor) -> torch.Tensor:
    """Turn a mask (B, L) of image tokens into one (B, S) of features (B, S, d), with CLS and registers in front."""
    batch_size, length = features.shape[:2]
    if mask is None:
        return torch.ones(batch_size, length, dtype=torch.bool, device=features.device)
    if mask.shape[0] != batch_size or mask.shape[1] > length:
        raise ValueError(
            f"A mask of shape {tuple(mask.shape)} does not fit features of shape {tuple(features.shape)}."
        )
    return nn.functional.pad(mask.bool(), (length - mask.shape[1], 0), value=True)


def uncover_empty_rows(mask: torch.Tensor) -> torch.Tensor:
    """Show everything in the rows (B, T) that hide everything: attention to nothing is NaN. They must not be used."""
    mask = mask.bool()
    return mask | ~mask.any(dim=1, keepdim=True)


@dataclass
class MmlqModelOutput(ModelOutput):
    """What [`MmlqModel`] returns; Q is the number of visual and textual queries together.

    Attributes:
        last_hidden_state: (B, Q, d) after the final layernorm, the visual queries in front.
        pooler_output: (B, 2d) the mean of the visual beside that of the textual queries; (B, d) with one modality.
        hidden_states: (B, Q, d) before the first block and after each, when asked for.
        visual_attentions: (B, heads, visual queries, S) of each block, when asked for: where in the image they look.
        textual_attentions: (B, heads, textual queries, T) of each block, when asked for; zero without comments.
    """

    last_hidden_state: torch.Tensor | None = None
    pooler_output: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    visual_attentions: tuple[torch.Tensor, ...] | None = None
    textual_attentions: tuple[torch.Tensor, ...] | None = None


@dataclass
class MmlqAestheticOutput(AestheticOutput):
    """What [`MmlqForAestheticScoring`] returns: the fields of [`AestheticOutput`] and those of [`MmlqModelOutput`]."""

    visual_attentions: tuple[torch.Tensor, ...] | None = None
    textual_attentions: tuple[torch.Tensor, ...] | None = None


class MmlqScoringHead(nn.Module):
    """Pooled queries, (B, d) a modality, to the logits (B, K) of the score distribution."""

    def __init__(self, config: MmlqConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size * len(config.modalities), config.hidden_size)
        self.activation = ACT2FN[config.hidden_act]
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.out_proj = nn.Linear(config.hidden_size, config.num_labels)

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        """Predict the logits."""
        return self.out_proj(self.dropout(self.activation(self.dense(pooled))))


class MmlqPreTrainedModel(CheckpointMixin, PreTrainedModel):
    """Initialization, loading and saving; the encoders may be left out of the saved weights."""

    config_class = MmlqConfig
    config: MmlqConfig
    base_model_prefix = "mmlq"
    head_prefix = "head."
    main_input_name = "pixel_values"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _no_split_modules = ("MmlqInteractionBlock",)
    # Of the encoders, that is: the queries' own attention is another, and the same under each of these.
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, MmlqQueries):
            for queries in module.parameters():
                init.normal_(queries, std=self.config.initializer_range)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, *model_args: Any, load_encoders: bool = True, **kwargs: Any
    ) -> Any:
        """Load a checkpoint, and the encoders from their own repositories if it leaves them out.

        Args:
            pretrained_model_name_or_path: a repository on the Hub or a folder.
            model_args: as for every transformers model.
            load_encoders: `False` does not fetch encoders: enough for features that were computed beforehand.
            kwargs: as for every transformers model. `vision_repository` and `text_repository` say where the encoders
                lie now, if no longer where the configuration says.

        Raises:
            OSError: if the checkpoint, or an encoder's, cannot be found.
            ValueError: if weights are missing, unexpected or misshapen.
        """
        kwargs["use_safetensors"] = True  # never a pickle
        wants_info = kwargs.pop("output_loading_info", False)
        where = {name: kwargs[name] for name in HUB_ARGUMENTS if name in kwargs}
        model, info = super().from_pretrained(
            pretrained_model_name_or_path, *model_args, output_loading_info=True, **kwargs
        )
        if load_encoders:
            model.base_model.load_encoders(**where)
        model.base_model.freeze_encoders()  # loading makes new parameters, which ask for gradients
        return (model, info) if wants_info else model

    @classmethod
    def from_encoders(
        cls,
        vision: str | os.PathLike | PreTrainedModel | PretrainedConfig | None,
        text: str | os.PathLike | PreTrainedModel | PretrainedConfig | None,
        *,
        vision_revision: str | None = None,
        text_revision: str | None = None,
        dataset: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Build a model on two pretrained encoders; queries, blocks and head start at random.

        Args:
            vision: repository or local folder of a vision encoder (of a CLIP or a Charm checkpoint, the part that sees
                is taken), such a model, or its configuration (random weights). `None`: no visual queries.
            text: the same of a text encoder. `None`: no textual queries.
            vision_revision: branch, tag or commit; the commit that it stands for is noted in the configuration.
            text_revision: the same for the text encoder.
            dataset: take the bins and the score range from the preset of a published dataset.
            kwargs: for [`MmlqConfig`]; and `cache_dir`, `token`, `local_files_only` … for the Hub.

        Raises:
            OSError: if an encoder cannot be found.
            ValueError: if it lacks weights.

        Example:
            >>> from transformers import BertConfig, ViTConfig
            >>> from charm_hf import MmlqForAestheticScoring
            >>> tiny = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
            >>> model = MmlqForAestheticScoring.from_encoders(ViTConfig(**tiny), BertConfig(**tiny), **tiny)
            >>> model.config.num_visual_queries
            2
        """
        where = {name: kwargs.pop(name) for name in HUB_ARGUMENTS if name in kwargs}
        vision_model, repository, commit = find_encoder(vision, vision_revision, "vision_config", **where)
        fields: dict[str, Any] = {"vision_repository": repository, "vision_revision": commit}
        fields |= {"num_visual_queries": 0} if vision_model is None else {"vision_config": vision_model.config}
        text_model, repository, commit = find_encoder(text, text_revision, "text_config", **where)
        fields |= {"text_repository": repository, "text_revision": commit}
        fields |= {"num_textual_queries": 0} if text_model is None else {"text_config": text_model.config}
        fields |= kwargs
        config = MmlqConfig(**fields) if dataset is None else MmlqConfig.for_dataset(dataset, **fields)
        return cls(config, vision_model=vision_model, text_model=text_model)

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        is_main_process: bool = True,
        state_dict: dict[str, torch.Tensor] | None = None,
        *,
        include_encoders: bool | None = None,
        **kwargs: Any,
    ) -> None:
        """Save the weights and the configuration.

        Args:
            save_directory: folder to write.
            is_main_process: whether this process is the one that writes.
            state_dict: weights to save instead of the model's own.
            include_encoders: `False` leaves the encoders' weights out: loading then fetches them from the repositories
                that the configuration names. `None`: as `config.encoders_in_checkpoint` says.
            kwargs: as for every transformers model.

        Raises:
            ValueError: if an encoder cannot be left out (it was trained, or nothing says where it comes from), or
                cannot be saved (it was never loaded).
        """
        if include_encoders is None:
            include_encoders = self.config.encoders_in_checkpoint
        self.base_model.check_encoders_for_saving(include_encoders)
        self.config.encoders_in_checkpoint = include_encoders
        if not include_encoders:
            weights = self.state_dict() if state_dict is None else state_dict
            encoders = {"vision_model", "text_model"}
            state_dict = {key: value for key, value in weights.items() if not encoders & {*key.split(".")[:2]}}
        super().save_pretrained(save_directory, is_main_process=is_main_process, state_dict=state_dict, **kwargs)


class MmlqModel(HoldsEncoders, MmlqPreTrainedModel):
    """Two encoders, learnable queries, and the blocks in which the queries read the encoders' features.

    Args:
        config: the configuration.
        vision_model: encoder to hold. If not given, it is built as the configuration says, unless
            `config.encoders_in_checkpoint` is false: then [`~MmlqModel.load_encoders`] fetches it.
        text_model: the same for the text encoder.
    """

    _can_record_outputs = {"hidden_states": MmlqInteractionBlock}  # noqa: RUF012

    def __init__(
        self,
        config: MmlqConfig,
        vision_model: PreTrainedModel | None = None,
        text_model: PreTrainedModel | None = None,
    ) -> None:
        super().__init__(config)
        self.vision_model = self._hold_encoder("visual", vision_model)
        self.text_model = self._hold_encoder("textual", text_model)
        self.queries = MmlqQueries(config)
        self.feature_norms = nn.ModuleDict({name: _feature_norm(name, config) for name in config.modalities})
        self.blocks = nn.ModuleList([MmlqInteractionBlock(config) for _ in range(config.num_hidden_layers)])
        self.final_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.freeze_encoders()
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Word embeddings of the text encoder; without one, the patch projection of the vision encoder."""
        return self.get_main_encoder().get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace what [`~MmlqModel.get_input_embeddings`] gives."""
        self.get_main_encoder().set_input_embeddings(value)

    def encode_images(
        self, pixel_values: torch.Tensor, pixel_attention_mask: torch.Tensor | None = None, **vision_inputs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Give the visual features (B, S, d_v) and their mask (B, S) for what the image processor returns."""
        if self.vision_model is None:
            raise ValueError("The model holds no vision encoder: pass `vision_features`, or call `load_encoders()`.")
        inputs = {**vision_inputs, "pixel_attention_mask": pixel_attention_mask}
        inputs = {name: value for name, value in inputs.items() if value is not None}
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.config.freeze_vision_model):
            features = self.vision_model(pixel_values=pixel_values, **inputs).last_hidden_state
        if features.ndim != 3:
            raise ValueError(
                f"{type(self.vision_model).__name__} gives features of shape {tuple(features.shape)}, expected "
                "(batch, tokens, width): queries can only read an encoder of tokens."
            )
        return features, extend_mask_to_features(pixel_attention_mask, features)

    def encode_comments(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Give the textual features (B, T, d_t) and their mask (B, T); in a row of padding only they mean nothing."""
        if self.text_model is None:
            raise ValueError("The model holds no text encoder: pass `text_features`, or call `load_encoders()`.")
        vocabulary = self.config.text_config.vocab_size
        if not torch.compiler.is_compiling() and int(input_ids.max()) >= vocabulary:
            raise ValueError(
                f"Token {int(input_ids.max())} does not exist in the text encoder's vocabulary of {vocabulary}: the "
                "tokenizer belongs to another encoder."
            )
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        inputs = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.config.freeze_text_model):
            features = self.text_model(
                input_ids=input_ids, attention_mask=uncover_empty_rows(mask).to(input_ids), **inputs
            ).last_hidden_state
        return features, mask.bool()

    @can_return_tuple
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        pixel_attention_mask: torch.Tensor | None = None,
        scale_ids: torch.Tensor | None = None,
        patch_positions: torch.Tensor | None = None,
        spatial_shapes: torch.Tensor | None = None,
        vision_features: torch.Tensor | None = None,
        vision_attention_mask: torch.Tensor | None = None,
        text_features: torch.Tensor | None = None,
        output_attentions: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> MmlqModelOutput:
        """Let the queries read a batch of photos and their comments.

        Args:
            pixel_values: what the image processor gives; for Charm with `pixel_attention_mask`, `scale_ids`,
                `patch_positions` and `spatial_shapes`.
            input_ids: (B, T) tokens of the comments, with `attention_mask` and `token_type_ids`. An image whose mask
                is all zero has no comments. `None`: no image of the batch has any.
            vision_features: (B, S, d_v) with `vision_attention_mask` (B, S), instead of the pixels: the result of
                [`~MmlqModel.encode_images`].
            text_features: (B, T, d_t) with `attention_mask`, instead of `input_ids`: the result of
                [`~MmlqModel.encode_comments`].
            output_attentions: give the attention weights of every block, too.
            kwargs: `output_hidden_states`: give the queries before the first block and after every block, too, or
                those of a list of indices, counted as this version of transformers does.

        Raises:
            ValueError: if there is no image, or if tokens are not of the text encoder's vocabulary.
        """
        with_attentions = self.config.output_attentions if output_attentions is None else output_attentions
        features: dict[str, MmlqFeatures] = {}
        if "visual" in self.config.modalities:
            if vision_features is None:
                if pixel_values is None:
                    raise ValueError("Every image needs `pixel_values` or `vision_features`, got neither.")
                vision_features, vision_attention_mask = self.encode_images(
                    pixel_values,
                    pixel_attention_mask,
                    scale_ids=scale_ids,
                    patch_positions=patch_positions,
                    spatial_shapes=spatial_shapes,
                )
            features["visual"] = self._prepare("visual", vision_features, vision_attention_mask)
        if "textual" in self.config.modalities:
            if text_features is None and input_ids is not None:
                text_features, attention_mask = self.encode_comments(input_ids, attention_mask, token_type_ids)
            if text_features is not None:
                features["textual"] = self._prepare("textual", text_features, attention_mask)
        batch = next((given.states for given in features.values()), pixel_values)
        if batch is None:
            raise ValueError("Got neither an image nor a comment.")
        return self._interact(features, len(batch), bool(with_attentions))

    def _prepare(self, modality: str, states: torch.Tensor, mask: torch.Tensor | None) -> MmlqFeatures:
        """Bring a modality's features (B, S, width) and their mask (B, S) into the form that the blocks read."""
        states = self.feature_norms[modality](states.to(self.queries.get_parameter(modality).dtype))
        is_present = None
        if modality == "textual":
            mask = torch.ones(states.shape[:2], device=states.device) if mask is None else mask
            is_present = mask.bool().any(dim=1)
            mask = uncover_empty_rows(mask)
            if self.training and self.config.comment_dropout > 0:
                is_present = drop_comments(is_present, self.config.comment_dropout)
        return MmlqFeatures(states, None if mask is None else mask.bool(), is_present)

    def _interact(self, features: dict[str, MmlqFeatures], batch_size: int, with_attentions: bool) -> MmlqModelOutput:
        hidden_states = self.queries(batch_size, features["textual"].is_present if "textual" in features else None)
        absent = (None, None, None)
        given = [item for modality in self.config.modalities for item in features.get(modality, absent)]
        attentions: dict[str, list[torch.Tensor]] = {modality: [] for modality in features}
        for block in self.blocks:
            hidden_states, weights = block(hidden_states, *given)  # type: ignore[call-arg]
            if with_attentions:
                for modality, weight in weights.items():
                    attentions[modality].append(weight)
        hidden_states = self.final_norm(hidden_states)
        parts = hidden_states.split([self.config.num_queries(name) for name in self.config.modalities], dim=1)
        return MmlqModelOutput(
            last_hidden_state=hidden_states,
            pooler_output=torch.cat([part.mean(dim=1) for part in parts], dim=-1),
            visual_attentions=tuple(attentions["visual"]) if attentions.get("visual") else None,
            textual_attentions=tuple(attentions["textual"]) if attentions.get("textual") else None,
        )


def _feature_norm(modality: str, config: MmlqConfig) -> nn.Module:
    # Text encoders end in a layernorm of their own; CLIP's patch features do not.
    if modality == "textual":
        return nn.Identity()
    return nn.LayerNorm(config.feature_size(modality), eps=config.layer_norm_eps)


class MmlqForAestheticScoring(MmlqPreTrainedModel):
    """[`MmlqModel`] with a head that predicts the distribution of the ratings.

    Args:
        config: the configuration.
        vision_model: see [`MmlqModel`]; [`~MmlqPreTrainedModel.from_encoders`] is the usual way.
        text_model: the same for the text encoder.
    """

    def __init__(
        self,
        config: MmlqConfig,
        vision_model: PreTrainedModel | None = None,
        text_model: PreTrainedModel | None = None,
    ) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.mmlq = MmlqModel(config, vision_model, text_model)
        self.head = MmlqScoringHead(config)
        self.post_init()

    @can_return_tuple
    def forward(self, *inputs: Any, labels: torch.Tensor | None = None, **named_inputs: Any) -> MmlqAestheticOutput:
        """Score a batch of photos, with their comments where there are any; the inputs are those of [`MmlqModel`].

        Args:
            labels: (B,) scores in the data set's own units, or (B, K) distributions over the bins (normalized to sum
                1). Scores give the mean squared error of normalized scores, distributions the EMD loss (r = 2).

        Raises:
            ValueError: for labels of another shape, and as [`MmlqModel`].
        """
        outputs: MmlqModelOutput = self.mmlq(*inputs, **{**named_inputs, "return_dict": True})
        logits = self.head(outputs.pooler_output)
        predicted = interpret_logits(logits, self.config)
        loss = None if labels is None else aesthetic_loss(predicted, labels, self.config.score_range)
        return MmlqAestheticOutput(loss=loss, logits=logits, **predicted._asdict(), **outputs)

    # `Trainer` gives a model what its signature names.
    _shared = inspect.signature(MmlqModel.forward)
    *_inputs, _options = _shared.parameters.values()
    _own = inspect.signature(forward).parameters["labels"]
    forward.__signature__ = _shared.replace(parameters=[*_inputs, _own, _options])  # type: ignore[attr-defined]


__all__ = ["MmlqForAestheticScoring", "MmlqModel", "MmlqPreTrainedModel"]
