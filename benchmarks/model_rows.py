"""The rows about the model: forward pass, batches of unlike sizes, GMACs, training step."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from transformers import Dinov2Config, Dinov2Model

from benchmarks.measure import least_milliseconds
from benchmarks.photos import make_photo
from benchmarks.table import Row
from charm_hf import CharmForAestheticScoring, CharmImageProcessor
from charm_hf.models.plan_charm import PlanRules, plan_photo


POSTER_GMACS = {256: 6.11, 512: 13.46, 700: 19.60, 2070: 84.01}
SMALL = {"hidden_size": 384, "num_attention_heads": 6, "image_size": 518, "patch_size": 14}


def small_models(dataset: str = "aadb") -> tuple[CharmForAestheticScoring, Dinov2Model]:
    """Charm and the bare encoder, in DINOv2-small's shape, with the same random weights."""
    torch.manual_seed(0)
    model = CharmForAestheticScoring.from_backbone(Dinov2Config(**SMALL), dataset=dataset).eval()
    bare = Dinov2Model(Dinov2Config(**SMALL)).eval()
    bare.load_state_dict(model.charm.backbone.state_dict())
    return model, bare


def random_tokens(batch: int, length: int) -> dict[str, torch.Tensor]:
    """Inputs of `length` tokens of one scale, in a row."""
    positions = torch.zeros(batch, length, 2, dtype=torch.long)
    positions[..., 1] = torch.arange(length)
    shapes = torch.zeros(batch, 2, 2, dtype=torch.long)
    shapes[:, 0] = torch.tensor([1, length])
    return {
        "pixel_values": torch.randn(batch, length, 588),
        "pixel_attention_mask": torch.ones(batch, length, dtype=torch.long),
        "scale_ids": torch.zeros(batch, length, dtype=torch.long),
        "patch_positions": positions,
        "spatial_shapes": shapes,
    }


@torch.inference_mode()
def forward_rows(repetitions: int) -> Iterator[Row]:
    """A forward pass from tokens to score against the encoder alone on as many hidden states."""
    model, bare = small_models()
    for batch in (1, 8):
        inputs, hidden = random_tokens(batch, 1000), torch.randn(batch, 1001, 384)
        ours, theirs = least_milliseconds(
            partial(model, **inputs),
            lambda hidden=hidden: bare.layernorm(bare.encoder(hidden).last_hidden_state),
            repetitions=max(4, repetitions // (4 * batch)),
        )
        yield Row(
            f"forward, 1000 tokens, batch {batch}: of the bare encoder",
            ours / theirs,
            1.03,
            False,
            f"{ours:.0f} ms / {theirs:.0f} ms",
        )


def photos_of_sixteen_sizes() -> list[np.ndarray]:
    """Noise of 160 to 520 rows and 200 to 650 columns."""
    generator = np.random.default_rng(0)
    return [
        generator.integers(0, 256, (160 + 24 * index, 200 + 30 * ((5 * index) % 16), 3), dtype=np.uint8)
        for index in range(16)
    ]


@torch.inference_mode()
def unlike_sizes_row(repetitions: int) -> Iterator[Row]:
    """Sixteen photos of sixteen sizes as one batch against one by one."""
    model, _ = small_models()
    processor, photos = CharmImageProcessor(max_num_patches=512), photos_of_sixteen_sizes()
    batch, singles = processor(photos), [processor(photo) for photo in photos]
    together, alone = least_milliseconds(
        lambda: model(**batch), lambda: [model(**single) for single in singles], repetitions=max(4, repetitions // 8)
    )
    yield Row(
        "16 photos of 16 sizes in one batch: of one by one (CPU)",
        together / alone,
        1.0,
        False,
        f"{together:.0f} ms / {alone:.0f} ms",
    )


def gmacs(num_tokens: int, depth: int = 12, width: int = 384, patch_values: int = 588) -> float:
    """Billions of multiplications of a DINOv2 encoder on `num_tokens` tokens and CLS, attention counted."""
    length = num_tokens + 1
    layer = 12 * length * width**2 + 2 * length**2 * width
    return (depth * layer + num_tokens * patch_values * width) / 1e9


@torch.inference_mode()
def gmac_rows(repetitions: int) -> Iterator[Row]:
    """GMACs against the poster's, and what a 640×640 photo costs by the released rules."""
    for length, poster in POSTER_GMACS.items():
        ours = gmacs(length)
        yield Row(
            f"GMACs of {length} tokens: distance from the poster",
            abs(ours / poster - 1),
            0.01,
            False,
            f"{ours:.2f} / {poster}",
        )
    model, _ = small_models()
    lengths = {
        "plain": plan_photo(640, 640, PlanRules(num_scales=1, overflow="keep")).num_tokens,
        "two scales": plan_photo(640, 640, PlanRules(num_scales=2, overflow="keep")).num_tokens,
        "three scales": plan_photo(640, 640, PlanRules(num_scales=3, overflow="keep")).num_tokens,
    }
    inputs = {name: random_tokens(1, length) for name, length in lengths.items()}
    times = least_milliseconds(
        *(partial(model, **tokens) for tokens in inputs.values()), repetitions=max(3, repetitions // 8)
    )
    for (name, length), milliseconds in zip(lengths.items(), times, strict=True):
        cost = gmacs(length) / gmacs(lengths["plain"])
        detail = f"{length} tokens, {gmacs(length):.1f} GMACs = {cost:.2f} of plain; {milliseconds:.0f} ms"
        yield Row(f"640×640, {name}: time, of plain", milliseconds / times[0], 1.1 * cost, False, detail)


def training_rows(folder: Path, repetitions: int) -> Iterator[Row]:
    """A training step of 16 × 512 tokens against a plain encoder's, and how long it waits for data."""
    model, bare = small_models()
    head = torch.nn.Linear(384, 1)
    inputs, hidden = random_tokens(16, 512), torch.randn(16, 513, 384)
    labels = torch.rand(16)

    def step_of(parameters: list[torch.nn.Parameter], loss: Any) -> Any:
        optimizer = torch.optim.AdamW(parameters, lr=1e-5)

        def step() -> None:
            loss().backward()
            optimizer.step()
            optimizer.zero_grad()

        return step

    ours = step_of(list(model.parameters()), lambda: model.train()(**inputs, labels=labels).loss)

    def plain_loss() -> torch.Tensor:
        states = bare.train().layernorm(bare.encoder(hidden).last_hidden_state)
        return (head(states[:, 0]).sigmoid()[:, 0] - labels).square().mean()

    theirs = step_of([*bare.parameters(), *head.parameters()], plain_loss)
    ours_ms, theirs_ms = least_milliseconds(ours, theirs, repetitions=max(4, repetitions // 10))
    yield Row(
        "training step, 16×512 tokens: of a plain encoder's",
        ours_ms / theirs_ms,
        1.05,
        False,
        f"{ours_ms:.0f} ms / {theirs_ms:.0f} ms",
    )
    path = make_photo(folder, 1024, 768)
    processor = CharmImageProcessor(max_num_patches=512, overflow="drop")
    loader = DataLoader([path] * 64, batch_size=16, num_workers=2, collate_fn=processor)
    yield _data_wait(loader, ours)


def _data_wait(loader: DataLoader, step: Any) -> Row:
    batches, waited, worked = iter(loader), 0.0, 0.0
    next(batches)  # workers start with the first batch
    for _ in range(2):
        start = time.perf_counter()
        next(batches)
        waited += time.perf_counter() - start
        start = time.perf_counter()
        step()
        worked += time.perf_counter() - start
    detail = f"{waited * 1e3:.0f} ms / {(waited + worked) * 1e3:.0f} ms"
    return Row("training, data wait with 2 workers: of the time", waited / (waited + worked), 0.05, False, detail)
