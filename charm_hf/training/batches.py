"""Which photo comes when, and how it becomes tokens: the same whatever the number of workers or processes."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from datasets import Dataset
from PIL import Image
from torch.utils.data import DataLoader, Sampler

from charm_hf.data.images import undecoded
from charm_hf.data.saliency_maps import SaliencyFolder
from charm_hf.models.image_loading_charm import load_image
from charm_hf.training.augmentation import TrainingAugmentation
from charm_hf.training.collator import CharmDataCollator


def derive_seed(*parts: int | str) -> int:
    """A seed below 2^63 that depends on all parts, such as `(seed, epoch, index)`, and on nothing else."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


class EpochBatchSampler(Sampler[list[tuple[int, int]]]):
    """Batches of `(epoch, index)` for one of several processes, shuffled anew in each epoch.

    The epoch travels with the index, so that data workers that live on need not be told of it. The batches of all
    processes together are those of a single process with a batch that much larger; the last, incomplete one is kept,
    and filled up from the epoch's first photos only as far as every process needs an equal share.

    Args:
        num_samples: photos in the dataset, at least 1.
        batch_size: photos a batch and process.
        seed: of the order.
        num_processes, process_index: how many share an epoch, and which of them this is.
        groups: of each photo, its series: photos of one stand side by side in the order, and so mostly in one batch.
    """

    def __init__(
        self,
        num_samples: int,
        batch_size: int,
        seed: int = 0,
        num_processes: int = 1,
        process_index: int = 0,
        groups: Sequence[Any] | None = None,
    ) -> None:
        self.num_samples, self.batch_size, self.seed, self.groups = num_samples, batch_size, seed, groups
        self.num_processes, self.process_index = num_processes, process_index
        self.epoch, self.first_batch = 0, 0

    def set_position(self, epoch: int, first_batch: int = 0) -> None:
        """Choose where the next iteration starts."""
        self.epoch, self.first_batch = epoch, first_batch

    def __len__(self) -> int:
        """Number of batches in an epoch, a process."""
        return -(-self.num_samples // (self.batch_size * self.num_processes))

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """Yield the batches of the chosen epoch from the chosen one on."""
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "order", self.epoch))
        order = torch.randperm(self.num_samples, generator=generator).tolist()
        if self.groups is not None:
            first = {self.groups[index]: place for place, index in reversed(list(enumerate(order)))}
            order.sort(key=lambda index: first[self.groups[index]])  # type: ignore[index]
        missing = -len(order) % self.num_processes
        order += (order * missing)[:missing]
        global_size = self.batch_size * self.num_processes
        for start in range(self.first_batch * global_size, len(order), global_size):
            batch = order[start : start + global_size]
            share = batch[self.process_index :: self.num_processes]
            if self.groups is not None:  # neighbours stay together
                size = len(batch) // self.num_processes
                share = batch[self.process_index * size : (self.process_index + 1) * size]
            yield [(self.epoch, index) for index in share]


class TokenizedDataset(torch.utils.data.Dataset[dict[str, Any]]):
    """Photos of a dataset as tokens, with their labels.

    Items are asked for by `(epoch, index)`; everything random about one follows from seed, epoch and index. An item
    holds what the processor returns for the photo, without batch dimension, `index`, `scores` (the rated
    score, in the dataset's own units), `labels` (the same, or the distribution), and `attribute_targets` if the
    dataset has attributes.

    Args:
        dataset: as `load_aesthetic_dataset` gives it.
        processor: makes the tokens.
        label: the column that the model is trained on, `"score"` or `"distribution"`.
        augmentation: of the photos, if any.
        processor_kwargs: parameters of the processor for these photos, such as `patch_selection="random"`.
        seed: of augmentation, preparation and selection.
        prepare: what is done to a photo, augmented already, before it is tokenized; see `InputKind`.
        saliency: gives the maps of photos, for `patch_selection="saliency"`.
        group_column: which series a photo is of: its item gets the number `group`, and photos of one series are
            augmented and selected from alike, so that their scores compare.

    Raises:
        ValueError: if regions are to be selected by saliency and there are no maps.
    """

    def __init__(
        self,
        dataset: Dataset,
        processor: Any,
        label: str = "score",
        augmentation: TrainingAugmentation | None = None,
        processor_kwargs: Mapping[str, Any] | None = None,
        seed: int = 0,
        prepare: Callable[[Image.Image, random.Random], Image.Image] | None = None,
        saliency: SaliencyFolder | None = None,
        group_column: str | None = None,
    ) -> None:
        self.dataset, self.processor, self.label = undecoded(dataset), processor, label
        self.augmentation, self.prepare, self.seed, self.group_column = augmentation, prepare, seed, group_column
        self.processor_kwargs = dict(processor_kwargs or {})
        own = getattr(processor, "patch_selection", None)
        self.saliency = saliency if self.processor_kwargs.get("patch_selection", own) == "saliency" else None
        if saliency is None and self.processor_kwargs.get("patch_selection", own) == "saliency":
            raise ValueError(
                '`patch_selection: saliency` needs the folder of the maps, "--saliency_dir"; `spectral_residual` '
                "needs none."
            )

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        """Read, augment and tokenize one photo.

        Raises:
            RuntimeError: if the photo cannot be read; the message names it.
        """
        epoch, index = key
        try:
            row = self.dataset[index]
            group = None if self.group_column is None else derive_seed("group", row[self.group_column])
            seed = derive_seed(self.seed, epoch, index if group is None else group)
            images = [load_image(row["image"])]
            if self.saliency is not None:
                images.append(self.saliency(row["image_id"], images[0].size))
            if self.augmentation is not None:
                images = self.augmentation(*images, seed=seed)
            if self.prepare is not None:
                images[0] = self.prepare(images[0], random.Random(f"{seed}-prepare"))
            tokens = self._tokenize(row, images[0], seed, *images[1:])
        except Exception as error:
            image_id = self.dataset.select_columns(["image_id"])[index]["image_id"]
            raise RuntimeError(
                f"Photo {image_id!r} (row {index}) cannot be used: {error} Replace it, or leave out all photos that "
                "do not decode with the dataset option `verify: decode`."
            ) from error
        item = {name: value[0] for name, value in tokens.items()}
        item |= {"index": index, "scores": row["score"], "labels": row[self.label]}
        if group is not None:
            item["group"] = group
        if "attributes" in row:
            item["attribute_targets"] = row["attributes"]
        return item

    def _tokenize(
        self, row: Mapping[str, Any], image: Image.Image, seed: int, saliency_map: Image.Image | None = None
    ) -> Mapping[str, Any]:
        maps = {} if saliency_map is None else {"saliency_maps": saliency_map}
        return self.processor(image, seed=seed, **maps, **self.processor_kwargs)


def make_loader(dataset: Any, batch_sampler: Any, num_workers: int = 0, seed: int = 0) -> DataLoader:
    """Load batches in `num_workers` processes (0: in this one), never drawing from torch's global generator.

    `batch_sampler` gives lists of the dataset's keys; `seed` is that of the workers.
    """
    return DataLoader(
        dataset,
        batch_sampler=batch_sampler,
        collate_fn=CharmDataCollator(),
        num_workers=num_workers,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=num_workers > 0,
        # Making an iterator draws a base seed for the workers: from the global generator, unless given another.
        generator=torch.Generator().manual_seed(seed),
    )


def evaluation_batches(
    num_samples: int, batch_size: int, num_processes: int = 1, process_index: int = 0
) -> list[list[tuple[int, int]]]:
    """Batches of `(0, index)` in which, over all processes, each photo stands exactly once."""
    own = [(0, index) for index in range(process_index, num_samples, num_processes)]
    return [own[start : start + batch_size] for start in range(0, len(own), batch_size)]


class WaitClock:
    """Measures which share of the time goes into waiting for data.

    >>> clock = WaitClock()
    >>> for batch in clock.watch(range(3)):
    ...     pass
    >>> 0 <= clock.share <= 1
    True
    """

    def __init__(self) -> None:
        self.started, self.waited = time.perf_counter(), 0.0

    def watch(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Yield the batches, timing how long each takes to come."""
        iterator = iter(batches)
        while True:
            asked = time.perf_counter()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            finally:
                self.waited += time.perf_counter() - asked
            yield batch

    @property
    def seconds(self) -> float:
        """Seconds since the clock was made."""
        return time.perf_counter() - self.started

    @property
    def share(self) -> float:
        """Share of the time spent waiting, 0 to 1."""
        return self.waited / max(self.seconds, 1e-9)
