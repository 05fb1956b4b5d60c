"""The model scores one image the same way everywhere, equals its backbone, and behaves as transformers models do."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from support import BACKBONES, FIXTURES, photo_path, tiny_backbone_config, tiny_model, tiny_processor
from torch import nn
from transformers import (
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForImageClassification,
    BertConfig,
    ViTConfig,
)

from benchmarks.encoder_rows import PUBLISHED, count_gmacs, run_plain
from charm_hf import CharmConfig, CharmForAestheticScoring, CharmImageProcessor, CharmModel
from charm_hf.models.backbones_charm import BACKBONES as TABLE
from charm_hf.models.backbones_charm import as_backbone_config, get_backbone
from charm_hf.models.positions_charm import INTERPOLATIONS, axis_weights, grid_sizes, raster_order, sample_table
from charm_hf.models.scores_charm import distribution_moments, emd_loss


TWO_TOWERS = {"clip": "clip_vision_model", "siglip": "siglip_vision_model", "siglip2": "siglip2_vision_model"}


def some_photos() -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    sizes = [(300, 420), (40, 60), (500, 180), (33, 17)]
    return [generator.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


@torch.no_grad()
def scores_of(model: CharmForAestheticScoring, inputs: dict) -> torch.Tensor:
    return model(**inputs).normalized_scores


# --- One image, one score --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("position_mode", ["exact", "reference"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_score_does_not_depend_on_the_batch_or_its_padding(
    backbone: str, position_mode: str, attention: str
) -> None:
    model = tiny_model(backbone, position_mode=position_mode, num_scales=3)
    model.set_attn_implementation(attention)
    processor = tiny_processor(model, max_num_patches=250)
    photos = some_photos()
    alone = torch.cat([scores_of(model, processor(photo)) for photo in photos])
    assert alone.std() > 1e-3  # a model that tells photos apart
    assert torch.allclose(scores_of(model, processor(photos)), alone, atol=1e-5, rtol=0)
    assert torch.allclose(scores_of(model, processor(photos[::-1])).flip(0), alone, atol=1e-5, rtol=0)
    long = {"max_num_patches": 700, "overflow": "keep"}
    padded = processor(photos, padding="max_length", **long)
    unpadded = torch.cat([scores_of(model, processor(photo, **long)) for photo in photos])
    assert torch.allclose(scores_of(model, padded), unpadded, atol=1e-5, rtol=0)


def test_what_stands_in_the_padding_does_not_matter() -> None:
    model = tiny_model()
    inputs = tiny_processor(model)(some_photos())
    expected = scores_of(model, inputs)
    padding = inputs["pixel_attention_mask"] == 0
    inputs["pixel_values"][padding] = 1e4
    assert torch.allclose(scores_of(model, inputs), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("path", ["plain", "with hidden states", "traced"])
def test_rows_of_padding_are_zero_on_every_path(path: str, attention: str) -> None:
    model = tiny_model()
    model.set_attn_implementation(attention)
    inputs = tiny_processor(model)(some_photos())
    called = torch.compile(model, backend="eager") if path == "traced" else model
    with torch.no_grad():
        rows = called(**inputs, output_hidden_states=path == "with hidden states").last_hidden_state[:, 1:]
        assert torch.allclose(rows, model(**inputs).last_hidden_state[:, 1:], atol=1e-5)
    assert not rows[inputs["pixel_attention_mask"] == 0].any()


# --- The backbone ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("grid", [(5, 5), (3, 7), (9, 6)])
@pytest.mark.parametrize("backbone", TABLE)
def test_native_tokens_give_the_plain_backbones_hidden_states(
    backbone: str, grid: tuple[int, int], attention: str
) -> None:
    pooling = "attention" if get_backbone(backbone).pooling_head else None
    model = tiny_model(backbone, pooling=pooling)
    with torch.no_grad():
        for parameter in model.charm.backbone.parameters():
            parameter.div_(4)  # values near 1, so that 1e-5 is a matter of arithmetic and not of magnitude
        model.charm.embeddings.scale_embeddings.zero_()
    model.set_attn_implementation(attention)
    processor = tiny_processor(model)
    size = model.config.patch_size
    pixels = torch.rand(3, grid[0] * size, grid[1] * size, generator=torch.Generator().manual_seed(0))
    ours = model(**processor(pixels), output_hidden_states=True)
    mean, std = (torch.tensor(values)[:, None, None] for values in (processor.image_mean, processor.image_std))
    plain = AutoModel.from_config(model.config.backbone_config, attn_implementation=attention).eval()
    lacking = plain.load_state_dict(model.charm.backbone.state_dict(), strict=False)
    assert not lacking.unexpected_keys
    assert all(name.startswith("pooler") for name in lacking.missing_keys)  # ViT's is not ours
    theirs = run_plain(plain, (pixels - mean) / std)
    assert torch.allclose(ours.last_hidden_state, theirs.last_hidden_state, atol=1e-5)
    assert len(ours.hidden_states) == len(theirs.hidden_states) == 3
    for one, other in zip(ours.hidden_states, theirs.hidden_states, strict=True):
        assert torch.allclose(one, other, atol=1e-5)
    if pooling or backbone == "clip_vision_model":
        assert torch.allclose(ours.pooler_output[:, :32], theirs.pooler_output, atol=1e-5)


def test_photos_of_other_shapes_in_a_padded_batch_have_the_rotations_of_the_plain_encoder() -> None:
    model = tiny_model("dinov3_vit")
    model.set_attn_implementation("sdpa")
    with torch.no_grad():
        for parameter in model.charm.backbone.parameters():
            parameter.div_(4)
        model.charm.embeddings.scale_embeddings.zero_()
    generator = torch.Generator().manual_seed(0)
    photos = [torch.rand(3, 16 * rows, 16 * columns, generator=generator) for rows, columns in [(14, 14), (10, 20)]]
    plain = AutoModel.from_config(model.config.backbone_config).eval()
    plain.load_state_dict(model.charm.backbone.state_dict())
    mixed = model(**tiny_processor(model, do_normalize=False, max_num_patches=300)(photos)).last_hidden_state
    for states, photo in zip(mixed, photos, strict=True):
        expected = plain(photo[None]).last_hidden_state[0]
        assert torch.allclose(states[: len(expected)], expected, atol=1e-5)


def test_coordinates_are_jittered_in_training_as_the_plain_encoder_does() -> None:
    strong = {"pos_embed_shift": 0.3, "pos_embed_jitter": 1.5, "pos_embed_rescale": 2.0}
    config = tiny_backbone_config("dinov3_vit", **strong)
    model = CharmForAestheticScoring.from_backbone(config, num_scales=1, classifier_dropout=0.0)
    plain = AutoModel.from_config(config)
    plain.load_state_dict(model.charm.backbone.state_dict())
    pixels = torch.rand(3, 64, 96, generator=torch.Generator().manual_seed(0))
    inputs = tiny_processor(model, do_normalize=False)(pixels)
    states = []
    for training in (False, True):
        torch.manual_seed(7)
        states.append(model.train(training)(**inputs).last_hidden_state)
        torch.manual_seed(7)
        assert torch.allclose(states[-1], plain.train(training)(pixels[None]).last_hidden_state, atol=1e-5)
    assert not torch.allclose(*states, atol=1e-4)


def test_other_backbones_are_refused_with_a_list_of_those_supported() -> None:
    with pytest.raises(ValueError, match=r"dinov2, dinov2_with_registers, .*siglip2.*CONTRIBUTING"):
        CharmForAestheticScoring.from_backbone(BertConfig())
    with pytest.raises(ValueError, match="'resnet'"):
        CharmConfig(backbone_config={"model_type": "resnet"})


def test_a_type_that_this_transformers_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TABLE, "dinov9", TABLE["dinov2"])
    with pytest.raises(ValueError, match=rf"{transformers.__version__} does not know 'dinov9' yet"):
        CharmConfig(backbone_config={"model_type": "dinov9"})


def test_each_type_has_published_sizes_whose_cost_is_counted() -> None:
    assert PUBLISHED.keys() == TABLE.keys()
    gmacs, millions = count_gmacs("dinov2", "S/14")
    assert gmacs == pytest.approx(13.46, rel=0.01)  # of the paper's poster
    assert millions == pytest.approx(21.6, abs=0.1)


@pytest.mark.parametrize(("whole", "tower"), TWO_TOWERS.items())
def test_of_two_towers_the_vision_tower_is_taken_with_its_weights_and_pixel_statistics(
    whole: str, tower: str, tmp_path: Path
) -> None:
    text = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = tiny_backbone_config(tower).to_dict()
    towers = AutoModel.from_config(AutoConfig.for_model(whole, text_config=text, vision_config=vision))
    towers.save_pretrained(tmp_path)
    stated = {"image_mean": [0.1, 0.2, 0.3], "rescale_factor": 1 / 127.5, "patch_size": 99}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(stated))
    for given in (str(tmp_path), towers, towers.vision_model):
        model = CharmForAestheticScoring.from_backbone(given, dataset="ava", pooling=None)
        weights, native = model.charm.backbone.state_dict(), towers.vision_model.state_dict()
        assert all(torch.equal(value, native[name]) for name, value in weights.items())
        assert model.config.backbone_config.model_type == tower
    model = CharmForAestheticScoring.from_backbone(str(tmp_path))
    assert as_backbone_config(model.config.backbone_config)._name_or_path == str(tmp_path)
    model.save_pretrained(tmp_path / "charm")
    for config in (model.config, CharmConfig.from_pretrained(tmp_path / "charm")):
        processor = CharmImageProcessor.for_model(config)
        assert (processor.image_mean, processor.rescale_factor) == ([0.1, 0.2, 0.3], 1 / 127.5)
        assert processor.image_std == list(get_backbone(tower).image_std)
        assert processor.patch_size == 16


def test_a_licence_that_is_none_of_open_source_is_told_before_weights_of_a_repository_are_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--someone--dinov3"
    snapshot = repository / "snapshots" / commit
    tiny_backbone_config("dinov3_vit").save_pretrained(snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    logging.getLogger("transformers").propagate = logging.getLogger("charm_hf").propagate = True
    with caplog.at_level(logging.WARNING), pytest.raises(OSError, match="safetensors"):  # there are none
        CharmForAestheticScoring.from_backbone(
            "someone/dinov3", backbone_kwargs={"cache_dir": tmp_path, "local_files_only": True}
        )
    assert "someone/dinov3 come under 'dinov3-license': read it" in caplog.text


def test_weights_that_an_encoder_lacks_are_named(tmp_path: Path) -> None:
    AutoModel.from_config(tiny_backbone_config("dinov3_vit", num_hidden_layers=1)).save_pretrained(tmp_path)
    tiny_backbone_config("dinov3_vit").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"missing: model\.layer\.1"):
        CharmForAestheticScoring.from_backbone(str(tmp_path))


@pytest.mark.parametrize("pooling", ["cls", "mean", "attention"])
def test_what_the_head_sees_can_be_chosen(pooling: str, tmp_path: Path) -> None:
    backbone = "dinov3_vit" if pooling == "cls" else "siglip2_vision_model"
    model = tiny_model(backbone, pooling=pooling)
    inputs = tiny_processor(model)(some_photos())
    pooled = model(**inputs).pooler_output
    assert pooled.shape == (4, model.config.pooled_size) == (4, 32 if pooling == "mean" else 64)
    model.save_pretrained(tmp_path)
    loaded = CharmForAestheticScoring.from_pretrained(tmp_path)
    assert loaded.config.pooling == pooling
    assert torch.equal(scores_of(loaded, inputs), scores_of(model, inputs))
    alone = torch.cat([model(**tiny_processor(model)(photo)).pooler_output for photo in some_photos()])
    assert torch.allclose(pooled, alone, atol=1e-4)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_pretrained_weights_are_taken_from_a_folder_a_model_or_a_classifier(backbone: str, tmp_path: Path) -> None:
    torch.manual_seed(3)
    source = AutoModel.from_config(tiny_backbone_config(backbone))
    source.save_pretrained(tmp_path)
    for given in (str(tmp_path), tmp_path, source):
        model = CharmForAestheticScoring.from_backbone(given, dataset="aadb")
        weights = model.charm.backbone.state_dict()
        assert weights
        assert all(torch.equal(value, source.state_dict()[name]) for name, value in weights.items())
        assert model.config.head == "regression"
    if type(source.config) not in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING:
        return
    classifier = AutoModelForImageClassification.from_config(tiny_backbone_config(backbone))
    model = CharmForAestheticScoring.from_backbone(classifier)
    name = next(name for name in model.charm.backbone.state_dict() if "position_embedding" in name)
    assert torch.equal(model.charm.backbone.state_dict()[name], classifier.base_model.state_dict()[name])


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_trainable_parameter_of_a_loaded_model_gets_a_gradient(backbone: str, tmp_path: Path) -> None:
    tiny_model(backbone).save_pretrained(tmp_path)
    model = CharmForAestheticScoring.from_pretrained(tmp_path).train()
    model(**tiny_processor(model)(some_photos()), labels=torch.tensor([2.0, 4.0, 6.0, 8.0])).loss.backward()
    without = [name for name, value in model.named_parameters() if value.requires_grad and value.grad is None]
    assert without == []
    for name, value in model.charm.backbone.embeddings.named_parameters():
        assert not value.requires_grad or value.grad.abs().sum() > 0, name
    assert model.charm.embeddings.scale_embeddings.grad.abs().sum() > 0


def test_two_models_of_one_configuration_do_not_share_it() -> None:
    config = tiny_backbone_config("vit")
    native = AutoModel.from_config(config)
    for source in (config, native):
        one, other = (CharmForAestheticScoring.from_backbone(source, dataset="ava") for _ in range(2))
        one.set_attn_implementation("eager")
        assert other.charm.backbone.config._attn_implementation != "eager"
        assert native.config._attn_implementation != "eager"


def test_an_adapter_on_the_patch_projection_is_trained_and_another_projection_is_used() -> None:
    peft = pytest.importorskip("peft")
    model = tiny_model().train()
    inputs = tiny_processor(model)(some_photos())
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=["projection"], r=2))
    adapted(**inputs, labels=torch.tensor([2.0, 4.0, 6.0, 8.0])).loss.backward()
    gradients = {name: value.grad for name, value in adapted.named_parameters() if "lora_" in name}
    assert len(gradients) == 2
    assert next(grad for name, grad in gradients.items() if "lora_B" in name).any()

    model = tiny_model()
    assert model.get_input_embeddings().weight.shape == (32, 3, 16, 16)
    model.set_input_embeddings(nn.Conv2d(3, 32, 16, 16).requires_grad_(False))
    nn.init.zeros_(model.get_input_embeddings().weight)
    brighter = {**inputs, "pixel_values": inputs["pixel_values"] + 1}
    assert torch.equal(scores_of(model, inputs), scores_of(model, brighter))


@pytest.mark.parametrize("backbone", TABLE)
def test_adapters_of_every_type_have_the_documented_targets_and_survive_reentrant_checkpointing(backbone: str) -> None:
    peft = pytest.importorskip("peft")
    model = tiny_model(backbone).train()
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj", "v_proj"], r=2))
    adapted.enable_input_require_grads()
    adapted.gradient_checkpointing_enable({"use_reentrant": True})
    adapted(**tiny_processor(model)(some_photos()[:2]), labels=torch.tensor([2.0, 8.0])).loss.backward()
    adapters = [value for name, value in adapted.named_parameters() if "lora_B" in name]
    assert len(adapters) == 4
    assert all(value.grad is not None and value.grad.any() for value in adapters)


# --- Positions -------------------------------------------------------------------------------------------------------


CASES = json.loads((FIXTURES / "tokens" / "cases.json").read_text())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_reference_positions_are_the_released_ones_and_exact_ones_are_not(case: dict) -> None:
    expected = load_file(FIXTURES / "tokens" / f"{case['id']}.safetensors")["position_embeddings"]
    table = load_file(FIXTURES / "tokens" / "position_embeddings.safetensors")["position_embeddings"]
    inputs = CharmImageProcessor.for_dataset(
        case["training_dataset"], patch_selection=case["patch_selection"], overflow="keep"
    )(photo_path(case["image"]))
    config = tiny_backbone_config("dinov2", hidden_size=16, image_size=518)
    model = CharmForAestheticScoring.from_backbone(config, position_mode="reference").eval()
    native = model.charm.backbone.embeddings
    with torch.no_grad():
        native.position_embeddings.copy_(table)
        for parameter in (native.patch_embeddings.projection.weight, native.patch_embeddings.projection.bias):
            parameter.zero_()
        model.charm.embeddings.scale_embeddings.zero_()
        native.cls_token.zero_()
        embedded = model(**inputs, output_hidden_states=True).hidden_states[0][0]
        assert torch.allclose(embedded, expected, atol=3e-5)
        model.config.position_mode = "exact"
        exact = model(**inputs, output_hidden_states=True).hidden_states[0][0]
    wrong = ((exact - embedded).abs().max(-1).values > 0.5)[1:][inputs["scale_ids"][0] == 1]
    if inputs["scale_ids"].any():
        assert wrong.float().mean() > 0.5


@pytest.mark.parametrize("grid", [(1, 1), (5, 5), (3, 7), (9, 6), (40, 2)])
@pytest.mark.parametrize("backbone", [name for name, row in TABLE.items() if row.position_table is not None])
def test_each_token_gets_the_row_that_the_backbones_own_interpolation_gives_its_place(
    backbone: str, grid: tuple[int, int]
) -> None:
    config = tiny_backbone_config(backbone)
    native = AutoModel.from_config(config).embeddings
    table = getattr(native, get_backbone(backbone).position_table)
    table = table.weight.data if isinstance(table, nn.Module) else table.data[0]
    nn.init.normal_(table, generator=torch.Generator().manual_seed(0))
    rows, columns = grid
    in_front = len(table) - 25
    if backbone == "siglip2_vision_model":
        resize = native.resize_positional_embeddings
        expected = resize(table.view(5, 5, -1), torch.tensor([grid]), max_length=rows * columns)
    else:
        states = torch.empty(1, in_front + rows * columns, 32)
        expected = native.interpolate_pos_encoding(states, rows * config.patch_size, columns * config.patch_size)
    places = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).view(1, -1, 2)
    sizes = grid_sizes(torch.zeros(1, rows * columns, dtype=torch.int64), torch.tensor([[grid]]))
    ours = sample_table(table[in_front:], places, sizes, get_backbone(backbone).interpolation)
    assert torch.allclose(ours, expected[:, -rows * columns :], atol=3e-5)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("size", [3, 7, 37, 50])
def test_the_weights_of_an_axis_are_torchs(size: int, interpolation: str) -> None:
    table = torch.randn(37, generator=torch.Generator().manual_seed(0))
    *antialias, mode = interpolation.split()
    expected = nn.functional.interpolate(
        table[None, None, :, None].expand(-1, -1, -1, size),
        size=(size, size),
        mode=mode,
        align_corners=False,
        antialias=bool(antialias),
    )[0, 0, :, 0]
    weights = axis_weights(torch.arange(size), torch.full((size,), size), 37, interpolation)
    assert torch.allclose(weights @ table, expected, atol=1e-5)


def test_the_released_mismatch_moves_81_percent_of_the_fine_tokens_of_a_600_by_400_photo() -> None:
    inputs = CharmImageProcessor.for_dataset("aadb", overflow="keep")(photo_path("coffee"))
    scales, positions = inputs["scale_ids"], inputs["patch_positions"]
    moved = (raster_order(scales, positions, inputs["pixel_attention_mask"]) != positions).any(-1)
    assert moved[scales == 1].float().mean() == pytest.approx(0.81, abs=0.005)
    assert not moved[scales == 0].any()


def test_raster_order_permutes_inside_each_scale_only() -> None:
    scales = torch.tensor([[0, 0, 1, 1, 1, 1, 0]])
    mask = torch.tensor([[1, 1, 1, 1, 1, 1, 0]])
    positions = torch.tensor([[[0, 0], [1, 0], [0, 2], [1, 2], [0, 3], [1, 3], [0, 0]]])
    ordered = raster_order(scales, positions, mask)
    assert ordered[0, :2].tolist() == [[0, 0], [1, 0]]
    assert ordered[0, 2:6].tolist() == [[0, 2], [0, 3], [1, 2], [1, 3]]


# --- Heads and losses ------------------------------------------------------------------------------------------------


def test_a_distribution_head_gives_scores_in_the_data_sets_units() -> None:
    model = tiny_model(dataset="para")
    out = model(**tiny_processor(model)(some_photos()))
    values = torch.tensor(model.config.score_values)
    assert out.logits.shape == out.distribution.shape == (4, 9)
    assert torch.allclose(out.distribution.sum(1), torch.ones(4))
    assert torch.allclose(out.scores, (out.distribution * values).sum(1))
    assert torch.allclose(out.normalized_scores, (out.scores - 1) / 4)
    variance = (out.distribution * (values - out.scores[:, None]) ** 2).sum(1)
    assert torch.allclose(out.std, variance.sqrt(), atol=1e-5)
    assert out.attributes is None


def test_a_regression_head_gives_the_sigmoid_in_the_data_sets_units() -> None:
    model = tiny_model(dataset="spaq")
    out = model(**tiny_processor(model)(some_photos()))
    assert out.logits.shape == (4, 1)
    assert torch.allclose(out.normalized_scores, out.logits[:, 0].sigmoid())
    assert torch.allclose(out.scores, 100 * out.normalized_scores)
    assert out.distribution is None
    assert out.std is None


def test_aadbs_head_has_the_score_third_from_the_end_and_eleven_attributes() -> None:
    model = tiny_model(dataset="aadb", num_attributes=11)
    inputs = tiny_processor(model)(some_photos())
    out = model(**inputs)
    assert out.logits.shape == (4, 12)
    assert torch.allclose(out.normalized_scores, out.logits[:, -3].sigmoid())
    others = [column for column in range(12) if column != 9]
    assert torch.allclose(out.attributes, out.logits[:, others].tanh())
    labels, attributes = torch.rand(4), torch.rand(4, 11) * 2 - 1
    loss = model(**inputs, labels=labels, attribute_targets=attributes).loss
    expected = (out.normalized_scores - labels).square().mean() + (out.attributes - attributes).square().mean()
    assert torch.allclose(loss, expected)
    with pytest.raises(ValueError, match="attribute_targets"):
        model(**inputs, labels=labels, attribute_targets=attributes[:, :3])


def test_losses_are_those_of_the_paper() -> None:
    model = tiny_model(dataset="ava")
    inputs = tiny_processor(model)(some_photos())
    out = model(**inputs)
    labels = torch.tensor([1.0, 4.0, 5.5, 10.0])
    expected = (out.normalized_scores - (labels - 1) / 9).square().mean()
    assert torch.allclose(model(**inputs, labels=labels).loss, expected)
    assert torch.allclose(model(**inputs, labels=labels[:, None]).loss, expected)
    votes = torch.rand(4, 10) * 30
    target = votes / votes.sum(1, keepdim=True)
    emd = torch.sqrt((out.distribution.cumsum(1) - target.cumsum(1)).square().mean(1)).mean()
    assert torch.allclose(model(**inputs, labels=votes).loss, emd)
    with pytest.raises(ValueError, match=r"\(4,\) scores or \(4, 10\) distributions"):
        model(**inputs, labels=torch.rand(4, 7))


def test_emd_of_a_perfect_prediction_has_a_finite_gradient() -> None:
    logits = torch.zeros(2, 5, requires_grad=True)
    emd_loss(logits.softmax(-1), torch.full((2, 5), 0.2)).backward()
    assert logits.grad.isfinite().all()
    point = torch.eye(5)[:2]
    assert emd_loss(point[:1], point[1:], r=1) == pytest.approx(1 / 5)


def test_moments_of_a_sure_prediction() -> None:
    mean, std = distribution_moments(torch.eye(3), torch.tensor([1.0, 2.0, 4.0]))
    assert mean.tolist() == [1.0, 2.0, 4.0]
    assert std.tolist() == [0.0, 0.0, 0.0]


# --- Inputs ----------------------------------------------------------------------------------------------------------


def test_wrong_inputs_are_refused_with_what_was_expected() -> None:
    model = tiny_model()
    with pytest.raises(ValueError, match="everything that `CharmImageProcessor` returns"):
        model(pixel_values=torch.rand(1, 3, 224, 224))
    with pytest.raises(ValueError, match="768.*16×16"):
        model(**CharmImageProcessor(patch_size=14)(some_photos()))
    with pytest.raises(ValueError, match="`num_scales=2`"):
        model(**CharmImageProcessor(patch_size=16, num_scales=3)(some_photos()))


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"head": "distribution"}, "score_values"),
        ({"score_range": (5, 1)}, "score_range"),
        ({"score_values": [1, 3, 2], "score_range": (1, 3)}, "ascend"),
        ({"score_values": [1, 2, 30], "score_range": (1, 10)}, "inside"),
        ({"position_mode": "approximate"}, "position_mode"),
        ({"num_scales": 0}, "num_scales"),
        ({"score_values": [1, 2], "score_range": (1, 2), "num_attributes": 11}, "regression"),
    ],
)
def test_an_impossible_configuration_is_refused(arguments: dict, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        CharmConfig(**arguments)


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ({"score_values": None}, "score_values"),
        ({"position_mode": "nonsense"}, "position_mode"),
        ({"score_range": (10, 0)}, "score_range"),
        ({"num_labels": 3}, "`num_labels` follows from `score_values`"),
    ],
)
def test_an_impossible_override_at_loading_is_refused(override: dict, reason: str, tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=reason):
        CharmForAestheticScoring.from_pretrained(tmp_path, ignore_mismatched_sizes=True, **override)


def test_other_bins_at_loading_make_another_head_that_can_be_saved(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path / "ten")
    model = CharmForAestheticScoring.from_pretrained(
        tmp_path / "ten", score_values=[1.0, 5.0, 10.0], ignore_mismatched_sizes=True
    ).eval()
    model.save_pretrained(tmp_path / "three")
    loaded = CharmForAestheticScoring.from_pretrained(tmp_path / "three")
    inputs = tiny_processor(model)(some_photos())
    assert loaded(**inputs).distribution.shape == (4, 3)
    assert torch.equal(scores_of(loaded, inputs), scores_of(model, inputs))
    assert loaded.config.id2label == {0: "1", 1: "5", 2: "10"}


# --- Standard transformers behaviour ---------------------------------------------------------------------------------


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_saved_model_comes_back_with_every_weight_and_the_same_score(backbone: str, tmp_path: Path) -> None:
    model = tiny_model(backbone, position_mode="reference", num_scales=3, dataset="para")
    model.save_pretrained(tmp_path)
    loaded, info = CharmForAestheticScoring.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    inputs = tiny_processor(model)(some_photos())
    assert torch.equal(scores_of(loaded, inputs), scores_of(model, inputs))
    for name in ("position_mode", "num_scales", "score_range", "score_values", "dataset_name", "head"):
        assert getattr(loaded.config, name) == getattr(model.config, name)
    assert (tmp_path / "model.safetensors").exists()
    assert not list(tmp_path.glob("*.bin"))


@pytest.mark.parametrize("loader", [CharmForAestheticScoring, AutoModel])
@pytest.mark.parametrize("damage", ["missing", "unexpected", "misshapen"])
def test_weights_that_do_not_fit_are_refused(loader: type, damage: str, tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    if damage == "missing":
        del weights["charm.backbone.layernorm.weight"]
    elif damage == "unexpected":
        weights["charm.backbone.surprise"] = torch.zeros(3)
    else:
        weights["classifier.weight"] = torch.zeros(7, 64)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    named = {"missing": "layernorm.weight", "unexpected": "surprise", "misshapen": "classifier.weight"}[damage]
    with pytest.raises(ValueError, match=f"{damage}: .*{named}"):
        loader.from_pretrained(tmp_path)


def test_another_head_can_be_put_on_on_purpose(tmp_path: Path) -> None:
    model = tiny_model(dataset="ava")
    model.save_pretrained(tmp_path)
    config = CharmConfig.for_dataset("aadb", backbone_config=model.config.backbone_config)
    other = CharmForAestheticScoring.from_pretrained(tmp_path, config=config, ignore_mismatched_sizes=True)
    assert other.classifier.out_features == 1
    assert torch.equal(other.charm.backbone.layernorm.weight, model.charm.backbone.layernorm.weight)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_an_encoder_goes_from_scoring_checkpoint_to_bare_checkpoint_and_back(backbone: str, tmp_path: Path) -> None:
    model = tiny_model(backbone, num_scales=3, position_mode="reference")
    inputs = tiny_processor(model)(some_photos())
    expected = model(**inputs).last_hidden_state
    model.save_pretrained(tmp_path / "scoring")
    bare = CharmModel.from_pretrained(tmp_path / "scoring").eval()
    assert torch.allclose(bare(**inputs).last_hidden_state, expected)
    bare.save_pretrained(tmp_path / "bare")
    assert torch.allclose(CharmModel.from_pretrained(tmp_path / "bare").eval()(**inputs).last_hidden_state, expected)
    with pytest.raises(ValueError, match="missing: classifier.bias.*no head.*CharmModel.*ignore_mismatched_sizes"):
        CharmForAestheticScoring.from_pretrained(tmp_path / "bare")
    asked = CharmForAestheticScoring.from_pretrained(tmp_path / "bare", ignore_mismatched_sizes=True).eval()
    assert torch.allclose(asked(**inputs).last_hidden_state, expected)
    assert 0 < asked.classifier.weight.std() < 0.1  # begun anew, not left as it lay in memory


def test_a_position_table_of_another_size_begins_anew_when_asked_for(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path)
    config = CharmConfig.for_dataset("ava", backbone_config=tiny_backbone_config("vit", image_size=160))
    other = CharmForAestheticScoring.from_pretrained(tmp_path, config=config, ignore_mismatched_sizes=True)
    table = other.charm.backbone.embeddings.position_embeddings
    assert table.shape == (1, 101, 32)
    assert 0.01 < table.std() < 0.03  # not what happened to lie in memory


@pytest.mark.parametrize("is_bare", [True, False])
def test_a_charm_checkpoint_is_a_backbone_too(is_bare: bool, tmp_path: Path) -> None:
    model = tiny_model(num_scales=3, position_mode="reference")
    inputs = tiny_processor(model)(some_photos())
    source = model.charm if is_bare else model
    source.save_pretrained(tmp_path)
    for given in (source, tmp_path, str(tmp_path)):
        other = CharmForAestheticScoring.from_backbone(given, dataset="para").eval()
        assert other.config.score_range == [1.0, 5.0]
        assert torch.allclose(other(**inputs).last_hidden_state, model(**inputs).last_hidden_state)
        assert not torch.equal(other.classifier.weight[:5], model.classifier.weight[:5])
        assert other.config is not model.config
    assert CharmForAestheticScoring.from_backbone(model.config).config.num_scales == 3
    with pytest.raises(ValueError, match="has 3 scales"):
        CharmForAestheticScoring.from_backbone(source, num_scales=2)


def test_a_bare_checkpoint_with_weights_that_are_no_heads_is_refused(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["charm.surprise"] = torch.zeros(3)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="unexpected: .*surprise"):
        CharmModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_half_precision_scores_stay_close(backbone: str, tmp_path: Path) -> None:
    model = tiny_model(backbone)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.div_(2)
    model.save_pretrained(tmp_path)
    half = CharmForAestheticScoring.from_pretrained(tmp_path, dtype=torch.bfloat16).eval()
    inputs = tiny_processor(model)(some_photos())
    out = half(**inputs)
    assert half.dtype == torch.bfloat16
    assert out.scores.dtype == torch.float32
    assert torch.allclose(out.normalized_scores, scores_of(model, inputs), atol=0.02)


def test_attentions_need_eager_attention() -> None:
    model = tiny_model()
    inputs = tiny_processor(model)(some_photos())
    with pytest.raises(ValueError, match='attn_implementation="eager"'):
        model(**inputs, output_attentions=True)
    model.set_attn_implementation("eager")
    out = model(**inputs, output_attentions=True)
    length = 1 + inputs["pixel_values"].shape[1]
    assert [attention.shape for attention in out.attentions] == [(4, 2, length, length)] * 2
    padding = inputs["pixel_attention_mask"][1] == 0
    assert out.attentions[0][1, :, :, 1:][..., padding].abs().max() == 0


def test_outputs_can_be_a_tuple_and_have_the_documented_shapes() -> None:
    model = tiny_model("dinov2_with_registers")
    inputs = tiny_processor(model)(some_photos())
    length = 1 + model.config.backbone_config.num_register_tokens + inputs["pixel_values"].shape[1]
    out = model(**inputs)
    assert out.last_hidden_state.shape == (4, length, 32)
    assert out.pooler_output.shape == (4, 64)
    assert torch.equal(model(**inputs, return_dict=False)[0], out.logits)
    bare = CharmModel(model.config).eval()
    bare.load_state_dict(model.charm.state_dict())
    assert torch.allclose(bare(**inputs).last_hidden_state, out.last_hidden_state)


@pytest.mark.parametrize("backbone", ["vit", "siglip2_vision_model", "dinov3_vit"])
def test_gradient_checkpointing_gives_the_same_gradients(backbone: str) -> None:
    model = tiny_model(backbone).train()
    model.config.classifier_dropout = 0.0
    model.dropout.p = 0.0
    inputs = tiny_processor(model)(some_photos())
    labels = torch.tensor([2.0, 4.0, 6.0, 8.0])
    model(**inputs, labels=labels).loss.backward()
    plain = {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}
    model.zero_grad()
    model.gradient_checkpointing_enable()
    model(**inputs, labels=labels).loss.backward()
    for name, value in model.named_parameters():
        if value.grad is not None:
            assert torch.allclose(value.grad, plain[name], atol=1e-6), name


SHARDED = """
import torch
import torch.distributed as dist
import mmlq_fixtures
from support import BACKBONES, photo_path, tiny_model, tiny_processor
from torch.distributed.fsdp import fully_shard

dist.init_process_group("gloo")
photos = [photo_path("coffee"), photo_path("chelsea")]
for backbone in (*BACKBONES, "mmlq"):
    if backbone == "mmlq":
        model = mmlq_fixtures.tiny_model(freeze_vision_model=False, freeze_text_model=False, comment_dropout=0.0)
        inputs = mmlq_fixtures.tiny_processor()(photos, [["great light"], []])
    else:
        model = tiny_model(backbone)
        inputs = tiny_processor(model)(photos)
    with torch.no_grad():
        expected = model(**inputs).scores
    for module in [module for module in model.modules() if type(module).__name__ in model._no_split_modules]:
        fully_shard(module)
    fully_shard(model)
    model.train()(**inputs, labels=torch.tensor([3.0, 4.0])).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)
    assert torch.allclose(model.eval()(**inputs).scores, expected, atol=1e-5)
"""


@pytest.mark.slow
def test_a_model_is_sharded_over_two_processes(tmp_path: Path) -> None:
    (tmp_path / "sharded.py").write_text(SHARDED)
    path = os.pathsep.join([str(Path(__file__).parents[1] / "helpers"), *sys.path])
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "sharded.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_compiled_model_is_one_graph_with_the_same_scores(backbone: str) -> None:
    model = tiny_model(backbone)
    processor = tiny_processor(model)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    for photos in (some_photos(), some_photos()[:2]):
        inputs = processor(photos)
        assert torch.allclose(scores_of(compiled, inputs), scores_of(model, inputs), atol=1e-5)


@pytest.mark.slow
def test_inductor_compiles_the_model() -> None:
    model = tiny_model()
    inputs = tiny_processor(model)(some_photos())
    assert torch.allclose(scores_of(torch.compile(model), inputs), scores_of(model, inputs), atol=1e-5)


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize(
    "device_map",
    [
        "auto",
        {"charm": "disk", "dropout": "cpu", "classifier": "cpu"},
        {"charm": "cpu", "dropout": "cpu", "classifier": "disk"},
        {"charm.embeddings": "disk", "charm.backbone": "cpu", "dropout": "cpu", "classifier": "cpu"},
        {"charm.embeddings": "cpu", "charm.backbone": "disk", "dropout": "cpu", "classifier": "cpu"},
    ],
    ids=["auto", "encoder", "head", "embeddings", "backbone"],
)
def test_a_dispatched_and_offloaded_model_gives_the_same_score(
    backbone: str, device_map: str | dict, tmp_path: Path
) -> None:
    model = tiny_model(backbone)
    model.save_pretrained(tmp_path / "model")
    offloaded = CharmForAestheticScoring.from_pretrained(
        tmp_path / "model", device_map=device_map, offload_folder=tmp_path / "offload"
    ).eval()
    inputs = tiny_processor(model)(some_photos())
    for _ in range(2):
        assert torch.allclose(scores_of(offloaded, inputs), scores_of(model, inputs), atol=1e-6)


def test_presets_configure_the_head() -> None:
    config = CharmConfig.for_dataset("ava", backbone_config=ViTConfig())
    assert (config.num_labels, config.score_range, config.head) == (10, [1.0, 10.0], "distribution")
    assert CharmConfig.for_dataset("koniq10k").score_range == [0.0, 100.0]
    assert CharmConfig.for_dataset("koniq10k", score_range=(1, 5)).score_range == [1.0, 5.0]
    assert CharmConfig().backbone_config.hidden_size == CharmConfig().hidden_size == 384
    assert CharmConfig().num_hidden_layers == 12
