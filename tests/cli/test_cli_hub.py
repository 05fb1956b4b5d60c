"""`charm-hf push` and `pull`, as typed, against a Hub on this machine."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from hub_server import HubServer
from support import photo_path
from typer.testing import CliRunner

from charm_hf_cli import app


@pytest.fixture
def folder(checkpoint: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint, tmp_path / "trained"))


def invoke(*arguments: Any) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_a_checkpoint_goes_up_comes_down_and_scores_the_same(
    hub: HubServer, folder: Path, tmp_path: Path, unchecked: None
) -> None:
    pushed = invoke("push", folder, "alice/charm", "--tag", "v1", "--message", "First", "--private")
    assert pushed.exit_code == 0, pushed.output
    assert pushed.stdout.strip().startswith(hub.url)
    assert hub.titles("alice/charm")[0] == "First"

    pulled = invoke("pull", "alice/charm@v1", tmp_path / "pulled")
    assert pulled.exit_code == 0, pulled.output
    assert pulled.stdout.strip() == str(tmp_path / "pulled")

    scores = [
        invoke("score", photo_path("coffee"), "--model", model, "--device", "cpu").stdout
        for model in (folder, tmp_path / "pulled", "alice/charm@v1")
    ]
    assert "coffee" in scores[0]
    assert scores[0] == scores[1] == scores[2]


def test_a_pull_request_prints_where_it_is(hub: HubServer, folder: Path, unchecked: None) -> None:
    hub.create("alice/charm", {})
    opened = invoke("push", folder, "alice/charm", "--create-pr")
    assert opened.exit_code == 0, opened.output
    assert "discussions" in opened.stdout


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["push", "empty", "alice/charm"], "empty holds no checkpoint"),
        (["pull", "alice/nothing", "pulled"], "Repository Not Found"),
    ],
)
def test_what_cannot_be_pushed_or_pulled_says_why(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    done = invoke(*arguments)
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    assert reason in done.stderr
    assert "Traceback" not in done.output
    assert "alice/charm" not in hub.repos
    assert not Path("pulled").exists()


def test_a_refusal_of_the_hub_is_exit_code_one(hub: HubServer, folder: Path, unchecked: None) -> None:
    hub.create("bob/charm", {})
    done = invoke("push", folder, "bob/charm")
    assert done.exit_code == 1, done.output
    assert "bob/charm" in done.stderr
