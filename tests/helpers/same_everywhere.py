"""What is the same on every machine: twenty photos' tokens and scores, and the regions that many photos keep.

python tests/helpers/same_everywhere.py tokens  # write down what is found now, after a change meant to move it
python tests/helpers/same_everywhere.py scores  # after new weights of the embedded model
"""

from __future__ import annotations

import hashlib
import json
import sys
from functools import cache
from pathlib import Path

import numpy as np
import torch
from many_photos import PLAIN_IMAGES, make_photos
from PIL import Image
from support import FIXTURES, photo_path

from charm_hf import CharmForAestheticScoring, CharmImageProcessor, embedded_model_path
from charm_hf.models.patch_selection_charm import SELECTIONS as EVERY_SELECTION
from charm_hf.models.patch_selection_charm import measure_importance, rank_regions


RECORDS = FIXTURES / "same_everywhere"
SELECTIONS = ("frequency", "released_frequency", "gradient", "entropy")
MEASURED = (*SELECTIONS, "spectral_residual")


@cache
def twenty_photos() -> dict[str, np.ndarray]:
    """Arrays (H, W, 3) by name; of lossless files only, since decoders of JPEG differ."""

    def read(name: str, top: int = 0, left: int = 0, height: int = 400, width: int = 500) -> np.ndarray:
        with Image.open(photo_path(name)) as image:
            return np.asarray(image.convert("RGB"))[top : top + height, left : left + width]

    coffee, astronaut = read("coffee"), read("astronaut", 0, 0, 512, 512)
    ramp = np.add.outer(np.arange(300), np.arange(420)) // 3
    waves = np.sin(np.arange(360) / 5).clip(0, 1)
    return {
        "coffee": coffee,
        "coffee, cut to a strip": read("coffee", 150, 0, 90, 600),
        "coffee, over-exposed": np.minimum(coffee.astype(np.uint16) * 3, 255).astype(np.uint8),
        "coffee, dark": coffee // 8,
        "chelsea": read("chelsea", 0, 0, 300, 451),
        "chelsea, two colours": (read("chelsea", 0, 0, 300, 451) > 128).astype(np.uint8) * 255,
        "astronaut": astronaut,
        "astronaut, upright": astronaut[:, 150:390],
        "astronaut, enlarged": astronaut.repeat(3, 0).repeat(3, 1),
        "china": read("china", 0, 0, 427, 640),
        "motorcycle": read("motorcycle_left", 0, 0, 480, 640),
        "moon": read("moon"),
        "bricks": read("brick"),
        "grass": read("grass"),
        "a page": read("page"),
        "a chessboard": read("chessboard_RGB", 0, 0, 200, 200).repeat(2, 0).repeat(2, 1),
        "a flat grey": np.full((350, 500, 3), 127, np.uint8),
        "a ramp": np.stack([ramp, ramp[::-1], 255 - ramp], -1).astype(np.uint8),
        "waves": np.repeat((np.outer(waves, waves) * 255).astype(np.uint8)[..., None], 3, -1),
        "a small square": read("coffee", 100, 200, 40, 40),
    }


def find_tokens() -> dict[str, dict[str, str]]:
    """Hash of the regions and of the pixels of each photo's tokens, by selection."""
    processor = CharmImageProcessor(max_num_patches=256)
    return {
        name: {each: _hash(processor(photo, patch_selection=each)) for each in SELECTIONS}
        for name, photo in twenty_photos().items()
    }


def _hash(inputs: dict[str, torch.Tensor]) -> str:
    regions = b"".join(inputs[name].numpy().tobytes() for name in ("scale_ids", "patch_positions", "spatial_shapes"))
    pixels = inputs["pixel_values"].numpy().tobytes()
    return " ".join(hashlib.sha256(part).hexdigest()[:12] for part in (regions, pixels))


def find_scores() -> dict[str, float]:
    """Score of each photo by the embedded model, in its own units."""
    folder = embedded_model_path()
    model = CharmForAestheticScoring.from_pretrained(folder).eval()
    processor = CharmImageProcessor.from_pretrained(folder)
    with torch.no_grad():
        return {name: round(model(**processor(photo)).scores.item(), 6) for name, photo in twenty_photos().items()}


@cache
def ten_images() -> list[torch.Tensor]:
    """Photos and patterns of one size, (3, H, W) each."""
    return make_photos(7) + [PLAIN_IMAGES[name]() for name in ("squares of many greys", "stripes of 3", "saturated")]


def find_choices() -> dict[str, str]:
    """Hash of the 64 regions that each of ten images keeps, as 8-bit and float computations rank them, by selection.

    Not written down: some of the photos are JPEG files.
    """
    found = {}
    for name in MEASURED:
        digest, selection = hashlib.sha256(), EVERY_SELECTION[name]
        for planes in ten_images():
            for importance in (measure_importance(selection, planes, 28), selection.importance(planes, 28)):
                kept = rank_regions(importance, (0, len(importance)))[:64].sort().values
                digest.update(kept.numpy().tobytes())
        found[name] = digest.hexdigest()
    return found


FOUND_BY = {"tokens": find_tokens, "scores": find_scores}


def differences(pixels: bool = True) -> list[str]:
    """What is found now and was not written down; without `pixels`, of tokens only which regions they are."""
    recorded = {kind: json.loads((RECORDS / f"{kind}.json").read_text(encoding="utf-8")) for kind in FOUND_BY}
    moved = [
        f"{name}: {each} gives {hash}, not {recorded['tokens'][name][each]}"
        for name, found in find_tokens().items()
        for each, hash in found.items()
        if (hash != recorded["tokens"][name][each] if pixels else hash[:12] != recorded["tokens"][name][each][:12])
    ]
    scores = recorded["scores"]
    return moved + [
        f"{name} scores {score}, not {scores[name]}"
        for name, score in find_scores().items()
        if abs(score - scores[name]) > 1e-4
    ]


def report(pixels: bool) -> None:
    """Print a line of JSON for one and for two threads: how this process computes, and what it finds."""
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found = {"capability": torch.backends.cpu.get_cpu_capability().lower(), "threads": torch.get_num_threads()}
        print(json.dumps({**found, "differences": differences(pixels), "choices": find_choices()}), flush=True)


def main() -> None:
    """Write records, or report what is found."""
    if sys.argv[1] == "report":
        return report(pixels="pixels" in sys.argv)
    for kind in sys.argv[1:]:
        RECORDS.mkdir(exist_ok=True)
        text = json.dumps(FOUND_BY[kind](), indent=1) + "\n"
        Path(RECORDS / f"{kind}.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
