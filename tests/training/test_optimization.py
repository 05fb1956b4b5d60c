import pytest
import torch
from support import tiny_model
from torch import nn

from charm_hf.models.backbones_charm import BACKBONES
from charm_hf.training.optimization import build_parameter_groups


class SmallCharm(nn.Module):
    """The modules of `CharmForAestheticScoring`, under the same names, around a real backbone."""

    def __init__(self):
        super().__init__()
        from transformers import Dinov2Config, Dinov2Model

        self.charm = nn.Module()
        self.charm.embeddings = nn.Module()
        self.charm.embeddings.scale_embeddings = nn.Parameter(torch.zeros(1, 2, 8))
        self.charm.backbone = Dinov2Model(
            Dinov2Config(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14)
        )
        self.classifier = nn.Linear(16, 7)


@pytest.fixture(scope="module")
def model():
    return SmallCharm()


def names_of(groups, model):
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {group["name"]: {names[id(parameter)] for parameter in group["params"]} for group in groups}


def test_every_parameter_is_in_exactly_one_group(model):
    groups = build_parameter_groups(model, 1e-3, 0.05)
    ids = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(ids) == sorted(id(parameter) for parameter in model.parameters())


def test_each_part_has_its_own_learning_rate(model):
    groups = build_parameter_groups(model, 1e-5, 0.02, embeddings=1e-6, head=1e-3)
    rates = {group["name"].split("/")[0]: group["lr"] for group in groups}
    assert rates == {"embeddings": 1e-6, "encoder": 1e-5, "head": 1e-3}


def test_only_matrices_are_decayed_and_no_position_or_scale_table(model):
    groups = build_parameter_groups(model, 1e-3, 0.05)
    decayed = {group["name"] for group in groups if group["weight_decay"] > 0}
    assert decayed == {"embeddings/decay", "encoder/decay", "head/decay"}
    members = names_of(groups, model)
    assert members["embeddings/decay"] == {"charm.backbone.embeddings.patch_embeddings.projection.weight"}
    assert members["head/no_decay"] == {"classifier.bias"}
    assert "charm.embeddings.scale_embeddings" in members["embeddings/no_decay"]
    assert "charm.backbone.layernorm.weight" in members["encoder/no_decay"]


def test_frozen_parameters_are_left_out():
    model = SmallCharm()
    model.charm.requires_grad_(False)
    groups = build_parameter_groups(model, 1e-3, 0.05)
    assert [group["name"] for group in groups] == ["head/decay", "head/no_decay"]


def test_a_model_with_nothing_to_train_is_an_error():
    with pytest.raises(ValueError, match="frozen"):
        build_parameter_groups(SmallCharm().requires_grad_(False), 1e-3, 0.05)


def test_the_optimizer_takes_the_groups(model):
    optimizer = torch.optim.AdamW(build_parameter_groups(model, 1e-3, 0.05, head=1e-2))
    assert {group["lr"] for group in optimizer.param_groups} == {1e-3, 1e-2}


@pytest.mark.parametrize("backbone", BACKBONES)
def test_each_layer_below_learns_more_slowly_whatever_the_type_calls_its_parts(backbone):
    model = tiny_model(backbone)
    groups = build_parameter_groups(model, 1.0, 0.05, head=7.0, layer_decay=0.5)
    rates = {group["name"].split("/")[0]: group["lr"] for group in groups}
    assert rates == {"head": 7.0, "encoder": 1.0, "encoder.1": 0.5, "encoder.0": 0.25, "embeddings": 0.125}
    members = names_of(groups, model)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert set().union(*members.values()) == trained
    assert all("patch_embed" in name for name in members["embeddings/decay"])
    attention = {name.split(".")[-2] for name in members["encoder.1/decay"]}
    assert {"q_proj", "v_proj"} <= attention  # what LoRA's recipe in docs/training.md names


def test_a_decay_of_rates_above_one_is_an_error(model):
    with pytest.raises(ValueError, match="layer_decay"):
        build_parameter_groups(model, 1e-3, 0.05, layer_decay=1.5)
