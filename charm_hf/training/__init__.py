"""Losses, parameter groups and augmentations: what `examples/train.py` is made of."""
