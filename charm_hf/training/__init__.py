"""What `examples/train.py`, `examples/train_mmlq.py` and `examples/evaluate_model.py` are made of."""

from charm_hf.training.collator import CharmDataCollator


__all__ = ["CharmDataCollator"]
