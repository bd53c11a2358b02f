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
`BUDGET` multiply-accumulates, paths are counted instead, of which two may end in one output. Where spikes reach a
population or an output of the network past all weights, as by the shortcut of a residual block, each has one
connection to each value there that it changes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gnsnn_jax._types import Array, Int
from gnsnn_jax.conversion.converted_function import converted_function
from gnsnn_jax.conversion.sites import Site, site_of
from gnsnn_jax.conversion.to_spiking import SpikingFunction
from gnsnn_jax.engine.batches import arguments_of
from gnsnn_jax.engine.graph import Operation, Slot, needed, reached_from
from gnsnn_jax.engine.jaxprs import CONTROL_FLOW, WEIGHTED, applies, bind, called_by, type_of
from gnsnn_jax.engine.rules import known_rule_of
from gnsnn_jax.engine.split import SpikingNetwork, split
from gnsnn_jax.engine.tracing import arrays_of, trace
from gnsnn_jax.errors import InputError

BUDGET = 2**37  # multiply-accumulates, for the neurons of one population that are followed to one layer
FOLLOWED_AT_ONCE = 2**24  # values that are held
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
    plain      whether it reads the spikes of populations as they are, each value from one neuron
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


class Places(NamedTuple):
    """By their order, which operations of a program are layers: the name of each, None for another operation.

    It holds for every trace of the network at the same shapes.
    """

    once: tuple[str | None, ...] = ()
    in_time: tuple[str | None, ...] = ()


@dataclass
class Connections:
    """Where the spikes of a network go, for one sample.

    layers       in the order of evaluation
    sites        the activations that became populations, without the axis of the batch
    fans         by population, the connections of its neurons
    shortcuts    connections past all weights
    bytes        of all parameters and other fixed arrays
    counted_at   shapes and types of the arguments
    places       where the layers are in a trace at these
    """

    layers: list[Layer] = field(default_factory=list)
    sites: list[Site] = field(default_factory=list)
    fans: dict[str, Fan] = field(default_factory=dict)
    shortcuts: int = 0
    bytes: int = 0
    counted_at: tuple[tuple[tuple[int, ...], Any], ...] = ()
    places: Places = field(default=Places(), repr=False)

    @property
    def dense(self) -> int:
        """Multiply-accumulates of the network itself for one sample."""
        return sum(layer.connections for layer in self.layers)

    @property
    def once(self) -> int:
        """Those of the layers that no spike reaches, which are evaluated once."""
        return sum(layer.connections for layer in self.layers if not layer.in_time)

    @property
    def each_step(self) -> int:
        """Those of layers that read no spikes and yet vary in time."""
        return sum(layer.connections for layer in self.layers if layer.in_time and not layer.spiking)


def connections_of(spiking: Callable, *data: Any, variables: Any = None) -> Connections:
    """Counts the connections of a converted network, as `to_spiking` returns it, under `jax.jit` or not.

    `data` are arguments of the network, after `variables` where these are given; the first axis of each array
    is the batch. Raises InputError where spikes or data reach weights inside of a loop or of a function with a
    gradient of its own, and where the first axis is not the batch everywhere; TypeError where `spiking` is no
    converted network.
    """
    spiking, args = converted_function(spiking), arguments_of(data, variables)
    arrays, fixed = arrays_of(args, {}), len(arrays_of((variables,), {}))
    is_data = [position >= fixed for position in range(len(arrays))]
    found = _Counting(program_of(spiking, args), arrays, is_data).counted()
    if len(_batch_sizes(arrays, is_data)) == 1:
        _check_batch_axis(spiking, args, is_data, found)
    return found


def shapes_of(arrays: Sequence[Any]) -> tuple[tuple[tuple[int, ...], Any], ...]:
    return tuple((tuple(array.shape), array.dtype) for array in arrays)


def program_of(spiking: SpikingFunction, args: tuple, seen: Sequence[Any] | None = None) -> SpikingNetwork:
    """The operations of a converted network, those that vary in time apart from the others."""
    if spiking.time_axes is not None:
        raise InputError("the analysis takes networks whose inputs have no time axis, got time_axes; leave it out")
    traced, _ = trace(spiking.ann, args, {}, seen)
    return split(traced, [False] * len(traced.jaxpr.invars), spiking.thresholds, spiking.encoders)


def layers_at(operations: Sequence[Operation], names: Sequence[str | None]) -> list[tuple[str, Operation]]:
    """The layers among the operations of a trace, with their names.

    Raises InputError where these are not the operations whose layers were named.
    """
    pairs = [pair for pair in zip(names, operations, strict=False) if pair[0] is not None]
    if len(names) != len(operations) or not all(is_weighted(operation) for _, operation in pairs):
        raise InputError(
            "the network does something else each time it is called with arguments of the same shapes; the analysis "
            "takes a function without state and without randomness of its own"
        )
    return pairs


def is_weighted(operation: Operation) -> bool:
    return operation.eqn.primitive.name in WEIGHTED


def _batch_sizes(arrays: Sequence[Any], is_data: Sequence[bool]) -> set[int]:
    return {array.shape[0] for array, data in zip(arrays, is_data, strict=True) if data and array.ndim}


def _check_batch_axis(spiking: SpikingFunction, args: tuple, is_data: Sequence[bool], found: Connections) -> None:
    """Raises InputError where another axis of a population or a layer grows with the batch.

    Only where an axis has the size of the batch by chance does that take another trace, with one sample more.
    """
    arrays = arrays_of(args, {})
    (samples,) = _batch_sizes(arrays, is_data)
    if not any(samples in shape for shape in _shapes_of_samples(found)):
        return
    more = lambda array: jax.ShapeDtypeStruct((samples + 1, *array.shape[1:]), array.dtype)
    seen = [more(array) if data and array.ndim else array for array, data in zip(arrays, is_data, strict=True)]
    program = program_of(spiking, args, seen)
    grown = [operation.shape for operation in program.populations]
    wanted = [(samples + 1, *site.shape) for site in found.sites]
    for layers, names in ((program.static, found.places.once), (program.dynamic, found.places.in_time)):
        by_name = {layer.name: layer for layer in found.layers}
        for name, operation in layers_at(layers, names):
            layer = by_name[name]
            grown.append(type_of(operation.eqn.invars[layer.operand]).shape)
            wanted.append((samples + 1, *layer.fan_out.shape))
    if grown != wanted:
        raise InputError(BATCH_IN_FRONT)


def _shapes_of_samples(found: Connections) -> list[tuple[int, ...]]:
    return [site.shape for site in found.sites] + [layer.fan_out.shape for layer in found.layers]


class _Layer(NamedTuple):
    """An operation with weights, and the connections of each of its inputs, those of all samples."""

    operation: Operation
    layer: Layer
    fan_out: Array

    @property
    def read(self) -> Slot:
        return self.operation.inputs[self.layer.operand]


class _Counting:
    """The sweeps through a program: forward for what reaches the layers, backward for what they cost."""

    def __init__(self, program: SpikingNetwork, arrays: Sequence[Any], is_data: Sequence[bool]):
        self.program = program
        self.values = program.constants | dict(zip(program.inputs, arrays, strict=True))
        self.given = {slot for slot, data in zip(program.inputs, is_data, strict=True) if data}
        closed_over = (slot for slot, value in program.constants.items() if np.ndim(value))
        self.weights = {*program.inputs, *closed_over}  # what weights may be made of
        self.plain: set[Slot] = set()  # spikes as they are
        self.spiking: set[Slot] = set()  # all that is linear in spikes alone, without weights
        self.layers: dict[tuple[Slot, ...], _Layer] = {}  # by outputs
        self.found = Connections(bytes=self._bytes(), counted_at=shapes_of(arrays))

    def counted(self) -> Connections:
        self._forward()
        parts: dict[str, list[Any]] = {site.activation.name: [] for site in self.program.populations}
        for each in self.layers.values():
            if each.layer.spiking:
                for name, fan in self._fans(each.read, each).items():
                    parts[name].append((fan, each.layer.plain))
        for name, fan in self._past_weights():
            parts[name].append((fan, False))
            self.found.shortcuts += int(fan.sum())
        for site in map(site_of, self.program.populations):
            site = site._replace(shape=site.shape[1:])
            nothing = np.zeros(site.shape, np.int64)
            whole = sum((fan for fan, _ in parts[site.name]), nothing)
            plain = sum((fan for fan, plain in parts[site.name] if plain), nothing)
            self.found.sites.append(site)
            self.found.fans[site.name] = Fan(whole, plain)
        names = _unique_names([each.layer.name for each in self.layers.values()])
        self.found.layers = [
            each.layer._replace(name=name) for name, each in zip(names, self.layers.values(), strict=True)
        ]
        by_outputs = dict(zip(self.layers, names, strict=True))
        self.found.places = Places(
            *(
                tuple(by_outputs.get(each.outputs) for each in part)
                for part in (self.program.static, self.program.dynamic)
            )
        )
        return self.found

    def _bytes(self) -> int:
        fixed = [self.values[slot] for slot in self.program.inputs if slot not in self.given]
        constants = [value for value in self.program.constants.values() if np.ndim(value)]
        return sum(value.nbytes for value in [*fixed, *constants])

    # Forward.

    def _forward(self) -> None:
        for operation in self.program.static:
            reached = not self.given.isdisjoint(operation.inputs)
            if reached:
                self._refuse_hidden(operation, applies(operation.eqn, WEIGHTED))
            self.values.update(zip(operation.outputs, bind(operation.eqn, *self._of(operation)), strict=True))
            if reached:
                self._add_if_layer(operation, [slot in self.given for slot in operation.inputs])
                self.given.update(operation.outputs)
            if not self.weights.isdisjoint(operation.inputs):
                self.weights.update(operation.outputs)
        for operation in self.program.dynamic:
            if operation.is_activation:
                self.plain.update(operation.outputs)
                self.spiking.update(operation.outputs)
                continue
            self._refuse_hidden(operation, True)
            arrived = self._timed(operation)
            if self._add_if_layer(operation, [slot in arrived for slot in operation.inputs]):
                continue
            if self.spiking.issuperset(arrived):
                self.spiking.update(operation.outputs)
            if self.plain.issuperset(arrived) and self._keeps_apart(operation):
                self.plain.update(operation.outputs)

    def _of(self, operation: Operation) -> list[Any]:
        return [self.values[slot] for slot in operation.inputs]

    def _timed(self, operation: Operation) -> list[Slot]:
        return [slot for slot in operation.inputs if slot in self.program.varying]

    def _keeps_apart(self, operation: Operation) -> bool:
        """Whether it adds up no two values: a fixed map too may do nothing but move them."""
        if not is_weighted(operation):
            return known_rule_of(operation.eqn).moves
        (most,) = _bind_single(operation, self._structures(operation))
        return bool(jnp.max(most) <= 1)

    def _refuse_hidden(self, operation: Operation, counts: bool) -> None:
        """Raises InputError for a loop or a call whose connections are to be counted."""
        eqn = operation.eqn
        if counts and (eqn.primitive.name in CONTROL_FLOW or called_by(eqn)):
            place = operation.origin.inside(eqn).place or "unknown place"
            raise InputError(
                f"{place}: {eqn.primitive.name}: connections inside of it cannot be counted; write its layers out, one "
                "by one, to have operations and energy in the report"
            )

    def _add_if_layer(self, operation: Operation, are_data: Sequence[bool]) -> bool:
        """Adds an operation that multiplies data by weights; returns whether it is one."""
        operand = are_data.index(True)
        if not is_weighted(operation) or operation.inputs[1 - operand] not in self.weights:
            return False
        read, weights = operation.inputs[operand], self.values.get(operation.inputs[1 - operand])
        fan_out = self._transposed(operation, operand, [jnp.ones(operation.shape, jnp.float32)])
        layer = Layer(
            name=_name(operation),
            operand=operand,
            fan_out=_whole_numbers(fan_out),
            weights=int(np.size(weights)),
            zeros=int(np.sum(np.asarray(weights) == 0)),
            in_time=read in self.program.varying,
            spiking=read in self.spiking,
            plain=read in self.plain,
        )
        self.layers[operation.outputs] = _Layer(operation, layer, fan_out)
        return True

    # Backward.

    def _fans(self, slot: Slot, layer: _Layer | None = None) -> dict[str, np.ndarray]:
        """By population, to how many outputs of a layer that reads a slot, or to how many values of the slot itself,
        each neuron leads."""
        shape = self._shape_of(slot)
        paths = self._back_from(slot, jnp.ones(shape, jnp.float32))
        counts = self._back_from(slot, layer.fan_out) if layer else paths
        cost = int(layer.fan_out.sum()) if layer else prod(shape)
        for population in self.program.populations:
            name = population.activation.name
            if name in paths and paths[name].max(initial=0) > 1:
                following = _Following(self, population, slot, layer)
                if cost // population.shape[0] * following.evaluations <= BUDGET:
                    counts[name] = following.reached()
        return counts

    def _back_from(self, start: Slot, counts: Array) -> dict[str, np.ndarray]:
        """By population, how much of the counts at a slot belongs to each of its neurons."""
        arrived, found = {start: counts}, {}
        for operation in reversed(self.program.dynamic):
            at_outputs = [arrived.pop(slot, None) for slot in operation.outputs]
            if all(at_output is None for at_output in at_outputs) or operation.outputs in self.layers:
                continue
            if operation.is_activation:
                found[operation.activation.name] = _whole_numbers(at_outputs[0])
                continue
            outs = [type_of(var) for var in operation.eqn.outvars]
            at_outputs = [
                jnp.zeros(aval.shape, jnp.float32) if at_output is None else at_output
                for at_output, aval in zip(at_outputs, outs, strict=True)
            ]
            for position, slot in enumerate(operation.inputs):
                if slot in self.program.varying:
                    part = self._transposed(operation, position, at_outputs)
                    arrived[slot] = arrived[slot] + part if slot in arrived else part
        return found

    def _past_weights(self) -> Iterable[tuple[str, np.ndarray]]:
        """By population, the connections to currents and outputs that lead past all weights."""
        for slot in [*(site.inputs[0] for site in self.program.populations), *self.program.outputs]:
            if slot in self.program.varying:
                yield from self._fans(slot).items()

    def _shape_of(self, slot: Slot) -> tuple[int, ...]:
        return next(
            type_of(var).shape
            for operation in self.program.dynamic
            for made, var in zip(operation.outputs, operation.eqn.outvars, strict=True)
            if made == slot
        )

    def _transposed(self, operation: Operation, position: int, counts: Sequence[Array]) -> Array:
        """Counts at the outputs of an operation as counts at one of its inputs, each coefficient being one."""
        values = self._structures(operation)
        put = lambda x: _bind_single(operation, [*values[:position], x, *values[position + 1 :]])
        _, transpose = jax.vjp(put, values[position])
        (found,) = transpose(list(counts))
        return jnp.abs(found)

    def _structures(self, operation: Operation) -> list[Array]:
        return [self._structure(operation, at, slot) for at, slot in enumerate(operation.inputs)]

    def _structure(self, operation: Operation, position: int, slot: Slot) -> Array:
        """An input of an operation with ones for coefficients that are not zero or made of the data."""
        shape = type_of(operation.eqn.invars[position]).shape
        if slot in self.program.varying:
            return jnp.ones(shape, jnp.float32)
        value = jnp.asarray(self.values[slot])
        if not jnp.issubdtype(value.dtype, jnp.floating) and not is_weighted(operation):
            return value
        if slot in self.given or operation.eqn.primitive.name == "div":
            return jnp.ones(shape, jnp.float32)
        return (value != 0).astype(jnp.float32)


class _Following:
    """One neuron after the other of a population, followed to a slot and through the layer that reads it.

    Samples go their own ways, so that as many neurons as there are samples are followed at once, unless the batch
    is not in front of what they reach.
    """

    def __init__(self, counting: _Counting, population: Operation, slot: Slot, layer: _Layer | None):
        self.source, self.shape = population.outputs[0], population.shape
        self.wanted = layer.operation.outputs[0] if layer else slot
        self.path = self._between(counting, slot) + ([layer.operation] if layer else [])
        # None where spikes arrive: what they multiply stays what it is.
        self.structures = [
            [None if at in counting.program.varying else value for at, value in zip(each.inputs, values, strict=True)]
            for each, values in zip(self.path, map(counting._structures, self.path), strict=True)
        ]
        self.neurons, self.lanes = prod(self.shape[1:]), self._lanes()

    @property
    def evaluations(self) -> int:
        """Of all samples and so, with one lane, of as many as there are for each neuron."""
        return -(-self.neurons // self.lanes) * self.shape[0]

    def reached(self) -> Int[np.ndarray, "..."]:
        """To how many values each neuron leads."""
        largest = max(self.neurons * self.shape[0], *(prod(each.shape) for each in self.path), 1)
        rows = -(-self.neurons // self.lanes)
        block = min(rows, max(FOLLOWED_AT_ONCE // largest, 1))
        count = jax.jit(jax.vmap(self._count, in_axes=(0, None)))
        found = [count(start + jnp.arange(block), self.structures) for start in range(0, rows, block)]
        return np.concatenate(found).reshape(-1)[: self.neurons].reshape(self.shape[1:]).astype(np.int64)

    def _between(self, counting: _Counting, slot: Slot) -> list[Operation]:
        """The operations on the way to the slot, without those behind other neurons or weights."""
        entered = [
            each for each in counting.program.dynamic if not each.is_activation and each.outputs not in counting.layers
        ]
        reached = reached_from(entered, [self.source])
        return needed([each for each in entered if each.reads(reached)], [slot])

    def _lanes(self) -> int:
        one_sample = jnp.zeros(self.shape, jnp.float32).at[0].set(1)
        arrived = self._followed(one_sample, self.structures)
        in_front = arrived.ndim and len(arrived) == self.shape[0] and not bool(arrived[1:].any())
        return self.shape[0] if in_front else 1

    def _count(self, row: Array, structures: Sequence[Any]) -> Array:
        """Of the neurons in the lanes of a row."""
        neurons = row * self.lanes + jnp.arange(self.lanes)
        spikes = jax.nn.one_hot(neurons, self.neurons, dtype=jnp.float32).reshape(self.lanes, *self.shape[1:])
        rest = [(0, self.shape[0] - self.lanes), *[(0, 0)] * (len(self.shape) - 1)]
        arrived = self._followed(jnp.pad(spikes, rest), structures)
        axes = None if self.lanes == 1 else tuple(range(1, arrived.ndim))
        return arrived.sum(axes, dtype=jnp.int32).reshape(self.lanes)

    def _followed(self, spikes: Array, structures: Sequence[Any]) -> Array:
        """Which values the spikes change."""
        marks = {self.source: spikes}
        for operation, values in zip(self.path, structures, strict=True):
            marks.update(zip(operation.outputs, _changed(operation, values, marks), strict=True))
        return marks[self.wanted] != 0


def _changed(operation: Operation, values: Sequence[Any], marks: Mapping[Slot, Array]) -> list[Array]:
    """Ones where the outputs change with what is marked of the inputs."""
    ones = [
        jnp.ones(type_of(var).shape, jnp.float32) if value is None else value
        for var, value in zip(operation.eqn.invars, values, strict=True)
    ]
    outputs = [jnp.zeros(type_of(var).shape, jnp.float32) for var in operation.eqn.outvars]
    for position, (slot, value) in enumerate(zip(operation.inputs, values, strict=True)):
        if value is None and slot in marks:
            put = lambda x, at=position: _bind_single(operation, [*ones[:at], x, *ones[at + 1 :]])
            _, parts = jax.jvp(put, (ones[position],), (marks[slot],))
            outputs = [jnp.maximum(*pair) for pair in zip(outputs, map(jnp.abs, parts), strict=True)]
    return [(output != 0).astype(jnp.float32) for output in outputs]


def _bind_single(operation: Operation, values: Sequence[Any]) -> list[Array]:
    """Applies an operation in float32, which holds counts exactly, whatever it was traced in."""
    eqn, name = operation.eqn, operation.eqn.primitive.name
    if name == "convert_element_type":
        return [values[0]]
    params = dict(eqn.params)
    if "precision" in params:
        params["precision"] = (jax.lax.Precision.HIGHEST,) * 2
    if "preferred_element_type" in params:
        params["preferred_element_type"] = jnp.dtype(jnp.float32)
    with eqn.ctx.manager:
        outputs = eqn.primitive.bind(*values, **eqn.primitive.get_bind_params(params))
    return list(outputs) if eqn.primitive.multiple_results else [outputs]


def _whole_numbers(counts: Array) -> Int[np.ndarray, "..."]:
    """Of the one sample."""
    return np.rint(np.asarray(counts[0])).astype(np.int64)


def _name(operation: Operation) -> str:
    origin = operation.origin.inside(operation.eqn)
    return "/".join(origin.scope) or Path(origin.place or operation.eqn.primitive.name).name


def _unique_names(names: Sequence[str]) -> list[str]:
    """Without the part of the module path that all begin with, which is the network itself; a name that occurs again
    gets the first number that makes it new."""
    paths = [name.split("/") for name in names]
    scopes = zip(*(path[:-1] for path in paths), strict=False)
    shared = sum(1 for _ in itertools.takewhile(lambda names: len(set(names)) == 1, scopes))
    taken: list[str] = []
    for name in ("/".join(path[shared:]) for path in paths):
        numbered = (f"{name}#{number}" for number in itertools.count(2))
        taken.append(next(each for each in itertools.chain([name], numbered) if each not in taken))
    return taken
