"""Runs a converted network over batches and adds up what it does, one chunk of time-steps after another."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import zip_longest
from math import prod
from typing import Any

import jax
import numpy as np

from gnsnn_jax.analysis.behaviour import Behaviour, Picked, Population, Spikes
from gnsnn_jax.analysis.connections import Connections, Fan, batch_axes, connections_of, shapes_of
from gnsnn_jax.analysis.exact import whole
from gnsnn_jax.analysis.observed_batch import Emitted, Observation
from gnsnn_jax.conversion.converted_function import converted_function
from gnsnn_jax.conversion.sites import Site
from gnsnn_jax.conversion.to_spiking import SpikingFunction
from gnsnn_jax.engine.batches import Batches, arguments_of
from gnsnn_jax.engine.tracing import Others, arrays_of, parted
from gnsnn_jax.errors import InputError, at_least_one

CALL = "observe(snn, {})"


def observe(
    spiking: Callable,
    batches: Iterable[Any],
    *,
    variables: Any = None,
    steps: Sequence[int] | None = None,
    compare: bool = True,
) -> Behaviour:
    """Runs a converted network over batches and counts spikes, operations and errors.

    Memory grows neither with the steps nor with the number of batches.

    Args:
        spiking: what `to_spiking` returned, under `jax.jit` or not. The first axis of each argument and of each
            activation is the batch; inputs with a time axis have it as their first other axis, and rates are then
            compared with the activations of the network on the mean of these inputs over time.
        batches: each holds the arguments of the network after `variables`, one array or a tuple of several. Arrays
            are those of JAX and NumPy, tensors of other frameworks, numbers and nested lists of them; trees of arrays
            are arguments too (`engine.batches.as_batch`). Leave labels out, `(x for x, _ in loader)`, and put one
            batch x into a list, [x].
        variables: the first argument of the network, the same for all batches.
        steps: the numbers of time-steps to look at; 1, 2, 4, ... up to those of `spiking` by default.
        compare: whether to compare rates with the activations of the network itself, besides counting.

    Returns:
        A `Behaviour`, which `operations` and `neurobench` take.

    Raises:
        InputError: without a batch, for an empty one, for what is no batch or none that the network takes, and as
            `connections_of` does.
        TypeError: where `spiking` is not a converted network.
    """
    converted, given = converted_function(spiking), Batches(batches, variables, CALL).arguments()
    pairs = ((_behind(variables, args), np.ones(_samples(converted, variables, args), bool)) for args in given)
    return observe_present(spiking, pairs, variables=variables, steps=steps, compare=compare)


def observe_present(
    spiking: Callable,
    batches: Iterable[tuple[tuple, Any]],
    *,
    variables: Any = None,
    steps: Sequence[int] | None = None,
    compare: bool = True,
    connections: Connections | None = None,
    sharding: Any = None,
    on_batch: Callable[[int], None] = lambda samples: None,
) -> Behaviour:
    """`observe` for batches with samples that are none: pairs of arguments and whether each sample is one.

    `connections` may be those of another neuron in the same network, which are not counted again at the same
    shapes. What is found gets the given sharding, such as that of all devices.
    """
    spiking, given = converted_function(spiking), Batches((), variables, CALL, in_front=True)
    steps = _checked_steps(steps, spiking)
    computed = spiking.steps if has_time(spiking) else max(steps[-1], spiking.probe_steps)
    spiking = replace(spiking, steps=computed, ann=given.explaining(spiking.ann))
    totals = _Totals(Counted(spiking, connections), steps, compare, sharding)
    for data, present in batches:
        on_batch(totals.add(data, variables, present))
    if not totals.counted.of_first:
        raise InputError("observe needs at least one batch of data, got none")
    return totals.behaviour()


def _behind(variables: Any, args: tuple) -> tuple:
    """The arguments behind the variables."""
    return args if variables is None else args[1:]


def _samples(spiking: SpikingFunction, variables: Any, args: tuple) -> int:
    arrays, fixed = arrays_of(args, {}), len(arrays_of((variables,), {}))
    axes = batch_axes(spiking, args, [position >= fixed for position in range(len(arrays))])
    sizes = [array.shape[axis] for array, axis in zip(arrays, axes, strict=True) if axis is not None]
    if not sizes:
        raise InputError("observe takes arguments whose first axis is the batch, got numbers alone; give arrays")
    return sizes[0]


def has_time(spiking: SpikingFunction) -> bool:
    """Whether some of its inputs have a time axis."""
    return bool(jax.tree.leaves(spiking.time_axes))


def _checked_steps(steps: Sequence[int] | None, spiking: SpikingFunction) -> tuple[int, ...]:
    longest = spiking.steps
    if steps is None:
        steps = [longest, *(2**power for power in range(longest.bit_length()) if 2**power < longest)]
    if not steps:
        raise InputError("steps must name at least one number of time-steps, got none")
    found = tuple(sorted({at_least_one("steps", step) for step in steps}))
    if has_time(spiking) and found[-1] > longest:
        raise InputError(f"steps names {found[-1]} time-steps, but the inputs have {longest}; name at most as many")
    return found


def _held_here(leaf: Any) -> Any:
    """An array of the same shape, made of the part that this process holds where it does not hold all of it."""
    if getattr(leaf, "is_fully_addressable", True):
        return leaf
    return np.resize(np.asarray(leaf.addressable_data(0)), leaf.shape)


class Counted:
    """The connections of a network, counted anew for each shape of a batch, since its trace is another one."""

    def __init__(self, spiking: SpikingFunction, known: Connections | None = None):
        self.spiking = spiking
        self.of_first: Connections | None = None
        self.known = {} if known is None else {known.counted_at: known}

    def at(self, data: tuple, variables: Any) -> Connections:
        """Raises InputError where the layers are others than those of the first batch."""
        shapes = shapes_of(arrays_of(arguments_of(data, variables), {}))
        if shapes not in self.known:
            data, variables = jax.tree.map(_held_here, (data, variables))
            self.known[shapes] = connections_of(self.spiking, *data, variables=variables)
        self.of_first = self.of_first or self.known[shapes]
        _check_same_layers(self.of_first, self.known[shapes])
        return self.known[shapes]


def _check_same_layers(first: Connections, other: Connections) -> None:
    for one, two in zip_longest(_summary(first), _summary(other)):
        if one != two:
            shapes = [[shape for shape, _ in each.counted_at] for each in (first, other)]
            raise InputError(
                f"the network has other layers for arguments of shapes {shapes[1]} than for {shapes[0]}: "
                f"{two or 'none'} in place of {one or 'none'}; give batches of one size"
            )


def _summary(connections: Connections) -> list[str]:
    """What must be the same in each batch, in words."""
    kind = lambda layer: f"in_time={layer.in_time}, spiking={layer.spiking}, plain={layer.plain}"
    populations = [f"the population {site.name!r} of shape {site.shape}" for site in connections.sites]
    layers = [
        f"the layer {layer.name!r} of {layer.connections} connections from {layer.fan_out.shape}, {kind(layer)}"
        for layer in connections.layers
    ]
    return [*populations, *layers, f"{connections.shortcuts} connections past all weights"]


class _Totals:
    """What was found in all batches so far."""

    def __init__(self, counted: Counted, steps: tuple[int, ...], compare: bool, sharding: Any):
        self.counted, self.steps, self.compare, self.sharding = counted, steps, compare, sharding
        self.compiled: list[tuple[Any, Callable]] = []  # by shapes and what the arguments hold besides arrays
        self.found: Any = None  # `Found` of all batches, on the host
        self.shown: Any = None  # `Examples` of the first batch, on the host

    def add(self, data: tuple, variables: Any, present: Any) -> int:
        """Returns how many samples there were."""
        connections = self.counted.at(data, variables)
        arrays, others = parted(arguments_of(data, variables), {})
        found, shown = jax.tree.map(np.asarray, self._observe(connections, others)(arrays, present))
        self.shown = self.shown or shown
        wide = jax.tree.map(lambda x: x.astype(np.int64 if x.dtype.kind == "i" else np.float64), found)
        self.found = wide if self.found is None else jax.tree.map(np.add, self.found, wide)
        return int(found.samples)

    def _observe(self, connections: Connections, others: Others) -> Callable:
        """Compiled once for each shape."""
        key = connections.counted_at, others
        for known, observe in self.compiled:
            if known == key:
                return observe
        observation = Observation(self.counted.spiking, connections, self.steps, self.compare)
        of_batch = lambda arrays, present: observation.of_batch(others.around(arrays)[0], present)
        self.compiled.append((key, jax.jit(of_batch, out_shardings=self.sharding)))
        return self.compiled[-1][1]

    def behaviour(self) -> Behaviour:
        connections, spiking = self.counted.of_first, self.counted.spiking
        return Behaviour(
            connections=connections,
            populations=[self._population(site) for site in connections.sites],
            layer_events={
                layer.name: whole(self.found.layers[layer.name], layer.fan_out.size, 1)
                for layer in connections.layers
                if not layer.plain
            },
            samples=int(self.found.samples),
            steps=self.steps,
            probe_steps=spiking.probe_steps,
            picks=tuple(self._picked(name, fan) for name, fan in connections.picks.items()),
        )

    def _picked(self, name: str, fan: Fan) -> Picked:
        found, most = self.found.picks[name], int(self.shown.most[name])
        return Picked(name, most, _spikes(found, fan.whole.size, most))

    def _population(self, site: Site) -> Population:
        neuron, shown = self.counted.spiking.neuron_of(site), self.shown.populations[site.name]
        members, found = neuron.members, self.found.populations[site.name]
        kept, compared_steps = shown.present, self.steps if self.compare else ()
        return Population(
            name=site.name,
            kind=site.kind,
            shape=site.shape,
            members=members,
            threshold=shown.threshold,
            samples=int(self.found.samples),
            spikes=_spikes(found.emitted, prod(site.shape), members),
            sums=found.sums,
            pairs={t: (shown.activations[kept], shown.rates[t - 1, kept]) for t in compared_steps},
            signed=neuron.signed,
        )


def _spikes(found: Emitted, neurons: int, members: int) -> Spikes:
    summed = lambda sums, most: whole(np.asarray(sums), neurons, most)
    units, operations = (summed(sums, members) for sums in found.units)
    events, event_operations, plain_operations = (summed(sums, 1) for sums in found.events)
    return Spikes(units, events, operations, event_operations, plain_operations)
