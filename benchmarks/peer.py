"""The published tokenizer (PyPI `Charm-tokenizer` 1.0.17) in an environment of its own, as a process that is asked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from pathlib import Path
from types import TracebackType
from typing import Any


PEER = ["--no-deps", "Charm-tokenizer==1.0.17", "torchvision==0.28.0"]
PEER_REQUIREMENTS = ["transformers==4.36.0", "numpy<2", "torch==2.13.0", "pillow"]
DEFAULT_ENVIRONMENT = Path.home() / ".cache" / "charm-hf-benchmarks" / "peer"


class Peer:
    """A running peer; a context manager."""

    def __init__(self, environment: Path) -> None:
        python = _install(environment)
        worker = Path(__file__).with_name("peer_worker.py")
        single_threaded = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ""}
        self._process = subprocess.Popen(
            [python, worker], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=single_threaded
        )

    def measure(self, path: Path, selection: str, repetitions: int) -> dict[str, Any]:
        """CPU milliseconds, peak memory in MiB and number of tokens of one photo."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        job = {"path": str(path), "selection": selection, "repetitions": repetitions}
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError("The published tokenizer ended without an answer; its error stands above.")
        return json.loads(answer)

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def _install(environment: Path) -> Path:
    python = environment / "bin" / "python"
    if not (environment / "installed").exists():
        print(f"Installing the published tokenizer into {environment} …", file=sys.stderr)
        venv.create(environment, with_pip=True, clear=True)
        for requirements in (PEER, PEER_REQUIREMENTS):
            subprocess.run([python, "-m", "pip", "install", "--quiet", *requirements], check=True, stdout=sys.stderr)
        (environment / "installed").touch()
    return python
