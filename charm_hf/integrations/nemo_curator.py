"""NeMo Curator: a stage of an image pipeline (needs `pip install nemo-curator`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nemo_curator.stages.base import ProcessingStage
from nemo_curator.stages.resources import Resources
from nemo_curator.tasks import ImageBatch

from . import ERROR, ImageRater


@dataclass
class CharmAestheticStage(ProcessingStage[ImageBatch, ImageBatch]):
    """Set `aesthetic_score` of each image, in [0, 1], and with a threshold drop those below it.

    An image that cannot be scored keeps `None`, the reason in `metadata["aesthetic_error"]`, and its place: what has
    no score is not known to be ugly.

    Args:
        model: folder or repository; the embedded demonstration checkpoint if not given.
        score_threshold: lowest score that is kept; all if not given.
        num_gpus_per_worker: 0 for CPUs.
    """

    model: str | None = None
    score_threshold: float | None = None
    num_gpus_per_worker: float = 0.0
    name: str = "charm_aesthetic"

    def __post_init__(self) -> None:
        self.resources = Resources(gpus=self.num_gpus_per_worker) if self.num_gpus_per_worker else Resources(cpus=1.0)
        self.rate = ImageRater(self.model)

    def inputs(self) -> tuple[list[str], list[str]]:
        """Attributes that a task needs."""
        return ["data"], []

    def outputs(self) -> tuple[list[str], list[str]]:
        """Attributes that a task has afterwards."""
        return ["data"], []

    def setup(self, worker_metadata: Any = None) -> None:
        """Load the checkpoint, once a worker."""
        _ = self.rate.scorer

    def process(self, task: ImageBatch) -> ImageBatch:
        """Score the images of a task; pixels where they are there, else the file."""
        images = [found.image_path if found.image_data is None else found.image_data for found in task.data]
        for found, (score, error) in zip(task.data, self.rate(images), strict=True):
            found.aesthetic_score = score
            if error is not None:
                found.metadata[ERROR] = error
        lowest = self.score_threshold
        if lowest is not None:
            task.data = [
                found for found in task.data if found.aesthetic_score is None or found.aesthetic_score >= lowest
            ]
        return task
