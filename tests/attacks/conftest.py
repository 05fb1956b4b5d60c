"""How long the attacks last: a moment by default, as long as one likes by `--attack-seconds` and `--attack-kills`."""

from __future__ import annotations

import pytest


@pytest.fixture
def attack_seconds(request: pytest.FixtureRequest) -> float:
    """Seconds for each fuzzer."""
    return request.config.getoption("--attack-seconds")


@pytest.fixture
def attack_kills(request: pytest.FixtureRequest) -> int:
    """How often each process is killed, more or less."""
    return request.config.getoption("--attack-kills")
