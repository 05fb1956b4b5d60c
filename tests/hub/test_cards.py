"""Model cards, and the layout of a repository folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hub_server import check_card
from huggingface_hub import ModelCard

import charm_hf
from charm_hf.hub import (
    CardContext,
    assemble_repository,
    embedded_model_path,
    find_checkpoints,
    render_card,
    split_revision,
    write_published_cards,
)
from charm_hf.hub.layout import list_published_files
from charm_hf.models.checkpoint_charm import card_metadata
from charm_hf.models.configuration_charm import CharmConfig
from charm_hf.models.presets_charm import DATASET_PRESETS
from charm_hf.released import RELEASED


ROOT = Path(__file__).parents[2]


def card_of(dataset: str) -> ModelCard:
    return ModelCard.load(ROOT / "model_cards" / f"charm-{dataset}.md")


def test_the_published_cards_are_what_the_package_writes(tmp_path: Path) -> None:
    for written in write_published_cards(tmp_path):
        committed = ROOT / "model_cards" / written.name
        assert written.read_text(encoding="utf-8") == committed.read_text(encoding="utf-8"), (
            f"{committed} is out of date: python -c "
            "\"from charm_hf.hub import write_published_cards; write_published_cards('model_cards')\""
        )


def test_there_is_a_card_for_every_dataset_with_a_preset() -> None:
    assert set(RELEASED) == set(DATASET_PRESETS)


@pytest.mark.parametrize("dataset", sorted(RELEASED))
def test_a_published_card_is_valid_and_says_what_a_reader_needs(dataset: str) -> None:
    card = card_of(dataset)
    assert check_card(card.content) == []
    assert card.data.license == "apache-2.0"
    assert card.data.base_model == [RELEASED[dataset].base_model]
    assert card.data.datasets == [dataset]
    for section in ("The score", "Training data", "Results", "Intended use", "Limits and biases"):
        assert f"## {section}\n" in card.text
    assert "How the conversion was checked" in card.text
    assert "**not measured on this conversion**" in card.text
    assert "https://arxiv.org/abs/2504.02522" in card.text
    assert "split" in card.text


def test_the_papers_numbers_are_claimed_only_for_the_backbone_they_were_measured_with() -> None:
    claimed = {dataset for dataset in RELEASED if card_of(dataset).data.eval_results}
    assert claimed == set(RELEASED) - {"ava"}
    assert "No number is known for this checkpoint" in card_of("ava").text
    results = {result.metric_type: result for result in card_of("koniq10k").data.eval_results}
    assert {name: result.metric_value for name, result in results.items()} == {
        "plcc": 0.944,
        "srcc": 0.930,
        "acc": 0.954,
    }
    assert results["plcc"].source_url == "https://arxiv.org/abs/2504.02522"


def test_a_card_tells_the_range_of_the_released_head() -> None:
    assert "between 0 and 5" in card_of("koniq10k").text
    assert "distribution over 9 ratings (1 to 5)" in card_of("para").text
    assert "11 attributes" in card_of("aadb").text


def test_a_card_names_a_backbone_of_the_hub_but_no_folder_of_someones_machine(tmp_path: Path) -> None:
    config = CharmConfig.for_dataset("ava").to_dict()
    for name, expected in (("facebook/dinov2-small", ["facebook/dinov2-small"]), (str(tmp_path), None), ("", None)):
        config["backbone_config"]["_name_or_path"] = name
        card = render_card(config, CardContext("alice/charm"))
        assert card.data.base_model == expected
        assert str(tmp_path) not in card.content


def test_a_card_of_a_model_with_two_encoders_names_both_and_cites_its_own_paper() -> None:
    encoders = {
        "vision_repository": "openai/clip-vit-large-patch14",
        "text_repository": "google-bert/bert-base-uncased",
    }
    config = {"model_type": "mmlq", "score_range": [1, 10], "score_values": list(range(1, 11)), **encoders}
    card = render_card(config, CardContext("alice/mmlq"))
    assert card.data.base_model == list(encoders.values())
    assert "xiong2024multimodal" in card.text
    assert "behrad2025charm" not in card.text


def test_a_card_without_results_has_no_model_index_and_says_so() -> None:
    card = render_card(CharmConfig.for_dataset("ava").to_dict(), CardContext("alice/charm"))
    assert "model-index" not in card.data.to_dict()
    assert "None are given." in card.text
    assert check_card(card.content) == []


def test_the_name_of_a_dataset_is_text_and_nothing_else() -> None:
    config = CharmConfig.for_dataset("para").to_dict() | {"dataset_name": "x\n---\n# <b>[free](http://x)"}
    card = render_card(config, CardContext("alice/charm"))
    assert r"# Charm · x --- \# \<b\>\[free\](http://x)" in card.text
    assert card.data.datasets == [config["dataset_name"]]
    assert check_card(card.content) == []


def test_checkpoints_with_unlike_code_are_not_laid_out_together(checkpoint: str, tmp_path: Path) -> None:
    other = Path(shutil.copytree(checkpoint, tmp_path / "other"))
    (other / "modeling_charm.py").write_text("# of another version\n")
    with pytest.raises(ValueError, match=r"modeling_charm\.py differs"):
        assemble_repository({"ava": checkpoint, "para": other}, tmp_path / "whole")


def test_wrong_wishes_for_a_layout_are_refused(checkpoint: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="default 'baid' is none of the checkpoints: ava"):
        assemble_repository({"ava": checkpoint}, tmp_path / "whole", default="baid")
    with pytest.raises(ValueError, match="no checkpoint to lay out"):
        assemble_repository({}, tmp_path / "whole")
    with pytest.raises(FileExistsError, match="not empty"):
        assemble_repository({"ava": checkpoint}, checkpoint)


def test_training_state_pickles_and_hidden_files_are_not_published(checkpoint: str, tmp_path: Path) -> None:
    whole = assemble_repository({"ava": checkpoint}, tmp_path / "whole")
    unwanted = [
        "optimizer.pt",
        "runs/events",
        "checkpoint-5/config.json",
        ".cache/x.json",
        "ava/state/model.safetensors",
    ]
    for name in unwanted:
        (whole / name).parent.mkdir(parents=True, exist_ok=True)
        (whole / name).touch()
    push, leave = list_published_files(whole)
    assert sorted(unwanted) == leave
    assert {"config.json", "ava/config.json", "ava/model.safetensors", "modeling_charm.py"} <= set(push)
    assert find_checkpoints(whole) == [".", "ava"]


def test_a_revision_is_split_off_a_name_but_not_off_a_path(tmp_path: Path) -> None:
    (tmp_path / "a@b").mkdir()
    assert split_revision("alice/charm@v1") == ("alice/charm", "v1")
    assert split_revision("alice/charm") == ("alice/charm", None)
    assert split_revision(str(tmp_path / "a@b")) == (str(tmp_path / "a@b"), None)


def test_the_embedded_checkpoint_is_a_folder_or_a_helpful_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("charm_hf.hub.layout.ASSETS", tmp_path)
    with pytest.raises(FileNotFoundError, match="installed without its data files"):
        embedded_model_path()
    (tmp_path / "charm-tiny").mkdir()
    (tmp_path / "charm-tiny" / "config.json").touch()
    assert charm_hf.embedded_model_path() == str(tmp_path / "charm-tiny")


def test_the_card_of_weights_that_grew_from_dinov3_names_its_licence() -> None:
    for name, licence in (("facebook/dinov3-vits16-pretrain-lvd1689m", "other"), ("", "apache-2.0")):
        backbone = {"model_type": "dinov3_vit", "_name_or_path": name}
        for config in ({"backbone_config": backbone}, {"vision_config": {"backbone_config": backbone}}):
            metadata = card_metadata(config)
            assert metadata["license"] == licence
            assert metadata.get("license_name") == ("dinov3-license" if name else None)
    assert card_metadata({"backbone_config": backbone}, "mit")["license"] == "mit"
