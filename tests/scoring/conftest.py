import csv
import io
import signal

import numpy as np
import pytest
import torch
from command_process import CommandProcess
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


@pytest.fixture(scope="session")
def write_photo():
    """Write a photo-like file, smooth colour with some noise: `write_photo(path, width, height, seed)`."""

    def write(path, width, height, seed=0):
        random = np.random.default_rng(seed)
        across, down = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
        planes = [np.sin((3 + channel) * across + random.uniform(0, 6)) * np.cos(4 * down) for channel in range(3)]
        pixels = np.stack(planes, -1) * 90 + 128 + random.normal(0, 12, (height, width, 3))
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
        return path

    return write


@pytest.fixture
def photos(tmp_path, write_photo):
    """Six photos of unlike sizes, two of them in a subfolder."""
    sizes = {"a.jpg": (160, 120), "b.png": (90, 200), "c.jpg": (320, 240), "d.webp": (64, 64)}
    sizes |= {"sub/e.jpg": (500, 300), "sub/f.png": (33, 47)}
    folder = tmp_path / "photos"
    for seed, (name, size) in enumerate(sizes.items()):
        write_photo(folder / name, *size, seed=seed)
    return folder


@pytest.fixture(scope="session")
def many_photos(tmp_path_factory, write_photo):
    """120 photos of unlike sizes, some of them broken."""
    folder = tmp_path_factory.mktemp("many")
    random = np.random.default_rng(0)
    for index in range(120):
        width, height = (int(size) for size in random.integers(20, 240, 2))
        path = write_photo(folder / f"{index:03d}.jpg", width, height, seed=index)
        if index % 29 == 7:
            path.write_bytes(path.read_bytes()[: -200 * (index % 2) or 300])
    return folder


@pytest.fixture
def command(tmp_path):
    """Start `charm-hf` in another process; whatever still runs at the end of the test is killed."""
    started = []

    def start(*arguments, **options):
        started.append(CommandProcess(arguments, tmp_path / f"log-{len(started)}.txt", **options))
        return started[-1]

    yield start
    for running in started:
        running.send(signal.SIGKILL)


@pytest.fixture
def score_photos(checkpoint, capsys):
    """Run `charm-hf score` in this process: exit code, rows of the table on stdout, messages."""
    from charm_hf_cli import main

    def run(*arguments):
        with pytest.raises(SystemExit) as stop:
            main(["score", "--model", str(checkpoint), *map(str, arguments)])
        captured = capsys.readouterr()
        return stop.value.code, list(csv.DictReader(io.StringIO(captured.out, newline=""))), captured.err

    return run
