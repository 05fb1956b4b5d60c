"""What the configuration names as its code: inside the package that is the package's own."""

from charm_hf.models.pipeline_image_aesthetics import ImageAestheticsPipeline


__all__ = ["ImageAestheticsPipeline"]
