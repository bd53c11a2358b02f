"""What the converted networks of one comparison do on samples of the test split."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import numpy as np

from gnsnn_jax._types import Int
from gnsnn_jax.analysis.behaviour import Behaviour
from gnsnn_jax.analysis.observation import observe_present
from gnsnn_jax.data.batches import PADDING
from gnsnn_jax.data.order import FixedOrder, Share, share_of_process
from gnsnn_jax.data.sets import Dataset, normalise
from gnsnn_jax.errors import InputError
from gnsnn_jax.method.methods import Method
from gnsnn_jax.report.report import MethodResult, NotExamined, Report
from gnsnn_jax.report.summaries import behaviour_summary, network_summary
from gnsnn_jax.runs.converted import ConvertedNetwork
from gnsnn_jax.runtime import devices
from gnsnn_jax.runtime.command_line import progress_bar

EXAMINED_SAMPLES = 1000  # of a test split, evenly spread over it


def examine(
    report: Report,
    networks: Mapping[str, ConvertedNetwork],
    dataset: Dataset,
    steps: Sequence[int],
    batch_size: int,
) -> tuple[Report, dict[str, Behaviour]]:
    """Observes what each network does on samples of the test split.

    Args:
        report: The report of these networks.
        networks: At least one converted network, by the name of its directory.
        dataset: The data set whose test split the samples come from.
        steps: The numbers of time-steps of the report.
        batch_size: The number of samples of one batch.

    Returns:
        The report with an analysis and the behaviour of each method, and the behaviours themselves: by name of the
        method and, for the same neurons without calibration, by `before_name`. If the connections of a network
        cannot be counted, the analysis of the report gives the reason, and there are no behaviours.
    """
    network = next(iter(networks.values()))
    analog = _analog(network)
    try:
        behaviours = _observed(networks, dataset, steps, batch_size)
    except InputError as error:
        return replace(report, analysis=NotExamined(str(error), analog)), {}
    methods = {each.method.name: each.method for each in networks.values()}
    return extend_report(report, methods, behaviours, analog), behaviours


def extend_report(
    report: Report, methods: Mapping[str, Method], behaviours: Mapping[str, Behaviour], analog: Sequence[str] = ()
) -> Report:
    """Adds what was observed to a report.

    Args:
        report: The report of these methods.
        methods: The methods by name.
        behaviours: The behaviours by name of the method, and by `before_name` for methods with a calibration.
        analog: Operations in front of the first neurons that are not linear.

    Returns:
        The report with an analysis and the behaviour of each method.
    """

    def examined(result: MethodResult) -> MethodResult:
        method = methods[result.name]
        uncalibrated = behaviours[before_name(method)] if method.calibration else None
        found = behaviour_summary(behaviours[method.name], method.members, report.steps, uncalibrated)
        return replace(result, behaviour=found)

    analysis = network_summary(next(iter(behaviours.values())), report.levels, analog)
    return replace(report, methods=tuple(map(examined, report.methods)), analysis=analysis)


def _observed(
    networks: Mapping[str, ConvertedNetwork], dataset: Dataset, steps: Sequence[int], batch_size: int
) -> dict[str, Behaviour]:
    """The behaviours by name, those before calibrations too."""
    simulated = {network.method.name: network for network in networks.values()}
    calibrated = [network for network in networks.values() if network.method.calibration]
    simulated |= {before_name(each.method): without_calibration(each) for each in calibrated}
    looked_at = sorted({*steps, *(each.method.probe_steps for each in simulated.values() if each.method.probe_steps)})
    return behaviours_of(simulated, dataset, looked_at, batch_size)


def behaviours_of(
    simulated: Mapping[str, ConvertedNetwork],
    dataset: Dataset,
    steps: Sequence[int],
    batch_size: int,
    compare: bool = True,
) -> dict[str, Behaviour]:
    """Observes networks on at most EXAMINED_SAMPLES of the test split; two that do the same are observed once.

    Args:
        simulated: At least one converted network, by names of any kind.
        dataset: The data set whose test split the samples come from.
        steps: The numbers of time-steps to look at, in increasing order.
        batch_size: The number of samples of one batch.
        compare: Whether to compare rates with the activations of the network, besides counting.

    Returns:
        The behaviours by these names.

    Raises:
        InputError: if the connections of a network cannot be counted.
    """
    samples = min(dataset.test.count, EXAMINED_SAMPLES)
    variables = devices.replicate(next(iter(simulated.values())).variables)
    behaviours: dict[str, Behaviour] = {}
    with progress_bar() as bar:
        for name, each in simulated.items():
            if same := next((done for done in behaviours if is_same(simulated[done], each)), None):
                behaviours[name] = behaviours[same]
                continue
            task = bar.add_task(f"{name:>8}", total=samples, note="spikes, operations, errors")
            behaviours[name] = observe_present(
                each.spiking(steps[-1]),
                _batches(dataset, samples, batch_size),
                variables=variables,
                steps=steps,
                compare=compare,
                connections=next((found.connections for found in behaviours.values()), None),
                sharding=devices.on_all(),
                on_batch=partial(bar.advance, task),
            )
    return behaviours


def _analog(network: ConvertedNetwork) -> tuple[str, ...]:
    """What is not linear and stays analog in front of the first neurons."""
    example = jax.ShapeDtypeStruct((1, *network.image_shape), np.float32)
    return tuple(network.spiking(1).analog(network.variables, example))


def before_name(method: Method) -> str:
    """Returns the name of the neurons of a method without its calibration."""
    return f"{method.name} before"


def without_calibration(network: ConvertedNetwork) -> ConvertedNetwork:
    """Returns the network with the same neurons and thresholds, which start from their own initial potentials."""
    return replace(network, method=replace(network.method, calibration=None))


def is_same(one: ConvertedNetwork, other: ConvertedNetwork) -> bool:
    """Returns whether two conversions of one network have equal neurons, calibrations and thresholds."""
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
