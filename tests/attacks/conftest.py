"""How long the fuzzers run: seconds by default, as long as one likes by `--attack-seconds`."""

from __future__ import annotations

import pytest


@pytest.fixture
def attack_seconds(request: pytest.FixtureRequest) -> float:
    """Seconds for each fuzzer."""
    return request.config.getoption("--attack-seconds")
