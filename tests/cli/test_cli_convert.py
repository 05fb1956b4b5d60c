"""`charm-hf convert`, then `charm-hf score` with what it wrote: the released predictions from the command line."""

from __future__ import annotations

import csv
import io
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support import FIXTURES, photo_path


LEGACY = FIXTURES / "legacy"


@pytest.fixture
def charm_hf(warm_commands: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command, in another process."""

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [str(warm_commands / "charm-hf"), *map(str, arguments)]
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)

    return run


def test_a_released_checkpoint_is_converted_and_scores_as_recorded(charm_hf, tmp_path: Path) -> None:
    positions = LEGACY / "legacy_aadb_pos.pt"
    done = charm_hf(
        "convert",
        LEGACY / "legacy_aadb.pth",
        tmp_path / "out",
        "--dataset",
        "aadb",
        "--position-embeddings",
        positions,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    recorded = json.loads((LEGACY / "legacy_aadb.json").read_text())["images"]
    photos = {photo_path(name.removesuffix(".png")): image["prediction"][0] for name, image in recorded.items()}
    scored = charm_hf("score", *photos, "--model", tmp_path / "out")
    assert scored.returncode == 0, scored.stderr
    rows = {row["path"]: float(row["score"]) for row in csv.DictReader(io.StringIO(scored.stdout))}
    assert rows == pytest.approx(photos, abs=1e-4)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["nowhere.pth", "out", "--dataset", "aadb", "--position-embeddings", "p.pt"], "nowhere.pth"),
        ([__file__, "out", "--dataset", "aadb", "--position-embeddings", __file__], "test_cli_convert.py"),
        ([LEGACY / "legacy_aadb.pth", "out", "--dataset", "imagenet", "--position-embeddings", "p.pt"], "aadb, ava"),
        (["one.pth"], "Missing argument"),
    ],
)
def test_what_cannot_be_converted_is_an_error_with_its_reason(charm_hf, arguments: list, reason: str) -> None:
    done = charm_hf("convert", *arguments)
    assert done.returncode == 2
    assert reason in done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
