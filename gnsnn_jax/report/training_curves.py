"""The picture of a training run: curves.png."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gnsnn_jax.errors import extra
from gnsnn_jax.report.look import COLOURS, DOTS, figure_of, finish

with extra("report"):
    from matplotlib.ticker import MaxNLocator, PercentFormatter


def draw_curves(metrics: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draws loss and accuracy of the training and the validation split over the epochs; the best epoch is marked.

    Args:
        metrics: The lines of metrics.jsonl, one an epoch.
        path: The PNG to write.
    """
    epochs = [line["epoch"] for line in metrics]
    best = max(metrics, key=lambda line: (line["validation_accuracy"], -line["validation_loss"]))
    figure = figure_of(9.6, 3.8)
    for axes, quantity, scale in zip(figure.subplots(1, 2), ("loss", "accuracy"), (1, 100), strict=True):
        for split, colour, style in (("train", COLOURS[0], "-"), ("validation", COLOURS[1], "--")):
            values = [scale * line[f"{split}_{quantity}"] for line in metrics]
            axes.plot(epochs, values, style, color=colour, linewidth=1.4, label=split)
        axes.axvline(best["epoch"], color="0.3", linestyle=":", linewidth=1.2, label=f"best epoch, {best['epoch']}")
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylabel(quantity)
    losses, accuracies = figure.axes
    losses.set_yscale("log")
    losses.set_ylabel("cross-entropy, nats")
    accuracies.yaxis.set_major_formatter(PercentFormatter(decimals=0))
    finish(losses, "upper right")
    finish(accuracies, "lower right")
    figure.savefig(path, dpi=DOTS)
