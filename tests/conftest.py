"""Photos and small random checkpoints that the tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from dataset_builders import save_photo, write_csv
from hub_fixtures import hub, unchecked, xet_to_a_folder  # noqa: F401, fixtures for every test
from transformers import Dinov2Config, Dinov2WithRegistersConfig, PretrainedConfig, ViTConfig

from charm_hf import CharmForAestheticScoring, CharmImageProcessor


os.environ.setdefault("HF_HUB_OFFLINE", "1")
FIXTURES = Path(__file__).parent / "fixtures"
BACKBONES = ("dinov2", "dinov2_with_registers", "vit")


def photo_path(name: str) -> str:
    """Path of a photo: `coffee`, `chelsea`, `astronaut` (scikit-image) or `china` (a fixture)."""
    if name == "china":
        return str(FIXTURES / "tokens" / "china.png")
    import skimage.data

    return str(Path(skimage.data.__file__).parent / f"{name}.png")


def tiny_backbone_config(model_type: str, **overrides: object) -> PretrainedConfig:
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, **overrides}
    if model_type == "vit":
        return ViTConfig(**{"intermediate_size": 64, "patch_size": 16, "image_size": 80, **shape})
    config_class = {"dinov2": Dinov2Config, "dinov2_with_registers": Dinov2WithRegistersConfig}[model_type]
    return config_class(**{"mlp_ratio": 2, "patch_size": 14, "image_size": 70, **shape})


def tiny_model(model_type: str = "vit", seed: int = 0, **kwargs: object) -> CharmForAestheticScoring:
    """Random model whose scores differ visibly between photos (freshly initialized ones hardly do)."""
    torch.manual_seed(seed)
    model = CharmForAestheticScoring.from_backbone(tiny_backbone_config(model_type), **{"dataset": "ava", **kwargs})
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.2 if "classifier" not in name else 0.6, generator=generator)
    return model.eval()


def tiny_processor(model: CharmForAestheticScoring, **kwargs: object) -> CharmImageProcessor:
    return CharmImageProcessor(
        **{
            "patch_size": model.config.patch_size,
            "max_num_patches": 200,
            "num_scales": model.config.num_scales,
            **kwargs,
        }
    )


@pytest.fixture(scope="session")
def photos() -> list[str]:
    return [photo_path(name) for name in ("coffee", "chelsea", "astronaut")]


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a tiny random checkpoint with a distribution head."""
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    model = tiny_model()
    model.save_pretrained(folder)
    tiny_processor(model).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def photo_table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 photos with votes from 1 to 5; 16 train, 8 validate."""
    root = tmp_path_factory.mktemp("photo_table")
    rows = []
    for index in range(24):
        level = (index * 7 % 24) / 24
        save_photo(root / "images" / f"{index}.jpg", level, seed=index, size=(96, 72))
        peak = round(4 * level)
        votes = [10 if bin == peak else 3 if abs(bin - peak) == 1 else 0 for bin in range(5)]
        rows.append([f"{index}.jpg", "ab"[index % 2], "train" if index % 3 else "validation", *votes])
    write_csv(root / "ratings.csv", ["image", "kind", "split", "c1", "c2", "c3", "c4", "c5"], rows)
    return root
