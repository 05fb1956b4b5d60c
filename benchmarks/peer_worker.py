"""Runs in the peer's own environment: times its tokenizer on the photos named on stdin, as JSON both ways.

Only the standard library, torch and the peer itself are at hand here.
"""

from __future__ import annotations

import json
import re
import sys
from importlib.util import find_spec
from pathlib import Path

import torch


def declare_missing_operators() -> torch.library.Library:
    """Name the operators that torchvision's Python files describe but a CPU build of torch does not have.

    Nothing calls them; keep the result, with which the names vanish.
    """
    source = Path(str(find_spec("torchvision").origin)).with_name("_meta_registrations.py").read_text()
    names = set(re.findall(r'(?:register_meta\("|"torchvision::)(\w+)"', source))
    library = torch.library.Library("torchvision", "DEF")
    for name in names:
        library.define(f"{name}(Tensor x) -> Tensor")
    return library


def make_tokenizer(selection: str) -> object:
    """Make the published tokenizer, without the download of its position embeddings, whose values play no part."""
    from Charm_tokenizer.ImageProcessor import Charm_Tokenizer

    Charm_Tokenizer.load_pos_embed = lambda self, name: setattr(self, "pos_embed", torch.zeros(1, 1370, 384))
    return Charm_Tokenizer(patch_selection=selection, training_dataset="aadb")


def main() -> None:
    """Answer each job `{"path", "selection", "repetitions"}` with `{"milliseconds", "mebibytes", "tokens"}`."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from benchmarks.measure import keep_freed_memory, least_milliseconds, peak_mebibytes

    torch.set_num_threads(1)
    keep_freed_memory()
    operators = declare_missing_operators()  # noqa: F841  # kept alive
    for line in sys.stdin:
        job = json.loads(line)
        tokenizer = make_tokenizer(job["selection"])
        tokens = tokenizer.preprocess(job["path"])[0]
        answer = {
            "milliseconds": least_milliseconds(
                lambda tokenizer=tokenizer, job=job: tokenizer.preprocess(job["path"]),
                repetitions=job["repetitions"],
            )[0],
            "mebibytes": peak_mebibytes(lambda tokenizer=tokenizer, job=job: tokenizer.preprocess(job["path"])),
            "tokens": len(tokens),
        }
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
