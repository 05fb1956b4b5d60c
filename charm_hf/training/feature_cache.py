"""Features of frozen encoders, computed once for a dataset and kept on disk, so that an epoch costs the queries only.

A store holds the features of one encoder: `key.json`, which says what made them, and shards, safetensors files with
one tensor a photo or text, under its name. A shard appears whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from datasets import Dataset
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import save_file
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from charm_hf.data.images import undecoded
from charm_hf.files import TEMPORARY_PREFIX, replaced_file, write_json
from charm_hf.models.checkpoint_charm import digest_weights
from charm_hf.models.image_loading_charm import load_image
from charm_hf.models.modeling_mmlq import MmlqForAestheticScoring
from charm_hf.models.processing_mmlq import MmlqProcessor
from charm_hf.training.batches import derive_seed
from charm_hf.training.collator import CharmDataCollator
from charm_hf.training.mmlq import comments_shown


KEY_NAME = "key.json"
# Photos or texts in one file of a store: what is lost when the computation is stopped.
SHARD_SIZE = 256


class FeatureStore:
    """Named arrays (length, width) of one encoder, never mistaken for another encoder's.

    Args:
        folder: made if it does not exist.
        key: what the features depend on, as JSON can hold it: encoder, preprocessing.
        dtype: of the numbers on disk.

    Raises:
        ValueError: if the folder holds features that something else made, or other files.
    """

    def __init__(self, folder: str | os.PathLike, key: Mapping[str, Any], dtype: str = "float16") -> None:
        self.folder, self.dtype = Path(folder), np.dtype(dtype)
        self._shards: dict[str, Any] = {}
        self._places: dict[str, str] = {}
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
        for path in sorted(self.folder.glob("shard-*.safetensors")):
            if path.name not in self._shards:
                self._places |= dict.fromkeys(self._open(path.name).keys(), path.name)

    def _open(self, shard: str) -> Any:
        """The shard, mapped into memory."""
        if shard not in self._shards:
            self._shards[shard] = safe_open(self.folder / shard, framework="np")
        return self._shards[shard]

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, name: str) -> np.ndarray:
        """Features (length, width) of a photo, float32."""
        return self._open(self._places[name]).get_tensor(name).astype(np.float32)

    def append(self, features: Mapping[str, np.ndarray]) -> None:
        """Write a shard of named arrays (length, width); several processes may do so at the same time."""
        with replaced_file(self.folder / f"shard-{uuid.uuid4().hex}.safetensors") as temporary:
            save_file({name: np.ascontiguousarray(rows, self.dtype) for name, rows in features.items()}, temporary)
        self.refresh()

    def num_bytes(self) -> int:
        """Size of the features on disk."""
        return sum(path.stat().st_size for path in self.folder.glob("shard-*"))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_shards": {}}  # a data worker maps the files itself


class FrozenFeatures:
    """What the frozen encoders of a model say about photos and comments, on disk.

    The features belong to the weights of the encoders, to the processor and to the precision: a folder that was filled
    with others is refused. Photos go by their `image_id`, comments by their text.

    Args:
        folder: made if it does not exist; holds a store a modality.
        model: its encoders must be frozen.
        processor: the model's.
        dtype: of the numbers on disk.

    Raises:
        ValueError: if the folder holds features of other encoders, or an encoder is to be trained.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        model: MmlqForAestheticScoring,
        processor: MmlqProcessor,
        dtype: str = "float16",
    ) -> None:
        config = model.config
        if not (config.freeze_vision_model and config.freeze_text_model):
            raise ValueError("Features cannot be computed beforehand while an encoder is trained along.")
        self.processor, self.text_size = processor, config.feature_size("textual")
        self.visual = self.textual = None
        if (encoder := model.mmlq.vision_model) is not None:
            preprocessing = json.dumps(processor.image_processor.to_dict(), sort_keys=True, default=str)
            key = {"encoder": digest_weights(encoder), "preprocessing": preprocessing}
            self.visual = FeatureStore(Path(folder) / "visual", key, dtype)
        if (encoder := model.mmlq.text_model) is not None:
            key = {"encoder": digest_weights(encoder), "tokenizer": _digest_tokenizer(processor)}
            self.textual = FeatureStore(Path(folder) / "textual", key, dtype)

    def fill(
        self,
        model: MmlqForAestheticScoring,
        dataset: Dataset,
        accelerator: Accelerator,
        *,
        flips: bool = False,
        max_comments: int | None = None,
        seed: int = 0,
        batch_size: int = 16,
        num_workers: int = 0,
    ) -> None:
        """Compute what is missing for a dataset; the processes share the work, and what is there already stays.

        Args:
            model: with its encoders, on any device.
            dataset: with `image`, `image_id` and perhaps `comments`.
            accelerator: of the run; all processes call this together.
            flips: for the mirrored photos, too.
            max_comments, seed: as for [`FeatureDataset`].
            batch_size: photos, or texts, a step.
            num_workers: processes that read photos.

        Raises:
            RuntimeError: if a photo cannot be read; the message names it.
        """
        encoders, silent = model.mmlq.to(accelerator.device).eval(), not accelerator.is_local_main_process
        if self.visual is not None:
            photos = _MissingPhotos(dataset, self.processor, self.visual, flips, accelerator)
            loader = DataLoader(
                photos,
                batch_size,
                collate_fn=_collate_named,
                num_workers=num_workers,
                generator=torch.Generator(),  # a loader draws a seed, and must not draw it from the global generator
            )
            batches = tqdm(loader, "Features of photos", disable=silent)
            _store(self.visual, batches, encoders.encode_images, accelerator)
        if self.textual is not None and "comments" in dataset.column_names:
            own = self._missing_texts(dataset, max_comments, seed)
            own = own[accelerator.process_index :: accelerator.num_processes]
            texts = [own[start : start + batch_size] for start in range(0, len(own), batch_size)]
            batches = tqdm(_tokenized(texts, self.processor), "Features of comments", len(texts), disable=silent)
            _store(self.textual, batches, encoders.encode_comments, accelerator)
        accelerator.wait_for_everyone()
        for store in (self.visual, self.textual):
            if store is not None:
                store.refresh()

    def _missing_texts(self, dataset: Dataset, max_comments: int | None, seed: int) -> list[list[str]]:
        rows = dataset.select_columns(["image_id", "comments"])
        chosen = (comments_shown(row, max_comments, seed) for row in rows)
        assert self.textual is not None
        missing = {name: said for said in chosen if (name := text_name(self.processor, said)) not in self.textual}
        missing.pop(text_name(self.processor, []), None)
        # Texts of like lengths share a batch, and the longest come first: if memory runs out, it does so at once.
        return sorted(missing.values(), key=lambda said: -sum(map(len, said)))


def photo_name(image_id: str, flipped: bool) -> str:
    """Name of a photo in the store."""
    return f"{image_id}|flipped" if flipped else image_id


def text_name(processor: MmlqProcessor, comments: Iterable[str]) -> str:
    """Name of a photo's comments in the store: equal texts have equal features, whatever photo they belong to."""
    text = processor.comment_separator.join(comment for comment in comments if comment.strip())
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _digest_tokenizer(processor: MmlqProcessor) -> str:
    vocabulary = json.dumps(processor.tokenizer.get_vocab(), sort_keys=True)
    probe = processor.tokenizer(["Great light, Über-sharp! 3 o'clock…"])["input_ids"]
    content = [vocabulary, probe, processor.max_text_length, processor.comment_separator]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


class _MissingPhotos(torch.utils.data.Dataset[tuple[str, dict[str, torch.Tensor]]]):
    """Photos that a store does not hold yet: the share of one process."""

    def __init__(
        self, dataset: Dataset, processor: MmlqProcessor, store: FeatureStore, flips: bool, accelerator: Accelerator
    ) -> None:
        self.dataset, self.processor = undecoded(dataset), processor
        names = [
            (photo_name(image_id, flipped), index, flipped)
            for index, image_id in enumerate(dataset["image_id"])
            for flipped in ((False, True) if flips else (False,))
        ]
        missing = [entry for entry in names if entry[0] not in store]
        self.own = missing[accelerator.process_index :: accelerator.num_processes]

    def __len__(self) -> int:
        return len(self.own)

    def __getitem__(self, place: int) -> tuple[str, dict[str, torch.Tensor]]:
        name, index, flipped = self.own[place]
        try:
            image = load_image(self.dataset[index]["image"])
            if flipped:
                image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            inputs = self.processor([image])
        except Exception as error:
            raise RuntimeError(f"Photo {name!r} (row {index}) cannot be used: {error}") from error
        return name, {key: value[0] for key, value in inputs.items()}


Named = tuple[list[str], dict[str, torch.Tensor]]


def _collate_named(rows: list[tuple[str, dict[str, torch.Tensor]]]) -> Named:
    return [name for name, _ in rows], CharmDataCollator()([inputs for _, inputs in rows])


def _tokenized(texts: list[list[list[str]]], processor: MmlqProcessor) -> Iterator[Named]:
    for batch in texts:
        inputs = dict(processor.tokenize_comments(batch))
        inputs.pop("num_truncated_tokens")
        yield [text_name(processor, said) for said in batch], inputs


@torch.no_grad()
def _store(
    store: FeatureStore,
    batches: Iterable[Named],
    encode: Callable[..., tuple[torch.Tensor, torch.Tensor]],
    accelerator: Accelerator,
) -> None:
    features: dict[str, np.ndarray] = {}
    for names, inputs in batches:
        with accelerator.autocast():
            states, mask = encode(**{key: value.to(accelerator.device) for key, value in inputs.items()})
        for name, rows, shown in zip(names, states, mask, strict=True):
            features[name] = rows[shown].float().cpu().numpy()
        if len(features) >= SHARD_SIZE:
            store.append(features)
            features = {}
    if features:
        store.append(features)


class FeatureDataset(torch.utils.data.Dataset[dict[str, Any]]):
    """Features of a dataset's photos and comments, with their labels, in place of [`CommentedDataset`].

    Items are asked for by `(epoch, index)`; what is random about one is drawn as for the photos themselves.

    Args:
        dataset, label, seed: as for [`TokenizedDataset`].
        features: filled for this dataset.
        flip: probability of taking the mirrored photo.
        max_comments: as for [`CommentedDataset`].
    """

    def __init__(
        self,
        dataset: Dataset,
        features: FrozenFeatures,
        label: str = "score",
        flip: float = 0.0,
        seed: int = 0,
        max_comments: int | None = None,
    ) -> None:
        self.rows = dataset.remove_columns("image")  # or every row would decode its photo
        self.features, self.label, self.flip, self.seed, self.max_comments = features, label, flip, seed, max_comments

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        """Look one photo up."""
        epoch, index = key
        row = self.rows[index]
        item: dict[str, Any] = {"index": index, "scores": row["score"], "labels": row[self.label]}
        if self.features.visual is not None:
            flipped = self.flip > 0 and random.Random(derive_seed(self.seed, epoch, index)).random() < self.flip
            item["vision_features"] = torch.from_numpy(self.features.visual[photo_name(row["image_id"], flipped)])
            item["vision_attention_mask"] = torch.ones(len(item["vision_features"]), dtype=torch.long)
        if self.features.textual is not None:
            said = comments_shown(row, self.max_comments, self.seed)
            is_said = any(comment.strip() for comment in said)
            found = self.features.textual[text_name(self.features.processor, said)] if is_said else None
            item["text_features"] = (
                torch.zeros(1, self.features.text_size) if found is None else torch.from_numpy(found)
            )
            item["attention_mask"] = torch.full((len(item["text_features"]),), int(is_said))
        return item
