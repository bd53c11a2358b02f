"""Conversion of a network into a spiking one: trace it, then evaluate it again with neurons over time."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MethodType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gnsnn_jax._types import Array
from gnsnn_jax.conversion.known_values import check_threshold, refuse_nan, refuse_thresholds
from gnsnn_jax.conversion.sites import Site, site_of
from gnsnn_jax.conversion.units import Units
from gnsnn_jax.dtypes import at_least_single, state_type
from gnsnn_jax.engine.graph import Operation, Slot
from gnsnn_jax.engine.jaxprs import CONVOLUTIONS, bind, bind_over_time, type_of
from gnsnn_jax.engine.split import Program, flatten
from gnsnn_jax.engine.tracing import arrays_of, is_array, trace
from gnsnn_jax.errors import InputError, at_least_one, listed
from gnsnn_jax.method.calibrations import Calibration
from gnsnn_jax.method.neurons import Neuron, run
from gnsnn_jax.method.neurons.run import own_state

DEFAULT_CHUNK = 2  # time-steps evaluated together; more of them no longer fit the caches of a CPU
PRODUCTS = ("dot_general", *CONVOLUTIONS)  # whose operands may be rounded while they add up in float32

Values = dict[Slot, Any]
Observe = Callable[[Array, Site], Any]


class Observer(NamedTuple):
    """Sees every operation that varies in time, chunk after chunk, and may remember.

    start(operation) -> memory, before the first time-step
    look(memory, operation, inputs, outputs) -> (memory, observation), at n consecutive time-steps; the
        inputs of an activation are its currents [n, ...] and its threshold, the outputs of all are
        [n, ...], and an observation is None or arrays [n, ...]
    """

    start: Callable[[Operation], Any]
    look: Callable[[Any, Operation, Sequence[Any], Sequence[Array]], tuple[Any, Any]]


def to_spiking(
    ann: Callable,
    neuron: Neuron,
    *,
    steps: int,
    calibration: Calibration | None = None,
    chunk: int | None = None,
    time_axes: Any = None,
    thresholds: Mapping[str, Any] | None = None,
    product_dtype: Any = None,
) -> Callable:
    """Returns a function with the arguments of `ann` whose outputs have a leading time axis, [steps, ...].

    Each activation becomes a population of neurons with its threshold; everything behind it is
    applied at each time-step, everything before it once. The outputs of step t are those that the
    weights make of the spikes of step t: sum them over time, or take their mean, to compare with
    `ann`. Arguments that are no arrays (train=False) reach `ann` as they are. Like `jax.vmap` it
    works under `jit`, `grad` and `vmap`; put `jax.jit` around it to compile once.

    `calibration` gives each neuron its initial potential, from its first `probe_steps` currents; the
    network then computes max(steps, probe_steps) time-steps and returns the first `steps`.
    `chunk` time-steps are evaluated layer by layer at a time and change no result. Memory grows with it
    and not with `steps`; 2 unless told, which was as fast as any on a CPU. A GPU that a small batch leaves
    idle may want more. `time_axes` names the time axis of inputs that have one, as `in_axes` of `jax.vmap`
    names batch axes: None (no time), or an integer or a tree of them for each positional argument.

    Activations are those that `sites` lists. `thresholds` gives theirs by name, arrays [] or [C] or of
    any shape that broadcasts to the currents', as `find_thresholds` makes them; they come before those
    that activations have themselves, `qcfs` its own, `relu6` and `clip(x, 0, a)` their bounds. A ReLU has
    none: it needs one where spikes reach it, and stays a ReLU where none do and none is given, so that
    spiking can begin behind it.

    `product_dtype`, such as bfloat16, is the type that the weights are rounded to where spikes meet them, and
    nothing else is rounded. Where spikes are whole numbers of a unit which that type holds (up to 256 in
    bfloat16, 2048 in float16), products run in it, add up in float32 and are multiplied by the unit: behind
    a scalar threshold, and from there on through what moves values, sums of the same spikes, pooling and
    scalar factors. Elsewhere, as behind biases, norms and sums of spikes of different units, they run in
    float32 with the rounded weights.

    Raises InputError for counts below 1, a network without activations, thresholds that are not
    broadcastable or of unknown names, or known and not positive and finite, inputs of the wrong length
    in time, NaN in arguments whose values are known (outside of `jit`), and for operations that are not linear in
    the spikes, with the user's file and line.
    """
    if not isinstance(neuron, Neuron):
        raise TypeError(f"neuron must be a Neuron such as group_neuron(8), got {neuron!r}")
    if calibration is not None and not isinstance(calibration, Calibration):
        raise TypeError(f"calibration must be a Calibration such as offset_spikes(4) or None, got {calibration!r}")
    return SpikingFunction(
        ann,
        neuron,
        at_least_one("steps", steps),
        calibration,
        DEFAULT_CHUNK if chunk is None else at_least_one("chunk", chunk),
        tuple(time_axes) if isinstance(time_axes, list) else time_axes,
        None if thresholds is None else check_thresholds(thresholds),
        None if product_dtype is None else jnp.dtype(product_dtype),
    )


@dataclass(frozen=True, eq=False)
class SpikingFunction:
    """What `to_spiking` returns; equal settings are equal, so that as a static argument they compile once."""

    ann: Callable
    neuron: Neuron
    steps: int
    calibration: Calibration | None
    chunk: int
    time_axes: Any
    thresholds: Mapping[str, Any] | None = None
    product_dtype: Any = None
    observe: Observe | Observer | None = None

    def __call__(self, *args, **kwargs):
        program, inputs, structure = self._program(args, kwargs)
        return self._returned(structure, *self._simulate(program, inputs))

    def first_chunk(self, *args) -> tuple[Any, list[Any]]:
        """What a call returns of as many time-steps as go together at the start, and the potentials after them."""
        return self._one_chunk(args, self._schedule()[0] or self.chunk, None, self.calibration)

    def next_chunk(self, potentials: list[Any], *args) -> tuple[Any, list[Any]]:
        """What a call returns of the `chunk` time-steps after these potentials, and the potentials after them."""
        return self._one_chunk(args, self.chunk, potentials, None)

    def _one_chunk(self, args, length, potentials, calibration) -> tuple[Any, list[Any]]:
        if any(axis is not None for axis in _array_axes(self.time_axes, args, {})):
            raise InputError("a simulation chunk by chunk takes inputs that are constant in time; leave out time_axes")
        program, inputs, structure = self._program(args, {})
        simulation = _Simulation(program, _evaluate_fixed(program, inputs), self)
        state, found = simulation.chunk({}, length, simulation.start(potentials), calibration)
        return self._returned(structure, *found), state.potentials

    def _returned(self, structure: Any, outputs: Sequence[Array], observations: Sequence[Any]) -> Any:
        """Outputs as the network has them, and what was observed, if anything observes."""
        outputs = jax.tree.unflatten(structure, outputs)
        return outputs if self.observe is None else (outputs, [seen for seen in observations if seen is not None])

    def _program(self, args: tuple, kwargs: Mapping[str, Any]) -> tuple[Program, list[Any], Any]:
        """The traced network, its inputs with time in front, and the structure of its outputs."""
        axes = _array_axes(self.time_axes, args, kwargs)
        arrays = arrays_of(args, kwargs)
        refuse_nan(arrays)
        inputs = [_time_first(array, axis, self._computed_steps) for array, axis in zip(arrays, axes, strict=True)]
        have_time = [axis is not None for axis in axes]
        seen = [_one_step(x) if has_time else x for x, has_time in zip(inputs, have_time, strict=True)]
        traced, structure = trace(self.ann, args, kwargs, seen)
        program = flatten(traced, have_time, self.thresholds)
        _warn_of_analog(program)
        return program, inputs, structure

    def analog(self, *args) -> tuple[str, ...]:
        """Places and names of the operations in front of the first neurons that are not linear, and so compute as in
        the network itself, and ReLUs that stay what they are; shapes may stand for arrays."""
        traced, _ = trace(self.ann, args, {})
        program = flatten(traced, [False] * len(traced.jaxpr.invars), self.thresholds)
        return (*program.analog, *program.kept)

    def observed(self, observe: Observe | Observer) -> SpikingFunction:
        """The same function returning (outputs, observations), one observation for each population.

        `observe(spikes [n, ...], site)` sees n consecutive time-steps of one population, whose name,
        shape and threshold the `Site` tells, and returns arrays with the same leading axis; an
        observation is these over all the steps. They come in the order of evaluation. An `Observer` sees
        more and returns one observation for each operation that it has any of.
        """
        return replace(self, observe=observe)

    def _settings(self) -> tuple:
        """All that decides the result, hashable even where `ann` or the tree of time axes is not."""
        axes, structure = jax.tree.flatten(self.time_axes, is_leaf=_is_axis)
        thresholds = tuple(sorted((name, _content(value)) for name, value in (self.thresholds or {}).items()))
        numbers = self.neuron, self.steps, self.calibration, self.chunk, tuple(axes), structure, thresholds
        return _identity(self.ann), *numbers, self.product_dtype, self.observe

    def __eq__(self, other):
        return isinstance(other, SpikingFunction) and self._settings() == other._settings()

    def __hash__(self):
        return hash(self._settings())

    @property
    def probe_steps(self) -> int:
        return self.calibration.probe_steps if self.calibration else 0

    @property
    def _computed_steps(self) -> int:
        return max(self.steps, self.probe_steps)

    def _schedule(self) -> tuple[int, int]:
        """Length of the first chunk, which the calibration probes, and number of chunks after it."""
        if self._computed_steps <= max(self.chunk, self.probe_steps):
            return self._computed_steps, 0
        chunks = (self._computed_steps - self.probe_steps) // self.chunk
        return self._computed_steps - chunks * self.chunk, chunks

    def _simulate(self, program: Program, inputs: Sequence[Any]) -> Any:
        values = _evaluate_fixed(program, inputs)
        trains = {slot: values[slot] for slot in program.inputs if slot in program.has_time}
        simulation = _Simulation(program, values, self)
        first, chunks = self._schedule()
        if not first and program.is_sharded:  # the first chunk makes potentials that are split as their currents are
            first, chunks = self.chunk, chunks - 1
        head = {slot: train[:first] for slot, train in trains.items()}
        body = {slot: train[first:].reshape(chunks, self.chunk, *train.shape[1:]) for slot, train in trains.items()}
        if first:
            state, found = simulation.chunk(head, first, simulation.start(None), self.calibration)
            found = simulation.chunks_behind(found, first, body, chunks, state) if chunks else found
        else:
            found = simulation.chunks(body, chunks, simulation.start(simulation.initial_potentials()))
        return jax.tree.map(lambda x: x[: self.steps], found)


def _warn_of_analog(program: Program) -> None:
    """Says which operations before all neurons compute as in the network itself, where they are not linear."""
    if program.analog:
        warnings.warn(
            f"these operations are not linear and stay analog in front of the first neurons: {listed(program.analog)}; "
            "use an activation that converts there, or take this as it is",
            stacklevel=4,
        )


def _joined_over_time(stacked: Array) -> Array:
    """[chunks, chunk, ...] as [steps, ...]."""
    return stacked.reshape(stacked.shape[0] * stacked.shape[1], *stacked.shape[2:])


def _longer(part: Array, steps: int) -> Array:
    """Room for so many more steps behind it."""
    return jax.lax.pad(part, jnp.zeros((), part.dtype), [(0, steps, 0), *[(0, 0, 0)] * (part.ndim - 1)])


def _observer(observe: Observe | Observer | None) -> Observer:
    """The observer that calls `observe`, if there is any, for each population."""
    if isinstance(observe, Observer):
        return observe

    def look(memory, operation, inputs, outputs):
        seen = observe(outputs[0], site_of(operation, inputs[1])) if observe and operation.is_activation else None
        return memory, seen

    return Observer(lambda operation: None, look)


class _State(NamedTuple):
    """What one chunk leaves to the next; without potentials the neurons start from their own."""

    potentials: list[Any] | None
    memories: list[Any]  # of the observer


class _Simulation:
    """The part of a program that varies in time, given the values of the part that does not."""

    def __init__(self, program: Program, values: Values, settings: SpikingFunction):
        self.program, self.values, self.chunk_steps = program, values, settings.chunk
        self.neuron, self.product_dtype = settings.neuron, settings.product_dtype
        self.observer = _observer(settings.observe)
        if self.product_dtype:
            self.units = Units(program, values, self.neuron, self.product_dtype)

    def start(self, potentials: list[Any] | None) -> _State:
        return _State(potentials, [self.observer.start(operation) for operation in self.program.timed])

    def initial_potentials(self) -> list[Any]:
        return [self._initial_potential(activation) for activation in self.program.activations]

    def _initial_potential(self, activation: Operation) -> Any:
        currents, threshold = activation.eqn.outvars[0].aval, self.values[activation.inputs[1]]
        return own_state(self.neuron, jnp.asarray(threshold, state_type(currents, threshold)), activation.shape)

    def chunk(
        self, trains: Values, length: int, state: _State, calibration: Calibration | None = None
    ) -> tuple[_State, tuple[list[Array], list[Any]]]:
        """Evaluates `length` time-steps layer by layer; returns the state after them, and the outputs and
        observations."""
        values = self.values | trains
        before = iter(state.potentials or [None] * len(self.program.activations))
        after, memories, observations = [], [], []
        for operation, memory in zip(self.program.timed, state.memories, strict=True):
            inputs = [values[slot] for slot in operation.inputs]
            if operation.is_activation:
                inputs[0] = self._over_time(operation.inputs[0], values, length)
                spikes, potential = self._fire(inputs[0], inputs[1], next(before), calibration)
                after.append(potential)
                results = [spikes]
            else:
                results = self._apply(operation, inputs)
            memory, seen = self.observer.look(memory, operation, inputs, results)
            memories.append(memory)
            observations.append(seen)
            values.update(zip(operation.outputs, results, strict=True))
        outputs = [self._over_time(slot, values, length) for slot in self.program.outputs]
        return _State(after, memories), (outputs, observations)

    def chunks(self, trains: Values, count: int, state: _State) -> Any:
        """The outputs and observations of several chunks; `trains` are [count, chunk, ...]."""
        one_chunk = lambda state, part: self.chunk(part, self.chunk_steps, state)
        _, found = jax.lax.scan(one_chunk, state, trains, length=count)
        return jax.tree.map(_joined_over_time, found)

    def chunks_behind(self, head: Any, steps: int, trains: Values, count: int, state: _State) -> Any:
        """The same behind those of the first `steps` time-steps, without holding them twice."""

        def one_chunk(carry, part):
            state, found, now = carry
            state, new = self.chunk(part, self.chunk_steps, state)
            put = lambda all, new: jax.lax.dynamic_update_slice_in_dim(all, new, now, axis=0)
            return (state, jax.tree.map(put, found, new), now + self.chunk_steps), None

        room = jax.tree.map(lambda x: _longer(x, count * self.chunk_steps), head)
        (_, found, _), _ = jax.lax.scan(one_chunk, (state, room, steps), trains, length=count)
        return found

    def _fire(self, currents, threshold, potential, calibration) -> tuple[Array, Any]:
        """Runs one population from its potential, its calibrated one or its own initial one."""
        if calibration:
            potential = calibration.initial(self.neuron, currents[: calibration.probe_steps], threshold)
        return run(self.neuron, currents, threshold, potential)

    def _apply(self, operation: Operation, inputs: Sequence[Any]) -> list[Array]:
        have_time = [slot in self.program.has_time for slot in operation.inputs]
        if self.product_dtype and operation.eqn.primitive.name in PRODUCTS:
            return self._rounded_product(operation, inputs, have_time)
        return bind_over_time(operation.eqn, inputs, have_time)

    def _rounded_product(self, operation: Operation, inputs: Sequence[Any], have_time: Sequence[bool]) -> list[Array]:
        """The product with weights in the type that was asked for; so are the spikes, where it holds them exactly."""
        single, position = jnp.dtype(jnp.float32), have_time.index(True)
        spikes, unit = jnp.asarray(inputs[position]), self.units.of(operation.inputs[position])
        fits = unit is not None or spikes.dtype == self.product_dtype
        dtype = self.product_dtype if fits else at_least_single(spikes.dtype)
        whole = spikes if unit is None else spikes / unit
        operands = [whole if timed else self._rounded(x) for x, timed in zip(inputs, have_time, strict=True)]
        wanted = single if fits else dtype
        (products,) = bind_over_time(
            operation.eqn, [x.astype(dtype) for x in operands], have_time, preferred_element_type=wanted
        )
        products = products if unit is None else products * unit
        return [products.astype(type_of(operation.eqn.outvars[0]).dtype)]

    def _rounded(self, weights: Any) -> Array:
        """The weights as numbers that `product_dtype` holds; a mere cast there and back is left out by XLA."""
        about, weights = jnp.finfo(self.product_dtype), jnp.asarray(weights)
        return jax.lax.reduce_precision(weights, about.nexp, about.nmant)

    def _over_time(self, slot: Slot, values: Values, length: int) -> Array:
        value = jnp.asarray(values[slot])
        return value if slot in self.program.has_time else jnp.broadcast_to(value, (length, *value.shape))


def _evaluate_fixed(program: Program, inputs: Sequence[Any]) -> Values:
    values = program.constants | dict(zip(program.inputs, inputs, strict=True))
    for operation in program.fixed:
        results = bind(operation.eqn, *(values[slot] for slot in operation.inputs))
        values.update(zip(operation.outputs, results, strict=True))
    refuse_thresholds(program, values)
    return values


def check_thresholds(thresholds: Mapping[str, Any]) -> dict[str, Any]:
    """Thresholds by name as float32 arrays of numpy, or tracers.

    Raises InputError for numbers, where they are known, that are not positive and finite.
    """
    if not isinstance(thresholds, Mapping):
        raise TypeError(f"thresholds must be a mapping such as find_thresholds returns, got {thresholds!r}")
    return {name: _positive(name, value) for name, value in thresholds.items()}


def _positive(name: str, value: Any) -> Any:
    if isinstance(value, jax.core.Tracer):
        return value
    value = np.asarray(value, np.float32)
    check_threshold(name, value)
    return value


def _content(value: Any) -> tuple:
    """Equal for equal arrays of known numbers."""
    return (id(value),) if isinstance(value, jax.core.Tracer) else (value.shape, value.tobytes())


def _identity(ann: Callable) -> Any:
    """Equal for the same function, and for the same method of equal objects, such as equal Linen networks."""
    if isinstance(ann, MethodType) and _is_hashable(ann.__self__):
        return ann.__func__, ann.__self__
    return ann if _is_hashable(ann) else id(ann)


def _is_hashable(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


def _is_axis(node: Any) -> bool:
    return node is None or isinstance(node, int)


def _array_axes(time_axes: Any, args: tuple, kwargs: Mapping[str, Any]) -> list[int | None]:
    """The time axis, or None, of each array among the arguments."""
    prefix = (time_axes,) * len(args) if _is_axis(time_axes) else time_axes
    if not isinstance(prefix, tuple) or len(prefix) != len(args):
        raise InputError(
            f"time_axes must be None, an integer or one entry for each of the {len(args)} positional "
            f"arguments, got {time_axes!r}"
        )
    try:
        spread = jax.tree.map(lambda axis, part: [axis] * len(jax.tree.leaves(part)), prefix, args, is_leaf=_is_axis)
    except ValueError as error:
        raise InputError(f"time_axes {time_axes!r} does not fit the arguments: {error}") from None
    axes = jax.tree.leaves(spread, is_leaf=_is_axis) + [None] * len(jax.tree.leaves(kwargs))
    return [axis for axis, leaf in zip(axes, jax.tree.leaves((args, kwargs)), strict=True) if is_array(leaf)]


def _time_first(leaf: Any, axis: int | None, steps: int) -> Any:
    if axis is None:
        return leaf
    if not -leaf.ndim <= axis < leaf.ndim:
        raise InputError(f"time_axes names axis {axis} of an input of shape {leaf.shape}, which has no such axis")
    if leaf.shape[axis] != steps:
        raise InputError(
            f"an input of shape {leaf.shape} has {leaf.shape[axis]} time-steps on axis {axis}, but {steps} are "
            "wanted: as many as the larger of steps and probe_steps"
        )
    return jnp.moveaxis(leaf, axis, 0)


def _one_step(train: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(train.shape[1:], train.dtype)
