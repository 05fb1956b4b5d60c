"""Pictures of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np


try:
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        'Training draws its curves: `pip install "charm-hf[train]"` brings matplotlib.'
    ) from error


def plot_curves(history: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw losses and correlations over the epochs into a PNG file.

    A record an epoch holds `epoch`, `train_loss` and, where there is a validation part, `eval_loss`, `srcc`, `plcc`.
    """
    figure = Figure(figsize=(10, 4), layout="constrained")
    loss_axes, correlation_axes = figure.subplots(1, 2)
    epochs = [record["epoch"] for record in history]
    curves = (
        (loss_axes, "train_loss", "training"),
        (loss_axes, "eval_loss", "validation"),
        (correlation_axes, "srcc", "SRCC"),
        (correlation_axes, "plcc", "PLCC"),
    )
    for axes, key, label in curves:
        if any(key in record for record in history):
            axes.plot(epochs, [record.get(key) for record in history], marker=".", label=label)
    for axes, title in ((loss_axes, "Loss"), (correlation_axes, "Correlation on the validation part")):
        axes.set(title=title, xlabel="epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    figure.savefig(path, dpi=110)


def plot_scatter(predicted: np.ndarray, rated: np.ndarray, title: str, path: Path) -> None:
    """Draw predicted against rated scores, (N,) each in the same units, into a PNG file."""
    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.subplots()
    axes.scatter(rated, predicted, s=12, alpha=0.5, linewidths=0)
    ends = [min(rated.min(), predicted.min()), max(rated.max(), predicted.max())]
    axes.plot(ends, ends, color="0.6", linewidth=1, zorder=0)
    axes.set(title=title, xlabel="rated score", ylabel="predicted score")
    figure.savefig(path, dpi=110)
