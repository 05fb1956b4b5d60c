"""How long the AVA reader takes for a table of AVA's size.

    python -m benchmarks.read_ava

Writes a folder of AVA's shape (255,530 rows with random votes, empty image files, a test list of 20,000) to a
temporary place and reads it. Nothing opens the image files, so that they may be empty.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from pathlib import Path

from charm_hf import load_aesthetic_dataset


def write_ava(root: Path, rows: int, test_rows: int) -> None:
    """Write the folder; every 1000th image is missing."""
    generator = random.Random(0)
    ids = generator.sample(range(1, 4 * rows), rows)
    (root / "images").mkdir()
    (root / "aesthetics_image_lists").mkdir()
    with (root / "AVA.txt").open("w") as table:
        for index, image_id in enumerate(ids, start=1):
            votes = " ".join(str(generator.randint(0, 60)) for _ in range(10))
            table.write(f"{index} {image_id} {votes} 1 22 1396\n")
            if index % 1000:
                (root / "images" / f"{image_id}.jpg").touch()
    listed = "".join(f"{image_id}\n" for image_id in ids[:test_rows])
    (root / "aesthetics_image_lists" / "generic_test.jpgl").write_text(listed)


def main() -> None:
    """Write the folder, read both splits, print the seconds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=255_530)
    parser.add_argument("--test-rows", type=int, default=20_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_ava(Path(folder), arguments.rows, arguments.test_rows)
        for split in ("train", "test"):
            start = time.perf_counter()
            dataset = load_aesthetic_dataset("ava", folder, split, cache_dir=Path(folder) / "cache")
            print(f"{split}: {len(dataset):,} images in {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    main()
