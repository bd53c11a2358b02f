"""What the converted networks of one comparison do on samples of the test split."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
    networks: Mapping[str, Sequence[ConvertedNetwork]],
    dataset: Dataset,
    steps: Sequence[int],
    batch_size: int,
) -> tuple[Report, dict[str, Behaviour]]:
    """Observes what each network does on samples of the test split.

    Args:
        report: The report of these networks.
        networks: What `compare_methods` returned beside it, of at least one method.
        dataset: The data set whose test split the samples come from.
        steps: The numbers of time-steps of the report.
        batch_size: The number of samples of one batch.

    Returns:
        The report with an analysis and the behaviour of each method, and the behaviours themselves: by name of the
        method and, for the same neurons without calibration, by `before_name`. If the connections of a network
        cannot be counted, the analysis of the report gives the reason, and there are no behaviours.
    """
    network = next(iter(networks.values()))[-1]
    analog = _analog(network)
    try:
        behaviours = _observed(networks, dataset, steps, batch_size)
    except InputError as error:
        return replace(report, analysis=NotExamined(str(error), analog)), {}
    methods = {each[-1].method.name: each[-1].method for each in networks.values()}
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
    networks: Mapping[str, Sequence[ConvertedNetwork]], dataset: Dataset, steps: Sequence[int], batch_size: int
) -> dict[str, Behaviour]:
    """The behaviours by name, those before calibrations too."""
    simulated = {each[-1].method.name: each for each in networks.values()}
    calibrated = [each for each in networks.values() if each[-1].method.calibration]
    simulated |= {before_name(each[-1].method): [*map(without_calibration, each)] for each in calibrated}
    probes = {each[-1].method.probe_steps for each in calibrated}
    return behaviours_of(simulated, dataset, steps, batch_size, probes)


def behaviours_of(
    simulated: Mapping[str, Sequence[ConvertedNetwork]],
    dataset: Dataset,
    steps: Sequence[int],
    batch_size: int,
    probe_steps: Iterable[int] = (),
    compare: bool = True,
) -> dict[str, Behaviour]:
    """Observes networks on at most EXAMINED_SAMPLES of the test split; two that do the same are observed once.

    Args:
        simulated: Converted networks of at least one method, by names of any kind: one, or one for each T in
            increasing order where the method does not serve fewer steps.
        dataset: The data set whose test split the samples come from.
        steps: The numbers of time-steps to look at.
        batch_size: The number of samples of one batch.
        probe_steps: Of calibrations, to be looked at too.
        compare: Whether to compare rates with the activations of the network, besides counting.

    Returns:
        The behaviours by these names.

    Raises:
        InputError: if the connections of a network cannot be counted.
    """
    samples = min(dataset.test.count, EXAMINED_SAMPLES)
    variables = devices.replicate(next(iter(simulated.values()))[-1].variables)
    behaviours: dict[str, Behaviour] = {}
    with progress_bar() as bar:
        for name, each in simulated.items():
            if same := next((done for done in behaviours if are_same(simulated[done], each)), None):
                behaviours[name] = behaviours[same]
                continue
            known, found = next((done.connections for done in behaviours.values()), None), {}
            for network in each:
                looked_at = _looked_at(network, steps, probe_steps)
                task = bar.add_task(f"{name:>8}", total=samples, note="spikes, operations, errors")
                found[network.steps] = observe_present(
                    network.spiking(looked_at[-1]),
                    _batches(dataset, samples, batch_size),
                    variables=variables,
                    steps=looked_at,
                    compare=compare,
                    connections=known,
                    sharding=devices.on_all(),
                    on_batch=partial(bar.advance, task),
                )
                known = found[network.steps].connections
            longest = found.pop(each[-1].steps)
            behaviours[name] = replace(longest, at_fewer=found)
    return behaviours


def _looked_at(network: ConvertedNetwork, steps: Iterable[int], probe_steps: Iterable[int]) -> list[int]:
    """At which steps: those of its own T alone where the neurons wait for all of them."""
    own = steps if network.method.serves_fewer_steps else [network.steps]
    return sorted({*own} if network.method.neuron.layerwise else {*own, *probe_steps})


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


def are_same(ones: Sequence[ConvertedNetwork], others: Sequence[ConvertedNetwork]) -> bool:
    """Returns whether conversions of one network have equal neurons, calibrations, thresholds and corrections."""
    return len(ones) == len(others) and all(map(_is_same, ones, others))


def _is_same(one: ConvertedNetwork, other: ConvertedNetwork) -> bool:
    kind = lambda method: (method.neuron, method.calibration)
    found = lambda network: (network.thresholds or {}, network.corrections or {})
    return kind(one.method) == kind(other.method) and _are_equal(found(one), found(other))


def _are_equal(one: Any, other: Any) -> bool:
    """Whether two trees hold the same arrays."""
    same_structure = operator.eq(*map(jax.tree.structure, (one, other)))
    return same_structure and all(map(np.array_equal, jax.tree.leaves(one), jax.tree.leaves(other)))


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
