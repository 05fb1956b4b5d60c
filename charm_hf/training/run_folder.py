"""The folder of a run: whose it is, what stands in it, and the checkpoint that it leaves behind."""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import accelerate
import torch
import transformers
from datasets import Dataset

from charm_hf.data import split_hash
from charm_hf.files import remove_leftovers, replaced_file, write_json
from charm_hf.training.processes import lock_folder


RUN_NAME = "run.json"
# Flags that may be others when a run goes on: none of them has a say in the weights.
_FREE_FLAGS = (
    *("config", "data_dir", "output_dir", "resume_from_checkpoint", "num_workers", "per_device_eval_batch_size"),
    *("checkpointing_steps", "save_total_limit", "with_tracking", "report_to", "push_to_hub", "hub_model_id"),
)


def describe_run(
    args: argparse.Namespace,
    argv: Sequence[str] | None,
    splits: Mapping[str, Dataset | None],
    num_processes: int = 1,
) -> dict[str, Any]:
    """What somebody needs to repeat a run: command, flags, hashes of the splits, versions.

    Args:
        args: the parsed flags.
        argv: the command line; `sys.argv[1:]` if not given.
        splits: name -> part of the dataset, or `None` for one that is not used.
        num_processes: how many take part.
    """
    flags = sys.argv[1:] if argv is None else argv
    launch = "accelerate launch" + (f" --num_processes {num_processes}" if num_processes > 1 else "")
    return {
        "command": f"{launch} examples/train.py {shlex.join(flags)}",
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
    lock_folder(output_dir)
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
