import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ViTConfig

from charm_hf import CharmForAestheticScoring, CharmImageProcessor


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A folder with a tiny random model that rates from 1 to 10, patches of 16 pixels and at most 64 tokens."""
    folder = tmp_path_factory.mktemp("checkpoint")
    torch.manual_seed(0)
    backbone = ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=64, patch_size=16
    )
    model = CharmForAestheticScoring.from_backbone(backbone, dataset="ava")
    # Large enough weights for scores that differ between photos.
    model.classifier.weight.data.mul_(20)
    model.save_pretrained(folder)
    CharmImageProcessor(patch_size=16, max_num_patches=64).save_pretrained(folder)
    return folder


def write_photo(path, width, height, seed=0):
    """A photo-like file: smooth colour with some noise."""
    random = np.random.default_rng(seed)
    across, down = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    planes = [np.sin((3 + channel) * across + random.uniform(0, 6)) * np.cos(4 * down) for channel in range(3)]
    pixels = np.stack(planes, -1) * 90 + 128 + random.normal(0, 12, (height, width, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
    return path


@pytest.fixture
def photos(tmp_path):
    """Six photos of unlike sizes, two of them in a subfolder."""
    sizes = {"a.jpg": (160, 120), "b.png": (90, 200), "c.jpg": (320, 240), "d.webp": (64, 64)}
    sizes |= {"sub/e.jpg": (500, 300), "sub/f.png": (33, 47)}
    folder = tmp_path / "photos"
    for seed, (name, size) in enumerate(sizes.items()):
        write_photo(folder / name, *size, seed=seed)
    return folder
