"""Load what scores: a model and its processor, from a folder, a repository or the package itself."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoImageProcessor, AutoModel, AutoProcessor

from ..models.configuration_charm import CharmConfig
from ..models.configuration_mmlq import MmlqConfig


DEMONSTRATION_NOTICE = (
    "No --model given: using charm-tiny, the demonstration checkpoint inside the package. It shows every part offline "
    "and is no judge of photographs: its card says how little it knows. For real use pass --model with a checkpoint "
    "trained on an aesthetics dataset; `charm-hf models` lists what there is."
)


def default_device() -> str:
    """A GPU if there is one."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def load_for_scoring(
    model: str | None = None,
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype = "float32",
    compile_model: bool = False,
    trust_remote_code: bool = False,
    revision: str | None = None,
    subfolder: str | None = None,
) -> tuple[Any, Any]:
    """Load a model, ready to score, and its processor.

    Args:
        model: folder or repository, one that holds only released pickles included (see `resolve_checkpoint`); the
            embedded demonstration checkpoint if not given.
        device: where to score; a GPU if there is one.
        dtype: of the weights, such as `"float32"` or `"bfloat16"`.
        compile_model: compile the model with `torch.compile`.
        trust_remote_code: run the code that a checkpoint brings, where this package has none for it.
        revision: branch, tag or commit of a repository.
        subfolder: which of several checkpoints, such as `"ava"`.

    Raises:
        ValueError: for an unknown dtype, or a checkpoint that is not there.
        OSError: if a repository cannot be read.
    """
    from ..hub import embedded_model_path, resolve_checkpoint

    torch_dtype = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(torch_dtype, torch.dtype) or not torch_dtype.is_floating_point:
        raise ValueError(f"`dtype` must be a floating point type of torch, such as 'bfloat16', got {dtype!r}.")
    try:
        folder = resolve_checkpoint(model, dataset=subfolder, revision=revision) if model else embedded_model_path()
    except OSError as error:
        raise ValueError(f"There is no folder {model!r}, and no such repository can be read: {error}") from error
    try:
        network, processor = _load(folder, torch_dtype, trust_remote_code)
    except (OSError, ImportError):
        raise
    except Exception as error:  # files of strangers make every part of the loading stumble in its own way
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise ValueError(f"{folder!r} cannot be loaded. {kind}{error}") from error
    network = network.to(device or default_device()).eval().requires_grad_(False)
    if compile_model:
        network.compile(dynamic=True)
    return network, processor


def _load(folder: str, dtype: torch.dtype, trust_remote_code: bool) -> tuple[Any, Any]:
    from ..hub.cards import read_config

    kind = read_config(folder).get("model_type")
    if kind not in (CharmConfig.model_type, MmlqConfig.model_type):
        raise ValueError(f"It holds a model of type {kind!r}, which gives no aesthetic score: expected charm or mmlq.")
    network = AutoModel.from_pretrained(folder, dtype=dtype, trust_remote_code=trust_remote_code, use_safetensors=True)
    if network.config.model_type == MmlqConfig.model_type:
        processor = AutoProcessor.from_pretrained(folder, trust_remote_code=trust_remote_code)
        processor.check_text_encoder(network.config.text_config)
    else:
        processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=trust_remote_code)
    return network, processor
