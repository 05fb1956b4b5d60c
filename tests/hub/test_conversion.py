"""A repository that holds the authors' pickles: converted as a whole to be published, or one by one into the cache."""

from __future__ import annotations

import json
import logging
import pickle
from pathlib import Path

import pytest
from hub_server import HubServer
from huggingface_hub import ModelCard
from support import FIXTURES, photo_path
from transformers import pipeline

from charm_hf.hub import convert_from_hub, pull_checkpoint, push_checkpoint, resolve_checkpoint
from charm_hf.hub.layout import LICENSE_NAME


LEGACY = FIXTURES / "legacy"
AUTHORS = "FatemehBehrad/Charm"


def released_files() -> dict[str, bytes]:
    names = {
        "aadb_charm.pth": "legacy_aadb.pth",
        "dino_small_pos.pt": "legacy_aadb_pos.pt",
        "Ava_large_charm.pth": "legacy_ava.pth",
        "dino_large.pt": "legacy_ava_pos.pt",
    }
    return {name: (LEGACY / file).read_bytes() for name, file in names.items()}


@pytest.fixture
def released(hub: HubServer) -> HubServer:
    hub.create(AUTHORS, {**released_files(), "README.md": b"# Charm\n"})
    return hub


def assert_scores_as_recorded(folder: str | Path, dataset: str, **where: object) -> None:
    """Compare with what the published model predicted for the same photos."""
    scorer = pipeline("image-aesthetics", model=str(folder), **where)
    for name, expected in json.loads((LEGACY / f"legacy_{dataset}.json").read_text())["images"].items():
        result = scorer(photo_path(Path(name).stem), patch_selection=expected["patch_selection"])
        predicted = result["distribution"] or [result["normalized_score"]]
        assert predicted == pytest.approx(expected["prediction"], abs=1e-4)


@pytest.mark.parametrize("hub", ["xet"], indirect=True)
@pytest.mark.slow
def test_three_commands_lead_from_pickles_to_a_working_repository(released: HubServer, tmp_path: Path) -> None:
    folder = Path(convert_from_hub(AUTHORS, tmp_path / "converted"))
    push_checkpoint(folder, "alice/charm")
    assert_scores_as_recorded("alice/charm", "ava")
    assert_scores_as_recorded("alice/charm", "aadb", model_kwargs={"subfolder": "aadb"})
    assert_scores_as_recorded(resolve_checkpoint("alice/charm", dataset="aadb"), "aadb")


def test_a_converted_repository_has_its_code_once_its_cards_and_its_licence(
    released: HubServer, tmp_path: Path
) -> None:
    folder = Path(convert_from_hub(AUTHORS, tmp_path / "converted"))
    commit = released.repos[AUTHORS].branches["main"]

    assert {path.parent.name for path in folder.rglob("*.py")} == {"converted"}
    for place in (folder, folder / "ava", folder / "aadb"):
        names = {path.name for path in place.iterdir()}
        assert {"config.json", "model.safetensors", "preprocessor_config.json", "README.md"} <= names
    assert (folder / "model.safetensors").read_bytes() == (folder / "ava" / "model.safetensors").read_bytes()
    assert (folder / LICENSE_NAME).read_text() == (Path(__file__).parents[2] / LICENSE_NAME).read_text()
    assert commit in (folder / "NOTICE").read_text()
    card, whole = ModelCard.load(folder / "aadb" / "README.md"), ModelCard.load(folder / "README.md")
    assert card.data.datasets == ["aadb"]
    assert whole.data.datasets == ["aadb", "ava"]
    assert commit in card.text
    assert commit in whole.text


def test_numbers_of_the_paper_are_not_claimed_for_another_backbone(released: HubServer, tmp_path: Path) -> None:
    folder = Path(convert_from_hub(AUTHORS, tmp_path / "converted", datasets=["aadb"]))
    card = ModelCard.load(folder / "aadb" / "README.md")  # these small weights are no DINOv2-small
    assert card.data.eval_results is None
    assert "No number is known for this checkpoint" in card.text


def test_chosen_datasets_and_another_default(released: HubServer, tmp_path: Path) -> None:
    folder = Path(convert_from_hub(AUTHORS, tmp_path / "one", datasets=["aadb"]))
    assert {path.name for path in folder.iterdir() if path.is_dir()} == {"aadb"}
    folder = Path(convert_from_hub(AUTHORS, tmp_path / "other", default="aadb"))
    assert (folder / "model.safetensors").read_bytes() == (folder / "aadb" / "model.safetensors").read_bytes()


def test_what_cannot_be_converted_is_named_and_leaves_nothing(released: HubServer, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"does not hold para_charm\.pth; it has aadb, ava"):
        convert_from_hub(AUTHORS, tmp_path / "none", datasets=["para"])
    with pytest.raises(ValueError, match="Unknown dataset 'flickr'"):
        convert_from_hub(AUTHORS, tmp_path / "none", datasets=["flickr"])
    released.create("alice/empty")
    with pytest.raises(ValueError, match="holds none of the published pickles"):
        convert_from_hub("alice/empty", tmp_path / "none")
    released.create("alice/damaged", {**released_files(), "aadb_charm.pth": b"cut short"})
    with pytest.raises(ValueError, match="aadb_charm"):
        convert_from_hub("alice/damaged", tmp_path / "none")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    released.requests.clear()
    with pytest.raises(FileExistsError, match="not empty"):
        convert_from_hub(AUTHORS, tmp_path / "full")
    assert not released.requests
    left = {path.name for path in tmp_path.iterdir()} - {"full", "hub", "home", "xet"}
    assert left == set()


def test_a_repository_of_pickles_is_converted_once_into_the_cache_and_says_so(
    released: HubServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with caplog.at_level(logging.WARNING, logger="charm_hf"):
        folder = resolve_checkpoint(AUTHORS, dataset="aadb")
    assert f"{AUTHORS} holds pickles only. Converting aadb_charm.pth" in caplog.text
    assert_scores_as_recorded(folder, "aadb")
    assert not released.count("GET|HEAD", "Ava_large_charm")

    caplog.clear()
    monkeypatch.setattr("charm_hf.legacy.convert_legacy_checkpoint", None)
    assert resolve_checkpoint(AUTHORS, dataset="aadb") == folder
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert resolve_checkpoint(AUTHORS, dataset="aadb") == folder
    with pytest.raises(ValueError, match="several checkpoints"):
        resolve_checkpoint(AUTHORS)  # the default is another one, and not in the cache
    assert "pickles only" not in caplog.text


def test_each_revision_is_converted_for_itself_and_ava_is_the_default(released: HubServer) -> None:
    first = resolve_checkpoint(AUTHORS)
    assert Path(first).name == "ava"
    released.add(AUTHORS, {"notes.md": b"another commit"})
    second = resolve_checkpoint(AUTHORS)
    assert second != first
    assert resolve_checkpoint(AUTHORS, revision=Path(first).parent.name.split("-")[0]) == first


def test_a_payload_in_a_pickle_is_refused_and_not_run(hub: HubServer, tmp_path: Path) -> None:
    target = tmp_path / "created by the payload"

    class Payload:
        def __reduce__(self) -> tuple:
            return (Path.touch, (target,))

    hub.create("alice/evil", {**released_files(), "aadb_charm.pth": pickle.dumps(Payload())})
    for _ in range(2):
        with pytest.raises(ValueError, match=r"aadb_charm"):
            resolve_checkpoint("alice/evil", dataset="aadb")
    assert not target.exists()


def test_pickles_are_not_pulled_and_the_message_says_what_to_do(released: HubServer, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"charm-hf convert --from-hub {AUTHORS} --output DIR"):
        pull_checkpoint(AUTHORS, tmp_path / "pulled")
    released.create("alice/own", {"my_model.pth": b"pickle"})
    with pytest.raises(ValueError, match=r"my_model\.pth.*charm-hf convert FILE\.pth DIR"):
        resolve_checkpoint("alice/own")
    released.create("alice/empty")
    with pytest.raises(ValueError, match=r"no config\.json"):
        resolve_checkpoint("alice/empty")


def test_the_pipeline_of_transformers_cannot_read_pickles_and_the_guide_shows_its_error(released: HubServer) -> None:
    with pytest.raises(ValueError, match="Unrecognized model in FatemehBehrad/Charm") as caught:
        pipeline("image-aesthetics", model=AUTHORS)
    guide = Path(__file__).parents[2] / "docs" / "hub.md"
    assert str(caught.value).split(".")[0] in guide.read_text(encoding="utf-8")
