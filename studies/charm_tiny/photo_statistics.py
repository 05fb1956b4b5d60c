"""A pretext task for training from scratch on few photos: predict what can be counted in a photo.

A small transformer that sees a few hundred ratings spends them on learning what colour, contrast and texture are.
Statistics of colours and edges and a bag of visual words (Gidaris et al., "Learning representations by predicting bags
of visual words", CVPR 2020) teach it that from the photos alone, before and beside the ratings.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn


LONGEST_EDGE = 100  # of the photo that is counted
COARSE = 0.6  # colours and edges are counted at this share of it
HISTOGRAM_BINS = (4, 6, 6)  # luminance, red-green, yellow-blue
EDGE_SCALES = (1, 3)  # widths of the blur in pixels
NUM_ORIENTATIONS = 4
WORD_SIZE, WORD_STEP, WORD_DIMENSIONS = 8, 5, 30


def photo_to_pixels(photo: Image.Image) -> torch.Tensor:
    """Shrink a photo to a longest edge of 100 pixels: (3, H, W) in [0, 1]. Photos are never enlarged beyond 8 × 8."""
    scale = min(1.0, LONGEST_EDGE / max(photo.size))
    width, height = (max(WORD_SIZE, round(edge * scale)) for edge in photo.size)
    small = photo.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(small)).permute(2, 0, 1).float() / 255


def opponent_channels(pixels: torch.Tensor) -> torch.Tensor:
    """Luminance, red minus green, yellow minus blue, and saturation (4, H, W) of RGB pixels (3, H, W) in [0, 1]."""
    red, green, blue = pixels
    highest, lowest = pixels.amax(0), pixels.amin(0)
    luminance = 0.30 * red + 0.59 * green + 0.11 * blue
    return torch.stack([luminance, red - green, (red + green) / 2 - blue, (highest - lowest) / (highest + 0.05)])


def colour_moments(channels: torch.Tensor) -> torch.Tensor:
    """Mean, standard deviation and third central moment of each channel: (3·C,) of (C, H, W)."""
    flat = channels.flatten(1)
    centred = flat - flat.mean(1, keepdim=True)
    return torch.cat([flat.mean(1), centred.std(1), centred.pow(3).mean(1)])


def colour_histogram(channels: torch.Tensor) -> torch.Tensor:
    """Square roots of the shares of 4 × 6 × 6 colours, finest around grey: (144,) of `opponent_channels`."""
    lightness = (channels[0] * 4).clamp(0, 3.99)
    red_green = (channels[1] * 5 + 3).clamp(0, 5.99)
    yellow_blue = (channels[2] * 4 + 3).clamp(0, 5.99)
    _, second, third = HISTOGRAM_BINS
    colour = (lightness.long() * second + red_green.long()) * third + yellow_blue.long()
    counts = torch.bincount(colour.flatten(), minlength=math.prod(HISTOGRAM_BINS))
    return (counts / colour.numel()).sqrt()


def edge_energies(luminance: torch.Tensor) -> torch.Tensor:
    """Logarithms of the gradient energy by scale, orientation and quarter of the photo: (32,) of (H, W)."""
    energies = []
    for scale in EDGE_SCALES:
        blurred = F.avg_pool2d(luminance[None], scale)[0]
        across, down = blurred[1:, 1:] - blurred[1:, :-1], blurred[1:, 1:] - blurred[:-1, 1:]
        magnitude = (across.square() + down.square()).sqrt()
        angle = torch.atan2(down, across) % math.pi
        orientation = (angle / math.pi * NUM_ORIENTATIONS).long().clamp(0, NUM_ORIENTATIONS - 1)
        members = F.one_hot(orientation, NUM_ORIENTATIONS).permute(2, 0, 1)
        energies.append(F.adaptive_avg_pool2d((members * magnitude)[None], 2).flatten())
    return (torch.cat(energies) + 1e-3).log()


def colours_and_edges(pixels: torch.Tensor) -> torch.Tensor:
    """All statistics that need no fitting: (188,) of pixels (3, H, W) in [0, 1]."""
    size = [max(WORD_SIZE, round(edge * COARSE)) for edge in pixels.shape[1:]]
    channels = opponent_channels(F.interpolate(pixels[None], size=size, mode="area")[0])
    return torch.cat([colour_moments(channels), colour_histogram(channels), edge_energies(channels[0])])


@dataclass(frozen=True)
class VisualWords:
    """Typical 8 × 8 patches of a set of photos, whitened by their principal components.

    Attributes:
        mean: (192,) mean patch, channel first.
        whitening: (192, D) principal components over their standard deviations.
        words: (V, D) centres of k-means.
    """

    mean: torch.Tensor
    whitening: torch.Tensor
    words: torch.Tensor

    @classmethod
    def fit(
        cls, photos: Iterable[torch.Tensor], num_words: int, seed: int = 0, max_patches: int = 20_000
    ) -> VisualWords:
        """Find `num_words` words by k-means (15 rounds) over patches of photos (3, H, W).

        Raises:
            ValueError: if the photos have fewer patches than words, or than a patch has principal components.
        """
        generator = torch.Generator().manual_seed(seed)
        patches = torch.cat([_patches(photo) for photo in photos])
        if len(patches) < max(num_words, WORD_DIMENSIONS):
            raise ValueError(f"{len(patches)} patches are too few for {num_words} visual words: give more photos.")
        patches = patches[torch.randperm(len(patches), generator=generator)[:max_patches]]
        mean = patches.mean(0)
        variances, directions = torch.linalg.eigh((patches - mean).T @ (patches - mean) / len(patches))
        variances, directions = variances.flip(0)[:WORD_DIMENSIONS], directions.flip(1)[:, :WORD_DIMENSIONS]
        whitening = directions / variances.clamp_min(1e-8).sqrt()
        points = (patches - mean) @ whitening
        words = points[torch.randperm(len(points), generator=generator)[:num_words]]
        for _ in range(15):
            nearest = torch.cdist(points, words).argmin(1)
            counts = torch.bincount(nearest, minlength=num_words).clamp_min(1)
            words = torch.zeros_like(words).index_add_(0, nearest, points) / counts[:, None]
        return cls(mean, whitening, words)

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """Bag of words (V,) of a photo (3, H, W): how much nearer than average its patches lie to each word.

        The "triangle" assignment of Coates, Lee and Ng (AISTATS 2011), averaged over the patches.
        """
        distances = torch.cdist((_patches(pixels) - self.mean) @ self.whitening, self.words)
        return (distances.mean(1, keepdim=True) - distances).clamp_min(0).mean(0)


def _patches(pixels: torch.Tensor) -> torch.Tensor:
    return F.unfold(pixels[None], WORD_SIZE, stride=WORD_STEP)[0].T


class PhotoStatistics:
    """The standardized targets of the pretext task, fitted on training photos.

    Args:
        photos: the training photos; take none from the validation part.
        num_words: number of visual words.
        seed: of the patches that the words are found in.
    """

    def __init__(self, photos: Iterable[Image.Image], num_words: int = 100, seed: int = 0) -> None:
        pixels = [photo_to_pixels(photo) for photo in photos]
        self.words = VisualWords.fit(pixels, num_words, seed)
        raw = torch.stack([self._raw(photo) for photo in pixels])
        spread = raw.std(0)
        # A colour that hardly occurs would otherwise count as much as the brightness.
        self.mean, self.scale = raw.mean(0), (spread + 0.1 * spread.median()).clamp_min(1e-3)

    def __len__(self) -> int:
        return len(self.mean)

    def __call__(self, photo: Image.Image) -> torch.Tensor:
        """Targets (S,) of one photo, as augmented; about zero mean and unit variance over the training photos."""
        return (self._raw(photo_to_pixels(photo)) - self.mean) / self.scale

    def _raw(self, pixels: torch.Tensor) -> torch.Tensor:
        return torch.cat([colours_and_edges(pixels), self.words(pixels)])


class StatisticsHead(nn.Linear):
    """Predicts the statistics from the pooled features; used in training and thrown away after it."""

    def __init__(self, pooled_size: int, num_statistics: int) -> None:
        super().__init__(pooled_size, num_statistics)

    def loss(self, pooled: torch.Tensor, statistics: torch.Tensor) -> torch.Tensor:
        """Mean squared error, a scalar, of pooled features (B, 2d) against statistics (B, S)."""
        return F.mse_loss(self(pooled), statistics)
