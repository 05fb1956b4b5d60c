"""Worker processes: they end with the process that started them."""

import os
import signal
import subprocess
import sys
import time

import pytest


# A parent whose workers are in each of the states that outlive a parent by themselves: one waits to be read, one waits
# for work, one works.
_PARENT = """
import sys, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
import os
import numpy as np
from torch.utils.data import DataLoader
from charm_hf.scoring.workers import begin_work

class Batches:
    def __len__(self):
        return 8
    def __getitem__(self, index):
        return np.zeros(1_000_000)

def as_it_is(batch):
    return batch

if __name__ == "__main__":
    context = get_context(sys.argv[1])
    loader = DataLoader(
        Batches(), num_workers=1, collate_fn=as_it_is, multiprocessing_context=context, worker_init_fn=begin_work
    )
    batches = iter(loader)
    next(batches)
    idle = ProcessPoolExecutor(1, context, initializer=begin_work)
    busy = ProcessPoolExecutor(1, context, initializer=begin_work)
    pids = [batches._workers[0].pid, idle.submit(os.getpid).result(), busy.submit(os.getpid).result()]
    busy.submit(time.sleep, 1000)
    print(*pids, flush=True)
    time.sleep(1000)
"""


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for_end(pids, seconds):
    end = time.monotonic() + seconds
    while any(map(is_alive, pids)) and time.monotonic() < end:
        time.sleep(0.1)
    return [pid for pid in pids if is_alive(pid)]


def end_left_over(pids):
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="looks for processes in /proc")
@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
@pytest.mark.slow
def test_workers_end_when_their_parent_is_killed(tmp_path, method):
    (tmp_path / "parent.py").write_text(_PARENT)
    with subprocess.Popen(
        [sys.executable, "parent.py", method], stdout=subprocess.PIPE, text=True, cwd=tmp_path
    ) as run:
        pids = [int(pid) for pid in run.stdout.readline().split()]
        assert len(pids) == 3
        run.kill()
    left_over = wait_for_end(pids, 10)
    end_left_over(left_over)
    assert not left_over


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="looks for processes in /proc")
@pytest.mark.slow
def test_the_workers_of_a_killed_command_end(checkpoint, many_photos, tmp_path):
    command = [sys.executable, "-m", "charm_hf_cli", "score", many_photos, "--model", checkpoint, "--num-workers", "2"]
    output = tmp_path / "scores.csv"
    with subprocess.Popen([*map(str, command), "--output", str(output), "--batch-size", "1"]) as run:
        pids = []
        while len(pids) < 3 and run.poll() is None:  # two workers, and the tracker of their resources
            time.sleep(0.05)
            with open(f"/proc/{run.pid}/task/{run.pid}/children") as children:
                pids = [int(pid) for pid in children.read().split()]
        assert len(pids) == 3
        time.sleep(1)
        run.kill()
    left_over = wait_for_end(pids, 120)  # those that still start learn of it when they have
    end_left_over(left_over)
    assert not left_over
