"""What worker processes do: read an image's header, decode it, turn it into tokens, pad tokens to a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from ..models.image_formats_charm import MAX_PHOTO_BYTES
from ..models.image_loading_charm import load_image, scorable_size
from .items import Item
from .rows import ScoreRow, describe_error


Tokens = dict[str, np.ndarray]
"""The model's inputs of one view; arrays, which reach other processes through a pipe."""


@dataclass(frozen=True)
class Measured:
    """An item whose header was read: its width and height in pixels and its plan, or an error.

    The plan is the processor's: how a photo of this size is cut into `num_tokens` tokens. It is made once, decides
    which photos share a batch, and is what the photo is tokenized by.
    """

    item: Item
    width: int | None = None
    height: int | None = None
    plan: Any = None
    error: str | None = None
    stamp: list[int] | None = None

    @property
    def tokens(self) -> int | None:
        """Length of the token sequence."""
        return None if self.plan is None else self.plan.num_tokens

    def to_row(self) -> ScoreRow:
        """Row without a score."""
        return ScoreRow(
            self.item.path,
            key=self.item.key,
            width=self.width,
            height=self.height,
            tokens=self.tokens,
            error=self.error,
            stamp=self.stamp,
        )


Placed = tuple[int, Measured]
"""An image and its place in its chunk."""
Tokenized = tuple[int, "list[Tokens] | None", "str | None"]
"""An image's place with its views' tokens, or with the reason why it has none."""


class TokenBatch(NamedTuple):
    """Tokens of some images of a chunk: `inputs` for the model, `None` if all of them failed.

    `places` are the images' places in their chunk, `errors` those that failed with the reason.
    """

    places: list[int]
    inputs: dict[str, Any] | None
    errors: dict[int, str]


def measure(item: Item, plan: Callable[[int, int], Any]) -> Measured:
    """Read the size of an image from its header, without decoding pixels, and plan what becomes of it."""
    if item.error is not None:
        return Measured(item, error=item.error)
    stamp = item.stamp()  # before the content is read, so that a later change is seen as one
    try:
        width, height = scorable_size(item.read(), name=repr(item.path))
        return Measured(item, width, height, plan(height, width), stamp=stamp)
    except (ValueError, FileNotFoundError, PermissionError, IsADirectoryError) as error:
        return Measured(item, error=describe_error(error))
    except Exception as error:  # whatever a hostile file provokes belongs into its row
        return Measured(item, error=f"The image's header cannot be used. {describe_error(error)}")


class BatchTokenizer(Dataset):
    """Tokenizes the batch that it is indexed with; a copy lives in each worker process.

    Args:
        processor: the checkpoint's.
        parameters: what it is called with.
        num_views: token sequences an image; they stand side by side in a batch.
        as_numpy: give batches of arrays, which reach the parent through a pipe; tensors need shared memory.
        saliency: gives an image's saliency map by its path and size, where regions are selected by it.
    """

    def __init__(
        self,
        processor: Any,
        parameters: dict[str, Any],
        num_views: int = 1,
        as_numpy: bool = True,
        saliency: Callable[[str, tuple[int, int]], Any] | None = None,
    ) -> None:
        self.processor = processor
        self.parameters = parameters
        self.num_views = num_views
        self.as_numpy = as_numpy
        self.saliency = saliency

    def __getitems__(self, batch: list[Placed]) -> TokenBatch:
        return self.collate([self.tokenize(image) for image in batch])

    def tokenize(self, image: Placed) -> Tokenized:
        """Tokenize an image; one broken image must not cost the others of its batch theirs."""
        try:
            return image[0], self._views(image[1]), None
        except Exception as error:
            return image[0], None, describe_error(error)

    def collate(self, results: Sequence[Tokenized]) -> TokenBatch:
        """Pad the token sequences of a batch to its longest."""
        places = [place for place, views, _ in results if views is not None]
        sequences = [view for _, views, _ in results for view in views or []]
        errors = {place: error for place, _, error in results if error is not None}
        if not sequences:
            return TokenBatch(places, None, errors)
        inputs: dict[str, Any] = {
            name: pad_sequence([torch.as_tensor(view[name]) for view in sequences], batch_first=True)
            for name in sequences[0]
        }
        if self.as_numpy:
            inputs = {name: value.numpy() for name, value in inputs.items()}
        return TokenBatch(places, inputs, errors)

    def _views(self, measured: Measured) -> list[Tokens]:
        item = measured.item
        image, given = item.read(), {"plans": [measured.plan], **self.parameters}
        if item.comments is not None:
            given["comments"] = [item.comments]
        if self.saliency is not None and measured.width is not None and measured.height is not None:
            given["saliency_maps"] = [self.saliency(item.path, (measured.width, measured.height))]
        if self.num_views == 1:
            return [self._tokenize(image, given)]
        if not isinstance(image, (np.ndarray, torch.Tensor)) and measured.plan.num_bytes < MAX_PHOTO_BYTES / 2:
            image = load_image(image)  # decoded once for all views, where holding it does not cost too much
        # As the pipeline does: view i uses seed + i.
        seed = given.get("seed", self.processor.seed) or 0
        drawn = {"stochastic_selection": True, **given}
        return [self._tokenize(image, {**drawn, "seed": seed + view}) for view in range(self.num_views)]

    def _tokenize(self, image: Any, given: dict[str, Any]) -> Tokens:
        inputs = self.processor([image], return_tensors="pt", **given)
        return {name: value[0].numpy() for name, value in inputs.items()}
