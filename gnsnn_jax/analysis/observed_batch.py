"""What is counted in one batch, while it runs: traced once, with the network itself beside the spiking one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from gnsnn_jax._types import Array, Bool, Float
from gnsnn_jax.analysis import rates
from gnsnn_jax.analysis.behaviour import SUMS
from gnsnn_jax.analysis.connections import BATCH_IN_FRONT, Connections, Fan, Layer, layers_in
from gnsnn_jax.analysis.exact import sums_on_device
from gnsnn_jax.analysis.layers import WeightedOperation
from gnsnn_jax.analysis.sources import Source, picks_of, populations_of
from gnsnn_jax.conversion.to_spiking import SpikingFunction, Traced
from gnsnn_jax.engine.graph import Operation, Slot, evaluate
from gnsnn_jax.engine.simulation import Observer, evaluated_once
from gnsnn_jax.errors import InputError
from gnsnn_jax.method.activations import align

Look = Callable[[Any, Sequence[Any], Sequence[Array]], tuple[Any, Any]]  # as that of an `Observer`, of one operation


class Emitted(NamedTuple):
    """Exact sums of unit spikes and of events at each step."""

    units: list[Array]
    events: list[Array]


class OfPopulation(NamedTuple):
    """What was emitted, and what `SUMS` names, at each step."""

    emitted: Emitted
    sums: Float[Array, "T sums"]


class Found(NamedTuple):
    """In one batch, to be added to what was found in others."""

    samples: Array
    populations: dict[str, OfPopulation]
    layers: dict[str, Array]
    picks: dict[str, Emitted]


class Shown(NamedTuple):
    """Some neurons of a population in the first batch."""

    threshold: Array
    present: Bool[Array, " K"]
    activations: Float[Array, " K"]
    rates: Float[Array, "T K"]


class Examples(NamedTuple):
    """What is the same in all batches: neurons of the first one, and the most units of one step of what is picked."""

    populations: dict[str, Shown]
    most: dict[str, int]


@dataclass(frozen=True)
class Observation:
    """What is looked at in each batch of the shapes at which the connections were counted.

    Args:
        spiking: the converted network.
        connections: of it.
        steps: the numbers of time-steps after which rates are compared.
        compare: whether they are.
    """

    spiking: SpikingFunction
    connections: Connections
    steps: tuple[int, ...]
    compare: bool

    def of_batch(self, args: tuple, present: Bool[Array | np.ndarray, " B"]) -> tuple[Found, Examples]:
        """Runs one batch.

        Args:
            args: of the network.
            present: which of the samples count.
        """
        traced, present = self.spiking.traced(*args), jnp.asarray(present)
        watched = _Watched(self, traced, self._layers(traced), present)
        observer = Observer(watched.start, watched.look)
        _, seen = self.spiking.observed(observer).simulated(traced)
        seen = {key: value for each in seen for key, value in each.items()}
        found = Found(present.sum(), *({} for _ in range(3)))
        shown = Examples({}, {each.name: each.most for each in watched.picks})
        for each in watched.populations:
            found.populations[each.name], parts = seen["population", each.name]
            shown.populations[each.name] = watched.shown(each, parts[0][0], parts[1])
        found.layers.update(watched.read_once())
        found.layers.update({name: seen["layer", name] for kind, name in seen if kind == "layer"})
        found.picks.update({name: seen["pick", name] for kind, name in seen if kind == "pick"})
        return found, shown

    @property
    def wanted(self) -> Bool[np.ndarray, " steps"]:
        """By number of steps, whether rates are compared after so many."""
        return np.isin(
            np.arange(self.spiking.steps + self.spiking.longest_chunk + 1), self.steps if self.compare else ()
        )

    def _layers(self, traced: Traced) -> list[tuple[WeightedOperation, Layer]]:
        """The layers of this trace, each beside what was counted of the one of its name."""
        found = layers_in(traced, self.connections.are_data)
        if [each.name for each in found] != [layer.name for layer in self.connections.layers]:
            raise InputError(
                "the network does something else each time it is called with arguments of the same shapes; the "
                "analysis takes a function without state and without randomness of its own"
            )
        return list(zip(found, self.connections.layers, strict=True))


class _Watched:
    """The operations of one trace that are looked at, and how."""

    def __init__(
        self,
        observation: Observation,
        traced: Traced,
        layers: Sequence[tuple[WeightedOperation, Layer]],
        present: Array,
    ):
        self.observation, self.traced, self.layers, self.present = observation, traced, layers, present
        self.spiking, self.connections = observation.spiking, observation.connections
        self.values = evaluated_once(traced.network, traced.inputs)
        self.populations = populations_of(self.spiking, traced.network)
        self.picks = picks_of(self.spiking, traced.network, self.values)
        self.activations = self._of_the_network() if observation.compare else {}
        self.looks = dict(self._looks())

    def start(self, operation: Operation) -> tuple[rates.Progress | None, Any]:
        """What its rates are made of, if they are compared, and what its neuron remembers to count its spikes."""
        if not operation.is_activation:
            return None, None
        progress = rates.nothing_yet(operation.shape) if self.observation.compare else None
        return progress, self.spiking.neuron_at(operation).nothing_sent(operation.shape)

    def look(self, progress: Any, operation: Operation, inputs, outputs) -> tuple[Any, Any]:
        look = self.looks.get(operation.outputs)
        return look(progress, inputs, outputs) if look else (progress, None)

    def read_once(self) -> dict[str, Array]:
        """Of the layers that are evaluated once, the connections that are used."""
        once = [(each, layer) for each, layer in self.layers if not layer.in_time]
        return {layer.name: self._used(layer, jnp.asarray(self.values[each.read])[None]) for each, layer in once}

    def shown(self, source: Source, threshold: Array, found: Array) -> Shown:
        """Of a population with its threshold and the rates of some of its neurons at each step."""
        if not self.observation.compare:
            return Shown(threshold, jnp.zeros(0, bool), jnp.zeros(0), found)
        activation = self.activations[source.slot]
        samples, _ = rates.some(activation.shape)
        return Shown(threshold, self.present[samples], rates.taken(activation / threshold), found)

    def _of_the_network(self) -> dict[Slot, Array]:
        """The activations of the network itself, on the mean over time of inputs that vary."""
        network, trains = self.traced.network.ann, self.traced.trains
        inputs = [
            jnp.mean(x, 0).astype(x.dtype) if slot in trains else x
            for slot, x in zip(network.inputs, self.traced.inputs, strict=True)
        ]
        slots = [each.slot for each in self.populations]
        return dict(zip(slots, map(jnp.asarray, evaluate(network, inputs, slots)), strict=True))

    def _looks(self):
        """By the outputs of an operation, what is done where it has run."""
        for each in self.populations:
            yield each.operation.outputs, self._at_population(each)
        for each in self.picks:
            yield each.operation.outputs, self._at_pick(each)
        for each, layer in self.layers:
            if layer.in_time and not layer.plain:  # one that reads spikes as they are is known by these
                yield each.operation.outputs, self._at_layer(layer)

    def _at_layer(self, layer: Layer) -> Look:
        def look(progress, inputs, outputs):
            return progress, {("layer", layer.name): self._used(layer, inputs[layer.operand])}

        return look

    def _at_pick(self, source: Source) -> Look:
        fan = self.connections.picks[source.name]

        def look(progress, inputs, outputs):
            units = _whole_units(outputs[0], source.unit)
            _check_batch(source.name, units.shape[1:], (len(self.present), *fan.whole.shape))
            return progress, {("pick", source.name): _counted(units, source.most, fan, self.present)}

        return look

    def _at_population(self, source: Source) -> Look:
        neuron, fan = self.spiking.neuron_at(source.operation), self.connections.fans[source.name]
        shape = source.operation.shape
        _check_batch(source.name, shape, (len(self.present), *fan.whole.shape))

        def look(memory, inputs, outputs):
            (progress, so_far), (currents, threshold) = memory, inputs
            threshold = align(jnp.asarray(threshold, jnp.float32), shape, "threshold")
            so_far, sent = neuron.sent(so_far, outputs[0], threshold)
            sums, some = jnp.zeros((len(sent), len(SUMS))), jnp.zeros((len(sent), 0))
            if self.observation.compare:
                own = self.activations[source.slot].astype(jnp.float32) / threshold
                least, unit = rates.least_units(neuron), threshold / neuron.members
                population = rates.Population(own, unit, neuron.members, least, self.present)
                whole = neuron.sends_its_value
                net = neuron.units(outputs[0], threshold) if whole else outputs[0].astype(jnp.float32) / unit[None]
                progress, sums, some = rates.compare(progress, population, currents, net, self.observation.wanted)
            counts = OfPopulation(_counted(sent, neuron.members, fan, self.present), sums)
            thresholds = jnp.broadcast_to(threshold[None], (len(sent), *threshold.shape))
            return (progress, so_far), {("population", source.name): (counts, (thresholds, some))}

        return look

    def _used(self, layer: Layer, read: Array) -> Array:
        """Values that are not zero, of the input [T, B, ...] of a layer, times their connections."""
        _check_batch(layer.name, read.shape[1:], (len(self.present), *layer.fan_out.shape))
        return sums_on_device((read != 0).astype(jnp.int32), [layer.fan_out], 1, self.present)[0]


def _whole_units(spikes: Array, unit: Array) -> Array:
    """How many units each value is; one where the unit is not known."""
    size = jnp.broadcast_to(unit, spikes.shape[1:])[None]
    known = jnp.round(jnp.abs(spikes) / jnp.where(size == 0, 1, size))
    return jnp.where(size == 0, (spikes != 0).astype(jnp.int32), known.astype(jnp.int32))


def _counted(units: Array, members: int, fan: Fan, present: Array) -> Emitted:
    """Exact sums of unit spikes, and of neurons that emit any, each times the connections."""
    each = np.ones_like(fan.whole)
    events = sums_on_device((units > 0).astype(jnp.int32), [each, fan.whole, fan.plain], 1, present)
    of_units = events[:2] if members == 1 else sums_on_device(units, [each, fan.whole], members, present)
    return Emitted(of_units, events)


def _check_batch(name: str, shape: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    if shape != wanted:
        raise InputError(
            f"{name!r} has values of shape {shape} in a batch of {wanted[0]} samples and {wanted[1:]} for one; "
            f"{BATCH_IN_FRONT}"
        )
