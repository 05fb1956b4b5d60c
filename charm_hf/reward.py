"""Good looks as a reward for generators: tensors or PIL images in, rewards in [0, 1] out, differentiable if asked."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from .models.image_loading_charm import array_to_tensor, load_image
from .scoring.model_loading import load_for_scoring


class AestheticReward(torch.nn.Module):
    """The normalized score of images, as reward models are called.

    ```python
    reward = AestheticReward("path/to/checkpoint", num_views=8)
    rewards, details = reward(images, prompts, metadata)            # as flow_grpo calls its rewards
    loss = -AestheticReward(differentiable=True)(decoded).mean()    # ReFL: gradients reach the pixels
    ```

    The weights are frozen; gradients flow from the reward through the chosen regions into the pixels, in float32 and
    bfloat16. Which regions are chosen is not differentiable. A generator that climbs this gradient finds pixels that
    please the network and nobody else. With `num_views` above 1 every call sees each image in so many random ways
    (regions drawn at random, mirrored or not, patches shifted by less than one) and rewards the mean, which is harder
    to fool (`studies/reward`).

    Args:
        model: folder, repository or loaded Charm model; the embedded demonstration checkpoint if not given.
        processor: the processor of a loaded model.
        device, dtype: where and in what to compute; as [`load_for_scoring`].
        differentiable: keep the graph from the rewards to the pixels.
        num_views: random views to average over; 1 is the plain score, the same that `charm-hf score` gives.
        seed: of the views; each call draws on.
        parameters: of the image processor, such as `max_num_patches`.

    Raises:
        ValueError: for a checkpoint that does not see Charm tokens, or options out of range.
    """

    def __init__(
        self,
        model: Any = None,
        processor: Any = None,
        *,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype = "float32",
        differentiable: bool = False,
        num_views: int = 1,
        seed: int = 0,
        **parameters: Any,
    ) -> None:
        super().__init__()
        if model is None or isinstance(model, (str, os.PathLike)):
            name = None if model is None else os.fspath(model)
            model, processor = load_for_scoring(name, device=device, dtype=dtype)
        if not getattr(processor, "is_charm", False) or hasattr(processor, "tokenizer"):
            raise ValueError("`AestheticReward` needs a model that sees Charm tokens, and its processor.")
        if num_views < 1:
            raise ValueError(f"`num_views` must be at least 1, got {num_views}.")
        self.model = model.eval().requires_grad_(False)
        self.processor = processor
        self.differentiable = differentiable
        self.num_views = num_views
        self.parameters_of_processor = parameters
        self._draw = torch.Generator().manual_seed(seed)

    def forward(
        self, images: Any, prompts: Sequence[str] | None = None, metadata: Sequence[Any] | None = None
    ) -> torch.Tensor | tuple[torch.Tensor, dict[str, Any]]:
        """Reward images.

        Args:
            images: (B, 3, H, W) floats in [0, 1] on any device, in any floating type; (B, H, W, 3) `uint8` arrays; one
                PIL image, or a list of images of any sizes.
            prompts: not looked at: good looks do not depend on what was asked for.
            metadata: not looked at either.

        Returns:
            (B,) float32 in [0, 1], on the model's device. With `metadata`, the pair that flow_grpo expects: these, and
            a dictionary with `spread` (B,), the standard deviation over the views, if there are several.

        Raises:
            ValueError: for images of other shapes, or pixels out of range.
        """
        photos = [images] if isinstance(images, Image.Image) else list(images)
        with torch.set_grad_enabled(self.differentiable and torch.is_grad_enabled()):
            views = torch.stack([self._score(view) for view in self._views(photos)])
        rewards = views.mean(0)
        if metadata is None:
            return rewards
        return rewards, {"spread": views.std(0)} if self.num_views > 1 else {}

    def _views(self, photos: list[Any]) -> Iterator[Any]:
        """Inputs of the model for each view of all photos."""
        given = {"return_tensors": "pt", "device": self.model.device, **self.parameters_of_processor}
        if self.num_views == 1:
            yield self.processor(photos, **given)
            return
        tensors = [_as_tensor(photo) for photo in photos]
        for _ in range(self.num_views):
            seeds = torch.randint(2**31, (len(photos),), generator=self._draw).tolist()
            moved = [self._move(tensor) for tensor in tensors]
            yield self.processor(moved, stochastic_selection=True, seed=seeds, **given)

    def _move(self, photo: torch.Tensor) -> torch.Tensor:
        """A photo (3, H, W), mirrored or not, without up to a patch at its top and left, so that patches shift."""
        patch = min(self.processor.patch_size, min(photo.shape[1:]) // 2)
        top, left, mirrored = (int(torch.randint(n, (), generator=self._draw)) for n in (patch, patch, 2))
        photo = photo.flip(-1) if mirrored else photo
        return photo[:, top:, left:]

    def _score(self, inputs: Any) -> torch.Tensor:
        return self.model(**inputs).normalized_scores.float()


def _as_tensor(photo: Any) -> torch.Tensor:
    is_array = isinstance(photo, (np.ndarray, torch.Tensor))
    return array_to_tensor(photo if is_array else np.asarray(load_image(photo)), "an image")
