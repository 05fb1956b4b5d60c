"""FiftyOne: a model for `dataset.apply_model` (needs `pip install fiftyone`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fiftyone.core.labels import Regression
from fiftyone.core.models import Model

from . import ERROR, SCORE, ImageRater


class CharmAesthetics(Model):
    """Rate photos: `dataset.apply_model(CharmAesthetics(), label_field="charm", batch_size=16)`.

    Each sample gets the field `charm_aesthetic_score`, a regression in [0, 1]; one that cannot be scored gets none and
    the reason in its field's `aesthetic_error`.

    Args:
        model: folder or repository; the embedded demonstration checkpoint if not given.
        options: for [`ImageRater`].
    """

    media_type = "image"
    transforms = None
    ragged_batches = True
    preprocess = False

    def __init__(self, model: str | None = None, **options: Any) -> None:
        self.rate = ImageRater(model, **options)

    def predict(self, arg: Any) -> dict[str, Regression]:
        """Rate one photo, (H, W, 3) `uint8`."""
        return self.predict_all([arg])[0]

    def predict_all(self, args: Sequence[Any]) -> list[dict[str, Regression]]:
        """Rate photos of any sizes."""
        ratings = self.rate(list(args))
        return [
            {SCORE: Regression(value=score, **({} if error is None else {ERROR: error}))} for score, error in ratings
        ]
