"""Runs a converted network over batches and adds up what it does, one chunk of time-steps after another."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gnsnn_jax._types import Array, Bool, Float
from gnsnn_jax.analysis import rates
from gnsnn_jax.analysis.behaviour import SUMS, Behaviour, Population, Spikes
from gnsnn_jax.analysis.connections import Connections, Fan, Layer, connections_of
from gnsnn_jax.analysis.exact import sums_on_device, whole
from gnsnn_jax.conversion.converted_function import converted_function
from gnsnn_jax.conversion.sites import Site
from gnsnn_jax.conversion.to_spiking import Observer, SpikingFunction
from gnsnn_jax.engine.batches import Batches, arguments_of
from gnsnn_jax.engine.graph import Operation, evaluate
from gnsnn_jax.engine.recognise import network_of
from gnsnn_jax.engine.tracing import arrays_of, parted, trace
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

    `connections` are counted unless given, as another neuron in the same network has them. What is found gets
    the given sharding, such as that of all devices.
    """
    spiking, given = converted_function(spiking), Batches((), variables, CALL, in_front=True)
    steps = _checked_steps(steps, spiking.steps)
    spiking = replace(spiking, steps=max(steps[-1], spiking.probe_steps), ann=given.explaining(spiking.ann))
    totals = None
    for data, present in batches:
        if totals is None:
            if spiking.time_axes is None:
                trace(spiking.ann, arguments_of(data, variables), {})  # the whole batch, which errors then show
            here = jax.tree.map(_held_here, (data, variables))
            connections = connections or connections_of(spiking, *here[0], variables=here[1])
            totals = _Totals(Observation(spiking, connections, steps, compare), sharding)
        on_batch(totals.add(arguments_of(data, variables), present))
    if totals is None:
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


def _held_here(array: Any) -> Any:
    """The part of an array that this process holds, or all of it."""
    return array if getattr(array, "is_fully_addressable", True) else array.addressable_data(0)


class _Totals:
    """What was found in all batches so far."""

    def __init__(self, observation: Observation, sharding: Any):
        self.observation, self.sharding = observation, sharding
        self.compiled_for, self.observe = None, None
        self.found, self.shown = None, None

    def add(self, args: tuple, present: Any) -> int:
        """Returns how many samples there were."""
        arrays, others = parted(args, {})
        if others != self.compiled_for:
            of_batch = lambda arrays, present: self.observation.of_batch(others.around(arrays)[0], present)
            self.compiled_for, self.observe = others, jax.jit(of_batch, out_shardings=self.sharding)
        found, shown = jax.tree.map(np.asarray, self.observe(arrays, present))
        self.shown = self.shown or shown
        wide = jax.tree.map(lambda x: x.astype(np.int64 if x.dtype.kind == "i" else np.float64), found)
        self.found = wide if self.found is None else jax.tree.map(np.add, self.found, wide)
        return int(found.samples)

    def behaviour(self) -> Behaviour:
        connections = self.observation.connections
        return Behaviour(
            connections=connections,
            populations=[self._population(site) for site in connections.sites],
            layer_events={
                layer.name: whole(self.found.layers[str(layer.output)], layer.fan_out.size, 1)
                for layer in connections.layers
                if not layer.plain
            },
            samples=int(self.found.samples),
            steps=self.observation.steps,
            probe_steps=self.observation.spiking.probe_steps,
        )

    def _population(self, site: Site) -> Population:
        members, shown = self.observation.spiking.neuron.members, self.shown[site.name]
        found, neurons = self.found.populations[site.name], prod(site.shape)
        units, operations = (whole(sums, neurons, members) for sums in found.units)
        events, event_operations, plain_operations = (whole(sums, neurons, 1) for sums in found.events)
        kept = shown.present
        return Population(
            name=site.name,
            kind=site.kind,
            shape=site.shape,
            members=members,
            threshold=shown.threshold,
            samples=int(self.found.samples),
            spikes=Spikes(units, events, operations, event_operations, plain_operations),
            sums=found.sums,
            pairs={t: (shown.activations[kept], shown.rates[t - 1, kept]) for t in self.observation.compared_steps},
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
    """What is looked at in each batch."""

    def __init__(self, spiking: SpikingFunction, connections: Connections, steps: tuple[int, ...], compare: bool):
        self.spiking, self.connections, self.steps = spiking, connections, steps
        self.compared_steps = steps if compare else ()
        self.wanted = np.isin(np.arange(spiking.steps + spiking.chunk + 1), self.compared_steps)
        self.once = [layer for layer in connections.layers if not layer.in_time]
        self.read_in_time = {layer.output: layer for layer in connections.layers if layer.in_time and not layer.plain}

    def of_batch(self, args: tuple, present: Bool[Array | np.ndarray, " B"]) -> tuple[_Found, dict[str, _Shown]]:
        present = jnp.asarray(present)
        activations, sources = self._of_the_network(args)
        look = partial(self._look, activations, present)
        _, seen = self.spiking.observed(Observer(self._start, look))(*args)
        seen = {key: value for each in seen for key, value in each.items()}
        layers = {str(layer.output): seen[str(layer.output)] for layer in self.read_in_time.values()}
        for layer, source in zip(self.once, sources, strict=True):
            layers[str(layer.output)] = _connections_used(layer, source[None], present)
        populations = {site.name: seen[f"population {site.name}"] for site in self.connections.sites}
        found = _Found(present.sum(), {name: counts for name, (counts, _) in populations.items()}, layers)
        return found, {name: self._shown(present, activations[name], shown) for name, (_, shown) in populations.items()}

    def _of_the_network(self, args: tuple) -> tuple[dict[str, Array], list[Array]]:
        """By population the activations of the network itself, and the inputs of the layers evaluated once."""
        network = network_of(trace(self.spiking.ann, args, {})[0])
        made = {operation.activation.name: operation.outputs[0] for operation in network.activations}
        names = [site.name for site in self.connections.sites]
        wanted = [*(made[name] for name in names), *(layer.source for layer in self.once)]
        values = list(map(jnp.asarray, evaluate(network, arrays_of(args, {}), wanted)))
        return dict(zip(names, values, strict=False)), values[len(names) :]

    def _start(self, operation: Operation) -> rates.Progress | None:
        return rates.nothing_yet(operation.shape) if operation.is_activation and self.compared_steps else None

    def _look(
        self, activations: dict[str, Array], present: Array, progress, operation: Operation, inputs, outputs
    ) -> tuple[Any, Any]:
        if operation.is_activation:
            name = operation.activation.name
            progress, seen = self._look_at_population(name, activations[name], present, progress, *inputs, outputs[0])
            return progress, {f"population {name}": seen}
        layer = self.read_in_time.get(operation.outputs[0])
        read = layer and {str(layer.output): _connections_used(layer, inputs[layer.operand], present)}
        return progress, read

    def _look_at_population(self, name: str, activation: Array, present: Array, progress, currents, threshold, spikes):
        """What the progress becomes; and counts and `_Shown`, with the threshold at each step."""
        members, fan = self.spiking.neuron.members, self.connections.fans[name]
        _check_batch(name, activation.shape, (len(present), *fan.whole.shape))
        threshold = align(jnp.asarray(threshold, jnp.float32), activation.shape, "threshold")
        units = jnp.round(spikes.astype(jnp.float32) * (members / threshold)[None]).astype(jnp.int32)
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
            f"{name!r} has values of shape {shape} in a batch of {wanted[0]} samples and {wanted[1:]} for one; the "
            "analysis takes networks in which the first axis is the batch everywhere"
        )
