import json
import re
from pathlib import Path

import pytest
import typer
from support import photo_path

from charm_hf_cli import app, main


@pytest.fixture
def score(checkpoint, capsys, monkeypatch):
    """Run `charm-hf score` with the checkpoint named by the environment: exit code, table, messages."""
    monkeypatch.setenv("CHARM_HF_MODEL", checkpoint)
    monkeypatch.setenv("CHARM_HF_NUM_WORKERS", "0")

    def run(*arguments):
        with pytest.raises(SystemExit) as stop:
            main(["score", *map(str, arguments)])
        captured = capsys.readouterr()
        return stop.value.code, captured.out, captured.err

    return run


def test_the_last_line_says_what_came_of_the_run(score, tmp_path):
    _, table, messages = score(photo_path("coffee"), tmp_path / "missing.jpg")
    assert messages.splitlines()[-1].startswith("1 scored, 1 failed → standard output, ")
    assert "charm-tiny" not in messages  # the model was named by CHARM_HF_MODEL
    _, quiet_table, messages = score(photo_path("coffee"), tmp_path / "missing.jpg", "--quiet")
    assert (quiet_table, messages) == (table, "")


def test_messages_come_as_json_lines_for_programs(score, tmp_path, monkeypatch):
    monkeypatch.setenv("CHARM_HF_LOG_FORMAT", "json")
    code, _, messages = score(photo_path("coffee"), "--output", tmp_path / "scores.csv")
    lines = [json.loads(line) for line in messages.splitlines()]
    assert code == 0
    assert {name: lines[-1][name] for name in ("event", "scored", "failed")} == {
        "event": "done",
        "scored": 1,
        "failed": 0,
    }
    assert all(line["message"] and line["level"] for line in lines)
    _, _, messages = score("nothing*here")
    assert json.loads(messages)["level"] == "error"


def test_the_page_names_every_setting_and_no_other():
    page = Path(__file__).parents[2] / "docs" / "pipelines.md"
    command = typer.main.get_command(app)
    options = [option for name in ("score", "serve") for option in command.commands[name].params]
    assert set(re.findall(r"CHARM_HF_\w+", page.read_text(encoding="utf-8"))) == {
        option.envvar for option in options if getattr(option, "envvar", None)
    }


def test_progress_moves_though_a_batch_takes_long(score, monkeypatch):
    import time

    from charm_hf.scoring import Scorer

    answer = Scorer.answer
    monkeypatch.setattr(Scorer, "answer", lambda self, inputs: time.sleep(2.5) or answer(self, inputs))
    monkeypatch.setenv("CHARM_HF_LOG_FORMAT", "json")
    _, _, messages = score(photo_path("coffee"), photo_path("chelsea"), "--batch-size", 1)
    moves = [line for line in map(json.loads, messages.splitlines()) if line.get("event") == "progress"]
    assert moves[0]["finished"] == 0  # said before the first batch was done,
    assert len(moves) >= 4  # and again within every two seconds of the five
    left = next(line["seconds_left"] for line in moves if line["finished"] == 1)
    assert left / 2 < 2.5 < left * 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--device", "cuda"], "cannot be used here"),
        (["--model", "models/missing"], "no folder 'models/missing'"),
        (["nothing*here"], "nothing matches the pattern 'nothing*here'"),
        (["--log-format", "xml"], "expected text or json"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(score, arguments, said):
    import torch

    if "cuda" in arguments and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    code, table, messages = score(photo_path("coffee"), *arguments)
    assert (code, table) == (2, "")
    *before, line = messages.splitlines()
    assert said in line
    assert not before or before[0].startswith("Usage: ")  # typer's own, of an option
