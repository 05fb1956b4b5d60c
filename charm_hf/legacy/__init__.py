"""The published Charm checkpoints, pickles of whole modules, turned into safetensors without running what is in them."""

from charm_hf.legacy.conversion import convert_legacy_checkpoint

__all__ = ["convert_legacy_checkpoint"]
