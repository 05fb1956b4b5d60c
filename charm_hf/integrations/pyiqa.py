"""pyiqa: one more metric (needs `pip install pyiqa`).

After this module is imported there is `pyiqa.create_metric("charm", model=…)`.
"""

from __future__ import annotations

from typing import Any

import torch
from pyiqa.default_model_configs import DEFAULT_CONFIGS
from pyiqa.utils.registry import ARCH_REGISTRY

from ..reward import AestheticReward


@ARCH_REGISTRY.register()
class CharmAesthetics(torch.nn.Module):
    """Normalized scores (B, 1) of tensors (B, 3, H, W) in [0, 1]; differentiable with `as_loss=True`.

    Args:
        model: folder or repository; the embedded demonstration checkpoint if not given.
        options: for [`AestheticReward`], such as `num_views`.
    """

    def __init__(self, model: str | None = None, **options: Any) -> None:
        super().__init__()
        self.reward = AestheticReward(model, device="cpu", differentiable=True, **options)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Score a batch; pyiqa moves the metric to its device and decides about gradients."""
        return self.reward(x)[:, None]


DEFAULT_CONFIGS["charm"] = {
    "metric_opts": {"type": "CharmAesthetics"},
    "metric_mode": "NR",
    "lower_better": False,
    "score_range": "0, 1",
}
