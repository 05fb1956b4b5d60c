"""Every code block of README and docs runs, or says right above itself why it cannot.

A block is exempt under `<!-- not run: REASON -->`; `<!-- ci: NAME -->` marks those that `.ci/run` executes.
"""

from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from support import FIXTURES, photo_path


ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>not run|ci): (?P<reason>[^>]+?) -->\n+)?^```(?P<language>\w*)\n(?P<code>.*?)^```", re.M | re.S
)


class Block(NamedTuple):
    language: str
    code: str
    exempt: str | None


def blocks_of(page: Path) -> list[Block]:
    return [
        Block(found["language"], found["code"], found["reason"]) for found in BLOCK.finditer(page.read_text("utf-8"))
    ]


def furnish(folder: Path) -> None:
    """Lay out what the pages talk about: example photos, folders of photos, a released checkpoint."""
    (folder / "examples").symlink_to(ROOT / "examples")
    (folder / "benchmarks").symlink_to(ROOT / "benchmarks")
    for name in ("my_photos", "holiday", "archive/2019"):
        (folder / name).mkdir(parents=True)
        for photo in ("coffee", "chelsea"):
            shutil.copy(ROOT / "examples" / "photos" / f"{photo}.jpg", folder / name)
    shutil.copy(photo_path("coffee"), folder / "photo.png")
    for name, photo in {"one": "coffee", "two": "chelsea"}.items():
        shutil.copy(ROOT / "examples" / "photos" / f"{photo}.jpg", folder / f"{name}.jpg")
    shutil.copy(ROOT / "examples" / "photos" / "coffee.jpg", folder / "photo.jpg")
    shutil.copy(FIXTURES / "legacy" / "legacy_aadb.pth", folder / "aadb_charm.pth")
    shutil.copy(FIXTURES / "legacy" / "legacy_aadb_pos.pt", folder / "dino_small_pos.pt")


@pytest.fixture(scope="module")
def variables(warm_commands: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The shell finds `charm-hf` and `python` of this environment, and the package of this checkout."""
    script = tmp_path_factory.mktemp("commands") / "accelerate"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m accelerate.commands.accelerate_cli "$@"\n')
    script.chmod(0o755)
    own = {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "true"}
    path = os.pathsep.join([str(warm_commands), str(script.parent), os.environ["PATH"]])
    return {**os.environ, **own, "PATH": path}


def run(command: list[str], folder: Path, variables: dict[str, str], shown: str) -> str:
    done = subprocess.run(command, cwd=folder, env=variables, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 0, f"{shown}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def cells_of(table: str) -> list[str | float]:
    cells = [cell for row in csv.reader(table.splitlines()) for cell in row]
    return [round(float(cell), 3) if re.fullmatch(r"-?\d+\.\d+", cell) else cell for cell in cells]


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_code_of_a_page_runs(page: Path, variables: dict[str, str], tmp_path: Path) -> None:
    furnish(tmp_path)
    python: list[str] = []
    printed = ""
    for block in blocks_of(page):
        if block.exempt is not None:
            continue
        if block.language == "bash":
            printed = run(["bash", "-euo", "pipefail", "-c", block.code], tmp_path, variables, block.code)
        elif block.language == "text" and block.code.startswith("path,score"):
            assert cells_of(block.code) == cells_of(printed)
        elif block.language == "python":
            python.append(block.code)
    if python:  # a page's blocks go on from one another
        code = "\n".join(python)
        run(["python", "-c", code], tmp_path, variables, code)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_names_its_language_and_every_link_leads_somewhere(page: Path) -> None:
    assert all(block.language for block in blocks_of(page)), "a block without a language is not run by anyone"
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text("utf-8")):
        if not target.startswith(("http://", "https://", "mailto:")):
            assert (page.parent / target).exists(), target
