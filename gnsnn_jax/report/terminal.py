"""The table of a report on the terminal."""

from __future__ import annotations

from gnsnn_jax.errors import extra
from gnsnn_jax.report.report import EarlyStop, MethodResult, Report

with extra("report"):
    from rich.console import Console
    from rich.table import Table

WIDEST = 1000  # columns of a table that is not cut, however narrow the terminal


def print_report(report: Report, console: Console) -> None:
    """Prints the accuracy of the ANN, and a table of accuracy, latency and spikes by method and T.

    Args:
        report: The report to print.
        console: The console to print on. The table is not cut where the console is narrower.
    """
    accuracy = f"ANN {100 * report.ann_accuracy:.2f} %"
    console.print(f"{report.network} on {report.dataset}, {report.samples} test samples: {accuracy}", soft_wrap=True)
    print_whole(_table(report), console)
    units = "latency: steps until the answer, ρ + T; spikes: per neuron and inference, without the probe"
    console.print(units, soft_wrap=True)
    if found := [method for method in report.methods if method.thresholds]:
        console.print(_thresholds_in_words(found), soft_wrap=True)
    for method in report.methods:
        if method.early_stop:
            console.print(_early_stop_in_words(method.name, method.early_stop), soft_wrap=True)


def print_whole(table: Table, console: Console) -> None:
    """Prints a table as wide as it needs, however narrow the console is."""
    table.width = table.__rich_measure__(console, console.options.update(max_width=WIDEST)).maximum
    console.print(table, crop=False, no_wrap=True, overflow="ignore")


def _thresholds_in_words(methods: list[MethodResult]) -> str:
    rules = ", ".join(f"{method.name} by {method.thresholds}" for method in methods)
    each = "activation" if methods[0].channel_axis is None else "channel"
    return f"thresholds, one for each {each}, from training images: {rules}"


def _early_stop_in_words(name: str, stop: EarlyStop) -> str:
    found = f"{100 * stop.accuracy:.2f} % after {stop.latency_steps:.2f} steps on average"
    return f"{name}, each sample stopped at confidence {stop.confidence}: {found}"


def _table(report: Report) -> Table:
    table = Table("method", "")
    for t in report.steps:
        table.add_column(f"T = {t}", justify="right", no_wrap=True, min_width=6)
    for method in report.methods:
        _add_rows(table, method, report.steps)
    return table


def _add_rows(table: Table, method: MethodResult, steps: list[int]) -> None:
    members = f"m = {method.members}" if method.neuron != "if" else ""
    probe = f"ρ = {method.probe_steps}" if method.probe_steps else ""
    table.add_row(method.name, "accuracy %", *(f"{100 * method.accuracy[t]:.2f}" for t in steps))
    table.add_row(members or probe, "latency", *(str(method.latency_steps[t]) for t in steps))
    spikes = (f"{method.spikes_per_neuron[t]:.3f}" for t in steps)
    table.add_row(probe if members else "", "spikes", *spikes, end_section=True)
