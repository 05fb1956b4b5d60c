"""Every row of docs/performance.md, as ratios measured in one run on one machine.

    OMP_NUM_THREADS=1 python -m benchmarks.run                     # all of it, some ten minutes
    OMP_NUM_THREADS=1 python -m benchmarks.run medium imports      # some groups of rows

The published tokenizer is installed into an environment of its own (`--peer-environment`) at the first run.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks import encoder_rows, everyday, gpu_rows, model_rows, tokenizer_rows
from benchmarks.measure import keep_freed_memory
from benchmarks.peer import DEFAULT_ENVIRONMENT
from benchmarks.table import HEADER, Row
from benchmarks.whole_path import bound_rows, rival_rows, split_rows


IMPORTS = {"ours": "import charm_hf", "theirs": "from transformers import pipeline, AutoModel, AutoImageProcessor"}
CHILD_TIME = """import time, sys
start = time.process_time()
exec(sys.argv[1])
print(time.process_time() - start)"""


def import_row(repetitions: int) -> Iterator[Row]:
    """Importing the package in a new process, with the names of transformers that everyone imports beside it."""
    least = dict.fromkeys(IMPORTS, float("inf"))
    for _ in range(max(3, repetitions // 5)):
        for name, statement in IMPORTS.items():
            child = subprocess.run(
                [sys.executable, "-c", CHILD_TIME, statement], check=True, capture_output=True, text=True
            )
            least[name] = min(least[name], float(child.stdout))
    detail = f"{least['ours']:.2f} s / {least['theirs']:.2f} s"
    yield Row("import charm_hf: of transformers' own names", least["ours"] / least["theirs"], 1.1, False, detail)


def main() -> None:
    """Print the table of the groups asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    groups = ("medium", "unlike", "large", "threads", "workers", "command", "forward", "sizes", "gmacs")
    groups += ("training", "imports", "encoders", "gpu")
    tables = {"path": split_rows, "bounds": bound_rows, "rivals": rival_rows}
    parser.add_argument("groups", nargs="*", help=f"of {', '.join((*groups, *tables))}; all if none is named")
    parser.add_argument("--peer-environment", type=Path, default=DEFAULT_ENVIRONMENT)
    parser.add_argument("--repetitions", type=int, default=40, help="of the cheapest rows; others take fewer")
    arguments = parser.parse_args()
    if unknown := set(arguments.groups) - {*groups, *tables}:
        parser.error(f"unknown groups {', '.join(sorted(unknown))}")
    torch.set_num_threads(1)
    keep_freed_memory()
    repetitions = arguments.repetitions
    print(f"{_processor_name()}, {os.cpu_count()} cores, one thread, torch {torch.__version__}\n\n{HEADER}")
    with tempfile.TemporaryDirectory() as temporary:
        folder, peer = Path(temporary), arguments.peer_environment
        rows = {
            "medium": lambda: tokenizer_rows.medium_rows(folder, peer, repetitions),
            "unlike": lambda: tokenizer_rows.unlike_rows(folder, peer, repetitions),
            "threads": lambda: everyday.thread_rows(folder, repetitions),
            "workers": lambda: everyday.worker_rows(folder, repetitions),
            "command": lambda: everyday.command_rows(folder, repetitions),
            "large": lambda: tokenizer_rows.large_rows(folder, peer, repetitions),
            "forward": lambda: model_rows.forward_rows(repetitions),
            "sizes": lambda: model_rows.unlike_sizes_row(repetitions),
            "gmacs": lambda: model_rows.gmac_rows(repetitions),
            "training": lambda: model_rows.training_rows(folder, repetitions),
            "imports": lambda: import_row(repetitions),
            "encoders": lambda: encoder_rows.encoder_rows(repetitions),
            "gpu": lambda: gpu_rows.gpu_rows(folder, repetitions),
        }
        for group in (name for name in arguments.groups or groups if name in rows):
            for row in rows[group]():
                print(row, flush=True)
        for group in (name for name in arguments.groups or tables if name in tables):
            print(f"\n{group}\n", flush=True)
            for line in tables[group](folder, repetitions):
                print(line, flush=True)


def _processor_name() -> str:
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    return next((line.split(":")[1].strip() for line in lines if "model name" in line), platform.processor())


if __name__ == "__main__":
    main()
