"""Stand-ins for curation packages that are too heavy for the test environment, with their documented interfaces only.

Data-Juicer pulls in 30 packages (streamlit, …), NeMo Curator the Xenna runtime, FiftyOne a MongoDB server, pyiqa its
own torch with torchvision and OpenCV. Where the real package is installed, it is used, by the same tests:
`.ci/curators`.
"""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from PIL import Image


X, Y = TypeVar("X"), TypeVar("Y")


class _Registry(dict):
    """`register_module(name)` of Data-Juicer, `register()` of pyiqa."""

    def register_module(self, name: str) -> Any:
        return lambda found: self.setdefault(name, found)

    def register(self) -> Any:
        return lambda found: self.setdefault(found.__name__, found)


class Filter:
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.image_key = kwargs.get("image_key", "images")

    def get_keep_boolean(self, value: float, lowest: float, highest: float) -> bool:
        return lowest <= value <= highest

    def compute_stats(self, samples: dict) -> dict:
        return self.compute_stats_batched(samples)  # type: ignore[attr-defined]

    def process(self, samples: dict) -> Any:
        return map(lambda stat: self.process_single({"__dj__stats__": stat}), samples["__dj__stats__"])  # type: ignore[attr-defined]


class ProcessingStage(Generic[X, Y]):
    pass


@dataclass
class Resources:
    cpus: float = 1.0
    gpus: float = 0.0


@dataclass
class ImageObject:
    image_path: str = ""
    image_id: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    image_data: Any = None
    aesthetic_score: float | None = None


@dataclass
class ImageBatch:
    dataset_name: str = ""
    data: list[ImageObject] = field(default_factory=list)


class Pipeline:
    def __init__(self, name: str, stages: list[Any]) -> None:
        self.stages = stages

    def run(self, initial_tasks: list[ImageBatch]) -> list[ImageBatch]:
        for stage in self.stages:
            stage.setup()
            initial_tasks = [stage.process(task) for task in initial_tasks]
        return initial_tasks


class Samples(list):
    """Samples of FiftyOne: a dataset, or a view of one."""

    @classmethod
    def from_images_dir(cls, folder: str) -> Samples:
        return cls({"filepath": str(path)} for path in sorted(Path(folder).glob("*.jpg")))

    def apply_model(self, model: Any, label_field: str, batch_size: int) -> None:
        for start in range(0, len(self), batch_size):
            batch = self[start : start + batch_size]
            images = [np.asarray(Image.open(sample["filepath"])) for sample in batch]
            for sample, labels in zip(batch, model.predict_all(images), strict=True):
                sample |= {f"{label_field}_{name}": label for name, label in labels.items()}

    def sort_by(self, field: str, reverse: bool) -> Samples:
        name, attribute = field.split(".")
        return Samples(sorted(self, key=lambda sample: getattr(sample[name], attribute), reverse=reverse))

    def first(self) -> dict[str, Any]:
        return self[0]


def create_metric(name: str, as_loss: bool = False, device: Any = None, **options: Any) -> Any:
    configs = sys.modules["pyiqa.default_model_configs"].DEFAULT_CONFIGS
    archs = sys.modules["pyiqa.utils.registry"].ARCH_REGISTRY
    net = archs[configs[name]["metric_opts"]["type"]](**options).to(device)

    def metric(images: torch.Tensor | str) -> torch.Tensor:
        if isinstance(images, str):
            images = torch.from_numpy(np.array(Image.open(images))).permute(2, 0, 1)[None] / 255
        with torch.set_grad_enabled(as_loss):
            return net(images).mean() if as_loss else net(images)

    return metric


_STAND_INS: dict[str, dict[str, dict[str, Any]]] = {
    "data_juicer": {
        "data_juicer.ops.base_op": {"OPERATORS": _Registry(), "Filter": Filter},
        "data_juicer.utils.constant": {"Fields": SimpleNamespace(stats="__dj__stats__")},
    },
    "nemo_curator": {
        "nemo_curator.pipeline": {"Pipeline": Pipeline},
        "nemo_curator.stages.base": {"ProcessingStage": ProcessingStage},
        "nemo_curator.stages.resources": {"Resources": Resources},
        "nemo_curator.tasks": {"ImageBatch": ImageBatch, "ImageObject": ImageObject},
    },
    "fiftyone": {
        "fiftyone": {"Dataset": Samples},
        "fiftyone.core.labels": {"Regression": SimpleNamespace},
        "fiftyone.core.models": {"Model": object},
    },
    "pyiqa": {
        "pyiqa": {"create_metric": create_metric},
        "pyiqa.default_model_configs": {"DEFAULT_CONFIGS": {}},
        "pyiqa.utils.registry": {"ARCH_REGISTRY": _Registry()},
    },
}


def adapter(host: str, monkeypatch: Any) -> ModuleType:
    """The adapter for a host, over the real package or over its stand-in."""
    try:
        return importlib.import_module(f"charm_hf.integrations.{host}")
    except ImportError:
        pass
    for name, contents in _STAND_INS[host].items():
        parts = name.split(".")
        for end in range(1, len(parts) + 1):
            module = sys.modules.get(".".join(parts[:end])) or ModuleType(".".join(parts[:end]))
            monkeypatch.setitem(sys.modules, module.__name__, module)
        vars(sys.modules[name]).update(contents)
    name = f"charm_hf.integrations.{host}"
    monkeypatch.setitem(sys.modules, name, None)  # so that it is forgotten after the test
    del sys.modules[name]
    return importlib.import_module(name)
