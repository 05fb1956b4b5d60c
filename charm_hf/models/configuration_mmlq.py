"""Configuration of the multi-modal learnable queries model."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from transformers import AutoConfig, PretrainedConfig

from .backbones_charm import build_config
from .checkpoint_charm import MMLQ_AUTO_MAP
from .configuration_charm import CharmConfig, ScoresConfig
from .limits_charm import check_numbers
from .presets_charm import get_dataset_preset
from .scores_charm import check_score_range


if TYPE_CHECKING:
    # Never run, yet needed: transformers fetches the files that a travelling file imports relatively.
    from .modeling_mmlq import MmlqForAestheticScoring  # noqa: F401
    from .processing_mmlq import MmlqProcessor  # noqa: F401


MODALITIES = ("visual", "textual")
ENCODER_NAMES = {"visual": "vision", "textual": "text"}
SELF_ATTENTIONS = ("none", "shared", "separate", "joint")
FEED_FORWARDS = ("shared", "separate")


class MmlqConfig(ScoresConfig):
    r"""Configuration of [`MmlqModel`] and [`MmlqForAestheticScoring`].

    The defaults are the shape of the paper (ICME 2024, arXiv 2405.01326): CLIP ViT-L/14 and BERT-base, six interaction
    blocks of self-attention, cross-attention and feed-forward over two visual and two textual queries, 60.27 M
    trainable parameters. `self_attention="none", intermediate_size=3072` is a shape of the same size without the
    self-attention that the paper's figure shows.

    Args:
        vision_config (`PretrainedConfig` or `dict`, *optional*):
            Any native vision encoder that gives a `last_hidden_state` (CLIP or SigLIP vision, DINOv2, ViT …) or a
            [`CharmConfig`]. Of a two-tower configuration (`CLIPConfig`) the vision tower is taken.
        text_config (`PretrainedConfig` or `dict`, *optional*): a BERT-like text encoder.
        hidden_size (`int`, defaults to 768): width of the queries.
        num_hidden_layers (`int`, defaults to 6): number of interaction blocks.
        num_attention_heads (`int`, defaults to 12): heads of every attention layer over the queries.
        intermediate_size (`int`, defaults to 1536): width of the feed-forward layers.
        num_visual_queries (`int`, defaults to 2): 0 makes a model that reads comments only, without a vision encoder.
        num_textual_queries (`int`, defaults to 2): 0 makes a model that sees the image only, without a text encoder.
        self_attention (`str`, defaults to `"shared"`):
            The replaceable self-attention layer of a block. `"none"`; `"shared"`: each modality's queries attend among
            themselves through the same weights; `"separate"`: the same, each modality with its own weights; `"joint"`:
            all queries attend to all queries.
        feed_forward (`str`, defaults to `"shared"`):
            The replaceable feed-forward layer: one for both modalities (`"shared"`) or one each (`"separate"`).
        hidden_dropout_prob (`float`, defaults to 0.1): dropout after every layer and inside the head.
        attention_probs_dropout_prob (`float`, defaults to 0.0): dropout of the attention weights.
        comment_dropout (`float`, defaults to 0.2):
            Share of the images whose comments are hidden in training, so that the image-only score means something.
        freeze_vision_model (`bool`, defaults to `True`): keep the vision encoder untrained and in evaluation mode.
        freeze_text_model (`bool`, defaults to `True`): the same for the text encoder.
        vision_repository, vision_revision, text_repository, text_revision (`str`, *optional*):
            Where the pretrained encoders come from: a repository on the Hub and the commit in it, or a local folder.
        encoders_in_checkpoint (`bool`, defaults to `True`):
            `False`: the saved weights leave the encoders out, and loading fetches them from their repositories.
        score_range (pair of `float`, *optional*): lowest and highest score, in the data set's own units.
        score_values (list of `float`, *optional*):
            Centres of the rating bins, ascending, inside `score_range`. AVA's ten bins if neither is given; ten evenly
            spaced ones if only `score_range` is.
        dataset_name (`str`, *optional*): what the weights were trained on.
        score_quantiles (list of `float`, *optional*): quantiles of the training ratings, evenly spaced from 0 to 1.
    """

    model_type = "mmlq"
    own_auto_map = MMLQ_AUTO_MAP
    code_file = __file__
    sub_configs: ClassVar[dict[str, Any]] = {"vision_config": AutoConfig, "text_config": AutoConfig}
    keys_to_ignore_at_inference: ClassVar[list[str]] = [
        "last_hidden_state",
        "pooler_output",
        "hidden_states",
        "visual_attentions",
        "textual_attentions",
    ]

    vision_config: Any = None
    text_config: Any = None
    hidden_size: int = 768
    num_hidden_layers: int = 6
    num_attention_heads: int = 12
    intermediate_size: int = 1536
    num_visual_queries: int = 2
    num_textual_queries: int = 2
    self_attention: str = "shared"
    feed_forward: str = "shared"
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.0
    comment_dropout: float = 0.2
    layer_norm_eps: float = 1e-6
    initializer_range: float = 0.02
    freeze_vision_model: bool = True
    freeze_text_model: bool = True
    vision_repository: str | None = None
    vision_revision: str | None = None
    text_repository: str | None = None
    text_revision: str | None = None
    encoders_in_checkpoint: bool = True
    score_range: Any = None

    def __post_init__(self, **kwargs: Any) -> None:
        check_numbers({**kwargs, **vars(self)})
        self.vision_config = as_encoder_config(self.vision_config, "vision_config")
        self.text_config = as_encoder_config(self.text_config, "text_config")
        self.score_range, self.score_values = _resolve_bins(self.score_range, self.score_values)
        super().__post_init__(**kwargs)

    def check(self) -> None:
        """See [`ScoresConfig.check`]."""
        if self.score_values is None:
            raise ValueError("`score_values` must hold the centres of the rating bins, got None.")
        if self.self_attention not in SELF_ATTENTIONS:
            raise ValueError(f"`self_attention` must be one of {SELF_ATTENTIONS}, got {self.self_attention!r}.")
        if self.feed_forward not in FEED_FORWARDS:
            raise ValueError(f"`feed_forward` must be one of {FEED_FORWARDS}, got {self.feed_forward!r}.")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"`hidden_size` must be a multiple of `num_attention_heads`, got {self.hidden_size} and "
                f"{self.num_attention_heads}."
            )
        if self.num_hidden_layers < 1:
            raise ValueError(f"`num_hidden_layers` must be at least 1, got {self.num_hidden_layers}.")
        if min(self.num_visual_queries, self.num_textual_queries) < 0 or not self.modalities:
            raise ValueError(
                "One of `num_visual_queries` and `num_textual_queries` must be positive and neither negative, got "
                f"{self.num_visual_queries} and {self.num_textual_queries}."
            )
        if not 0.0 <= self.comment_dropout < 1.0:
            raise ValueError(f"`comment_dropout` must be in [0, 1), got {self.comment_dropout}.")
        super().check()

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities that have queries: `"visual"`, `"textual"` or both, in this order."""
        return tuple(name for name in MODALITIES if self.num_queries(name) > 0)

    def num_queries(self, modality: str) -> int:
        """Number of learnable queries of a modality."""
        return self.num_visual_queries if modality == "visual" else self.num_textual_queries

    def feature_size(self, modality: str) -> int:
        """Width of the features that a modality's queries attend to."""
        return (self.vision_config if modality == "visual" else self.text_config).hidden_size


def as_encoder_config(config: PretrainedConfig | dict[str, Any] | None, tower: str) -> PretrainedConfig:
    """Configuration of one encoder.

    Args:
        config: a configuration, its dictionary, or `None` for the paper's encoder.
        tower: `"vision_config"` or `"text_config"`: the part that is taken of a two-tower configuration.
    """
    if config is None:
        return _default_encoder_config(tower)
    if isinstance(config, dict):
        config = dict(config)
        model_type = config.pop("model_type", None)
        if model_type is None:
            raise ValueError(f"`{tower}` needs a `model_type`, got a dictionary with {sorted(config)}.")
        if model_type == CharmConfig.model_type:
            # Where `charm_hf` is not installed, no Auto class knows this type: the sibling file does.
            return CharmConfig(**config)
        config = build_config(model_type, config, tower)
    if not isinstance(config, PretrainedConfig):
        raise ValueError(f"`{tower}` must be a configuration or a dictionary, got {type(config).__name__}.")
    # A copy: making the outer configuration resets some attributes of the inner ones.
    return copy.deepcopy(getattr(config, tower, config))


def _default_encoder_config(tower: str) -> PretrainedConfig:
    if tower == "text_config":
        return AutoConfig.for_model("bert")
    return AutoConfig.for_model(
        "clip_vision_model",
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=224,
        patch_size=14,
        projection_dim=768,
    )


def _resolve_bins(
    score_range: Sequence[float] | None, score_values: Sequence[float] | None
) -> tuple[list[float], list[float]]:
    if score_range is None and score_values is None:
        preset = get_dataset_preset("ava")
        score_range, score_values = preset.score_range, preset.score_values
    values = None if score_values is None else [float(value) for value in score_values]
    bounds = (
        [values[0], values[-1]] if values and score_range is None else [float(value) for value in score_range or ()]
    )
    check_score_range(bounds, values)
    if values is None:
        values = [bounds[0] + (bounds[1] - bounds[0]) * step / 9 for step in range(10)]
    return bounds, values


__all__ = ["MmlqConfig"]
