"""What the configuration names as its code: inside the package that is the package's own."""

from charm_hf.models.image_processing_charm import CharmImageProcessor


__all__ = ["CharmImageProcessor"]
