"""report.md: the tables of a report in words and numbers, with its pictures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

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


def write(report: Mapping[str, Any], pictures: Sequence[str], folder: str) -> str:
    """The text of report.md; `pictures` lie in `folder`."""
    analysis = report.get("analysis", {})
    parts = [_head(report), _image("accuracy.png", "Accuracy if stopped after T steps."), _accuracy(report)]
    if analysis.get("analog"):
        operations = "\n".join(f"- `{each}`" for each in analysis["analog"])
        parts.append(f"Not linear, and analog in front of the first neurons:\n\n{operations}")
    if "left_out" in analysis:
        parts.append(f"Errors, operations and energy are left out: {analysis['left_out']}")
    if "energy_nanojoules" in analysis:
        parts += [_errors(report), _calibrations(report), _operations(report), _energy(report), _neurobench(report)]
    images = [_image(f"{folder}/{name}", _CAPTIONS[name]) for name in pictures]
    return "\n\n".join(part for part in [*parts, *(["## Pictures"] if images else []), *images] if part) + "\n"


def _head(report: Mapping[str, Any]) -> str:
    return (
        f"# {report['model']}, L = {report['levels']}, on {report['dataset']}\n\n{report['samples']} test samples; "
        f"the network itself (ANN) reaches {100 * report['ann_accuracy']:.2f} %."
    )


def _image(path: str, caption: str) -> str:
    return f"![{caption}]({path.replace('+', '%2B')})\n\n*{caption}*"


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def _steps(report: Mapping[str, Any]) -> list[str]:
    return list(report["methods"][0]["accuracy"])


def _accuracy(report: Mapping[str, Any]) -> str:
    steps = _steps(report)
    rows = [
        [each["name"], each["probe_steps"], *(f"{100 * each['accuracy'][t]:.2f}" for t in steps)]
        for each in report["methods"]
    ]
    head = ["accuracy, %", "steps before the first", *(f"T = {t}" for t in steps)]
    agreement = [[each["name"], *(f"{100 * each['agreement'][t]:.2f}" for t in steps)] for each in report["methods"]]
    return "\n\n".join(["## Accuracy", _table(head, rows), _table(["same class as the ANN, %", *head[2:]], agreement)])


def _errors(report: Mapping[str, Any]) -> str:
    steps, parts = _steps(report), ["## Where the error comes from"]
    parts.append(
        f"{report['analysis']['samples']} test samples. Rates and activations in units of the threshold θ. Silent "
        "neurons have no spike and saturated ones fire fully at every step, for so many % of neurons and samples at "
        f"T = {steps[-1]}; under ANN, activations of 0 and of θ or more. Where m T is more than L, the neurons are "
        "finer than the ANN, and what remains is the rounding of its activations."
    )
    for method in report["methods"]:
        rows = [_error_row(each, steps) for each in method["behaviour"]["populations"]]
        errors = [f"error, T = {t}" for t in steps]
        correlations = [f"correlation, T = {t}" for t in dict.fromkeys((steps[0], steps[-1]))]
        head = ["activation", "θ", *errors, *correlations, "silent %", "saturated %", "ANN silent %", "ANN saturated %"]
        parts += [f"### {method['name']}", _table(head, rows)]
    return "\n\n".join(parts)


def _error_row(population: Mapping[str, Any], steps: Sequence[str]) -> list[str]:
    low, high = population["threshold"]["min"], population["threshold"]["max"]
    percent = lambda share: f"{100 * share:.1f}"
    correlations = [population["correlation"][t] for t in dict.fromkeys((steps[0], steps[-1]))]
    return [
        population["name"],
        f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}",
        *(f"{population['squared_error'][t]:.2g}" for t in steps),
        *("–" if value is None else f"{value:.3f}" for value in correlations),
        percent(population["silent"][steps[-1]]),
        percent(population["saturated"][steps[-1]]),
        percent(population["ann_silent"]),
        percent(population["ann_saturated"]),
    ]


def _calibrations(report: Mapping[str, Any]) -> str:
    parts = []
    for method in report["methods"]:
        if calibration := method["behaviour"].get("calibration"):
            parts += [f"### {method['name']}, {calibration['steps']} steps", _offset_table(report, calibration)]
    if not parts:
        return ""
    words = (
        "Shares of neurons, in %, by how many spikes they have more than desired over the probe. Desired is what QCFS "
        "makes of the neuron's own currents and, in the last two columns, what the activation of the ANN asks for."
    )
    return "\n\n".join(["## Offset spikes before and after calibration", words, *parts])


def _offset_table(report: Mapping[str, Any], calibration: Mapping[str, Any]) -> str:
    names = report["analysis"]["offsets"]
    exact = names[len(names) // 2]
    whens = ("before", "after")
    head = ["activation", *(f"{when} {name}" for when in whens for name in names)]
    head += [f"{when}, ANN {exact}" for when in whens]
    rows = []
    for name in calibration["before"]:
        own = [share for when in whens for share in calibration[when][name]["own_offsets"]]
        of_ann = [calibration[when][name]["offsets"][len(names) // 2] for when in whens]
        rows.append([name, *(f"{100 * share:.1f}" for share in [*own, *of_ann])])
    return _table(head, rows)


def _operations(report: Mapping[str, Any]) -> str:
    steps, analysis = _steps(report), report["analysis"]
    rows = []
    for method in report["methods"]:
        taken = method["behaviour"]["operations"]
        names = {"unit_spikes": "unit spikes", "accumulates": "accumulates (AC)"}
        if method["members"] > 1:
            names["event_operations"] = "or, as values, MAC"
        names["multiply_accumulates"] = "MAC"
        rows += [[method["name"], words, *(f"{taken[t][name]:,.0f}" for t in steps)] for name, words in names.items()]
    words = (
        f"For one sample, the steps of a probe included. The ANN takes {analysis['multiply_accumulates']:,} "
        "multiply-accumulates (MAC), padding left out. A unit spike costs one accumulate for each of its connections; "
        "layers that read the image are MAC, evaluated once. A population that emits k units at once costs k unit "
        "spikes or, the units taken as one value, one MAC for each connection."
    )
    layers = [
        [each["name"], f"{each['connections']:,}", f"{each['weights']:,}", each["evaluated"]]
        for each in analysis["layers"]
    ]
    return "\n\n".join(
        [
            "## Spikes and operations",
            words,
            _table(["method", "", *(f"T = {t}" for t in steps)], rows),
            _table(["layer", "connections", "weights", "evaluated"], layers),
        ]
    )


def _energy(report: Mapping[str, Any]) -> str:
    steps, analysis = _steps(report), report["analysis"]
    parts = [
        "## Estimates of energy",
        "Nanojoules for one sample: counted operations times published figures, no measurement. The first layer and "
        f"the steps of a probe are included. The quantised ANN has activations of {analysis['activation_bits']} bits, "
        "⌈log2(L + 1)⌉; neither ANN skips zeros. Where memory counts, every operand comes from it: an accumulate reads "
        "a weight and reads and writes a potential, a multiply-accumulate reads a weight and a value, a neuron reads "
        "and writes its potential at each step.",
        _table(
            ["model", "pJ addition", "pJ multiplication", "of bits", "pJ memory bit", "weight bits", "source"],
            [
                [each[key] for key in "name add multiply multiplier_bits memory_bit weight_bits source".split()]
                for each in analysis["energy_models"]
            ],
        ),
    ]
    for model, of_anns in analysis["energy_nanojoules"].items():
        rows = [[name, *[f"{energy:,.4g}"] * len(steps)] for name, energy in of_anns.items()]
        for method in report["methods"]:
            kinds = {"": "energy_nanojoules", ", units as values": "energy_nanojoules_of_values"}
            for words, key in kinds.items():
                if key in method["behaviour"]:
                    energies = method["behaviour"][key][model]
                    rows.append([method["name"] + words, *(f"{energies[t]:,.4g}" for t in steps)])
        parts += [f"### {model}, nJ (estimate)", _table(["network", *(f"T = {t}" for t in steps)], rows)]
    return "\n\n".join(parts)


def _neurobench(report: Mapping[str, Any]) -> str:
    last = _steps(report)[-1]
    rows = []
    for method in report["methods"]:
        found = method["behaviour"]["neurobench"][last]
        counts = [f"{found[key]:,.0f}" for key in ("effective_macs", "effective_acs", "dense")]
        shares = [f"{found[key]:.4f}" for key in ("activation_sparsity", "connection_sparsity")]
        rows.append([method["name"], *counts, *shares, f"{found['footprint']:,}"])
    head = [
        "method",
        "Effective_MACs",
        "Effective_ACs",
        "Dense",
        "activation sparsity",
        "connection sparsity",
        "footprint, bytes",
    ]
    words = (
        f"At T = {last}, for one sample, the probe included. These definitions take as accumulates only what reads "
        "0 and 1: averaged spikes, such as those before the last layer, and several units at once are MACs."
    )
    return "\n\n".join(["## By the definitions of NeuroBench", words, _table(head, rows)])
