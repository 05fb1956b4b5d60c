"""The state of a run on disk: written whole or not at all, as safetensors and JSON, so that nothing is unpickled.

A checkpoint is a folder `checkpoint-<steps>`: `state.json` (progress, scheduler, hyperparameters of the optimizer),
`model.safetensors`, `optimizer.safetensors`, `rng-<process>.safetensors` and perhaps `ema.safetensors`, the average.
It appears under its name only when every byte of it is on the disk.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import nn

from charm_hf.files import commit_folder, remove_folder, sha256_of, start_folder, temporary_folder


logger = logging.getLogger(__name__)

STATE_NAME = "state.json"
# What damaged JSON makes of the code that reads it.
_DAMAGE = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)
_SEPARATOR = "|"  # between a parameter's name and the name of its state; module names have none


@dataclass
class Progress:
    """How far a run has come.

    Attributes:
        epoch: finished epochs.
        epoch_step: optimizer steps done in the epoch under way.
        step: optimizer steps done in all.
        epoch_loss: sum of the training losses of the epoch under way, one a step.
        history: one record per finished epoch.
    """

    epoch: int = 0
    epoch_step: int = 0
    step: int = 0
    epoch_loss: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)

    def end_epoch(self, record: dict[str, Any]) -> None:
        """Note what an epoch came to, and turn to the next."""
        self.history.append(record)
        self.epoch, self.epoch_step, self.epoch_loss = self.epoch + 1, 0, 0.0

    def best(self, metric: str) -> dict[str, Any]:
        """Record of the epoch where `metric` was highest, the earliest of equals; of the last epoch if none has it."""
        return max(self.history, key=lambda record: (record.get(metric, record["epoch"]), -record["epoch"]))

    def is_over(self, num_epochs: int, metric: str, patience: int | None = None) -> bool:
        """Whether all epochs are done, or `patience` of them in a row brought no better `metric`."""
        if self.epoch >= num_epochs:
            return True
        return patience is not None and self.epoch > 0 and self.epoch - self.best(metric)["epoch"] >= patience


@dataclass
class TrainingParts:
    """What has a state: the bare model, its optimizer and scheduler, and the average of its weights, if any."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler
    ema: nn.Module | None = None

    def trained_names(self) -> list[str]:
        """Names of the parameters in the order of the optimizer, which numbers them."""
        names = {id(parameter): name for name, parameter in self.model.named_parameters()}
        return [names[id(parameter)] for group in self.optimizer.param_groups for parameter in group["params"]]


def saved_states(output_dir: Path) -> list[Path]:
    """Complete checkpoints of a run, oldest first."""
    return sorted(filter(is_whole, output_dir.glob("checkpoint-[0-9]*")))


def is_whole(folder: Path) -> bool:
    """Whether a checkpoint has all its files, each of the size it was written with: copies may break off, too."""
    try:
        sizes = json.loads((folder / STATE_NAME).read_text(encoding="utf-8"))["files"]
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except _DAMAGE:
        return False


def is_intact(folder: Path) -> bool:
    """Whether a whole checkpoint still holds what was written."""
    try:
        state = json.loads((folder / STATE_NAME).read_text(encoding="utf-8"))
        digests = state["sha256"]
        own = digests.pop(STATE_NAME)
        return own == hashlib.sha256(json.dumps(state).encode()).hexdigest() and all(
            sha256_of(folder / name) == digest for name, digest in digests.items()
        )
    except _DAMAGE:
        return False


def find_state(resume_from: str, output_dir: Path) -> Path | None:
    """Find the checkpoint to go on from: `"latest"`, of the run in `output_dir`, or a checkpoint's own folder.

    The latest is the newest that is undamaged; a warning names newer ones. It is `None` if the run was stopped before
    its first.

    Raises:
        FileNotFoundError: if the path is no checkpoint folder.
        ValueError: if it is damaged, or all are.
    """
    if resume_from == "latest":
        found = saved_states(output_dir)
        for folder in reversed(found):
            if is_intact(folder):
                return folder
            logger.warning("%s is damaged: going on from an older checkpoint.", folder)
        if found:
            raise ValueError(f"All checkpoints in {output_dir} are damaged: start the run anew in another folder.")
        return None
    path = Path(resume_from)
    if not is_whole(path):
        raise FileNotFoundError(
            f'Expected "latest" or a whole checkpoint folder ({STATE_NAME} and its files) to resume from, got '
            f"{resume_from!r}."
        )
    if not is_intact(path):
        raise ValueError(f"{resume_from!r} is damaged: its files are not what was written. Resume from another.")
    return path


def save_state(
    output_dir: Path, accelerator: Accelerator, parts: TrainingParts, progress: Progress, keep: int | None = None
) -> None:
    """Write `checkpoint-<step>`; all processes call this together and share `output_dir`.

    The newest `keep` checkpoints are kept; `None` keeps all.
    """
    folder = output_dir / f"checkpoint-{progress.step:08d}"
    temporary = temporary_folder(folder)
    if accelerator.is_main_process:
        start_folder(folder)
    accelerator.wait_for_everyone()
    save_file(_rng_state(accelerator.device), temporary / f"rng-{accelerator.process_index}.safetensors")
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        save_file(_contiguous(parts.model.state_dict()), temporary / "model.safetensors")
        if parts.ema is not None:
            save_file(_contiguous(parts.ema.state_dict()), temporary / "ema.safetensors")
        optimizer, names = parts.optimizer.state_dict(), parts.trained_names()
        moments = {
            f"{names[number]}{_SEPARATOR}{name}": tensor
            for number, entries in optimizer["state"].items()
            for name, tensor in entries.items()
        }
        save_file(_contiguous(moments), temporary / "optimizer.safetensors")
        state = {
            "progress": asdict(progress),
            "num_processes": accelerator.num_processes,
            "trained": names,
            "param_groups": optimizer["param_groups"],
            "scheduler": parts.scheduler.state_dict(),
            "files": {path.name: path.stat().st_size for path in sorted(temporary.iterdir())},
            "sha256": {path.name: sha256_of(path) for path in sorted(temporary.iterdir())},
        }
        state["sha256"][STATE_NAME] = hashlib.sha256(json.dumps(state).encode()).hexdigest()
        (temporary / STATE_NAME).write_text(json.dumps(state, indent=2), encoding="utf-8")
        commit_folder(folder)
        for old in saved_states(output_dir)[: -keep if keep else 0]:
            remove_folder(old)
    accelerator.wait_for_everyone()


def load_state(folder: Path, accelerator: Accelerator, parts: TrainingParts) -> Progress:
    """Bring every part, and torch's random generators, to the state of a checkpoint.

    Raises:
        ValueError: if the checkpoint was written by another number of processes, or by another model or optimizer.
    """
    state = json.loads((folder / STATE_NAME).read_text(encoding="utf-8"))
    if state["num_processes"] != accelerator.num_processes:
        raise ValueError(
            f"{folder} was written by {state['num_processes']} processes, and this run has "
            f"{accelerator.num_processes}: start as many, so that the batches stay what they were."
        )
    names = parts.trained_names()
    if state["trained"] != names:
        raise ValueError(f"{folder} holds an optimizer of other parameters: resume with the flags of the first run.")
    parts.model.load_state_dict(load_file(folder / "model.safetensors"))
    if parts.ema is not None:
        parts.ema.load_state_dict(load_file(folder / "ema.safetensors"))
    moments: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in load_file(folder / "optimizer.safetensors").items():
        name, entry = key.split(_SEPARATOR)
        moments.setdefault(names.index(name), {})[entry] = tensor
    parts.optimizer.load_state_dict({"state": moments, "param_groups": state["param_groups"]})
    parts.scheduler.load_state_dict(state["scheduler"])
    _restore_rng_state(load_file(folder / f"rng-{accelerator.process_index}.safetensors"), accelerator.device)
    return Progress(**state["progress"])


def _contiguous(tensors: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().contiguous() for name, tensor in tensors.items()}


def _rng_state(device: torch.device) -> dict[str, torch.Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def _restore_rng_state(state: Mapping[str, torch.Tensor], device: torch.device) -> None:
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
