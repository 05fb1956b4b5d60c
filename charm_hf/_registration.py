"""Make transformers know the package's classes: its Auto classes and `pipeline` then need no `trust_remote_code`."""

from __future__ import annotations


DEFAULT_REPOSITORY = "FatemehBehrad/Charm"
TASK = "image-aesthetics"


def register_with_transformers() -> None:
    """Register configurations, models, processors and the pipeline. Called once, when `charm_hf` is imported."""
    from transformers import (
        AutoConfig,
        AutoImageProcessor,
        AutoModel,
        AutoModelForImageClassification,
        AutoProcessor,
    )
    from transformers.models.auto.video_processing_auto import VIDEO_PROCESSOR_MAPPING
    from transformers.pipelines import PIPELINE_REGISTRY

    from .models.configuration_charm import CharmConfig
    from .models.configuration_mmlq import MmlqConfig
    from .models.image_processing_charm import CharmImageProcessor
    from .models.modeling_charm import CharmForAestheticScoring
    from .models.modeling_mmlq import MmlqForAestheticScoring
    from .models.pipeline_image_aesthetics import ImageAestheticsPipeline, ImageFeaturesPipeline
    from .models.processing_mmlq import MmlqProcessor

    AutoConfig.register(CharmConfig.model_type, CharmConfig, exist_ok=True)
    AutoModel.register(CharmConfig, CharmForAestheticScoring, exist_ok=True)
    AutoModelForImageClassification.register(CharmConfig, CharmForAestheticScoring, exist_ok=True)
    AutoImageProcessor.register(CharmConfig, slow_image_processor_class=CharmImageProcessor, exist_ok=True)
    AutoConfig.register(MmlqConfig.model_type, MmlqConfig, exist_ok=True)
    AutoModel.register(MmlqConfig, MmlqForAestheticScoring, exist_ok=True)
    AutoModelForImageClassification.register(MmlqConfig, MmlqForAestheticScoring, exist_ok=True)
    AutoProcessor.register(MmlqConfig, MmlqProcessor, exist_ok=True)
    # There is none, which has to be said: transformers' pipelines look for one and would ask whether they may run code
    # that the checkpoint does not bring.
    VIDEO_PROCESSOR_MAPPING.register(CharmConfig, {}, exist_ok=True)
    VIDEO_PROCESSOR_MAPPING.register(MmlqConfig, {}, exist_ok=True)
    PIPELINE_REGISTRY.supported_tasks["image-feature-extraction"]["impl"] = ImageFeaturesPipeline
    if TASK not in PIPELINE_REGISTRY.supported_tasks:
        PIPELINE_REGISTRY.register_pipeline(
            TASK,
            pipeline_class=ImageAestheticsPipeline,
            pt_model=AutoModel,
            default={"model": (DEFAULT_REPOSITORY, "main")},
            type="image",
        )
