"""Configuration of the Charm model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from transformers import AutoConfig, PretrainedConfig

from .backbones_charm import as_backbone_config, get_backbone
from .checkpoint_charm import CHARM_AUTO_MAP, CarriesItsCode
from .limits_charm import check_numbers
from .presets_charm import head_for_dataset
from .scores_charm import check_score_range, name_outputs


POSITION_MODES = ("exact", "reference")
HEADS = ("distribution", "regression")
POOLINGS = ("cls", "mean", "attention")


class ScoresConfig(CarriesItsCode, PretrainedConfig):
    """The fields that say what a model's scores mean, of both models.

    Args:
        score_range, score_values, dataset_name, score_quantiles: see [`CharmConfig`].
        kwargs: for `PretrainedConfig`. The labels follow from the head: `num_labels` may be given, but only as it is.
    """

    score_range: Any = (0.0, 1.0)
    score_values: Sequence[float] | None = None
    dataset_name: str | None = None
    score_quantiles: Sequence[float] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        check_numbers({**kwargs, **vars(self)})
        for name in ("score_range", "score_values", "score_quantiles"):
            value = getattr(self, name)
            setattr(self, name, None if value is None else [float(number) for number in value])
        num_labels = kwargs.pop("num_labels", None)
        super().__post_init__(**kwargs)
        self.check()
        if num_labels not in (None, self.num_labels):
            raise ValueError(
                f"`num_labels` follows from `score_values` and `num_attributes`: it is {self.num_labels}, got "
                f"{num_labels}. Change those instead."
            )

    def check(self) -> None:
        """Bring the labels up to date, and raise `ValueError` for fields that make no sense together.

        Models call it when they are built, since `from_pretrained` changes single fields afterwards.
        """
        check_numbers(self)
        check_score_range(self.score_range, self.score_values)
        names = name_outputs(self.score_values, getattr(self, "num_attributes", 0))
        self.id2label = dict(enumerate(names))
        self.label2id = {name: index for index, name in enumerate(names)}

    @classmethod
    def for_dataset(cls, name: str, **overrides: Any) -> Any:
        """Configuration with the head, bins and range of a published dataset (see `DATASET_PRESETS`)."""
        return cls(**{**head_for_dataset(name), **overrides})


class CharmConfig(ScoresConfig):
    r"""Configuration of [`CharmModel`] and [`CharmForAestheticScoring`].

    Args:
        backbone_config (`PretrainedConfig` or `dict`, *optional*):
            A native configuration of a type in `BACKBONES`; DINOv2-small's if not given.
        num_scales (`int`, defaults to 2): number of scales of the tokens, 1 to 4; a scale embedding is learnt for
            each.
        position_mode (`str`, defaults to `"exact"`):
            `"exact"`: each token gets the position of its own place in the grid of its own scale. `"reference"`:
            position rows in the order of the released code, with its `+0.1` scale factor, which converted checkpoints
            need.
        pooling (`str`, *optional*):
            What the head sees beside the mean of the patches: `"cls"`, the CLS token, if not given and there is one;
            `"mean"`, nothing; `"attention"`, what the encoder's own attention pooling makes of them (SigLIP).
        head (`str`, *optional*): `"distribution"` (softmax over `score_values`) or `"regression"` (sigmoid).
            Decided by `score_values` if not given.
        score_range (pair of `float`): lowest and highest score, in the dataset's own units.
        score_values (list of `float`, *optional*): centres of the rating bins, ascending, inside `score_range`.
        num_attributes (`int`, defaults to 0): extra outputs with a tanh (AADB's 11 attributes); regression head only.
            The score then stands third from the end of the logits, as in the released checkpoints.
        classifier_dropout (`float`, defaults to 0.1): dropout before the head.
        dataset_name (`str`, *optional*): what the weights were trained on.
        score_quantiles (list of `float`, *optional*): quantiles of the training ratings, evenly spaced from 0 to 1.
        pixel_statistics (`dict`, *optional*):
            Parameters of a processor (`image_mean`, `image_std`, …) with which the encoder was pretrained; those that
            are usual for its type if not given.
    """

    model_type = "charm"
    own_auto_map = CHARM_AUTO_MAP
    code_file = __file__
    sub_configs: ClassVar[dict[str, Any]] = {"backbone_config": AutoConfig}
    # `transformers.Trainer` gathers the other outputs of a whole evaluation: logits and scores.
    keys_to_ignore_at_inference: ClassVar[list[str]] = [
        *("normalized_scores", "distribution", "std", "attributes"),
        *("last_hidden_state", "pooler_output", "hidden_states", "attentions"),
    ]

    backbone_config: Any = None
    num_scales: int = 2
    position_mode: str = "exact"
    pooling: str | None = None
    head: str | None = None
    pixel_statistics: dict[str, Any] | None = None
    num_attributes: int = 0
    classifier_dropout: float = 0.1
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        check_numbers({"num_attributes": self.num_attributes, "num_scales": self.num_scales})
        self.backbone_config = as_backbone_config(self.backbone_config)
        has_cls = bool(get_backbone(self.backbone_config.model_type).prefix)
        self.pooling = self.pooling or ("cls" if has_cls else "mean")
        self.head = self.head or ("regression" if self.score_values is None else "distribution")
        super().__post_init__(**kwargs)

    def check(self) -> None:
        """See [`ScoresConfig.check`]."""
        if not 1 <= self.num_scales <= 4:
            raise ValueError(f"`num_scales` must be 1 to 4, got {self.num_scales}.")
        if self.position_mode not in POSITION_MODES:
            raise ValueError(f"`position_mode` must be one of {POSITION_MODES}, got {self.position_mode!r}.")
        row = get_backbone(self.backbone_config.model_type)
        has_head = row.pooling_head is not None and getattr(self.backbone_config, "vision_use_head", True)
        possible = {"cls": bool(row.prefix), "mean": True, "attention": has_head}
        if not possible.get(str(self.pooling)):
            names = [name for name in POOLINGS if possible[name]]
            raise ValueError(
                f"`pooling` of {self.backbone_config.model_type!r} must be one of {names}, got {self.pooling!r}."
            )
        if self.head not in HEADS:
            raise ValueError(f"`head` must be one of {HEADS}, got {self.head!r}.")
        if (self.head == "distribution") != (self.score_values is not None):
            raise ValueError(
                "A distribution head needs `score_values` (one centre per bin) and a regression head must not have "
                f"them: got head={self.head!r}, score_values={self.score_values}."
            )
        if self.score_values is not None and self.num_attributes:
            raise ValueError("`num_attributes` needs a regression head (`score_values=None`).")
        if self.num_attributes == 1 or self.num_attributes < 0:
            raise ValueError(
                f"`num_attributes` must be 0 or at least 2 (the score stands at index -3), got {self.num_attributes}."
            )
        super().check()

    @property
    def patch_size(self) -> int:
        """Side of a token in pixels."""
        size = self.backbone_config.patch_size
        return size if isinstance(size, int) else size[0]

    @property
    def hidden_size(self) -> int:
        """Width of the token features."""
        return self.backbone_config.hidden_size

    @property
    def pooled_size(self) -> int:
        """Width of what the head sees."""
        return self.hidden_size if self.pooling == "mean" else 2 * self.hidden_size

    @property
    def num_hidden_layers(self) -> int:
        """Number of layers of the encoder."""
        return self.backbone_config.num_hidden_layers

    @property
    def num_attention_heads(self) -> int:
        """Number of heads of the encoder's attention."""
        return self.backbone_config.num_attention_heads


__all__ = ["CharmConfig", "ScoresConfig"]
