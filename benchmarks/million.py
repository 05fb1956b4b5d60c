"""A million rows without a pixel: what listing, planning, progress, resuming and the table itself cost.

    python -m benchmarks.million                     # 100,000 and 1,000,000 rows, each in a process of its own

The images are paths in a CSV file; instead of decoding and scoring, each is planned by a made-up size and gets a
made-up score. A run is stopped half-way and started again. Memory should not grow with the number of rows, and
the time of a row should stay the same.
"""

from __future__ import annotations

import argparse
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from charm_hf import CharmImageProcessor
from charm_hf.scoring import ScoreRow, ScoringInterrupted, SourceOptions, open_source, score_to_table
from charm_hf.scoring.batching import Chunk, plan_batches


class PretendScorer:
    """Does everything that a scorer does, but for pixels and model; stops itself after so many chunks."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.processor = CharmImageProcessor.for_dataset("ava")
        self.model = SimpleNamespace(config=SimpleNamespace())
        self.stop_after = stop_after

    def identity(self) -> dict[str, Any]:
        """As of any scorer: the same model."""
        return {"model": "none"}

    def expect(self, count: int | None) -> None:
        """Nothing is prepared."""

    def run(self, chunks: Iterable[Chunk], stopping: Callable[[], bool] = lambda: False) -> Iterator[Chunk]:
        """Plan and batch each chunk, then make scores up."""
        for number, chunk in enumerate(chunks):
            if stopping():
                return
            if number == self.stop_after:
                os.kill(os.getpid(), signal.SIGTERM)
            sizes = [(300 + place * 7 % 900, 300 + place * 11 % 900) for place in range(len(chunk.items))]
            tokens = [self.processor.plan(*size).num_tokens for size in sizes]
            plan_batches(tokens, 8192)
            for place, (item, (height, width)) in enumerate(zip(chunk.items, sizes, strict=True)):
                score = 1 + (chunk.start + place) * 0.6180339887 % 9
                values = {"score": score, "normalized_score": (score - 1) / 9, "std": 1.2}
                row = ScoreRow(item.path, **values, width=width, height=height, tokens=tokens[place])
                chunk.finish(place, row)
            yield chunk


def measure_one(folder: Path, count: int) -> None:
    """Print processor seconds of each stage and the peak memory in MB."""
    listing = folder / "photos.csv"
    with open(listing, "w", encoding="utf-8") as file:
        file.write("path\n")
        file.writelines(f"bucket/photos/{number % 1000:03d}/{number:09d}.jpg\n" for number in range(count))
    stages = {}
    for stage, stop_after in (("first half", count // 1024), ("resumed, table written", None)):
        source = open_source([str(listing)], SourceOptions(root=str(folder)))
        start = time.process_time()
        with suppress(ScoringInterrupted):
            score_to_table(source, PretendScorer(stop_after), folder / "scores.parquet")  # type: ignore[arg-type]
        stages[stage] = time.process_time() - start
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    size = (folder / "scores.parquet").stat().st_size / count
    print(*stages.values(), megabytes, size)


def main() -> None:
    """Measure two numbers of rows, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--folder", type=Path, help="measure in this process, for one number of rows")
    args = parser.parse_args()
    if args.folder is not None:
        measure_one(args.folder, args.rows[0])
        return
    print("| rows | first half, µs a row | resumed and written, µs a row | peak memory, MB | bytes a row |")
    print("|---" * 5 + "|")
    for count in args.rows:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "benchmarks.million", "--rows", str(count), "--folder", folder]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
        first, second, megabytes, size = map(float, done.stdout.split()[-4:])
        each = [2e6 * seconds / count for seconds in (first, second)]
        print(f"| {count:,} | {each[0]:.0f} | {each[1]:.0f} | {megabytes:.0f} | {size:.0f} |", flush=True)


if __name__ == "__main__":
    main()
