"""Prints and plots several converted runs side by side.

python -m gnsnn_jax.report.compare RUN RUN … [--output FILE]
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.ticker import PercentFormatter
from rich.console import Console
from rich.table import Table

from gnsnn_jax.errors import InputError
from gnsnn_jax.report.pictures import DOTS, cycle, method_style, method_title, plain, time_axis
from gnsnn_jax.report.plots import figure_of
from gnsnn_jax.runtime.command_line import Parser, console, directory, file, run_script

REPORT = "report.json"
MODEL = "45 nm, float32, compute only"  # of energy, in the table and the picture
WIDEST = 1000  # columns of a table that is not cut, however narrow the terminal
STYLES = ("-", "--", ":", "-.")  # of runs, while colours are of methods


class Line(NamedTuple):
    """One method of a run, by number of steps; no energies where its report is a quick one."""

    name: str
    title: str
    accuracy: dict[int, float]
    latency: dict[int, int]
    energy: dict[int, float]


def parse(arguments: list[str] | None = None):
    parser = Parser(prog="compare", description=__doc__)
    parser.add_argument(
        "runs", nargs="+", type=directory, metavar="RUN", help="directories that convert.py has been over"
    )
    parser.add_argument("--output", type=file, default=Path("compare.png"), help="picture to write (compare.png)")
    return parser.parse_args(arguments)


def read_reports(directories: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """Reports by the shortest names that tell the runs apart.

    Raises InputError where a directory holds no report, a damaged one or one given twice.
    """
    if len({directory.resolve() for directory in directories}) < len(directories):
        raise InputError(f"a run is given twice among {', '.join(map(str, directories))}; give each once")
    names = [directory.resolve().name for directory in directories]
    if len(set(names)) < len(names):
        names = [str(directory) for directory in directories]
    return {name: _read(directory) for name, directory in zip(names, directories, strict=True)}


def _read(directory: Path) -> dict[str, Any]:
    path = directory / REPORT
    if not path.is_file():
        raise InputError(f"{directory} holds no {REPORT}; give a run directory that convert.py has been over")
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        lines_of(report)
        float(report["ann_accuracy"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} is no report of convert.py or damaged ({type(error).__name__}: {error}); convert the run again"
        ) from None
    return report


def lines_of(report: Mapping[str, Any]) -> list[Line]:
    by_steps = lambda values: {int(t): value for t, value in values.items()}
    return [
        Line(
            method["name"],
            method_title(method),
            by_steps(method["accuracy"]),
            by_steps(method["latency_steps"]),
            by_steps(method.get("behaviour", {}).get("energy_nanojoules", {}).get(MODEL, {})),
        )
        for method in report["methods"]
    ]


def table_of(reports: Mapping[str, Mapping[str, Any]]) -> Table:
    """Accuracy and estimated energy of every method of every run, at all numbers of steps that any has."""
    lines = [line for report in reports.values() for line in lines_of(report)]
    steps = sorted({t for line in lines for t in line.accuracy})
    table = Table("run", "method", "")
    for t in steps:
        table.add_column(f"T = {t}", justify="right", no_wrap=True)
    for run, report in reports.items():
        network = f"{report['model']}, L = {report['levels']}, {report['dataset']}"
        table.add_row(run, "ANN", "accuracy %", f"{100 * report['ann_accuracy']:.2f}", end_section=True)
        for place, line in enumerate(lines_of(report)):
            cells = lambda values, form: [form.format(values[t]) if t in values else "–" for t in steps]
            percent = {t: 100 * value for t, value in line.accuracy.items()}
            table.add_row("" if place else network, line.title, "accuracy %", *cells(percent, "{:.2f}"))
            if line.energy:
                table.add_row("", "", "energy nJ", *cells(line.energy, "{:,.0f}"))
        table.add_section()
    return table


def draw(reports: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Accuracy against steps and, where there are estimates, against energy; a line style for each run."""
    lines = {run: lines_of(report) for run, report in reports.items()}
    methods = list(dict.fromkeys(line.name for of_run in lines.values() for line in of_run))
    has_energy = any(line.energy for of_run in lines.values() for line in of_run)
    figure = figure_of(10.5 if has_energy else 6.4, 5.2)
    panels = figure.subplots(1, 1 + has_energy, sharey=True, squeeze=False)[0]
    for (run, of_run), style in zip(lines.items(), cycle(STYLES, len(lines)), strict=True):
        ann = {"color": "0.4", "linestyle": style, "linewidth": 1, "label": f"{run}: ANN"}
        panels[0].axhline(100 * reports[run]["ann_accuracy"], **ann)
        for line in of_run:
            look = {**method_style(methods.index(line.name)), "linestyle": style}
            percent = [100 * value for value in line.accuracy.values()]
            panels[0].plot(list(line.accuracy), percent, label=f"{run}: {line.title}", **look)
            if line.energy:
                panels[1].plot(list(line.energy.values()), percent, **look)
    time_axis(panels[0], sorted({t for of_run in lines.values() for line in of_run for t in line.accuracy}))
    panels[0].set_xlabel("time-steps T")
    panels[0].set_ylabel("test accuracy")
    panels[0].yaxis.set_major_formatter(PercentFormatter(decimals=0))
    if has_energy:
        panels[1].set_xscale("log")
        panels[1].set_xlabel(f"estimated energy for one sample, nJ\n({MODEL})")
    for axes in panels:
        plain(axes)
    figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize=8)
    figure.savefig(path, dpi=DOTS)


def main() -> None:
    command = parse()
    reports = read_reports(command.runs)
    if not command.output.resolve().parent.is_dir():
        raise InputError(f"there is no directory {command.output.resolve().parent} for --output; make it first")
    draw(reports, command.output)
    table = table_of(reports)
    width = table.__rich_measure__(console, console.options.update(max_width=WIDEST)).maximum
    Console(width=max(width, console.width)).print(table)
    console.print(f"energy: estimates for one sample, {MODEL}; the picture is {command.output}", soft_wrap=True)


if __name__ == "__main__":
    sys.exit(run_script("compare", main))
