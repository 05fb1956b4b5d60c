"""What the service costs beside the engine, and how long its clients wait: `charm-hf serve` under load.

    OMP_NUM_THREADS=1 python -m benchmarks.serving --model-size small --images 48 --rounds 2

Engine and service take turns over the same photos: the engine scores them in this process, the service, in a process
of its own, for 1, 4 and 16 clients that each send one photo after the other. Photos a second mean little on a machine
that does other things; processor time, of the service's processes beside the engine's, means something there too.
Everything is made on the spot.
"""

from __future__ import annotations

import argparse
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import local

import httpx
import psutil

from benchmarks.scoring import make_checkpoint, make_photo
from charm_hf.scoring import Scorer, ScoringOptions, list_items, load_for_scoring


LOADS = (1, 4, 16)


@contextmanager
def serving(checkpoint: Path, num_workers: int) -> Iterator[tuple[str, psutil.Process]]:
    """Address of a service in another process, and that process."""
    command = [sys.executable, "-m", "charm_hf_cli", "serve", "--model", str(checkpoint), "--port", "0"]
    command += ["--num-workers", str(num_workers)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as service:
        assert service.stderr is not None
        lines = (re.search(r"running on (http://\S+)", line) for line in service.stderr)
        try:
            yield next(found[1] for found in lines if found), psutil.Process(service.pid)
        finally:
            service.send_signal(signal.SIGTERM)


def ask_all(address: str, photos: list[Path], clients: int) -> tuple[float, list[float]]:
    """Seconds for all photos, and for each of them."""
    own = local()

    def ask(photo: Path) -> float:
        client = vars(own).setdefault("client", None) or httpx.Client(timeout=600)
        own.client = client
        start = time.perf_counter()
        answer = client.post(f"{address}/score", files={"files": (photo.name, photo.read_bytes())}).raise_for_status()
        assert "score" in answer.json()["results"][0]
        return time.perf_counter() - start

    start = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        waits = list(pool.map(ask, photos))
    return time.perf_counter() - start, waits


def processor_seconds(process: psutil.Process) -> float:
    """Of a process and those that it started."""
    family = [process, *process.children(recursive=True)]
    return sum(sum(member.cpu_times()[:2]) for member in family)


def score_all(scorer: Scorer, photos: list[Path]) -> float:
    """Seconds that the engine takes for all photos."""
    start = time.perf_counter()
    rows = list(scorer.score(list_items(photos)))
    assert all(row.error is None for row in rows)
    return time.perf_counter() - start


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model-size", choices=("tiny", "small"), default="small", help="small: of DINOv2-small")
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--num-workers", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        checkpoint = make_checkpoint(folder / "model", args.model_size)
        photos = [folder / f"{number}.jpg" for number in range(args.images)]
        for number, photo in enumerate(photos):
            make_photo(photo, 640, 480, seed=number)
        scorer = Scorer(*load_for_scoring(str(checkpoint), device="cpu"), ScoringOptions())
        engine: list[float] = []
        service: dict[int, list[float]] = {clients: [] for clients in LOADS}
        waits: dict[int, list[float]] = {clients: [] for clients in LOADS}
        cost: dict[int, float] = dict.fromkeys((0, *LOADS), 0.0)  # processor time of the engine, and under each load
        with serving(checkpoint, args.num_workers) as (address, process):
            ask_all(address, photos[:2], 1)
            score_all(scorer, photos[:2])
            for _ in range(args.rounds):
                start = time.process_time()
                engine.append(score_all(scorer, photos))
                cost[0] += time.process_time() - start
                for clients in LOADS:
                    start = processor_seconds(process)
                    seconds, found = ask_all(address, photos, clients)
                    cost[clients] += processor_seconds(process) - start
                    service[clients].append(seconds)
                    waits[clients] += found
    print(f"engine: {args.images / min(engine):.2f} photos/s")
    print("| clients | photos/s | of the engine | by processor time | wait: half of them | 95 % | 99 % |")
    print("|---|---|---|---|---|---|---|")
    for clients in LOADS:
        cuts = statistics.quantiles(waits[clients], n=100, method="inclusive")
        rate = args.images / min(service[clients])
        print(
            f"| {clients} | {rate:.2f} | {min(engine) / min(service[clients]):.2f} | {cost[0] / cost[clients]:.2f} | "
            + " | ".join(f"{1000 * cuts[place]:.0f} ms" for place in (49, 94, 98))
            + " |"
        )


if __name__ == "__main__":
    main()
