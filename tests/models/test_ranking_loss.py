import math

import numpy as np
import pytest
import torch

from charm_hf.metrics import series_agreement, series_intervals
from charm_hf.models.scores_charm import ranking_loss


def test_only_pairs_of_one_group_with_unlike_ratings_count():
    scores = torch.tensor([0.5, 0.4, 0.9, 0.1], dtype=torch.float64, requires_grad=True)
    targets, groups = torch.tensor([2.0, 1.0, 5.0, 5.0]), torch.tensor([7, 7, 8, 8])
    loss = ranking_loss(scores, targets, groups)
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-1)))
    loss.backward()
    assert scores.grad[0] < 0 < scores.grad[1]
    assert scores.grad[2:].tolist() == [0, 0]


def test_a_batch_without_a_pair_costs_nothing_and_has_a_finite_gradient():
    scores = torch.tensor([0.5, 0.4], requires_grad=True)
    loss = ranking_loss(scores, torch.tensor([2.0, 1.0]), torch.tensor([1, 2]))
    loss.backward()
    assert (loss.item(), scores.grad.tolist()) == (0, [0, 0])


def test_the_more_series_the_narrower_the_intervals_around_their_agreement():
    random = np.random.default_rng(0)

    def measured(count):
        rated, groups = np.tile([0.0, 1.0], count), np.repeat(np.arange(count), 2)
        data = rated + random.normal(size=2 * count), rated, groups
        low, high = series_intervals(*data)["pair_accuracy"]
        value = series_agreement(*data)["pair_accuracy"]
        assert low < value < high
        # Of independent pairs the interval is that of a share.
        assert high - low == pytest.approx(2 * 1.96 * np.sqrt(value * (1 - value) / count), rel=0.15)

    measured(100)
    measured(900)


def test_series_agreement_by_hand():
    # a: 3 pairs, two as people say, the best is not; b: a tie counts half, and half of the top; c: nothing to compare.
    predictions, references = [1, 3, 2, 5, 5, 9, 8], [3, 2, 1, 1, 2, 4, 4]
    found = series_agreement(predictions, references, [*"aaabbcc"])
    assert found == {"pair_accuracy": pytest.approx((1 + 0.5) / 4), "series_top1": pytest.approx((0 + 0.5) / 2)}
    with pytest.raises(ValueError, match="nothing to compare"):
        series_agreement([1, 2], [3, 3], "aa")
