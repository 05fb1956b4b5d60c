"""Mutated files of every kind: each gives a result or one `ValueError` that names the file, and nothing runs.

    pytest tests/attacks/test_fuzzing.py -m slow --timeout 0 --attack-seconds 3600 -s

The seed stands in every message, so that what is found can be made again; the first mutations are always the same.
"""

from __future__ import annotations

import csv
import io
import json
import os
import pickle
import random
import shutil
import struct
import warnings
import zipfile
from collections import OrderedDict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from camera_photos import raw_file
from forged_pickles import archive_of, read
from image_files import KINDS, encoded, photo_like
from mutations import attempt, for_seconds, growing_at_most, mutated, with_sound_checksums
from PIL import Image
from torch import nn

from charm_hf import embedded_model_path
from charm_hf.legacy import pickle_reader
from charm_hf.models.image_formats_charm import MAX_PHOTO_BYTES
from charm_hf.models.image_loading_charm import image_size, load_image
from charm_hf.scoring import load_for_scoring
from charm_hf.scoring.progress import DamagedProgressError, read_facts, write_lines
from charm_hf.tables import Table, written_table
from charm_hf.training.run_state import Progress, TrainingParts, find_state, save_state, saved_states


pytestmark = pytest.mark.slow


def pictures(kind: str) -> list[bytes]:
    """Sound files of a kind, one of them with EXIF data where it has any."""
    photo = photo_like(97, 61)
    if kind == "PSD":
        header = b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, 61, 97, 8, 3)
        return [header + struct.pack(">IIIH", 0, 0, 0, 0) + b"".join(band.tobytes() for band in photo.split())]
    if kind == "RAW":
        return [raw_file(encoded("JPEG", photo), orientation=6), raw_file(None)]
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a description"
    buffer = io.BytesIO()
    format = KINDS[kind][0]
    if format in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF"):
        photo.save(buffer, format, exif=exif)
    return [content for content in (encoded(kind, photo), buffer.getvalue()) if content]


@pytest.mark.parametrize("kind", [*KINDS, "PSD", *["RAW"] * bool(find_spec("rawpy"))])
def test_a_mutated_picture_is_read_or_refused_by_name(
    kind: str, attack_seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds = pictures(kind)
    path = "odd.dng" if kind == "RAW" else "odd.img"
    monkeypatch.setattr("subprocess.Popen", None)  # no decoder starts a program
    results = [0, 0]
    with warnings.catch_warnings(), growing_at_most(MAX_PHOTO_BYTES):
        warnings.simplefilter("ignore")
        for seed in for_seconds(attack_seconds, 40):
            rng = random.Random(f"{kind} {seed}")
            content = mutated(rng.choice(seeds), rng)
            if kind.startswith("PNG") and rng.random() < 0.8:
                content = with_sound_checksums(content)
            file = {"bytes": content, "path": path}
            attempt(lambda file=file: image_size(file), f"{kind}, seed {seed}", path)
            results[attempt(lambda file=file: load_image(file), f"{kind}, seed {seed}", path)] += 1
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
    results = [0, 0]
    for seed in for_seconds(attack_seconds, 100):
        rng = random.Random(f"{kind} {seed}")
        if kind == "as saved" or rng.random() < 0.3:
            damaged = mutated(content, rng)
        else:  # inside the archive, so that what is read is the pickle
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                name = next(entry for entry in archive.namelist() if entry.endswith("data.pkl"))
                damaged = archive_of(mutated(archive.read(name), rng))
        results[attempt(lambda damaged=damaged: read(damaged, tmp_path), f"{kind}, seed {seed}", "file.pth")] += 1
    assert not executed
    assert results[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file.pth"]
    print(f"pickle, {kind}: {sum(results):,} mutations, {results[1]:,} of them still readable, 0 executed")


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
def test_a_mutated_table_is_read_or_refused_by_name(ending: str, attack_seconds: float, tmp_path: Path) -> None:
    file = tmp_path / f"odd.{ending}"
    rows = [{"path": f"{number}.jpg", "score": number / 7, "tokens": number} for number in range(40)]
    if ending == "tsv":
        with file.open("w", newline="") as stream:
            csv.writer(stream, delimiter="\t").writerows([["path", "score"], ["ä\n.jpg", 1], ['"', 2]])
    else:
        with written_table(file, ("path", "score", "tokens"), {"score": float, "tokens": int}) as write:
            write(rows)
    content, results = file.read_bytes(), [0, 0]
    with growing_at_most(1e9):
        for seed in for_seconds(attack_seconds, 40):
            file.write_bytes(mutated(content, random.Random(f"{ending} {seed}")))
            read_all = attempt(lambda: list(Table(file).rows()), f"{ending}, seed {seed}", file.name)
            read_sound = attempt(lambda: list(Table(file).rows(None, [])), f"{ending}, seed {seed}", file.name)
            results[read_all and read_sound] += 1
    print(f"table, {ending}: {sum(results):,} mutations, {results[1]:,} of them still tables")


def test_a_mutated_configuration_is_used_or_refused(attack_seconds: float, tmp_path: Path) -> None:
    poison: list[Any] = [0, -1, 2, 10**9, 10**400, 1e300, float("nan"), "x", "\x1b[2J", "", None, True, [], {}, [1, 2]]
    folder = Path(shutil.copytree(embedded_model_path(), tmp_path / "odd"))
    whole = {name: json.loads((folder / name).read_text()) for name in ("config.json", "preprocessor_config.json")}
    results = [0, 0]
    with warnings.catch_warnings(), growing_at_most(1e9):
        warnings.simplefilter("ignore")
        for seed in for_seconds(attack_seconds, 10):
            rng = random.Random(f"configuration {seed}")
            content = json.loads(json.dumps(whole))
            for _ in range(rng.choice((1, 1, 2, 4))):
                place = content[rng.choice(list(whole))]
                while isinstance(place[key := rng.choice(list(place))], dict) and place[key] and rng.random() < 0.8:
                    place = place[key]
                place[key] = rng.choice(poison)
            for name, values in content.items():
                (folder / name).write_text(json.dumps(values))
            what = f"configuration, seed {seed}"
            results[attempt(lambda: load_for_scoring(str(folder), device="cpu"), what, "")] += 1
    print(f"configuration: {sum(results):,} mutations, {results[1]:,} of them still load")
    assert results[0]


def test_mutated_progress_is_what_was_written_or_refused(attack_seconds: float, tmp_path: Path) -> None:
    file = tmp_path / "part.jsonl"
    write_lines(file, (json.dumps([number, {"path": f"{number}.jpg"}]) for number in range(20)), {"count": 20})
    content, results = file.read_bytes(), [0, 0]
    for seed in for_seconds(attack_seconds, 100):
        file.write_bytes(damaged := mutated(content, random.Random(f"progress {seed}")))
        if attempt(lambda: read_facts(file), f"progress, seed {seed}", file.name):
            assert read_facts(file) == {"count": 20}
            assert damaged.splitlines()[:-1] == content.splitlines()[:-1], f"seed {seed}"
            results[1] += 1
        else:
            results[0] += 1
            with pytest.raises(DamagedProgressError):
                read_facts(file)
    print(f"progress: {sum(results):,} mutations, {results[1]:,} of them changed nothing that counts")


@pytest.mark.parametrize("name", ["state.json", "optimizer.safetensors"])
def test_a_mutated_training_checkpoint_is_never_gone_on_from(
    name: str, attack_seconds: float, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    parts = TrainingParts(model, optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer))
    for step in (1, 2):
        model(torch.ones(1, 3)).sum().backward()
        optimizer.step()
        save_state(tmp_path, Accelerator(cpu=True), parts, Progress(step=step))
    older, newest = saved_states(tmp_path)
    content, results = (newest / name).read_bytes(), [0, 0]
    for seed in for_seconds(attack_seconds, 40):
        (newest / name).write_bytes(damaged := mutated(content, random.Random(f"{name} {seed}")))
        found = find_state("latest", tmp_path)
        caplog.clear()
        same = damaged == content or (
            name == "state.json" and found == newest and json.loads(damaged) == json.loads(content)
        )
        assert found == (newest if same else older), f"{name}, seed {seed}"
        results[same] += 1
    print(
        f"training checkpoint, {name}: {sum(results):,} mutations, {results[1]:,} of them changed nothing that counts"
    )
    assert results[0]
