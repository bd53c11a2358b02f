"""Measures what an arena shows: every method on one network, beside the network with as many levels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from typing import Any

import jax
import numpy as np

from gnsnn_jax.analysis.behaviour import Behaviour
from gnsnn_jax.analysis.energy import MODELS, of_float_ann, of_quantised_ann, of_spiking
from gnsnn_jax.analysis.evaluation import labels_and_predictions
from gnsnn_jax.analysis.operations import operations
from gnsnn_jax.conversion.quantised import depth, quantised
from gnsnn_jax.data.sets import Dataset, normalise
from gnsnn_jax.errors import InputError
from gnsnn_jax.method.methods import Method
from gnsnn_jax.report.arena_results import Arena, Quantised, Row
from gnsnn_jax.report.compare_methods import compare_methods
from gnsnn_jax.report.examination import behaviours_of
from gnsnn_jax.report.machine import machine
from gnsnn_jax.report.report import MethodResult, Report
from gnsnn_jax.runs.converted import CORRECTION_IMAGES, ConvertedNetwork, samples_for_thresholds
from gnsnn_jax.runs.directories import Run

ENERGY = MODELS[0]
PICOJOULES = 1000  # in a nanojoule
PACKAGES = ("jax", "flax", "numpy", "gnsnn_jax")


def measure(
    run: Run,
    dataset: Dataset,
    methods: Sequence[Method],
    steps: Sequence[int],
    batch_size: int,
    command: str,
    tell: Callable[[str], None] = lambda text: None,
) -> Arena:
    """Converts the network of a run by each method and measures all of them.

    Args:
        run: The run that holds the trained network.
        dataset: Its data set; thresholds are found on the training split, accuracy is that on the test split.
        methods: At least one method.
        steps: Numbers of time-steps T, in increasing order.
        batch_size: The number of samples of one batch, also where thresholds are found.
        command: The command line, to be kept.
        tell: Is called with a line about each method that is done.

    Returns:
        The arena, without the methods that this network refuses, and why.

    Raises:
        InputError: if it refuses all of them.
    """
    found, left_out = [], {}
    known = _QuantisedNetworks(dataset, batch_size)
    for method in methods:
        try:
            found.append(
                _joined([_measured(run, dataset, method, part, batch_size, known) for part in parts_of(method, steps)])
            )
        except InputError as error:
            left_out[method.name] = str(error)
            tell(f"{method.name} is left out: {error}")
        else:
            tell(f"{method.name}: {100 * found[-1].rows[-1].accuracy:.2f} % at T = {steps[-1]}")
    if not found:
        name, reason = next(iter(left_out.items()))
        raise InputError(f"none of the methods converts this network; {name}: {reason}")
    first = found[0]
    return Arena(
        run=run.directory.resolve().name,
        command=command,
        date=f"{datetime.now():%Y-%m-%d}",
        machine=machine(PACKAGES),
        dataset=dataset.name,
        model=run.config.model.name,
        activations=first.report.activations,
        seed=run.config.training.seed,
        test_samples=first.report.samples,
        examined_samples=first.behaviour.samples,
        neurons=first.behaviour.neurons,
        depth=first.depth,
        ann_accuracy=first.report.ann_accuracy,
        ann_multiply_accumulates=first.behaviour.connections.dense,
        ann_nanojoules=of_float_ann(ENERGY, first.behaviour) / PICOJOULES,
        energy_model=ENERGY.name,
        rows=tuple(row for each in found for row in each.rows),
        left_out=left_out,
    )


@dataclass
class _Measured:
    """What was found of one method."""

    report: Report
    behaviour: Behaviour
    depth: int
    rows: list[Row]


def parts_of(method: Method, steps: Sequence[int]) -> list[Sequence[int]]:
    """The numbers of steps that one conversion serves: all, or each by itself."""
    return [steps] if method.serves_fewer_steps else [[t] for t in steps]


def _joined(parts: Sequence[_Measured]) -> _Measured:
    """What was found of one method, by steps."""
    return replace(parts[-1], rows=[row for part in parts for row in part.rows])


def _measured(
    run: Run, dataset: Dataset, method: Method, steps: Sequence[int], batch_size: int, known: _QuantisedNetworks
) -> _Measured:
    report, networks = compare_methods(run, dataset, [method], steps, batch_size)
    ((network,),), (result,) = networks.values(), report.methods
    probes = [method.probe_steps] if method.probe_steps else []
    behaviour = behaviours_of({method.name: [network]}, dataset, steps, batch_size, probes, compare=False)[method.name]
    example = jax.ShapeDtypeStruct((1, *network.image_shape), np.float32)
    deep = depth(network.spiking(1), network.variables, example)
    samples = max(
        samples_for_thresholds(dataset, batch_size) if network.thresholds else 0,
        min(CORRECTION_IMAGES, dataset.train.count) if network.corrections else 0,
    )
    row = partial(_row, network=network, result=result, behaviour=behaviour, deep=deep, samples=samples, known=known)
    return _Measured(report, behaviour, deep, [row(t) for t in steps])


def _row(
    steps: int,
    network: ConvertedNetwork,
    result: MethodResult,
    behaviour: Behaviour,
    deep: int,
    samples: int,
    known: _QuantisedNetworks,
) -> Row:
    method, taken = network.method, operations(behaviour, steps)
    levels, latency = method.members * steps, int(method.latency(steps))
    return Row(
        method=method.name,
        steps=steps,
        accuracy=result.accuracy[steps],
        levels_a_step=method.neuron.values_a_step,
        members=method.members,
        probe_steps=method.probe_steps,
        latency=latency,
        layerwise=deep * latency if method.probe_steps or method.neuron.layerwise else None,
        spikes=taken.unit_spikes,
        accumulates=taken.accumulates,
        multiply_accumulates=taken.multiply_accumulates,
        mean_operations=taken.mean_operations,
        nanojoules=of_spiking(ENERGY, taken) / PICOJOULES,
        calibration_samples=samples,
        thresholds=result.thresholds,
        quantised=Quantised(
            levels, known.accuracy(network, levels), of_quantised_ann(ENERGY, behaviour, levels) / PICOJOULES
        ),
    )


@dataclass
class _QuantisedNetworks:
    """Accuracies of quantised networks, each evaluated once."""

    dataset: Dataset
    batch_size: int
    known: list[tuple[int, Mapping[str, Any], float]] = field(default_factory=list)

    def accuracy(self, network: ConvertedNetwork, levels: int) -> float:
        """On the test split, of so many levels under the thresholds of the network."""
        thresholds = _thresholds_of(network)
        for of_levels, of_thresholds, accuracy in self.known:
            if of_levels == levels and _equal(of_thresholds, thresholds):
                return accuracy
        prepare = partial(normalise, to=self.dataset.statistics)
        ann = quantised(network.spiking(1), levels)
        found = labels_and_predictions(ann, network.variables, self.dataset.test, prepare, self.batch_size)
        self.known.append((levels, thresholds, float(np.mean(np.equal(*found)))))
        return self.known[-1][-1]


def _thresholds_of(network: ConvertedNetwork) -> dict[str, Any]:
    """By name of the site, those of corrections before the others."""
    found = {name: each.threshold for name, each in (network.corrections or {}).items()}
    return {**(network.thresholds or {}), **{name: each for name, each in found.items() if each is not None}}


def _equal(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return one.keys() == other.keys() and all(map(np.array_equal, one.values(), other.values()))
