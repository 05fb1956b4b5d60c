"""A Hub for the tests of one machine: the server of `hub_server`, and clients that talk to it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from hub_server import HubServer
from huggingface_hub.utils import disable_progress_bars, enable_progress_bars


@pytest.fixture(scope="session")
def xet_to_a_folder(tmp_path_factory: pytest.TempPathFactory) -> str | None:
    """Why the client cannot store into a folder by xet, if it cannot: `local://` is undocumented."""
    folder = tmp_path_factory.mktemp("xet-probe")
    sample = folder / "sample"
    sample.write_bytes(b"a few bytes")
    try:
        import hf_xet

        with HubServer(folder) as hub:
            hub.create("alice/probe")
            with hf_xet.XetSession().new_upload_commit(
                token_refresh_url=f"{hub.url}/api/models/alice/probe/xet-write-token/main",
                token_refresh_headers={"authorization": "Bearer hf_alice"},
                custom_headers={},
                progress_callback=None,
            ) as commit:
                commit.start_upload_file(str(sample), sha256=hf_xet.COMPUTE_SHA256)
            return None if list(hub.xet_folder.rglob("*.mdb")) else "hf_xet stored nothing in the folder"
    except Exception as error:
        return f"this hf_xet does not store into a folder: {error}"


@pytest.fixture(params=["lfs", "xet"])
def hub(
    request: pytest.FixtureRequest, xet_to_a_folder: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[HubServer]:
    """A Hub on this machine, for the client in this process, in each of its upload modes. The user is alice."""
    if request.param == "xet" and xet_to_a_folder:
        pytest.skip(xet_to_a_folder)
    with HubServer(tmp_path / "hub") as server:
        server.mode = request.param
        home = tmp_path / "home"
        changes = {
            "ENDPOINT": server.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": server.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": request.param == "lfs",
            "HF_HUB_CACHE": str(home / "hub"),
        }
        for name, value in changes.items():
            monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
        monkeypatch.setattr("huggingface_hub.utils._cache_assets.HF_ASSETS_CACHE", str(home / "assets"))
        monkeypatch.setenv("HF_TOKEN", "hf_alice")
        monkeypatch.setattr("transformers.utils.hub._hf_api", None)  # it remembers the address of its Hub
        # Retries wait for minutes in all; what is tested is what follows the last one.
        patient = SimpleNamespace(sleep=lambda seconds: None, time=time.time, monotonic=time.monotonic)
        monkeypatch.setattr("huggingface_hub.utils._http.time", patient)
        disable_progress_bars()
        yield server
        enable_progress_bars()


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the clean process that a push starts first, where only the transfer is tested: it takes seconds."""
    monkeypatch.setattr("charm_hf.hub.push.verify_checkpoints", lambda folder: {})


def hub_environment(hub: HubServer, home: Path, **extra: str) -> dict[str, str]:
    """Environment of a process whose client talks to `hub` in the same upload mode, with a cache of its own."""
    return {
        **os.environ,
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home),
        "HF_TOKEN": "hf_alice",
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1" if hub.mode == "lfs" else "0",
        "PYTHONPATH": str(Path(__file__).parents[2]),
        **extra,
    }
