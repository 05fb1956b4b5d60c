"""The model leaves PyTorch by `torch.export` and ONNX, for any batch and any number of tokens."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support import photo_path, tiny_model, tiny_processor

from charm_hf import CharmForAestheticScoring


class Scorer(torch.nn.Module):
    """Tensors in, normalized scores out: what an exported file should compute."""

    def __init__(self, model: CharmForAestheticScoring) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        pixel_values: torch.Tensor,
        pixel_attention_mask: torch.Tensor,
        scale_ids: torch.Tensor,
        patch_positions: torch.Tensor,
        spatial_shapes: torch.Tensor,
    ) -> torch.Tensor:
        return self.model(
            pixel_values, pixel_attention_mask, scale_ids, patch_positions, spatial_shapes
        ).normalized_scores


# One type with a table of positions and CLS, one without CLS whose patches are flat, one with rotations and registers.
TYPES = ("dinov2", "siglip2_vision_model", "dinov3_vit")


def example(backbone: str) -> tuple[Scorer, dict, dict, dict]:
    """A scorer, inputs to trace it with, others of another batch size and length, and what may vary."""
    model = tiny_model(backbone)
    processor = tiny_processor(model)
    traced = dict(processor([photo_path("coffee"), photo_path("chelsea")]))
    others = dict(processor([photo_path(name) for name in ("astronaut", "coffee", "china")], max_num_patches=120))
    batch, tokens = torch.export.Dim("batch", min=1, max=1024), torch.export.Dim("tokens", min=2, max=16384)
    dimensions = {name: {0: batch, 1: tokens} for name in traced} | {"spatial_shapes": {0: batch}}
    return Scorer(model).eval(), traced, others, dimensions


@pytest.mark.slow
@pytest.mark.parametrize("backbone", TYPES)
def test_torch_export_computes_the_same_scores_for_other_batches_and_lengths(backbone: str) -> None:
    scorer, traced, others, dimensions = example(backbone)
    program = torch.export.export(scorer, (), kwargs=traced, dynamic_shapes=dimensions)
    with torch.no_grad():
        assert torch.allclose(program.module()(**others), scorer(**others), atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", TYPES)
def test_onnx_computes_the_same_scores_for_other_batches_and_lengths(backbone: str, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    scorer, traced, others, dimensions = example(backbone)
    torch.onnx.export(
        scorer, (), tmp_path / "charm.onnx", kwargs=traced, dynamic_shapes=dimensions, dynamo=True, verbose=False
    )
    session = onnxruntime.InferenceSession(tmp_path / "charm.onnx")
    assert {item.name for item in session.get_inputs()} == set(traced)
    (scores,) = session.run(None, {name: tensor.numpy() for name, tensor in others.items()})
    with torch.no_grad():
        assert torch.allclose(torch.from_numpy(scores), scorer(**others), atol=1e-4)
