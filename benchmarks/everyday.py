"""What a user feels: default settings beside one thread, busy machines, workers, a command's first row."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.photos import make_photo
from benchmarks.table import Row


# Median processor milliseconds of this process, all of its threads, for one photo's tokens.
TOKENIZE = """import sys, time
import numpy as np
from charm_hf import CharmImageProcessor
processor = CharmImageProcessor.for_dataset("ava", patch_selection=sys.argv[2])
times = []
for _ in range(int(sys.argv[3])):
    start = time.process_time()
    processor(sys.argv[1])
    times.append(time.process_time() - start)
print(1e3 * float(np.median(times)))"""
LOAD = """import sys, time
from torch.utils.data import DataLoader
from charm_hf import CharmImageProcessor


class Photos:
    def __init__(self):
        self.processor = CharmImageProcessor.for_dataset("ava")

    def __len__(self):
        return int(sys.argv[3])

    def __getitem__(self, index):
        return self.processor(sys.argv[1])["pixel_values"].shape[1]


if __name__ == "__main__":
    workers = int(sys.argv[2])
    loader = iter(DataLoader(Photos(), batch_size=4, num_workers=workers, prefetch_factor=2 if workers else None))
    for _ in range(2 * max(1, workers)):
        next(loader)
    start, count = time.perf_counter(), 0
    for _ in loader:
        count += 4
    print(count / (time.perf_counter() - start))"""
BUSY = "while True: pass"


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """So many other programs that never rest."""
    others = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def _number(program: str, *arguments: object, threads: str | None = None) -> float:
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    environment |= {} if threads is None else {"OMP_NUM_THREADS": threads}
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)


def thread_rows(folder: Path, repetitions: int) -> Iterator[Row]:
    """One photo's processor time with default settings and under load, of that of one thread on its own."""
    path, rounds = make_photo(folder, 500, 400), 5 * repetitions
    cores = os.cpu_count() or 1
    for selection in ("frequency", "gradient", "entropy"):
        single = _number(TOKENIZE, path, selection, rounds, threads="1")
        default = _number(TOKENIZE, path, selection, rounds)
        with busy_processes(cores):
            loaded = _number(TOKENIZE, path, selection, rounds)
        name, one = f"500×400, {selection}", f"{single:.2f} ms"
        yield Row(
            f"{name}: default settings, of one thread", default / single, 1.15, False, f"{default:.2f} ms / {one}"
        )
        detail = f"{loaded:.2f} ms / {one}"
        yield Row(f"{name}: default, {cores} other busy processes", loaded / single, 1.15, False, detail)


def worker_rows(folder: Path, repetitions: int) -> Iterator[Row]:
    """Photos a second of a `DataLoader` with workers, of those without."""
    path, count = make_photo(folder, 1024, 768), 8 * repetitions
    script = folder / "load.py"
    script.write_text(LOAD)
    rates = {}
    for workers in (0, 2, 4):
        command = [sys.executable, str(script), str(path), str(workers), str(count)]
        rates[workers] = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        if workers:
            detail = f"{rates[workers]:.0f} / {rates[0]:.0f} photos a second"
            yield Row(f"1024×768, {workers} workers, of none", rates[workers] / rates[0], 1.0, True, detail)


def command_rows(folder: Path, repetitions: int) -> Iterator[Row]:
    """`charm-hf score` of four photos from a cold process, of importing what every such program must import."""
    paths = [make_photo(folder, 500 + 4 * index, 400) for index in range(4)]
    score = [sys.executable, "-m", "charm_hf_cli", "score", *map(str, paths)]
    bare = [sys.executable, "-c", "import torch, transformers"]
    base_classes = [sys.executable, "-c", "import torch; from transformers import PreTrainedModel, BaseImageProcessor"]
    best = [(float("inf"), float("inf"))] * 3
    for _ in range(max(2, repetitions // 15)):
        for index, command in enumerate((score, bare, base_classes)):
            best[index] = tuple(map(min, best[index], _cost(command)))  # type: ignore[assignment]
    for name, (wall, processor) in (("import torch, transformers", best[1]), ("transformers' base classes", best[2])):
        detail = f"{best[0][1]:.1f} s / {processor:.1f} s"
        yield Row(
            f"four photos from a cold start, processor time: of `{name}`", best[0][1] / processor, 1.3, False, detail
        )
        yield Row("the same by the clock", best[0][0] / wall, 1.3, False, f"{best[0][0]:.1f} s / {wall:.1f} s")


def _cost(command: list[str]) -> tuple[float, float]:
    """Seconds by the clock and of the processor."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - start, used
