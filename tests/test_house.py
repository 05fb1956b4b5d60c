"""What keeps the house in order: short files, no circle of imports, a short way for a photo, versions as tested."""

from __future__ import annotations

import ast
import re
import sys
import threading
from graphlib import TopologicalSorter
from importlib import import_module
from pathlib import Path
from types import FrameType

import pytest

import charm_hf
from charm_hf.models.checkpoint_charm import MINIMUM_TRANSFORMERS
from charm_hf_cli import main


ROOT = Path(charm_hf.__file__).parents[1]
CODE = sorted(path for folder in ("charm_hf", "charm_hf_cli") for path in (ROOT / folder).rglob("*.py"))


def test_no_file_has_more_than_500_lines() -> None:
    written = [*CODE, *(ROOT / "examples").glob("*.py"), *(ROOT / "charm_hf/assets/report").iterdir()]
    assert {path.name: count for path in written if (count := len(path.read_text().splitlines())) > 500} == {}


def imported(path: Path) -> set[Path]:
    """Files of the package that a file imports when it is imported itself."""
    package = path.relative_to(ROOT).parent.parts
    found: set[Path] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) - node.level + 1]] if node.level else []
            base += node.module.split(".") if node.module else []
            names = [[*base, alias.name] for alias in node.names] + [base]
        else:
            continue
        for name in names:
            whole = ROOT.joinpath(*name)
            found |= {file for file in (whole.with_suffix(".py"), whole / "__init__.py") if file in CODE}
    return found - {path}


def test_imports_have_no_circle() -> None:
    tuple(TopologicalSorter({path: imported(path) for path in CODE}).static_order())


def test_no_call_on_a_photos_way_is_more_than_ten_files_deep(tmp_path: Path) -> None:
    deepest: list[str] = []
    inside = str(ROOT / "charm_hf")  # and charm_hf_cli

    def look(frame: FrameType | None, event: str, _: object) -> None:
        nonlocal deepest
        if event != "call" or frame is None or not frame.f_code.co_filename.startswith(inside):
            return
        files: dict[str, None] = {}
        while frame is not None:
            if frame.f_code.co_filename.startswith(inside):
                files[Path(frame.f_code.co_filename).name] = None
            frame = frame.f_back
        deepest = max(deepest, list(files), key=len)

    import_module("charm_hf.scoring.run")
    threading.setprofile(look)
    sys.setprofile(look)
    try:
        with pytest.raises(SystemExit):
            main(["score", str(ROOT / "examples/photos/coffee.jpg"), "--output", str(tmp_path / "scores.csv")])
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    assert (tmp_path / "scores.csv").exists()
    assert "image_loading_charm.py" in deepest
    assert len(deepest) <= 10, deepest


def test_the_range_of_transformers_is_what_was_tested() -> None:
    low, end = re.search(r'"transformers>=([\d.]+),<([\d.]+)"', (ROOT / "pyproject.toml").read_text()).groups()
    newest = re.search(r"^transformers==(\d+)\.(\d+)\.", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert f"{low}.0" == MINIMUM_TRANSFORMERS
    assert end == f"{newest[1]}.{int(newest[2]) + 1}"
