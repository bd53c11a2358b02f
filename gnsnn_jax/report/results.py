"""Methods compared on one network: report.json, the table on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from gnsnn_jax.analysis.evaluation import Evaluation
from gnsnn_jax.interop.functions import is_own
from gnsnn_jax.method.methods import Method


class Result(NamedTuple):
    method: Method
    evaluation: Evaluation


def make_report(
    *,
    dataset: str,
    model: str,
    levels: int,
    labels: np.ndarray,
    ann_predictions: np.ndarray,
    results: Sequence[Result],
    steps: Sequence[int],
    confidence: float | None = None,
) -> dict[str, Any]:
    """Accuracies as fractions; `agreement` is the share of samples on which the SNN predicts what the ANN does.

    With a confidence, `early_stop` tells what becomes of samples that stop once they have it.
    """
    return {
        "dataset": dataset,
        "model": model,
        "levels": levels,
        "ann_accuracy": float(np.mean(ann_predictions == labels)),
        "samples": len(labels),
        "methods": [_method_report(result, ann_predictions, steps, confidence) for result in results],
    }


def _method_report(result: Result, ann_predictions: np.ndarray, steps: Sequence[int], confidence: float | None):
    method, evaluation = result
    over_steps = lambda measure: {str(t): measure(t) for t in steps}
    return {
        "name": method.name,
        "neuron": method.neuron_name,
        "members": method.members,
        "probe_steps": method.probe_steps,
        "thresholds": method.thresholds,
        "channel_axis": method.channel_axis,
        "accuracy": over_steps(evaluation.accuracy),
        "agreement": over_steps(lambda t: evaluation.agreement(ann_predictions, t)),
        "latency_steps": over_steps(method.latency),
        "spikes_per_neuron": over_steps(evaluation.spikes_per_neuron),
    } | ({} if confidence is None else {"early_stop": _early_stop(result, confidence)})


def _early_stop(result: Result, confidence: float) -> dict[str, float]:
    accuracy, steps = result.evaluation.stopped_when(confidence)
    return {"confidence": confidence, "accuracy": accuracy, "latency_steps": result.method.latency(steps)}


def print_report(report: dict[str, Any], console: Console) -> None:
    """The ANN's accuracy, and a table of accuracy, latency and spikes by method and T."""
    console.print(
        f"{described(report)} on {report['dataset']}, {report['samples']} test samples: "
        f"ANN {100 * report['ann_accuracy']:.2f} %"
    )
    console.print(_table(report), crop=False, no_wrap=True, overflow="ignore")
    console.print("latency: steps until the answer, ρ + T; spikes: per neuron and inference")
    found = [method for method in report["methods"] if method["thresholds"]]
    if found:
        rules = ", ".join(f"{method['name']} by {method['thresholds']}" for method in found)
        each = "activation" if found[0]["channel_axis"] is None else "channel"
        console.print(f"thresholds, one for each {each}, from training images: {rules}", soft_wrap=True)
    for method in report["methods"]:
        if "early_stop" in method:
            console.print(_early_stop_in_words(method["name"], **method["early_stop"]))


def _early_stop_in_words(name: str, confidence: float, accuracy: float, latency_steps: float) -> str:
    found = f"{100 * accuracy:.2f} % after {latency_steps:.2f} steps on average"
    return f"{name}, each sample stopped at confidence {confidence}: {found}"


def described(report: dict[str, Any]) -> str:
    """The name of the network, and of one of ours the kind of its activations."""
    if is_own(report["model"]):
        return report["model"]
    is_relu = any(method["thresholds"] for method in report["methods"])
    return f"{report['model']} ({'ReLU' if is_relu else 'L = ' + str(report['levels'])})"


def _table(report: dict[str, Any]) -> Table:
    steps = list(report["methods"][0]["accuracy"])
    table = Table("method", "")
    for t in steps:
        table.add_column(f"T = {t}", justify="right", no_wrap=True, min_width=6)
    for method in report["methods"]:
        members = f"m = {method['members']}" if method["neuron"] != "if" else ""
        probe = f"ρ = {method['probe_steps']}" if method["probe_steps"] else ""
        table.add_row(method["name"], "accuracy %", *(f"{100 * method['accuracy'][t]:.2f}" for t in steps))
        table.add_row(members or probe, "latency", *(str(method["latency_steps"][t]) for t in steps))
        spikes = (f"{method['spikes_per_neuron'][t]:.3f}" for t in steps)
        table.add_row(probe if members else "", "spikes", *spikes, end_section=True)
    return table
