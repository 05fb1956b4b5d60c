"""Multi-modal learnable queries: an aesthetic score from a photo and from what people said about it (ICME 2024)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoModel, PretrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import ModelOutput, cached_file, logging
from transformers.utils.hub import extract_commit_hash

from .configuration_charm import CharmConfig
from .configuration_mmlq import MmlqConfig, as_encoder_config


logger = logging.get_logger(__name__)

# What `from_pretrained` says about where to look, as opposed to what to load: handed on to the encoders' own loading.
HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "token", "trust_remote_code", "proxies")


# Pure functions


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
    """Scaled dot-product attention that also gives its weights.

    Args:
        query: (B, heads, Q, head_dim); `key` and `value`: (B, heads, S, head_dim).
        attention_mask: (B, 1, Q, S), added to the scores before the softmax.

    Returns:
        The output (B, Q, heads, head_dim) and the weights (B, heads, Q, S).
    """
    weights = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        weights = weights + attention_mask
    weights = nn.functional.softmax(weights, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


def drop_comments(has_comments: torch.Tensor, probability: float) -> torch.Tensor:
    """Hide the comments of a random share of the images, from torch's global generator as dropout does.

    Args:
        has_comments: (B,) bool.
    """
    return has_comments & (torch.rand(has_comments.shape, device=has_comments.device) >= probability)


def extend_mask_to_features(mask: torch.Tensor | None, features: torch.Tensor) -> torch.Tensor:
    """Mask (B, S) of features (B, S, d) whose last tokens `mask` (B, L) describes; CLS and registers in front count."""
    batch_size, length = features.shape[:2]
    if mask is None:
        return torch.ones(batch_size, length, dtype=torch.bool, device=features.device)
    if mask.shape[0] != batch_size or mask.shape[1] > length:
        raise ValueError(f"A mask of shape {tuple(mask.shape)} does not fit features of shape {tuple(features.shape)}.")
    return nn.functional.pad(mask.bool(), (length - mask.shape[1], 0), value=True)


# Layers, from the leaves up


@dataclass
class MmlqModelOutput(ModelOutput):
    """Output of [`MmlqModel`]; Q is the number of visual and textual queries together.

    Attributes:
        last_hidden_state: (B, Q, d), the visual queries in front, after the final layernorm.
        pooler_output: (B, d times the number of modalities), the means of the visual and of the textual queries.
        hidden_states: the queries before the first block and after each, (B, Q, d) each.
        visual_attentions: per block, (B, heads, visual queries, S): where in the image each query looks.
        textual_attentions: per block, (B, heads, textual queries, T); zero for an image without comments.
    """

    last_hidden_state: torch.Tensor | None = None
    pooler_output: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    visual_attentions: tuple[torch.Tensor, ...] | None = None
    textual_attentions: tuple[torch.Tensor, ...] | None = None


@dataclass
class MmlqOutput(MmlqModelOutput):
    """Output of [`MmlqForAestheticScoring`], beside that of [`MmlqModel`].

    Attributes:
        loss: scalar, if labels were given.
        logits: (B, K), before the softmax.
        scores: (B,), in the dataset's own units.
        normalized_scores: (B,), in [0, 1].
        distribution: (B, K), sums to 1 over the bins `config.score_values`.
        std: (B,), spread of the distribution in the dataset's own units.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    scores: torch.Tensor | None = None
    normalized_scores: torch.Tensor | None = None
    distribution: torch.Tensor | None = None
    std: torch.Tensor | None = None


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


class MmlqScoringHead(nn.Module):
    """Pooled queries (B, d times the number of modalities) to the logits (B, K) of the score distribution."""

    def __init__(self, config: MmlqConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size * len(config.modalities), config.hidden_size)
        self.activation = ACT2FN[config.hidden_act]
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.out_proj = nn.Linear(config.hidden_size, config.num_labels)

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        """(B, d times the number of modalities) to (B, K)."""
        return self.out_proj(self.dropout(self.activation(self.dense(pooled))))


# Encoders: where they come from


def build_encoder(config: PretrainedConfig) -> PreTrainedModel:
    """A randomly initialised encoder."""
    return CharmModel(config) if config.model_type == CharmConfig.model_type else AutoModel.from_config(config)


def load_encoder(
    repository: str, revision: str | None, config: PretrainedConfig | None, tower: str, **kwargs: Any
) -> PreTrainedModel:
    """A pretrained encoder from a repository on the Hub or a local folder.

    Args:
        repository: name on the Hub, or a folder. Of a two-tower checkpoint (CLIP) only the `tower` is loaded, of a Charm
            checkpoint only the encoder.
        revision: branch, tag or commit.
        config: what the encoder must look like; `None` takes the repository's own.
        tower: `"vision_config"` or `"text_config"`.
        **kwargs: for `from_pretrained`.

    Raises:
        OSError: if there is no such checkpoint, or if it lacks weights of the encoder.
    """
    kwargs = {**kwargs, **({} if revision is None else {"revision": revision})}
    if config is None:
        hub_arguments = {name: value for name, value in kwargs.items() if name in (*HUB_ARGUMENTS, "revision")}
        config = as_encoder_config(AutoConfig.from_pretrained(repository, **hub_arguments), tower)
    loader = CharmModel if config.model_type == CharmConfig.model_type else AutoModel
    encoder, info = loader.from_pretrained(repository, config=config, output_loading_info=True, **kwargs)
    # Many checkpoints come without the pooling layer, and nothing here reads it.
    _raise_if_missing([key for key in info["missing_keys"] if "pooler" not in key], repository)
    return encoder


def resolve_commit(repository: str, revision: str | None, **hub_arguments: Any) -> str | None:
    """The commit that a revision of a repository points to now; `revision` itself for a local folder."""
    if os.path.isdir(repository):
        return revision
    hub_arguments.pop("trust_remote_code", None)
    config_file = cached_file(repository, "config.json", revision=revision, **hub_arguments)
    return extract_commit_hash(config_file, None) or revision


def _raise_if_missing(keys: Iterable[str], source: str | os.PathLike) -> None:
    missing = sorted(keys)
    if missing:
        raise OSError(
            f"The checkpoint {str(source)!r} lacks {len(missing)} weights that the model needs ({', '.join(missing[:5])}"
            f"{', …' if len(missing) > 5 else ''}): it is incomplete or of another shape than its configuration says."
        )


# Models


class MmlqPreTrainedModel(PreTrainedModel):
    """Initialisation, loading and saving of the models here; the encoders may be left out of the saved weights."""

    config_class = MmlqConfig
    base_model_prefix = "mmlq"
    main_input_name = "pixel_values"
    input_modalities = ("image", "text")
    _no_split_modules = ("MmlqInteractionBlock",)
    _supports_sdpa = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, MmlqModel):
            for name in module.query_names():
                init.normal_(getattr(module, name), std=self.config.initializer_range)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, *model_args: Any, load_encoders: bool = True, **kwargs: Any
    ) -> Any:
        """Load a checkpoint, and the encoders from their own repositories if it leaves them out.

        Args:
            pretrained_model_name_or_path: a repository on the Hub or a folder.
            load_encoders: `False` leaves out what the checkpoint leaves out: enough for features computed beforehand.
            **kwargs: as for every transformers model; `vision_repository=` and `text_repository=` say where the encoders
                lie now.

        Raises:
            OSError: if the checkpoint, or an encoder's, cannot be found or lacks weights.
        """
        with_info = kwargs.pop("output_loading_info", False)
        hub_arguments = {name: kwargs[name] for name in HUB_ARGUMENTS if name in kwargs}
        model, info = super().from_pretrained(
            pretrained_model_name_or_path, *model_args, output_loading_info=True, **kwargs
        )
        _raise_if_missing(info["missing_keys"], pretrained_model_name_or_path)
        if load_encoders:
            model.base_model.load_encoders(**hub_arguments)
        model.base_model.freeze_encoders()  # loading makes new parameters, which ask for gradients
        return (model, info) if with_info else model

    @classmethod
    def from_encoders(
        cls,
        vision: str | os.PathLike | PreTrainedModel | PretrainedConfig | None,
        text: str | os.PathLike | PreTrainedModel | PretrainedConfig | None,
        *,
        vision_revision: str | None = None,
        text_revision: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """New queries over two encoders.

        Args:
            vision: repository or folder with a pretrained vision encoder (of a CLIP or a Charm checkpoint, the part that
                sees is taken), or a model, or a configuration for one with random weights. `None` for a model without
                visual queries.
            text: the same for the text encoder.
            vision_revision, text_revision: branch, tag or commit; the commit it stands for is written in the configuration.
            **kwargs: fields of [`MmlqConfig`], and `cache_dir`, `token`, `local_files_only` … for the Hub.

        Example:
            >>> from transformers import BertConfig, ViTConfig
            >>> from charm_hf import MmlqForAestheticScoring
            >>> tiny = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
            >>> model = MmlqForAestheticScoring.from_encoders(ViTConfig(**tiny), BertConfig(**tiny), **tiny)
            >>> model.config.num_visual_queries
            2
        """
        hub_arguments = {name: kwargs.pop(name) for name in HUB_ARGUMENTS if name in kwargs}
        vision_model, vision_source = _find_encoder(vision, vision_revision, "vision_config", hub_arguments)
        text_model, text_source = _find_encoder(text, text_revision, "text_config", hub_arguments)
        fields = {
            "vision_config": None if vision_model is None else vision_model.config,
            "text_config": None if text_model is None else text_model.config,
            **dict(zip(("vision_repository", "vision_revision"), vision_source, strict=True)),
            **dict(zip(("text_repository", "text_revision"), text_source, strict=True)),
        }
        if vision_model is None:
            fields["num_visual_queries"] = 0
        if text_model is None:
            fields["num_textual_queries"] = 0
        config = cls.config_class(**{**fields, **kwargs})
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
            include_encoders: `False` leaves the encoders' weights out: loading then fetches them from the repositories
                that the configuration names. `None`: as `config.encoders_in_checkpoint` says.

        Raises:
            ValueError: if an encoder cannot be left out (it was trained, or nothing says where it comes from), or cannot
                be included because it was never loaded.
        """
        if include_encoders is None:
            include_encoders = self.config.encoders_in_checkpoint
        self.base_model.check_encoders_for_saving(include_encoders)
        self.config.encoders_in_checkpoint = include_encoders
        if not include_encoders:
            weights = self.state_dict() if state_dict is None else state_dict
            state_dict = {
                key: value for key, value in weights.items() if not {"vision_model", "text_model"} & {*key.split(".")[:2]}
            }
        super().save_pretrained(save_directory, is_main_process=is_main_process, state_dict=state_dict, **kwargs)


def _find_encoder(
    source: str | os.PathLike | PreTrainedModel | PretrainedConfig | None,
    revision: str | None,
    tower: str,
    hub_arguments: dict[str, Any],
) -> tuple[PreTrainedModel | None, tuple[str | None, str | None]]:
    """An encoder from whatever `from_encoders` takes, with the repository and the commit that hold its weights."""
    if source is None:
        return None, (None, None)
    if isinstance(source, PretrainedConfig):
        return build_encoder(as_encoder_config(source, tower)), (None, None)
    if isinstance(source, PreTrainedModel):
        if as_encoder_config(source.config, tower) is not source.config:
            raise ValueError(f"{type(source).__name__} has two towers: pass the one that you mean, or its repository.")
        # The model in memory may have been trained since it was loaded, so its repository is not noted.
        return (source.base_model if source.config.model_type == CharmConfig.model_type else source), (None, None)
    repository = os.fspath(source)
    commit = resolve_commit(repository, revision, **hub_arguments)
    return load_encoder(repository, commit, None, tower, **hub_arguments), (repository, commit)


class MmlqModel(MmlqPreTrainedModel):
    """Two frozen encoders, learnable queries, and the interaction blocks in which the queries read the encoders' features.

    Args:
        config: the configuration.
        vision_model, text_model: encoders to hold; built from the configuration if not given, unless it says that they are
            not in the checkpoint: then [`~MmlqModel.load_encoders`] fetches them.
    """

    def __init__(
        self, config: MmlqConfig, vision_model: PreTrainedModel | None = None, text_model: PreTrainedModel | None = None
    ) -> None:
        super().__init__(config)
        self.vision_model = self._hold_encoder("visual", vision_model)
        self.text_model = self._hold_encoder("textual", text_model)
        self.visual_queries = self._make_queries(config.num_visual_queries)
        self.textual_queries = self._make_queries(config.num_textual_queries)
        self.no_comment_queries = self._make_queries(config.num_textual_queries)
        # Text encoders end in a layernorm of their own; CLIP's patch features do not.
        self.visual_norm = (
            nn.LayerNorm(config.feature_size("visual"), eps=config.layer_norm_eps) if config.num_visual_queries else None
        )
        self.blocks = nn.ModuleList([MmlqInteractionBlock(config) for _ in range(config.num_hidden_layers)])
        self.final_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.freeze_encoders()
        self.post_init()

    def _hold_encoder(self, modality: str, encoder: PreTrainedModel | None) -> PreTrainedModel | None:
        if modality not in self.config.modalities:
            return None
        tower = "vision_config" if modality == "visual" else "text_config"
        if encoder is None and self.config.encoders_in_checkpoint:
            encoder = build_encoder(getattr(self.config, tower))
        if encoder is not None:
            setattr(self.config, tower, encoder.config)  # one object, so that changes reach the encoder
        return encoder

    def _make_queries(self, number: int) -> nn.Parameter | None:
        return nn.Parameter(torch.empty(1, number, self.config.hidden_size)) if number else None

    def query_names(self) -> list[str]:
        """Names of the learnable query parameters that this model has."""
        names = ("visual_queries", "textual_queries", "no_comment_queries")
        return [name for name in names if getattr(self, name) is not None]
