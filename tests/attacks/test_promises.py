"""What SECURITY.md and docs/reliability.md say is still so: versions, tests, commands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from packaging.version import Version


ROOT = Path(__file__).parents[2]
SECURITY, RELIABILITY = ROOT / "SECURITY.md", ROOT / "docs" / "reliability.md"


@pytest.mark.parametrize(
    ("package", "floor"),
    re.findall(r"^\| ([\w-]+) \| ([\d.]+) \|", SECURITY.read_text(encoding="utf-8"), re.MULTILINE),
)
def test_no_version_with_a_known_hole_may_be_installed(package: str, floor: str) -> None:
    allowed = re.findall(
        rf'^ *"{package}>=([\d.]+)|"{package}>=([\d.]+)', (ROOT / "pyproject.toml").read_text(), re.MULTILINE
    )
    assert allowed
    assert all(Version(one or other) >= Version(floor) for one, other in allowed)


def test_every_test_that_the_promises_name_is_there() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", RELIABILITY.read_text(encoding="utf-8"))
    assert len(named) > 20
    for file, test in named:
        assert f"def {test}" in (ROOT / file).read_text(encoding="utf-8"), (file, test)


def test_the_promises_are_found_from_the_front_page() -> None:
    front = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "(SECURITY.md)" in front
    assert "(docs/reliability.md)" in front
