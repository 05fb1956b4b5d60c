"""Turn a published Charm checkpoint into a folder of safetensors, configuration and code."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PretrainedConfig

from ..models.configuration_charm import CharmConfig
from ..models.image_processing_charm import CharmImageProcessor
from ..models.modeling_charm import CharmForAestheticScoring
from ..models.presets_charm import AADB_ATTRIBUTES, DATASET_PRESETS, get_dataset_preset
from .pickle_reader import Instance
from .torch_archive import StoredTensor, read_torch_file


logger = logging.getLogger(__name__)

# Under which key the training code saves the module: every few epochs, and after the best one.
_MODEL_KEYS = ("model_state_dict", "model")

# Class of the pickled backbone configuration -> its `model_type` today, and the fields that describe the encoder.
_BACKBONES = {"Dinov2Config": "dinov2", "ViTConfig": "vit"}
_SHARED_FIELDS = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "qkv_bias",
    "hidden_act",
    "layer_norm_eps",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "initializer_range",
)
_OWN_FIELDS = {
    "dinov2": ("mlp_ratio", "layerscale_value", "drop_path_rate", "use_swiglu_ffn"),
    "vit": ("intermediate_size",),
}

# Beginnings of the released names -> of ours. Inside the encoder, names stay those that transformers used then, which
# its loading turns into today's.
_RENAMED = {
    "patch_embeddings.patch_embedder.": "charm.backbone.embeddings.patch_embeddings.projection.",
    "patch_embeddings.se": "charm.embeddings.scale_embeddings",
    "patch_embeddings.": "charm.backbone.embeddings.",
    "encoder.": "charm.backbone.",
    "mlp_head.linear.": "classifier.",
}

# What building a model from a damaged or forged description may raise.
_UNFIT = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError, MemoryError)

# Far more than any encoder has. They end the walk through a forged tree that contains itself.
_MAX_MEMBERS = 100_000  # modules, parameters and buffers
_MAX_TENSORS = 10_000
_MAX_NAME = 500  # characters of a dotted name
# Far fewer than a layer of any encoder has.
_TENSORS_PER_LAYER = 10

# Files of a checkpoint, which another one must not be mixed with.
_CHECKPOINT_FILES = ("config.json", "*.safetensors", "*.safetensors.index.json", "preprocessor_config.json", "*.bin")


def convert_legacy_checkpoint(
    path: str | os.PathLike[str],
    output_dir: str | os.PathLike[str],
    *,
    dataset: str,
    position_embeddings: str | os.PathLike[str],
    overwrite: bool = False,
) -> Path:
    """Convert a published checkpoint, a pickle of a whole module, without executing anything in it.

    The architecture is read from the pickle. The result keeps what the weights were trained with: positions in the
    released order (`position_mode="reference"`), inputs that are not normalised, every token of a photo. Its
    predictions are those of the released code for an unpadded photo, to 1e-4.

    Args:
        path: the `.pth` file.
        output_dir: folder for weights, configurations and code, as `save_pretrained` writes them; made if missing.
        dataset: what the checkpoint was trained on: `ava`, `aadb`, `tad66k`, `para`, `baid`, `spaq` or `koniq10k`.
        position_embeddings: file of `torch.save` with the position embeddings of the backbone, which the checkpoint
            does not hold: one tensor (1, 1 + rows·columns, hidden size), CLS first, of a square grid.
        overwrite: replace the checkpoint that `output_dir` holds, if any.

    Returns:
        `output_dir` as a `Path`.

    Raises:
        FileNotFoundError: if one of the two files does not exist.
        FileExistsError: if `output_dir` holds a checkpoint, and `overwrite` is not given; nothing is read then.
        ValueError: if a file is damaged, tries to call something (the message has the name of it) or holds no Charm
            model; if the checkpoint does not fit `dataset` or the position embeddings. The message names the file.
    """
    preset = get_dataset_preset(dataset)
    output = Path(output_dir)
    held = [file for pattern in _CHECKPOINT_FILES for file in sorted(output.glob(pattern))]
    if held and not overwrite:
        raise FileExistsError(
            f"{output} holds a checkpoint ({', '.join(file.name for file in held)}): give another folder, or "
            "`overwrite=True` (`--overwrite`) to replace it."
        )
    saved = read_torch_file(path)
    positions = _read_positions(position_embeddings)
    try:
        released = _find_model(saved)
        stored = dict(_named_tensors(released))
        _require_content(stored, Path(path).stat().st_size)
        config = _build_config(released, stored, dataset, positions.shape[1])
        _require_fit(config, stored, positions)
        weights = _rename(stored, config)
        weights["charm.backbone.embeddings.position_embeddings"] = positions
        model = _load(config, weights)
    except _UNFIT as error:
        raise ValueError(f"Cannot convert {path}: {error}") from error
    processor = CharmImageProcessor.for_dataset(
        dataset,
        patch_size=config.patch_size,
        num_scales=config.num_scales,
        patch_selection="released_frequency",
        overflow="keep",
        do_resize=True,
        size={"longest_edge": preset.released_edge},
        do_normalize=False,
    )
    for file in held:
        file.unlink()
    model.save_pretrained(output)
    processor.save_pretrained(output)
    logger.info("Converted %s (%s) to %s", path, dataset, output)
    return output


def _find_model(saved: Any) -> Instance:
    """The Charm module in what was saved, taken out of the training dictionary and of data-parallel wrappers."""
    if isinstance(saved, dict):
        saved = next((saved[key] for key in _MODEL_KEYS if key in saved), saved)
    for _ in range(2):
        if isinstance(saved, Instance) and "module" in _children(saved):
            saved = _child(saved, "module")
    if not isinstance(saved, Instance):
        raise ValueError(
            f"expected a pickled module, or a dictionary with one under {' or '.join(map(repr, _MODEL_KEYS))}, found "
            f"{_summarise(saved)}."
        )
    return saved


def _build_config(model: Instance, stored: dict[str, StoredTensor], dataset: str, num_positions: int) -> CharmConfig:
    """Describe the released module: shapes of its tensors, attributes of its backbone's configuration."""
    trained_on = model.attributes.get("dataset", model.attributes.get("data"))
    if isinstance(trained_on, str) and trained_on in DATASET_PRESETS and trained_on != dataset:
        raise ValueError(f"it was trained on {trained_on!r}, not on {dataset!r}.")
    preset = get_dataset_preset(dataset)
    num_outputs = _shape(stored, "mlp_head.linear.weight", 2)[0]
    num_attributes = len(AADB_ATTRIBUTES) if dataset == "aadb" and num_outputs > 1 else 0
    expected = len(preset.score_values) if preset.score_values else 1 + num_attributes
    if num_outputs != expected:
        raise ValueError(f"its head has {num_outputs} outputs, but {dataset!r} needs {expected}.")
    activation = _child(model, "mlp_head", "sigmoid" if num_attributes else "activation").cls.name
    if activation != ("Softmax" if preset.score_values else "Sigmoid"):
        raise ValueError(f"its head ends with {activation}, which {dataset!r} does not.")
    return CharmConfig.for_dataset(
        dataset,
        backbone_config=_build_backbone_config(model, stored, num_positions),
        num_scales=_shape(stored, "patch_embeddings.se", 3)[1],
        num_attributes=num_attributes,
        position_mode="reference",
        score_range=preset.released_score_range or preset.score_range,
    )


def _build_backbone_config(model: Instance, stored: dict[str, StoredTensor], num_positions: int) -> PretrainedConfig:
    pickled = _child(model, "encoder", "encoder").attributes.get("config")
    kind = pickled.cls.name if isinstance(pickled, Instance) else type(pickled).__name__
    if not isinstance(pickled, Instance) or kind not in _BACKBONES:
        raise ValueError(f"its encoder is described by {kind}, expected one of {', '.join(_BACKBONES)}.")
    model_type = _BACKBONES[kind]
    fields = {name: pickled.attributes.get(name) for name in _SHARED_FIELDS + _OWN_FIELDS[model_type]}
    unusable = [name for name, value in fields.items() if not isinstance(value, bool | int | float | str)]
    if unusable:
        raise ValueError(f"its {kind} has no usable value of {', '.join(unusable)}.")
    layers = {name.split(".")[3] for name in stored if name.startswith("encoder.encoder.layer.")}
    if fields["num_hidden_layers"] != len(layers) or len(stored) < _TENSORS_PER_LAYER * len(layers):
        raise ValueError(
            f"its {kind} tells of {fields['num_hidden_layers']} layers, and it has {len(stored)} tensors in "
            f"{len(layers)} layers."
        )
    _, channels, height, width = _shape(stored, "patch_embeddings.patch_embedder.weight", 4)
    if channels != 3 or height != width:
        raise ValueError(f"its patches have {channels} channels and {height}×{width} pixels, expected 3 and a square.")
    side = math.isqrt(num_positions - 1)
    return AutoConfig.for_model(model_type, **fields, patch_size=height, image_size=side * height)


def _require_content(stored: dict[str, StoredTensor], file_size: int) -> None:
    """Refuse tensors that share storage so often that reading them takes far more memory than the file has bytes."""
    if sum(math.prod(tensor.shape) for tensor in stored.values()) > file_size:
        raise ValueError(f"its tensors have more elements than the file has bytes ({file_size:,}).")


def _require_fit(config: CharmConfig, stored: dict[str, StoredTensor], positions: torch.Tensor) -> None:
    """Refuse a description of a far larger model than the tensors fill, before memory is taken for it.

    What is only missing or misshapen is found when the model is loaded, and named.
    """
    with torch.device("meta"):
        wanted = sum(parameter.numel() for parameter in CharmForAestheticScoring(config).parameters())
    given = positions.numel() + sum(math.prod(tensor.shape) for tensor in stored.values())
    if wanted > 2 * given + 2**20:
        raise ValueError(f"its configuration describes a model of {wanted:,} numbers, and it holds {given:,}.")


def _rename(stored: dict[str, StoredTensor], config: CharmConfig) -> dict[str, torch.Tensor]:
    """Read the released tensors under the names that [`CharmForAestheticScoring`] loads."""
    weights = {}
    for name, tensor in stored.items():
        old = next((prefix for prefix in _RENAMED if name.startswith(prefix)), "")
        weights[_RENAMED.get(old, "") + name.removeprefix(old)] = tensor.read().float()
    if config.num_scales == 1:  # the released code does not add the embedding of a single scale
        del weights["charm.embeddings.scale_embeddings"]
    # What stood for padding, which is masked out now. DINOv2 has a place for it, of one dimension less.
    mask_token = weights.pop("charm.backbone.embeddings.mask_token", None)
    if mask_token is not None and config.backbone_config.model_type == "dinov2":
        weights["charm.backbone.embeddings.mask_token"] = mask_token.reshape(1, -1)
    return weights


def _load(config: CharmConfig, weights: dict[str, torch.Tensor]) -> CharmForAestheticScoring:
    # Misshapen weights are let through, to be named here: otherwise the error does not say which they are.
    model, report = CharmForAestheticScoring.from_pretrained(
        None, config=config, state_dict=weights, ignore_mismatched_sizes=True, output_loading_info=True
    )
    misshapen = [
        f"{name} {tuple(found)} instead of {tuple(expected)}" for name, found, expected in report["mismatched_keys"]
    ]
    if misshapen:
        raise ValueError(f"its tensors do not have the sizes that its configuration asks for: {', '.join(misshapen)}.")
    return model


def _read_positions(path: str | os.PathLike[str]) -> torch.Tensor:
    """Read the (1, 1 + side², hidden size) position embeddings of a backbone, as float32."""
    stored = read_torch_file(path)
    if not isinstance(stored, StoredTensor):
        raise ValueError(f"{path}: expected one tensor of position embeddings, found {_summarise(stored)}.")
    shape = stored.shape
    if len(shape) != 3 or shape[0] != 1 or shape[1] < 2 or math.isqrt(shape[1] - 1) ** 2 != shape[1] - 1:
        raise ValueError(f"{path}: expected position embeddings of shape (1, 1 + side², hidden size), found {shape}.")
    return stored.read().float()


def _children(module: Instance) -> dict[str, Any]:
    children = module.attributes.get("_modules")
    return children if isinstance(children, dict) else {}


def _child(module: Instance, *path: str) -> Instance:
    for name in path:
        child = _children(module).get(name)
        if not isinstance(child, Instance):
            raise ValueError(f"no Charm model: `{module.cls}` has no module `{name}`.")
        module = child
    return module


def _named_tensors(root: Instance) -> Iterator[tuple[str, StoredTensor]]:
    """Parameters and buffers with dotted names, as `named_parameters` gives them for a module that runs."""
    pending = [("", root)]
    members = tensors = 0
    while pending:
        prefix, module = pending.pop()
        for kind in ("_parameters", "_buffers", "_modules"):
            held = module.attributes.get(kind)
            for name, value in held.items() if isinstance(held, dict) else ():
                members += 1
                if not isinstance(name, str) or not isinstance(value, Instance | StoredTensor):
                    continue
                if kind == "_modules" and isinstance(value, Instance):
                    pending.append((f"{prefix}{name}.", value))
                elif kind != "_modules" and isinstance(value, StoredTensor):
                    tensors += 1
                    yield prefix + name, value
                if members > _MAX_MEMBERS or tensors > _MAX_TENSORS or len(prefix) + len(name) > _MAX_NAME:
                    raise ValueError(
                        f"no Charm model: it has more than {_MAX_TENSORS:,} tensors, {_MAX_MEMBERS:,} members or "
                        f"{_MAX_NAME} characters in a name, or a module that contains itself."
                    )


def _shape(stored: dict[str, StoredTensor], name: str, dimensions: int) -> tuple[int, ...]:
    if name not in stored or len(stored[name].shape) != dimensions:
        raise ValueError(f"no Charm model: it has no tensor `{name}` of {dimensions} dimensions.")
    return stored[name].shape


def _summarise(value: Any) -> str:
    if isinstance(value, dict):
        return f"a dictionary with the keys {', '.join(map(repr, list(value)[:8]))}"
    return f"a `{value.cls}`" if isinstance(value, Instance) else type(value).__name__
