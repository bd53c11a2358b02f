"""The pictures of a report: accuracy, and what the converted networks do; each answers one question."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np

from gnsnn_jax.analysis.behaviour import OFFSETS, Behaviour, Population
from gnsnn_jax.errors import extra
from gnsnn_jax.report.look import (
    COLOURS,
    DOTS,
    MARKERS,
    figure_of,
    finish,
    line_style,
    method_style,
    ordered_colours,
    plain,
    time_axis,
)
from gnsnn_jax.report.report import NetworkSummary, PopulationSummary, Report

with extra("report"):
    from matplotlib.axes import Axes
    from matplotlib.ticker import FixedLocator, PercentFormatter

NAMED = 24  # populations, beyond which they are numbered
# From too few spikes to too many, apart for the colour-blind and in grey.
OFFSET_COLOURS = ("#0072B2", "#9ECAE9", "#EDEDED", "#FDBF6F", "#D55E00")
SHOWN_POPULATIONS = 3
BINS = 12  # of activations
FEWEST = 5  # neurons in a bin that is shown


def draw_all(report: Report, behaviours: Mapping[str, Behaviour], directory: Path) -> list[str]:
    """Draws all pictures for which there is data, except that of accuracy.

    Args:
        report: The report to draw.
        behaviours: The behaviours by name of the method.
        directory: The folder to write the PNGs to; it is made if it does not exist.

    Returns:
        The names of the files.
    """
    directory.mkdir(exist_ok=True)
    pictures: dict[str, Callable[[Path], None]] = {}
    if isinstance(report.analysis, NetworkSummary):
        shown = {each.name: behaviours[each.name] for each in report.methods}
        pictures["errors.png"] = lambda path: draw_errors(report, path)
        pictures["rates.png"] = lambda path: draw_rates(shown, _few(report.steps), path)
        pictures["firing.png"] = lambda path: draw_firing(report, path)
        pictures["energy.png"] = lambda path: draw_energy(report, path)
        if any(each.behaviour.calibration for each in report.methods):
            pictures["offset_spikes.png"] = lambda path: draw_offsets(report, path)
    for name, picture in pictures.items():
        picture(directory / name)
    return list(pictures)


def draw_accuracy(report: Report, path: Path) -> None:
    """Draws accuracy against time-steps, a line for each method and the ANN as a dashed line.

    Args:
        report: The report to draw.
        path: The PNG to write.
    """
    figure = figure_of(6.4, 4.0)
    axes = figure.add_subplot()
    axes.axhline(100 * report.ann_accuracy, color="0.3", linestyle="--", linewidth=1.2, label="ANN", zorder=1)
    for index, method in enumerate(report.methods):
        probe = f", {method.probe_steps} probe steps before" if method.probe_steps else ""
        look = method_style(index) | {"markersize": max(11 - 2 * index, 4), "markeredgewidth": 1.6}
        percent = [100 * value for value in method.accuracy.values()]
        axes.plot(list(method.accuracy), percent, label=method.name + probe, **look)
    time_axis(axes, report.steps)
    axes.yaxis.set_major_formatter(PercentFormatter(decimals=0))
    axes.set_ylim(top=101.5)
    axes.set_xlabel("time-steps T")
    axes.set_ylabel("test accuracy")
    axes.set_title(f"{report.network} on {report.dataset}", loc="left", fontsize=11)
    finish(axes, "lower right")
    figure.savefig(path, dpi=DOTS)


def draw_errors(report: Report, path: Path) -> None:
    """Draws the mean squared error against depth, with a line for each T and a panel for each method.

    Args:
        report: A report of examined networks.
        path: The PNG to write.
    """
    methods = report.methods
    columns, rows = min(len(methods), 2), ceil(len(methods) / 2)
    figure = figure_of(4.6 * columns + 0.8, 2.5 * rows + 1.1)
    panels = list(figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat)
    for axes, method in zip(panels, methods, strict=False):
        populations, steps = method.behaviour.populations, report.steps
        colours = ordered_colours(len(steps))
        for order, t in enumerate(steps):
            errors = np.array([each.squared_error[t] for each in populations])
            places = np.arange(1, len(errors) + 1)
            look = {**method_style(order), "color": colours[order], "label": f"T = {t}"}
            axes.plot(places, np.where(errors > 0, errors, np.nan), **look)
        axes.set_yscale("log")
        axes.set_title(method.title, loc="left", fontsize=10)
        plain(axes)
    for axes in panels[len(methods) :]:
        axes.remove()
    _name_depth(figure.axes[-columns:], methods[0].behaviour.populations)
    figure.supylabel("mean squared error of the rate, in θ²", fontsize=10)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=8, frameon=False)
    figure.savefig(path, dpi=DOTS)


def draw_offsets(report: Report, path: Path) -> None:
    """Draws shares of neurons with too few and too many spikes over the probe, by depth, before and after calibration.

    Args:
        report: A report of examined networks, with a calibration in at least one method.
        path: The PNG to write.
    """
    methods = [each for each in report.methods if each.behaviour.calibration]
    figure = figure_of(9.6, 2.7 * len(methods) + 1.2)
    rows = figure.subplots(len(methods), 2, sharex=True, sharey=True, squeeze=False)
    for (left, right), method in zip(rows, methods, strict=True):
        calibration = method.behaviour.calibration
        for axes, when, found in ((left, "before", calibration.before), (right, "after", calibration.after)):
            shares = np.array([each.own_offsets for each in found.values()])
            _stack(axes, shares)
            exact = f"{100 * shares[:, len(OFFSETS) // 2].mean():.2f} % exact on average"
            axes.set_title(f"{when} {method.name}, {calibration.steps} steps: {exact}", loc="left", fontsize=10)
            axes.set_ylim(0, 1)
            axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
            plain(axes)
        left.set_ylabel("share of neurons")
    _name_depth(list(rows[-1]), methods[0].behaviour.populations)
    figure.legend(
        *rows[0][0].get_legend_handles_labels(), loc="outside upper center", ncols=5, frameon=False,
        title="spikes more than the neuron's own currents ask for",
    )  # fmt: skip
    figure.savefig(path, dpi=DOTS)


def _stack(axes: Axes, shares: np.ndarray) -> None:
    """Bars of shares [places, 5], one on the other."""
    below = np.cumsum(shares, 1) - shares
    for name, colour, share, start in zip(OFFSETS, OFFSET_COLOURS, shares.T, below.T, strict=True):
        places = np.arange(1, len(share) + 1)
        axes.bar(places, share, bottom=start, color=colour, edgecolor="0.3", linewidth=0.4, width=0.9, label=name)


def draw_rates(behaviours: Mapping[str, Behaviour], steps: Sequence[int], path: Path) -> None:
    """Draws rates against activations: the mean, and the band between the quantiles 0.1 and 0.9 of the neurons.

    Args:
        behaviours: The behaviours by name of the method.
        steps: The numbers of time-steps to draw, a line each.
        path: The PNG to write.
    """
    chosen = _spread(next(iter(behaviours.values())).populations)
    figure = figure_of(2.5 * len(behaviours) + 1, 2.2 * len(chosen) + 1.1)
    panels = figure.subplots(len(chosen), len(behaviours), sharex=True, sharey=True, squeeze=False)
    for column, (name, behaviour) in enumerate(behaviours.items()):
        for row, place in enumerate(chosen):
            axes, name_of_site = panels[row, column], behaviour.populations[place].name
            axes.plot([0, 1], [0, 1], color="0.3", linestyle="--", linewidth=1, label="equal")
            for order, t in enumerate(steps):
                look = {"color": COLOURS[order], "marker": MARKERS[order], "label": f"T = {t}"}
                _draw_pairs(axes, *behaviour.at(t).populations[place].pairs[t], look | line_style(order))
            axes.set_title(f"{name}, {name_of_site}", loc="left", fontsize=8)
            axes.set_xlim(-0.03, 1.03)
            axes.set_ylim(-0.03, 1.03)
            plain(axes)
    figure.supxlabel("activation of the ANN, in θ", fontsize=10)
    figure.supylabel("rate of the neurons, in θ per step", fontsize=10)
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)
    figure.savefig(path, dpi=DOTS)


def _draw_pairs(axes: Axes, activations: np.ndarray, rates: np.ndarray, look: Mapping[str, Any]) -> None:
    """Means and bands over bins of activations that hold enough neurons."""
    bins = np.clip(np.rint(activations * BINS), 0, BINS).astype(int)
    found = [bin for bin in range(BINS + 1) if (bins == bin).sum() >= FEWEST]
    if not found:
        return
    middles = [np.minimum(activations[bins == bin], 1).mean() for bin in found]
    low, middle, high = (
        [of(rates[bins == bin]) for bin in found]
        for of in (lambda x: np.quantile(x, 0.1), np.mean, lambda x: np.quantile(x, 0.9))
    )
    axes.fill_between(middles, low, high, color=look["color"], alpha=0.15, linewidth=0)
    axes.plot(middles, middle, **look)


def draw_firing(report: Report, path: Path) -> None:
    """Draws unit spikes of a neuron and step, by depth and by step.

    Args:
        report: A report of examined networks.
        path: The PNG to write.
    """
    figure = figure_of(9.6, 4.2)
    by_depth, by_step = figure.subplots(1, 2)
    for index, method in enumerate(report.methods):
        look = {"label": method.title, **method_style(index)}
        populations = method.behaviour.populations
        rates = np.array([each.firing_rate for each in populations])
        neurons = np.array([np.prod(each.shape) for each in populations])
        places, steps = np.arange(1, len(rates) + 1), np.arange(1, rates.shape[1] + 1)
        by_depth.plot(places, rates.mean(1), **look)
        mean = (rates * neurons[:, None]).sum(0) / neurons.sum()
        by_step.plot(steps, mean, **look)
    by_depth.set_ylabel("unit spikes of a neuron and step")
    by_depth.set_title("by depth, mean over the steps", loc="left", fontsize=10)
    by_step.set_title("by step, mean over the network", loc="left", fontsize=10)
    by_step.set_xlabel("time-step")
    for axes in (by_depth, by_step):
        axes.set_ylim(bottom=0)
        plain(axes)
    _name_depth([by_depth], report.methods[0].behaviour.populations)
    figure.legend(*by_depth.get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)
    figure.savefig(path, dpi=DOTS)


def draw_energy(report: Report, path: Path) -> None:
    """Draws the estimated energy against T, with a panel for each model and both ANNs as dashed lines.

    Args:
        report: A report of examined networks.
        path: The PNG to write.
    """
    analysis: Any = report.analysis  # a NetworkSummary, as `draw_all` sees to
    models = list(analysis.energy_nanojoules)
    figure = figure_of(9.6, 3.0 * ceil(len(models) / 2) + 0.9)
    panels = list(figure.subplots(ceil(len(models) / 2), 2, sharex=True, squeeze=False).flat)
    for axes, model in zip(panels, models, strict=False):
        for (name, energy), style in zip(analysis.energy_nanojoules[model].items(), ("--", ":"), strict=True):
            bits = f", {analysis.activation_bits} bits" if name.startswith("quantised") else ""
            axes.axhline(energy, color="0.2", linestyle=style, linewidth=1.4, label=name + bits)
        for index, method in enumerate(report.methods):
            energies = method.behaviour.energy_nanojoules[model]
            look = {"label": method.title, **method_style(index)}
            axes.plot(list(energies), list(energies.values()), **look)
        axes.set_yscale("log")
        axes.set_title(model, loc="left", fontsize=10)
        time_axis(axes, report.steps)
        plain(axes)
    figure.supxlabel("time-steps T; the steps of a probe are included in the energy", fontsize=10)
    figure.supylabel("estimated energy for one sample, nJ", fontsize=10)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)
    figure.savefig(path, dpi=DOTS)


def _few(steps: Sequence[int]) -> list[int]:
    """The first, the middle and the last number of steps."""
    return sorted({steps[0], steps[len(steps) // 2], steps[-1]})


def _spread(populations: Sequence[Population]) -> list[int]:
    """The places of a few of them, from first to last."""
    last = len(populations) - 1
    return sorted({round(last * part / (SHOWN_POPULATIONS - 1)) for part in range(SHOWN_POPULATIONS)})


def _name_depth(row: Sequence[Axes], populations: Sequence[PopulationSummary]) -> None:
    """Marks the populations below each panel in the order of evaluation, by name if there are at most NAMED."""
    for axes in row:
        axes.set_xlim(0.4, len(populations) + 0.6)
        if len(populations) > NAMED:
            axes.set_xlabel("activation, from input to output")
            continue
        axes.xaxis.set_major_locator(FixedLocator(range(1, len(populations) + 1)))
        axes.set_xticklabels([each.name for each in populations], rotation=90, fontsize=7)
