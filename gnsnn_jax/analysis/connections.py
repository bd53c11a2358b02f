"""Where the spikes of a network go: the connections of each neuron, counted one by one in the traced program.

A connection is one weight that is not zero between one input and one output of an operation with weights; a
convolution has none to its padding. Weights are made of the arguments of the network or of arrays that it closes
over. A product with anything else, such as the matrix of a resize or the kernel that cuts out patches, is a fixed
map. What stands between spikes and weights, such as average pooling, norms, reshapes and fixed maps, is seen as
part of the weights: a spike has a connection to each output of the layer that it changes,

    fan(i) = #{j : dy_j/ds_i is structurally not zero},

with one in place of each coefficient that is not zero. Factors that are made of the data are never zero here. Where
each neuron reaches at most one value that the layer reads, these are the paths from the neuron to the outputs.
Elsewhere, as behind overlapping pooling, each neuron is followed by itself; where that would take more than
`fans.BUDGET` multiply-accumulates, paths are counted instead, of which two may end in one output. Where spikes reach
a population or an output of the network past all weights, as by the shortcut of a residual block, each has one
connection to each value there that it changes; so it has to each sum of spikes that an operation takes the mean of.
What runs on these means is no connection: `mean_operations` counts it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gnsnn_jax._types import Array, Int
from gnsnn_jax.analysis.coefficients import Coefficients
from gnsnn_jax.analysis.fans import Fans, Read, whole_numbers
from gnsnn_jax.analysis.layers import WeightedOperation, given_of, layers_of
from gnsnn_jax.analysis.mean_operations import MeanOperations, mean_operations, summed_slots
from gnsnn_jax.analysis.sources import Kinds, Source, kinds_of, picks_of, populations_of
from gnsnn_jax.conversion.converted_function import converted_function
from gnsnn_jax.conversion.sites import Site, site_of
from gnsnn_jax.conversion.to_spiking import SpikingFunction, Traced
from gnsnn_jax.engine.graph import Slot
from gnsnn_jax.engine.jaxprs import type_of
from gnsnn_jax.engine.simulation import evaluated_once
from gnsnn_jax.engine.tracing import arrays_of, parted
from gnsnn_jax.errors import InputError

BATCH_IN_FRONT = "the analysis takes networks in which the first axis is the batch everywhere"


class Layer(NamedTuple):
    """An operation with weights.

    name       path of its module where the framework leaves one, else file and line; unique
    operand    which of its inputs is the data
    fan_out    connections of each input of one sample
    weights    how many it has, zeros included
    zeros      how many of these are zero
    in_time    whether it is evaluated at each time-step, not once
    spiking    whether all that reaches it are spikes, added or averaged perhaps
    plain      whether it reads spikes as they are, each value from one neuron
    """

    name: str
    operand: int
    fan_out: Int[np.ndarray, "..."]
    weights: int
    zeros: int
    in_time: bool
    spiking: bool
    plain: bool

    @property
    def connections(self) -> int:
        return int(self.fan_out.sum())


class Fan(NamedTuple):
    """Connections of each neuron of a population: all, and those to layers that read its spikes as they are."""

    whole: Int[np.ndarray, "..."]
    plain: Int[np.ndarray, "..."]


@dataclass
class Connections:
    """Where the spikes of a network go, for one sample.

    layers       in the order of evaluation
    sites        the activations that became populations, without the axis of the batch
    fans         by population, the connections of its neurons
    picks        by operation that picks spikes, as max-pooling does, the connections of its outputs
    shortcuts    connections past all weights to populations and outputs
    on_means     what runs on means and sums of spikes, at each step
    bytes        of all parameters and other fixed arrays
    counted_at   shapes and types of the arguments
    fixed        how many of these are parameters, which come first
    """

    layers: list[Layer] = field(default_factory=list)
    sites: list[Site] = field(default_factory=list)
    fans: dict[str, Fan] = field(default_factory=dict)
    picks: dict[str, Fan] = field(default_factory=dict)
    shortcuts: int = 0
    on_means: MeanOperations = field(default=MeanOperations())
    bytes: int = 0
    counted_at: tuple[tuple[tuple[int, ...], Any], ...] = ()
    fixed: int = 0

    @property
    def are_data(self) -> list[bool]:
        """Of each array among the arguments, whether it is no parameter."""
        return [position >= self.fixed for position in range(len(self.counted_at))]

    @property
    def dense(self) -> int:
        """Multiply-accumulates of the network itself for one sample."""
        return sum(layer.connections for layer in self.layers) + self.on_means.products

    @property
    def once(self) -> int:
        """Those of the layers that no spike reaches, which are evaluated once."""
        return sum(layer.connections for layer in self.layers if not layer.in_time)

    @property
    def each_step(self) -> int:
        """Those of layers that read no spikes and yet vary in time, and of products of two spike trains."""
        analog = (layer.connections for layer in self.layers if layer.in_time and not layer.spiking)
        return sum(analog) + self.on_means.products


def connections_of(spiking: Callable, *data: Any, variables: Any = None) -> Connections:
    """Counts the connections of a converted network, as `to_spiking` returns it, under `jax.jit` or not.

    `data` are arguments of the network, after `variables` where these are given; the first axis of each array
    is the batch, or the first one beside the time axis. Raises InputError where spikes or data reach weights inside
    of a loop or of a function with a gradient of its own, and where the first axis is not the batch everywhere;
    TypeError where `spiking` is no converted network.
    """
    spiking, args = converted_function(spiking), data if variables is None else (variables, *data)
    found = Connections(counted_at=shapes_of(arrays_of(args, {})), fixed=len(arrays_of((variables,), {})))
    counting = _Counting(spiking, spiking.traced(*args), found.are_data)
    _check_batch_axis(spiking, args, counting)
    return replace(found, **counting.counted())


def shapes_of(arrays: Sequence[Any]) -> tuple[tuple[tuple[int, ...], Any], ...]:
    return tuple((tuple(array.shape), array.dtype) for array in arrays)


def layers_in(traced: Traced, is_data: Sequence[bool]) -> list[WeightedOperation]:
    """The layers of one trace, by names that are the same in every trace of the same code."""
    return layers_of(traced.network, given_of(traced.network, is_data))


class _Counting:
    """Counts the connections of one trace."""

    def __init__(self, spiking: SpikingFunction, traced: Traced, is_data: Sequence[bool]):
        self.network, self.is_data = traced.network, is_data
        self.values = evaluated_once(traced.network, traced.inputs)
        self.layers = layers_in(traced, is_data)
        self.coefficients = Coefficients(self.network, self.values, given_of(self.network, is_data))
        self.populations = populations_of(spiking, self.network)
        self.picks = picks_of(spiking, self.network, self.values)
        sources, by_outputs = [*self.populations, *self.picks], {each.operation.outputs: each for each in self.layers}
        self.kinds: Kinds = kinds_of(self.coefficients, sources, by_outputs.keys())
        self.fans = Fans(self.coefficients, sources, by_outputs)
        self.whole: dict[Slot, Any] = defaultdict(int)
        self.plain: dict[Slot, Any] = defaultdict(int)

    def counted(self) -> dict[str, Any]:
        """The fields of `Connections`."""
        layers = [self._layer(each) for each in self.layers]
        for slot in summed_slots(self.network):
            self._add(self.fans.of(Read(slot)))
        shortcuts = sum(self._add(self.fans.of(Read(slot))) for slot in self._ends())
        return {
            "layers": layers,
            "sites": [_of_one_sample(site_of(each)) for each in self.network.populations],
            "fans": {each.name: self._fan(each) for each in self.populations},
            "picks": {each.name: self._fan(each) for each in self.picks},
            "shortcuts": shortcuts,
            "on_means": mean_operations(self.network, {each.operation.outputs for each in self.layers}),
            "bytes": sum(value.nbytes for value in self._fixed_arrays()),
        }

    def _layer(self, each: WeightedOperation) -> Layer:
        """What is known of a layer; its connections are added to those of the neurons that it reads."""
        ones = [jnp.ones(each.operation.shape, jnp.float32)]
        fan_out = self.coefficients.transposed(each.operation, each.operand, ones)
        is_spiking, is_plain = (each.read in slots for slots in self.kinds)
        if is_spiking:
            self._add(self.fans.of(Read(each.read, each.operation, fan_out)), is_plain)
        weights = self.values[each.weights]
        return Layer(
            name=each.name,
            operand=each.operand,
            fan_out=whole_numbers(fan_out),
            weights=int(np.size(weights)),
            zeros=int(np.sum(np.asarray(weights) == 0)),
            in_time=each.read in self.network.varying,
            spiking=is_spiking,
            plain=is_plain,
        )

    def _add(self, fans: Mapping[Slot, np.ndarray], is_plain: bool = False) -> int:
        """Returns how many connections these are."""
        for slot, fan in fans.items():
            self.whole[slot] = self.whole[slot] + fan
            if is_plain:
                self.plain[slot] = self.plain[slot] + fan
        return sum(int(fan.sum()) for fan in fans.values())

    def _ends(self) -> Iterator[Slot]:
        """The increments that populations and outputs read past all weights."""
        yield from (each.inputs[0] for each in self.network.populations)
        yield from (slot for slot in self.network.outputs if slot in self.network.varying)

    def _fan(self, source: Source) -> Fan:
        nothing = np.zeros(source.operation.shape[1:], np.int64)
        return Fan(nothing + self.whole[source.slot], nothing + self.plain[source.slot])

    def _fixed_arrays(self) -> Iterator[Any]:
        inputs = zip(self.network.inputs, self.is_data, strict=True)
        yield from (self.values[slot] for slot, is_data in inputs if not is_data)
        yield from (value for value in self.network.constants.values() if np.ndim(value))


def _of_one_sample(site: Site) -> Site:
    return site._replace(shape=site.shape[1:])


# The batch.


def _check_batch_axis(spiking: SpikingFunction, args: tuple, counting: _Counting) -> None:
    """Raises InputError where another axis of a population or a layer grows with the batch.

    Only where an axis has the size of the batch by chance does that take another trace, with one sample more.
    """
    shapes, is_data = _shapes(counting.network, counting.layers), counting.is_data
    sizes = _batch_sizes(spiking, args, is_data)
    if len(sizes) != 1 or not any(sizes.issubset(shape[1:]) for shape in shapes.values()):
        return
    traced = spiking.traced(*_with_one_more(spiking, args, is_data))
    grown = _shapes(traced.network, layers_in(traced, is_data))
    (samples,) = sizes
    if grown != {name: (samples + 1, *shape[1:]) for name, shape in shapes.items()}:
        raise InputError(BATCH_IN_FRONT)


def _shapes(network: Any, layers: Sequence[WeightedOperation]) -> dict[tuple[str, str], tuple[int, ...]]:
    """Of the currents of each population and of what each layer reads, by name."""
    populations = {("population", each.activation.name): each.shape for each in network.populations}
    read = {("layer", each.name): type_of(each.operation.eqn.invars[each.operand]).shape for each in layers}
    return populations | read


def batch_axes(spiking: SpikingFunction, args: tuple, is_data: Sequence[bool]) -> list[int | None]:
    """Of each array the axis of the batch, None for one without."""
    axes = zip(arrays_of(args, {}), spiking.time_axes_of(*args), is_data, strict=True)
    found = [(int(time is not None and time % array.ndim == 0), array.ndim, data) for array, time, data in axes]
    return [axis if data and axis < dimensions else None for axis, dimensions, data in found]


def _batch_sizes(spiking: SpikingFunction, args: tuple, is_data: Sequence[bool]) -> set[int]:
    pairs = zip(arrays_of(args, {}), batch_axes(spiking, args, is_data), strict=True)
    return {array.shape[axis] for array, axis in pairs if axis is not None}


def _with_one_more(spiking: SpikingFunction, args: tuple, is_data: Sequence[bool]) -> tuple:
    """The arguments with the shapes of one sample more in place of arrays."""
    arrays, others = parted(args, {})
    pairs = zip(arrays, batch_axes(spiking, args, is_data), strict=True)
    return others.around([_grown(array, axis) for array, axis in pairs])[0]


def _grown(array: Array, axis: int | None) -> Any:
    if axis is None:
        return array
    shape = [size + (at == axis) for at, size in enumerate(array.shape)]
    return jax.ShapeDtypeStruct(tuple(shape), array.dtype)
