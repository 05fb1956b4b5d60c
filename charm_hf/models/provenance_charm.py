"""What produced a score, exactly enough to produce it again."""

from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.utils import CONFIG_NAME, cached_file


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
