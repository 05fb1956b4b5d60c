"""Gradient ascent on pixels: how much of the reward that an attacker gains is left in a view that nobody optimized.

    OMP_NUM_THREADS=1 python -m studies.reward.run examples/photos/*.jpg --steps 20 --figure docs/images/reward.jpg

Each photo is changed for so many steps of the sign of the gradient (1/255 each, at most `--bound` /255 from the
photo), once climbing the plain reward (one view, always the same) and once the mean of eight random views, new ones
each step. Then the reward of the attacked view, the mean of eight unseen views, and a held-out view (the photo shrunk
to nine tenths) are compared with those of the photo. The figure shows a photo, the gradient of its reward at its
pixels, and the two attacks.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from charm_hf import AestheticReward
from studies.results import markdown, write_rows


RESULTS = Path(__file__).parent / "results.csv"
HEADER = ("climbed", "attacked view", "8 unseen views", "held-out view")
ATTACKS = {"one view": 1, "mean of 8 random views": 8}


def read_photo(path: Path, edge: int) -> torch.Tensor:
    """(1, 3, H, W) in [0, 1], shrunk to a longest edge."""
    image = Image.open(path).convert("RGB")
    image.thumbnail((edge, edge))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255


def climb(photo: torch.Tensor, reward: AestheticReward, steps: int, bound: float) -> torch.Tensor:
    """The photo after so many steps up the gradient of a reward, no pixel further than `bound` from where it was."""
    attacked = photo.clone()
    for _ in range(steps):
        attacked.requires_grad_(True)
        (gradient,) = torch.autograd.grad(reward(attacked).sum(), attacked)
        attacked = (attacked.detach() + gradient.sign() / 255).clamp(photo - bound, photo + bound).clamp(0, 1)
    return attacked.detach()


def shrunk(image: torch.Tensor) -> torch.Tensor:
    """The image at nine tenths of its size."""
    return F.interpolate(image, scale_factor=0.9, mode="bicubic", antialias=True).clamp(0, 1)


def study(
    paths: list[Path], model: str | None, steps: int, bound: int, edge: int
) -> tuple[list[list[str]], list[torch.Tensor]]:
    """A row an attack, and what the figure shows of the first photo."""
    plain = AestheticReward(model, device="cpu", differentiable=True)
    unseen = AestheticReward(plain.model, plain.processor, num_views=8, seed=99)
    judges = dict(zip(HEADER[1:], (plain, unseen, lambda image: plain(shrunk(image))), strict=True))
    gains: dict[str, dict[str, list[float]]] = {attack: {judge: [] for judge in judges} for attack in ATTACKS}
    shown: list[torch.Tensor] = []
    for path in paths:
        photo = read_photo(path, edge)
        before = {judge: float(rate(photo).detach()) for judge, rate in judges.items()}
        for attack, num_views in ATTACKS.items():
            reward = AestheticReward(plain.model, plain.processor, differentiable=True, num_views=num_views)
            attacked = climb(photo, reward, steps, bound / 255)
            if path == paths[0]:
                shown += [] if shown else [photo, gradient_picture(photo, plain)]
                shown.append(attacked)
            for judge, rate in judges.items():
                gains[attack][judge].append(float(rate(attacked).detach()) - before[judge])
    return [[attack, *(f"{np.mean(found):+.3f}" for found in gains[attack].values())] for attack in ATTACKS], shown


def gradient_picture(photo: torch.Tensor, reward: AestheticReward) -> torch.Tensor:
    """Size of the gradient of the reward at each pixel, (1, 3, H, W), white from the 99th percentile on."""
    pixels = photo.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(reward(pixels).sum(), pixels)
    size = gradient.abs().sum(1, keepdim=True)
    return (size / size.flatten().quantile(0.99)).clamp(0, 1).expand(-1, 3, -1, -1)


def main() -> None:
    """Run the study, write its table and the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", nargs="+", type=Path)
    parser.add_argument("--model", help="the embedded demonstration checkpoint if not given")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--bound", type=int, default=8, help="most that a pixel may change, of 255")
    parser.add_argument("--edge", type=int, default=448, help="longest edge that photos are shrunk to")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--figure", type=Path)
    args = parser.parse_args()
    torch.manual_seed(0)
    rows, shown = study(args.photos, args.model, args.steps, args.bound, args.edge)
    write_rows(args.output, HEADER, rows)
    print(markdown(HEADER, rows))
    if args.figure:
        strip = (torch.cat(shown, dim=-1)[0] * 255).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(strip).save(args.figure, quality=88)


if __name__ == "__main__":
    main()
