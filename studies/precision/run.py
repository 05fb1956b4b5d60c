"""Scores of a checkpoint in bfloat16 and in dynamic int8 against float32: how far, in which order, how fast.

    python -m studies.precision.run charm_hf/assets/charm-tiny FOLDER_OF_PHOTOS [--limit 100]

Prints, and writes to `results.csv`, for each precision, the largest and mean distance in normalized scores (1 = the
whole range), the rank correlation with float32 (SRCC), and CPU time.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import nn

from charm_hf import CharmForAestheticScoring, CharmImageProcessor
from studies.results import markdown, write_rows


COLUMNS = ("precision", "largest", "mean", "srcc", "seconds")
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


def precisions(model: CharmForAestheticScoring) -> Iterator[tuple[str, nn.Module]]:
    """The model in each precision; int8 has the weights of its linear layers quantized, activations as they come."""
    yield "float32", model
    yield "bfloat16", copy.deepcopy(model).to(torch.bfloat16)
    yield "int8, dynamic", torch.ao.quantization.quantize_dynamic(copy.deepcopy(model), {nn.Linear}, torch.qint8)


@torch.inference_mode()
def score(model: nn.Module, batches: list[dict[str, torch.Tensor]]) -> tuple[np.ndarray, float]:
    """Normalized scores, and the CPU seconds that they took."""
    model(**batches[0])  # the first call sets things up
    start = time.process_time()
    scores = [model(**batch).normalized_scores.float().numpy() for batch in batches]
    return np.concatenate(scores), time.process_time() - start


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("photos", type=Path)
    parser.add_argument("--limit", type=int, help="number of photos; all by default")
    parser.add_argument("--results", type=Path, default=Path(__file__).with_name("results.csv"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = CharmForAestheticScoring.from_pretrained(arguments.checkpoint).eval()
    processor = CharmImageProcessor.from_pretrained(arguments.checkpoint)
    paths = sorted(path for path in arguments.photos.iterdir() if path.suffix.lower() in SUFFIXES)[: arguments.limit]
    if not paths:
        parser.error(f"no photos in {arguments.photos}")
    batches = [dict(processor(path)) for path in paths]
    exact, rows = None, []
    for name, variant in precisions(model):
        scores, seconds = score(variant, batches)
        exact = scores if exact is None else exact
        distance = np.abs(scores - exact)
        rank = spearmanr(scores, exact).statistic
        rows.append((name, *(f"{value:.5f}" for value in (distance.max(), distance.mean(), rank)), f"{seconds:.1f}"))
    print(f"{len(paths)} photos, one thread\n\n{markdown(COLUMNS, rows)}")
    write_rows(arguments.results, ("photos", *COLUMNS), [(len(paths), *row) for row in rows])


if __name__ == "__main__":
    main()
