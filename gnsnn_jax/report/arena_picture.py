"""The picture of an arena: accuracy against synaptic operations, with the front."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gnsnn_jax.errors import extra
from gnsnn_jax.report.arena_results import Arena, Row, front
from gnsnn_jax.report.look import COLOURS, DOTS, MARKERS, figure_of, plain

with extra("report"):
    from matplotlib.axes import Axes
    from matplotlib.patheffects import withStroke
    from matplotlib.ticker import FixedLocator, NullLocator

TICKS = (0, 50, 80, 90, 95, 98, 99, 99.5, 99.8, 99.9, 100)  # of accuracy, in %
ABOVE = 0.15  # of a decade, so that the highest marks and their names show
NEAR = (0.9, 0.16)  # inches, within which two names would meet
ROOM = 2.2  # to the left of the fewest operations, for the name there
STYLES = ("-", "--", ":")  # of methods, once all colours are used


def draw_arena(arena: Arena, path: Path) -> None:
    """Draws accuracy against synaptic operations, a line for each method with a mark for each T.

    The distance of an accuracy from 100 % is drawn on a logarithmic axis, at least that of half a sample.

    Args:
        arena: What was found.
        path: The PNG to write.
    """
    figure = figure_of(10.0, 6.0)
    axes = figure.add_subplot()
    _draw_front(axes, front(arena.rows))
    for place, method in enumerate(arena.methods):
        _draw_method(axes, arena.of(method), place)
    _draw_ann(axes, arena)
    _scale(axes, arena)
    axes.set_xlabel("synaptic operations for one sample: accumulates of spikes and multiply-accumulates")
    axes.set_ylabel("test accuracy, %")
    axes.set_title(f"{arena.model} ({arena.activations}) on {arena.dataset}, by method and T", loc="left", fontsize=11)
    plain(axes)
    figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    figure.draw_without_rendering()  # after which places are known
    _name_front(axes, front(arena.rows))
    figure.savefig(path, dpi=DOTS)


def _draw_method(axes: Axes, rows: Sequence[Row], place: int) -> None:
    look: dict[str, Any] = {
        "color": COLOURS[place % len(COLOURS)],
        "marker": MARKERS[place % len(MARKERS)],
        "linestyle": STYLES[place // len(COLOURS) % len(STYLES)],
        "markerfacecolor": "white" if place >= len(COLOURS) else COLOURS[place % len(COLOURS)],
    }
    axes.plot(*_points(rows), label=rows[0].method, linewidth=1.2, markersize=6, zorder=3, **look)


def _draw_front(axes: Axes, rows: Sequence[Row]) -> None:
    axes.plot(*_points(rows), color="0.82", linewidth=9, solid_capstyle="round", label="front", zorder=1)


def _name_front(axes: Axes, rows: Sequence[Row]) -> None:
    """Names each mark of the front to its left, or to its right where the mark before it is too near for that."""
    before = np.asarray([-np.inf, -np.inf])
    for row, *point in zip(rows, *_points(rows), strict=True):
        place = axes.transData.transform(point) / axes.figure.dpi  # inches
        is_near = bool((np.abs(place - before) < NEAR).all())
        axes.annotate(
            f"{row.method}, T = {row.steps}",
            (point[0], point[1]),
            xytext=(9, -12) if is_near else (-9, 6),
            textcoords="offset points",
            fontsize=7.5,
            horizontalalignment="left" if is_near else "right",
            zorder=5,
            path_effects=[withStroke(linewidth=2.5, foreground="white")],
        )
        before = place


def _draw_ann(axes: Axes, arena: Arena) -> None:
    """The network itself, and the quantised ones of all rows, all of them of as many operations."""
    operations = arena.ann_multiply_accumulates
    found = sorted({100 * row.quantised.accuracy for row in arena.rows})
    axes.plot([operations] * len(found), found, "x", color="0.45", markersize=5, label="quantised ANN", zorder=2)
    axes.plot([operations], [100 * arena.ann_accuracy], "*", color="black", markersize=13, label="ANN", zorder=4)


def _points(rows: Sequence[Row]) -> tuple[list[float], list[float]]:
    return [row.synaptic_operations for row in rows], [100 * row.accuracy for row in rows]


def _scale(axes: Axes, arena: Arena) -> None:
    least = 50 / arena.test_samples  # half a sample in %
    top = -np.log10(least)  # the height of 100 %, above which the axis goes on in a straight line
    forward = lambda percent: -np.log10(np.maximum(100 - percent, least)) + np.maximum(percent - 100, 0)
    backward = lambda height: 100 - 10.0**-height * (height < top) + np.maximum(height - top, 0)
    axes.set_xscale("log")
    axes.set_xlim(left=min(row.synaptic_operations for row in arena.rows) / ROOM)
    axes.set_yscale("function", functions=(forward, backward))
    accuracies = [100 * row.accuracy for row in arena.rows]
    lowest = min(accuracies)
    highest = float(forward(max(*accuracies, 100 * arena.ann_accuracy))) + ABOVE
    axes.set_ylim(max(lowest - 5, 0), float(backward(highest)))
    shown = [tick for tick in TICKS if tick >= lowest and (tick == 100 or 100 - tick > 2 * least)]
    axes.yaxis.set_major_locator(FixedLocator(shown))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
