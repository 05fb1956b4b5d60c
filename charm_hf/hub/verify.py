"""Decide whether a checkpoint is fit to be published: finite weights, which a stranger's process can score with."""

from __future__ import annotations

import json
import logging
import os
import site
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors import safe_open

from .layout import CONFIG_NAME, ROOT, find_checkpoints


logger = logging.getLogger(__name__)

TIMEOUT_SECONDS = 1800
_LET_THROUGH = {
    *("PATH", "LANG", "TMPDIR", "TEMP", "TMP", "SYSTEMROOT", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"),
    *("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "CONDA_PREFIX", "CUDA_VISIBLE_DEVICES"),
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "ATEN_CPU_CAPABILITY"),
}


class CheckpointError(ValueError):
    """A checkpoint that must not be published; the message says which, and what is wrong with it."""


def verify_checkpoints(folder: str | os.PathLike, checkpoints: list[str] | None = None) -> dict[str, float]:
    """Check every checkpoint of a repository folder before it is published.

    The code beside the weights is run, as it would be by whoever loads the published repository with
    `trust_remote_code=True`; `charm_hf` itself and the variables of this process's environment, tokens with them, are
    hidden from it.

    Args:
        folder: a folder laid out as in `charm_hf.hub.layout`.
        checkpoints: which of them; all if not given.

    Returns:
        For each checkpoint its score of a built-in picture, in the data set's own units.

    Raises:
        CheckpointError: weights missing, not finite, misshapen or unexpected; code or processor that does not load; a
            score outside the range.
        FileNotFoundError: if the folder holds no checkpoint.
    """
    folder = Path(folder).resolve()
    checkpoints = checkpoints or find_checkpoints(folder)
    for checkpoint in checkpoints:
        check_weights(folder / checkpoint)
    logger.info("Loading %s in a clean process and scoring one photo.", folder)
    results = _run_clean_process(folder, checkpoints)
    problems = [
        f"{_describe(folder, result['checkpoint'])}: {result['error']}" for result in results if "error" in result
    ]
    if problems:
        raise CheckpointError("A clean process could not use the checkpoint.\n" + "\n".join(problems))
    return {result["checkpoint"]: result["score"] for result in results}


def check_weights(folder: str | os.PathLike) -> None:
    """Raise `CheckpointError` unless `folder` holds safetensors and every number in them is finite."""
    folder = Path(folder)
    if not (folder / CONFIG_NAME).is_file():
        raise CheckpointError(f"{folder} has no {CONFIG_NAME}.")
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise CheckpointError(
            f"{folder} has no safetensors weights. Pickled weights are not published: load the model and call "
            "`save_pretrained`, or `charm-hf convert` a released one."
        )
    for file in files:
        with safe_open(str(file), framework="pt") as weights:
            bad = [name for name in weights.keys() if not _is_finite(weights.get_tensor(name))]  # noqa: SIM118
        if bad:
            raise CheckpointError(f"{file} holds numbers that are not finite, in {_shorten(bad)}.")


def _is_finite(tensor: torch.Tensor) -> bool:
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor.float()).all())


def _shorten(names: list[str], limit: int = 5) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _describe(folder: Path, checkpoint: str) -> str:
    return str(folder if checkpoint == ROOT else folder / checkpoint)


def _run_clean_process(folder: Path, checkpoints: list[str]) -> list[dict]:
    script = Path(__file__).with_name("clean_process.py")
    with tempfile.TemporaryDirectory() as work:
        report = Path(work) / "report.json"
        run = subprocess.run(
            [sys.executable, str(script), str(report), str(folder), *checkpoints],
            cwd=work,
            env=_clean_environment(work),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_SECONDS,
        )
        if not report.is_file():
            last_words = "\n".join(run.stderr.strip().splitlines()[-15:])
            raise CheckpointError(
                f"The process that tried {folder} ended with code {run.returncode} before it had a result:\n"
                f"{last_words}"
            )
        return json.loads(report.read_text(encoding="utf-8"))


def _clean_environment(work: str) -> dict[str, str]:
    """What the folder's code sees: no token, no cache, no earlier copy of the code, and no network to fetch any from.

    Variables are let through by name, since nobody knows all the names that secrets have.
    """
    return {
        **{name: value for name, value in os.environ.items() if name in _LET_THROUGH or name.startswith("LC_")},
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
        "HF_HOME": work,
        "HOME": work,
        "USERPROFILE": work,
        "PYTHONUSERBASE": site.getuserbase(),
    }
