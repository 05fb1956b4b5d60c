"""How much of a planted checkerboard is left in the tokens, whatever a model may learn: one product a token.

    python -m studies.tokenization.run --size large --work-dir runs/tokenization_study     # makes the tokens
    python -m studies.tokenization.survival --work-dir runs/tokenization_study/large

A token of native pixels holds the checkerboard as it was planted; any shrinking wipes it out. The response of a token
is its product with the checkerboard, per pixel: grey levels of contrast. Written down for each arm, for small and
large images apart: the response of the best token as a share of what was planted, and its rank correlation with what
was planted, which is what any model could reach at most by this token.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from charm_hf.metrics import srcc
from studies.results import markdown, write_rows
from studies.tokenization.arms import OVERFLOW_ARMS, TOKENIZATIONS
from studies.tokenization.planted_images import FACTORS, MAX_DETAIL_CONTRAST
from studies.tokenization.run import SIZES, Study
from studies.tokenization.token_cache import TokenCache, load_cache


HERE = Path(__file__).parent
COLUMNS = ("tokenization", "megapixels", "images", "tokens", "survives", "srcc")
# Images whose contrast is lower hold too little of it for a share.
SMALLEST_CONTRAST = 0.2


def best_responses(cache: TokenCache, patch_size: int) -> np.ndarray:
    """Largest response among the tokens of each image, in grey levels: (N,), from the first draw."""
    rows, columns = np.mgrid[:patch_size, :patch_size]
    board = (1 - 2 * ((rows + columns) % 2)).astype(np.float32).ravel() / patch_size**2
    values, arrays = cache.arrays["pixel_values"], cache.arrays
    found = []
    for start, length in zip(arrays["starts"][:, 0], arrays["lengths"][:, 0], strict=True):
        tokens = values[start : start + length].reshape(length, -1, patch_size**2)
        found.append(np.abs(tokens.astype(np.float32) @ board).max())
    return np.array(found)


def measure(study: Study, tokenizations: Sequence[str], edges: Sequence[float]) -> list[list[object]]:
    """A row for each tokenization and range of megapixels."""
    detail = study.targets()[:, FACTORS.index("detail")]
    megapixels = np.array([pixels.size / 1e6 for pixels, _ in study.photos()])
    rows: list[list[object]] = []
    for name in tokenizations:
        cache = load_cache(study.tokens(name))
        responses = best_responses(cache, study.size.recipe.patch_size)
        for low, high in pairwise(edges):
            inside = (megapixels >= low) & (megapixels < high)
            planted = inside & (detail >= SMALLEST_CONTRAST)
            share = responses[planted] / (MAX_DETAIL_CONTRAST * detail[planted])
            tokens = cache.arrays["lengths"][inside, 0].mean()
            correlation = srcc(responses[inside], detail[inside])
            label = f"{low:g}-{high:g}"
            rows.append(
                [
                    name,
                    label,
                    int(inside.sum()),
                    round(float(tokens)),
                    round(float(np.median(share)), 3),
                    round(correlation, 3),
                ]
            )
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    """Write `results/large/survival.csv` and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work-dir", type=Path, required=True, help="that `run.py` wrote, with the size's name")
    parser.add_argument("--size", choices=SIZES, default="large")
    parser.add_argument("--edges", type=float, nargs="+", default=[0.3, 1.0, 2.5, 6.0], help="in megapixels")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "large" / "survival.csv")
    args = parser.parse_args(argv)
    study = Study(SIZES[args.size], args.work_dir, None)
    names = dict.fromkeys(name for arm in OVERFLOW_ARMS.values() for name in (arm.train, arm.evaluate))
    rows = measure(study, [name for name in names if name in TOKENIZATIONS], args.edges)
    write_rows(args.output, COLUMNS, rows)
    print(markdown(COLUMNS, [[str(value) for value in row] for row in rows]))


if __name__ == "__main__":
    main()
