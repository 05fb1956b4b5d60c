"""Configuration of the Charm model, and the one table of what is known about each dataset."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import transformers
from packaging import version
from transformers import AutoConfig, PretrainedConfig
from transformers.dynamic_module_utils import get_relative_import_files


if TYPE_CHECKING:
    # Never run, yet needed: transformers fetches the files that a travelling file imports relatively, and these lines
    # make every file of a checkpoint reachable from any other.
    from .image_processing_charm import CharmImageProcessor  # noqa: F401
    from .modeling_charm import CharmForAestheticScoring  # noqa: F401
    from .pipeline_image_aesthetics import ImageAestheticsPipeline  # noqa: F401


MINIMUM_TRANSFORMERS = "5.18.0"

if version.parse(transformers.__version__) < version.parse(MINIMUM_TRANSFORMERS):
    raise ImportError(
        f"Charm needs transformers >= {MINIMUM_TRANSFORMERS}, found {transformers.__version__}: older DINOv2 layers "
        'ignore the attention mask, so that padding would change the scores. Run `pip install -U "transformers>='
        f'{MINIMUM_TRANSFORMERS}"`.'
    )

# What a checkpoint says about its own code. Written out, because registering a second Auto class overwrites the first.
AUTO_MAP = {
    "AutoConfig": "configuration_charm.CharmConfig",
    "AutoModel": "modeling_charm.CharmForAestheticScoring",
    "AutoModelForImageClassification": "modeling_charm.CharmForAestheticScoring",
    "AutoImageProcessor": "image_processing_charm.CharmImageProcessor",
}
CUSTOM_PIPELINES = {
    "image-aesthetics": {
        "impl": "pipeline_image_aesthetics.ImageAestheticsPipeline",
        "pt": ["AutoModel"],
        "type": "image",
    }
}

SUPPORTED_BACKBONES = ("dinov2", "dinov2_with_registers", "vit")
POSITION_MODES = ("exact", "reference")
HEADS = ("distribution", "regression")

AADB_ATTRIBUTES = (
    "BalacingElements",  # spelt so in the dataset's own files
    "ColorHarmony",
    "Content",
    "DoF",
    "Light",
    "MotionBlur",
    "Object",
    "Repetition",
    "RuleOfThirds",
    "Symmetry",
    "VividColor",
)


@dataclass(frozen=True)
class DatasetPreset:
    """What the papers fix for one dataset.

    Attributes:
        max_num_patches: sequence length without CLS.
        longest_edge: photos with a longer edge are shrunk to it first; `None` keeps the size.
        score_range: lowest and highest possible score, in the dataset's own units.
        score_values: centres of the rating bins for a distribution head; `None` means a regression head.
        released_score_range: what the sigmoid of the released checkpoint is scaled by; it differs from `score_range`
            only for KonIQ-10k, whose released training divided a 1-5 score by 5.
        accuracy_threshold: scores above it count as "good" in the ACC metric, in the dataset's own units.
    """

    max_num_patches: int
    score_range: tuple[float, float]
    longest_edge: int | None = None
    score_values: tuple[float, ...] | None = None
    released_score_range: tuple[float, float] | None = None
    accuracy_threshold: float = 0.5


DATASET_PRESETS: dict[str, DatasetPreset] = {
    "ava": DatasetPreset(
        512, (1.0, 10.0), score_values=tuple(float(value) for value in range(1, 11)), accuracy_threshold=5.0
    ),
    "aadb": DatasetPreset(1024, (0.0, 1.0)),
    "tad66k": DatasetPreset(768, (0.0, 10.0), accuracy_threshold=5.0),
    "para": DatasetPreset(
        1024,
        (1.0, 5.0),
        longest_edge=1024,
        score_values=tuple(1.0 + 0.5 * step for step in range(9)),
        accuracy_threshold=3.0,
    ),
    "baid": DatasetPreset(1024, (0.0, 10.0), accuracy_threshold=5.0),
    "spaq": DatasetPreset(1024, (0.0, 100.0), longest_edge=1024, accuracy_threshold=50.0),
    # The range of file (a), `koniq10k_distributions_sets.csv`; the reader replaces it for file (b), rated 1-5.
    "koniq10k": DatasetPreset(1024, (0.0, 100.0), released_score_range=(0.0, 5.0), accuracy_threshold=50.0),
}


def get_dataset_preset(name: str) -> DatasetPreset:
    """Return the preset of a published dataset.

    Raises:
        ValueError: if `name` is not one of the published datasets; the message lists them.
    """
    if name not in DATASET_PRESETS:
        raise ValueError(f"Unknown dataset {name!r}: expected one of {', '.join(sorted(DATASET_PRESETS))}.")
    return DATASET_PRESETS[name]


def percentile_of_score(score: float, quantiles: Sequence[float]) -> float:
    """Share, in percent, of the ratings below a score.

    Args:
        score: in the units of the quantiles.
        quantiles: of the ratings, ascending, evenly spaced from 0 to 1.
    """
    return float(np.interp(score, quantiles, np.linspace(0.0, 100.0, len(quantiles))))


def is_travelling_code(module_name: str) -> bool:
    """Whether a module was loaded out of a checkpoint by transformers instead of from the installed package."""
    return module_name.split(".")[0] == "transformers_modules"


def save_code_files(folder: str | os.PathLike, module_file: str = __file__) -> list[Path]:
    """Copy `module_file` and every file it needs, which lie beside it, into a checkpoint folder.

    A file that is already the one to write (a checkpoint saved onto itself) is left alone.
    """
    written = []
    for source in sorted({module_file, *get_relative_import_files(module_file)}):
        target = Path(folder) / Path(source).name
        if not (target.exists() and target.samefile(source)):
            shutil.copyfile(source, target)
            written.append(target)
    return written


class CarriesItsCode:
    """Part of a configuration that saves the code of its model, and the names of the classes in it, beside itself.

    Attributes:
        own_auto_map: Auto class -> class in a travelling file.
        code_file: the file whose siblings travel.
    """

    own_auto_map: ClassVar[dict[str, str]]
    code_file: ClassVar[str]

    def to_dict(self) -> dict[str, Any]:
        """Serialize; the code that travels with the checkpoint is always named, however the object was loaded."""
        output = super().to_dict()  # type: ignore[misc]
        output["auto_map"] = dict(self.own_auto_map)
        output["custom_pipelines"] = copy_custom_pipelines()
        return output

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Write `config.json` and the code files; saving a model or a pipeline comes through here."""
        os.makedirs(save_directory, exist_ok=True)
        save_code_files(save_directory, self.code_file)
        super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)  # type: ignore[misc]


class CharmConfig(CarriesItsCode, PretrainedConfig):
    r"""Configuration of [`CharmModel`] and [`CharmForAestheticScoring`].

    Args:
        backbone_config (`PretrainedConfig` or `dict`, *optional*):
            A native `dinov2`, `dinov2_with_registers` or `vit` configuration; DINOv2-small if not given.
        num_scales (`int`, defaults to 2): number of scales of the tokens, 1 to 4; a scale embedding is learnt for
        each.
        position_mode (`str`, defaults to `"exact"`):
            `"exact"`: each token gets the position of its own place in the grid of its own scale. `"reference"`:
            position rows in the order of the released code, with its `+0.1` scale factor, which converted checkpoints
            need.
        head (`str`, *optional*): `"distribution"` (softmax over `score_values`) or `"regression"` (sigmoid).
            Decided by `score_values` if not given.
        score_range (pair of `float`): lowest and highest score, in the dataset's own units.
        score_values (list of `float`, *optional*): centres of the rating bins, ascending, inside `score_range`.
        num_attributes (`int`, defaults to 0): extra outputs with a tanh (AADB's 11 attributes); regression head only.
            The score then stands third from the end of the logits, as in the released checkpoints.
        classifier_dropout (`float`, defaults to 0.1): dropout before the head.
        dataset_name (`str`, *optional*): what the weights were trained on.
        score_quantiles (list of `float`, *optional*): quantiles of the training ratings, evenly spaced from 0 to 1.
    """

    model_type = "charm"
    own_auto_map = AUTO_MAP
    code_file = __file__
    sub_configs: ClassVar[dict[str, Any]] = {"backbone_config": AutoConfig}
    # `transformers.Trainer` gathers the other outputs of a whole evaluation: logits and scores.
    keys_to_ignore_at_inference: ClassVar[list[str]] = [
        *("normalized_scores", "distribution", "std", "attributes"),
        *("last_hidden_state", "pooler_output", "hidden_states", "attentions"),
    ]

    def __init__(
        self,
        backbone_config: PretrainedConfig | dict[str, Any] | None = None,
        num_scales: int = 2,
        position_mode: str = "exact",
        head: str | None = None,
        score_range: Sequence[float] = (0.0, 1.0),
        score_values: Sequence[float] | None = None,
        num_attributes: int = 0,
        classifier_dropout: float = 0.1,
        dataset_name: str | None = None,
        score_quantiles: Sequence[float] | None = None,
        initializer_range: float = 0.02,
        **kwargs: Any,
    ) -> None:
        self.backbone_config = _as_backbone_config(backbone_config)
        self.num_scales = num_scales
        self.position_mode = position_mode
        self.head = head or ("regression" if score_values is None else "distribution")
        self.score_range = [float(value) for value in score_range]
        self.score_values = None if score_values is None else [float(value) for value in score_values]
        self.num_attributes = num_attributes
        self.classifier_dropout = classifier_dropout
        self.dataset_name = dataset_name
        self.score_quantiles = None if score_quantiles is None else [float(value) for value in score_quantiles]
        self.initializer_range = initializer_range
        self._check()
        for name in ("num_labels", "id2label", "label2id", "custom_pipelines"):
            kwargs.pop(name, None)
        if is_travelling_code(__name__):
            # The installed package registers its pipeline and hides this key, which would make `pipeline` ask for
            # `trust_remote_code`; without the package the key is what lets transformers find the pipeline.
            kwargs["custom_pipelines"] = copy_custom_pipelines()
        super().__init__(num_labels=self._num_outputs(), **kwargs)

    def _num_outputs(self) -> int:
        return len(self.score_values) if self.score_values is not None else 1 + self.num_attributes

    def _check(self) -> None:
        if not 1 <= self.num_scales <= 4:
            raise ValueError(f"`num_scales` must be 1 to 4, got {self.num_scales}.")
        if self.position_mode not in POSITION_MODES:
            raise ValueError(f"`position_mode` must be one of {POSITION_MODES}, got {self.position_mode!r}.")
        if self.head not in HEADS:
            raise ValueError(f"`head` must be one of {HEADS}, got {self.head!r}.")
        if len(self.score_range) != 2 or not self.score_range[0] < self.score_range[1]:
            raise ValueError(f"`score_range` must be a pair (lowest, highest), got {self.score_range}.")
        if (self.head == "distribution") != (self.score_values is not None):
            raise ValueError(
                "A distribution head needs `score_values` (one centre per bin) and a regression head must not have "
                f"them: got head={self.head!r}, score_values={self.score_values}."
            )
        if self.score_values is not None:
            low, high = self.score_range
            ascending = all(a < b for a, b in zip(self.score_values, self.score_values[1:], strict=False))
            if (
                len(self.score_values) < 2
                or not ascending
                or self.score_values[0] < low
                or self.score_values[-1] > high
            ):
                raise ValueError(
                    f"`score_values` must ascend inside `score_range` {self.score_range}, got {self.score_values}."
                )
            if self.num_attributes:
                raise ValueError("`num_attributes` needs a regression head (`score_values=None`).")
        if self.num_attributes == 1 or self.num_attributes < 0:
            raise ValueError(
                f"`num_attributes` must be 0 or at least 2 (the score stands at index -3), got {self.num_attributes}."
            )

    @classmethod
    def for_dataset(cls, name: str, backbone_config: Any = None, **overrides: Any) -> CharmConfig:
        """Configuration with the head, bins and range of a published dataset (see `DATASET_PRESETS`)."""
        preset = get_dataset_preset(name)
        fields: dict[str, Any] = {
            "dataset_name": name,
            "score_range": preset.score_range,
            "score_values": preset.score_values,
        }
        return cls(backbone_config=backbone_config, **{**fields, **overrides})

    @property
    def patch_size(self) -> int:
        """Side of a token in pixels."""
        size = self.backbone_config.patch_size
        return size if isinstance(size, int) else size[0]

    @property
    def hidden_size(self) -> int:
        """Width of the token features."""
        return self.backbone_config.hidden_size


def copy_custom_pipelines() -> dict[str, Any]:
    """`CUSTOM_PIPELINES`, copied afresh: `pipeline` replaces the class names in it by classes."""
    return {task: dict(entry) for task, entry in CUSTOM_PIPELINES.items()}


def _as_backbone_config(config: PretrainedConfig | dict[str, Any] | None) -> PretrainedConfig:
    if config is None:
        return AutoConfig.for_model("dinov2", hidden_size=384, num_attention_heads=6, image_size=518)
    if isinstance(config, dict):
        config = dict(config)
        model_type = config.pop("model_type", None)
        if model_type not in SUPPORTED_BACKBONES:
            raise _unsupported_backbone(model_type)
        return AutoConfig.for_model(model_type, **config)
    if config.model_type not in SUPPORTED_BACKBONES:
        raise _unsupported_backbone(config.model_type)
    return config


def _unsupported_backbone(model_type: str | None) -> ValueError:
    return ValueError(f"Unsupported backbone {model_type!r}: expected one of {', '.join(SUPPORTED_BACKBONES)}.")


__all__ = ["CharmConfig"]
