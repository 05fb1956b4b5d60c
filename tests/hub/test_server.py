"""The server that stands in for the Hub: the client takes its answers for the Hub's."""

from __future__ import annotations

import pytest
from hub_server import HubServer
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError


@pytest.fixture
def api(hub: HubServer) -> HfApi:
    return HfApi(endpoint=hub.url)


def test_accounts_and_rights(hub: HubServer, api: HfApi, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.create("alice/mine", private=True)
    hub.create("bob/his")
    assert api.whoami()["name"] == "alice"
    api.auth_check("alice/mine", write=True)
    api.auth_check("bob/his")
    with pytest.raises(HfHubHTTPError, match="403"):
        api.auth_check("bob/his", write=True)
    monkeypatch.setenv("HF_TOKEN", "hf_bob")
    with pytest.raises(RepositoryNotFoundError):
        api.auth_check("alice/mine")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(HfHubHTTPError, match="Invalid user token"):
        api.whoami()


def test_files_are_listed_added_and_deleted(hub: HubServer, api: HfApi) -> None:
    hub.create("alice/m", {"config.json": b"{}", "ava/model.safetensors": b"weights"})
    assert {entry.path for entry in api.list_repo_tree("alice/m")} == {".gitattributes", "config.json", "ava"}
    (weights,) = api.get_paths_info("alice/m", ["ava/model.safetensors", "nothing"])
    assert weights.lfs.size == weights.size == 7
    operations = [CommitOperationAdd("notes.md", b"new"), CommitOperationDelete("ava/")]
    made = api.create_commit("alice/m", operations, commit_message="Change")
    assert api.list_repo_files("alice/m") == [".gitattributes", "config.json", "notes.md"]
    assert [commit.title for commit in api.list_repo_commits("alice/m")] == ["Change", "Add files", "initial commit"]
    assert api.list_repo_commits("alice/m")[0].commit_id == made.oid
    assert api.file_exists("alice/m", "notes.md")
    assert not api.file_exists("alice/m", "ava/model.safetensors")


def test_branches_and_tags_come_and_go(hub: HubServer, api: HfApi) -> None:
    first = hub.create("alice/m")
    hub.add("alice/m", {"config.json": b"{}"})
    api.create_branch("alice/m", branch="trial/1", revision=first)
    api.create_tag("alice/m", tag="v1")
    refs = api.list_repo_refs("alice/m")
    assert {ref.name: ref.target_commit for ref in refs.branches}["trial/1"] == first
    assert [ref.name for ref in refs.tags] == ["v1"]
    assert api.revision_exists("alice/m", "trial/1")
    api.delete_branch("alice/m", branch="trial/1")
    api.delete_tag("alice/m", tag="v1")
    assert not api.revision_exists("alice/m", "trial/1")
    assert not api.revision_exists("alice/m", "v1")
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_branch("alice/m", branch="main")


def test_broken_metadata_and_stale_parents_are_refused(hub: HubServer, api: HfApi) -> None:
    first = hub.create("alice/m")
    hub.add("alice/m", {"config.json": b"{}"})
    with pytest.raises(ValueError, match="license"):
        api.create_commit(
            "alice/m", [CommitOperationAdd("README.md", b"---\nlicense: [1]\n---\n")], commit_message="x"
        )
    with pytest.raises(HfHubHTTPError, match="412"):
        api.create_commit("alice/m", [CommitOperationAdd("a", b"a")], commit_message="x", parent_commit=first)
