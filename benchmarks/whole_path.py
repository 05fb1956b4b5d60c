"""The whole path of a photo, from the file to the row of the table, and what bounds it; beside other models of taste.

Every model has random weights: what it costs does not depend on them. Time is processor time of one thread.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    Dinov2Config,
    Dinov2Model,
    Siglip2VisionConfig,
    Siglip2VisionModel,
)

from benchmarks.measure import least_milliseconds
from benchmarks.peer_worker import declare_missing_operators
from benchmarks.photos import decode, make_photo
from charm_hf import CharmForAestheticScoring, CharmImageProcessor, embedded_model_path
from charm_hf.models.image_loading_charm import image_size, load_image
from charm_hf.scoring import open_table
from charm_hf.scoring.rows import ScoreRow


SIZES = {"500×400": (500, 400), "1024×768": (1024, 768), "12 megapixels": (4000, 3000)}
DINO_SMALL = {"hidden_size": 384, "num_attention_heads": 6, "image_size": 518, "patch_size": 14}
STEPS = ("header", "plan", "decode", "regions and tokens", "model", "row", "sum", "photos a second")

Model = tuple[Any, CharmImageProcessor]


def our_models() -> dict[str, Model]:
    """`charm-tiny` as it lies in the package, and DINOv2-small's shape with AVA's 512 tokens."""
    path = embedded_model_path()
    tiny = CharmForAestheticScoring.from_pretrained(path).eval(), CharmImageProcessor.from_pretrained(path)
    small = CharmForAestheticScoring.from_backbone(Dinov2Config(**DINO_SMALL), dataset="ava").eval()
    return {"charm-tiny": tiny, "DINOv2-small, 512 tokens": (small, CharmImageProcessor.for_dataset("ava"))}


@torch.inference_mode()
def split_rows(folder: Path, repetitions: int) -> Iterator[str]:
    """Milliseconds of each step, for three sizes of photo and two models."""
    yield "| photo | model | " + " | ".join(STEPS) + " |"
    yield "|---" * (len(STEPS) + 2) + "|"
    for size, (width, height) in SIZES.items():
        path = make_photo(folder, width, height)
        rounds = max(3, repetitions // (8 if width > 2000 else 2))
        for name, (model, processor) in our_models().items():
            inputs = processor(path)
            row = ScoreRow(str(path), score=5.0, normalized_score=0.5, std=1.0, width=width, height=height, tokens=512)
            with open_table(folder / "rows.csv") as write:
                header, plan, decoding, tokens, forward, written = least_milliseconds(
                    partial(image_size, path),
                    lambda processor=processor, size=(height, width): _planned(processor, *size),
                    partial(decode, path),
                    partial(processor, path),
                    lambda model=model, inputs=inputs: model(**inputs),
                    lambda write=write, row=row: write([row]),
                    repetitions=rounds,
                )
            steps = [header, plan, decoding, tokens - decoding, forward, written]
            total = header + tokens + forward + written
            cells = [f"{step:.2f}" for step in steps] + [f"{total:.1f}", f"{1e3 / total:.1f}"]
            yield f"| {size} | {name} | " + " | ".join(cells) + " |"


def _planned(processor: CharmImageProcessor, height: int, width: int) -> None:
    """Plan a photo of a size that no photo had before: plans are remembered."""
    from charm_hf.models.plan_charm import plan_photo

    plan_photo.cache_clear()
    processor.plan(height, width)


@torch.inference_mode()
def bound_rows(folder: Path, repetitions: int) -> Iterator[str]:
    """Decoding, the memory traffic of tokens, the encoder's arithmetic at the rate of this machine's own products."""
    side = 1024
    left, right = torch.randn(side, 384), torch.randn(384, 1536)
    rate = side * 384 * 1536 / least_milliseconds(lambda: left @ right, repetitions=50)[0] / 1e6  # GMAC a second
    block = torch.empty(8 * 2**20, dtype=torch.uint8)
    copying = 2 * block.numel() / least_milliseconds(partial(block.clone), repetitions=20)[0] / 1e6  # GB a second
    yield f"products of {side}×384 by 384×1536: {rate:.0f} GMAC/s; memory: {copying:.1f} GB/s\n"
    yield "| photo | model | decoding | traffic of tokens | arithmetic | sum | measured | of the sum |"
    yield "|---" * 8 + "|"
    from torch.utils.flop_counter import FlopCounterMode

    for size, (width, height) in SIZES.items():
        path = make_photo(folder, width, height)
        for name, (model, processor) in our_models().items():
            inputs = processor(path)
            with FlopCounterMode(display=False) as counter:
                model(**inputs)
            arithmetic = counter.get_total_flops() / 2e9 / rate * 1e3
            # Once read as bytes, once written as numbers, once read by the model.
            traffic = (width * height * 3 + 2 * inputs["pixel_values"].nbytes) / copying / 1e6
            decoding, measured = least_milliseconds(
                partial(decode, path),
                lambda model=model, processor=processor, path=path: model(**processor(path)),
                repetitions=max(3, repetitions // (8 if width > 2000 else 2)),
            )
            total = decoding + traffic + arithmetic
            cells = [f"{value:.1f}" for value in (decoding, traffic, arithmetic, total, measured)]
            yield f"| {size} | {name} | " + " | ".join(cells) + f" | {measured / total:.2f} |"


# ---------------------------------------------------------------------------------------------------------------------
# Others, built here in their published shapes.


def _pixels(image: Image.Image) -> torch.Tensor:
    return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(image.height, image.width, 3)


def _square(path: Path, side: int) -> torch.Tensor:
    """As image processors do it: shortest edge to `side`, centre crop, normalized."""
    image = load_image(path)
    scale = side / min(image.size)
    width, height = (max(side, round(edge * scale)) for edge in image.size)
    left, top = (width - side) // 2, (height - side) // 2
    image = image.resize((width, height), Image.Resampling.BICUBIC).crop((left, top, left + side, top + side))
    return (_pixels(image).permute(2, 0, 1).float() / 127.5 - 1)[None]


def _naflex(path: Path, limit: int, patch: int) -> dict[str, torch.Tensor]:
    image = load_image(path)
    scale = (limit * patch**2 / (image.width * image.height)) ** 0.5
    columns, rows = (max(1, int(edge * scale / patch)) for edge in image.size)
    pixels = _pixels(image.resize((columns * patch, rows * patch), Image.Resampling.BILINEAR)).float() / 127.5 - 1
    patches = pixels.view(rows, patch, columns, patch, 3).permute(0, 2, 1, 3, 4).reshape(1, rows * columns, -1)
    mask = torch.ones(1, rows * columns, dtype=torch.long)
    return {"pixel_values": patches, "pixel_attention_mask": mask, "spatial_shapes": torch.tensor([[rows, columns]])}


def _clip_large() -> Callable[[Path], Any]:
    shape = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
    model = CLIPVisionModel(CLIPVisionConfig(**shape, patch_size=14, projection_dim=768)).eval()
    return lambda path: model(_square(path, 224))


def _dinov2_small() -> Callable[[Path], Any]:
    model = Dinov2Model(Dinov2Config(**DINO_SMALL)).eval()
    return lambda path: model(_square(path, 224))


def _siglip2_naflex() -> Callable[[Path], Any]:
    model = Siglip2VisionModel(Siglip2VisionConfig(num_patches=256)).eval()
    return lambda path: model(**_naflex(path, 256, 16))


# What its networks import; all of what it asks for would bring another torch.
PYIQA = ["pyiqa==0.1.16", "timm", "einops", "addict", "yacs", "torchvision==0.28.0"]
PYIQA += ["opencv-python-headless", "facexlib", "lmdb", "future"]
PYIQA_FOLDER = Path.home() / ".cache" / "charm-hf-benchmarks" / "pyiqa"
_kept: list[Any] = []  # names of operators that vanish with what declared them


def _pyiqa(name: str) -> Callable[[Path], Any]:
    if not PYIQA_FOLDER.exists():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", PYIQA_FOLDER]
        subprocess.run([*pip, *PYIQA], check=True, stdout=sys.stderr)
    sys.path.append(str(PYIQA_FOLDER))
    if torch.version.cuda is None:
        _kept.append(declare_missing_operators())
    import timm  # type: ignore[import-not-found]

    create = timm.create_model  # which NIMA and TOPIQ would have fetch weights
    timm.create_model = lambda *values, **options: create(*values, **{**options, "pretrained": False})
    for module in ("nima_arch", "musiq_arch", "topiq_arch"):
        import_module(f"pyiqa.archs.{module}")
    from pyiqa.utils.registry import ARCH_REGISTRY  # type: ignore[import-not-found]

    options = {
        "NIMA": {"base_model_name": "inception_resnet_v2", "num_classes": 10},
        "CFANet": {
            "semantic_model_name": "resnet50",
            "use_ref": False,
            "inter_dim": 512,
            "num_heads": 8,
            "num_class": 10,
        },
    }
    network = ARCH_REGISTRY.get(name)(pretrained=False, **options.get(name, {})).eval()
    return lambda path: network(_pixels(load_image(path)).permute(2, 0, 1)[None].float() / 255)


OTHERS: dict[str, tuple[Callable[[], Callable[[Path], Any]], str]] = {
    "CLIP ViT-L/14 and a linear head (simple-aesthetics-predictor)": (_clip_large, "224×224, cropped"),
    "plain DINOv2-small": (_dinov2_small, "224×224, cropped"),
    "SigLIP 2 base, NaFlex": (_siglip2_naflex, "256 patches, the whole photo"),
    "NIMA, Inception-ResNet-v2 (pyiqa)": (partial(_pyiqa, "NIMA"), "as given to it"),
    "MUSIQ (pyiqa)": (partial(_pyiqa, "MUSIQ"), "three scales of 224 to native"),
    "TOPIQ-IAA, ResNet-50 (pyiqa)": (partial(_pyiqa, "CFANet"), "as given to it"),
}


def rival_rows(folder: Path, repetitions: int) -> Iterator[str]:
    """Photos a second, arithmetic and memory of other models on the same 1024×768 photo, each in its own process."""
    path = make_photo(folder, *SIZES["1024×768"])
    yield "| model | photos a second | GMACs | peak memory, MB | sees |"
    yield "|---" * 5 + "|"
    ours = {
        "charm-tiny": "13 regions of 64×64 native, the whole at 104 tokens",
        "DINOv2-small, 512 tokens": "64 regions native, the whole at 512 tokens",
    }
    for name, sees in {**ours, **{name: sees for name, (_, sees) in OTHERS.items()}}.items():
        command = [sys.executable, "-m", "benchmarks.whole_path", name, str(path), str(max(3, repetitions // 8))]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        if done.returncode:
            yield f"| {name} | not run: {done.stderr.strip().splitlines()[-1]} | | | {sees} |"
            continue
        milliseconds, gmacs, megabytes = map(float, done.stdout.split()[-3:])
        yield f"| {name} | {1e3 / milliseconds:.1f} | {gmacs:.1f} | {megabytes:.0f} | {sees} |"


@torch.inference_mode()
def measure_one(name: str, path: Path, repetitions: int) -> None:
    """Print milliseconds from the file to the answer, GMACs, and the peak memory of this process in MB."""
    import resource

    from torch.utils.flop_counter import FlopCounterMode

    torch.set_num_threads(1)
    if name in OTHERS:
        answer = OTHERS[name][0]()
    else:
        model, processor = our_models()[name]
        answer = lambda path: model(**processor(path))  # noqa: E731
    with FlopCounterMode(display=False) as counter:
        answer(path)
    milliseconds = least_milliseconds(partial(answer, path), repetitions=repetitions)[0]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(milliseconds, counter.get_total_flops() / 2e9, peak)


if __name__ == "__main__":
    measure_one(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
