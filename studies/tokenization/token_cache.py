"""Tokens of many images on disk, made once and read by every run."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from studies.tokenization.arms import Tokenization


# Of each token, kept one after the other without padding; of each image.
TOKEN_ARRAYS = {"pixel_values": np.uint8, "scale_ids": np.uint8, "patch_positions": np.int16}
IMAGE_ARRAYS = ("spatial_shapes", "lengths", "starts")
Photo = tuple[np.ndarray, "np.ndarray | None"]


@dataclass(frozen=True)
class TokenCache:
    """Tokens of N images, D draws each, T in all.

    Attributes:
        arrays: `pixel_values` (T, C·P·P) uint8, `scale_ids` (T,), `patch_positions` (T, 2), and for each image and
            draw `spatial_shapes` (N, D, S, 2), `lengths` (N, D), `starts` (N, D).
        milliseconds: CPU time to tokenize one image.
    """

    arrays: dict[str, np.ndarray]
    milliseconds: float

    @property
    def mean_tokens(self) -> float:
        """Tokens of an image, on average."""
        return float(self.arrays["lengths"].mean())

    @property
    def num_draws(self) -> int:
        """Draws of each image."""
        return self.arrays["lengths"].shape[1]

    @property
    def num_scales(self) -> int:
        """Scales of the tokens."""
        return self.arrays["spatial_shapes"].shape[2]

    def batch(
        self,
        images: np.ndarray,
        draws: np.ndarray,
        normalize: tuple[float, float] | tuple[torch.Tensor, torch.Tensor],
        pad_to: int = 0,
    ) -> dict[str, torch.Tensor]:
        """What the model takes, for these images in these draws, padded to the longest of them.

        Args:
            images, draws: (B,) indices.
            normalize: mean and standard deviation of pixels in [0, 1], of all or (D,) of each value.
            pad_to: pad to at least so many tokens.
        """
        lengths = self.arrays["lengths"][images, draws]
        starts = self.arrays["starts"][images, draws]
        length = max(int(lengths.max()), pad_to)

        def take(name: str) -> torch.Tensor:
            source = self.arrays[name]
            rows = np.zeros((len(images), length, *source.shape[1:]), dtype=source.dtype)
            for row, start, count in zip(rows, starts, lengths, strict=True):
                row[:count] = source[start : start + count]
            return torch.from_numpy(rows)

        mask = torch.arange(length)[None] < torch.from_numpy(lengths)[:, None]
        mean, std = normalize
        values = take("pixel_values").float().mul_(1 / (255 * std)).sub_(mean / std)
        values[~mask] = 0.0
        return {
            "pixel_values": values,
            "pixel_attention_mask": mask.long(),
            "scale_ids": take("scale_ids").long(),
            "patch_positions": take("patch_positions").long(),
            "spatial_shapes": torch.from_numpy(self.arrays["spatial_shapes"][images, draws]),
        }


def flip_tokens(batch: dict[str, torch.Tensor], rng: np.random.Generator, patch_size: int) -> dict[str, torch.Tensor]:
    """Mirror photos left and right with probability one half, without going back to their pixels.

    Each token is mirrored, and so is its column in the grid of its scale.
    """
    flipped = torch.from_numpy(rng.random(len(batch["scale_ids"])) < 0.5)
    values = batch["pixel_values"]
    mirrored = values.unflatten(-1, (-1, patch_size, patch_size)).flip(-1).flatten(-3)
    columns = batch["spatial_shapes"][..., 1].gather(1, batch["scale_ids"])
    positions = batch["patch_positions"].clone()
    positions[..., 1] = torch.where(
        (batch["pixel_attention_mask"] == 1) & flipped[:, None],
        columns - 1 - positions[..., 1],
        positions[..., 1],
    )
    return {
        **batch,
        "pixel_values": torch.where(flipped[:, None, None], mirrored, values),
        "patch_positions": positions,
    }


def ensure_cache(
    folder: Path,
    tokenization: Tokenization,
    photos: Callable[[], Sequence[Photo]],
    patch_size: int,
    max_num_patches: int,
    num_draws: int,
) -> Path:
    """Make a cache unless it is there, and say where; a random tokenization gets `num_draws` draws, others one.

    Args:
        folder: of all caches of these images.
        tokenization: how.
        photos: gives all images with their saliency maps; called only if they are needed.
        patch_size, max_num_patches: of the tokens.
        num_draws: of a random tokenization.
    """
    target = folder / tokenization.name
    if not target.exists():
        temporary = folder / f".tmp-{tokenization.name}-{os.getpid()}"
        temporary.mkdir(parents=True)
        _write_cache(temporary, tokenization, photos(), patch_size, max_num_patches, num_draws)
        try:
            os.rename(temporary, target)
        except OSError:  # another process was faster
            shutil.rmtree(temporary)
    return target


@lru_cache(maxsize=2)  # what a run trains and is tested on; the next one often needs the same
def load_cache(target: Path) -> TokenCache:
    """Read a cache into memory: hundreds of small reads a second of a mapped file would wait for the disk."""
    arrays = {name: np.load(target / f"{name}.npy") for name in (*TOKEN_ARRAYS, *IMAGE_ARRAYS)}
    return TokenCache(arrays, json.loads((target / "cost.json").read_text())["milliseconds"])


def _write_cache(
    folder: Path,
    tokenization: Tokenization,
    photos: Sequence[Photo],
    patch_size: int,
    max_num_patches: int,
    num_draws: int,
) -> None:
    draws = num_draws if tokenization.is_random else 1
    kept: dict[str, list[np.ndarray]] = {name: [] for name in (*TOKEN_ARRAYS, "spatial_shapes")}
    lengths = []
    started = time.process_time()
    for index, (pixels, saliency) in enumerate(photos):
        for draw in range(draws):
            row = tokenization(pixels, saliency, patch_size, max_num_patches, seed=index * 1000 + draw)
            for name, parts in kept.items():
                parts.append(row[name].numpy().astype(TOKEN_ARRAYS.get(name, np.int64), copy=False))
            lengths.append(len(row["scale_ids"]))
    milliseconds = (time.process_time() - started) * 1000 / len(lengths)
    shape = (len(photos), draws)
    starts = np.cumsum([0, *lengths[:-1]])
    for name in TOKEN_ARRAYS:
        np.save(folder / f"{name}.npy", np.concatenate(kept.pop(name)))
    for name, values in {"lengths": lengths, "starts": starts, "spatial_shapes": kept["spatial_shapes"]}.items():
        array = np.asarray(values, dtype=np.int64)
        np.save(folder / f"{name}.npy", array.reshape(*shape, *array.shape[1:]))
    (folder / "cost.json").write_text(json.dumps({"milliseconds": milliseconds}))
