"""Features of a frozen encoder on disk: computed once, memory-mapped, and never mistaken for another encoder's.

A store is a folder with `key.json`, which says what made the features, and shards: `<number>.npy` holds the features
of some photos below one another, `<number>.json` their names and lengths. A shard counts once its JSON file stands
there, which is written last, so a process that dies leaves nothing that would be taken for whole.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from charm_hf.files import TEMPORARY_PREFIX, replaced_file, write_json


KEY_NAME = "key.json"


class FeatureStore:
    """Named arrays (length, width) of one encoder.

    Args:
        folder: made if it does not exist.
        key: what the features depend on, as JSON can hold it: encoder, preprocessing, precision.
        dtype: of the numbers on disk.

    Raises:
        ValueError: if the folder holds features that something else made, or other files.
    """

    def __init__(self, folder: str | os.PathLike, key: Mapping[str, Any], dtype: str = "float16") -> None:
        self.folder, self.dtype = Path(folder), np.dtype(dtype)
        self._places: dict[str, tuple[str, int, int]] = {}
        self._maps: dict[str, np.ndarray] = {}
        self._claim({**key, "dtype": self.dtype.name})
        self.refresh()

    def _claim(self, key: Mapping[str, Any]) -> None:
        path = self.folder / KEY_NAME
        wanted = json.loads(json.dumps(key))
        if path.exists():
            found = json.loads(path.read_text(encoding="utf-8"))
            different = sorted(name for name in {*found, *wanted} if found.get(name) != wanted.get(name))
            if different:
                details = "; ".join(
                    f"{name}: {found.get(name)!r:.100}, not {wanted.get(name)!r:.100}" for name in different
                )
                raise ValueError(
                    f"The features in {self.folder} were made in another way ({details}). Give another folder, or "
                    "delete this one."
                )
            return
        entries = self.folder.iterdir() if self.folder.exists() else ()
        if any(not entry.name.startswith(TEMPORARY_PREFIX) for entry in entries):
            raise ValueError(f"{self.folder} is not empty and holds no features: give a folder of its own.")
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(path, wanted)

    def refresh(self) -> None:
        """Look for shards that other processes have written."""
        known = {shard for shard, _, _ in self._places.values()}
        for path in sorted(self.folder.glob("shard-*.json")):
            if path.stem not in known:
                index = json.loads(path.read_text(encoding="utf-8"))
                starts = np.cumsum([0, *index["lengths"]]).tolist()
                for name, start, length in zip(index["names"], starts, index["lengths"], strict=False):
                    self._places[name] = (path.stem, start, length)

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, name: str) -> np.ndarray:
        """Features (length, width) of a photo, float32; a copy, so that the file stays as it is."""
        shard, start, length = self._places[name]
        if shard not in self._maps:
            self._maps[shard] = np.load(self.folder / f"{shard}.npy", mmap_mode="r", allow_pickle=False)
        return self._maps[shard][start : start + length].astype(np.float32)

    def append(self, names: Sequence[str], features: Sequence[np.ndarray]) -> None:
        """Write a shard; several processes may do so at the same time.

        Args:
            names: one a photo.
            features: one array (length, width) a photo.
        """
        shard = f"shard-{uuid.uuid4().hex}"
        with replaced_file(self.folder / f"{shard}.npy") as temporary:
            np.save(temporary, np.concatenate(list(features)).astype(self.dtype), allow_pickle=False)
        write_json(self.folder / f"{shard}.json", {"names": list(names), "lengths": [len(rows) for rows in features]})
        self.refresh()

    def num_bytes(self) -> int:
        """Size of the features on disk."""
        return sum(path.stat().st_size for path in self.folder.glob("shard-*.npy"))

    def __getstate__(self) -> dict[str, Any]:
        # A memory map would be pickled with its content; a data worker opens its own.
        return {**self.__dict__, "_maps": {}}
