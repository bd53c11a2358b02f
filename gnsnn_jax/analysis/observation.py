"""Runs a converted network over batches and adds up what it does, one chunk of time-steps after another."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from itertools import zip_longest
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gnsnn_jax._types import Array, Bool, Float
from gnsnn_jax.analysis import rates
from gnsnn_jax.analysis.behaviour import SUMS, Behaviour, Population, Spikes
from gnsnn_jax.analysis.connections import (
    BATCH_IN_FRONT,
    Connections,
    Fan,
    Layer,
    connections_of,
    layers_at,
    program_of,
    shapes_of,
)
from gnsnn_jax.analysis.exact import sums_on_device, whole
from gnsnn_jax.conversion.converted_function import converted_function
from gnsnn_jax.conversion.sites import Site
from gnsnn_jax.conversion.to_spiking import SpikingFunction
from gnsnn_jax.engine.batches import Batches, arguments_of
from gnsnn_jax.engine.graph import Network, Operation, evaluate
from gnsnn_jax.engine.recognise import network_of
from gnsnn_jax.engine.simulation import Observer
from gnsnn_jax.engine.tracing import Others, arrays_of, parted, trace
from gnsnn_jax.errors import InputError, at_least_one
from gnsnn_jax.method.activations import align

CALL = "observe(snn, {})"


def observe(
    spiking: Callable,
    batches: Iterable[Any],
    *,
    variables: Any = None,
    steps: Sequence[int] | None = None,
    compare: bool = True,
) -> Behaviour:
    """Runs a converted network, as `to_spiking` returns it, under `jax.jit` or not, and counts.

    Each batch holds the arguments of the network, one array or a tuple of several, after `variables` where
    these are given; their first axis is the batch, as that of every activation is. Arrays are those of JAX and
    NumPy, tensors of other frameworks, numbers and nested lists of them; trees of arrays are arguments too
    (`engine.batches.as_batch`). Labels are left out, `(x for x, _ in loader)`, and one batch x stands in a list, [x].
    `steps` are the numbers of
    time-steps that shall be looked at, 1, 2, 4, … up to those of `spiking` unless told; without `compare` spikes
    and operations are counted, and rates not compared with the activations of the network itself. Memory grows
    neither with the steps nor with the number of batches. Raises InputError where there is no batch or an empty
    one, for what is no batch or none that the network takes, for inputs with a time axis, and as `connections_of`
    does; TypeError where `spiking` is no converted network.
    """
    given = Batches(batches, variables, CALL).arguments()
    pairs = ((args, np.ones(_samples(args), bool)) for args in map(partial(_behind, variables), given))
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
    steps = _checked_steps(steps, spiking.steps)
    spiking = replace(spiking, steps=max(steps[-1], spiking.probe_steps), ann=given.explaining(spiking.ann))
    totals = _Totals(Counted(spiking, connections), steps, compare, sharding)
    for data, present in batches:
        on_batch(totals.add(data, variables, present))
    if not totals.counted.of_first:
        raise InputError("observe needs at least one batch of data, got none")
    return totals.behaviour()


def _behind(variables: Any, args: tuple) -> tuple:
    """The arguments behind the variables."""
    return args if variables is None else args[1:]


def _samples(args: tuple) -> int:
    sizes = [len(array) for array in arrays_of(args, {}) if array.ndim]
    if not sizes:
        raise InputError("observe takes arguments whose first axis is the batch, got numbers alone; give arrays")
    return sizes[0]


def _checked_steps(steps: Sequence[int] | None, longest: int) -> tuple[int, ...]:
    if steps is None:
        steps = [longest, *(2**power for power in range(longest.bit_length()) if 2**power < longest)]
    if not steps:
        raise InputError("steps must name at least one number of time-steps, got none")
    return tuple(sorted({at_least_one("steps", step) for step in steps}))


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
        self.found: Any = None  # `_Found` of all batches, on the host
        self.shown: Any = None  # `_Shown` of the first batch by population, on the host

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
        )

    def _population(self, site: Site) -> Population:
        members, shown = self.counted.spiking.neuron_of(site).members, self.shown[site.name]
        found, neurons = self.found.populations[site.name], prod(site.shape)
        units, operations = (whole(sums, neurons, members) for sums in found.units)
        events, event_operations, plain_operations = (whole(sums, neurons, 1) for sums in found.events)
        kept, compared_steps = shown.present, self.steps if self.compare else ()
        return Population(
            name=site.name,
            kind=site.kind,
            shape=site.shape,
            members=members,
            threshold=shown.threshold,
            samples=int(self.found.samples),
            spikes=Spikes(units, events, operations, event_operations, plain_operations),
            sums=found.sums,
            pairs={t: (shown.activations[kept], shown.rates[t - 1, kept]) for t in compared_steps},
        )


class _Found(NamedTuple):
    """In one batch, to be added to what was found in others."""

    samples: Array
    populations: dict[str, _OfPopulation]
    layers: dict[str, Array]


class _OfPopulation(NamedTuple):
    """Exact sums of unit spikes and of events, and what `SUMS` names, at each step."""

    units: list[Array]
    events: list[Array]
    sums: Float[Array, "T sums"]


class _Shown(NamedTuple):
    """Some neurons of a population in the first batch."""

    threshold: Array
    present: Bool[Array, " K"]
    activations: Float[Array, " K"]
    rates: Float[Array, "T K"]


class Observation:
    """What is looked at in each batch of the shapes at which the connections were counted."""

    def __init__(self, spiking: SpikingFunction, connections: Connections, steps: tuple[int, ...], compare: bool):
        self.spiking, self.connections, self.steps = spiking, connections, steps
        self.compared_steps = steps if compare else ()
        self.wanted = np.isin(np.arange(spiking.steps + spiking.chunk + 1), self.compared_steps)
        self.layers = {layer.name: layer for layer in connections.layers}
        self.sites = {site.name: site for site in connections.sites}

    def of_batch(self, args: tuple, present: Bool[Array | np.ndarray, " B"]) -> tuple[_Found, dict[str, _Shown]]:
        present = jnp.asarray(present)
        activations = self._of_the_network(args)
        started: dict[tuple[int, ...], Operation] = {}
        look = partial(self._look, activations, present, started)
        _, seen = self.spiking.observed(Observer(partial(self._start, started), look))(*args)
        seen = {key: value for each in seen for key, value in each.items()}
        layers = {name: seen[f"layer {name}"] for name in self.connections.places.in_time if self._is_read(name)}
        for name, read in self._read_once(args):
            layers[name] = _connections_used(self.layers[name], read[None], present)
        populations = {site.name: seen[f"population {site.name}"] for site in self.connections.sites}
        found = _Found(present.sum(), {name: counts for name, (counts, _) in populations.items()}, layers)
        return found, {name: self._shown(present, activations[name], shown) for name, (_, shown) in populations.items()}

    def _is_read(self, name: str | None) -> bool:
        """Whether a layer is looked at: one that reads spikes as they are is known by these."""
        return name is not None and not self.layers[name].plain

    def _of_the_network(self, args: tuple) -> dict[str, Array]:
        """By population the activations of the network itself."""
        network = network_of(trace(self.spiking.ann, args, {})[0], self.spiking.encoders)
        made = {operation.activation.name: operation.outputs[0] for operation in network.activations}
        names = [site.name for site in self.connections.sites]
        values = map(jnp.asarray, evaluate(network, arrays_of(args, {}), [made[name] for name in names]))
        return dict(zip(names, values, strict=True))

    def _read_once(self, args: tuple) -> list[tuple[str, Array]]:
        """The inputs of the layers that are evaluated once."""
        program = program_of(self.spiking, args)
        layers = layers_at(program.static, self.connections.places.once)
        static = Network(program.inputs, (), program.constants, program.static)
        read = [operation.inputs[self.layers[name].operand] for name, operation in layers]
        values = map(jnp.asarray, evaluate(static, arrays_of(args, {}), read))
        return list(zip([name for name, _ in layers], values, strict=True))

    def _start(self, started: dict[tuple[int, ...], Operation], operation: Operation) -> rates.Progress | None:
        """Operations start in their order, which tells the layers among them."""
        started[operation.outputs] = operation
        return rates.nothing_yet(operation.shape) if operation.is_activation and self.compared_steps else None

    def _look(
        self,
        activations: dict[str, Array],
        present: Array,
        started: dict[tuple[int, ...], Operation],
        progress,
        operation: Operation,
        inputs,
        outputs,
    ) -> tuple[Any, Any]:
        if operation.is_activation:
            name = operation.activation.name
            currents, threshold = inputs
            found = progress, currents, threshold, outputs[0]
            progress, seen = self._look_at_population(name, activations[name], present, *found)
            return progress, {f"population {name}": seen}
        names = {
            each.outputs: name for name, each in layers_at(list(started.values()), self.connections.places.in_time)
        }
        name = names.get(operation.outputs)
        if not self._is_read(name):
            return progress, None
        layer = self.layers[name]
        return progress, {f"layer {name}": _connections_used(layer, inputs[layer.operand], present)}

    def _look_at_population(self, name: str, activation: Array, present: Array, progress, currents, threshold, spikes):
        """What the progress becomes; and counts and `_Shown`, with the threshold at each step."""
        members, fan = self.spiking.neuron_of(self.sites[name]).members, self.connections.fans[name]
        _check_batch(name, activation.shape, (len(present), *fan.whole.shape))
        threshold = align(jnp.asarray(threshold, jnp.float32), activation.shape, "threshold")
        units = self.spiking.neuron_of(self.sites[name]).count(spikes, threshold)
        sums, shown = jnp.zeros((len(units), len(SUMS))), jnp.zeros((len(units), 0))
        if self.compared_steps:
            own = activation.astype(jnp.float32) / threshold
            population = rates.Population(own, threshold / members, members, present)
            progress, sums, shown = rates.compare(progress, population, currents, units, self.wanted)
        thresholds = jnp.broadcast_to(threshold[None], (len(units), *threshold.shape))
        return progress, (_OfPopulation(*_counted(units, members, fan, present), sums), (thresholds, shown))

    def _shown(self, present: Array, activation: Array, shown: tuple[Array, Array]) -> _Shown:
        thresholds, found = shown
        if not self.compared_steps:  # so that the network itself is not evaluated
            return _Shown(thresholds[0], jnp.zeros(0, bool), jnp.zeros(0), found)
        samples, _ = rates.some(activation.shape)
        return _Shown(thresholds[0], present[samples], rates.taken(activation / thresholds[0]), found)


def _counted(units: Array, members: int, fan: Fan, present: Array) -> tuple[list[Array], list[Array]]:
    """Exact sums of unit spikes, and of neurons that emit any, each times the connections."""
    each = np.ones_like(fan.whole)
    events = sums_on_device((units > 0).astype(jnp.int32), [each, fan.whole, fan.plain], 1, present)
    return events[:2] if members == 1 else sums_on_device(units, [each, fan.whole], members, present), events


def _connections_used(layer: Layer, read: Array, present: Array) -> Array:
    """Values that are not zero, of the input [T, B, ...] of a layer, times their connections."""
    _check_batch(layer.name, read.shape[1:], (len(present), *layer.fan_out.shape))
    return sums_on_device((read != 0).astype(jnp.int32), [layer.fan_out], 1, present)[0]


def _check_batch(name: str, shape: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    if shape != wanted:
        raise InputError(
            f"{name!r} has values of shape {shape} in a batch of {wanted[0]} samples and {wanted[1:]} for one; "
            f"{BATCH_IN_FRONT}"
        )
