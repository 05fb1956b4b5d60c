import pytest
import torch
from scipy.stats import pearsonr

from charm_hf.models.scores_charm import correlation_loss


def test_correlation_loss_agrees_with_scipy():
    generator = torch.Generator().manual_seed(0)
    scores, targets = torch.randn(2, 20, generator=generator, dtype=torch.float64)
    assert correlation_loss(scores, targets).item() == pytest.approx(1 - pearsonr(scores, targets)[0], abs=1e-12)


def test_correlation_loss_ignores_shift_and_scale_but_not_sign():
    scores = torch.tensor([1.0, 2.0, 4.0, 3.0])
    assert correlation_loss(scores, 10 * scores - 3).item() == pytest.approx(0, abs=1e-6)
    assert correlation_loss(scores, -scores).item() == pytest.approx(2, abs=1e-6)


def test_correlation_loss_of_constant_scores_is_one_with_a_finite_gradient():
    scores = torch.full((4,), 0.5, requires_grad=True)
    loss = correlation_loss(scores, torch.tensor([1.0, 2.0, 3.0, 4.0]))
    loss.backward()
    assert loss.item() == pytest.approx(1)
    assert torch.isfinite(scores.grad).all()


def test_correlation_loss_needs_two_photos():
    with pytest.raises(ValueError, match="B >= 2"):
        correlation_loss(torch.ones(1), torch.ones(1))
