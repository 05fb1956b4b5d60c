"""The multi-modal learnable queries model: what it computes, what it trains, and what it leaves to its encoders."""

import copy
import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from mmlq_fixtures import (
    COMMENTS,
    TINY,
    photos,
    tiny_model,
    tiny_processor,
    tiny_text_config,
    tiny_vision_config,
)
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForImageClassification, BertModel, CLIPConfig, CLIPModel, CLIPVisionModel

from charm_hf import CharmForAestheticScoring, MmlqConfig, MmlqForAestheticScoring
from charm_hf.models.interaction_mmlq import MmlqAttention
from charm_hf.models.modeling_mmlq import MmlqModel, drop_comments


ARRANGEMENTS = [("none", "shared"), ("shared", "separate"), ("separate", "shared"), ("joint", "separate")]


def trainable(model):
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


# What a user does first: save, load, score.


def test_a_saved_model_loads_through_the_auto_classes_and_scores_the_same(tmp_path):
    model, inputs = tiny_model(), tiny_processor()(photos(), COMMENTS)
    expected = model(**inputs).scores
    model.save_pretrained(tmp_path)
    for auto_class in (AutoModel, AutoModelForImageClassification):
        loaded = auto_class.from_pretrained(tmp_path)
        assert type(loaded) is MmlqForAestheticScoring
        assert torch.equal(loaded(**inputs).scores, expected)


def test_a_saved_model_scores_where_the_package_is_not_installed(tmp_path):
    image = photos()[0]
    image.save(tmp_path / "photo.png")
    expected = []
    for vision in ("clip", "charm"):
        model, processor = tiny_model(vision), tiny_processor(vision)
        model.save_pretrained(tmp_path / vision)
        processor.save_pretrained(tmp_path / vision)
        expected += [model(**processor(image, said)).scores.item() for said in (["great light"], None)] * 2
    script = """
import sys
from transformers import AutoModel, AutoModelForImageClassification, AutoProcessor
for folder in ("clip", "charm"):
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    for auto_class in (AutoModel, AutoModelForImageClassification):
        model = auto_class.from_pretrained(folder, trust_remote_code=True)
        assert "charm_hf" not in sys.modules and type(model).__name__ == "MmlqForAestheticScoring"
        for comments in (["great light"], None):
            print(model(**processor("photo.png", comments)).scores.item())
"""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-P", "-c", script]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert [float(line) for line in run.stdout.splitlines()] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("shape", [{}, {"self_attention": "none", "intermediate_size": 3072}])
def test_the_default_shape_and_the_one_without_self_attention_have_the_papers_number_of_parameters(shape):
    config = MmlqConfig(**shape)
    assert config.self_attention == shape.get("self_attention", "shared")  # as the paper's figure shows
    with torch.device("meta"):
        model = MmlqForAestheticScoring(config)
    assert trainable(model) == pytest.approx(60.27e6, abs=0.1e6)


# Charm as its eyes, on encoders with CLS, with a norm after it, with neither, and with registers.
CHARMS = ("charm", "charm-clip_vision_model", "charm-siglip2_vision_model", "charm-dinov3_vit")


# One image, one score.


@pytest.mark.parametrize("vision", ["clip", "siglip", "dinov2", "vit", "charm"])
@pytest.mark.parametrize(("self_attention", "feed_forward"), ARRANGEMENTS)
def test_a_photo_scores_the_same_alone_in_a_batch_and_under_padding(vision, self_attention, feed_forward):
    model = tiny_model(vision, self_attention=self_attention, feed_forward=feed_forward)
    processor = tiny_processor(vision)
    images = photos()
    batch = processor(images, COMMENTS)
    together = model(**batch).scores
    alone = torch.cat(
        [model(**processor(image, [list(said)])).scores for image, said in zip(images, COMMENTS, strict=True)]
    )
    extra = batch["attention_mask"].shape[1] + 9
    padded = {name: torch.nn.functional.pad(batch[name], (0, extra)) for name in ("input_ids", "attention_mask")}
    padded = model(**{**batch, **padded, "token_type_ids": None}).scores
    assert together.std() > 1e-3
    assert torch.allclose(together, alone, atol=1e-5)
    assert torch.allclose(together, padded, atol=1e-5)


@pytest.mark.parametrize("text", ["bert", "roberta", "distilbert"])
def test_a_photo_without_comments_scores_the_same_whatever_the_rest_of_the_batch_says(text):
    model, processor, images = tiny_model(text=text), tiny_processor(), photos()
    silent = model(**processor(images)).scores
    mixed = processor(images, COMMENTS)
    if text == "distilbert":
        del mixed["token_type_ids"]
    scores = model(**mixed).scores
    assert torch.allclose(scores[[1, 3]], silent[[1, 3]], atol=1e-5)
    assert ((scores - silent)[[0, 2]].abs() > 1e-3).all()
    mixed["input_ids"][1] = 7  # what stands under a mask of zeros is not read
    assert torch.allclose(model(**mixed).scores, scores, atol=1e-5)


@pytest.mark.parametrize("vision", ["clip", *CHARMS])
def test_features_computed_beforehand_give_the_same_scores(vision):
    model = tiny_model(vision)
    inputs = tiny_processor(vision)(photos(), COMMENTS)
    text = {name: inputs.pop(name) for name in ("input_ids", "attention_mask", "token_type_ids")}
    vision_features, vision_mask = model.mmlq.encode_images(**inputs)
    text_features, text_mask = model.mmlq.encode_comments(**text)
    scores = model(
        vision_features=vision_features,
        vision_attention_mask=vision_mask,
        text_features=text_features,
        attention_mask=text_mask,
    ).scores
    assert torch.allclose(scores, model(**inputs, **text).scores, atol=1e-6)


# What comes out.


def test_the_score_is_the_mean_of_the_predicted_distribution():
    model = tiny_model(score_values=[0, 25, 50, 75, 100])
    out = model(**tiny_processor()(photos(), COMMENTS))
    values = torch.tensor([0.0, 25.0, 50.0, 75.0, 100.0])
    assert out.logits.shape == out.distribution.shape == (4, 5)
    assert torch.allclose(out.distribution.sum(-1), torch.ones(4))
    assert torch.allclose(out.scores, out.distribution @ values)
    assert torch.allclose(out.normalized_scores, out.scores / 100)
    variance = (out.distribution * (values - out.scores[:, None]) ** 2).sum(-1)
    assert torch.allclose(out.std, variance.sqrt(), atol=1e-4)


def test_labels_give_a_loss_for_scores_and_for_distributions():
    model, inputs = tiny_model(), tiny_processor()(photos(), COMMENTS)
    out = model(**inputs)
    exact = model(**inputs, labels=out.scores.detach()).loss
    assert exact.item() == pytest.approx(0, abs=1e-8)
    counts = torch.arange(1, 41).view(4, 10)
    loss = model(**inputs, labels=counts).loss
    cdf = (out.distribution - counts / counts.sum(-1, keepdim=True)).cumsum(-1)
    assert torch.allclose(loss, cdf.square().mean(-1).sqrt().mean())
    assert torch.allclose(model(**inputs, labels=counts * 3).loss, loss)
    with pytest.raises(ValueError, match=r"\(4,\) scores or \(4, 10\) distributions, got \(4, 3\)"):
        model(**inputs, labels=counts[:, :3])


def test_attentions_show_where_the_queries_look():
    model, inputs = tiny_model(num_visual_queries=3), tiny_processor()(photos(), COMMENTS)
    out = model(**inputs, output_attentions=True, output_hidden_states=True)
    tokens = inputs["input_ids"].shape[1]
    assert [weights.shape for weights in out.visual_attentions] == [(4, 2, 3, 17)] * 2
    assert [weights.shape for weights in out.textual_attentions] == [(4, 2, 2, tokens)] * 2
    assert [states.shape for states in out.hidden_states] == [(4, 5, 32)] * 3
    assert torch.allclose(out.visual_attentions[0].sum(-1), torch.ones(4, 2, 3))
    said = inputs["attention_mask"].any(1).float()
    assert torch.allclose(out.textual_attentions[0].sum(-1), said[:, None, None].expand(4, 2, 2))
    assert not out.textual_attentions[0][inputs["attention_mask"][:, None, None].expand(4, 2, 2, -1) == 0].any()
    assert model(**inputs).visual_attentions is None


def test_the_encoders_attention_implementation_does_not_change_the_score(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    inputs = tiny_processor()(photos(), COMMENTS)
    scores = []
    for kind in ("eager", "sdpa"):
        model = MmlqForAestheticScoring.from_pretrained(tmp_path, attn_implementation=kind)
        assert model.mmlq.text_model.config._attn_implementation == kind
        scores.append(model(**inputs).scores)
    assert torch.allclose(*scores, atol=1e-5)


@pytest.mark.parametrize("masked", [False, True])
def test_folded_attention_is_attention(masked):
    torch.manual_seed(0)
    attention = MmlqAttention(tiny_model().config, feature_size=10)
    queries, features = torch.randn(3, 2, 32), torch.randn(3, 7, 10)
    mask = torch.tensor([[1] * 7, [1, 0, 1, 1, 0, 1, 0], [0] * 6 + [1]]).bool() if masked else None
    found, weights = attention(queries, features, mask)
    for layer in (attention.k_proj, attention.v_proj):
        layer.register_forward_hook(lambda *_: None)  # its weight alone is not all that it computes
    expected, expected_weights = attention(queries, features, mask)
    assert torch.allclose(found, expected, atol=1e-6)
    assert torch.allclose(weights, expected_weights, atol=1e-6)
    assert torch.allclose(weights.sum(-1), torch.ones(weights.shape[:-1]))
    pairs = ((attention.q_proj, queries), (attention.k_proj, features), (attention.v_proj, features))
    heads = [layer(states).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2) for layer, states in pairs]
    shown = None if mask is None else mask[:, None, None]
    torchs = torch.nn.functional.scaled_dot_product_attention(*heads, attn_mask=shown)
    assert torch.allclose(found, attention.out_proj(torchs.transpose(1, 2).flatten(2)), atol=1e-6)


def test_some_layers_hidden_states_can_be_asked_for():
    model, inputs = tiny_model(), tiny_processor()(photos(), COMMENTS)
    every = model(**inputs, output_hidden_states=True).hidden_states
    some = model(**inputs, output_hidden_states=[0]).hidden_states
    # Which layer is the first is for transformers to say: its versions differ.
    native = model.mmlq.text_model(inputs["input_ids"], output_hidden_states=[0]).hidden_states
    assert [states is None for states in some] == [states is None for states in native]
    (found,) = (states for states in some if states is not None)
    assert any(torch.equal(found, states) for states in every)
    assert model(**inputs).hidden_states is None


# Quantized, offloaded, with other embeddings.


def test_a_model_can_be_quantized_after_loading():
    model, inputs = tiny_model(), tiny_processor()(photos(), COMMENTS)
    quantized = torch.ao.quantization.quantize_dynamic(copy.deepcopy(model), {torch.nn.Linear}, dtype=torch.qint8)
    assert type(quantized.mmlq.blocks[0].cross_attention["visual"].attention.k_proj) is not torch.nn.Linear
    assert torch.allclose(quantized(**inputs).scores, model(**inputs).scores, atol=0.05)


@pytest.mark.parametrize("vision", ["clip", "charm"])
def test_a_model_can_be_quantized_while_loading(vision, tmp_path):
    pytest.importorskip("torchao")
    from torchao.quantization import Int8WeightOnlyConfig
    from transformers import TorchAoConfig

    model, inputs = tiny_model(vision), tiny_processor(vision)(photos(), COMMENTS)
    model.save_pretrained(tmp_path)
    settings = TorchAoConfig(Int8WeightOnlyConfig())
    quantized = MmlqForAestheticScoring.from_pretrained(tmp_path, quantization_config=settings)
    assert type(quantized.mmlq.blocks[0].cross_attention["visual"].attention.k_proj.weight) is not torch.nn.Parameter
    assert torch.allclose(quantized(**inputs).scores, model(**inputs).scores, atol=0.05)


@pytest.mark.parametrize("place", ["cpu", "disk", "queries on disk"])
def test_an_offloaded_model_gives_the_same_scores(place, tmp_path):
    from accelerate import cpu_offload, disk_offload

    model, inputs = tiny_model(), tiny_processor()(photos(), COMMENTS)
    expected = model(**inputs).scores
    if place == "queries on disk":
        model.save_pretrained(tmp_path / "model")
        parts = [f"mmlq.{name}" for name, _ in model.mmlq.named_children()]
        device_map = {"head": "cpu", **dict.fromkeys(parts, "cpu"), "mmlq.queries": "disk"}
        model = MmlqForAestheticScoring.from_pretrained(
            tmp_path / "model", device_map=device_map, offload_folder=tmp_path / "offloaded"
        )
    elif place == "cpu":
        cpu_offload(model, execution_device=torch.device("cpu"))
    else:
        disk_offload(model, str(tmp_path), execution_device=torch.device("cpu"))
    assert model.mmlq.queries.visual.device.type == "meta"
    for _ in range(2):
        assert torch.allclose(model(**inputs).scores, expected, atol=1e-5)


def test_the_embeddings_are_those_of_the_words_or_without_words_of_the_patches():
    model, inputs = tiny_model(), tiny_processor()(photos(), COMMENTS)
    expected = model(**inputs).scores
    assert model.get_input_embeddings() is model.mmlq.text_model.embeddings.word_embeddings
    model.resize_token_embeddings(50)
    assert model.config.text_config.vocab_size == 50
    assert torch.allclose(model(**inputs).scores, expected)
    silent = MmlqForAestheticScoring.from_encoders(tiny_vision_config("vit"), None, **TINY)
    assert silent.get_input_embeddings() is silent.mmlq.vision_model.get_input_embeddings()


# The parts that can be replaced.


def test_each_replaceable_layer_has_the_parameters_it_should():
    attention = 4 * (32 * 32 + 32) + 2 * 32
    feed_forward = 32 * 48 + 48 + 48 * 32 + 32 + 2 * 32
    plain = trainable(tiny_model(self_attention="none"))
    for kind, extra in {"shared": attention, "separate": 2 * attention, "joint": attention}.items():
        assert trainable(tiny_model(self_attention=kind)) == plain + 2 * extra
    assert trainable(tiny_model(self_attention="none", feed_forward="separate")) == plain + 2 * feed_forward


@pytest.mark.parametrize(("kind", "mixes"), [("none", False), ("shared", False), ("separate", False), ("joint", True)])
def test_only_joint_self_attention_lets_the_visual_queries_hear_the_comments(kind, mixes):
    model, processor, images = tiny_model(self_attention=kind), tiny_processor(), photos()
    with_comments = model(**processor(images, COMMENTS)).last_hidden_state[[0, 2], :2]
    without = model(**processor(images)).last_hidden_state[[0, 2], :2]
    assert torch.allclose(with_comments, without, atol=1e-5) != mixes


def test_a_model_of_one_modality_has_no_encoder_for_the_other(tmp_path):
    inputs = tiny_processor()(photos(), COMMENTS)
    for side, absent, read in (("vision", "text", "pixel_values"), ("text", "vision", "input_ids")):
        encoders = {"vision": tiny_vision_config(), "text": tiny_text_config(), absent: None}
        model = MmlqForAestheticScoring.from_encoders(**encoders, **TINY).eval()
        assert getattr(model.mmlq, f"{absent}_model") is None
        assert getattr(model.mmlq, f"{side}_model") is not None
        model.save_pretrained(tmp_path / side)
        loaded = MmlqForAestheticScoring.from_pretrained(tmp_path / side)
        scores = loaded(**inputs).scores
        assert torch.equal(scores, model(**inputs).scores)
        changed = {**inputs, read: inputs[read].flip(1) if read == "input_ids" else -inputs[read]}
        assert not torch.allclose(loaded(**changed).scores[[0, 2]], scores[[0, 2]], atol=1e-6)


# Training.


def test_encoders_stay_frozen_and_in_evaluation_mode_while_the_queries_train():
    model = tiny_model(text=tiny_text_config(hidden_dropout_prob=0.5))
    inputs = tiny_processor()(photos(), COMMENTS)
    before = copy.deepcopy(model.state_dict())
    model.train()
    assert model.mmlq.training
    assert model.mmlq.blocks.training
    assert not any(module.training for module in model.mmlq.vision_model.modules())
    assert not any(module.training for module in model.mmlq.text_model.modules())
    text = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    assert torch.equal(model.mmlq.encode_comments(**text)[0], model.mmlq.encode_comments(**text)[0])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    model(**inputs, labels=torch.rand(4, 10)).loss.backward()
    optimizer.step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if "_model." not in name}


def test_loading_leaves_the_encoders_frozen(tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path)
    assert trainable(MmlqForAestheticScoring.from_pretrained(tmp_path)) == trainable(model)


def test_every_trained_parameter_gets_a_finite_gradient_even_if_no_photo_has_comments():
    model, processor = tiny_model(comment_dropout=0.0).train(), tiny_processor()
    model(**processor(photos(), [[], [], [], []]), labels=torch.rand(4, 10)).loss.backward()
    gradients = {name: value.grad for name, value in model.named_parameters() if value.requires_grad}
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients.values())
    assert gradients["mmlq.queries.no_comment"].abs().sum() > 0
    assert gradients["mmlq.queries.textual"].abs().sum() == 0


@pytest.mark.parametrize("vision", ["clip", "charm"])
def test_the_model_learns_from_photos_and_comments(vision):
    model = tiny_model(vision, comment_dropout=0.0, freeze_vision_model=vision != "charm").train()
    inputs = tiny_processor(vision)(photos(), COMMENTS)
    labels = torch.eye(10)[[1, 3, 6, 9]]
    optimizer = torch.optim.AdamW([value for value in model.parameters() if value.requires_grad], lr=3e-3)
    losses = []
    for _ in range(40):
        loss = model(**inputs, labels=labels).loss
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]
    touched = model.mmlq.vision_model.backbone.encoder if vision == "charm" else model.mmlq.blocks
    assert all(value.grad is not None for value in touched.parameters())


@pytest.mark.parametrize("vision", ["clip", "siglip", "dinov2", "vit", *CHARMS])
def test_encoders_can_be_trained_along_each_parameter_that_asks_for_a_gradient_gets_one(vision, tmp_path):
    trained = {"freeze_vision_model": False, "freeze_text_model": False, "comment_dropout": 0.0}
    tiny_model(vision, **trained).save_pretrained(tmp_path)
    model = MmlqForAestheticScoring.from_pretrained(tmp_path).train()
    assert model.mmlq.text_model.training
    model(**tiny_processor(vision)(photos(), COMMENTS), labels=torch.rand(4, 10)).loss.backward()
    without = [name for name, value in model.named_parameters() if value.requires_grad and value.grad is None]
    assert without == []
    assert model.mmlq.text_model.embeddings.word_embeddings.weight.grad.abs().sum() > 0


def test_a_frozen_encoder_stays_in_evaluation_mode():
    model = tiny_model(freeze_text_model=False).train()
    assert model.mmlq.text_model.training
    assert not model.mmlq.vision_model.training


def test_adapters_of_any_projection_are_trained():
    peft = pytest.importorskip("peft")
    model = tiny_model(comment_dropout=0.0).train()
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj", "k_proj", "v_proj"], r=2))
    adapted(**tiny_processor()(photos(), COMMENTS), labels=torch.rand(4, 10)).loss.backward()
    adapters = {name: value for name, value in adapted.named_parameters() if "lora_B" in name and "blocks" in name}
    assert any("k_proj" in name for name in adapters)
    assert [name for name, value in adapters.items() if value.grad is None or not value.grad.any()] == []


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("vision", ["clip", "charm"])
def test_gradient_checkpointing_gives_the_same_gradients(vision, reentrant):
    still = {"hidden_dropout_prob": 0.0, "comment_dropout": 0.0, "freeze_vision_model": False}
    text = tiny_text_config(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    model = tiny_model(vision, text, freeze_text_model=reentrant, **still).train()
    inputs, labels = tiny_processor(vision)(photos(), COMMENTS), torch.arange(1, 41).view(4, 10)
    gradients = []
    for checkpointed in (False, True):
        if checkpointed:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
            assert all(block.gradient_checkpointing for block in model.mmlq.blocks)
        model.zero_grad()
        model(**inputs, labels=labels).loss.backward()
        gradients.append({name: value.grad for name, value in model.named_parameters() if value.grad is not None})
    plain, checkpointed = gradients
    assert plain.keys() == checkpointed.keys()
    assert all(torch.allclose(plain[name], checkpointed[name], atol=1e-6) for name in plain)


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ({"score_values": None}, "score_values"),
        ({"score_range": (10, 0)}, "score_range"),
        ({"num_labels": 3}, "follows"),
    ],
)
def test_an_impossible_override_at_loading_is_refused(override, reason, tmp_path):
    tiny_model().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=reason):
        MmlqForAestheticScoring.from_pretrained(tmp_path, ignore_mismatched_sizes=True, **override)


def test_training_hides_comments_at_random_and_evaluation_never_does():
    torch.manual_seed(0)
    kept = drop_comments(torch.ones(10_000, dtype=torch.bool), 0.3).float().mean()
    assert kept == pytest.approx(0.7, abs=0.02)
    assert not drop_comments(torch.zeros(100, dtype=torch.bool), 0.3).any()
    config = {"hidden_dropout_prob": 0.0, "comment_dropout": 0.5}
    model, processor, images = tiny_model(**config), tiny_processor(), photos()
    inputs = processor(images, COMMENTS)
    full, silent = model(**inputs).scores[0].item(), model(**processor(images)).scores[0].item()
    seen = {round(model.train()(**inputs).scores[0].item(), 4) for _ in range(30)}
    assert seen == {round(full, 4), round(silent, 4)}
    assert {round(model.eval()(**inputs).scores[0].item(), 4) for _ in range(5)} == {round(full, 4)}


# Encoders that live in repositories of their own.


@pytest.fixture
def repositories(tmp_path):
    """Folders with a pretrained vision encoder and a pretrained text encoder."""
    torch.manual_seed(1)
    CLIPVisionModel(tiny_vision_config()).save_pretrained(tmp_path / "vision")
    BertModel(tiny_text_config()).save_pretrained(tmp_path / "text")
    return str(tmp_path / "vision"), str(tmp_path / "text")


def test_from_encoders_takes_the_pretrained_weights_and_notes_where_they_come_from(repositories):
    vision, text = repositories
    model = MmlqForAestheticScoring.from_encoders(vision, text, **TINY, dataset="para")
    pretrained = CLIPVisionModel.from_pretrained(vision).state_dict()
    assert all(torch.equal(value, pretrained[name]) for name, value in model.mmlq.vision_model.state_dict().items())
    assert (model.config.vision_repository, model.config.text_repository) == repositories
    assert model.config.score_values == [1 + step / 2 for step in range(9)]


def test_of_a_two_tower_checkpoint_each_side_takes_its_own_tower(tmp_path):
    vision, text = tiny_vision_config(), tiny_text_config()
    sizes = {"vocab_size": 40, "max_position_embeddings": 32, **TINY}
    clip = CLIPModel(CLIPConfig(vision_config=vision.to_dict(), text_config=sizes, projection_dim=8))
    clip.save_pretrained(tmp_path)
    model = MmlqForAestheticScoring.from_encoders(tmp_path, text, **TINY)
    expected = clip.eval().vision_model(torch.ones(1, 3, 32, 32)).last_hidden_state
    assert torch.allclose(model.mmlq.encode_images(torch.ones(1, 3, 32, 32))[0], expected, atol=1e-6)
    with pytest.raises(ValueError, match="two towers"):
        MmlqForAestheticScoring.from_encoders(clip, text, **TINY)


def test_a_checkpoint_may_leave_its_encoders_out(tmp_path, repositories):
    model = MmlqForAestheticScoring.from_encoders(*repositories, **TINY).eval()
    inputs = tiny_processor()(photos(), COMMENTS)
    model.save_pretrained(tmp_path / "small", include_encoders=False)
    saved = load_file(tmp_path / "small" / "model.safetensors")
    assert sum(value.numel() for value in saved.values()) == trainable(model)
    config = json.loads((tmp_path / "small" / "config.json").read_text())
    assert (config["vision_repository"], config["text_repository"]) == repositories
    loaded = AutoModel.from_pretrained(tmp_path / "small")
    assert torch.equal(loaded(**inputs).scores, model(**inputs).scores)
    assert trainable(loaded) == trainable(model)
    loaded.save_pretrained(tmp_path / "whole", include_encoders=True)
    shutil.rmtree(repositories[0])
    assert torch.equal(AutoModel.from_pretrained(tmp_path / "whole")(**inputs).scores, model(**inputs).scores)
    with pytest.raises(OSError, match="vision"):
        AutoModel.from_pretrained(tmp_path / "small")


def test_a_trainers_state_dict_is_saved_without_the_encoders_too(tmp_path, repositories):
    model = MmlqForAestheticScoring.from_encoders(*repositories, **TINY, encoders_in_checkpoint=False)
    model.save_pretrained(tmp_path, state_dict=model.state_dict())
    assert not any("_model." in name for name in load_file(tmp_path / "model.safetensors"))


def test_encoders_that_moved_are_found_at_their_new_place(tmp_path, repositories):
    model = MmlqForAestheticScoring.from_encoders(*repositories, **TINY).eval()
    model.save_pretrained(tmp_path / "small", include_encoders=False)
    shutil.move(repositories[0], tmp_path / "moved")
    loaded = MmlqForAestheticScoring.from_pretrained(tmp_path / "small", vision_repository=str(tmp_path / "moved"))
    inputs = tiny_processor()(photos(), COMMENTS)
    assert torch.equal(loaded(**inputs).scores, model(**inputs).scores)


def test_queries_can_be_loaded_without_their_encoders(tmp_path, repositories):
    model = MmlqForAestheticScoring.from_encoders(*repositories, **TINY).eval()
    model.save_pretrained(tmp_path / "small", include_encoders=False)
    inputs = tiny_processor()(photos())
    features = model.mmlq.encode_images(**inputs)[0]
    alone = MmlqForAestheticScoring.from_pretrained(tmp_path / "small", load_encoders=False)
    assert alone.num_parameters() == trainable(model)
    assert torch.allclose(alone(vision_features=features).scores, model(**inputs).scores, atol=1e-6)
    with pytest.raises(ValueError, match="holds no vision encoder"):
        alone(**inputs)
    with pytest.raises(ValueError, match="was not loaded"):
        alone.save_pretrained(tmp_path / "whole", include_encoders=True)
    alone.mmlq.load_encoders()
    assert torch.equal(alone(**inputs).scores, model(**inputs).scores)


def test_an_encoder_that_could_not_be_found_again_is_not_left_out(tmp_path, repositories):
    with pytest.raises(ValueError, match="vision_repository"):
        tiny_model().save_pretrained(tmp_path, include_encoders=False)
    trained = MmlqForAestheticScoring.from_encoders(*repositories, **TINY, freeze_text_model=False)
    with pytest.raises(ValueError, match="text encoder is trained"):
        trained.save_pretrained(tmp_path, include_encoders=False)


def test_a_revision_on_the_hub_is_noted_as_the_commit_it_stands_for(tmp_path, repositories, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    commit = "0123456789abcdef0123456789abcdef01234567"
    for name, folder in zip(("vision", "text"), repositories, strict=True):
        repository = tmp_path / "cache" / f"models--someone--{name}"
        shutil.copytree(folder, repository / "snapshots" / commit)
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text(commit)
    where = {"cache_dir": tmp_path / "cache", "local_files_only": True}
    model = MmlqForAestheticScoring.from_encoders("someone/vision", "someone/text", **TINY, **where).eval()
    assert (model.config.vision_revision, model.config.text_revision) == (commit, commit)
    model.save_pretrained(tmp_path / "small", include_encoders=False)
    loaded = MmlqForAestheticScoring.from_pretrained(tmp_path / "small", **where)
    inputs = tiny_processor()(photos(), COMMENTS)
    assert torch.equal(loaded(**inputs).scores, model(**inputs).scores)


@pytest.mark.parametrize("part", ["head", "no_comment", "vision_model"])
def test_a_checkpoint_that_lacks_weights_is_refused(tmp_path, part):
    tiny_model().save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    lost = next(name for name in weights if part in name)
    save_file({name: value for name, value in weights.items() if name != lost}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=f"missing: {lost}"):
        MmlqForAestheticScoring.from_pretrained(tmp_path)


def test_queries_go_from_scoring_checkpoint_to_bare_checkpoint_and_back(tmp_path):
    model, inputs = tiny_model(), tiny_processor()(photos(), COMMENTS)
    expected = model(**inputs).last_hidden_state
    model.save_pretrained(tmp_path / "scoring")
    bare = MmlqModel.from_pretrained(tmp_path / "scoring")
    assert torch.equal(bare(**inputs).last_hidden_state, expected)
    bare.save_pretrained(tmp_path / "bare")
    with pytest.raises(ValueError, match="no head: load it as MmlqModel"):
        MmlqForAestheticScoring.from_pretrained(tmp_path / "bare")
    asked = MmlqForAestheticScoring.from_pretrained(tmp_path / "bare", ignore_mismatched_sizes=True)
    assert torch.equal(asked(**inputs).last_hidden_state, expected)


def test_an_encoder_repository_that_lacks_weights_is_refused(tmp_path, repositories):
    model = MmlqForAestheticScoring.from_encoders(*repositories, **TINY)
    model.save_pretrained(tmp_path / "small", include_encoders=False)
    weights = load_file(f"{repositories[1]}/model.safetensors")
    kept = {name: value for name, value in weights.items() if "layer.1" not in name}
    save_file(kept, f"{repositories[1]}/model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="missing: .*layer.1"):
        MmlqForAestheticScoring.from_pretrained(tmp_path / "small")


def test_a_charm_checkpoint_gives_its_encoder(tmp_path):
    torch.manual_seed(0)
    charm = CharmForAestheticScoring(tiny_vision_config("charm")).eval()
    charm.save_pretrained(tmp_path / "charm")
    BertModel(tiny_text_config()).save_pretrained(tmp_path / "text")
    model = MmlqForAestheticScoring.from_encoders(tmp_path / "charm", tmp_path / "text", **TINY).eval()
    inputs = tiny_processor("charm")(photos())
    expected = charm(**inputs).last_hidden_state
    features, mask = model.mmlq.encode_images(**inputs)
    assert torch.allclose(features[mask], expected[mask], atol=1e-6)
    assert torch.equal(mask[:, 1:], inputs["pixel_attention_mask"].bool())
    assert mask.sum(1).unique().numel() > 1  # the photos have different numbers of tokens
    model.save_pretrained(tmp_path / "small", include_encoders=False)
    loaded = AutoModel.from_pretrained(tmp_path / "small")
    assert torch.allclose(loaded(**inputs).scores, model(**inputs).scores, atol=1e-6)


# Bad input.


def test_tokens_of_another_vocabulary_are_refused():
    model, inputs = tiny_model(), tiny_processor()(photos(), COMMENTS)
    inputs["input_ids"][0, 1] = 5000
    with pytest.raises(ValueError, match="Token 5000 does not exist in the text encoder's vocabulary of 40"):
        model(**inputs)


def test_a_missing_photo_is_named():
    inputs = tiny_processor()(photos(), COMMENTS)
    del inputs["pixel_values"]
    with pytest.raises(ValueError, match="pixel_values"):
        tiny_model()(**inputs)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"self_attention": "cross"}, "self_attention"),
        ({"feed_forward": "none"}, "feed_forward"),
        ({"num_attention_heads": 5}, "multiple"),
        ({"num_visual_queries": 0, "num_textual_queries": 0}, "must be positive"),
        ({"num_hidden_layers": 0}, "num_hidden_layers"),
        ({"comment_dropout": 1.0}, "comment_dropout"),
        ({"score_values": [3, 2, 1]}, "score_range"),
        ({"score_values": [1, 3, 2, 4]}, "ascend"),
        ({"score_range": (0, 1, 2)}, "pair"),
        ({"vision_config": {"hidden_size": 8}}, "model_type"),
    ],
)
def test_an_impossible_configuration_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        MmlqConfig(**{**TINY, **fields})


def test_a_convolutional_encoder_is_refused():
    from transformers import ConvNextConfig

    vision = ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2)
    vision.hidden_size = 16
    model = tiny_model(vision)
    with pytest.raises(ValueError, match="expected \\(batch, tokens, width\\)"):
        model(pixel_values=torch.zeros(1, 3, 32, 32))


def test_the_queries_start_small_and_the_feature_norm_starts_neutral():
    torch.manual_seed(0)
    model = MmlqModel(
        MmlqConfig(vision_config=tiny_vision_config(), text_config=tiny_text_config(), **{**TINY, "hidden_size": 256})
    )
    for queries in model.queries.parameters():
        assert queries.std().item() == pytest.approx(0.02, rel=0.2)
    assert torch.equal(model.feature_norms["visual"].weight, torch.ones(16))
