"""Files damaged at random, each by a seed of its own, and what may become of reading one."""

from __future__ import annotations

import random
import re
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


INTERESTING = [b"\0", b"\xff", b"\x7f", b"\x80", b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\0\0\0"]


def mutated(content: bytes, rng: random.Random) -> bytes:
    """One to eight changes: bytes flipped, overwritten, taken out, doubled, moved; or the end cut off."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 4, 8))):
        # Headers are where most is decided.
        place = rng.randrange(min(len(data), 600) if rng.random() < 0.5 else len(data)) if data else 0
        length = rng.choice((1, 2, 4, 16, 256))
        match rng.randrange(7):
            case 0:
                data[place : place + 1] = bytes([rng.randrange(256)])
            case 1:
                data[place : place + 1] = bytes([(data[place] if data else 0) ^ 1 << rng.randrange(8)])
            case 2:
                value = rng.choice(INTERESTING)
                data[place : place + len(value)] = value
            case 3:
                del data[place : place + length]
            case 4:
                data[place:place] = data[place : place + length]
            case 5:
                other = rng.randrange(len(data) + 1)
                data[place : place + length] = data[other : other + length]
            case 6:
                del data[place + length :]
    return bytes(data)


def with_sound_checksums(png: bytes) -> bytes:
    """A PNG whose chunks have the checksums of what they hold, so that a decoder reads on."""
    parts, place = [png[:8]], 8
    while place + 12 <= len(png):
        (length,) = struct.unpack(">I", png[place : place + 4])
        body = png[place + 4 : place + 8 + length]
        parts.append(struct.pack(">I", length) + body + struct.pack(">I", zlib.crc32(body)))
        place += 12 + length
    return b"".join(parts)


def for_seconds(seconds: float, least: int) -> Iterator[int]:
    """Seeds, until the time is over, but so many at least."""
    end = time.monotonic() + seconds
    seed = 0
    while seed < least or time.monotonic() < end:
        yield seed
        seed += 1


def attempt(work: Callable[[], object], what: str, named: str, seconds: float = 20) -> bool:
    """Whether work gives a result; anything but a `ValueError` with the file's name fails the test."""
    started = time.process_time()
    try:
        work()
        return True
    except Exception as error:
        if not isinstance(error, ValueError) or named not in str(error):
            pytest.fail(f"{what}: {type(error).__name__}: {error}")
        return False
    finally:
        assert time.process_time() - started < seconds, f"{what}: took too long"


@contextmanager
def growing_at_most(num_bytes: float) -> Iterator[None]:
    """Fail if this process takes so much more memory meanwhile, decoders included; nothing is measured off Linux."""

    def memory(peak: str) -> int:
        return int(re.search(rf"{peak}:\s*(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024

    try:
        Path("/proc/self/clear_refs").write_text("5")  # the highest from here on
    except OSError:
        yield
        return
    before = memory("VmRSS")
    yield
    assert memory("VmHWM") - before < num_bytes
