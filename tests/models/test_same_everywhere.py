"""Twenty photos give the same tokens, and to 1e-4 the same scores, whatever the processor can do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import same_everywhere
import torch


CAPABILITIES = ("default", "avx2", "avx512")


def test_twenty_photos_give_the_recorded_tokens_and_scores() -> None:
    """After new weights of the embedded model: `python tests/helpers/same_everywhere.py scores`."""
    assert len(same_everywhere.twenty_photos()) == 20
    assert same_everywhere.differences() == []


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("capability", CAPABILITIES)
def test_they_do_so_with_every_set_of_instructions_and_several_threads(capability: str, threads: int) -> None:
    best = torch.backends.cpu.get_cpu_capability().lower()
    if best not in CAPABILITIES or CAPABILITIES.index(capability) > CAPABILITIES.index(best):
        pytest.skip(f"this processor can do {best} only")
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": capability, "OMP_NUM_THREADS": str(threads)}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    script = Path(same_everywhere.__file__)
    command = "import runpy, sys, torch; sys.argv = ['', 'check']; print(torch.backends.cpu.get_cpu_capability()); "
    command += f"print(torch.get_num_threads()); runpy.run_path({str(script)!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", command], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.lower().split() == [capability, str(threads)]
