"""Repositories of strangers: their code is not run, their pickles are not read, their names reach no other folder."""

from __future__ import annotations

import io
import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from hub_server import HubServer
from typer.testing import CliRunner

from charm_hf import embedded_model_path
from charm_hf.catalogue import list_checkpoints
from charm_hf.hub import pull_checkpoint
from charm_hf.scoring import load_for_scoring
from charm_hf_cli import app
from charm_hf_cli.support import put_out


# One way of uploading is enough: what is tried here is what comes down.
pytestmark = pytest.mark.parametrize("hub", ["lfs"], indirect=True)
ESCAPES = "\x1b]0;owned\x07\x9b31m"


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """What exists once hostile code has run."""
    return tmp_path / "was-run"


@pytest.fixture
def hostile(marker: Path) -> dict[str, bytes]:
    """A sound checkpoint with code and pickles beside it that leave the marker."""

    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (marker,)  # type: ignore[return-value]

    folder = Path(embedded_model_path())
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    evil = f"open({str(marker)!r}, 'w')\n".encode()
    files |= {name: evil for name in ("modeling_charm.py", "configuration_charm.py", "handler.py", "setup.py")}
    pickled = io.BytesIO()
    torch.save(Payload(), pickled)
    return files | {"pytorch_model.bin": pickled.getvalue(), "training_args.bin": pickle.dumps(Payload())}


def config_of(files: dict[str, bytes], **changes: object) -> dict[str, bytes]:
    return files | {"config.json": json.dumps(json.loads(files["config.json"]) | changes).encode()}


def test_code_and_pickles_beside_sound_weights_are_left_alone(
    hub: HubServer, hostile: dict[str, bytes], marker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "load", None)
    monkeypatch.setattr("builtins.input", None)  # nobody is asked to trust it, either
    hub.create("mallory/charm", hostile)
    model, _ = load_for_scoring("mallory/charm", device="cpu")
    assert type(model).__module__.startswith("charm_hf.")
    pulled = Path(pull_checkpoint("mallory/charm", tmp_path / "pulled"))
    load_for_scoring(str(pulled), device="cpu")
    assert not {"pytorch_model.bin", "training_args.bin", "setup.py"} & {path.name for path in pulled.iterdir()}
    assert not marker.exists()


@pytest.mark.parametrize("model_type", ["evil", "vit"])
def test_another_kind_of_model_is_an_error_and_neither_its_code_nor_its_pickle_is_touched(
    hub: HubServer, hostile: dict[str, bytes], marker: Path, monkeypatch: pytest.MonkeyPatch, model_type: str
) -> None:
    monkeypatch.setattr(torch, "load", None)
    monkeypatch.setattr("builtins.input", None)
    hub.create("mallory/charm", config_of(hostile, model_type=model_type))
    hub.create("mallory/pickled", {name: data for name, data in hostile.items() if not name.endswith(".safetensors")})
    for repository in ("mallory/charm", "mallory/pickled"):
        with pytest.raises((ValueError, OSError), match="mallory"):
            load_for_scoring(repository, device="cpu")
    assert not marker.exists()


def test_a_folder_with_a_pickle_for_weights_is_refused_whatever_it_says_it_is(
    hub: HubServer, hostile: dict[str, bytes], marker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "load", None)
    for model_type in ("charm", "vit"):
        folder = tmp_path / model_type
        folder.mkdir()
        for name, data in config_of(hostile, model_type=model_type).items():
            if not name.endswith(".safetensors"):
                (folder / name).write_bytes(data)
        with pytest.raises((ValueError, OSError), match="safetensors|expected charm or mmlq"):
            load_for_scoring(str(folder), device="cpu")
    assert not marker.exists()


def test_no_name_in_a_repository_reaches_out_of_the_folder(
    hub: HubServer, hostile: dict[str, bytes], tmp_path: Path
) -> None:
    wanted = {name: hostile[name] for name in ("config.json", "model.safetensors", "preprocessor_config.json")}
    elsewhere = {
        f"{place}/{name}": data for place in ("..", "/tmp", ".git", "a/../..") for name, data in wanted.items()
    }
    hub.create("mallory/charm", hostile | elsewhere)
    target = tmp_path / "below" / "pulled"
    pull_checkpoint("mallory/charm", target)
    assert {path.name for path in (tmp_path / "below").iterdir()} == {"pulled"}
    assert (target / "model.safetensors").read_bytes() == wanted["model.safetensors"]
    assert not (target / ".git").exists()


def test_what_a_cached_repository_says_of_itself_is_text_for_the_terminal(
    hub: HubServer, hostile: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, changes in enumerate(
        ({"dataset_name": ESCAPES}, {"backbone_config": "x"}, {"backbone_config": {"_name_or_path": [ESCAPES]}})
    ):
        hub.create(f"mallory/charm{number}", config_of(hostile, **changes))
        pull = CliRunner().invoke(app, ["score", "x.jpg", "--model", f"mallory/charm{number}"])
        assert not set("\x1b\x07\x9b") & set(pull.stderr)
    assert sum(known.model.startswith("mallory/") for known in list_checkpoints()) == 3
    shown = io.StringIO()
    shown.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr("sys.stdout", shown)
    put_out(list_checkpoints())
    put_out("\n".join(known.dataset for known in list_checkpoints()))
    assert not set("\x1b\x07\x9b") & set(shown.getvalue())
    assert r"\x1b]0;owned" in shown.getvalue()


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"a":' * 100_000, b"\xff", b"null", b"[]"])
def test_a_configuration_that_is_none_is_one_error(
    hub: HubServer, hostile: dict[str, bytes], tmp_path: Path, content: bytes
) -> None:
    hub.create("mallory/charm", hostile | {"config.json": content})
    for arguments in (["score", "x.jpg", "--model", "mallory/charm"], ["models"]):
        told = CliRunner().invoke(app, arguments)
        assert told.exit_code == (2 if arguments[0] == "score" else 0), told.output
        assert told.exception is None or isinstance(told.exception, SystemExit)
    shutil.rmtree(tmp_path / "home", ignore_errors=True)
