"""Where the spikes of a network go: the connections of each neuron, counted one by one in the traced program.

A connection is one weight that is not zero between one input and one output of an operation with weights; a
convolution has none to its padding. What stands between spikes and weights, such as average pooling, norms
and reshapes, is seen as part of the weights. Where spikes reach a population past all weights, as by the
shortcut of a residual block, each has one connection there.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gnsnn_jax._types import Array, Int
from gnsnn_jax.conversion.sites import Site, site_of
from gnsnn_jax.conversion.to_spiking import SpikingFunction
from gnsnn_jax.engine.graph import Operation, Slot
from gnsnn_jax.engine.jaxprs import WEIGHTED, applies, bind, called_by
from gnsnn_jax.engine.split import CONTROL_FLOW, Program, flatten
from gnsnn_jax.engine.tracing import arguments_of, arrays_of, trace
from gnsnn_jax.errors import InputError

# Operations that move, scale or leave out values, and add up none.
_REARRANGING = frozenset(
    "mul div neg convert_element_type copy name device_put reshape broadcast_in_dim squeeze expand_dims transpose rev "
    "slice split concatenate pad gather dynamic_slice reduce_precision optimization_barrier sharding_constraint".split()
)


class Layer(NamedTuple):
    """An operation with weights.

    name       path of its module where the framework leaves one, else of its functions
    source     names its input in every trace of the network
    output     and its output
    operand    which of its inputs is the data
    fan_out    connections of each input of one sample
    weights    how many it has, zeros included
    zeros      how many of these are zero
    in_time    whether it is evaluated at each time-step, not once
    spiking    whether all that reaches it are spikes, added or averaged perhaps
    plain      whether it reads the spikes of populations as they are, each value from one neuron
    """

    name: str
    source: Slot
    output: Slot
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
    shortcuts    connections past all weights
    bytes        of all parameters and other fixed arrays
    """

    layers: list[Layer] = field(default_factory=list)
    sites: list[Site] = field(default_factory=list)
    fans: dict[str, Fan] = field(default_factory=dict)
    shortcuts: int = 0
    bytes: int = 0

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


def connections_of(spiking: SpikingFunction, *data: Any, variables: Any = None) -> Connections:
    """Counts the connections of a converted network.

    `data` are arguments of the network, after `variables` where these are given; the first axis of each array
    is the batch, of which the first sample is looked at. Raises InputError where spikes or data reach weights
    inside of a loop or of a function with a gradient of its own.
    """
    if spiking.time_axes is not None:
        raise InputError("the analysis takes networks whose inputs have no time axis, got time_axes; leave it out")
    args = arguments_of(jax.tree.map(_first_sample, data), variables)
    arrays, fixed = arrays_of(args, {}), len(arrays_of((variables,), {}))
    is_data = [position >= fixed for position in range(len(arrays))]
    program = flatten(trace(spiking.ann, args, {})[0], [False] * len(arrays), spiking.thresholds)
    return _Counting(program, arrays, is_data).counted()


def _first_sample(array: Any) -> Array:
    array = jnp.asarray(array)
    return array[:1] if array.ndim else array


class _Counting:
    """The sweeps through a program: forward for what reaches the layers, backward for what they cost."""

    def __init__(self, program: Program, arrays: Sequence[Any], is_data: Sequence[bool]):
        self.program = program
        self.values = program.constants | dict(zip(program.inputs, arrays, strict=True))
        self.given = {slot for slot, data in zip(program.inputs, is_data, strict=True) if data}
        self.plain: set[Slot] = set()  # spikes as they are
        self.spiking: set[Slot] = set()  # all that is linear in spikes alone, without weights
        self.found = Connections(bytes=self._bytes())

    def counted(self) -> Connections:
        self._forward()
        parts = {site.activation.name: [] for site in self.program.activations}
        for layer, operation in zip(self.found.layers, self._weighted(), strict=True):
            if layer.spiking:
                counts = jnp.asarray(layer.fan_out[None], jnp.float32)
                for name, fan in self._back_from(operation.inputs[layer.operand], counts).items():
                    parts[name].append((fan, layer.plain))
        for name, fan in self._past_weights():
            parts[name].append((fan, False))
            self.found.shortcuts += int(fan.sum())
        for site in map(site_of, self.program.activations):
            site = site._replace(shape=site.shape[1:])
            nothing = np.zeros(site.shape, np.int64)
            whole = sum((fan for fan, _ in parts[site.name]), nothing)
            plain = sum((fan for fan, plain in parts[site.name] if plain), nothing)
            self.found.sites.append(site)
            self.found.fans[site.name] = Fan(whole, plain)
        self.found.layers = _named(self.found.layers)
        return self.found

    def _bytes(self) -> int:
        fixed = [self.values[slot] for slot in self.program.inputs if slot not in self.given]
        constants = [value for value in self.program.constants.values() if np.ndim(value)]
        return sum(value.nbytes for value in [*fixed, *constants])

    def _weighted(self) -> list[Operation]:
        """Operations with weights that data or spikes reach, in the order in which they are counted."""
        each = [*self.program.fixed, *self.program.timed]
        return [operation for operation in each if self._is_layer(operation)]

    def _is_layer(self, operation: Operation) -> bool:
        return operation.eqn.primitive.name in WEIGHTED and not self.given.isdisjoint(operation.inputs)

    # Forward.

    def _forward(self) -> None:
        for operation in self.program.fixed:
            reached = not self.given.isdisjoint(operation.inputs)
            if reached:
                self.given.update(operation.outputs)
                self._refuse_hidden(operation, applies(operation.eqn, WEIGHTED))
            self.values.update(zip(operation.outputs, bind(operation.eqn, *self._of(operation)), strict=True))
            if reached and self._is_layer(operation):
                self._add_layer(operation, in_time=False)
        for operation in self.program.timed:
            self.given.update(operation.outputs)
            if operation.is_activation:
                self.plain.update(operation.outputs)
                self.spiking.update(operation.outputs)
                continue
            self._refuse_hidden(operation, True)
            if self._is_layer(operation):
                self._add_layer(operation, in_time=True)
            elif all(slot in self.spiking for slot in self._timed(operation)):
                self.spiking.update(operation.outputs)
                arrived = self._timed(operation)
                if operation.eqn.primitive.name in _REARRANGING and all(slot in self.plain for slot in arrived):
                    self.plain.update(operation.outputs)

    def _of(self, operation: Operation) -> list[Any]:
        return [self.values[slot] for slot in operation.inputs]

    def _timed(self, operation: Operation) -> list[Slot]:
        return [slot for slot in operation.inputs if slot in self.program.has_time]

    def _refuse_hidden(self, operation: Operation, counts: bool) -> None:
        """Raises InputError for a loop or a call whose connections are to be counted."""
        eqn = operation.eqn
        if counts and (eqn.primitive.name in CONTROL_FLOW or called_by(eqn)):
            place = operation.origin.inside(eqn).place or "unknown place"
            raise InputError(
                f"{place}: {eqn.primitive.name}: connections inside of it cannot be counted; write its layers out, one "
                "by one, to have operations and energy in the report"
            )

    def _add_layer(self, operation: Operation, in_time: bool) -> None:
        operand = next(position for position, slot in enumerate(operation.inputs) if slot in self.given)
        read, weights = operation.inputs[operand], self.values.get(operation.inputs[1 - operand])
        ones = jnp.ones(operation.shape, jnp.float32)
        fan_out = self._transposed(operation, operand, [ones])
        layer = Layer(
            name=_name(operation),
            source=read,
            output=operation.outputs[0],
            operand=operand,
            fan_out=_whole_numbers(fan_out),
            weights=int(np.size(weights)),
            zeros=int(np.sum(np.asarray(weights) == 0)),
            in_time=in_time,
            spiking=read in self.spiking,
            plain=read in self.plain,
        )
        self.found.layers.append(layer)

    # Backward.

    def _back_from(self, start: Slot, counts: Array) -> dict[str, np.ndarray]:
        """By population, how much of the counts at a slot belongs to each of its neurons."""
        arrived, found = {start: counts}, {}
        for operation in reversed(self.program.timed):
            at_outputs = [arrived.pop(slot, None) for slot in operation.outputs]
            if all(at_output is None for at_output in at_outputs) or self._is_layer(operation):
                continue
            if operation.is_activation:
                found[operation.activation.name] = _whole_numbers(at_outputs[0])
                continue
            outs = [var.aval for var in operation.eqn.outvars]
            at_outputs = [
                jnp.zeros(aval.shape, jnp.float32) if at_output is None else at_output
                for at_output, aval in zip(at_outputs, outs, strict=True)
            ]
            for position, slot in enumerate(operation.inputs):
                if slot in self.program.has_time:
                    part = self._transposed(operation, position, at_outputs)
                    arrived[slot] = arrived[slot] + part if slot in arrived else part
        return found

    def _past_weights(self) -> Iterable[tuple[str, np.ndarray]]:
        """By population, the connections to currents and outputs that lead past all weights."""
        ends = [site.inputs[0] for site in self.program.activations] + list(self.program.outputs)
        shapes = [site.shape for site in self.program.activations] + [None] * len(self.program.outputs)
        for slot, shape in zip(ends, shapes, strict=True):
            if slot in self.program.has_time:
                shape = self._shape_of(slot) if shape is None else shape
                yield from self._back_from(slot, jnp.ones(shape, jnp.float32)).items()

    def _shape_of(self, slot: Slot) -> tuple[int, ...]:
        return next(
            var.aval.shape
            for operation in self.program.timed
            for made, var in zip(operation.outputs, operation.eqn.outvars, strict=True)
            if made == slot
        )

    def _transposed(self, operation: Operation, position: int, counts: Sequence[Array]) -> Array:
        """Counts at the outputs of an operation as counts at one of its inputs, each coefficient being one."""
        values = [self._structure(operation, at, slot) for at, slot in enumerate(operation.inputs)]
        put = lambda x: _bind_single(operation, [*values[:position], x, *values[position + 1 :]])
        _, transpose = jax.vjp(put, values[position])
        (found,) = transpose(list(counts))
        return jnp.abs(found)

    def _structure(self, operation: Operation, position: int, slot: Slot) -> Array:
        """An input of an operation with ones for coefficients that are not zero."""
        aval = operation.eqn.invars[position].aval
        if slot in self.program.has_time:
            return jnp.ones(aval.shape, jnp.float32)
        value = jnp.asarray(self.values[slot])
        if not jnp.issubdtype(value.dtype, jnp.floating):
            return value
        name = operation.eqn.primitive.name
        is_source = slot in self.given and name in WEIGHTED
        if name == "div" or is_source:
            return jnp.ones(aval.shape, jnp.float32)
        return (value != 0).astype(jnp.float32)


def _bind_single(operation: Operation, values: Sequence[Any]) -> list[Array]:
    """Applies an operation in float32, which holds counts exactly, whatever it was traced in."""
    eqn, name = operation.eqn, operation.eqn.primitive.name
    if name == "convert_element_type":
        return [values[0]]
    params = dict(eqn.params)
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


def _named(layers: Sequence[Layer]) -> list[Layer]:
    """Leaves out the part of the module path that all names begin with, which is the network itself, and gives a
    name that occurs again a number."""
    paths = [layer.name.split("/") for layer in layers]
    scopes = zip(*(path[:-1] for path in paths), strict=False)
    shared = sum(1 for _ in itertools.takewhile(lambda names: len(set(names)) == 1, scopes))
    taken: Counter[str] = Counter()
    return [_numbered(layer, "/".join(path[shared:]), taken) for layer, path in zip(layers, paths, strict=True)]


def _numbered(layer: Layer, name: str, taken: Counter[str]) -> Layer:
    taken[name] += 1
    return layer._replace(name=name if taken[name] == 1 else f"{name}#{taken[name]}")
