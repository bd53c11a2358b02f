"""report.md: the tables of a report in words and numbers, with its pictures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from gnsnn_jax.analysis.operations import NeuroBench
from gnsnn_jax.report.report import (
    BehaviourSummary,
    CalibrationSummary,
    MethodResult,
    NetworkSummary,
    NotExamined,
    PopulationSummary,
    Report,
)

_CAPTIONS = {
    "errors.png": "Error by depth: mean squared difference between the rate of the neurons and the activation of the "
    "ANN, in units of the threshold. Where a line is missing the error is 0.",
    "offset_spikes.png": "Offset spikes over the probe: how many spikes a neuron has more than QCFS makes of its own "
    "currents, without and with calibration.",
    "rates.png": "Rate against activation for the first, a middle and the last activation: the mean, and the band "
    "between a tenth and nine tenths of the neurons.",
    "firing.png": "Unit spikes of a neuron and step.",
    "energy.png": "Estimates of energy beside the ANN in float32 and quantised. No measurements.",
}


def markdown_of(report: Report, pictures: Sequence[str], folder: str) -> str:
    """Writes a report as Markdown.

    Args:
        report: The report to write.
        pictures: The names of the pictures to show.
        folder: The folder of the pictures, relative to report.md.

    Returns:
        The text of report.md.
    """
    parts = [_head(report), image("accuracy.png", "Accuracy if stopped after T steps."), _accuracy(report)]
    parts += [_analog(report.analysis.analog)] if report.analysis else []
    if isinstance(report.analysis, NotExamined):
        parts.append(f"Errors, operations and energy are left out: {report.analysis.left_out}")
    if isinstance(report.analysis, NetworkSummary):
        parts += _examined(report, report.analysis)
    images = [image(f"{folder}/{name}", _CAPTIONS[name]) for name in pictures]
    return "\n\n".join(part for part in [*parts, *(["## Pictures"] if images else []), *images] if part) + "\n"


def _analog(operations: Sequence[str]) -> str:
    if not operations:
        return ""
    listed = "\n".join(f"- `{each}`" for each in operations)
    return f"Not linear, and analog in front of the first neurons:\n\n{listed}"


def _examined(report: Report, analysis: NetworkSummary) -> list[str]:
    """The sections on what the networks did."""
    found = [(method, method.behaviour) for method in report.methods if method.behaviour]
    return [
        _errors(found, report.steps, analysis),
        _calibrations(found, analysis),
        _operations(found, report.steps, analysis),
        _energy(found, report.steps, analysis),
        _neurobench(found, report.steps[-1]),
    ]


def _head(report: Report) -> str:
    return (
        f"# {report.model}, {report.activations}, on {report.dataset}\n\n{report.samples} test samples; "
        f"the network itself (ANN) reaches {100 * report.ann_accuracy:.2f} %."
    )


def image(path: str, caption: str) -> str:
    """Returns a picture with its caption below."""
    return f"![{caption}]({path.replace('+', '%2B')})\n\n*{caption}*"


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Returns a table, its first column to the left and numbers to the right."""
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def _at_steps(steps: Sequence[int]) -> list[str]:
    return [f"T = {t}" for t in steps]


def _accuracy(report: Report) -> str:
    steps, titles = report.steps, _at_steps(report.steps)
    rows = [[each.name, each.probe_steps, *(f"{100 * each.accuracy[t]:.2f}" for t in steps)] for each in report.methods]
    agreement = [[each.name, *(f"{100 * each.agreement[t]:.2f}" for t in steps)] for each in report.methods]
    return "\n\n".join(
        [
            "## Accuracy",
            table(["accuracy, %", "steps before the first", *titles], rows),
            table(["same class as the ANN, %", *titles], agreement),
        ]
    )


_Found = Sequence[tuple[MethodResult, BehaviourSummary]]


def _errors(found: _Found, steps: Sequence[int], analysis: NetworkSummary) -> str:
    words = (
        f"{analysis.samples} test samples. Rates and activations in units of the threshold θ. Silent "
        "neurons have no spike and saturated ones fire fully at every step, for so many % of neurons and samples at "
        f"T = {steps[-1]}; under ANN, activations of 0 and of θ or more. Where m T is more than L, the neurons are "
        "finer than the ANN, and what remains is the rounding of its activations."
    )
    parts = ["## Where the error comes from", words]
    errors = [f"error, T = {t}" for t in steps]
    correlations = [f"correlation, T = {t}" for t in _ends(steps)]
    head = ["activation", "θ", *errors, *correlations, "silent %", "saturated %", "ANN silent %", "ANN saturated %"]
    for method, behaviour in found:
        rows = [_error_row(each, steps) for each in behaviour.populations]
        parts += [f"### {method.name}", table(head, rows)]
    return "\n\n".join(parts)


def _ends(steps: Sequence[int]) -> list[int]:
    """The first and the last, once where they are the same."""
    return list(dict.fromkeys((steps[0], steps[-1])))


def _error_row(population: PopulationSummary, steps: Sequence[int]) -> list[str]:
    low, high = population.threshold.min, population.threshold.max
    percent = lambda share: f"{100 * share:.1f}"
    correlations = [population.correlation[t] for t in _ends(steps)]
    return [
        population.name,
        f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}",
        *(f"{population.squared_error[t]:.2g}" for t in steps),
        *("–" if value is None else f"{value:.3f}" for value in correlations),
        percent(population.silent[steps[-1]]),
        percent(population.saturated[steps[-1]]),
        percent(population.ann_silent),
        percent(population.ann_saturated),
    ]


def _calibrations(found: _Found, analysis: NetworkSummary) -> str:
    parts = []
    for method, behaviour in found:
        if calibration := behaviour.calibration:
            parts += [f"### {method.name}, {calibration.steps} steps", _offset_table(analysis.offsets, calibration)]
    if not parts:
        return ""
    words = (
        "Shares of neurons, in %, by how many spikes they have more than desired over the probe. Desired is what QCFS "
        "makes of the neuron's own currents and, in the last two columns, what the activation of the ANN asks for."
    )
    return "\n\n".join(["## Offset spikes before and after calibration", words, *parts])


def _offset_table(names: Sequence[str], calibration: CalibrationSummary) -> str:
    exact = len(names) // 2
    head = ["activation", *(f"{when} {name}" for when in ("before", "after") for name in names)]
    head += [f"{when}, ANN {names[exact]}" for when in ("before", "after")]
    rows = []
    for name, before in calibration.before.items():
        after = calibration.after[name]
        shares = [*before.own_offsets, *after.own_offsets, before.offsets[exact], after.offsets[exact]]
        rows.append([name, *(f"{100 * share:.1f}" for share in shares)])
    return table(head, rows)


def _operations(found: _Found, steps: Sequence[int], analysis: NetworkSummary) -> str:
    words = (
        f"For one sample, the steps of a probe included. The ANN takes {analysis.multiply_accumulates:,} "
        "multiply-accumulates (MAC), padding left out. A unit spike costs one accumulate for each of its connections; "
        "layers that read the image are MAC, evaluated once. A population that emits k units at once costs k unit "
        "spikes or, the units taken as one value, one MAC for each connection. What runs on means or sums of spikes, "
        "such as a softmax or max-pooling, is evaluated in full at each step; its operations are counted one by one."
    )
    layers = [[each.name, f"{each.connections:,}", f"{each.weights:,}", each.evaluated] for each in analysis.layers]
    return "\n\n".join(
        [
            "## Spikes and operations",
            words,
            table(["method", "", *_at_steps(steps)], [row for each in found for row in _operation_rows(*each, steps)]),
            table(["layer", "connections", "weights", "evaluated"], layers),
        ]
    )


def _operation_rows(method: MethodResult, behaviour: BehaviourSummary, steps: Sequence[int]) -> list[list[str]]:
    taken = [behaviour.operations[t] for t in steps]
    counts: dict[str, list[float]] = {
        "unit spikes": [each.unit_spikes for each in taken],
        "accumulates (AC)": [each.accumulates for each in taken],
        "or, as values, MAC": [each.event_operations for each in taken] if method.members > 1 else [],
        "MAC": [each.multiply_accumulates for each in taken],
        "operations on means": [each.mean_operations for each in taken] if taken[0].mean_operations else [],
    }
    return [[method.name, words, *(f"{count:,.0f}" for count in of)] for words, of in counts.items() if of]


def _energy(found: _Found, steps: Sequence[int], analysis: NetworkSummary) -> str:
    words = (
        "Nanojoules for one sample: counted operations times published figures, no measurement. The first layer and "
        f"the steps of a probe are included. The quantised ANN has activations of {analysis.activation_bits} bits, "
        "⌈log2(L + 1)⌉; neither ANN skips zeros. Where memory counts, every operand comes from it: an accumulate reads "
        "a weight and reads and writes a potential, a multiply-accumulate reads a weight and a value, a neuron reads "
        "and writes its potential at each step. An operation on means counts as one multiply-accumulate of "
        "floating-point numbers, at each step of the spiking network and once in the ANN."
    )
    models = [
        [each.name, each.add, each.multiply, each.multiplier_bits, each.memory_bit, each.weight_bits, each.source]
        for each in analysis.energy_models
    ]
    head = ["model", "pJ addition", "pJ multiplication", "of bits", "pJ memory bit", "weight bits", "source"]
    parts = ["## Estimates of energy", words, table(head, models)]
    for model, of_anns in analysis.energy_nanojoules.items():
        rows = [[name, *[f"{energy:,.4g}"] * len(steps)] for name, energy in of_anns.items()]
        rows += [row for each in found for row in _energy_rows(*each, model, steps)]
        parts += [f"### {model}, nJ (estimate)", table(["network", *_at_steps(steps)], rows)]
    return "\n\n".join(parts)


def _energy_rows(
    method: MethodResult, behaviour: BehaviourSummary, model: str, steps: Sequence[int]
) -> list[list[str]]:
    kinds = {"": behaviour.energy_nanojoules, ", units as values": behaviour.energy_nanojoules_of_values}
    return [
        [method.name + words, *(f"{energies[model][t]:,.4g}" for t in steps)]
        for words, energies in kinds.items()
        if energies
    ]


def _neurobench(found: _Found, steps: int) -> str:
    words = (
        f"At T = {steps}, for one sample, the probe included. These definitions take as accumulates only what reads "
        "0 and 1: averaged spikes, such as those before the last layer, and several units at once are MACs."
    )
    head = [
        "method",
        "Effective_MACs",
        "Effective_ACs",
        "Dense",
        "activation sparsity",
        "connection sparsity",
        "footprint, bytes",
    ]
    rows = [_neurobench_row(method.name, behaviour.neurobench[steps]) for method, behaviour in found]
    return "\n\n".join(["## By the definitions of NeuroBench", words, table(head, rows)])


def _neurobench_row(name: str, found: NeuroBench) -> list[str]:
    counts = [f"{count:,.0f}" for count in (found.effective_macs, found.effective_acs, found.dense)]
    shares = [f"{share:.4f}" for share in (found.activation_sparsity, found.connection_sparsity)]
    return [name, *counts, *shares, f"{found.footprint:,}"]
