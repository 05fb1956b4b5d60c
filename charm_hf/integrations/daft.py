"""Daft: a batched expression over a column of paths or encoded images (needs `pip install daft`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import daft

from . import ERROR, SCORE, ImageRater


def aesthetic_score(
    model: str | None = None,
    *,
    batch_size: int | None = 256,
    num_gpus: float | None = None,
    concurrency: int | None = None,
    **options: Any,
) -> Callable[[daft.Expression], daft.Expression]:
    """Make a function of a column: paths, encoded bytes or Daft images.

    ```python
    photos = daft.from_glob_path("photos/*.jpg")
    photos = photos.with_column("rating", aesthetic_score()(daft.col("path")))
    photos.select("path", photos["rating"]["aesthetic_score"]).show()
    ```

    Args:
        model: folder or repository; the embedded demonstration checkpoint if not given.
        batch_size, num_gpus, concurrency: rows of a batch, GPUs of a process and processes, as `daft.udf` has them.
        options: for [`ImageRater`].

    Returns:
        What gives a struct of `aesthetic_score` (float64) and `aesthetic_error` (string) for each row.
    """
    rating = daft.DataType.struct({SCORE: daft.DataType.float64(), ERROR: daft.DataType.string()})

    @daft.udf(return_dtype=rating, batch_size=batch_size, num_gpus=num_gpus, concurrency=concurrency)
    class Rate:
        def __init__(self) -> None:
            self.rate = ImageRater(model, **options)

        def __call__(self, images: daft.Series) -> list[dict[str, Any]]:
            found = [_local(image) for image in images.to_pylist()]
            return [{SCORE: score, ERROR: error} for score, error in self.rate(found)]

    return cast(Any, Rate)  # the decorator makes a UDF of the class


def _local(image: Any) -> Any:
    return image.removeprefix("file://") if isinstance(image, str) else image
