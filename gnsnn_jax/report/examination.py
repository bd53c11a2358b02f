"""What the converted networks of one comparison do, added to its report."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gnsnn_jax._types import Int
from gnsnn_jax.analysis.behaviour import OFFSETS, Behaviour, Population
from gnsnn_jax.analysis.energy import (
    MODELS,
    EnergyModel,
    activation_bits,
    of_float_ann,
    of_quantised_ann,
    of_spiking,
    of_spiking_values,
)
from gnsnn_jax.analysis.observation import observe_present
from gnsnn_jax.analysis.operations import Operations, neurobench, operations
from gnsnn_jax.data.batches import PADDING
from gnsnn_jax.data.order import FixedOrder, Share, share_of_process
from gnsnn_jax.data.sets import Dataset, normalise
from gnsnn_jax.errors import InputError
from gnsnn_jax.method.methods import Method
from gnsnn_jax.report import document
from gnsnn_jax.report.pictures import draw
from gnsnn_jax.report.plots import plot_accuracy
from gnsnn_jax.runs.converted import ConvertedNetwork
from gnsnn_jax.runs.directories import CONVERSION, set_aside, write_json
from gnsnn_jax.runtime import devices
from gnsnn_jax.runtime.command_line import console, progress_bar

FIGURES = "figures"
EXAMINED_SAMPLES = 1000  # of a test split, evenly spread over it
PICOJOULES = 1000  # in a nanojoule


def examine(
    report: Mapping[str, Any],
    networks: Mapping[str, ConvertedNetwork],
    dataset: Dataset,
    steps: Sequence[int],
    batch_size: int,
) -> tuple[dict[str, Any], dict[str, Behaviour]]:
    """The report with what each network does, and its behaviour by method; that of the same neurons without
    calibration too.

    Where the connections of a network cannot be counted, the report says why, and there is no behaviour.
    """
    simulated = {network.method.name: network for network in networks.values()}
    simulated |= {before_name(each.method): uncalibrated(each) for each in networks.values() if each.method.calibration}
    looked_at = sorted({*steps, *(each.method.probe_steps for each in simulated.values() if each.method.probe_steps)})
    network, samples = next(iter(networks.values())), min(dataset.test.count, EXAMINED_SAMPLES)
    variables = devices.replicate(network.variables)
    behaviours: dict[str, Behaviour] = {}
    try:
        with progress_bar() as bar:
            for name, each in simulated.items():
                if same := next((done for done in behaviours if is_same(simulated[done], each)), None):
                    behaviours[name] = behaviours[same]
                    continue
                task = bar.add_task(f"{name:>8}", total=samples, note="spikes, operations, errors")
                behaviours[name] = observe_present(
                    each.spiking(looked_at[-1]),
                    _batches(dataset, samples, batch_size),
                    variables=variables,
                    steps=looked_at,
                    connections=next((found.connections for found in behaviours.values()), None),
                    sharding=devices.on_all(),
                    on_batch=partial(bar.advance, task),
                )
    except InputError as error:
        return {**report, "analysis": {"left_out": str(error), "analog": _analog(network)}}, {}
    extended = extend_report(report, {name.upper(): each.method for name, each in networks.items()}, behaviours)
    return {**extended, "analysis": {**extended["analysis"], "analog": _analog(network)}}, behaviours


def _analog(network: ConvertedNetwork) -> list[str]:
    """What is not linear and stays analog in front of the first neurons."""
    example = jax.ShapeDtypeStruct((1, *network.image_shape), np.float32)
    return list(network.spiking(1).analog(network.variables, example))


def before_name(method: Method) -> str:
    """The name of its neurons without calibration."""
    return f"{method.name} before"


def uncalibrated(network: ConvertedNetwork) -> ConvertedNetwork:
    """The same neurons with the same thresholds, starting from their own potentials."""
    return replace(network, method=replace(network.method, calibration=None))


def is_same(one: ConvertedNetwork, other: ConvertedNetwork) -> bool:
    """Whether two conversions of one network do the same."""
    kind = lambda method: (method.neuron, method.calibration)
    equal = lambda one, other: one.keys() == other.keys() and all(map(np.array_equal, one.values(), other.values()))
    return kind(one.method) == kind(other.method) and equal(one.thresholds or {}, other.thresholds or {})


@dataclass(frozen=True)
class _Spread:
    """An order that takes some samples of many, evenly spread; the last batch is padded."""

    count: int
    wanted: int
    batch_size: int
    share: Share

    def __call__(self, step: int) -> Int[np.ndarray, " b"]:
        places = FixedOrder(self.wanted, self.batch_size, self.share)(step)
        return np.where(places == PADDING, PADDING, places * self.count // self.wanted)


def _batches(dataset: Dataset, samples: int, batch_size: int) -> Iterator[tuple[tuple, Any]]:
    prepare = jax.jit(partial(normalise, to=dataset.statistics))
    size = devices.next_multiple(min(batch_size, samples))
    order = _Spread(dataset.test.count, samples, size, share_of_process())
    for images, labels in dataset.test.read(order, range(-(-samples // size))):
        yield (prepare(devices.distribute(images)),), devices.distribute(labels != PADDING)


def extend_report(
    report: Mapping[str, Any], methods: Mapping[str, Method], behaviours: Mapping[str, Behaviour]
) -> dict[str, Any]:
    """The report with `analysis`, on the network and the models of energy, and with a `behaviour` in each method."""
    levels, first = report["levels"], next(iter(behaviours.values()))
    described = [
        {**each, "behaviour": _of_method(methods[each["name"]], behaviours, list(map(int, each["accuracy"])))}
        for each in report["methods"]
    ]
    return {**report, "methods": described, "analysis": _of_network(first, levels)}


def _of_network(behaviour: Behaviour, levels: int) -> dict[str, Any]:
    connections = behaviour.connections
    return {
        "samples": behaviour.samples,
        "offsets": list(OFFSETS),
        "activation_bits": activation_bits(levels),
        "multiply_accumulates": connections.dense,
        "layers": [
            {"name": layer.name, "connections": layer.connections, "evaluated": _when(layer), "weights": layer.weights}
            for layer in connections.layers
        ],
        "energy_models": [model.constants() for model in MODELS],
        "energy_nanojoules": {
            model.name: {
                "float ANN": of_float_ann(model, behaviour) / PICOJOULES,
                "quantised ANN": of_quantised_ann(model, behaviour, levels) / PICOJOULES,
            }
            for model in MODELS
        },
    }


def _when(layer: Any) -> str:
    return "at each step" if layer.in_time else "once"


def _of_method(method: Method, behaviours: Mapping[str, Behaviour], steps: Sequence[int]) -> dict[str, Any]:
    behaviour, over_steps = behaviours[method.name], lambda measure: {str(t): measure(t) for t in steps}
    taken = {t: operations(behaviour, t) for t in steps}
    found = {
        "populations": [_of_population(each, steps) for each in behaviour.populations],
        "operations": over_steps(lambda t: taken[t]._asdict()),
        "neurobench": over_steps(lambda t: neurobench(behaviour, t)._asdict()),
        "energy_nanojoules": _energy(of_spiking, taken),
    }
    if method.members > 1:
        of_values = lambda model, taken: of_spiking_values(model, taken, method.members)
        found["energy_nanojoules_of_values"] = _energy(of_values, taken)
    if method.calibration:
        found["calibration"] = _of_calibration(behaviours[before_name(method)], behaviour)
    return found


def _energy(of: Callable[[EnergyModel, Operations], float], taken: Mapping[int, Operations]) -> dict[str, Any]:
    """In nanojoules for one sample, by model and steps."""
    return {model.name: {str(t): of(model, each) / PICOJOULES for t, each in taken.items()} for model in MODELS}


def _of_population(population: Population, steps: Sequence[int]) -> dict[str, Any]:
    over_steps = lambda measure: {str(t): measure(t) for t in steps}
    threshold = population.threshold
    return {
        "name": population.name,
        "kind": population.kind,
        "shape": list(population.shape),
        "threshold": {kind: float(getattr(threshold, kind)()) for kind in ("min", "mean", "max")},
        "firing_rate": population.firing_rate()[: steps[-1]].tolist(),
        "squared_error": over_steps(population.squared_error),
        "correlation": over_steps(population.correlation),
        "offsets": over_steps(population.offsets),
        "own_offsets": over_steps(lambda t: population.offsets(t, own=True)),
        **{name: over_steps(partial(population.mean, name)) for name in ("silent", "saturated")},
        **{name: population.mean(name, steps[0]) for name in ("ann_silent", "ann_saturated")},
    }


def _of_calibration(before: Behaviour, after: Behaviour) -> dict[str, Any]:
    """Offset spikes over the probe without and with calibration, by population."""
    steps = after.probe_steps
    return {
        "steps": steps,
        **{
            when: {
                each.name: {"offsets": each.offsets(steps), "own_offsets": each.offsets(steps, own=True)}
                for each in behaviour.populations
            }
            for when, behaviour in (("before", before), ("after", after))
        },
    }


def keep_report(directory: Path, report: Mapping[str, Any], behaviours: Mapping[str, Behaviour]) -> None:
    """Writes report.json, report.md and the pictures; what an earlier conversion left is set aside."""
    if kept := set_aside(directory, CONVERSION):
        console.print(f"the files of the conversion before this one are in {kept}", soft_wrap=True)
    write_json(directory / "report.json", report)
    plot_accuracy(report, directory / "accuracy.png")
    drawn = draw(report, behaviours, directory / FIGURES) if behaviours else []
    (directory / "report.md").write_text(document.write(report, drawn, FIGURES), encoding="utf-8")
