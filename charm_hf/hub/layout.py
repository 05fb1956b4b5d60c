"""What a checkpoint repository looks like: a default at the root, one subfolder per further checkpoint, code once.

    config.json  model.safetensors  preprocessor_config.json  README.md  LICENSE      the default checkpoint
    configuration_charm.py  modeling_charm.py  …                                      the code, for all of them
    aadb/config.json  aadb/model.safetensors  aadb/preprocessor_config.json           one subfolder each
    ava/…

transformers looks custom code up at the root even when it is given a `subfolder`, so the subfolders hold none.
"""

from __future__ import annotations

import filecmp
import fnmatch
import os
import shutil
from collections.abc import Mapping
from pathlib import Path


CONFIG_NAME = "config.json"
CARD_NAME = "README.md"
LICENSE_NAME = "LICENSE"
HANDLER_NAME = "handler.py"  # what Inference Endpoints run
ROOT = "."

ASSETS = Path(__file__).resolve().parent.parent / "assets"

# Subfolders that training leaves behind and that are no published checkpoint, though some hold a config.
_WORK_FOLDERS = ("checkpoint-", "runs", "logs", "__pycache__", ".")
# All that belongs to a published checkpoint; whatever else lies beside it is its owner's business.
_PUBLISHED = (
    *("config.json", "generation_config.json", "preprocessor_config.json", "processor_config.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "vocab.txt", "merges.txt", "eval_results.json", "*.safetensors", "*.safetensors.index.json"),
    *("*_charm.py", "*_mmlq.py", "pipeline_image_aesthetics.py"),
    *(HANDLER_NAME, "requirements.txt", CARD_NAME, LICENSE_NAME, "NOTICE", "CITATION.cff"),
)


def embedded_model_path() -> str:
    """Folder of `charm-tiny`, the small demonstration checkpoint inside the package.

    Raises:
        FileNotFoundError: if the installation lacks it.
    """
    folder = ASSETS / "charm-tiny"
    if not (folder / CONFIG_NAME).is_file():
        raise FileNotFoundError(
            f"The embedded checkpoint is missing from {folder}: the package was installed without its data files. "
            "Install it again (`pip install --force-reinstall charm-hf`), or name a model: a local folder, or a "
            f"repository on the Hub."
        )
    return str(folder)


def find_checkpoints(folder: str | os.PathLike) -> list[str]:
    """List the checkpoints of a repository folder: `"."` for the root, names for subfolders.

    Raises:
        FileNotFoundError: if there is none.
    """
    folder = Path(folder)
    candidates = [folder / ROOT, *sorted(path for path in folder.glob("*") if not _is_work_folder(path))]
    found = [ROOT if path == folder else path.name for path in candidates if (path / CONFIG_NAME).is_file()]
    if not found:
        raise FileNotFoundError(
            f"{folder} holds no checkpoint: expected a {CONFIG_NAME} in it or in a subfolder. Write one with "
            "`save_pretrained`, or make one of a published pickle with `charm-hf convert`."
        )
    return found


def _is_work_folder(path: Path) -> bool:
    return path.name.startswith(_WORK_FOLDERS)


def list_published_files(folder: str | os.PathLike) -> tuple[list[str], list[str]]:
    """Sort the files of a repository folder into those to push and those to leave (pickles, logs, training state).

    Returns:
        Two sorted lists of paths relative to `folder`, with forward slashes.

    Raises:
        FileNotFoundError: if the folder holds no checkpoint.
        ValueError: for a symbolic link in the place of a checkpoint or of one of its files.
    """
    folder = Path(folder)
    checkpoints = find_checkpoints(folder)
    for checkpoint in checkpoints:
        if checkpoint != ROOT and (folder / checkpoint).is_symlink():
            raise _link_error(folder / checkpoint)
    push: list[str] = []
    leave: list[str] = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder)
        place = name.parent.as_posix()
        published = is_published(name.name) and (place == ROOT or place in checkpoints)
        if published and path.is_symlink():
            raise _link_error(path)
        (push if published else leave).append(name.as_posix())
    return push, leave


def is_published(name: str) -> bool:
    """Whether a file of that name belongs to a published checkpoint."""
    return not name.startswith(".") and any(fnmatch.fnmatchcase(name, pattern) for pattern in _PUBLISHED)


def _link_error(path: Path) -> ValueError:
    return ValueError(
        f"{path} is a symbolic link to {os.readlink(path)}: what it points to would be published. Put a copy in its "
        "place if that is meant."
    )


def assemble_repository(
    checkpoints: Mapping[str, str | os.PathLike], output_dir: str | os.PathLike, default: str | None = None
) -> Path:
    """Lay several checkpoint folders out as one repository.

    Args:
        checkpoints: name of the subfolder -> folder written by `save_pretrained`.
        output_dir: new or empty folder.
        default: which of them is copied to the root too (stored once by the Hub, which keeps files by content); the
            first if not given.

    Returns:
        `output_dir`.

    Raises:
        FileExistsError: if `output_dir` is not empty.
        ValueError: if there is nothing to lay out, the default is none of them, or two checkpoints carry unlike code.
    """
    output = Path(output_dir)
    if not checkpoints:
        raise ValueError("There is no checkpoint to lay out.")
    default = default or next(iter(checkpoints))
    if default not in checkpoints:
        raise ValueError(f"The default {default!r} is none of the checkpoints: {', '.join(checkpoints)}.")
    if output.exists() and any(output.iterdir()):
        raise FileExistsError(f"{output} is not empty: give a new folder.")
    for name, source in checkpoints.items():
        push, _ = list_published_files(source)
        for file in push:
            if "/" in file:
                continue
            if file.endswith(".py"):
                _copy_code(Path(source) / file, output / file)
                continue
            _copy(Path(source) / file, output / name / file)
            if name == default:
                _copy(Path(source) / file, output / file)
    return output


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _copy_code(source: Path, target: Path) -> None:
    if target.exists() and not filecmp.cmp(source, target, shallow=False):
        raise ValueError(
            f"{source} differs from the {source.name} of another checkpoint, but a repository holds its code once. "
            "Load and save the checkpoints again with one version of charm_hf."
        )
    _copy(source, target)
