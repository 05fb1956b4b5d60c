"""Push, pull and resolve: the real client, a real server on this machine, both upload modes."""

from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path

import pytest
import torch
from hub_server import HubServer
from huggingface_hub import HfApi, ModelCard
from huggingface_hub.errors import (
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors.torch import save_file

from charm_hf.hub import (
    CheckpointError,
    PushError,
    assemble_repository,
    pull_checkpoint,
    push_checkpoint,
    resolve_checkpoint,
    verify_checkpoints,
)


@pytest.fixture
def folder(checkpoint: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint, tmp_path / "trained"))


def weights_of_bytes(path: Path, size: int, seed: int = 0) -> bytes:
    """Write safetensors of about `size` bytes that do not compress; returns the file's content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    save_file({"weight": torch.randn(size // 4, generator=generator)}, path)
    return path.read_bytes()


def head_of(hub: HubServer, repo: str, branch: str = "main") -> str:
    return hub.repos[repo].branches[branch]


# What arrives.


def test_what_is_pushed_is_what_is_pulled(hub: HubServer, folder: Path, tmp_path: Path, unchecked: None) -> None:
    (folder / "optimizer.pt").write_bytes(b"pickle")
    (folder / "checkpoint-10").mkdir()
    shutil.copy(folder / "config.json", folder / "checkpoint-10")

    commit = push_checkpoint(folder, "alice/charm")

    pulled = Path(pull_checkpoint("alice/charm", tmp_path / "pulled"))
    files = {path.name: path.read_bytes() for path in pulled.glob("*") if path.is_file()}
    expected = {path.name for path in folder.glob("*") if path.is_file()} - {"optimizer.pt"}
    assert set(files) == expected | {"README.md", "handler.py", "requirements.txt"}
    assert all(files[name] == (folder / name).read_bytes() for name in expected - {"README.md"})
    assert commit.oid == head_of(hub, "alice/charm")
    assert not (pulled / "checkpoint-10").exists()


@pytest.mark.parametrize("megabytes", [6, 45])
def test_large_weights_arrive_whole(
    hub: HubServer, folder: Path, tmp_path: Path, unchecked: None, megabytes: int
) -> None:
    sent = weights_of_bytes(folder / "model.safetensors", megabytes * 1_000_000)

    push_checkpoint(folder, "alice/charm")

    pulled = Path(pull_checkpoint("alice/charm", tmp_path / "pulled"))
    assert (pulled / "model.safetensors").read_bytes() == sent
    stored = hub.files("alice/charm")["model.safetensors"]
    assert (stored.xet is not None) == (hub.mode == "xet")
    assert not hub.cdn_saw_a_token


def test_the_same_weights_are_sent_once_and_a_second_push_sends_and_commits_nothing(
    hub: HubServer, checkpoint: str, tmp_path: Path, unchecked: None, caplog: pytest.LogCaptureFixture
) -> None:
    whole = assemble_repository({"ava": checkpoint, "para": checkpoint}, tmp_path / "whole")
    size = len(weights_of_bytes(whole / "model.safetensors", 2_000_000))
    for name in ("ava", "para"):
        shutil.copy(whole / "model.safetensors", whole / name)

    first = push_checkpoint(whole, "alice/charm")
    stored = hub.stored_bytes()
    assert 0.5 * size < stored < 1.1 * size  # xet compresses
    assert len(hub.received) == (1 if hub.mode == "lfs" else 0)

    with caplog.at_level(logging.INFO, logger="charm_hf"):
        second = push_checkpoint(whole, "alice/charm")
    assert second.oid == first.oid
    assert hub.stored_bytes() == stored
    assert hub.titles("alice/charm") == ["Upload checkpoint with charm-hf", "initial commit"]
    assert "nothing was committed" in caplog.text


def test_only_what_changed_is_sent_again(hub: HubServer, folder: Path, unchecked: None) -> None:
    weights_of_bytes(folder / "model.safetensors", 2_000_000)
    push_checkpoint(folder, "alice/charm")
    before = hub.files("alice/charm")
    stored = hub.stored_bytes()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "classifier_dropout": 0.25}))

    push_checkpoint(folder, "alice/charm", commit_message="Less dropout")

    after = hub.files("alice/charm")
    assert {name for name in after if after[name] != before.get(name)} == {"config.json"}
    assert hub.stored_bytes() == stored
    assert hub.titles("alice/charm")[0] == "Less dropout"


def test_remote_files_that_the_folder_lacks_stay(hub: HubServer, folder: Path, unchecked: None) -> None:
    hub.create("alice/charm", {"ava_charm.pth": b"an old pickle", "notes.md": b"kept"})
    push_checkpoint(folder, "alice/charm")
    assert {"ava_charm.pth", "notes.md", "config.json"} <= set(hub.files("alice/charm"))


# Branches, pull requests, tags, revisions.


def test_a_branch_is_created_and_main_stays(hub: HubServer, folder: Path, unchecked: None) -> None:
    hub.create("alice/charm")
    push_checkpoint(folder, "alice/charm", revision="trial/1")
    assert "config.json" in hub.files("alice/charm", "trial/1")
    assert "config.json" not in hub.files("alice/charm")


def test_a_pull_request_leaves_main_alone(
    hub: HubServer, folder: Path, unchecked: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.create("alice/charm")
    monkeypatch.setenv("HF_TOKEN", "hf_bob")
    commit = push_checkpoint(folder, "alice/charm", create_pr=True)
    assert commit.pr_url == f"{hub.url}/alice/charm/discussions/1"
    assert "config.json" in hub.files("alice/charm", "refs/pr/1")
    assert "config.json" not in hub.files("alice/charm")


def test_a_tag_names_the_commit_and_a_taken_one_is_refused_before_anything_is_sent(
    hub: HubServer, folder: Path, unchecked: None
) -> None:
    commit = push_checkpoint(folder, "alice/charm", tag="v1")
    assert hub.repos["alice/charm"].tags == {"v1": commit.oid}
    (folder / "config.json").write_text((folder / "config.json").read_text() + "\n")
    hub.requests.clear()
    with pytest.raises(PushError, match="already has a tag 'v1'"):
        push_checkpoint(folder, "alice/charm", tag="v1")
    assert not hub.count("POST", "preupload|commit")


@pytest.mark.parametrize("options", [{"tag": "v1"}, {"revision": "trial"}])
def test_a_pull_request_takes_neither_tag_nor_branch(folder: Path, options: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="pull request"):
        push_checkpoint(folder, "alice/charm", create_pr=True, **options)


def test_two_revisions_stand_side_by_side(hub: HubServer, folder: Path, tmp_path: Path, unchecked: None) -> None:
    old = weights_of_bytes(folder / "model.safetensors", 1_000_000, seed=1)
    first = push_checkpoint(folder, "alice/charm", tag="v1")
    new = weights_of_bytes(folder / "model.safetensors", 1_000_000, seed=2)
    push_checkpoint(folder, "alice/charm")

    by_tag, by_hash, latest = (
        resolve_checkpoint(name) for name in ("alice/charm@v1", f"alice/charm@{first.oid}", "alice/charm")
    )
    assert by_tag == by_hash != latest
    assert Path(by_tag, "model.safetensors").read_bytes() == old
    assert Path(latest, "model.safetensors").read_bytes() == new
    pulled = Path(pull_checkpoint("alice/charm", tmp_path / "pulled", revision="v1"))
    assert (pulled / "model.safetensors").read_bytes() == old


# What goes wrong.


def test_a_private_repository_is_nobody_elses(
    hub: HubServer, folder: Path, tmp_path: Path, unchecked: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    push_checkpoint(folder, "alice/charm", private=True)
    assert hub.repos["alice/charm"].private
    for token, error in (("hf_wrong", HfHubHTTPError), ("hf_bob", RepositoryNotFoundError)):
        monkeypatch.setenv("HF_TOKEN", token)
        with pytest.raises(error):
            resolve_checkpoint("alice/charm")
        with pytest.raises(error):
            pull_checkpoint("alice/charm", tmp_path / token)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(PushError, match=r"did not accept the token.*hf auth login"):
        push_checkpoint(folder, "alice/charm")


def test_private_is_refused_for_a_repository_that_is_public(hub: HubServer, folder: Path, unchecked: None) -> None:
    hub.create("alice/charm")
    with pytest.raises(PushError, match="public"):
        push_checkpoint(folder, "alice/charm", private=True)
    assert set(hub.files("alice/charm")) == {".gitattributes"}


def test_someone_elses_repository_is_refused_with_a_way_out(hub: HubServer, folder: Path, unchecked: None) -> None:
    hub.create("bob/charm")
    with pytest.raises(PushError, match="--create-pr"):
        push_checkpoint(folder, "bob/charm")
    assert set(hub.files("bob/charm")) == {".gitattributes"}


def test_a_missing_repository_revision_or_checkpoint_is_named(
    hub: HubServer, folder: Path, tmp_path: Path, unchecked: None
) -> None:
    push_checkpoint(folder, "alice/charm")
    for fetch in (resolve_checkpoint, lambda name, **kwargs: pull_checkpoint(name, tmp_path / "none", **kwargs)):
        with pytest.raises(RepositoryNotFoundError, match="alice/nothing"):
            fetch("alice/nothing")
        with pytest.raises(RevisionNotFoundError, match="v9"):
            fetch("alice/charm@v9")
        with pytest.raises(ValueError, match=r"alice/charm has no checkpoint 'para': it holds the root"):
            fetch("alice/charm", dataset="para")
    with pytest.raises(RemoteEntryNotFoundError):
        HfApi().hf_hub_download("alice/charm", "nothing.txt")


def test_a_commit_made_meanwhile_is_not_overwritten(
    hub: HubServer, folder: Path, unchecked: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.create("alice/charm", {"config.json": b"{}"})
    send = HfApi.preupload_lfs_files

    def send_while_another_commits(self: HfApi, *args: object, **kwargs: object) -> None:
        send(self, *args, **kwargs)
        hub.add("alice/charm", {"config.json": b'{"theirs": 1}'}, title="Theirs")

    monkeypatch.setattr(HfApi, "preupload_lfs_files", send_while_another_commits)
    with pytest.raises(PushError, match="Someone else committed"):
        push_checkpoint(folder, "alice/charm")
    assert hub.titles("alice/charm")[0] == "Theirs"
    assert hub.files("alice/charm")["config.json"].data == b'{"theirs": 1}'


def test_a_server_that_dies_midway_keeps_what_it_had_and_the_push_can_be_run_again(
    hub: HubServer, folder: Path, unchecked: None
) -> None:
    hub.create("alice/charm", {"config.json": b"{}"})
    before = head_of(hub, "alice/charm"), hub.files("alice/charm")
    sent = weights_of_bytes(folder / "model.safetensors", 6_000_000)
    # By xet the weights go into a folder past the server: there the last moment to die is the commit.
    where = ("PUT", "/lfs/") if hub.mode == "lfs" else ("POST", "/commit/")
    hub.fault(*where, after_bytes=100, kill=True)

    with pytest.raises(PushError) as caught:
        push_checkpoint(folder, "alice/charm", revision="main", tag="v1")

    message = str(caught.value)
    state = "are as they were before" if hub.mode == "lfs" else "taken whole or not at all"
    assert state in message
    assert f"Run again: charm-hf push {folder} alice/charm --revision main --tag v1" in message
    assert (head_of(hub, "alice/charm"), hub.files("alice/charm")) == before
    hub.revive()
    stored = hub.stored_bytes()
    push_checkpoint(folder, "alice/charm", revision="main", tag="v1")
    assert Path(resolve_checkpoint("alice/charm@v1"), "model.safetensors").read_bytes() == sent
    if hub.mode == "xet":
        assert hub.stored_bytes() == stored


def test_a_refused_commit_leaves_no_branch_behind(hub: HubServer, folder: Path, unchecked: None) -> None:
    hub.create("alice/charm")
    hub.fault("POST", "/commit/", status=500)
    with pytest.raises(PushError, match=r"(?s)\(500\).*Run again: charm-hf push"):
        push_checkpoint(folder, "alice/charm", revision="trial")
    assert set(hub.repos["alice/charm"].branches) == {"main"}


def test_a_download_that_breaks_off_is_taken_up_again(hub: HubServer, folder: Path, unchecked: None) -> None:
    if hub.mode == "xet":
        pytest.skip("by xet the weights come out of a folder, past the server")
    sent = weights_of_bytes(folder / "model.safetensors", 6_000_000)
    push_checkpoint(folder, "alice/charm")
    hub.fault("GET", "/lfs/", times=2)
    assert Path(resolve_checkpoint("alice/charm"), "model.safetensors").read_bytes() == sent


def test_offline_the_cache_answers(
    hub: HubServer, folder: Path, unchecked: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    push_checkpoint(folder, "alice/charm", tag="v1")
    online = resolve_checkpoint("alice/charm"), resolve_checkpoint("alice/charm@v1")
    hub.create("alice/unseen", {"config.json": b"{}"})

    hub.requests.clear()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert (resolve_checkpoint("alice/charm"), resolve_checkpoint("alice/charm@v1")) == online
    with pytest.raises(LocalEntryNotFoundError, match=r"alice/unseen is not in the cache.*charm-hf pull"):
        resolve_checkpoint("alice/unseen")
    assert not hub.requests


def test_a_dead_server_is_like_being_offline(hub: HubServer, folder: Path, unchecked: None) -> None:
    push_checkpoint(folder, "alice/charm")
    online = resolve_checkpoint("alice/charm")
    hub.down = True
    assert resolve_checkpoint("alice/charm") == online


# The card.


def test_a_pushed_card_is_valid_and_holds_the_measured_results(hub: HubServer, folder: Path, unchecked: None) -> None:
    (folder / "eval_results.json").write_text(json.dumps({"eval_srcc": 0.71, "eval_plcc": 0.72, "eval_loss": 0.1}))
    push_checkpoint(folder, "alice/charm")
    card = ModelCard(hub.files("alice/charm")["README.md"].data.decode())
    held = card.data.to_dict()
    assert {key: held[key] for key in ("license", "library_name", "pipeline_tag", "datasets")} == {
        "license": "apache-2.0",
        "library_name": "transformers",
        "pipeline_tag": "image-classification",
        "datasets": ["ava"],
    }
    assert {result.metric_type: result.metric_value for result in card.data.eval_results} == {
        "srcc": 0.71,
        "plcc": 0.72,
    }
    assert "between 1 and 10" in card.text
    assert 'model="alice/charm"' in card.text


def test_a_card_of_ones_own_keeps_its_words_and_gains_what_it_lacks(
    hub: HubServer, folder: Path, unchecked: None
) -> None:
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# My own words\n")
    push_checkpoint(folder, "alice/charm")
    pushed = ModelCard(hub.files("alice/charm")["README.md"].data.decode())
    assert (pushed.data.license, pushed.data.library_name, pushed.data.datasets) == ("mit", "transformers", ["ava"])
    assert pushed.text.strip() == "# My own words"
    assert (folder / "README.md").read_text() == "---\nlicense: mit\n---\n# My own words\n"


def test_a_card_edited_on_the_hub_survives_a_push_without_one(hub: HubServer, folder: Path, unchecked: None) -> None:
    hub.create("alice/charm", {"README.md": b"---\nlicense: mit\n---\n# Edited on the Hub\n"})
    push_checkpoint(folder, "alice/charm")
    pushed = ModelCard(hub.files("alice/charm")["README.md"].data.decode())
    assert pushed.data.license == "mit"
    assert pushed.data.pipeline_tag == "image-classification"
    assert pushed.text.strip() == "# Edited on the Hub"


def test_a_broken_card_stops_the_push_before_anything_is_sent(hub: HubServer, folder: Path, unchecked: None) -> None:
    (folder / "README.md").write_text("---\nlicense: [\n---\n")
    hub.create("alice/charm")
    with pytest.raises(ValueError, match=r"metadata block at the top of .*README\.md is not valid"):
        push_checkpoint(folder, "alice/charm")
    assert not hub.count("POST", "preupload|commit")


# Only checkpoints that work are pushed.


def edit_weights(folder: Path, **changes: torch.Tensor | None) -> None:
    from safetensors.torch import load_file

    weights = load_file(folder / "model.safetensors")
    for name, value in changes.items():
        name = name.replace("__", ".")
        if value is None:
            del weights[name]
        else:
            weights[name] = value
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_checkpoint_with_nan_is_refused_before_the_hub_hears_of_it(hub: HubServer, folder: Path) -> None:
    edit_weights(folder, classifier__bias=torch.full((10,), float("nan")))
    with pytest.raises(CheckpointError, match=r"not finite, in classifier\.bias"):
        push_checkpoint(folder, "alice/charm")
    assert not hub.requests


def test_checkpoints_that_a_clean_process_cannot_score_with_are_refused(checkpoint: str, tmp_path: Path) -> None:
    whole = assemble_repository(
        {name: checkpoint for name in ("good", "misshapen", "missing", "unexpected", "unprocessed")}, tmp_path / "all"
    )
    edit_weights(whole / "misshapen", classifier__bias=torch.zeros(3))
    edit_weights(whole / "missing", classifier__bias=None)
    edit_weights(whole / "unexpected", stranger=torch.zeros(3))
    os.remove(whole / "unprocessed" / "preprocessor_config.json")

    with pytest.raises(CheckpointError) as caught:
        verify_checkpoints(whole)

    problems = {line.partition(": ")[0].split("/")[-1]: line for line in str(caught.value).splitlines()[1:]}
    assert {"misshapen", "missing", "unexpected", "unprocessed"} <= set(problems)
    assert "good" not in problems
    assert "classifier.bias" in problems["misshapen"]
    assert "classifier.bias" in problems["missing"]
    assert "stranger" in problems["unexpected"]


def test_code_that_needs_the_installed_package_is_refused(folder: Path) -> None:
    with open(folder / "modeling_charm.py", "a") as code:
        code.write("\nimport charm_hf\n")
    with pytest.raises(CheckpointError, match="charm_hf"):
        verify_checkpoints(folder)


def test_a_folder_without_a_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no checkpoint"):
        push_checkpoint(tmp_path, "alice/charm")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="no safetensors"):
        push_checkpoint(tmp_path, "alice/charm")
