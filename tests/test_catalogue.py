"""Which checkpoints there are, asking no network."""

import shutil

import pytest
import torch
from huggingface_hub import constants
from transformers import Dinov2Config, Dinov2Model

from charm_hf import CharmConfig, embedded_model_path
from charm_hf.catalogue import list_checkpoints
from charm_hf.released import PARAMETERS, RELEASED


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of the Hub's client."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(tmp_path / "assets"))
    return tmp_path


def test_the_embedded_and_the_published_ones_are_always_there(cache):
    embedded, *published = list_checkpoints()

    assert (embedded.place, embedded.model) == ("embedded", "")
    assert embedded.dataset == CharmConfig.from_pretrained(embedded_model_path()).dataset_name
    assert {known.subfolder for known in published} == set(RELEASED)
    ava = next(known for known in published if known.dataset == "ava")
    assert (ava.plcc, ava.srcc, ava.acc, ava.encoder) == (0.779, 0.777, 0.826, "facebook/dinov2-large")


def test_what_was_pulled_or_converted_is_listed_by_what_the_model_option_takes(cache, checkpoint):
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = cache / "hub" / "models--alice--charm"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    shutil.copytree(checkpoint, repository / "snapshots" / commit)
    shutil.copytree(checkpoint, repository / "snapshots" / commit / "aadb")
    shutil.copytree(checkpoint, converted := cache / "assets" / "charm_hf" / "bob--charm" / "abc-0.1.0" / "ava")
    (other := cache / "hub" / "models--bob--bert" / "snapshots" / commit).mkdir(parents=True)
    (other / "config.json").write_text('{"model_type": "bert"}')

    found = [known for known in list_checkpoints() if known.place == "cached"]

    names = [(str(converted), ""), ("alice/charm", "aadb"), ("alice/charm", "")]
    assert sorted((known.model, known.subfolder) for known in found) == sorted(names)
    assert all(known.dataset == "ava" and known.bytes > 1000 for known in found)


@pytest.mark.parametrize(("name", "size"), [("dinov2-small", (384, 12, 6)), ("dinov2-large", (1024, 24, 16))])
def test_the_encoders_are_as_large_as_said(name, size):
    width, layers, heads = size
    config = Dinov2Config(
        hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads, image_size=518, patch_size=14
    )
    with torch.device("meta"):
        assert Dinov2Model(config).num_parameters() == PARAMETERS[f"facebook/{name}"]
