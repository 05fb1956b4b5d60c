"""Fixtures for every test."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from dataset_builders import save_photo, write_csv
from hub_fixtures import hub, unchecked, xet_to_a_folder  # noqa: F401, fixtures for every test
from support import photo_path, tiny_model, tiny_processor
from warm_process import warm_process


os.environ.setdefault("HF_HUB_OFFLINE", "1")
if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # workers share the cores,
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # and so do the processes that they start


@pytest.fixture(scope="session")
def photos() -> list[str]:
    return [photo_path(name) for name in ("coffee", "chelsea", "astronaut")]


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a tiny random checkpoint with a distribution head."""
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    model = tiny_model()
    model.save_pretrained(folder)
    tiny_processor(model).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def photo_table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 photos with votes from 1 to 5; 16 train, 8 validate."""
    root = tmp_path_factory.mktemp("photo_table")
    rows = []
    for index in range(24):
        level = (index * 7 % 24) / 24
        save_photo(root / "images" / f"{index}.jpg", level, seed=index, size=(96, 72))
        peak = round(4 * level)
        votes = [10 if bin == peak else 3 if abs(bin - peak) == 1 else 0 for bin in range(5)]
        rows.append([f"{index}.jpg", "ab"[index % 2], "train" if index % 3 else "validation", *votes])
    write_csv(root / "ratings.csv", ["image", "kind", "split", "c1", "c2", "c3", "c4", "c5"], rows)
    return root


@pytest.fixture(autouse=True)
def level_of_messages() -> None:
    """Every test has its warnings, though a command was run in this process with `--quiet`.

    Before the test, not after it: fixtures of a whole module run commands, too, and are there before this one.
    """
    logging.getLogger().setLevel(logging.WARNING)


@pytest.fixture(scope="session")
def warm_commands() -> Iterator[Path]:
    """Folder of a `charm-hf` and a `python` that need no seconds to start; see `warm_process`."""
    with warm_process(PYTHONPATH=str(Path(__file__).parents[1]), ACCELERATE_USE_CPU="true") as folder:
        yield folder


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--attack-seconds", type=float, default=0.2, help="Seconds for each fuzzer of tests/attacks (default: 0.2)."
    )
    parser.addoption(
        "--attack-kills", type=int, default=2, help="Kills of each process in tests/attacks (default: 2)."
    )
