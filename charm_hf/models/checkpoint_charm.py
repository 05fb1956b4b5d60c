"""What a checkpoint carries beside its weights, and how it is loaded: code, its names, provenance, card metadata."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import transformers
from huggingface_hub import ModelCard
from packaging import version
from transformers.dynamic_module_utils import get_relative_import_files
from transformers.utils import CONFIG_NAME, cached_file

from .backbones_charm import BACKBONES


if TYPE_CHECKING:
    # Never run, yet needed: transformers fetches the files that a travelling file imports relatively, and these lines
    # make every file of a checkpoint reachable from any other.
    from .configuration_charm import CharmConfig  # noqa: F401
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


# ---------------------------------------------------------------------------------------------------------------------
# Code.


# What a checkpoint says about its own code. Written out, because registering a second Auto class overwrites the first.
CHARM_AUTO_MAP = {
    "AutoConfig": "configuration_charm.CharmConfig",
    "AutoModel": "modeling_charm.CharmForAestheticScoring",
    "AutoModelForImageClassification": "modeling_charm.CharmForAestheticScoring",
    "AutoImageProcessor": "image_processing_charm.CharmImageProcessor",
}
MMLQ_AUTO_MAP = {
    "AutoConfig": "configuration_mmlq.MmlqConfig",
    "AutoModel": "modeling_mmlq.MmlqForAestheticScoring",
    "AutoModelForImageClassification": "modeling_mmlq.MmlqForAestheticScoring",
    "AutoProcessor": "processing_mmlq.MmlqProcessor",
}
_CUSTOM_PIPELINES = {
    "image-aesthetics": {
        "impl": "pipeline_image_aesthetics.ImageAestheticsPipeline",
        "pt": ["AutoModel"],
        "type": "image",
    }
}


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

    def __post_init__(self, **kwargs: Any) -> None:
        # Said anew below and in `to_dict`, whatever was read from a file.
        kwargs.pop("custom_pipelines", None)
        if __name__.split(".")[0] == "transformers_modules":
            # The code came out of a checkpoint. The installed package registers its pipeline and hides this key, which
            # would make `pipeline` ask for `trust_remote_code`; without the package the key is what lets transformers
            # find the pipeline.
            kwargs["custom_pipelines"] = _copy_custom_pipelines()
        super().__post_init__(**kwargs)  # type: ignore[misc]

    def to_dict(self) -> dict[str, Any]:
        """Serialize; the code that travels with the checkpoint is always named, however the object was loaded."""
        output = super().to_dict()  # type: ignore[misc]
        output["auto_map"] = dict(self.own_auto_map)
        output["custom_pipelines"] = _copy_custom_pipelines()
        return output

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Write `config.json` and the code files; saving a model or a pipeline comes through here."""
        os.makedirs(save_directory, exist_ok=True)
        save_code_files(save_directory, self.code_file)
        super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)  # type: ignore[misc]


def _copy_custom_pipelines() -> dict[str, Any]:
    # Afresh: `pipeline` replaces the class names in it by classes.
    return {task: dict(entry) for task, entry in _CUSTOM_PIPELINES.items()}


# ---------------------------------------------------------------------------------------------------------------------
# Weights.


def refuse_misfit(class_name: str, source: Any, advice: str = "", **problems: Iterable[str]) -> None:
    """Raise `ValueError` if there are weights with a problem (`missing=`, `unexpected=`, `misshapen=`)."""
    listed = {kind: sorted(names) for kind, names in problems.items()}
    found = "; ".join(f"{kind}: {', '.join(names[:8])}" for kind, names in listed.items() if names)
    if found:
        where = "given" if source is None else f"in {str(source)!r}"
        raise ValueError(f"The weights {where} do not fit {class_name} as its config describes it ({found}).{advice}")


# ---------------------------------------------------------------------------------------------------------------------
# Provenance: what produced a score, exactly enough to produce it again.


# Folders of the cache carry the commit of what lies in them.
_COMMIT_IN_PATH = re.compile(r"[/\\]([0-9a-f]{40})(?:-[^/\\]*)?(?:[/\\]|$)")


def find_commit(name: Any, **loading: Any) -> str | None:
    """Hash of the commit that `from_pretrained(name, **loading)` has just read; `None` outside a repository.

    transformers does not remember it, but the file that it read lies in the cache, under that hash.
    """
    if name is None:
        return None
    where = {key: loading[key] for key in ("revision", "subfolder", "cache_dir") if loading.get(key)}
    path = name if Path(name).is_dir() else _find_cached_config(name, where)
    found = _COMMIT_IN_PATH.search(str(path))
    return found[1] if found else None


def _find_cached_config(name: str, where: dict[str, Any]) -> str | None:
    try:
        return cached_file(name, CONFIG_NAME, local_files_only=True, **where)
    except OSError:
        return None


def describe_provenance(model: Any) -> dict[str, str | None]:
    """Say which weights and which code a loaded model is.

    Returns:
        `model`: repository or folder it was loaded from. `revision`: hash of the repository's commit; `None` for a
        folder that is no copy of one, and then `weights_sha256` tells the weights. `dtype`, such as `"float32"`.
        `charm_hf`: version of the installed package; `None` if the code came with the checkpoint, as of `revision`.
        `transformers` and `torch`: their versions.
    """
    name = str(getattr(model, "name_or_path", "") or model.config.name_or_path)
    revision = getattr(model.config, "_commit_hash", None)
    package = sys.modules.get("charm_hf") if __name__.startswith("charm_hf.") else None
    return {
        "model": name,
        "revision": revision,
        "weights_sha256": None if revision else _hash_weights(Path(name)),
        "dtype": str(model.dtype).removeprefix("torch."),
        "charm_hf": getattr(package, "__version__", None),
        "transformers": transformers.__version__,
        "torch": torch.__version__,
    }


def digest_weights(model: Any) -> str:
    """SHA-256 of names, dtypes and values of a model's weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _hash_weights(folder: Path) -> str | None:
    """SHA-256 of the safetensors in a folder, one after the other by name; `None` if there are none."""
    digest, files = hashlib.sha256(), sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    for file in files:
        with open(file, "rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest() if files else None


# ---------------------------------------------------------------------------------------------------------------------
# The metadata block of a model card, completed wherever a checkpoint is pushed from.


# The Hub knows a fixed list of tasks, and image aesthetics is not one of them.
PIPELINE_TAG = "image-classification"
TAGS = ("image-aesthetics", "image-quality-assessment", "vision", "charm")
# Of the code that travels with every checkpoint, and of the DINOv2 weights that most grow from.
LICENSE = "apache-2.0"
# What a card calls each metric.
METRIC_NAMES = {
    "plcc": "PLCC",
    "srcc": "SRCC",
    "acc": "ACC",
    "mse": "MSE",
    "mae": "MAE",
    "emd_r1": "EMD (r = 1)",
    "emd_r2": "EMD (r = 2)",
}


def find_base_models(config: Mapping[str, Any]) -> list[str]:
    """Repositories of the pretrained encoders that the content of a `config.json` names.

    A local path is left out: it means nothing elsewhere, and is nobody else's business.
    """
    backbone = (config.get("backbone_config") or {}).get("_name_or_path")
    names = [name or "" for name in (backbone, config.get("vision_repository"), config.get("text_repository"))]
    return [name for name in names if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name) and not Path(name).exists()]


def _licence_of_encoder(config: Mapping[str, Any]) -> str | None:
    """The licence that weights grown from pretrained ones keep, where it is none of open source (DINOv3)."""
    vision = config.get("vision_config") or config
    encoder = vision.get("backbone_config") or vision
    row = BACKBONES.get(encoder.get("model_type", ""))
    pretrained = encoder.get("_name_or_path") or config.get("vision_repository")
    return row.licence if row is not None and pretrained else None


def card_metadata(config: Mapping[str, Any], license: str = LICENSE) -> dict[str, Any]:
    """What a card's metadata says of a checkpoint, given the content of its `config.json` (empty: a processor's)."""
    own = _licence_of_encoder(config) if license == LICENSE else None
    metadata = {
        "license": "other" if own else license,
        "license_name": own,
        "library_name": "transformers",
        "pipeline_tag": PIPELINE_TAG,
        "tags": list(TAGS),
        "base_model": find_base_models(config) or None,
        "datasets": [config["dataset_name"]] if config.get("dataset_name") else None,
    }
    return {key: value for key, value in metadata.items() if value is not None}


def complete_card(card: ModelCard, metadata: Mapping[str, Any]) -> ModelCard:
    """Add to a card the metadata that it lacks, and touch nothing that it has."""
    for key, value in metadata.items():
        if value is not None and not card.data.get(key):
            card.data[key] = value
    return card


class CardMixin:
    """Completes the card that `push_to_hub` of transformers writes, in the same commit."""

    def _upload_modified_files(self, working_dir: Any, *args: Any, **kwargs: Any) -> Any:
        folder = Path(working_dir)
        config = folder / "config.json"
        described = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
        if (folder / "README.md").is_file():
            complete_card(ModelCard.load(folder / "README.md"), card_metadata(described)).save(folder / "README.md")
        return super()._upload_modified_files(working_dir, *args, **kwargs)  # type: ignore[misc]


class CheckpointMixin(CardMixin):
    """Checks when a model is built, loads without making up weights, pushes with a complete card.

    Attributes:
        head_prefix: how the names of the head's weights begin.
    """

    head_prefix: ClassVar[str]
    _no_split_modules: Any

    def __init__(self, config: Any, *inputs: Any, **kwargs: Any) -> None:
        config.check()
        super().__init__(config, *inputs, **kwargs)  # type: ignore[call-arg]

    def post_init(self) -> None:
        """Finish the construction of the model."""
        super().post_init()  # type: ignore[misc]
        # Encoders name modules that Charm replaced; FSDP looks for each.
        present = {type(module).__name__ for module in self.modules()}  # type: ignore[attr-defined]
        self._no_split_modules = set(self._no_split_modules or ()) & present

    def get_image_features(self, *inputs: Any, **named_inputs: Any) -> Any:
        """Embed photos instead of scoring them; the inputs are those of the model.

        Returns:
            What the encoder gives: `pooler_output` (B, E), what the head sees of each photo, and `last_hidden_state`.
        """
        return self.base_model(*inputs, **named_inputs)  # type: ignore[attr-defined]

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *model_args: Any, **kwargs: Any) -> Any:
        """Load weights as `PreTrainedModel.from_pretrained` does, but refuse a checkpoint that does not fit.

        A class without a head leaves the head of a checkpoint alone. `ignore_mismatched_sizes=True` asks for new
        weights, with transformers' warning, where those of the checkpoint have another shape, and for a new head where
        it has none.

        Raises:
            ValueError: if weights are missing, unexpected or misshapen, instead of initializing them anew.
        """
        kwargs["use_safetensors"] = True  # never a pickle
        wants_info = kwargs.pop("output_loading_info", False)
        tolerant = kwargs.pop("ignore_mismatched_sizes", False)
        # Tolerated by transformers in any case, since its own error names no tensor; refused below.
        model, info = super().from_pretrained(  # type: ignore[misc]
            pretrained_model_name_or_path,
            *model_args,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **kwargs,
        )
        missing, unexpected = set(info["missing_keys"]), set(info["unexpected_keys"])
        head = {name for name in missing | unexpected if name.startswith(cls.head_prefix)}
        is_bare = model.base_model is model
        advice = (
            f" It has no head: load it as {type(model.base_model).__name__}, or pass `ignore_mismatched_sizes=True` "
            "to train a new one."
        )
        refuse_misfit(
            cls.__name__,
            pretrained_model_name_or_path,
            advice if missing and missing <= head else "",
            missing=missing - head if tolerant else missing,
            unexpected=unexpected - head if is_bare else unexpected,
            misshapen=[] if tolerant else map(str, info["mismatched_keys"]),
        )
        for key, *_ in info["mismatched_keys"]:
            owner, _, name = key.rpartition(".")
            if initialize := getattr(model.get_submodule(owner), "initialize", None):
                initialize(name)
        model.config._commit_hash = find_commit(pretrained_model_name_or_path, **kwargs)
        return (model, info) if wants_info else model


__all__ = ["CardMixin", "CarriesItsCode", "CheckpointMixin", "describe_provenance", "save_code_files"]
