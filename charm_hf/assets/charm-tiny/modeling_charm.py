"""What the configuration names as its code: inside the package that is the package's own."""

from charm_hf.models.modeling_charm import CharmForAestheticScoring


__all__ = ["CharmForAestheticScoring"]
