"""How the benchmarks measure: CPU time, the least of many repetitions, peak memory above what was there before.

CPU time of one thread does not count what other programs take of the machine, though they still cool its caches; the
least of many repetitions is the closest to what the machine can do.
"""

from __future__ import annotations

import ctypes
import gc
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def keep_freed_memory() -> None:
    """Let malloc keep what is freed, as in any process that once freed a large tensor (glibc adapts its thresholds).

    Before that, whether a repetition finds its memory mapped already depends on what happened to run earlier.
    """
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    libc.free(libc.malloc(ctypes.c_size_t(31 * 2**20)))


def least_milliseconds(
    *calls: Callable[[], Any], repetitions: int = 30, clock: Callable[[], float] = time.process_time
) -> list[float]:
    """Milliseconds of each call, of the CPU by default: the least over repetitions in which the calls take turns."""
    least = [float("inf")] * len(calls)
    for _ in range(repetitions):
        for index, call in enumerate(calls):
            start = clock()
            call()
            least[index] = min(least[index], (clock() - start) * 1e3)
    return least


def peak_mebibytes(call: Callable[[], Any]) -> float:
    """Resident memory, in MiB, that a call needs above what the process held before it (Linux only).

    What earlier calls freed is given back first, or the call would find its memory already there.
    """
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    call()
    return (_status("VmHWM") - before) / 1024


def _status(key: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1])
