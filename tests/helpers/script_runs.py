"""Runs of `examples/train.py` and `examples/evaluate_model.py`, in this process or another, and what they leave."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from safetensors.torch import load_file


EXAMPLES = Path(__file__).parents[2] / "examples"
BACKBONE = (
    "{model_type: dinov2, hidden_size: 16, num_hidden_layers: 2, num_attention_heads: 2, mlp_ratio: 2, image_size: 16,"
    " patch_size: 4, hidden_dropout_prob: 0.1, attention_probs_dropout_prob: 0.1}"
)
# Photos of 96 × 72 have 108 regions of 8 pixels, some of which are chosen for the higher scale: 189 tokens.
TINY_FLAGS = [
    *("--backbone", BACKBONE, "--processor", "{max_num_patches: 220}", "--num_workers", "0"),
    *("--per_device_train_batch_size", "4", "--learning_rate", "1e-3", "--num_train_epochs", "2"),
]


def load_script(name: str):
    """Import `examples/<name>.py`, which is no package."""
    spec = importlib.util.spec_from_file_location(f"examples_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_in_process(name: str, *flags: object):
    """Run a script's `main` as a fresh process would."""
    for state in (AcceleratorState, PartialState, GradientState):
        state._reset_state()
    generator = torch.random.get_rng_state()
    try:
        return load_script(name).main([str(flag) for flag in flags])
    finally:
        torch.random.set_rng_state(generator)


def start_process(*command: object, **environment: str) -> subprocess.Popen[str]:
    """Start Python on CPU, with this checkout in front."""
    variables = {
        **os.environ,
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(EXAMPLES.parent),
        **environment,
    }
    return subprocess.Popen(
        [sys.executable, *map(str, command)],
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish_process(process: subprocess.Popen[str]) -> str:
    """Wait for a process that must succeed; return what it printed."""
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output[-5000:]
    return output


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(Path(folder) / "model.safetensors")


def same_weights(first: Path, second: Path) -> bool:
    a, b = weights(first), weights(second)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def read_json(path: Path):
    return json.loads(Path(path).read_text(encoding="utf-8"))
