"""What the configuration names as its code: inside the package that is the package's own."""

from charm_hf.models.configuration_charm import CharmConfig


__all__ = ["CharmConfig"]
