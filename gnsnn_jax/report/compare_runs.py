"""Prints and plots several converted runs side by side.

python -m gnsnn_jax.report.compare_runs RUN RUN … [--output FILE]
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gnsnn_jax.errors import InputError, extra, imports_of

with imports_of("compare", __name__), extra("report"):
    from matplotlib.axes import Axes
    from matplotlib.ticker import PercentFormatter
    from rich.table import Table

    from gnsnn_jax.report.files import read_report
    from gnsnn_jax.report.look import DOTS, cycle, figure_of, method_style, plain, time_axis
    from gnsnn_jax.report.report import MethodResult, Report
    from gnsnn_jax.report.terminal import print_whole
    from gnsnn_jax.runtime.command_line import Parser, console, directory, file, run_script, say

MODEL = "45 nm, float32, compute only"  # of energy, in the table and the picture
STYLES = ("-", "--", ":", "-.")  # of runs, while colours are of methods


def parse(arguments: list[str] | None = None):
    parser = Parser(prog="compare", description=__doc__)
    parser.add_argument(
        "runs", nargs="+", type=directory, metavar="RUN", help="directories that convert.py has been over"
    )
    parser.add_argument("--output", type=file, default=Path("compare.png"), help="picture to write (compare.png)")
    return parser.parse_args(arguments)


def read_reports(directories: Sequence[Path]) -> dict[str, Report]:
    """Reads the reports of several runs.

    Args:
        directories: The directories of the runs.

    Returns:
        The reports, by the shortest names that tell the runs apart.

    Raises:
        InputError: if a directory holds no report or a damaged one, or is given twice.
    """
    if len({directory.resolve() for directory in directories}) < len(directories):
        raise InputError(f"a run is given twice among {', '.join(map(str, directories))}; give each once")
    names = [directory.resolve().name for directory in directories]
    if len(set(names)) < len(names):
        names = [str(directory) for directory in directories]
    return {name: read_report(directory) for name, directory in zip(names, directories, strict=True)}


def energy_of(method: MethodResult) -> dict[int, float]:
    """Returns nanojoules for one sample by number of steps; empty where the network was not examined."""
    return method.behaviour.energy_nanojoules.get(MODEL, {}) if method.behaviour else {}


def table_of(reports: Mapping[str, Report]) -> Table:
    """Tabulates accuracy and estimated energy of every method of every run.

    Args:
        reports: The reports by name of the run.

    Returns:
        A table with a column for each number of time-steps that any method has.
    """
    steps = _all_steps(reports)
    table = Table("run", "method", "")
    for t in steps:
        table.add_column(f"T = {t}", justify="right", no_wrap=True)
    for run, report in reports.items():
        _add_rows(table, run, report, steps)
    return table


def _all_steps(reports: Mapping[str, Report]) -> list[int]:
    return sorted({t for report in reports.values() for method in report.methods for t in method.accuracy})


def _add_rows(table: Table, run: str, report: Report, steps: Sequence[int]) -> None:
    cells = lambda values, form: [form.format(values[t]) if t in values else "–" for t in steps]
    network = f"{report.model}, {report.activations}, {report.dataset}"
    table.add_row(run, "ANN", "accuracy %", f"{100 * report.ann_accuracy:.2f}", end_section=True)
    for place, method in enumerate(report.methods):
        percent = {t: 100 * value for t, value in method.accuracy.items()}
        table.add_row("" if place else network, method.title, "accuracy %", *cells(percent, "{:.2f}"))
        if energy := energy_of(method):
            table.add_row("", "", "energy nJ", *cells(energy, "{:,.0f}"))
    table.add_section()


def draw_runs(reports: Mapping[str, Report], path: Path) -> None:
    """Draws accuracy against steps and, where there are estimates, against energy; each run has a line style.

    Args:
        reports: The reports by name of the run.
        path: The picture to write.
    """
    results = [method for report in reports.values() for method in report.methods]
    names = list(dict.fromkeys(method.name for method in results))
    has_energy = any(map(energy_of, results))
    figure = figure_of(10.5 if has_energy else 6.4, 5.2)
    panels = list(figure.subplots(1, 1 + has_energy, sharey=True, squeeze=False).flat)
    for (run, report), style in zip(reports.items(), cycle(STYLES, len(reports)), strict=True):
        ann = {"color": "0.4", "linestyle": style, "linewidth": 1, "label": f"{run}: ANN"}
        panels[0].axhline(100 * report.ann_accuracy, **ann)
        for method in report.methods:
            look = {**method_style(names.index(method.name)), "linestyle": style}
            _draw_method(panels, method, look | {"label": f"{run}: {method.title}"})
    _finish(panels, _all_steps(reports))
    figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize=8)
    figure.savefig(path, dpi=DOTS)


def _draw_method(panels: Sequence[Axes], method: MethodResult, look: dict[str, Any]) -> None:
    """A line in the panel of steps and, with energies, one without a label in the panel of energy."""
    percent = {t: 100 * value for t, value in method.accuracy.items()}
    panels[0].plot(list(percent), list(percent.values()), **look)
    energy = {t: value for t, value in energy_of(method).items() if t in percent}
    if energy:
        panels[1].plot(list(energy.values()), [percent[t] for t in energy], **(look | {"label": None}))


def _finish(panels: Sequence[Axes], steps: Sequence[int]) -> None:
    time_axis(panels[0], steps)
    panels[0].set_xlabel("time-steps T")
    panels[0].set_ylabel("test accuracy")
    panels[0].yaxis.set_major_formatter(PercentFormatter(decimals=0))
    for axes in panels[1:]:
        axes.set_xscale("log")
        axes.set_xlabel(f"estimated energy for one sample, nJ\n({MODEL})")
    for axes in panels:
        plain(axes)


def main() -> None:
    command = parse()
    reports = read_reports(command.runs)
    if not command.output.resolve().parent.is_dir():
        raise InputError(f"there is no directory {command.output.resolve().parent} for --output; make it first")
    draw_runs(reports, command.output)
    print_whole(table_of(reports), console)
    say(f"energy: estimates for one sample, {MODEL}; the picture is {command.output}")


if __name__ == "__main__":
    sys.exit(run_script("compare", main))
