"""What a push gives away, and what a pull takes on trust."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from hub_server import HubServer

from charm_hf.hub import pull_checkpoint, push_checkpoint, resolve_checkpoint, verify_checkpoints


@pytest.fixture
def folder(checkpoint: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint, tmp_path / "trained"))


@pytest.mark.parametrize("place", ["NOTICE", "vocab.txt", "para"])
def test_a_symbolic_link_is_refused_before_anything_is_run_or_sent(
    hub: HubServer, folder: Path, tmp_path: Path, place: str
) -> None:
    private = tmp_path / "private"
    shutil.copytree(folder, private)
    (private / "key").write_text("secret")
    (folder / place).symlink_to(private if place == "para" else private / "key")
    with (folder / "modeling_charm.py").open("a") as code:
        code.write(f"\nopen({str(tmp_path / 'was-run')!r}, 'w')\n")
    with pytest.raises(ValueError, match=f"{place} is a symbolic link to .*private"):
        push_checkpoint(folder, "alice/charm")
    assert "alice/charm" not in hub.repos
    assert not (tmp_path / "was-run").exists()


def test_only_what_belongs_to_a_checkpoint_is_sent(
    hub: HubServer, folder: Path, unchecked: None, caplog: pytest.LogCaptureFixture
) -> None:
    mine = {"notes.txt", "photo.jpg", "run.json", "history.json", "passwords.yaml", "helper.py", ".env"}
    for name in mine:
        (folder / name).write_text("{}")
    push_checkpoint(folder, "alice/charm")
    sent = set(hub.files("alice/charm"))
    assert not sent & mine
    assert {"config.json", "preprocessor_config.json", "model.safetensors", "modeling_charm.py", "README.md"} <= sent
    assert "passwords.yaml" in caplog.text


def test_no_absolute_path_is_published(hub: HubServer, folder: Path, unchecked: None) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["backbone_config"]["_name_or_path"] = "/home/alice/secret-project/dinov2"
    config["text_repository"] = "C:\\Users\\alice\\bert"
    (folder / "config.json").write_text(json.dumps(config))
    push_checkpoint(folder, "alice/charm")
    sent = {
        name: file.data.decode() for name, file in hub.files("alice/charm").items() if name.endswith(("json", "md"))
    }
    assert not [name for name, text in sent.items() if "secret-project" in text or "Users" in text]
    assert json.loads(sent["config.json"])["backbone_config"]["_name_or_path"] == "dinov2"
    assert json.loads(sent["config.json"])["score_range"] == config["score_range"]


def test_the_code_that_is_tried_sees_no_token_and_no_secret(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    (home / ".cache" / "huggingface").mkdir(parents=True)
    (home / ".cache" / "huggingface" / "token").write_text("hf_from_the_file")
    monkeypatch.setenv("HOME", str(home))
    secrets = {"HF_TOKEN": "hf_1", "HUGGING_FACE_HUB_TOKEN": "hf_2", "AWS_SECRET_ACCESS_KEY": "s", "MY_OWN_KEY": "k"}
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    seen = tmp_path / "seen.json"
    with (folder / "modeling_charm.py").open("a") as code:
        code.write(
            "\nimport json, os\nfrom huggingface_hub import get_token\n"
            f"open({str(seen)!r}, 'w').write(json.dumps([dict(os.environ), get_token()]))\n"
        )
    verify_checkpoints(folder)
    environment, token = json.loads(seen.read_text())
    assert not secrets.keys() & environment.keys()
    assert token is None
    assert environment["PATH"] == os.environ["PATH"]


@pytest.mark.parametrize("hub", ["lfs"], indirect=True)
@pytest.mark.parametrize("name", ["model.safetensors", "modeling_charm.py"])
def test_a_file_that_was_changed_on_the_way_is_not_kept(
    hub: HubServer, folder: Path, tmp_path: Path, unchecked: None, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    push_checkpoint(folder, "alice/charm")
    file = hub.files("alice/charm")[name]
    if file.sha256:
        stored = hub.folder / "lfs" / file.sha256
        stored.write_bytes(stored.read_bytes()[:-1] + b"!")
    else:
        object.__setattr__(hub.repos["alice/charm"].at("main").files[name], "data", file.data[:-1] + b"!")
    with pytest.raises(ValueError, match=rf"not what the Hub has: {name}"):
        pull_checkpoint("alice/charm", tmp_path / "pulled")
    assert not (tmp_path / "pulled" / name).exists()
    if file.sha256:  # what lies in the cache is named by its digest, so that it costs nothing to look
        for _ in range(2):
            with pytest.raises(ValueError, match=rf"not what the Hub has: {name}"):
                resolve_checkpoint("alice/charm")


def test_a_repository_without_safetensors_is_an_error(hub: HubServer, tmp_path: Path) -> None:
    hub.create("alice/old", {"config.json": b"{}", "pytorch_model.bin": b"pickle"})
    hub.create("alice/empty", {"config.json": b"{}", "README.md": b"# Nothing"})
    for take in (resolve_checkpoint, lambda repo: pull_checkpoint(repo, tmp_path / "pulled")):
        with pytest.raises(ValueError, match=r"holds pickles \(pytorch_model\.bin\)"):
            take("alice/old")
        with pytest.raises(ValueError, match="no config.json with safetensors beside it"):
            take("alice/empty")
    assert not (tmp_path / "pulled").exists()
