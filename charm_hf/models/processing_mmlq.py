"""Photos and what people said about them, in one call, as a multi-modal learnable queries model takes them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import AutoImageProcessor, AutoTokenizer, PretrainedConfig
from transformers.image_processing_utils import BatchFeature
from transformers.models.auto.image_processing_auto import get_image_processor_class_from_name
from transformers.processing_utils import ImagesKwargs, ProcessingKwargs, ProcessorMixin, Unpack
from transformers.utils import TensorType, logging

from .checkpoint_charm import MMLQ_AUTO_MAP, save_code_files
from .encoders_mmlq import HUB_ARGUMENTS
from .image_loading_charm import load_image
from .plan_charm import PhotoPlan


logger = logging.get_logger(__name__)

# BERT's, and the paper's.
MAX_TEXT_LENGTH = 512
# Arguments of a call that are about the texts, where the image processor has none of that name.
_TEXT_ARGUMENTS = ("max_text_length", "max_length", "padding", "pad_to_multiple_of")
# Side of the smallest patches in use, in pixels: an image processor does not know those of its encoder.
SMALLEST_PATCH = 14


def batch_comments(comments: Any, num_images: int, is_single: bool) -> list[list[str]]:
    """Bring comments into one list a photo, without those that are empty or blank.

    Args:
        comments: for each photo a list of strings, one string or `None`. For a single photo also just its list.
        num_images: number of photos.
        is_single: whether the photo was given alone instead of in a list.

    Raises:
        ValueError: if the lists are not as many as the photos, or a comment is no string; the message says which.
    """
    if isinstance(comments, str) or not isinstance(comments, Sequence):
        if not is_single:
            raise ValueError(f"`comments` must be a list with one list of strings a photo, got {comments!r:.80}.")
        comments = [comments]
    elif is_single and not any(isinstance(entry, (list, tuple)) for entry in comments):
        comments = [comments]
    if len(comments) != num_images:
        raise ValueError(
            f"Got comments for {len(comments)} photos and {num_images} photos: `comments` must hold one list of "
            "strings a photo, an empty one where there are none."
        )
    return [_comments_of_photo(entry, index) for index, entry in enumerate(comments)]


def _comments_of_photo(entry: Any, index: int) -> list[str]:
    if entry is None:
        return []
    if isinstance(entry, str):
        entry = [entry]
    if not isinstance(entry, Sequence):
        raise ValueError(f"The comments of photo {index} must be a list of strings, got {entry!r:.80}.")
    for position, comment in enumerate(entry):
        if not isinstance(comment, str):
            raise ValueError(
                f"Comment {position} of photo {index} must be a string, got {type(comment).__name__}: {comment!r:.80}."
            )
    return [comment for comment in entry if comment.strip()]


def check_tokenizer(tokenizer: Any, text_config: PretrainedConfig) -> None:
    """Check that a tokenizer can belong to a text encoder.

    Raises:
        ValueError: if it knows tokens that the encoder has no embedding for, pads with another token, or cannot pad.
    """
    if tokenizer.pad_token_id is None:
        raise ValueError("The tokenizer has no padding token, which batches of comments need.")
    if len(tokenizer) > text_config.vocab_size:
        raise ValueError(
            f"The tokenizer has {len(tokenizer)} tokens and the text encoder ({text_config.model_type}) embeds "
            f"{text_config.vocab_size}: it belongs to another encoder."
        )
    pad_token_id = getattr(text_config, "pad_token_id", None)
    if pad_token_id is not None and pad_token_id != tokenizer.pad_token_id:
        raise ValueError(
            f"The tokenizer pads with token {tokenizer.pad_token_id} and the text encoder ({text_config.model_type}) "
            f"with {pad_token_id}: it belongs to another encoder."
        )


def on_pillow(image_processor: Any) -> Any:
    """The same image processor with Pillow as its backend, if there is such a one.

    transformers takes torchvision's where that is installed, whose resizing moves scores by 1e-3 (of 1 to 10).
    """
    twin = get_image_processor_class_from_name(f"{type(image_processor).__name__}Pil")
    return image_processor if twin is None else twin.from_dict(image_processor.to_dict())


class SquarePlan(NamedTuple):
    """What image processors other than Charm's make of every photo.

    Attributes:
        num_tokens: at most so many, whatever the encoder's patches.
    """

    num_tokens: int


class MmlqProcessor(ProcessorMixin):
    r"""Prepare photos and their comments for [`MmlqForAestheticScoring`].

    All comments of a photo are joined and cut off at `max_text_length` tokens. A photo without any gets an attention
    mask of zeros, which the model reads as "no comments".

    Args:
        image_processor: the vision encoder's; [`CharmImageProcessor`] for a Charm encoder. Pillow is its backend,
            whatever is installed (see [`on_pillow`]).
        tokenizer: the text encoder's.
        max_text_length (`int`, defaults to 512): number of tokens kept, special ones included.
        comment_separator (`str`, defaults to one space): what stands between two comments.
    """

    def __init__(
        self,
        image_processor: Any,
        tokenizer: Any,
        max_text_length: int = MAX_TEXT_LENGTH,
        comment_separator: str = " ",
        **kwargs: Any,
    ) -> None:
        super().__init__(on_pillow(image_processor), tokenizer, **kwargs)
        if max_text_length < 3:
            raise ValueError(f"`max_text_length` must be at least 3, got {max_text_length}.")
        self.max_text_length = max_text_length
        self.comment_separator = comment_separator

    @classmethod
    def from_encoders(
        cls, vision: str | os.PathLike, text: str | os.PathLike, *, square: bool = True, **kwargs: Any
    ) -> MmlqProcessor:
        """Take the image processor and the tokenizer of two pretrained encoders.

        Args:
            vision: repository or local folder of the vision encoder.
            text: the same of the text encoder.
            square: squeeze the whole photo into the encoder's square, as the paper does, instead of cutting out its
                middle. Image processors that do not crop, such as Charm's, stay as they are.
            kwargs: for the constructor, and `cache_dir`, `token`, `local_files_only` … for the Hub.
        """
        where = {name: kwargs.pop(name) for name in HUB_ARGUMENTS if name in kwargs}
        image_processor = AutoImageProcessor.from_pretrained(vision, **where)
        if square and getattr(image_processor, "do_center_crop", False):
            crop = image_processor.crop_size
            image_processor.size = {"height": crop["height"], "width": crop["width"]}
            image_processor.do_center_crop = False
        return cls(image_processor, AutoTokenizer.from_pretrained(text, **where), **kwargs)

    def __call__(
        self,
        images: Any,
        text: Any = None,
        comments: Any = None,
        return_num_truncated_tokens: bool | None = None,
        plans: Sequence[PhotoPlan | SquarePlan] | None = None,
        **kwargs: Unpack[ProcessingKwargs],
    ) -> BatchFeature:
        """Prepare one photo or a list of photos.

        Args:
            images: a path, URL, encoded bytes, PIL image or array, or a list of these.
            text: the comments, one list of strings a photo; `None` or an empty list for a photo without any. Blank
                comments do not count. `None` instead of the whole: no photo has comments.
            comments: the same by its own name.
            return_num_truncated_tokens: return the number of tokens that were cut off, too.
            plans: what [`~MmlqProcessor.plan`] said of each photo, where it was asked before.
            kwargs: `return_tensors` (`"pt"`, the default, or `"np"`), parameters of the image processor, and where it
                has none of that name those of [`~MmlqProcessor.tokenize_comments`]. Either may stand in a dictionary
                of its own: `images_kwargs`, `text_kwargs`.

        Returns:
            what the image processor gives; unless `comments` is `None`, `input_ids` and `attention_mask` (B, T) and
            what else the tokenizer gives; `num_truncated_tokens` (B,) if asked for.

        Raises:
            ValueError: if the comments are not as many as the photos or not strings, a photo cannot be read, or an
                argument is given twice.
        """
        is_single = not isinstance(images, (list, tuple)) and getattr(images, "ndim", 3) != 4
        photos = [images] if is_single else list(images)
        return_tensors = kwargs.pop("return_tensors", "pt")
        text_kwargs, images_kwargs = self._share_out(kwargs)
        if plans is not None and self.is_charm:
            images_kwargs["plans"] = plans
        features = dict(self.image_processor(self._read(photos), return_tensors=return_tensors, **images_kwargs))
        if (said := comments if text is None else text) is not None:
            texts = batch_comments(said, len(photos), is_single)
            features |= self.tokenize_comments(texts, return_tensors=return_tensors, **text_kwargs)
            if not return_num_truncated_tokens:
                del features["num_truncated_tokens"]
        return BatchFeature(features)

    def _share_out(self, kwargs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Arguments of a call that are about the texts, and those that are about the images."""
        text_kwargs, images_kwargs = (dict(kwargs.pop(name, {})) for name in ("text_kwargs", "images_kwargs"))
        known = getattr(self.image_processor, "valid_kwargs", ImagesKwargs).__annotations__
        for name, value in kwargs.items():
            shared = text_kwargs if name in _TEXT_ARGUMENTS and name not in known else images_kwargs
            if name in shared:
                raise ValueError(f"`{name}` is given twice: by itself, and in `text_kwargs` or `images_kwargs`.")
            shared[name] = value
        return text_kwargs, images_kwargs

    def _read(self, photos: list[Any]) -> list[Any]:
        if self.is_charm:  # reads by itself, at a reduced size
            return photos
        return [photo if isinstance(photo, (np.ndarray, torch.Tensor)) else load_image(photo) for photo in photos]

    def tokenize_comments(
        self,
        comments: Sequence[Sequence[str]],
        max_text_length: int | None = None,
        return_tensors: str | TensorType | None = "pt",
        max_length: int | None = None,
        padding: bool | str = True,
        pad_to_multiple_of: int | None = None,
    ) -> BatchFeature:
        """Join the comments of each photo into one text and tokenize it.

        Args:
            comments: one list of strings a photo.
            max_text_length, max_length: number of tokens kept; `None` takes the processor's own.
            return_tensors: `"pt"` or `"np"`.
            padding: to the longest text (`True`) or to the number of tokens kept (`"max_length"`).
            pad_to_multiple_of: to a length that is a multiple of it.

        Returns:
            `input_ids` and `attention_mask` (B, T), whose rows are zero for photos without comments;
            `num_truncated_tokens` (B,), which were cut off and are reported as a warning.
        """
        limit = max_text_length or max_length or self.max_text_length
        texts = [self.comment_separator.join(comment for comment in entry if comment.strip()) for entry in comments]
        encoded = self.tokenizer(texts, truncation=False, verbose=False)
        lost = [max(0, len(tokens) - limit) for tokens in encoded["input_ids"]]
        if any(lost):
            encoded = self.tokenizer(texts, truncation=True, max_length=limit)
            logger.warning(
                f"The comments of {sum(map(bool, lost))} of {len(lost)} photos are longer than {limit} tokens: "
                f"{sum(lost)} tokens were cut off."
            )
        for row, text in enumerate(texts):
            if not text:
                encoded["attention_mask"][row] = [0] * len(encoded["attention_mask"][row])
        lengths = {"max_length": limit if padding == "max_length" else None, "pad_to_multiple_of": pad_to_multiple_of}
        padded = self.tokenizer.pad(encoded, padding=padding, return_attention_mask=True, **lengths)
        return BatchFeature({**padded, "num_truncated_tokens": lost}, tensor_type=return_tensors)

    @property
    def is_charm(self) -> bool:
        """Whether photos become Charm tokens, so that there are regions to select."""
        return getattr(self.image_processor, "is_charm", False)

    @property
    def seed(self) -> int | Sequence[int] | None:
        """Seed of the image processor, where it has one."""
        return getattr(self.image_processor, "seed", None)

    def num_tokens(self, height: int, width: int, **images_kwargs: Any) -> int:
        """Count the visual tokens of a photo of this size in pixels, without its pixels; see `plan`."""
        return self.plan(height, width, **images_kwargs).num_tokens

    def plan(self, height: int, width: int, **images_kwargs: Any) -> PhotoPlan | SquarePlan:
        """Say what becomes of a photo of this size in pixels, without its pixels.

        Args:
            images_kwargs: for Charm's image processor.

        Raises:
            ValueError: for parameters that the image processor does not have.
        """
        if self.is_charm:
            return self.image_processor.plan(height, width, **images_kwargs)
        if images_kwargs:
            kind = type(self.image_processor).__name__
            raise ValueError(f"{', '.join(images_kwargs)}: only Charm tokens have these parameters, not {kind}.")
        cropped = getattr(self.image_processor, "do_center_crop", False)
        size = self.image_processor.crop_size if cropped else self.image_processor.size
        rows, columns = ((size.get(edge) or size["shortest_edge"]) // SMALLEST_PATCH for edge in ("height", "width"))
        return SquarePlan(rows * columns)

    def check_text_encoder(self, text_config: PretrainedConfig) -> None:
        """Raise `ValueError` if the tokenizer cannot belong to the text encoder of this configuration."""
        check_tokenizer(self.tokenizer, text_config)

    @property
    def model_input_names(self) -> list[str]:
        """Names of what the processor can return for the model."""
        names = [*self.image_processor.model_input_names, *self.tokenizer.model_input_names]
        return list(dict.fromkeys(names))

    def to_dict(self) -> dict[str, Any]:
        """Serialize the parameters; `auto_map` points at the code that travels with a checkpoint."""
        output = super().to_dict()
        output["auto_map"] = {"AutoProcessor": MMLQ_AUTO_MAP["AutoProcessor"]}
        return output

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs: Any) -> Any:
        """Write the tokenizer, the parameters of both parts, and the code that reads them."""
        os.makedirs(save_directory, exist_ok=True)
        save_code_files(save_directory, __file__)
        return super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)


__all__ = ["MmlqProcessor"]
