"""How well scores agree with people: SRCC, PLCC, ACC, MSE, MAE and EMD, as the papers report them.

Pure functions first, each over the last axis, so that a bootstrap runs through the same code; then the
`evaluate.Metric` and the adapter for `transformers.Trainer`.

Where a number would be undefined:

- SRCC and PLCC of constant predictions or references (and so of a single image) are 0.0, where SciPy gives NaN: a
  model that says the same of every image has found no order, NaN is no JSON, and never compares as worse.
- Tied values share the mean of their ranks, as in SciPy.
- NaN or infinity among the inputs is an error, and so is an empty input.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import datasets
import evaluate
import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.stats import rankdata

from charm_hf.models.configuration_charm import CharmConfig
from charm_hf.models.presets_charm import DATASET_PRESETS, label_range
from charm_hf.models.scores_charm import denormalize_scores, expected_scores, interpret_logits, normalize_scores


if TYPE_CHECKING:
    from transformers import EvalPrediction

logger = logging.getLogger(__name__)

# Resampled values held in memory at once by the bootstrap.
_BOOTSTRAP_CHUNK = 4_000_000


def plcc(predictions: ArrayLike, references: ArrayLike) -> Any:
    """Pearson's linear correlation coefficient over the last axis: (…, N), (…, N) → (…).

    0.0 where either side is constant.

    >>> float(round(plcc([1, 2, 3], [2, 4, 6]), 9))
    1.0
    """
    x, y = _pair(predictions, references)
    constant = (np.ptp(x, axis=-1) == 0) | (np.ptp(y, axis=-1) == 0)
    product = (_unit(x) * _unit(y)).sum(axis=-1)
    return np.where(constant, 0.0, np.clip(product, -1.0, 1.0))[()]


def srcc(predictions: ArrayLike, references: ArrayLike) -> Any:
    """Spearman's rank correlation coefficient over the last axis: (…, N), (…, N) → (…).

    Tied values share the mean of their ranks. 0.0 where either side is constant.

    >>> float(round(srcc([1, 2, 3], [2, 4, 400]), 9))
    1.0
    """
    x, y = _pair(predictions, references)
    return plcc(rankdata(x, axis=-1), rankdata(y, axis=-1))


def accuracy(predictions: ArrayLike, references: ArrayLike, threshold: float, rule: str = "charm") -> Any:
    """Share of images that both sides put on the same side of a threshold: (…, N), (…, N) → (…).

    Args:
        predictions: scores.
        references: scores in the same units.
        threshold: in the same units; AVA 5, PARA 3 (`DATASET_PRESETS` holds them all).
        rule: `"charm"`: a score is good if it is above the threshold, and both must be or both not be.
            `"mmlq"`: `(prediction - threshold) * (reference - threshold) >= 0`, by which a score exactly at the
            threshold agrees with everything.

    >>> float(accuracy([5.5, 5.0, 4.0], [6.0, 7.0, 3.0], threshold=5.0)) == 2 / 3
    True
    """
    x, y = _pair(predictions, references)
    return _agreement(x, y, threshold, rule).mean(axis=-1)


def mse(predictions: ArrayLike, references: ArrayLike) -> Any:
    """Mean squared error over the last axis, in the square of the scores' units: (…, N), (…, N) → (…)."""
    x, y = _pair(predictions, references)
    return np.square(x - y).mean(axis=-1)


def mae(predictions: ArrayLike, references: ArrayLike) -> Any:
    """Mean absolute error over the last axis, in the scores' units: (…, N), (…, N) → (…)."""
    x, y = _pair(predictions, references)
    return np.abs(x - y).mean(axis=-1)


def emd(predictions: ArrayLike, references: ArrayLike, r: float = 2.0) -> float:
    """Mean earth mover's distance between distributions: (N, K), (N, K) → number between 0 and 1.

    An image's distance is `mean(|CDF - CDF'|^r)^(1/r)` over the K bins. With r = 2 it is the training loss of Charm
    and MMLQ; with r = 1 it is what most papers report.

    Raises:
        ValueError: if a row has a negative entry or none above zero. Rows are brought to sum 1.

    >>> emd([[1, 0]], [[0, 1]], r=1)
    0.5
    """
    return float(_sample_emd(_as_distributions(predictions), _as_distributions(references), r).mean())


def series_agreement(predictions: ArrayLike, references: ArrayLike, groups: Sequence[Any]) -> dict[str, float]:
    """How well predictions order photos within series, or pairs.

    Args:
        predictions: (N,) scores.
        references: (N,) what people say, in any units; equal ones of a series are not compared.
        groups: N names of the series that each photo belongs to.

    Returns:
        `pair_accuracy`: share of pairs of one series that are ordered as people do, ties counting half.
        `series_top1`: share of series whose highest prediction is one of the people's best, of several that are equal
        their share. Only what can be measured: a single photo, or one whose references are all equal, cannot.

    >>> series_agreement([3, 2, 1, 5, 4], [9, 8, 7, 1, 2], ["a", "a", "a", "b", "b"])
    {'pair_accuracy': 0.75, 'series_top1': 0.5}
    """
    return {name: float(value) for name, value in _agree(_series(predictions, references, groups)).items()}


def series_intervals(
    predictions: ArrayLike,
    references: ArrayLike,
    groups: Sequence[Any],
    *,
    confidence: float = 0.95,
    num_resamples: int = 1000,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Percentile bootstrap intervals of `series_agreement`, over series drawn with replacement; see its arguments."""
    series = _series(predictions, references, groups)
    return _intervals(lambda rows: _agree(series[rows]), len(series), confidence, num_resamples, seed)


def _series(predictions: ArrayLike, references: ArrayLike, groups: Sequence[Any]) -> np.ndarray:
    """Of each series (S, 3): the number of its pairs, how many are ordered rightly, and the share of its top."""
    predicted, rated = _pair(predictions, references)
    places: dict[Any, list[int]] = {}
    for place, group in enumerate(groups):
        places.setdefault(group, []).append(place)
    series = []
    for members in places.values():
        own, theirs = predicted[members], rated[members]
        better = theirs[:, None] > theirs
        if better.any():
            right = (better * (0.5 + 0.5 * np.sign(own[:, None] - own))).sum()
            series.append((better.sum(), right, (theirs == theirs.max())[own == own.max()].mean()))
    if not series:
        raise ValueError("No series has two photos with unlike references: there is nothing to compare.")
    return np.array(series)


def _agree(series: np.ndarray) -> dict[str, np.ndarray]:
    """`series_agreement` of series (…, S, 3)."""
    pairs, right, tops = np.moveaxis(series, -1, 0)
    return {"pair_accuracy": right.sum(-1) / pairs.sum(-1), "series_top1": tops.mean(-1)}


def dataset_accuracy_threshold(dataset_name: str | None, score_range: Sequence[float] | None = None) -> float:
    """The score above which an image counts as good.

    Args:
        dataset_name: a published dataset, whose threshold is in `DATASET_PRESETS`; any other name has none.
        score_range: the range in use. A preset's threshold keeps its place among the labels: KonIQ-10k rated from 1
            to 5 has the published 2.5, and so have its released checkpoints, whose range begins at 0. Without a
            preset the threshold is the middle.

    Raises:
        ValueError: if neither tells a threshold.
    """
    preset = DATASET_PRESETS.get(dataset_name or "")
    if preset is None and score_range is None:
        raise ValueError(f"Unknown dataset {dataset_name!r}: give its `score_range` to tell a threshold.")
    if preset is None:
        return (score_range[0] + score_range[1]) / 2  # type: ignore[index]
    if score_range is None or tuple(score_range) == preset.score_range:
        return preset.accuracy_threshold
    place = normalize_scores(preset.accuracy_threshold, preset.score_range)
    return denormalize_scores(place, label_range(dataset_name, score_range))


def compute_aesthetic_metrics(
    predictions: ArrayLike,
    references: ArrayLike,
    *,
    accuracy_threshold: float | None = None,
    score_values: Sequence[float] | None = None,
    predicted_scores: ArrayLike | None = None,
    accuracy_rule: str = "charm",
) -> dict[str, float]:
    """All metrics of a set of images.

    Args:
        predictions: (N,) scores, or (N, K) distributions.
        references: (N,) scores, or (N, K) distributions.
        accuracy_threshold: for `acc`, in the scores' units. Not given, it is 0.5 if all references lie in [0, 1] (the
            released code's, for normalised scores); else `acc` is left out, since no number would mean anything.
        score_values: (K,) centres of the bins, to bring distributions to scores.
        predicted_scores: (N,) scores that come with predicted distributions, taken instead of their means.
        accuracy_rule: `"charm"` or `"mmlq"`, see `accuracy`.

    Returns:
        `srcc`, `plcc`, `mse`, `mae`; `acc` where there is a threshold; `emd_r1` and `emd_r2` where both sides are
        distributions.

    Raises:
        ValueError: for NaN, infinity, unlike lengths or shapes, an empty input, or missing `score_values`.
    """
    samples = _Samples(predictions, references, accuracy_threshold, score_values, predicted_scores, accuracy_rule)
    return {name: float(value) for name, value in samples.metrics(np.arange(len(samples.predicted))).items()}


def bootstrap_intervals(
    predictions: ArrayLike,
    references: ArrayLike,
    *,
    confidence: float = 0.95,
    num_resamples: int = 1000,
    seed: int = 0,
    **options: Any,
) -> dict[str, tuple[float, float]]:
    """Percentile bootstrap intervals of all metrics, over images drawn with replacement.

    Args:
        predictions: as in `compute_aesthetic_metrics`.
        references: as in `compute_aesthetic_metrics`.
        confidence: share of resamples inside the interval.
        num_resamples: ranks are computed anew in each, which is most of the time.
        seed: the same seed gives the same intervals.
        options: `accuracy_threshold`, `score_values`, … of `compute_aesthetic_metrics`.

    Returns:
        Metric → (low, high).
    """
    samples = _Samples(predictions, references, **options)
    return _intervals(samples.metrics, len(samples.predicted), confidence, num_resamples, seed)


def compare_predictions(
    predictions: ArrayLike,
    rival_predictions: ArrayLike,
    references: ArrayLike,
    *,
    confidence: float = 0.95,
    num_resamples: int = 1000,
    seed: int = 0,
    **options: Any,
) -> dict[str, tuple[float, float, float]]:
    """Difference of all metrics between two models on the same images, with paired percentile bootstrap intervals.

    Both are measured on the same images in each resample, so that what is easy or hard for both cancels out.

    Args:
        predictions, rival_predictions: of the same images; as in `compute_aesthetic_metrics`.
        references: as in `compute_aesthetic_metrics`.
        confidence, num_resamples, seed, options: as in `bootstrap_intervals`.

    Returns:
        Metric → (difference, low, high): the metric of `predictions` minus that of `rival_predictions`. The two differ
        where zero lies outside the interval.

    >>> compare_predictions([1, 2, 3, 4], [1, 2, 3, 4], [1, 2, 4, 3])["srcc"]
    (0.0, 0.0, 0.0)
    """
    first, second = (_Samples(values, references, **options) for values in (predictions, rival_predictions))

    def difference(rows: np.ndarray) -> dict[str, np.ndarray]:
        ours, theirs = first.metrics(rows), second.metrics(rows)
        return {name: ours[name] - theirs[name] for name in ours if name in theirs}

    size = len(first.predicted)
    found = difference(np.arange(size))
    intervals = _intervals(difference, size, confidence, num_resamples, seed)
    return {name: (float(value), *intervals[name]) for name, value in found.items()}


def _intervals(
    measure: Callable[[np.ndarray], dict[str, np.ndarray]], size: int, confidence: float, num_resamples: int, seed: int
) -> dict[str, tuple[float, float]]:
    """Percentile intervals of what `measure` gives for rows (R, N) drawn with replacement out of `size`."""
    if not 0 < confidence < 1 or num_resamples < 1:
        raise ValueError(f"Expected 0 < confidence < 1 and a resample or more, got {confidence} and {num_resamples}.")
    generator = np.random.default_rng(seed)
    rows = max(1, _BOOTSTRAP_CHUNK // size)
    chunks = [
        measure(generator.integers(size, size=(min(rows, num_resamples - start), size)))
        for start in range(0, num_resamples, rows)
    ]
    tail = (1 - confidence) / 2
    bounds = {
        name: np.quantile(np.concatenate([chunk[name] for chunk in chunks]), [tail, 1 - tail]) for name in chunks[0]
    }
    return {name: (float(low), float(high)) for name, (low, high) in bounds.items()}


class AestheticMetrics(evaluate.Metric):
    """SRCC, PLCC, ACC, MSE, MAE and, for distributions, EMD, as an `evaluate.Metric`. Needs no network.

    Args:
        config_name: a published dataset (`"ava"`, `"aadb"`, …): its threshold and bins are then the defaults of
            `compute`.
        keep_in_memory: keep what is added in memory; on by default in a single process.
        **kwargs: as for every `evaluate.Metric` (`num_process`, `process_id`, `experiment_id`, …).

    `compute` takes `predictions` and `references`, both (N,) scores or (N, K) distributions, and the options of
    `compute_aesthetic_metrics`, whose dictionary it returns.

    >>> AestheticMetrics("ava").compute(predictions=[4.0, 5.5, 6.0], references=[4.5, 5.2, 7.0])["acc"]
    1.0
    """

    def __init__(self, config_name: str | None = None, keep_in_memory: bool | None = None, **kwargs: Any) -> None:
        if config_name not in (None, "default", *DATASET_PRESETS):
            raise ValueError(f"Unknown dataset {config_name!r}: expected one of {', '.join(sorted(DATASET_PRESETS))}.")
        if keep_in_memory is None:
            keep_in_memory = kwargs.get("num_process", 1) == 1
        super().__init__(config_name=config_name, keep_in_memory=keep_in_memory, **kwargs)

    def _info(self) -> evaluate.MetricInfo:
        number = datasets.Value("float64")
        kinds = [(a, b) for a in (number, datasets.List(number)) for b in (number, datasets.List(number))]
        return evaluate.MetricInfo(
            description="Agreement of predicted image aesthetics with people's ratings.",
            citation="",
            inputs_description="Scores (N,) or distributions (N, K); see `compute_aesthetic_metrics`.",
            features=[datasets.Features(predictions=a, references=b) for a, b in kinds],
        )

    def _compute(self, *, predictions: Any = None, references: Any = None, **options: Any) -> dict[str, float]:
        preset = DATASET_PRESETS.get(self.config_name or "")
        if preset is not None:
            defaults = {"accuracy_threshold": preset.accuracy_threshold, "score_values": preset.score_values}
            options = {**defaults, **options}
        return compute_aesthetic_metrics(predictions, references, **options)


def make_compute_metrics(config: CharmConfig) -> Callable[[EvalPrediction], dict[str, float]]:
    """Make the `compute_metrics` of a `transformers.Trainer` that trains a model of this configuration.

    Predictions are the pair `(logits, scores)` that the model gives, or either of the two; logits (N, K) become scores
    by the configured head. Labels are (N,) scores or (N, K) distributions. The threshold of `acc` is the dataset's.
    """
    threshold = dataset_accuracy_threshold(config.dataset_name, config.score_range)

    def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
        scores, distribution = _scores_and_distribution(prediction.predictions, config)
        labels = prediction.label_ids
        labels = np.asarray(labels[0] if isinstance(labels, (tuple, list)) else labels)
        compared = scores if distribution is None or labels.ndim != 2 else distribution
        return compute_aesthetic_metrics(
            compared,
            labels,
            accuracy_threshold=threshold,
            score_values=config.score_values,
            predicted_scores=scores,
        )

    return compute_metrics


def _scores_and_distribution(predictions: Any, config: CharmConfig) -> tuple[np.ndarray, np.ndarray | None]:
    """Scores (N,) and, of a head with bins whose logits are there, distributions (N, K)."""
    arrays = [
        np.asarray(array) for array in (predictions if isinstance(predictions, (tuple, list)) else (predictions,))
    ]
    scores = next((array for array in arrays if array.ndim == 1), None)
    logits = next((array for array in arrays if array.ndim == 2 and array.shape[1] == config.num_labels), None)
    if logits is None:
        if scores is not None:
            return scores, None
        shapes = ", ".join(str(array.shape) for array in arrays)
        raise ValueError(
            f"Expected scores (N,) or logits (N, {config.num_labels}) among the predictions, got shapes {shapes}."
        )
    predicted = interpret_logits(torch.from_numpy(logits.astype(np.float64)), config)
    distribution = None if predicted.distribution is None else predicted.distribution.numpy()
    return predicted.scores.numpy() if scores is None else scores, distribution


class _Samples:
    """Checked inputs, and what each metric needs of every image."""

    def __init__(
        self,
        predictions: ArrayLike,
        references: ArrayLike,
        accuracy_threshold: float | None = None,
        score_values: Sequence[float] | None = None,
        predicted_scores: ArrayLike | None = None,
        accuracy_rule: str = "charm",
    ) -> None:
        p, q = _checked(predictions, "predictions"), _checked(references, "references")
        if len(p) != len(q):
            raise ValueError(f"Expected as many predictions as references, got {len(p)} and {len(q)}.")
        self.predicted = _scores(p, score_values, "predictions")
        if predicted_scores is not None:
            self.predicted = _checked(predicted_scores, "predicted_scores")
            if self.predicted.shape != (len(p),):
                raise ValueError(f"Expected {len(p)} `predicted_scores`, got shape {self.predicted.shape}.")
        self.rated = _scores(q, score_values, "references")
        # Values of each image that are only averaged.
        self.means = {
            "mse": np.square(self.predicted - self.rated),
            "mae": np.abs(self.predicted - self.rated),
        }
        if accuracy_threshold is None and self.rated.min() >= 0 and self.rated.max() <= 1:
            accuracy_threshold = 0.5
        if accuracy_threshold is None:
            logger.warning("No `accuracy_threshold` is known for scores beyond [0, 1]: `acc` is left out.")
        else:
            self.means["acc"] = _agreement(self.predicted, self.rated, accuracy_threshold, accuracy_rule)
        if p.ndim == q.ndim == 2:
            p, q = _as_distributions(p), _as_distributions(q)
            self.means |= {"emd_r1": _sample_emd(p, q, 1), "emd_r2": _sample_emd(p, q, 2)}

    def metrics(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Metrics of the images in `rows` (…, N): each (…)."""
        predicted, rated = self.predicted[rows], self.rated[rows]
        correlations = {"srcc": srcc(predicted, rated), "plcc": plcc(predicted, rated)}
        return {**correlations, **{name: values[rows].mean(axis=-1) for name, values in self.means.items()}}


def _scores(array: np.ndarray, score_values: Sequence[float] | None, what: str) -> np.ndarray:
    """Scores (N,) of scores (N,) or (N, 1) or of distributions (N, K)."""
    if array.ndim == 1:
        return array
    if array.ndim == 2 and array.shape[1] == 1:
        return array[:, 0]
    if array.ndim != 2:
        raise ValueError(f"Expected {what} of shape (N,) or (N, K), got {array.shape}.")
    if score_values is None or len(score_values) != array.shape[1]:
        given = "none" if score_values is None else len(score_values)
        raise ValueError(f"Distributions over {array.shape[1]} bins need as many `score_values`, got {given}.")
    return expected_scores(_as_distributions(array), score_values)


def _pair(predictions: ArrayLike, references: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    x, y = _checked(predictions, "predictions"), _checked(references, "references")
    if x.shape != y.shape:
        raise ValueError(f"Expected predictions and references of one shape, got {x.shape} and {y.shape}.")
    return x, y


def _checked(values: ArrayLike, what: str) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0:
        raise ValueError(f"Expected {what}, got none.")
    bad = np.flatnonzero(~np.isfinite(array).reshape(len(array), -1).all(axis=1))
    if len(bad):
        raise ValueError(
            f"{len(bad)} of {len(array)} {what} are NaN or infinite, the first in row {bad[0]}: {array[bad[0]]}."
        )
    return array


def _as_distributions(values: ArrayLike) -> np.ndarray:
    array = _checked(values, "distributions")
    if array.ndim != 2 or (array < 0).any() or not (array.sum(axis=1) > 0).all():
        raise ValueError("Expected distributions (N, K) without negative entries and with a vote in every row.")
    return array / array.sum(axis=1, keepdims=True)


def _sample_emd(predictions: np.ndarray, references: np.ndarray, r: float) -> np.ndarray:
    """Distance of each image (N,), as defined in `emd`."""
    if predictions.shape != references.shape:
        raise ValueError(f"Expected distributions of one shape, got {predictions.shape} and {references.shape}.")
    gaps = np.abs(np.cumsum(predictions, axis=1) - np.cumsum(references, axis=1))
    return (gaps**r).mean(axis=1) ** (1 / r)


def _agreement(predictions: np.ndarray, references: np.ndarray, threshold: float, rule: str) -> np.ndarray:
    if rule == "charm":
        return ((predictions > threshold) == (references > threshold)).astype(np.float64)
    if rule == "mmlq":
        return ((predictions - threshold) * (references - threshold) >= 0).astype(np.float64)
    raise ValueError(f'Expected `accuracy_rule` to be "charm" or "mmlq", got {rule!r}.')


def _unit(values: np.ndarray) -> np.ndarray:
    """Rows minus their mean, scaled to length 1; a constant row may give anything finite."""
    centred = values - values.mean(axis=-1, keepdims=True)
    # Scaled first, so that no square overflows or vanishes.
    largest = np.abs(centred).max(axis=-1, keepdims=True)
    centred = centred / np.where(largest > 0, largest, 1.0)
    length = np.linalg.norm(centred, axis=-1, keepdims=True)
    return centred / np.where(length > 0, length, 1.0)
