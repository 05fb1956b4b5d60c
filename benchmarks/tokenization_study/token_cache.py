"""Tokens of many images on disk, made once and read by every run."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.tokenization_study.arms import TOKENIZATIONS


ARRAYS = ("pixel_values", "scale_ids", "patch_positions", "spatial_shapes", "lengths")
Photo = tuple[np.ndarray, "np.ndarray | None"]


@dataclass(frozen=True)
class TokenCache:
    """Tokens of N images, D draws each, padded with zeros to the longest; memory-mapped.

    Attributes:
        arrays: `pixel_values` (N, D, L, C·P·P) uint8, `scale_ids` (N, D, L), `patch_positions` (N, D, L, 2),
            `spatial_shapes` (N, D, S, 2), `lengths` (N, D).
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
        self, images: np.ndarray, draws: np.ndarray, normalize: tuple[float, float], pad_to: int = 0
    ) -> dict[str, torch.Tensor]:
        """What the model takes, for these images in these draws, padded to the longest of them.

        Args:
            images, draws: (B,) indices.
            normalize: mean and standard deviation of pixels in [0, 1] that are taken out.
            pad_to: pad to at least so many tokens.
        """
        lengths = self.arrays["lengths"][images, draws]
        longest = int(lengths.max())
        length = max(longest, pad_to)

        def take(name: str) -> torch.Tensor:
            rows = np.stack([self.arrays[name][i, d, :longest] for i, d in zip(images, draws, strict=True)])
            tensor = torch.from_numpy(rows)
            padding = (0, 0) * (tensor.ndim - 2) + (0, length - longest)
            return torch.nn.functional.pad(tensor, padding)

        mask = torch.arange(length)[None] < torch.from_numpy(lengths.astype(np.int64))[:, None]
        mean, std = normalize
        values = take("pixel_values").float().mul_(1 / (255 * std)).sub_(mean / std)
        values[~mask] = 0.0
        return {
            "pixel_values": values,
            "pixel_attention_mask": mask.long(),
            "scale_ids": take("scale_ids").long(),
            "patch_positions": take("patch_positions").long(),
            "spatial_shapes": torch.from_numpy(self.arrays["spatial_shapes"][images, draws].astype(np.int64)),
        }


def load_or_make_cache(
    folder: Path,
    tokenization: str,
    photos: Callable[[], Sequence[Photo]],
    patch_size: int,
    max_num_patches: int,
    num_draws: int,
) -> TokenCache:
    """Open a cache, or make it first; a random tokenization gets `num_draws` draws, others one.

    Args:
        folder: of all caches of these images.
        tokenization: key of `TOKENIZATIONS`.
        photos: gives all images with their saliency maps; called only if they are needed.
        patch_size, max_num_patches: of the tokens.
        num_draws: of a random tokenization.
    """
    target = folder / tokenization
    if not target.exists():
        temporary = folder / f".tmp-{tokenization}-{os.getpid()}"
        temporary.mkdir(parents=True)
        _write_cache(temporary, tokenization, photos(), patch_size, max_num_patches, num_draws)
        try:
            os.rename(temporary, target)
        except OSError:  # another process was faster
            shutil.rmtree(temporary)
    arrays = {name: np.load(target / f"{name}.npy", mmap_mode="r") for name in ARRAYS}
    return TokenCache(arrays, json.loads((target / "cost.json").read_text())["milliseconds"])


def _write_cache(
    folder: Path, tokenization: str, photos: Sequence[Photo], patch_size: int, max_num_patches: int, num_draws: int
) -> None:
    tokenize = TOKENIZATIONS[tokenization]
    draws = num_draws if tokenize.is_random else 1
    started = time.process_time()
    rows = [
        tokenize(pixels, saliency, patch_size, max_num_patches, seed=index * 1000 + draw)
        for index, (pixels, saliency) in enumerate(photos)
        for draw in range(draws)
    ]
    milliseconds = (time.process_time() - started) * 1000 / len(rows)
    lengths = np.array([len(row["scale_ids"]) for row in rows], dtype=np.int32)
    arrays = {"lengths": lengths, "spatial_shapes": np.stack([row["spatial_shapes"].numpy() for row in rows])}
    for name, dtype in (("pixel_values", np.uint8), ("scale_ids", np.uint8), ("patch_positions", np.int16)):
        arrays[name] = np.zeros((len(rows), int(lengths.max()), *rows[0][name].shape[1:]), dtype=dtype)
        for index, row in enumerate(rows):
            arrays[name][index, : lengths[index]] = row[name].numpy()
    for name in ARRAYS:
        np.save(folder / f"{name}.npy", arrays[name].reshape(len(photos), draws, *arrays[name].shape[1:]))
    (folder / "cost.json").write_text(json.dumps({"milliseconds": milliseconds}))
