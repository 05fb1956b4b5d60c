"""What Hugging Face's Inference Endpoints run: photos in, scores out.

{"inputs": "<base64 of a photo>"} or a list of them, {"parameters": {"num_views": 4, "return_embeddings": true}}
→ [{"score": 5.2, "normalized_score": 0.47, "std": 1.4, …}], for a photo that cannot be read {"error": "…"}
"""

from __future__ import annotations

import base64
from typing import Any

import torch
from PIL import Image
from transformers import pipeline


_PARAMETERS = ("num_views", "seed", "patch_selection", "return_embeddings")


class EndpointHandler:
    """Loads the checkpoint beside this file, code included."""

    def __init__(self, path: str = "") -> None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.pipeline = pipeline("image-aesthetics", model=path, device=device, trust_remote_code=True)

    def __call__(self, data: dict[str, Any]) -> list[dict[str, Any]]:
        """Score what a request holds; a photo that cannot be read gets an error."""
        inputs = data.get("inputs", data)
        photos = inputs if isinstance(inputs, list) else [inputs]
        given = data.get("parameters") or {}
        parameters = {name: given[name] for name in _PARAMETERS if name in given}
        return [self._score(photo, parameters) for photo in photos]

    def _score(self, photo: Any, parameters: dict[str, Any]) -> dict[str, Any]:
        try:
            if isinstance(photo, str):  # never a path or a URL
                photo = base64.b64decode(photo, validate=True)
            if not isinstance(photo, (bytes, Image.Image)):  # a body of type image/* comes decoded
                raise ValueError(f"Expected a photo in base64, got {type(photo).__name__}.")
            return self.pipeline(photo, **parameters)
        except ValueError as error:
            return {"error": " ".join(str(error).split())}
