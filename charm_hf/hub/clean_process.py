"""Run as a script by `verify_checkpoints`: load checkpoints where `charm_hf` does not exist, and score one photo.

    python clean_process.py REPORT.json FOLDER CHECKPOINT…

Writes `[{"checkpoint": …, "score": …} or {"checkpoint": …, "error": …}]`. Not meant to be imported.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from PIL.Image import Image


def make_photo(width: int = 640, height: int = 426) -> Image:
    """A photo-like picture with a smooth part, detail and an odd size, the same every time."""
    import numpy as np
    from PIL import Image

    rows, columns = np.mgrid[0:height, 0:width] / max(width, height)
    waves = 0.5 + 0.25 * np.sin(90 * columns * rows) + 0.25 * np.cos(17 * rows)
    noise = np.random.default_rng(0).random((height, width)) * (columns > 0.5)
    picture = np.stack([waves, 0.7 * rows + 0.3 * noise, columns], axis=-1)
    return Image.fromarray((255 * picture.clip(0, 1)).astype(np.uint8))


def score_photo(folder: str, checkpoint: str, photo: Image) -> float:
    """Load one checkpoint as a stranger would, and return its score of a photo in the data set's own units."""
    from transformers import AutoModel, pipeline

    where: dict[str, Any] = {} if checkpoint == "." else {"subfolder": checkpoint}
    # Misshapen weights are let in to be named with the rest.
    _, info = AutoModel.from_pretrained(
        folder, trust_remote_code=True, output_loading_info=True, ignore_mismatched_sizes=True, **where
    )
    found = {kind: sorted(map(str, keys))[:8] for kind, keys in info.items() if keys}
    if found:
        raise ValueError(f"the weights do not fit the model that the config describes: {found}")
    scorer = pipeline("image-aesthetics", model=folder, trust_remote_code=True, model_kwargs=where)
    score = scorer(photo)["score"]
    low, high = scorer.model.config.score_range
    if not math.isfinite(score) or not low <= score <= high:
        raise ValueError(f"the score of a photo is {score}, expected {low} to {high}")
    return score


def main(report: str, folder: str, checkpoints: list[str]) -> None:
    """Try each checkpoint; an error of one does not stop the others."""
    # Only the code beside the weights counts: neither the installed package nor the folder of this script.
    here = Path(__file__).resolve().parent
    sys.path[:] = [path for path in sys.path if Path(path or ".").resolve() != here]
    sys.modules["charm_hf"] = None  # type: ignore[assignment]
    photo = make_photo()
    results: list[dict[str, Any]] = []
    for checkpoint in checkpoints:
        try:
            results.append({"checkpoint": checkpoint, "score": score_photo(folder, checkpoint, photo)})
        except Exception as error:
            results.append({"checkpoint": checkpoint, "error": f"{type(error).__name__}: {error}"})
    Path(report).write_text(json.dumps(results), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
