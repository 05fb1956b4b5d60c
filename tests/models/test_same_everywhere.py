"""Photos give the same tokens, regions and (to 1e-4) scores, whatever a processor can do, on one or more threads."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import same_everywhere
import torch


CAPABILITIES = ("default", "avx2", "avx512")
ENVIRONMENTS = {
    **{name: {"ATEN_CPU_CAPABILITY": name} for name in CAPABILITIES},
    # Another BLAS rounds shrunk pixels otherwise, in their last bits: regions and scores stay.
    "old BLAS and NumPy": {
        "OPENBLAS_CORETYPE": "Prescott",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "NPY_DISABLE_CPU_FEATURES": "AVX2 FMA3",
        "OMP_NUM_THREADS": "2",
    },
}


def test_twenty_photos_give_the_recorded_tokens_and_scores() -> None:
    """After new weights of the embedded model: `python tests/helpers/same_everywhere.py scores`."""
    assert len(same_everywhere.twenty_photos()) == 20
    assert same_everywhere.differences() == []


@pytest.fixture(scope="module")
def choices_here() -> dict[str, str]:
    return same_everywhere.find_choices()


@pytest.mark.slow
@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_they_do_so_and_keep_the_same_regions_with_every_set_of_instructions_and_several_threads(
    name: str, choices_here: dict[str, str]
) -> None:
    """One process for each environment, since both are settled when it starts: about ten seconds."""
    best = torch.backends.cpu.get_cpu_capability().lower()
    if name in CAPABILITIES and name not in CAPABILITIES[: [*CAPABILITIES, best].index(best) + 1]:
        pytest.skip(f"this processor can do {best} only")
    path = os.pathsep.join(sys.path)
    # Passive: threads that wait for one another do not keep the cores busy, which other tests need.
    environment = {**os.environ, "PYTHONPATH": path, "OMP_WAIT_POLICY": "passive", **ENVIRONMENTS[name]}
    command = [sys.executable, same_everywhere.__file__, "report", *["pixels"] * (name in CAPABILITIES)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    runs = [json.loads(line) for line in done.stdout.splitlines()]
    assert [run["threads"] for run in runs] == [1, 2]
    for run in runs:
        assert run["capability"] == (name if name in CAPABILITIES else best)
        assert run["differences"] == []
        assert run["choices"] == choices_here
