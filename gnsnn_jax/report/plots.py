"""Pictures for print: axes with units, colours that colour-blind readers can tell apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator, PercentFormatter

from gnsnn_jax.report.results import described

# Okabe and Ito 2008.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX"


def plot_accuracy(report: dict[str, Any], path: Path) -> None:
    """Accuracy against time-steps, one line a method, the ANN as a dashed line."""
    figure = figure_of(6.4, 4.0)
    axes = figure.add_subplot()
    axes.axhline(100 * report["ann_accuracy"], color="0.3", linestyle="--", linewidth=1.2, label="ANN", zorder=1)
    for index, method in enumerate(report["methods"]):
        steps = [int(t) for t in method["accuracy"]]
        probe = f", {method['probe_steps']} probe steps before" if method["probe_steps"] else ""
        axes.plot(
            steps,
            [100 * value for value in method["accuracy"].values()],
            color=COLOURS[index % len(COLOURS)],
            marker=MARKERS[index % len(MARKERS)],
            # Later lines are smaller and hollow, so that those below them stay in sight.
            markersize=max(11 - 2 * index, 4),
            markerfacecolor="none",
            markeredgewidth=1.6,
            linewidth=max(2.6 - 0.4 * index, 1),
            label=method["name"] + probe,
        )
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(steps))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([str(t) for t in steps])
    axes.yaxis.set_major_formatter(PercentFormatter(decimals=0))
    axes.set_ylim(top=101.5)
    axes.set_xlabel("time-steps T")
    axes.set_ylabel("test accuracy")
    axes.set_title(f"{described(report)} on {report['dataset']}", loc="left", fontsize=11)
    _finish(axes, "lower right")
    figure.savefig(path, dpi=200)


def plot_curves(metrics: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Loss and accuracy of the training and the validation split over the epochs, the best epoch marked."""
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
    _finish(losses, "upper right")
    _finish(accuracies, "lower right")
    figure.savefig(path, dpi=200)


def figure_of(width: float, height: float) -> Figure:
    """Of a size in inches, to be saved without a display."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _finish(axes: Axes, legend: str) -> None:
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc=legend, frameon=True, framealpha=0.9)
