"""Pictures for print: axes with units, colours that colour-blind readers can tell apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, PercentFormatter

# Okabe and Ito 2008.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX"


def plot_accuracy(report: dict[str, Any], path: Path) -> None:
    """Accuracy against time-steps, one line a method, the ANN as a dashed line."""
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
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
    axes.set_title(f"{report['model']}, L = {report['levels']}, on {report['dataset']}", loc="left", fontsize=11)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right", frameon=True, framealpha=0.9)
    figure.savefig(path, dpi=200)
