"""The published Charm checkpoints, pickles of whole modules, turned into safetensors without being executed."""

from .conversion import convert_legacy_checkpoint


__all__ = ["convert_legacy_checkpoint"]
