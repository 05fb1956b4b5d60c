"""Image aesthetics for transformers: Charm tokenization (CVPR 2025) and multi-modal learnable queries (ICME 2024).

Importing the package registers its classes with the Auto classes and the `image-aesthetics` pipeline task.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from ._registration import register_with_transformers
from .version import __version__


# Public name -> module that holds it. Names are imported when first used, so that `import charm_hf` stays cheap.
_PUBLIC = {
    "CharmConfig": "models.configuration_charm",
    "CharmImageProcessor": "models.image_processing_charm",
    "CharmModel": "models.modeling_charm",
    "CharmForAestheticScoring": "models.modeling_charm",
    "MmlqConfig": "models.configuration_mmlq",
    "MmlqProcessor": "models.processing_mmlq",
    "MmlqForAestheticScoring": "models.modeling_mmlq",
    "ImageAestheticsPipeline": "models.pipeline_image_aesthetics",
    "convert_legacy_checkpoint": "legacy",
    "load_aesthetic_dataset": "data",
    "AestheticMetrics": "metrics",
    "AestheticReward": "reward",
    "embedded_model_path": "hub",
    "resolve_checkpoint": "hub",
}

__all__ = ["__version__", *sorted(_PUBLIC)]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})


register_with_transformers()
