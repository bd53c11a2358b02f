"""The look that all pictures share: for print, in colours that colour-blind readers can tell apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gnsnn_jax.errors import extra

with extra("report"):
    from matplotlib import colormaps
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, NullLocator


# Okabe and Ito 2008.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX"
DOTS = 200  # an inch


def figure_of(width: float, height: float) -> Figure:
    """Returns a figure of this size in inches that is saved without a display."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def line_style(place: int) -> dict[str, Any]:
    """Returns the style of the line at this place: later lines are finer and hollow, so that earlier ones show."""
    return {
        "linewidth": max(2.6 - 0.4 * place, 1),
        "markersize": max(9 - 1.5 * place, 3.5),
        "markerfacecolor": "none",
        "markeredgewidth": 1.3,
    }


def method_style(place: int) -> dict[str, Any]:
    """Returns the style of a line with the colour and the marker of this place."""
    return {"color": COLOURS[place % len(COLOURS)], "marker": MARKERS[place % len(MARKERS)], **line_style(place)}


def ordered_colours(count: int) -> list[Any]:
    """Returns colours from dark to light, none too light for white paper."""
    return [colormaps["viridis"](0.9 * place / max(count - 1, 1)) for place in range(count)]


def cycle(values: Sequence[str], count: int) -> list[str]:
    """Returns `count` of the values, from the first again after the last."""
    return [values[index % len(values)] for index in range(count)]


def time_axis(axes: Axes, steps: Sequence[int]) -> None:
    """Makes the x axis logarithmic, with a tick at each number of steps."""
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(list(steps)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([str(t) for t in steps])


def plain(axes: Axes) -> None:
    """Draws a grid behind the data and no frame at the top and the right."""
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


def finish(axes: Axes, legend: str) -> None:
    """Draws a grid and, at this place, the legend of a picture with few axes."""
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc=legend, frameon=True, framealpha=0.9)  # type: ignore[call-overload]
