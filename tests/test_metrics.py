"""Metrics agree with SciPy, are defined where SciPy is not, and fit `evaluate` and `transformers.Trainer`."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from transformers import EvalPrediction

from charm_hf import AestheticMetrics
from charm_hf.metrics import (
    accuracy,
    bootstrap_intervals,
    compare_predictions,
    compute_aesthetic_metrics,
    dataset_accuracy_threshold,
    emd,
    mae,
    make_compute_metrics,
    mse,
    plcc,
    srcc,
)
from charm_hf.models.configuration_charm import CharmConfig


def _pair(kind, seed=0, size=200):
    generator = np.random.default_rng(seed)
    references = generator.normal(5, 1, size)
    predictions = references + generator.normal(0, 1, size)
    if kind == "ties":
        return np.round(predictions), np.round(references)
    if kind == "far from zero":
        return predictions + 1e6, references
    if kind == "tiny":
        return predictions * 1e-200, references
    if kind == "huge":
        return predictions * 1e200, references
    if kind == "two":
        return predictions[:2], references[:2]
    return predictions, references


@pytest.mark.parametrize("kind", ["plain", "ties", "far from zero", "two"])
def test_correlations_agree_with_scipy(kind):
    predictions, references = _pair(kind)
    assert srcc(predictions, references) == pytest.approx(
        scipy.stats.spearmanr(predictions, references).statistic, abs=1e-9
    )
    assert plcc(predictions, references) == pytest.approx(
        scipy.stats.pearsonr(predictions, references).statistic, abs=1e-9
    )


@pytest.mark.parametrize("kind", ["tiny", "huge"])
def test_correlations_do_not_depend_on_the_scale(kind):
    assert plcc(*_pair(kind)) == pytest.approx(plcc(*_pair("plain")), abs=1e-9)


@pytest.mark.parametrize(("predictions", "references"), [([3, 3, 3], [1, 2, 3]), ([1, 2, 3], [0.1] * 3), ([2], [3])])
def test_a_constant_side_has_correlation_zero(predictions, references):
    assert srcc(predictions, references) == plcc(predictions, references) == 0.0


def test_correlations_run_over_the_last_axis():
    predictions, references = _pair("ties", size=60)
    predictions, references = predictions.reshape(3, 20), references.reshape(3, 20)
    for metric in (srcc, plcc, mse, mae):
        rows = [metric(p, q) for p, q in zip(predictions, references, strict=True)]
        np.testing.assert_allclose(metric(predictions, references), rows, rtol=1e-12)


def test_accuracy_counts_a_score_at_the_threshold_as_not_good():
    predictions, references = [5.0, 5.0, 6.0, 4.0], [4.0, 6.0, 7.0, 6.0]
    assert accuracy(predictions, references, threshold=5.0) == 0.5
    assert accuracy(predictions, references, threshold=5.0, rule="mmlq") == 0.75
    with pytest.raises(ValueError, match="mmlq"):
        accuracy(predictions, references, threshold=5.0, rule="other")


def test_errors_are_in_the_units_of_the_scores():
    assert mse([1, 2], [3, 2]) == 2.0
    assert mae([1, 2], [3, 2]) == 1.0


def test_emd_is_the_mean_over_bins_and_images():
    predictions, references = [[1, 0, 0, 0], [0, 1, 0, 0]], [[0, 0, 0, 1], [0, 1, 0, 0]]
    # CDFs differ by 1 in three of four bins in the first image, and nowhere in the second.
    assert emd(predictions, references, r=1) == pytest.approx(0.75 / 2)
    assert emd(predictions, references, r=2) == pytest.approx(math.sqrt(0.75) / 2)
    assert emd(10 * np.array(predictions), references) == emd(predictions, references)


def test_emd_of_order_one_is_the_distance_that_scipy_gives():
    generator = np.random.default_rng(0)
    p, q = generator.dirichlet(np.ones(10), size=2)
    bins = np.arange(10)
    assert emd([p], [q], r=1) == pytest.approx(scipy.stats.wasserstein_distance(bins, bins, p, q) / 10, abs=1e-9)


def test_emd_of_order_two_is_the_training_loss():
    generator = torch.Generator().manual_seed(0)
    p, q = torch.rand(2, 8, 10, generator=generator, dtype=torch.float64).softmax(-1)
    loss = (p.cumsum(-1) - q.cumsum(-1)).square().mean(-1).sqrt().mean()
    assert emd(p.numpy(), q.numpy(), r=2) == pytest.approx(loss.item(), abs=1e-12)


@pytest.mark.parametrize("bad", [[[0.0, 0.0]], [[-0.5, 1.5]], [0.5, 0.5]])
def test_what_is_no_distribution_is_refused(bad):
    with pytest.raises(ValueError, match="distributions"):
        emd(bad, [[0.5, 0.5]])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("metric", [srcc, plcc, mse, mae, compute_aesthetic_metrics])
def test_nan_and_infinity_are_errors_that_name_the_row(metric, value):
    with pytest.raises(ValueError, match=r"1 of 3 predictions are NaN or infinite, the first in row 1"):
        metric([1.0, value, 2.0], [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="references"):
        metric([1.0, 3.0, 2.0], [1.0, 2.0, value])


def test_empty_and_unlike_inputs_are_errors():
    with pytest.raises(ValueError, match="got none"):
        compute_aesthetic_metrics([], [])
    with pytest.raises(ValueError, match="2 and 3"):
        compute_aesthetic_metrics([1, 2], [1, 2, 3])
    with pytest.raises(ValueError, match="one shape"):
        plcc([1, 2], [1, 2, 3])
    with pytest.raises(ValueError, match="need as many `score_values`, got none"):
        compute_aesthetic_metrics([[0.5, 0.5]], [1])


def test_the_metric_gives_what_the_functions_give_without_network(monkeypatch):
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("touched the network"))
    predictions, references = _pair("plain")
    found = AestheticMetrics("ava").compute(predictions=predictions, references=references)
    assert found == {
        "srcc": srcc(predictions, references),
        "plcc": plcc(predictions, references),
        "mse": mse(predictions, references),
        "mae": mae(predictions, references),
        "acc": accuracy(predictions, references, threshold=5.0),
    }
    assert all(type(value) is float for value in found.values())


def test_the_metric_takes_batches_tensors_and_distributions():
    generator = torch.Generator().manual_seed(0)
    p, q = torch.rand(2, 12, 10, generator=generator).softmax(-1)
    metric = AestheticMetrics("ava")
    metric.add_batch(predictions=p[:5], references=q[:5])
    metric.add_batch(predictions=p[5:], references=q[5:])

    found = metric.compute()

    values = np.arange(1, 11)
    assert set(found) == {"srcc", "plcc", "mse", "mae", "acc", "emd_r1", "emd_r2"}
    assert found["emd_r1"] == pytest.approx(emd(p, q, r=1), abs=1e-9)
    assert found["plcc"] == pytest.approx(plcc(p.numpy() @ values, q.numpy() @ values), abs=1e-6)
    # Distributions against scores: no distance, all the rest.
    mixed = AestheticMetrics("ava").compute(predictions=p, references=q.double() @ torch.arange(1.0, 11.0).double())
    assert mixed == {name: pytest.approx(found[name], abs=1e-6) for name in ("srcc", "plcc", "mse", "mae", "acc")}


def test_the_metric_can_be_used_again_after_an_error():
    metric = AestheticMetrics()
    with pytest.raises(ValueError, match="NaN"):
        metric.compute(predictions=[float("nan"), 1.0], references=[1.0, 2.0])
    assert metric.compute(predictions=[0.0, 1.0], references=[0.0, 1.0])["mse"] == 0.0


def test_accuracy_has_the_threshold_of_the_dataset_or_is_left_out(caplog):
    scores = [0.2, 0.4, 0.9]
    assert AestheticMetrics().compute(predictions=scores, references=scores)["acc"] == 1.0
    assert "acc" not in AestheticMetrics().compute(predictions=[3.0, 4.0], references=[3.0, 4.0])
    assert "accuracy_threshold" in caplog.text
    given = AestheticMetrics().compute(predictions=[3.0, 4.0], references=[3.0, 2.0], accuracy_threshold=3.5)
    assert given["acc"] == 0.5
    with pytest.raises(ValueError, match="aadb, ava"):
        AestheticMetrics("avaa")


@pytest.mark.parametrize(
    ("name", "score_range", "threshold"),
    [
        ("ava", None, 5.0),
        ("ava", (1, 10), 5.0),
        ("para", [1.0, 5.0], 3.0),
        ("koniq10k", (0, 100), 37.5),
        ("koniq10k", (1, 5), 2.5),
        ("koniq10k", (0, 5), 2.5),
        ("mine", (0, 4), 2.0),
        (None, (0, 1), 0.5),
    ],
)
def test_the_threshold_keeps_its_place_in_the_range(name, score_range, threshold):
    assert dataset_accuracy_threshold(name, score_range) == threshold


def test_a_dataset_without_a_range_has_no_threshold():
    with pytest.raises(ValueError, match="score_range"):
        dataset_accuracy_threshold("mine")


def test_trainer_metrics_of_a_distribution_model():
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(20, 10)).astype(np.float32)
    labels = generator.dirichlet(np.ones(10), size=20).astype(np.float32)
    distributions = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    scores = distributions @ np.arange(1, 11)
    compute_metrics = make_compute_metrics(CharmConfig.for_dataset("ava"))

    both = compute_metrics(EvalPrediction(predictions=(logits, scores), label_ids=labels))
    logits_only = compute_metrics(EvalPrediction(predictions=logits, label_ids=labels))
    scores_only = compute_metrics(EvalPrediction(predictions=scores, label_ids=labels))
    mean_labels = compute_metrics(EvalPrediction(predictions=(logits, scores), label_ids=labels @ np.arange(1, 11)))

    expected = compute_aesthetic_metrics(
        distributions, labels, accuracy_threshold=5.0, score_values=tuple(range(1, 11)), predicted_scores=scores
    )
    assert both == pytest.approx(expected, abs=1e-6)
    assert logits_only == pytest.approx(expected, abs=1e-5)
    without_distance = {name: value for name, value in both.items() if "emd" not in name}
    assert scores_only == pytest.approx(without_distance, abs=1e-5)
    assert mean_labels == pytest.approx(without_distance, abs=1e-5)


def test_trainer_metrics_of_a_regression_model_are_in_the_units_of_the_data():
    logits = np.array([[-1.0], [0.0], [2.0]])
    scores = 100 / (1 + np.exp(-logits[:, 0]))
    labels = np.array([30.0, 40.0, 90.0])
    compute_metrics = make_compute_metrics(CharmConfig.for_dataset("spaq"))

    found = compute_metrics(EvalPrediction(predictions=logits, label_ids=labels))

    assert found == pytest.approx(compute_metrics(EvalPrediction(predictions=(logits, scores), label_ids=(labels,))))
    assert found["mse"] == pytest.approx(np.square(scores - labels).mean())
    assert found["acc"] == 1.0
    with pytest.raises(ValueError, match=r"got shapes \(3, 2\)"):
        compute_metrics(EvalPrediction(predictions=np.zeros((3, 2)), label_ids=labels))


def test_trainer_metrics_find_the_score_among_attributes():
    logits = np.zeros((2, 12))
    logits[:, -3] = [-3.0, 3.0]
    compute_metrics = make_compute_metrics(CharmConfig.for_dataset("aadb", num_attributes=11))
    found = compute_metrics(EvalPrediction(predictions=logits, label_ids=np.array([0.1, 0.9])))
    assert found["plcc"] == pytest.approx(1.0)
    assert found["acc"] == 1.0


def test_bootstrap_intervals_hold_the_estimate_and_repeat():
    predictions, references = _pair("plain")
    options = {"accuracy_threshold": 5.0}
    point = compute_aesthetic_metrics(predictions, references, **options)

    intervals = bootstrap_intervals(predictions, references, seed=1, **options)

    assert set(intervals) == set(point)
    assert all(low < point[name] < high for name, (low, high) in intervals.items())
    assert bootstrap_intervals(predictions, references, seed=1, **options) == intervals
    assert bootstrap_intervals(predictions, references, seed=2, **options) != intervals
    narrower = bootstrap_intervals(predictions, references, seed=1, confidence=0.5, **options)
    assert all(low < narrower[name][0] and narrower[name][1] < high for name, (low, high) in intervals.items())


def test_bootstrap_intervals_agree_with_scipy():
    predictions, references = _pair("plain")
    expected = scipy.stats.bootstrap(
        (predictions, references),
        lambda x, y, axis: plcc(x, y),
        paired=True,
        vectorized=True,
        method="percentile",
        n_resamples=4000,
        rng=np.random.default_rng(0),
    ).confidence_interval
    found = bootstrap_intervals(predictions, references, num_resamples=4000, accuracy_threshold=5.0)["plcc"]
    assert found == pytest.approx((expected.low, expected.high), abs=0.01)


def test_bootstrap_intervals_come_in_chunks_of_any_size(monkeypatch):
    predictions, references = _pair("ties")
    whole = bootstrap_intervals(predictions, references, num_resamples=50, accuracy_threshold=5.0)
    monkeypatch.setattr("charm_hf.metrics._BOOTSTRAP_CHUNK", 7 * len(predictions))
    assert bootstrap_intervals(predictions, references, num_resamples=50, accuracy_threshold=5.0) == whole


def test_intervals_of_distributions_cover_the_distance_too():
    generator = np.random.default_rng(0)
    p, q = generator.dirichlet(np.ones(5), size=(2, 50))
    intervals = bootstrap_intervals(p, q, score_values=range(1, 6), accuracy_threshold=3, num_resamples=200)
    assert intervals["emd_r2"][0] < emd(p, q) < intervals["emd_r2"][1]


def test_two_models_are_compared_by_a_paired_bootstrap():
    generator = np.random.default_rng(0)
    rated = generator.normal(size=200)
    first = rated + generator.normal(size=200)
    second = first + 0.3 * generator.normal(size=200)  # nearly the same mistakes
    difference, low, high = compare_predictions(first, second, rated, accuracy_threshold=0, num_resamples=3000)["mse"]
    losses = np.square(first - rated) - np.square(second - rated)
    expected = scipy.stats.bootstrap((losses,), np.mean, n_resamples=3000, method="percentile", rng=1)
    assert difference == pytest.approx(losses.mean())
    assert (low, high) == pytest.approx(expected.confidence_interval, abs=0.02)
    own = bootstrap_intervals(first, rated, accuracy_threshold=0, num_resamples=3000)["mse"]
    assert high - low < 0.5 * (own[1] - own[0])
