"""What the kind of input is worth to a distilled encoder: Charm's tokens or one of its rivals', equal in number.

    python -m studies.charm_tiny.inputs --start runs/small --data_dir OASIS --work_dir runs/inputs
    python -m studies.charm_tiny.inputs --start runs/start --data_dir OASIS --work_dir runs/inputs   # not distilled

The situation of the paper: an encoder whose pretraining knew whole photos at a low resolution (the first distillation:
views of 224 to 320 pixels, every patch kept, one scale) is trained on ratings of larger photos. Each arm gets the same
folds, seeds, updates and about the same number of tokens; `native` gets all patches of the photo, for comparison.
Writes `results_inputs.csv` and prints a table: mean over folds and seeds, and the interval of each difference.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from charm_hf import CharmImageProcessor
from studies.oasis.photos import OasisData
from studies.results import markdown, read_rows, write_rows
from studies.statistics_of_runs import Estimate, claims, estimate
from studies.tokenization.arms import TOKENIZATIONS, Tokenization
from studies.tokenization.token_cache import ensure_cache, flip_tokens, load_cache
from studies.tokenization.training import Part, Recipe, run


HERE = Path(__file__).parent
PATCH_SIZE, MAX_NUM_PATCHES = 32, 104
RECIPE = Recipe(PATCH_SIZE, MAX_NUM_PATCHES, updates=80, batch_size=16, learning_rate=3e-4, weight_decay=0.05)
COLUMNS = ("start", "arm", "seed", "fold", "srcc", "plcc", "tokens", "seconds")
# Test photos by training photos of five folds.
FOLD_RATIO = 0.25


def keep_aspect(image: Image.Image, side: int, rng: np.random.Generator) -> Image.Image:
    """Shrink a photo, aspect ratio kept, until its patches are as many as those of a square of this side."""
    processor = CharmImageProcessor(
        patch_size=PATCH_SIZE, num_scales=1, max_num_patches=(side // PATCH_SIZE) ** 2, overflow="resize"
    )
    height, width = processor.plan(image.height, image.width).resized
    return image.resize((width, height), Image.Resampling.BICUBIC)


# All of two scales, as the encoder has them; only Charm's uses both.
ARMS = {
    "charm": replace(TOKENIZATIONS["charm-coarsen"], name="charm"),
    "squash": replace(TOKENIZATIONS["squash"], num_scales=2),
    "centre-crop": replace(TOKENIZATIONS["centre-crop"], num_scales=2),
    "pad-to-square": replace(TOKENIZATIONS["pad-to-square"], num_scales=2),
    "kept-aspect": Tokenization("kept-aspect", 2, prepare=keep_aspect),
    "native": replace(TOKENIZATIONS["native"], num_scales=2, prepare=lambda image, side, rng: image),
}


def pixel_statistics(start: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation of each value of a token, as the encoder knows them."""
    processor = CharmImageProcessor.from_pretrained(start)
    mean, std = (
        torch.tensor(values).repeat_interleave(PATCH_SIZE**2) for values in (processor.image_mean, processor.image_std)
    )
    return mean, std


def train_arm(arm: str, seed: int, fold: int, start: Path, data: OasisData, work_dir: Path) -> list[object]:
    """One run: a row of the table."""
    cache = load_cache(ensure_cache(work_dir / "tokens", ARMS[arm], data.photos, PATCH_SIZE, MAX_NUM_PATCHES, 1))
    folds = data.folds(seed)
    inside, held_out = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
    started = time.process_time()
    outcomes, _ = run(
        RECIPE,
        Part(cache, inside, data.targets[inside]),
        None,
        Part(cache, held_out, data.targets[held_out]),
        seed=seed * 5 + fold,
        augment=partial(flip_tokens, patch_size=PATCH_SIZE),
        start=start,
        normalize=pixel_statistics(start),
    )
    found = outcomes[0]
    seconds = round(time.process_time() - started, 1)
    return [
        start.name,
        arm,
        seed,
        fold,
        round(found.srcc, 4),
        round(found.plcc, 4),
        round(cache.mean_tokens, 1),
        seconds,
    ]


def table(path: Path) -> str:
    """Mean of each arm and Charm's lead over it, paired by seed and fold; intervals allow for shared photos.

    A lead is bold if it holds after Holm's correction for all of the table.
    """
    rows = read_rows(path)
    lines: list[list[str]] = []
    leads: list[list[Estimate | None]] = []
    for start in dict.fromkeys(row["start"] for row in rows):
        own = [row for row in rows if row["start"] == start]
        values = {
            arm: {(row["seed"], row["fold"]): float(row["srcc"]) for row in own if row["arm"] == arm} for arm in ARMS
        }
        for arm, found in values.items():
            if not found:
                continue
            shared = [key for key in found if key in values["charm"]]
            more = estimate([values["charm"][key] - found[key] for key in shared], FOLD_RATIO) if shared else None
            leads.append([None if arm == "charm" else more])
            tokens = next(row["tokens"] for row in own if row["arm"] == arm)
            lines.append([start, arm, tokens, str(len(found)), f"{np.mean(list(found.values())):.3f}"])
    cells = [[*line, *lead] for line, lead in zip(lines, claims(leads), strict=True)]
    return markdown(["start", "input", "tokens", "runs", "SRCC", "Charm's lead"], cells)


def main(argv: Sequence[str] | None = None) -> None:
    """Train what `results_inputs.csv` lacks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--start", type=Path, required=True, help="encoder; its folder's name is written down")
    add("--data_dir", type=Path, required=True)
    add("--work_dir", type=Path, required=True, help="of the tokens")
    add("--output", type=Path, default=HERE / "results_inputs.csv")
    add("--seeds", type=int, default=5)
    add("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    data = OasisData.read(args.data_dir)
    rows: list[list[object]] = [[row[name] for name in COLUMNS] for row in read_rows(args.output)]
    done = {tuple(str(value) for value in row[:4]) for row in rows}
    for seed in range(args.seeds):
        for arm in args.arms:
            for fold in range(5):
                if (args.start.name, arm, str(seed), str(fold)) not in done:
                    rows.append(train_arm(arm, seed, fold, args.start, data, args.work_dir))
                    write_rows(args.output, COLUMNS, rows)
    print(table(args.output))


if __name__ == "__main__":
    main()
