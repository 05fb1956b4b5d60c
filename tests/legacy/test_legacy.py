"""Released checkpoints: what they predict once converted, and which architectures are understood."""

import functools
import json
import os
import resource
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest
import skimage.data
import torch
from torch import nn
from transformers import Dinov2Config, Dinov2Model, ViTConfig, ViTModel

from charm_hf import CharmForAestheticScoring, CharmImageProcessor, convert_legacy_checkpoint


FIXTURES = Path(__file__).parents[1] / "fixtures" / "legacy"


def convert(path, output_dir, dataset="aadb", **options):
    positions = FIXTURES / "legacy_aadb_pos.pt"
    return convert_legacy_checkpoint(path, output_dir, dataset=dataset, position_embeddings=positions, **options)


# ---------------------------------------------------------------------------------------------------------------------
# The released predictions.


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """Folders of the two golden checkpoints, by dataset."""
    return {
        name: convert_legacy_checkpoint(
            FIXTURES / f"legacy_{name}.pth",
            tmp_path_factory.mktemp(name),
            dataset=name,
            position_embeddings=FIXTURES / f"legacy_{name}_pos.pt",
        )
        for name in ("aadb", "ava")
    }


@pytest.mark.parametrize(
    ("dataset", "photo"), [("aadb", "coffee"), ("aadb", "chelsea"), ("ava", "astronaut"), ("ava", "chelsea")]
)
def test_a_converted_checkpoint_predicts_what_the_released_code_did(converted, dataset, photo):
    recorded = json.loads((FIXTURES / f"legacy_{dataset}.json").read_text())["images"][f"{photo}.png"]
    model = CharmForAestheticScoring.from_pretrained(converted[dataset]).eval()
    processor = CharmImageProcessor.from_pretrained(converted[dataset])
    inputs = processor(getattr(skimage.data, photo)(), patch_selection=recorded["patch_selection"])
    with torch.no_grad():
        output = model(**inputs)
    predicted = output.distribution[0] if dataset == "ava" else output.normalized_scores
    torch.testing.assert_close(predicted, torch.tensor(recorded["prediction"]), atol=1e-4, rtol=0)


def test_the_converted_folder_holds_safetensors_and_no_pickle(converted):
    names = {path.name for path in converted["aadb"].iterdir()}
    assert {"model.safetensors", "config.json", "preprocessor_config.json", "modeling_charm.py"} <= names
    assert not {name for name in names if name.endswith((".bin", ".pt", ".pth", ".pkl"))}


def test_the_converted_configuration_keeps_what_the_weights_were_trained_with(converted):
    config = json.loads((converted["ava"] / "config.json").read_text())
    assert (config["position_mode"], config["head"], config["score_range"]) == ("reference", "distribution", [1, 10])
    backbone = config["backbone_config"]
    assert (backbone["hidden_size"], backbone["num_hidden_layers"], backbone["num_attention_heads"]) == (48, 2, 3)
    processor = json.loads((converted["ava"] / "preprocessor_config.json").read_text())
    assert (processor["overflow"], processor["do_normalize"], processor["max_num_patches"]) == ("keep", False, 512)


def test_converting_unpickles_nothing_and_imports_nothing_that_the_pickle_names(tmp_path):
    code = f"""
import sys
from charm_hf import convert_legacy_checkpoint

def forbid(event, arguments):
    if event == "pickle.find_class":
        raise SystemExit("something was unpickled: " + repr(arguments))

convert = convert_legacy_checkpoint  # imported lazily, so before the hook
sys.addaudithook(forbid)
convert({str(FIXTURES / "legacy_ava.pth")!r}, {str(tmp_path / "out")!r}, dataset="ava",
        position_embeddings={str(FIXTURES / "legacy_ava_pos.pt")!r})
"""
    # The pickle names its classes `model.Model`, …; a module of this name lies where Python would find it.
    (tmp_path / "model.py").write_text("raise SystemExit('imported what a pickle names')")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, text=True, stderr=subprocess.PIPE)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "out" / "model.safetensors").is_file()


# ---------------------------------------------------------------------------------------------------------------------
# Architecture: pickles of other modules than the golden ones.


def module_tree(weights):
    """Nested modules holding `weights` under their dotted names."""
    root = nn.Module()
    for name, tensor in weights.items():
        *parents, leaf = name.split(".")
        module = root
        for parent in parents:
            if parent not in module._modules:
                module.add_module(parent, nn.Module())
            module = module._modules[parent]
        module.register_parameter(leaf, nn.Parameter(tensor))
    return root


# The names in `transformers` 4.36, when the checkpoints were made.
VIT_NAMES = {
    "layers.": "encoder.layer.",
    "attention.q_proj": "attention.attention.query",
    "attention.k_proj": "attention.attention.key",
    "attention.v_proj": "attention.attention.value",
    "attention.o_proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
DINOV2_NAMES = {key: value for key, value in VIT_NAMES.items() if key.startswith("attention")}


def pickled_config(native_config, **changes):
    """What 4.36 pickled: a plain object of the configuration's class with one attribute a field."""
    config = types.new_class(type(native_config).__name__)()
    fields = native_config.to_dict()
    fields.pop("transformers_version")
    config.__dict__.update({**fields, **changes})
    return config


def released_module(native, num_outputs, num_scales=2, data="aadb", channels=3):
    """A module shaped as the training code's `model.Model`, around a native backbone."""
    torch.manual_seed(0)
    names = VIT_NAMES if isinstance(native, ViTModel) else DINOV2_NAMES
    width = native.config.hidden_size
    projection = native.embeddings.patch_embeddings.projection
    weights = {
        "patch_embeddings.cls_token": native.embeddings.cls_token,
        "patch_embeddings.se": torch.randn(1, num_scales, width),
        "patch_embeddings.mask_token": torch.randn(1, 1, width),
        "patch_embeddings.patch_embedder.weight": projection.weight.repeat(1, 2, 1, 1)[:, :channels],
        "patch_embeddings.patch_embedder.bias": projection.bias,
        "mlp_head.linear.weight": torch.randn(num_outputs, 2 * width),
        "mlp_head.linear.bias": torch.randn(num_outputs),
    }
    for name, tensor in native.state_dict().items():
        if not name.startswith(("embeddings.", "pooler.")):
            for new, old in names.items():
                name = name.replace(new, old)
            weights[f"encoder.{name}"] = tensor
    model = module_tree({name: tensor.detach().clone() for name, tensor in weights.items()})
    model.data = data
    model.encoder.encoder.config = pickled_config(native.config)
    if num_outputs == 12:
        model.mlp_head.sigmoid, model.mlp_head.tanh = nn.Sigmoid(), nn.Tanh()
    else:
        model.mlp_head.activation = nn.Softmax(dim=-1) if data in ("ava", "para") else nn.Sigmoid()
    return model


@pytest.fixture
def save_released(tmp_path, monkeypatch):
    """Save a module as the training code did, with classes from modules that exist while pickling only."""

    def save(model, key="model_state_dict", **options):
        classes = types.ModuleType("configuration_of_then")
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, classes.__name__, classes)
            config_class = type(model.encoder.encoder.config)
            config_class.__module__ = classes.__name__
            setattr(classes, config_class.__name__, config_class)
            path = tmp_path / "released.pth"
            torch.save({"epoch": 3, key: model}, path, **options)
        return path

    return save


def save_positions(native, path):
    torch.save(native.embeddings.position_embeddings, path)
    return path


def tiny_vit():
    return ViTModel(
        ViTConfig(
            hidden_size=24,
            num_hidden_layers=2,
            num_attention_heads=3,
            intermediate_size=40,
            image_size=64,
            patch_size=16,
            layer_norm_eps=1e-5,
            hidden_act="relu",
        )
    )


def tiny_dinov2(**changes):
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "mlp_ratio": 2, "image_size": 70}
    return Dinov2Model(Dinov2Config(**{**sizes, **changes}))


def randomize(model):
    """Give biases, norms and layer scales values of their own, so that a swapped tensor shows."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


@pytest.mark.parametrize(
    ("build", "dataset", "num_outputs", "num_scales"),
    [
        (tiny_vit, "tad66k", 1, 2),
        (tiny_vit, "para", 9, 1),
        (tiny_dinov2, "aadb", 12, 3),
        (functools.partial(tiny_dinov2, use_swiglu_ffn=True, qkv_bias=False), "koniq10k", 1, 2),
    ],
    ids=["vit", "vit-one-scale", "three-scales-attributes", "swiglu"],
)
def test_every_tensor_and_size_of_another_architecture_arrives(
    tmp_path, save_released, build, dataset, num_outputs, num_scales
):
    native = randomize(build())
    released = released_module(native, num_outputs, num_scales, dataset)
    folder = convert_legacy_checkpoint(
        save_released(released),
        tmp_path / "out",
        dataset=dataset,
        position_embeddings=save_positions(native, tmp_path / "pos.pt"),
    )
    model = CharmForAestheticScoring.from_pretrained(folder).eval()
    expected = {name: value for name, value in native.state_dict().items() if not name.startswith("pooler.")}
    expected.pop("embeddings.mask_token", None)
    arrived = model.charm.backbone.state_dict()
    for name, value in expected.items():
        torch.testing.assert_close(arrived[name], value, atol=0, rtol=0, msg=name)
    assert torch.equal(model.classifier.weight, released.mlp_head.linear.weight)
    if num_scales > 1:
        assert torch.equal(model.charm.embeddings.scale_embeddings, released.patch_embeddings.se)
    for field in ("num_attention_heads", "layer_norm_eps", "hidden_act", "patch_size", "image_size"):
        assert getattr(model.config.backbone_config, field) == getattr(native.config, field), field
    assert (model.config.num_scales, model.config.num_labels) == (num_scales, num_outputs)
    processor = CharmImageProcessor.from_pretrained(folder)
    output = model(**processor(skimage.data.chelsea()))
    assert 0 <= output.normalized_scores.item() <= 1


def test_koniq_scores_are_scaled_as_its_released_training_did(tmp_path, save_released):
    native = tiny_dinov2()
    path = save_released(released_module(native, 1, data="koniq10k"))
    positions = save_positions(native, tmp_path / "pos.pt")
    folder = convert_legacy_checkpoint(path, tmp_path / "out", dataset="koniq10k", position_embeddings=positions)
    assert json.loads((folder / "config.json").read_text())["score_range"] == [0, 5]


def test_the_best_epoch_file_and_data_parallel_wrappers_are_unwrapped(tmp_path, save_released):
    native = tiny_dinov2()
    wrapped = nn.Module()
    wrapped.add_module("module", released_module(native, 1))
    wrapped.__dict__["encoder"] = wrapped.module.encoder  # where the fixture looks for the configuration
    path = save_released(wrapped, key="model")
    positions = save_positions(native, tmp_path / "pos.pt")
    assert convert_legacy_checkpoint(path, tmp_path / "out", dataset="aadb", position_embeddings=positions).is_dir()


@pytest.mark.parametrize(
    ("dataset", "options", "message"),
    [
        ("ava", {}, "trained on 'aadb'"),
        ("ava", {"data": "ava"}, "1 outputs, but 'ava' needs 10"),
        ("aadb", {"channels": 4}, "4 channels"),
        ("tad66k", {"data": "tad66k", "num_outputs": 12}, "12 outputs, but 'tad66k' needs 1"),
        ("flickr", {}, "Unknown dataset 'flickr'"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_with_the_reason(tmp_path, save_released, dataset, options, message):
    native = tiny_dinov2()
    path = save_released(released_module(native, **{"num_outputs": 1, **options}))
    positions = save_positions(native, tmp_path / "pos.pt")
    with pytest.raises(ValueError, match=message):
        convert_legacy_checkpoint(path, tmp_path / "out", dataset=dataset, position_embeddings=positions)
    assert not (tmp_path / "out").exists()


def test_a_head_that_ends_otherwise_is_refused(tmp_path, save_released):
    native = tiny_dinov2()
    model = released_module(native, 1)
    model.mlp_head.activation = nn.ReLU()
    with pytest.raises(ValueError, match="ends with ReLU"):
        convert(save_released(model), tmp_path / "out")


def test_a_missing_or_misshapen_tensor_is_refused_by_name(tmp_path, save_released):
    native = tiny_dinov2()
    positions = save_positions(native, tmp_path / "pos.pt")
    model = released_module(native, 1)
    del model.encoder.encoder.layer._modules["0"].norm1
    with pytest.raises(ValueError, match=r"norm1\.bias"):
        convert_legacy_checkpoint(
            save_released(model), tmp_path / "out", dataset="aadb", position_embeddings=positions
        )
    model = released_module(native, 1)
    model.encoder.layernorm.weight = nn.Parameter(torch.zeros(7))
    with pytest.raises(ValueError, match=r"layernorm\.weight"):
        convert_legacy_checkpoint(
            save_released(model), tmp_path / "out", dataset="aadb", position_embeddings=positions
        )


def share_one_storage(model):
    for number in range(3000):
        model.register_buffer(f"buffer{number}", model.patch_embeddings.patch_embedder.weight.data)


def tell_of_many_layers(model):
    model.encoder.encoder.config.num_hidden_layers = 10**7


def tell_of_wide_layers(model):
    model.encoder.encoder.config.mlp_ratio = 10**7


def have_thin_layers(model):
    for number in range(1, 2000):
        layer = nn.Module()
        layer.register_parameter("weight", nn.Parameter(torch.zeros(1)))
        model.encoder.encoder.layer.add_module(str(number), layer)
    model.encoder.encoder.config.num_hidden_layers = 2000


def nest_modules(model):
    for _ in range(60):
        deeper = nn.Module()
        model.add_module("a_name_of_some_length", deeper)
        model = deeper


def contain_itself(model):
    model._modules["encoder"]._modules["again"] = model


@pytest.mark.parametrize(
    ("forge", "message"),
    [
        (share_one_storage, "more elements than the file has bytes"),
        (tell_of_many_layers, "tells of 10000000 layers"),
        (tell_of_wide_layers, "describes a model of"),
        (have_thin_layers, "tells of 2000 layers, and it has"),
        (nest_modules, "characters in a name"),
        (contain_itself, "contains itself"),
    ],
)
def test_a_small_file_cannot_ask_for_a_huge_model(tmp_path, save_released, forge, message):
    native = tiny_dinov2()
    model = released_module(native, 1)
    forge(model)
    path = save_released(model)
    positions = save_positions(native, tmp_path / "pos.pt")
    started, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=rf"released\.pth: .*{message}"):
        convert_legacy_checkpoint(path, tmp_path / "out", dataset="aadb", position_embeddings=positions)
    assert time.process_time() - started < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


def test_another_checkpoint_is_not_written_over_unless_told(tmp_path):
    target = tmp_path / "out"
    convert(FIXTURES / "legacy_aadb.pth", target)
    (target / "model-00002-of-00002.safetensors").touch()
    (target / "notes.txt").write_text("mine")
    before = (target / "config.json").read_bytes()
    with pytest.raises(FileExistsError, match=r"holds a checkpoint \(config\.json.*--overwrite"):
        convert(FIXTURES / "legacy_ava.pth", target, "ava")
    assert (target / "config.json").read_bytes() == before
    convert(FIXTURES / "legacy_ava.pth", target, "ava", overwrite=True)
    assert json.loads((target / "config.json").read_text())["dataset_name"] == "ava"
    assert [path.name for path in target.glob("*.safetensors")] == ["model.safetensors"]
    assert (target / "notes.txt").read_text() == "mine"


def test_unsuitable_position_embeddings_are_refused(tmp_path):
    checkpoint = FIXTURES / "legacy_aadb.pth"
    for shape, message in [((1, 1370, 24), "position_embeddings"), ((1, 12, 48), "side²"), ((1370, 48), "side²")]:
        torch.save(torch.zeros(shape), tmp_path / "pos.pt")
        with pytest.raises(ValueError, match=message):
            convert_legacy_checkpoint(
                checkpoint, tmp_path / "out", dataset="aadb", position_embeddings=tmp_path / "pos.pt"
            )


def test_a_file_without_a_module_says_what_it_holds(tmp_path):
    torch.save({"model_state_dict": nn.Linear(2, 2).state_dict()}, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"expected a pickled module.*keys 'weight', 'bias'"):
        convert(tmp_path / "weights.pth", tmp_path / "out")
    torch.save(nn.Linear(2, 2), tmp_path / "linear.pth")
    with pytest.raises(ValueError, match=r"linear\.pth: no Charm model"):
        convert(tmp_path / "linear.pth", tmp_path / "out")
