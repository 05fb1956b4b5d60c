"""`pipeline("image-aesthetics")`: photos in, scores out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import ImageFeatureExtractionPipeline, Pipeline

from .checkpoint_charm import CardMixin, CheckpointMixin, describe_provenance
from .image_loading_charm import scorable_size
from .image_urls_charm import fetch_url, is_url
from .scores_charm import average_views, percentile_of_score


# transformers concatenates what is called "pixel_values" when it batches; any other name it pads, which is what tokens
# need.
_TOKENS = "patch_tokens"
_PER_TOKEN = (_TOKENS, "scale_ids", "patch_positions")


class ImageAestheticsPipeline(CardMixin, Pipeline):
    """Score how good photos look.

    Accepts what [`CharmImageProcessor`] accepts: a path, URL, PIL image, array or encoded bytes; a `{"image": …}`
    mapping; a list, generator, `datasets` column or dataset of these. Unlike sizes may share a batch (`batch_size=`):
    the score of a photo does not depend on it. For a checkpoint that reads comments, `{"image": …, "comments": […]}`
    gives those of the photo; without `comments` it is scored by its looks alone. With `patch_selection="saliency"`,
    `{"image": …, "saliency_map": …}` gives the photo's map, or `saliency_maps=SaliencyFolder(…)` those of all.

    Each result is a `dict`:

    - `score`: in the data set's own units, `model.config.score_range`;
    - `normalized_score`: in [0, 1];
    - `std`: standard deviation of the predicted ratings, in the same units as `score`; `None` for a regression head;
    - `distribution`: probability of each of `model.config.score_values`; `None` for a regression head;
    - `attributes`: only if the head predicts them;
    - `percentile`: share, in percent, of the training ratings below the score; only if the checkpoint carries them;
    - `spread`: standard deviation of the score over the views; only with `num_views` above 1;
    - `embedding`: what the head sees of the photo, `pooler_output`; only with `return_embeddings`.

    Args:
        num_views (`int`, defaults to 1): score this many random selections of a photo's high-resolution regions and
            average. View `i` uses `seed + i`.
        return_embeddings (`bool`, defaults to `False`): give embeddings beside the scores.
        kwargs: any parameter of the image processor, at construction or per call, such as `patch_selection`.

    Raises:
        ValueError, FileNotFoundError: for a photo that cannot be read; the message names it.
    """

    _load_processor = None  # where there is one: checkpoints that read comments have a tokenizer, too
    _load_image_processor = True
    _load_feature_extractor = False
    _load_tokenizer = False
    _load_video_processor = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.processor is not None:
            self.tokenizer = self.processor.tokenizer  # transformers pads a batch of comments with it
            self.processor.check_text_encoder(self.model.config.text_config)

    @property
    def provenance(self) -> dict[str, str | None]:
        """What produces the scores: model, revision, dtype and versions (see `describe_provenance`)."""
        return describe_provenance(self.model)

    @property
    def is_charm(self) -> bool:
        """Whether photos become Charm tokens, so that there are regions to select."""
        return (self.processor or self.image_processor).is_charm

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:
        """Score one photo (a `dict`), a list or dataset (a list), or a generator (an iterator of results)."""
        if _is_lazy_sequence(inputs):
            return list(super().__call__((inputs[index] for index in range(len(inputs))), **kwargs))
        if isinstance(inputs, (list, tuple)):
            return super().__call__(list(inputs), **kwargs) if len(inputs) else []
        if not isinstance(inputs, _SINGLE) and isinstance(inputs, Iterable) and not hasattr(inputs, "__getitem__"):
            inputs = (item for item in inputs)
        return super().__call__(inputs, **kwargs)

    def _sanitize_parameters(
        self, num_views: int | None = None, return_embeddings: bool | None = None, **kwargs: Any
    ) -> tuple[dict, dict, dict]:
        parameters = dict(kwargs)
        if num_views is not None:
            if num_views < 1:
                raise ValueError(f"`num_views` must be at least 1, got {num_views}.")
            parameters["num_views"] = num_views
        return parameters, {} if return_embeddings is None else {"return_embeddings": return_embeddings}, {}

    def preprocess(self, input_: Any, num_views: int = 1, **processor_kwargs: Any) -> dict[str, torch.Tensor]:
        """Tokenize one photo; views stand in the third dimension, (1, L, V, …), since batching pads the second."""
        comments = None
        if isinstance(input_, Mapping) and "image" in input_:
            if "saliency_map" in input_:
                processor_kwargs = {**processor_kwargs, "saliency_maps": [input_["saliency_map"]]}
            input_, comments = input_["image"], input_.get("comments")
        if is_url(input_):
            input_ = {"bytes": fetch_url(input_), "path": input_}  # once, for its size and its pixels
        scorable_size(input_, input_data_format=processor_kwargs.get("input_data_format"))
        if num_views == 1:
            views = [self._tokenize(input_, comments, processor_kwargs)]
        elif not self.is_charm:
            raise ValueError("`num_views` needs Charm tokens: other image processors have nothing to select.")
        else:
            seed = processor_kwargs.get("seed", self.image_processor.seed) or 0
            drawn = {"stochastic_selection": True, **processor_kwargs}
            views = [self._tokenize(input_, comments, {**drawn, "seed": seed + view}) for view in range(num_views)]
        stacked = {name: torch.stack([view[name] for view in views], dim=2) for name in _PER_TOKEN if name in views[0]}
        return {**views[0], **stacked}

    def _tokenize(self, image: Any, comments: Any, processor_kwargs: dict[str, Any]) -> dict[str, torch.Tensor]:
        if self.processor is None:
            inputs = self.image_processor(image, return_tensors="pt", **processor_kwargs)
        else:
            inputs = self.processor([image], [comments], return_tensors="pt", **processor_kwargs)
        if "scale_ids" not in inputs:
            return dict(inputs)
        return {_TOKENS if name == "pixel_values" else name: value for name, value in inputs.items()}

    def _forward(
        self, model_inputs: dict[str, torch.Tensor], return_embeddings: bool = False
    ) -> dict[str, torch.Tensor]:
        views = model_inputs["scale_ids"].shape[2] if "scale_ids" in model_inputs else 1
        inputs = {
            "pixel_values" if name == _TOKENS else name: value.transpose(1, 2).flatten(0, 1)
            if name in _PER_TOKEN
            else value.repeat_interleave(views, dim=0)
            for name, value in model_inputs.items()
        }
        outputs = self.model(**inputs)
        return average_views(outputs, views, self.model.config.score_values, return_embeddings)

    def postprocess(self, model_outputs: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        """Turn the tensors of one photo into numbers."""
        found = {name: value[0].tolist() for name, value in model_outputs.items()}
        result: dict[str, Any] = {**dict.fromkeys(("score", "normalized_score", "std", "distribution")), **found}
        if quantiles := getattr(self.model.config, "score_quantiles", None):
            result["percentile"] = percentile_of_score(result["score"], quantiles)
        return result


class ImageFeaturesPipeline(ImageFeatureExtractionPipeline):
    """transformers' own, which takes a model's first output: here the encoder's, for a scoring model gives logits."""

    def _forward(self, model_inputs: Any) -> Any:
        if isinstance(self.model, CheckpointMixin):
            return self.model.get_image_features(**model_inputs)
        return super()._forward(model_inputs)


# What stands for one photo although it has a length or can be iterated.
_SINGLE = (str, bytes, bytearray, os.PathLike, Image.Image, np.ndarray, torch.Tensor, Mapping)


def _is_lazy_sequence(inputs: Any) -> bool:
    """Tell a `datasets` column or dataset from a list, a photo and torch's own datasets, which transformers knows."""
    if isinstance(inputs, (*_SINGLE, list, tuple, torch.utils.data.Dataset)):
        return False
    return hasattr(inputs, "__getitem__") and hasattr(inputs, "__len__")


__all__ = ["ImageAestheticsPipeline", "ImageFeaturesPipeline"]
