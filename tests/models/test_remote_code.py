"""A checkpoint carries its code: it loads where `charm_hf` is not installed, and survives being saved again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from support import tiny_model, tiny_processor
from transformers import pipeline

from charm_hf import embedded_model_path


CODE = {
    "backbones_charm.py",
    "checkpoint_charm.py",
    "configuration_charm.py",
    "embeddings_charm.py",
    "camera_files_charm.py",
    "image_formats_charm.py",
    "limits_charm.py",
    "image_loading_charm.py",
    "image_processing_charm.py",
    "image_urls_charm.py",
    "modeling_charm.py",
    "packed_attention_charm.py",
    "patch_selection_charm.py",
    "pipeline_image_aesthetics.py",
    "plan_charm.py",
    "positions_charm.py",
    "presets_charm.py",
    "processor_parameters_charm.py",
    "scores_charm.py",
    "token_cutting_charm.py",
}

# Run in a process where importing `charm_hf` fails, as if it were not installed.
WITHOUT_THE_PACKAGE = """
import json, sys
sys.modules["charm_hf"] = None
folders, encoders, resaved, *photos = sys.argv[1:]
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification
from transformers import Trainer, TrainingArguments, pipeline
remote = {"trust_remote_code": True}
scores = {}
for number, folder in enumerate(folders.split(":")):
    target = f"{resaved}/{number}"
    config = AutoConfig.from_pretrained(folder, **remote)
    processor = AutoImageProcessor.from_pretrained(folder, **remote)
    for auto_class in (AutoModel, AutoModelForImageClassification):
        model = auto_class.from_pretrained(folder, **remote).eval()
        assert type(model).__module__.startswith("transformers_modules"), type(model)
        scores[folder, auto_class.__name__] = [model(**processor(photo)).normalized_scores.item() for photo in photos]
    scorer = pipeline("image-aesthetics", model=folder, **remote)
    scores[folder, "pipeline"] = [result["normalized_score"] for result in scorer(photos)]
    model.save_pretrained(target + "/by_hand")
    processor.save_pretrained(target + "/by_hand")
    arguments = TrainingArguments(output_dir=target + "/trainer", report_to="none", use_cpu=True)
    trainer = Trainer(model=model, args=arguments, processing_class=processor)
    trainer.save_model(target + "/by_trainer")
    scorer.save_pretrained(target + "/by_pipeline")
for folder in filter(None, encoders.split(":")):
    processor = AutoImageProcessor.from_pretrained(folder, **remote)
    encoder = AutoModel.from_pretrained(folder, ignore_mismatched_sizes=True, **remote).base_model.eval()
    scores[folder] = [encoder(**processor(photo)).pooler_output[0, 0].item() for photo in photos]
print(json.dumps(list(scores.values())))
"""


def run_without_the_package(
    folders: list[str], resaved: Path, photos: list[str], cache: Path, encoders: Sequence[str] = ()
) -> list[list[float]]:
    """Normalized scores of the photos by each auto class and each folder, which are saved again into `resaved`.

    Then, of each folder in `encoders`, with a head or without, the first number that its encoder gives each photo.
    """
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(cache)}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_THE_PACKAGE, ":".join(folders), ":".join(encoders), str(resaved), *photos],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=environment,
        cwd=cache.parent,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_a_checkpoint_loads_without_the_package_and_can_be_saved_again(
    checkpoint: str, photos: list[str], tmp_path: Path
) -> None:
    expected = [result["normalized_score"] for result in pipeline("image-aesthetics", model=checkpoint)(photos)]
    encoded = {}
    for backbone in ("siglip2_vision_model", "dinov3_vit"):  # the second is saved without its head
        model = tiny_model(backbone)
        processor, folder = tiny_processor(model), tmp_path / backbone
        (model.charm if backbone == "dinov3_vit" else model).save_pretrained(folder)
        processor.save_pretrained(folder)
        encoded[str(folder)] = [model.charm(**processor(photo)).pooler_output[0, 0].item() for photo in photos]
    found = run_without_the_package([checkpoint], tmp_path / "first", photos, tmp_path / "modules", list(encoded))
    for first in reversed(encoded.values()):
        assert found.pop() == pytest.approx(first, abs=1e-5)
    folders = [tmp_path / "first" / "0" / way for way in ("by_hand", "by_trainer", "by_pipeline")]
    for folder in folders:
        assert {path.name for path in folder.glob("*.py")} == CODE
    found += run_without_the_package(list(map(str, folders)), tmp_path / "second", photos, tmp_path / "modules")
    assert len(found) == 12
    for scores in found:
        assert scores == pytest.approx(expected, abs=1e-6)


@pytest.mark.slow
def test_the_embedded_checkpoint_loads_where_the_package_was_not_imported(photos: list[str], tmp_path: Path) -> None:
    folder = embedded_model_path()
    expected = [result["score"] for result in pipeline("image-aesthetics", model=folder)(photos[:1])]
    script = """
import sys
from transformers import AutoImageProcessor, AutoModel
folder, photo = sys.argv[1:]
assert "charm_hf" not in sys.modules
model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
print(model(**processor(photo)).scores.item())
"""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(tmp_path)}
    environment["PYTHONPATH"] = str(Path(folder).parents[2])
    command = [sys.executable, "-c", script, folder, photos[0]]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.splitlines()[-1]) == pytest.approx(expected[0], abs=1e-5)


def test_the_config_names_code_for_every_auto_class(checkpoint: str) -> None:
    config = json.loads((Path(checkpoint) / "config.json").read_text())
    assert config["auto_map"] == {
        "AutoConfig": "configuration_charm.CharmConfig",
        "AutoModel": "modeling_charm.CharmForAestheticScoring",
        "AutoModelForImageClassification": "modeling_charm.CharmForAestheticScoring",
        "AutoImageProcessor": "image_processing_charm.CharmImageProcessor",
    }
    assert (
        config["custom_pipelines"]["image-aesthetics"]["impl"] == "pipeline_image_aesthetics.ImageAestheticsPipeline"
    )


def test_the_installed_package_hides_the_custom_pipeline_on_load_and_writes_it_on_save(
    checkpoint: str, tmp_path: Path
) -> None:
    scorer = pipeline("image-aesthetics", model=checkpoint)
    assert not getattr(scorer.model.config, "custom_pipelines", {})
    scorer.model.save_pretrained(tmp_path)
    assert "image-aesthetics" in json.loads((tmp_path / "config.json").read_text())["custom_pipelines"]


def test_a_checkpoint_can_be_saved_onto_itself(tmp_path: Path) -> None:
    model = tiny_model()
    for _ in range(2):
        model.save_pretrained(tmp_path)
        tiny_processor(model).save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.glob("*.py")} == CODE


def test_travelling_files_import_only_their_siblings_and_what_the_card_names() -> None:
    """No file of a checkpoint may need the installed package."""
    allowed = {"torch", "transformers", "PIL", "numpy", "huggingface_hub", "accelerate", "packaging", "safetensors"}
    folder = Path(__file__).parents[2] / "charm_hf" / "models"
    from transformers.dynamic_module_utils import get_imports, get_relative_imports

    for path in folder.glob("*.py"):
        foreign = set(get_imports(path)) - allowed - set(sys.stdlib_module_names)
        assert foreign == set(), path.name
        for sibling in get_relative_imports(path):
            assert (folder / f"{sibling}.py").exists(), (path.name, sibling)
