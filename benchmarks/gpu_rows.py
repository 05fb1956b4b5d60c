"""The rows about an accelerator. Where there is none they stay open, and say so.

What they measure is the same code on any device: tests run it on the CPU, with an encoder that costs nothing there.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import PretrainedConfig
from transformers.utils import is_flash_attn_2_available

from benchmarks.encoder_rows import describe
from benchmarks.measure import least_milliseconds
from benchmarks.model_rows import gmacs, photos_of_sixteen_sizes, random_tokens
from benchmarks.photos import make_photo
from benchmarks.scoring import engine_seconds
from benchmarks.table import Row
from charm_hf import CharmForAestheticScoring, CharmImageProcessor
from charm_hf.models.packed_attention_charm import PACKED_SDPA
from charm_hf.scoring import Scorer, ScoringOptions, load_for_scoring


# What is measured, and the least that it should reach.
GOALS = {
    "tokens of a 1024×768 photo on the device: speed-up over one core": 1.0,
    "16 photos of 16 sizes, packed: speed-up over padded": 1.3,
    "forward, 32 × 512 tokens, bfloat16: speed-up over float32": 1.5,
    "forward, 32 × 512 tokens, compiled: speed-up over eager": 1.0,
    "forward, 32 × 512 tokens, CUDA graphs: speed-up over eager": 1.0,
    "JPEG in, row out, 512 tokens, S: photos a second": 1500,
    "JPEG in, row out, 512 tokens, L: photos a second": 400,
    "training step, 32 × 512 tokens: of the rate of large bfloat16 products": 0.4,
}
# Encoders of the last rows; their patches have 14 pixels.
ENCODERS = {size: describe("dinov2", f"{size}/14") for size in ("S", "L")}
Step = Callable[[], Any]


def gpu_rows(
    folder: Path,
    repetitions: int,
    device: str | None = None,
    encoders: dict[str, PretrainedConfig] = ENCODERS,
    photos: int = 20_000,
    workers: int | None = None,
) -> Iterator[Row | str]:
    """All rows, in the order of `GOALS`; a line that says "open" for each, where there is no GPU and no device given.

    Args:
        folder: for photos and checkpoints.
        repetitions: of each measurement.
        device: a GPU if not given.
        encoders: small and large, by the names that stand in `GOALS`.
        photos: of 640×480 pixels that are scored.
        workers: processes that decode and tokenize them; one for every core but one if not given.
    """
    if device is None and not torch.cuda.is_available():
        yield from (f"| {name} | | ≥ {goal:g} | open | no GPU was at hand |" for name, goal in GOALS.items())
        return
    place = torch.device(device or "cuda")
    small = next(iter(encoders.values()))
    found = [
        _tokenizing(folder, place, repetitions),
        _packing(small, place, repetitions),
        *_forward(small, place, repetitions),
        *(_files_to_rows(folder / size, config, place, photos, workers) for size, config in encoders.items()),
        _training(small, place, repetitions),
    ]
    for (name, goal), (reached, detail) in zip(GOALS.items(), found, strict=True):
        yield Row(name, reached, goal, True, detail)


def _model(config: PretrainedConfig, device: torch.device, dtype: torch.dtype) -> CharmForAestheticScoring:
    torch.manual_seed(0)
    return CharmForAestheticScoring.from_backbone(config, dataset="aadb").to(device, dtype).eval()


def _milliseconds(device: torch.device, repetitions: int, *calls: Step) -> list[float]:
    """By the clock, of what the device does in each call; the first, which compiles, does not count."""

    def done(call: Step) -> None:
        call()
        if device.type != "cpu":
            torch.accelerator.synchronize(device)

    steps = [partial(done, call) for call in calls]
    least_milliseconds(*steps, repetitions=2)
    return least_milliseconds(*steps, repetitions=repetitions, clock=time.perf_counter)


def _compared(before: float, after: float) -> tuple[float, str]:
    return before / after, f"{before:.2f} ms / {after:.2f} ms"


def _tokenizing(folder: Path, device: torch.device, repetitions: int) -> tuple[float, str]:
    processor = CharmImageProcessor(max_num_patches=512)
    pixels = np.array(Image.open(make_photo(folder, 1024, 768)))
    moved = torch.from_numpy(pixels).permute(2, 0, 1).to(device)
    return _compared(*_milliseconds(device, repetitions, lambda: processor(pixels), lambda: processor(moved)))


@torch.inference_mode()
def _packing(config: PretrainedConfig, device: torch.device, repetitions: int) -> tuple[float, str]:
    batch = CharmImageProcessor(max_num_patches=512)(photos_of_sixteen_sizes()).to(device)
    names = ["sdpa", PACKED_SDPA, *(["flash_attention_2"] if is_flash_attn_2_available() else [])]
    calls = []
    for name in names:
        model = _model(config, device, torch.bfloat16)
        model.set_attn_implementation(name)
        calls.append(partial(model, **batch))
    padded, *packed = _milliseconds(device, repetitions, *calls)
    best, name = min(zip(packed, names[1:], strict=True))
    ratio, detail = _compared(padded, best)
    return ratio, f"{detail}, {name}"


@torch.inference_mode()
def _forward(config: PretrainedConfig, device: torch.device, repetitions: int) -> list[tuple[float, str]]:
    """In bfloat16, compiled, and as CUDA graphs, which one shape of batch allows."""
    inputs = {name: value.to(device) for name, value in random_tokens(32, 512).items()}
    exact, half = (_model(config, device, dtype) for dtype in (torch.float32, torch.bfloat16))
    compiled = [torch.compile(half, mode=mode) for mode in ("default", "reduce-overhead")]
    calls = (partial(model, **inputs) for model in (exact, half, *compiled))
    slow, fast, *faster = _milliseconds(device, repetitions, *calls)
    return [_compared(slow, fast), *(_compared(fast, value) for value in faster)]


def _files_to_rows(
    folder: Path, config: PretrainedConfig, device: torch.device, photos: int, workers: int | None
) -> tuple[float, str]:
    """Scores of files, each a link to one of a hundred."""
    model, processor = _model(config, device, torch.float32), CharmImageProcessor(max_num_patches=512)
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    originals = [make_photo(folder, 640, 480 + number) for number in range(min(100, photos))]
    paths = [folder / f"{number}.jpg" for number in range(photos)]
    for number, path in enumerate(paths):
        path.symlink_to(originals[number % len(originals)])
    workers = max(1, (os.cpu_count() or 1) - 1) if workers is None else workers
    loaded = load_for_scoring(str(folder / "model"), device=device, dtype="bfloat16")
    seconds, _ = engine_seconds(Scorer(*loaded, ScoringOptions(num_workers=workers)), paths)
    return 1 / seconds, f"{photos:,} photos of 640×480, {workers} worker processes"


def _training(config: PretrainedConfig, device: torch.device, repetitions: int) -> tuple[float, str]:
    """Arithmetic of a step in autocast, three times that of a forward pass, a second; beside products of 8192²."""
    model = _model(config, device, torch.float32).train()
    inputs = {name: value.to(device) for name, value in random_tokens(32, 512).items()}
    labels, optimizer = torch.rand(32, device=device), torch.optim.AdamW(model.parameters(), lr=1e-5)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            loss = model(**inputs, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    side = 8192 if device.type != "cpu" else 1024
    matrix = torch.randn(side, side, device=device, dtype=torch.bfloat16)
    taken, product = _milliseconds(device, repetitions, step, lambda: matrix @ matrix)
    layers, width = config.num_hidden_layers, config.hidden_size
    rate, peak = 3 * 32 * gmacs(512, layers, width) / taken, side**3 / 1e9 / product
    return rate / peak, f"{2 * rate:.0f} / {2 * peak:.0f} TFLOP/s, a step of {taken:.0f} ms"
