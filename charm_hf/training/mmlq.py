"""What training multi-modal learnable queries adds to training Charm: another model, and comments with the photos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image

from charm_hf.models.configuration_mmlq import MmlqConfig
from charm_hf.models.modeling_mmlq import MmlqForAestheticScoring
from charm_hf.models.processing_mmlq import MmlqProcessor
from charm_hf.training.batches import TokenizedDataset, derive_seed


def build_mmlq(
    source: str | None,
    text_encoder: str | None,
    head: Mapping[str, Any],
    options: Mapping[str, Any],
    max_text_length: int,
) -> tuple[MmlqForAestheticScoring, MmlqProcessor]:
    """Make the model to train, and the processor that fits it.

    Args:
        source: repository or folder of the vision encoder (a Charm checkpoint, too), or of an MMLQ checkpoint to go on
            from, if no `text_encoder` is given.
        text_encoder: repository or folder of the text encoder.
        head: `score_range`, `score_values`, `dataset_name` and `score_quantiles`.
        options: further fields of [`MmlqConfig`] for a new model.
        max_text_length: tokens of comments a photo.

    Raises:
        ValueError: if there is no vision encoder, if the tokenizer does not fit, or if the checkpoint to go on from
            predicts other bins.
    """
    if source is None:
        raise ValueError("Give the vision encoder (`model_name_or_path`): a repository or a folder.")
    if text_encoder is not None:
        model = MmlqForAestheticScoring.from_encoders(source, text_encoder, **{**head, **options})
        processor = MmlqProcessor.from_encoders(source, text_encoder, max_text_length=max_text_length)
    else:
        model = MmlqForAestheticScoring.from_pretrained(source)
        processor = MmlqProcessor.from_pretrained(source)
        wanted = MmlqConfig(score_range=head["score_range"], score_values=head["score_values"])
        if model.config.score_values != wanted.score_values:
            raise ValueError(
                f"{source} predicts the bins {model.config.score_values}, the dataset has {wanted.score_values}."
            )
        for name in ("dataset_name", "score_quantiles"):
            setattr(model.config, name, head[name])
    processor.check_text_encoder(model.config.text_config)
    return model, processor


def comments_shown(row: Mapping[str, Any], limit: int | None, seed: int) -> list[str]:
    """Comments that are shown with a photo, a row of a dataset: the same in every epoch; none if it has none."""
    return choose_comments(row.get("comments") or [], limit, derive_seed(seed, "comments", row["image_id"]))


def choose_comments(comments: Sequence[str], limit: int | None, seed: int) -> list[str]:
    """Keep at most `limit` comments (`None`: all), drawn by `seed`, in their order."""
    if limit is None or len(comments) <= limit:
        return list(comments)
    order = torch.randperm(len(comments), generator=torch.Generator().manual_seed(seed))
    return [comments[index] for index in sorted(order[:limit].tolist())]


class CommentedDataset(TokenizedDataset):
    """Photos of a dataset with their comments (column `comments`; without one, no photo has any).

    Args:
        dataset, processor, label, augmentation, processor_kwargs, seed: as for [`TokenizedDataset`].
        max_comments: show at most so many comments a photo; 0 none, `None` all.
    """

    def __init__(self, *args: Any, max_comments: int | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.max_comments = max_comments
        if not self.processor.is_charm:  # nothing to select
            for name in ("patch_selection", "stochastic_selection"):
                self.processor_kwargs.pop(name, None)

    def _tokenize(
        self, row: Mapping[str, Any], image: Image.Image, seed: int, saliency_map: Image.Image | None = None
    ) -> Mapping[str, Any]:
        kwargs = {**self.processor_kwargs, **({"seed": seed} if self.processor.is_charm else {})}
        return self.processor([image], [comments_shown(row, self.max_comments, self.seed)], **kwargs)
