"""Poisoned configurations: one error that names what is wrong, soon, and before anything is built."""

from __future__ import annotations

import json
import shutil
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from charm_hf import CharmImageProcessor, MmlqConfig, embedded_model_path
from charm_hf.scoring import load_for_scoring


NAN, INFINITY = float("nan"), float("inf")
POISON: list[tuple[str, Any]] = [
    *(("num_scales", value) for value in (2000, 10**10, "2", 0, -1, 2.0, True, None, [2])),
    *(("backbone_config.num_hidden_layers", value) for value in (10**7, 10**30, 0, "12", None, 1e3)),
    *(("backbone_config.num_attention_heads", value) for value in (0, -6, 10**9, "6", None)),
    *(("backbone_config.hidden_size", value) for value in (10**7, 0, -192, "192", None)),
    *(("backbone_config.patch_size", value) for value in (8000, 0, "x", [8000, 8000], [16, 32, 64, 128])),
    *(("backbone_config.image_size", value) for value in (10**9, 0, "512")),
    ("backbone_config.num_channels", 10**9),
    ("backbone_config.intermediate_size", 10**12),
    ("backbone_config.layer_norm_eps", NAN),
    ("backbone_config.layer_norm_eps", "a"),
    ("backbone_config.hidden_dropout_prob", 7),
    ("backbone_config.initializer_range", INFINITY),
    *(("backbone_config.model_type", value) for value in ("nope", 5, None, "bert", ["vit"])),
    *(("backbone_config", value) for value in ([1], "vit", 5, {}, {"model_type": "vit", "backbone_config": 3})),
    *(("score_values", value) for value in ([NAN] * 7, 5, "1234567", list(range(10**5)), [10**400] * 7, [[1]])),
    *(("score_range", value) for value in ([1, INFINITY], "ab", 5, [1], [7, 1], [1, 10**400], None)),
    *(("num_attributes", value) for value in (10**9, -5, 1, "3")),
    ("classifier_dropout", "x"),
    ("score_quantiles", [NAN, 1.0]),
    ("head", "pickle"),
    ("position_mode", ["exact"]),
    ("num_labels", 10**9),
]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound") / "checkpoint"
    shutil.copytree(embedded_model_path(), folder)
    return folder


def poisoned(sound: Path, folder: Path, file: str, place: str, value: Any) -> Path:
    """A copy of a checkpoint in which one number is another."""
    shutil.copytree(sound, folder)
    content = json.loads((folder / file).read_text())
    *outer, name = place.split(".")
    inner = content
    for key in outer:
        inner = inner[key]
    inner[name] = value
    (folder / file).write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(("place", "value"), POISON, ids=lambda part: str(part)[:30])
def test_a_number_out_of_range_or_of_the_wrong_type_is_one_error_before_anything_is_built(
    sound: Path, tmp_path: Path, place: str, value: Any
) -> None:
    folder = poisoned(sound, tmp_path / "poisoned", "config.json", place, value)
    tracemalloc.start()
    started = time.process_time()
    try:
        with pytest.raises(ValueError):  # noqa: PT011, what it says depends on the field
            load_for_scoring(str(folder), device="cpu")
        assert tracemalloc.get_traced_memory()[1] < 200e6
    finally:
        tracemalloc.stop()
    assert time.process_time() - started < 20


PARAMETERS: list[tuple[str, Any]] = [
    *(("patch_size", value) for value in (0, 8000, "32", [32])),
    *(("max_num_patches", value) for value in (0, 2**21, "1", NAN)),
    *(("downscale_factor", value) for value in ("a", NAN, 7, [0.5])),
    *(("size", {"longest_edge": value}) for value in ("x", -1, NAN, [512])),
    *(("size", value) for value in ("512", [512])),
    *(("image_std", value) for value in ([0, 0, 0], [NAN] * 3, "abc", [1], [[1], [2], [3]], ["a", "b", "c"])),
    *(("rescale_factor", value) for value in (NAN, "x", INFINITY, [1])),
    *(("patch_selection", value) for value in ("nothing", 5, ["frequency"], {"a": 1})),
    ("overflow", [1]),
    ("padding", {"a": 1}),
    *(("resample", value) for value in ("bicubic", 99)),
]


@pytest.mark.parametrize(("name", "value"), PARAMETERS, ids=lambda part: str(part)[:30])
def test_impossible_parameters_of_the_processor_are_one_error(name: str, value: Any) -> None:
    with pytest.raises(ValueError):  # noqa: PT011, what it says depends on the parameter
        CharmImageProcessor(**{"do_resize": True, "size": {"longest_edge": 512}, name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("num_attention_heads", value) for value in (0, "12", 10**9)),
        *(("num_hidden_layers", value) for value in (0, 10**7, "6")),
        ("hidden_size", 10**8),
        ("num_visual_queries", 10**9),
        ("comment_dropout", "a"),
        ("vision_config", {"model_type": "clip_vision_model", "num_hidden_layers": 10**7}),
        (
            "vision_config",
            {"model_type": "charm", "backbone_config": {"model_type": "vit", "num_hidden_layers": 10**7}},
        ),
        ("text_config", {"model_type": "bert", "vocab_size": 10**12}),
        ("text_config", {"model_type": "nope"}),
        ("text_config", "bert"),
    ],
    ids=lambda part: str(part)[:30],
)
def test_the_other_models_configuration_is_checked_by_the_same_rule(name: str, value: Any) -> None:
    with pytest.raises(ValueError):  # noqa: PT011, what it says depends on the field
        MmlqConfig(**{name: value})


@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json"])
@pytest.mark.parametrize(
    "content", ["[" * 100_000, '{"a":' * 100_000, "", "[1]", '"x"', "{", "nul", '{"a": 1' + "0" * 9999 + "}"]
)
def test_a_file_that_is_no_configuration_is_one_error_that_names_the_checkpoint(
    sound: Path, tmp_path: Path, file: str, content: str
) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(sound, folder)
    (folder / file).write_text(content)
    with pytest.raises((ValueError, OSError), match="broken"):
        load_for_scoring(str(folder), device="cpu")


def test_weights_that_are_a_pickle_are_never_read(
    sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    folder = tmp_path / "pickled"
    shutil.copytree(sound, folder)
    torch.save({}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    monkeypatch.setattr(torch, "load", None)
    with pytest.raises((OSError, ValueError), match="safetensors"):
        load_for_scoring(str(folder), device="cpu")


@pytest.mark.parametrize("damage", [b"", b"\xff" * 8, (10**15).to_bytes(8, "little"), b"\x02\0\0\0\0\0\0\0{}", None])
def test_damaged_weights_are_one_error(sound: Path, tmp_path: Path, damage: bytes | None) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(sound, folder)
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2] if damage is None else damage + whole[:1000])
    with pytest.raises((OSError, ValueError)):
        load_for_scoring(str(folder), device="cpu")
