"""Mutated files of every kind: each gives a result or one `ValueError` that names the file, and nothing runs.

    pytest tests/attacks/test_fuzzing.py -m slow --attack-seconds 3600 -s

The seed stands in every message, so that what is found can be made again; the first mutations are always the same.
"""

from __future__ import annotations

import io
import os
import pickle
import random
import struct
import time
import tracemalloc
import warnings
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from forged_pickles import archive_of, read
from image_files import KINDS, encoded, photo_like
from PIL import Image

from charm_hf.legacy import pickle_reader
from charm_hf.models.image_loading_charm import image_size, load_image


pytestmark = pytest.mark.slow

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


def attempt(work: Callable[[], object], what: str, named: str) -> bool:
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
        assert time.process_time() - started < 20, f"{what}: took too long"


@pytest.mark.parametrize("kind", KINDS)
def test_a_mutated_picture_is_read_or_refused_by_name(
    kind: str, attack_seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = encoded(kind, photo_like(97, 61))
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a description"
    seeds = [sound]
    if KINDS[kind][0] in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF"):
        buffer = io.BytesIO()
        photo_like(97, 61).save(buffer, KINDS[kind][0], exif=exif)
        seeds.append(buffer.getvalue())
    monkeypatch.setattr("subprocess.Popen", None)  # no decoder starts a program
    tracemalloc.start()
    results = [0, 0]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for seed in for_seconds(attack_seconds, 100):
                rng = random.Random(f"{kind} {seed}")
                content = mutated(rng.choice(seeds), rng)
                if KINDS[kind][0] == "PNG" and rng.random() < 0.8:
                    content = with_sound_checksums(content)
                what = f"{kind}, seed {seed}"
                known = attempt(lambda content=content: image_size(content, name="odd.img"), what, "odd.img")
                results[attempt(lambda content=content: load_image(content, name="odd.img"), what, "odd.img")] += known
        assert tracemalloc.get_traced_memory()[1] < 1e9
    finally:
        tracemalloc.stop()
    print(f"{kind}: {sum(results):,} mutations, {results[1]:,} of them still pictures")
    assert results[0], "no mutation broke anything: they prove nothing"


def pickles() -> dict[str, bytes]:
    buffer = io.BytesIO()
    weights = OrderedDict((f"layer.{number}.weight", torch.ones(3, 4) * number) for number in range(5))
    torch.save({"epoch": 3, "model_state_dict": weights, "best": [1.5, None, "x"]}, buffer)
    state = pickle.dumps({"a": [1, 2.5, (3, "four")], "b": {1: b"bytes"}, "c": {1, 2}}, 4)
    hostile = b"\x80\x04cos\nmkdir\n(\x8c\x08EXECUTEDtR."
    return {"as saved": buffer.getvalue(), "plain": archive_of(state), "hostile": archive_of(hostile)}


@pytest.mark.parametrize("kind", pickles())
def test_a_mutated_pickle_is_read_or_refused_by_name_and_never_run(
    kind: str, attack_seconds: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = pickles()[kind]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pickle_reader, "MAX_SECONDS", 5.0)
    executed: list[object] = []
    for module, name in ((os, "system"), (os, "mkdir"), (pickle, "loads"), (torch, "load")):
        monkeypatch.setattr(module, name, lambda *given: executed.append(given))
    refused = read_on = 0
    for seed in for_seconds(attack_seconds, 200):
        rng = random.Random(f"{kind} {seed}")
        if kind == "as saved" or rng.random() < 0.3:
            damaged = mutated(content, rng)
        else:  # inside the archive, so that what is read is the pickle
            import zipfile

            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                name = next(entry for entry in archive.namelist() if entry.endswith("data.pkl"))
                damaged = archive_of(mutated(archive.read(name), rng))
        sound = attempt(lambda damaged=damaged: read(damaged, tmp_path), f"{kind}, seed {seed}", "file.pth")
        read_on, refused = read_on + sound, refused + (not sound)
    assert not executed
    assert refused
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file.pth"]
    print(f"{kind}: {refused + read_on:,} mutations, {read_on:,} of them still readable, 0 executed")
