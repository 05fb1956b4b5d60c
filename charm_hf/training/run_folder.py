"""The folder of a run: whose it is, what stands in it, and the checkpoint that it leaves behind."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import shutil
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import accelerate
import torch
import transformers
from datasets import Dataset

from charm_hf.data import split_hash
from charm_hf.files import Lock, remove_leftovers, replaced_file, write_json


RUN_NAME = "run.json"
LOCK_NAME = ".lock"
# How long to wait for another process to end, such as one whose launcher was killed just now, or the data workers that
# it leaves for some seconds.
_PATIENCE = 6.0
# Flags that may be others when a run goes on: none of them has a say in the weights.
_FREE_FLAGS = (
    *("config", "data_dir", "output_dir", "resume_from_checkpoint", "num_workers", "per_device_eval_batch_size"),
    *("checkpointing_steps", "save_total_limit", "report_to", "push_to_hub"),
)
_LAUNCHER_VARIABLES = ("ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID")
_held: dict[Path, Lock] = {}


def exit_with_launcher(poll_seconds: float = 0.5) -> None:
    """End this process soon after `accelerate launch` or `torchrun`, which started it, is gone.

    A launcher that is killed leaves its processes behind. They would go on writing into a folder that the next run
    resumes from.
    """
    if not any(name in os.environ for name in _LAUNCHER_VARIABLES):
        return
    launcher = os.getppid()

    def watch() -> None:
        while os.getppid() == launcher:
            time.sleep(poll_seconds)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="exit-with-launcher").start()


def describe_run(
    script: str,
    args: argparse.Namespace,
    argv: Sequence[str] | None,
    splits: Mapping[str, Dataset | None],
    num_processes: int = 1,
) -> dict[str, Any]:
    """What somebody needs to repeat a run of a script: command, flags, hashes of the splits, versions.

    `argv` is `sys.argv[1:]` if not given; a part of the dataset that is not used is `None`.
    """
    flags = sys.argv[1:] if argv is None else argv
    launch = "accelerate launch" + (f" --num_processes {num_processes}" if num_processes > 1 else "")
    return {
        "command": f"{launch} examples/{Path(script).name} {shlex.join(flags)}",
        "flags": {name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()},
        "splits": {
            name: {"images": len(part), "sha256": split_hash(part["image_id"][:])}
            for name, part in splits.items()
            if part is not None
        },
        "num_processes": num_processes,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "accelerate": accelerate.__version__,
        },
    }


def claim_output_dir(output_dir: Path, run: Mapping[str, Any], resume: bool) -> None:
    """Write `run.json` into the output folder, or check that the run in it is the one that goes on.

    The folder is then this process's as long as it lives.

    Raises:
        RuntimeError: if another process is training into the folder.
        FileExistsError: if the folder holds a run, or a checkpoint, and nothing is to be resumed.
        ValueError: if the run in the folder has other flags or other photos.
    """
    path = output_dir / RUN_NAME
    if not resume and (path.exists() or (output_dir / "config.json").exists()):
        raise FileExistsError(
            f"{output_dir} already holds a run: give another --output_dir, go on with --resume_from_checkpoint latest "
            "or delete it."
        )
    output_dir.mkdir(parents=True, exist_ok=True)
    if (folder := output_dir.resolve()) not in _held:
        try:
            _held[folder] = Lock(folder / LOCK_NAME).acquire(_PATIENCE)
        except BlockingIOError as error:
            raise RuntimeError(f"Another process is training into {folder}: wait for it, or end it first.") from error
    remove_leftovers(output_dir)
    if path.exists():
        _require_same(json.loads(path.read_text(encoding="utf-8")), json.loads(json.dumps(run)), output_dir)
        return
    write_json(path, run)


def _require_same(old: dict[str, Any], new: dict[str, Any], output_dir: Path) -> None:
    names = [name for name in {**old["flags"], **new["flags"]} if name not in _FREE_FLAGS]
    differences = [
        f"{name} was {old['flags'].get(name)!r}, is {new['flags'].get(name)!r}"
        for name in names
        if old["flags"].get(name) != new["flags"].get(name)
    ]
    if old["splits"] != new["splits"]:
        differences.append(f"photos were {old['splits']}, are {new['splits']}")
    if differences:
        raise ValueError(f"{output_dir} holds a run that cannot go on with other settings: {'; '.join(differences)}.")


def publish_files(source: Path, output_dir: Path) -> None:
    """Copy the files of a checkpoint to the top of the run's folder, each file whole or not at all."""
    for path in sorted(source.iterdir()):
        with replaced_file(output_dir / path.name) as temporary:
            shutil.copyfile(path, temporary)
