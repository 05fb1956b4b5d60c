"""A batch of unlike photos as one sequence without padding: the same numbers as with it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support import BACKBONES, photo_path, tiny_model, tiny_processor
from transformers import AttentionInterface

from charm_hf import CharmForAestheticScoring, CharmModel
from charm_hf.models.backbones_charm import get_backbone
from charm_hf.models.packed_attention_charm import (
    PACKED_SDPA,
    PackedBounds,
    attend_nested,
    pack_images,
    packed_sdpa_forward,
)


CALLS: list[dict[str, Any]] = []


def attend_one_by_one(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """What a flash attention that is told of bounds computes."""
    CALLS.append({"mask": attention_mask, "length": query.shape[2], **kwargs})
    assert torch.equal(kwargs["cu_seq_lens_q"], kwargs["cu_seq_lens_k"])
    bounds = kwargs["cu_seq_lens_q"].tolist()
    assert kwargs["max_length_q"] == kwargs["max_length_k"] == max(b - a for a, b in pairwise(bounds))
    parts = [
        F.scaled_dot_product_attention(*(item[:, :, a:b] for item in (query, key, value)), scale=kwargs["scaling"])
        for a, b in pairwise(bounds)
    ]
    return torch.cat(parts, dim=2).transpose(1, 2), None


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of an implementation that stands for a flash attention, which needs a GPU."""
    name = "stand_in"
    monkeypatch.setattr("charm_hf.models.modeling_charm.can_pack", lambda implementation: implementation == name)
    AttentionInterface.register(name, attend_one_by_one)
    CALLS.clear()
    yield name
    AttentionInterface._global_mapping.pop(name)


PHOTOS = ("coffee", "chelsea", "astronaut", "coffee")


def padded_and_packed(backbone: str, implementation: str) -> tuple[CharmForAestheticScoring, Any, Any, Any]:
    model = tiny_model(backbone)
    inputs = tiny_processor(model)([photo_path(name) for name in PHOTOS])
    assert not inputs["pixel_attention_mask"].all()
    # With recorded layers a batch stays padded.
    padded = model(**inputs, output_hidden_states=True)
    model.set_attn_implementation(implementation)
    return model, inputs, padded, model(**inputs)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_packed_batch_equals_a_padded_one(backbone: str) -> None:
    _, inputs, padded, packed = padded_and_packed(backbone, PACKED_SDPA)
    assert torch.allclose(packed.scores, padded.scores, atol=1e-5)
    tokens = inputs["pixel_attention_mask"].bool()
    states = [out.last_hidden_state[:, -tokens.shape[1] :] for out in (packed, padded)]
    assert torch.allclose(states[0][tokens], states[1][tokens], atol=1e-5)
    assert not states[0][~tokens].any()


@pytest.mark.parametrize("backbone", [name for name in BACKBONES if get_backbone(name).passes_bounds])
def test_flash_attention_is_told_where_photos_begin_and_sees_no_padding(backbone: str, stand_in: str) -> None:
    model, inputs, padded, packed = padded_and_packed(backbone, stand_in)
    assert torch.allclose(packed.scores, padded.scores, atol=1e-5)
    assert len(CALLS) == model.config.backbone_config.num_hidden_layers
    num_prefix = packed.last_hidden_state.shape[1] - inputs["pixel_values"].shape[1]
    lengths = inputs["pixel_attention_mask"].sum(1) + num_prefix
    for call in CALLS:
        assert call["mask"] is None
        assert call["length"] == lengths.sum()
        assert call["cu_seq_lens_q"].dtype == torch.int32
        assert call["cu_seq_lens_q"].tolist() == [0, *lengths.cumsum(0).tolist()]


@pytest.mark.parametrize("backbone", ["dinov2", "siglip2_vision_model", "dinov3_vit"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_of_a_packed_batch_equal_those_of_a_padded_one(checkpointing: bool, backbone: str) -> None:
    model = tiny_model(backbone).train()
    inputs = tiny_processor(model)([photo_path(name) for name in PHOTOS])
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    gradients = []
    for implementation in ("sdpa", PACKED_SDPA):
        model.set_attn_implementation(implementation)
        if checkpointing:
            model.gradient_checkpointing_enable()
        model.zero_grad()
        model(**inputs, labels=torch.tensor([3.0, 7.0, 5.0, 2.0])).loss.backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradients[1][name], gradient, atol=1e-5), name


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_batch_is_packed_by_default_on_a_cpu_and_padded_under_other_attentions(
    backbone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model(backbone)
    inputs = tiny_processor(model)([photo_path(name) for name in PHOTOS])
    expected = model(**inputs).scores
    monkeypatch.setattr(CharmModel, "_encode_padded", None)
    assert torch.equal(model(**inputs).scores, expected)
    monkeypatch.undo()
    monkeypatch.setattr(CharmModel, "_encode_packed", None)
    for implementation in ("sdpa", "eager"):
        model.set_attn_implementation(implementation)
        assert torch.allclose(model(**inputs).scores, expected, atol=1e-5)


@pytest.mark.parametrize("tokens", [1, 150, 10_000])
def test_a_cpu_shares_a_batch_out_among_sequences_that_fit_its_cache(
    tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model("dinov2")
    inputs = tiny_processor(model)([photo_path(name) for name in PHOTOS])
    expected = model(**inputs).scores
    monkeypatch.setattr("charm_hf.models.packed_attention_charm._CPU_TOKENS", tokens)
    packs = pack_images(inputs["pixel_attention_mask"].sum(1))
    assert len(packs) == {1: len(PHOTOS), 10_000: 1}.get(tokens, len(packs))
    assert [image for pack in packs for image in range(len(PHOTOS))[pack]] == list(range(len(PHOTOS)))
    assert torch.allclose(model(**inputs).scores, expected, atol=1e-5)


def test_nested_tensors_which_other_devices_use_give_the_same() -> None:
    bounds = torch.tensor([0, 3, 10, 11], dtype=torch.int32)
    query, key, value = torch.randn(3, 1, 2, 11, 4, generator=torch.Generator().manual_seed(0))
    module = torch.nn.Identity()
    one_by_one, _ = packed_sdpa_forward(module, query, key, value, PackedBounds(bounds, 7), scaling=0.5)
    nested = attend_nested(query, key, value, bounds, 7, dropout=0.0, scaling=0.5)
    assert torch.allclose(nested, one_by_one, atol=1e-6)


def test_stochastic_depth_keeps_a_batch_padded_since_it_drops_whole_photos(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("dinov2")
    inputs = tiny_processor(model)([photo_path(name) for name in PHOTOS])
    packed = []
    encode = model.charm._encode_packed
    monkeypatch.setattr(model.charm, "_encode_packed", lambda *tensors: packed.append(1) or encode(*tensors))
    model.charm.backbone.config.drop_path_rate = 0.5
    model.train()(**inputs)
    assert packed == []
    model.eval()(**inputs)
    assert packed == [1]
