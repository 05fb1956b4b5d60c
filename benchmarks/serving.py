"""What the service costs beside the engine, and how long its clients wait: `charm-hf serve` under load.

    OMP_NUM_THREADS=1 python -m benchmarks.serving --images 96 --rounds 3

Engine and service take turns over the same photos with equally many worker processes: the engine scores them here, the
service, in a process of its own, for 1, 4 and 16 clients that each send one photo after the other. At the end its
worker processes are killed while 16 clients wait, and each client has to get its score. Photos a second mean
little on a machine that does other things; processor time, of the service's processes beside the engine's, means
something there too. Everything is made on the spot.
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

from benchmarks.scoring import engine_seconds, make_checkpoint, make_photo
from charm_hf.scoring import Scorer, ScoringOptions, load_for_scoring


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
    """Of a process and those that it started, the ended ones included."""
    return sum(process.cpu_times()[:4]) + sum(sum(child.cpu_times()[:2]) for child in process.children())


def kill_workers(address: str, process: psutil.Process, photos: list[Path]) -> int:
    """Scores that 16 clients get though all worker processes are killed meanwhile."""
    with ThreadPoolExecutor(1) as pool:
        answers = pool.submit(ask_all, address, photos, LOADS[-1])
        time.sleep(0.2)
        for child in process.children():
            if "spawn_main" in " ".join(child.cmdline()):
                child.kill()
        return len(answers.result()[1])


def main(arguments: list[str] | None = None) -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model-size", choices=("tiny", "small"), default="small", help="small: of DINOv2-small")
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--num-workers", type=int, default=1)
    args = parser.parse_args(arguments)
    engine: list[float] = []  # photos a second
    service: dict[int, list[float]] = {clients: [] for clients in LOADS}
    waits: dict[int, list[float]] = {clients: [] for clients in LOADS}
    cost = dict.fromkeys((0, *LOADS), 0.0)  # processor time of the engine, and under each load
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        checkpoint = make_checkpoint(folder / "model", args.model_size)
        photos = [folder / f"{number}.jpg" for number in range(args.images)]
        for number, photo in enumerate(photos):
            make_photo(photo, 640, 480, seed=number)
        options = ScoringOptions(num_workers=args.num_workers)
        scorer = Scorer(*load_for_scoring(str(checkpoint), device="cpu"), options)
        with serving(checkpoint, args.num_workers) as (address, process):
            ask_all(address, photos[:2], 1)
            for _ in range(args.rounds):
                start = processor_seconds(psutil.Process())
                engine.append(1 / engine_seconds(scorer, photos)[0])
                cost[0] += processor_seconds(psutil.Process()) - start
                for clients in LOADS:
                    start = processor_seconds(process)
                    seconds, found = ask_all(address, photos, clients)
                    cost[clients] += processor_seconds(process) - start
                    service[clients].append(args.images / seconds)
                    waits[clients] += found
            answered = kill_workers(address, process, photos) if args.num_workers else None
    print(f"engine: {max(engine):.2f} photos/s")
    print("| clients | photos/s | of the engine | by processor time | wait: half of them | 95 % | 99 % |")
    print("|---|---|---|---|---|---|---|")
    for clients in LOADS:
        cuts = statistics.quantiles(waits[clients], n=100, method="inclusive")
        rate = max(service[clients])
        print(
            f"| {clients} | {rate:.2f} | {rate / max(engine):.2f} | {cost[0] / cost[clients]:.2f} | "
            + " | ".join(f"{1000 * cuts[place]:.0f} ms" for place in (49, 94, 98))
            + " |"
        )
    if answered is not None:
        print(f"worker processes killed: {answered} of {args.images} answered")


if __name__ == "__main__":
    main()
