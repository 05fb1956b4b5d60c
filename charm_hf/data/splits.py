"""Seeded parts of a dataset: told by image id and seed alone, written down, and read again the next time."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import datasets

from ..files import write_json


logger = logging.getLogger(__name__)

SPLITS_FOLDER = "charm_hf_splits"


def split_hash(image_ids: Iterable[str]) -> str:
    """SHA-256 (hexadecimal) of a set of image ids, whatever their order.

    Two published numbers compare only if they were measured on the same images: this is how to tell.

    >>> split_hash(["b", "a"]) == split_hash(["a", "b"])
    True
    """
    return hashlib.sha256("\n".join(sorted(map(str, image_ids))).encode()).hexdigest()


def draw_part(image_ids: Sequence[str], size: float | int, seed: int) -> list[str]:
    """Draw `size` of the ids: those whose SHA-256 of `"<seed>:<id>"` is lowest.

    The draw depends on no generator, on no order of rows, and for one image hardly on the others: a row more in the
    table moves at most one image between the parts.

    Args:
        image_ids: unlike ids.
        size: share (a `float` between 0 and 1) or number (an `int`) of the ids.
        seed: another seed draws another part.

    Returns:
        The drawn ids, in their order.

    Raises:
        ValueError: if `size` would leave one of the two parts empty.
    """
    total = len(image_ids)
    number = size if isinstance(size, int) else 0
    if 0 < size < 1:
        number = min(max(round(size * total), 1), total - 1)
    if not 0 < number < total:
        raise ValueError(
            f"The size of a part must be a share between 0 and 1 or a number of images, and leave an image on both "
            f"sides; got {size} of {total} images."
        )
    ranked = sorted(image_ids, key=lambda image_id: hashlib.sha256(f"{seed}:{image_id}".encode()).digest())
    drawn = set(ranked[:number])
    return [image_id for image_id in image_ids if image_id in drawn]


def seeded_part(
    image_ids: Sequence[str], size: float | int, seed: int, *, name: str, folders: Sequence[Path]
) -> tuple[set[str], Path]:
    """Draw a part (see `draw_part`; ids may repeat) and write it down, or read the one that was written before.

    Returns:
        The ids of the part, and its file: `<name>-seed<seed>.json` in the first of the folders that has it, or that
        can be written to.

    Raises:
        ValueError: if the file does not fit `image_ids`, or is no file of this kind.
        OSError: if no folder can be written to.
    """
    unique = list(dict.fromkeys(image_ids))
    paths = [folder / f"{name}-seed{seed}.json" for folder in folders]
    for path in paths:
        if path.is_file():
            return _read_part(path, unique), path
    part = draw_part(unique, size, seed)
    record = {
        "part": name,
        "seed": seed,
        "size": size,
        "rule": 'lowest sha256 of "<seed>:<image id>"',
        "drawn_from": {"images": len(unique), "sha256": split_hash(unique)},
        "images": len(part),
        "sha256": split_hash(part),
        "image_ids": part,
    }
    return set(part), _write_first(paths, record)


def default_split_folders(root: str | os.PathLike[str] | None) -> list[Path]:
    """Beside the data, or in the cache of `datasets` if the data's folder is read-only."""
    cache = Path(datasets.config.HF_DATASETS_CACHE) / "charm_hf" / "splits"
    if root is None:
        return [cache]
    folder = Path(root) if Path(root).is_dir() else Path(root).parent
    key = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
    return [folder / SPLITS_FOLDER, cache / key]


def _read_part(path: Path, image_ids: list[str]) -> set[str]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        part, expected = set(record["image_ids"]), record["drawn_from"]["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: expected a split file of this package, found something else: {error!r}.") from None
    if expected != split_hash(image_ids) or not part < set(image_ids):
        raise ValueError(
            f"{path} was drawn from other images ({record['drawn_from']['images']:,}) than the annotations hold now "
            f"({len(image_ids):,}). Restore the annotations, or delete the file (or give another `splits_dir=`) to "
            "draw a new part; numbers measured on the old one do not compare."
        )
    return part


def _write_first(paths: Sequence[Path], record: dict[str, Any]) -> Path:
    failure: OSError | None = None
    for path in paths:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, record)
        except OSError as error:
            failure = error
            continue
        if failure is not None:
            logger.warning("The split could not be written beside the data (%s); it is kept in %s.", failure, path)
        return path
    raise failure or ValueError("No folder to write the split to.")
