"""Conversion of a network into a spiking one: trace it, then evaluate it again with neurons over time."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MethodType
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gnsnn_jax._types import Array
from gnsnn_jax.conversion.corrections_by_site import checked_corrections, corrections_for
from gnsnn_jax.conversion.known_values import check_threshold, refuse_nan, refuse_thresholds
from gnsnn_jax.conversion.neurons_by_site import (
    Neurons,
    check_patterns,
    checked_neurons,
    each_neuron,
    neuron_for,
    settings_of,
)
from gnsnn_jax.conversion.sites import Site, site_of
from gnsnn_jax.dtypes import sum_type
from gnsnn_jax.engine.encoders import Encoders, checked_encoders
from gnsnn_jax.engine.graph import Operation
from gnsnn_jax.engine.parameters import are_parameters
from gnsnn_jax.engine.simulation import Found, Observer, Simulation, State, evaluated_once
from gnsnn_jax.engine.split import SpikingNetwork, split
from gnsnn_jax.engine.tracing import arrays_of, is_array, trace
from gnsnn_jax.errors import InputError, at_least_one, listed, shown
from gnsnn_jax.method.calibrations import Calibration
from gnsnn_jax.method.corrections import Correction
from gnsnn_jax.method.neurons import Neuron

DEFAULT_CHUNK = 2  # time-steps evaluated together; more of them no longer fit the caches of a CPU
CHUNK_OF_MEANS = 1  # the same where neurons encode means, whose sums over several steps are passes over memory

Reduce = Literal["mean", "sum"] | None
Coding = Literal["rate", "once"]
Observe = Callable[[Array, Site], Any]


def to_spiking(
    ann: Callable,
    neuron: Neuron | Mapping[str, Neuron],
    *,
    steps: int,
    calibration: Calibration | None = None,
    chunk: int | None = None,
    time_axes: Any = None,
    thresholds: Mapping[str, Any] | None = None,
    product_dtype: Any = None,
    encoders: Encoders = "auto",
    reduce: Reduce = None,
    corrections: Mapping[str, Correction] | None = None,
    coding: Coding = "rate",
) -> SpikingFunction:
    """Returns a function with the arguments of `ann` whose outputs have a leading time axis, [steps, ...].

    Each activation becomes a population of neurons with its threshold; everything behind it is applied at each
    time-step, everything before it once. The outputs of step t are those that the weights make of the spikes of
    step t: sum them over time, or take their mean, to compare with `ann`. Arguments that are no arrays
    (train=False) reach `ann` as they are. Like `jax.vmap` it works under `jit`, `grad` and `vmap`; put `jax.jit`
    around it to compile once.

    An operation f that is not linear is applied to the mean of its input so far, and passes on what changes the mean
    of its output: x_out(t) = t f(m_t) - (t-1) f(m_(t-1)). So these sum to T f(m_T), whatever the spikes were.
    Max-pooling is applied to sums, x_out(t) = max S_t - max S_(t-1), which makes spikes of spikes. Weights that would
    read anything but spikes get an encoder, a population of signed neurons; see `encoders`.

    Activations and encoders are those that `sites` lists. A ReLU and an encoder have no threshold of their own: they
    need one where spikes reach them, and stay what they are where none do and none is given, so that spiking can
    begin behind them.

    Args:
        ann: the network, a pure function of arrays and trees of arrays.
        neuron: for all populations, or a mapping from patterns of site names to neurons, of which the first that
            matches counts: {"head/*": gs.integrate_and_fire(), "*": gs.group_neuron(8)}. Encoders take the signed
            form of theirs.
        steps: T, at least 1.
        calibration: gives each neuron its initial potential, from its first `probe_steps` currents; the network then
            computes max(steps, probe_steps) time-steps and returns the first `steps`.
        chunk: how many time-steps are evaluated layer by layer at a time, which changes no result. Memory grows with
            it and not with `steps`. By default 2, and 1 where encoders stand behind operations on means, which was as
            fast as any on a CPU; a GPU that a small batch leaves idle may want more. All steps go together, whatever
            is given, where a neuron waits for all of its currents (`parallel_neuron`, `two_phase_neuron`).
        time_axes: names the time axis of inputs that have one, as `in_axes` of `jax.vmap` names batch axes: None (no
            time), or an integer or a tree of them for each positional argument.
        thresholds: by name of the site, arrays [] or [C] or of any shape that broadcasts to the currents', as
            `find_thresholds` makes them; they come before those that activations have themselves, `qcfs` its own,
            `relu6` and `clip(x, 0, a)` their bounds.
        product_dtype: such as bfloat16, the type that the weights are rounded to where spikes meet them, and nothing
            else is rounded. Where spikes are whole numbers of a unit which that type holds (up to 256 in bfloat16,
            2048 in float16), products run in it, add up in float32 and are multiplied by the unit: behind a scalar
            threshold, and from there on through what moves values, sums of the same spikes, pooling and scalar
            factors. Elsewhere, as behind biases, norms and sums of spikes of different units, they run in float32
            with the rounded weights.
        encoders: "auto" puts them in front of weights behind operations that are not linear, and on both operands of
            products of two spike trains; "all" also where a linear result goes straight into weights; None puts
            none, and weights read analog values there.
        reduce: "sum" or "mean" returns the outputs [...] summed or averaged over time, in memory that does not grow
            with `steps`.
        corrections: by name of the site, as `find_corrections` makes them: a bias of the currents by step and
            channel, a start potential, another threshold. They were found for one neuron, one set of thresholds and
            so many steps, and serve these alone.
        coding: "rate" gives inputs and biases at each step, and the mean of a train over time is its value. "once"
            gives them at the first step alone and nothing after it, so that the sum of a train is its value and the
            outputs add up to those of the network. Neurons that take back what they sent too much,
            `st_bif_neuron(upper=L)` with 1/L of the threshold, then settle exactly at the network of L levels.

    Returns:
        The converted network, a function with the arguments of `ann`.

    Raises:
        InputError: for counts below 1, a network without activations, patterns that match no site and sites that no
            pattern matches, thresholds that are not broadcastable or of unknown names, or known and not positive and
            finite, inputs of the wrong length in time, NaN in arguments whose values are known (outside of `jit`),
            and for operations behind spikes that have no meaning for a mean, with the user's file and line.
        TypeError: for what is no neuron, calibration or mapping of thresholds.
    """
    if calibration is not None and not isinstance(calibration, Calibration):
        raise TypeError(f"calibration must be a Calibration such as offset_spikes(4) or None, got {calibration!r}")
    if reduce not in (None, "sum", "mean"):
        raise InputError(f'reduce must be "sum", "mean" or None, got {reduce!r}')
    _check_coding(coding, checked_neurons(neuron), calibration, time_axes, corrections, reduce)
    return SpikingFunction(
        ann,
        checked_neurons(neuron),
        at_least_one("steps", steps),
        calibration,
        None if chunk is None else at_least_one("chunk", chunk),
        tuple(time_axes) if isinstance(time_axes, list) else time_axes,
        None if thresholds is None else check_thresholds(thresholds),
        None if product_dtype is None else _product_dtype(product_dtype),
        encoders=checked_encoders(encoders),
        reduce=reduce,
        corrections=None if corrections is None else checked_corrections(corrections),
        coding=coding,
    )


def _check_coding(coding: Any, neuron: Neurons, calibration: Any, time_axes: Any, corrections: Any, reduce: Any):
    """Raises InputError for a coding that is not known, and for what once coding does not go with."""
    if coding not in ("rate", "once"):
        raise InputError(f'coding must be "rate" or "once", got {coding!r}')
    if coding == "rate":
        return
    unfit = {
        "calibration, which probes currents that come at each step": calibration is not None,
        "time_axes, whose inputs come at each step": any(
            axis is not None for axis in jax.tree.leaves(time_axes, is_leaf=_is_axis)
        ),
        "corrections, which are found for currents that come at each step": bool(corrections),
        'reduce="mean"; outputs add up to the answer, reduce="sum"': reduce == "mean",
        "neurons that stand for a mean, such as differential": not all(
            each.sends_its_value for each in each_neuron(neuron)
        ),
    }
    for what, is_given in unfit.items():
        if is_given:
            raise InputError(f'coding="once" does not go with {what}')


def _product_dtype(given: Any) -> Any:
    try:
        dtype = jnp.dtype(given)
    except TypeError:
        dtype = None
    if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
        raise InputError(f"product_dtype must be a floating-point type such as bfloat16, got {given!r}")
    return dtype


class Traced(NamedTuple):
    """One trace of a converted network. Its slots name values of this trace alone: never look them up in another.

    network      its operations; `network.ann` are those of the network itself, by the same slots
    inputs       the arrays among the arguments, with time in front of those that have it
    structure    the tree of its outputs
    """

    network: SpikingNetwork
    inputs: list[Any]
    structure: Any

    @property
    def trains(self) -> Mapping[int, Any]:
        """The inputs that vary in time [T, ...], by slot."""
        pairs = zip(self.network.inputs, self.inputs, strict=True)
        return {slot: x for slot, x in pairs if slot in self.network.varying}


@dataclass(frozen=True, eq=False)
class SpikingFunction:
    """What `to_spiking` returns; equal settings are equal, so that as a static argument they compile once."""

    ann: Callable
    neuron: Neurons
    steps: int
    calibration: Calibration | None
    chunk: int | None
    time_axes: Any
    thresholds: Mapping[str, Any] | None = None
    product_dtype: Any = None
    observe: Observe | Observer | None = None
    encoders: Encoders = "auto"
    reduce: Reduce = None
    corrections: Mapping[str, Correction] | None = None
    coding: Coding = "rate"

    def __call__(self, *args, **kwargs):
        return self.simulated(self._checked(args, kwargs, _array_axes(self.time_axes, args, kwargs)))

    def traced(self, *args, **kwargs) -> Traced:
        """The network traced with these arguments, of which `jax.ShapeDtypeStruct`s may stand for arrays."""
        return self._traced(args, kwargs, _array_axes(self.time_axes, args, kwargs))

    def time_axes_of(self, *args) -> list[int | None]:
        """The time axis, or None, of each array among the arguments."""
        return _array_axes(self.time_axes, args, {})

    def simulated(self, traced: Traced) -> Any:
        """What a call returns, of a network that `traced` has traced."""
        return self._returned(traced.structure, self._simulate(traced))

    def first_chunk(self, *args) -> tuple[Any, State]:
        """What a call returns of as many time-steps as go together at the start, and the state after them."""
        return self._one_chunk(args, None, self.calibration)

    def next_chunk(self, state: State, *args) -> tuple[Any, State]:
        """What a call returns of the `chunk` time-steps after this state, and the state after them."""
        return self._one_chunk(args, state, None)

    def _one_chunk(self, args, state, calibration) -> tuple[Any, State]:
        traced = self._checked(args, {}, self.time_axes_of(*args))
        simulation = self._simulation(traced)
        chunk = simulation.chunk_steps
        length = chunk if state else self._schedule(chunk)[0] or chunk
        state = state or simulation.start()
        steps_of = lambda train: jax.lax.dynamic_slice_in_dim(train, state.now, length)
        trains = {slot: steps_of(train) for slot, train in traced.trains.items()}
        state, found = simulation.chunk(trains, length, state, calibration)
        return self._returned(traced.structure, found), state

    def initial_state(self, *args) -> State:
        """The state before the first step of a stream.

        Args:
            args: those of one step; they tell the shapes. Parameters stay the same from step to step.

        Returns:
            A tree of arrays, for `step`.

        Raises:
            InputError: for a network with a calibration, which needs currents of several steps at once.
        """
        simulation, traced = self.stream(*args)
        return simulation.started(traced.trains, 1)[0]

    def step(self, state: State, *args) -> tuple[State, Any]:
        """One time-step of a stream: `steps` of them with the same arguments give what a call gives.

        Args:
            state: as `initial_state` and `step` return it.
            args: those of the network, the data of this step among them.

        Returns:
            The state after the step, and the outputs of this step [...].

        Raises:
            InputError: for what is no state of a stream, and for one of data of another shape.
        """
        if not isinstance(state, State):
            raise InputError(f"step takes a state that initial_state or step returned, got {shown(state)}")
        simulation, traced = self.stream(*args)
        _check_fits(state, traced.network.populations)
        state, found = simulation.chunk(traced.trains, 1, state)
        return state, jax.tree.unflatten(traced.structure, [output[0] for output in found.outputs])

    def stream(self, *args) -> tuple[Simulation, Traced]:
        """The simulation of a network whose data come step by step, and its trace with the data of one step."""
        if self.calibration:
            raise InputError("a stream has no calibration, which needs currents of several steps; leave it out")
        if self.coding == "once":
            raise InputError('a stream has data at each step; leave coding="once" out')
        if self._waits:
            raise InputError(
                "a stream has no neurons that wait for the currents of all steps; take others, such as group_neuron(8)"
            )
        spiking = replace(self, observe=None)
        axes = [None if fixed else 0 for fixed in are_parameters(args, {})]
        traced = spiking._checked(args, {}, axes, one_step=True)
        return spiking._simulation(traced), traced

    def _returned(self, structure: Any, found: Found) -> Any:
        """Outputs as the network has them, and what was observed, if anything observes."""
        outputs = jax.tree.unflatten(structure, found.outputs)
        return outputs if self.observe is None else (outputs, [seen for seen in found.observations if seen is not None])

    def _checked(
        self, args: tuple, kwargs: Mapping[str, Any], axes: Sequence[int | None], one_step: bool = False
    ) -> Traced:
        """The trace that is going to run: NaN is refused, and what stays analog is said."""
        refuse_nan(arrays_of(args, kwargs))
        found = self._traced(args, kwargs, axes, one_step)
        _warn_of_analog(found.network)
        return found

    def _traced(
        self, args: tuple, kwargs: Mapping[str, Any], axes: Sequence[int | None], one_step: bool = False
    ) -> Traced:
        arrays = arrays_of(args, kwargs)
        if one_step:
            inputs = [
                array if axis is None else jnp.asarray(array)[None] for array, axis in zip(arrays, axes, strict=True)
            ]
        else:
            inputs = [_time_first(array, axis, self._computed_steps) for array, axis in zip(arrays, axes, strict=True)]
        vary = [axis is not None for axis in axes]
        seen = [_one_step(x) if varies else x for x, varies in zip(inputs, vary, strict=True)]
        traced, structure = trace(self.ann, args, kwargs, seen)
        network = split(traced, vary, self._thresholds, self.encoders)
        check_patterns(self.neuron, network.populations)
        return Traced(network, inputs, structure)

    @property
    def _thresholds(self) -> Mapping[str, Any]:
        """By name, those of corrections before the others."""
        corrections = self.corrections or {}
        own = {name: each.threshold for name, each in corrections.items() if each.threshold is not None}
        return {**(self.thresholds or {}), **own}

    def neuron_at(self, population: Operation) -> Neuron:
        """The neuron of a population: that of the first pattern that matches its name, signed for an encoder."""
        return neuron_for(self.neuron, population.activation.name, population.activation.kind)

    def neuron_of(self, site: Site) -> Neuron:
        """The neuron that stands at a site."""
        return neuron_for(self.neuron, site.name, site.kind)

    def analog(self, *args) -> tuple[str, ...]:
        """Places and names of the operations in front of the first neurons that are not linear, and so compute as in
        the network itself, and ReLUs that stay what they are; shapes may stand for arrays."""
        network = self.traced(*args).network
        return (*network.analog, *network.kept)

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
        numbers = settings_of(self.neuron), self.steps, self.calibration, self.chunk, tuple(axes), structure, thresholds
        corrections = tuple(sorted((name, *map(_content, each)) for name, each in (self.corrections or {}).items()))
        return (
            _identity(self.ann),
            *numbers,
            self.product_dtype,
            self.observe,
            self.encoders,
            self.reduce,
            corrections,
            self.coding,
        )

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

    @property
    def longest_chunk(self) -> int:
        """How many time-steps are evaluated together at most."""
        return self._computed_steps if self._waits else self.chunk or DEFAULT_CHUNK

    @property
    def _waits(self) -> bool:
        """Whether some neurons need the currents of all steps at once."""
        return any(each.layerwise for each in each_neuron(self.neuron))

    def _chunk_for(self, network: SpikingNetwork) -> int:
        if self._waits:
            return self._computed_steps
        return self.chunk or (CHUNK_OF_MEANS if network.encodes_means else DEFAULT_CHUNK)

    def _schedule(self, chunk: int) -> tuple[int, int]:
        """Length of the first chunk, which the calibration probes, and number of chunks after it."""
        if self._computed_steps <= max(chunk, self.probe_steps):
            return self._computed_steps, 0
        chunks = (self._computed_steps - self.probe_steps) // chunk
        return self._computed_steps - chunks * chunk, chunks

    def _simulation(self, traced: Traced) -> Simulation:
        values = evaluated_once(traced.network, traced.inputs)
        refuse_thresholds(traced.network, values)
        chunk, observer = self._chunk_for(traced.network), _observer(self.observe)
        corrections = corrections_for(traced.network, self.corrections)
        once = self.coding == "once"
        return Simulation(
            traced.network, values, self.neuron_at, chunk, self.product_dtype, observer, corrections, once
        )

    def _simulate(self, traced: Traced) -> Found:
        """All steps: the first chunk by itself where its length or a calibration asks for it, the others in a scan."""
        simulation, trains = self._simulation(traced), traced.trains
        chunk = simulation.chunk_steps
        first, chunks = self._schedule(chunk)
        if not first and traced.network.is_sharded:  # the first chunk makes states that are split as their currents are
            first, chunks = chunk, chunks - 1
        collected = _Collected(self.reduce, self.steps)
        if first:
            head = {slot: train[:first] for slot, train in trains.items()}
            state, found = simulation.chunk(head, first, simulation.start(), self.calibration)
            total = collected.first(found, chunks * chunk)
        else:
            part = {slot: train[:chunk] for slot, train in trains.items()}
            state, shapes = simulation.started(part, chunk)
            total = collected.nothing(shapes, chunks * chunk)
        if chunks:
            body = {slot: _in_chunks(train[first:], chunks) for slot, train in trains.items()}
            total = _scanned(simulation, collected, body, chunks, state, total, first)
        return collected.whole(total)


def _check_fits(state: State, populations: Sequence[Operation]) -> None:
    """Raises InputError for a state of another network or of another batch, which would broadcast or fail far away."""
    if len(state.neurons) != len(populations):
        raise InputError(
            f"step takes a state of this network with its {len(populations)} populations, got one with "
            f"{len(state.neurons)}; start from initial_state"
        )
    for population, neurons in zip(populations, state.neurons, strict=True):
        wanted = population.shape
        for given in (leaf.shape[: max(1, len(wanted))] for leaf in jax.tree.leaves(neurons) if leaf.ndim):
            if given != wanted:
                raise InputError(
                    f"the data of this step ask for a state of shape {wanted} at {population.activation.name!r}, got "
                    f"{given}; give initial_state data of the same shape as step"
                )


def _in_chunks(train: Array, chunks: int) -> Array:
    return train.reshape(chunks, len(train) // chunks, *train.shape[1:])


def _scanned(simulation: Simulation, collected: _Collected, body, chunks: int, state: State, total: Found, now: int):
    """What was found in all chunks of `body` [chunks, chunk, ...] and before them."""

    def one_chunk(carry, part):
        state, total, now = carry
        state, found = simulation.chunk(part, simulation.chunk_steps, state)
        return (state, collected.more(total, found, now), now + simulation.chunk_steps), None

    (_, total, _), _ = jax.lax.scan(one_chunk, (state, total, now), body, length=chunks)
    return total


class _Collected(NamedTuple):
    """Puts what is found in chunks one behind the other, or adds up the outputs, in place."""

    reduce: Reduce
    steps: int

    def first(self, found: Found, more: int) -> Found:
        """What was found first, with room for so many more steps."""
        outputs = [self._summed(output[: self.steps]) for output in found.outputs]
        kept = outputs if self.reduce else _longer(found.outputs, more)
        return Found(kept, _longer(found.observations, more))

    def nothing(self, chunk: Found, steps: int) -> Found:
        """Room for so many steps, given the shapes of a chunk."""
        room = lambda x: jnp.zeros((steps, *x.shape[1:]), x.dtype)
        summed = lambda x: jnp.zeros(x.shape[1:], sum_type(x.dtype))
        return Found(
            jax.tree.map(summed if self.reduce else room, chunk.outputs), jax.tree.map(room, chunk.observations)
        )

    def more(self, total: Found, found: Found, now: Array | int) -> Found:
        put = lambda all, new: jax.lax.dynamic_update_slice_in_dim(all, new, now, axis=0)
        add = lambda all, new: all + self._summed(new)
        outputs = jax.tree.map(add if self.reduce else put, total.outputs, found.outputs)
        return Found(outputs, jax.tree.map(put, total.observations, found.observations))

    def whole(self, total: Found) -> Found:
        cut = lambda x: x[: self.steps]
        if not self.reduce:
            return jax.tree.map(cut, total)
        outputs = [x / self.steps for x in total.outputs] if self.reduce == "mean" else total.outputs
        return Found(outputs, jax.tree.map(cut, total.observations))

    def _summed(self, outputs: Array) -> Array:
        return outputs.sum(0, dtype=sum_type(outputs.dtype)) if self.reduce else outputs


def _longer(parts: Any, steps: int) -> Any:
    """Room for so many more steps behind them."""
    pad = lambda x: jax.lax.pad(x, jnp.zeros((), x.dtype), [(0, steps, 0), *[(0, 0, 0)] * (x.ndim - 1)])
    return jax.tree.map(pad, parts) if steps else parts


def _warn_of_analog(network: SpikingNetwork) -> None:
    """Says which operations before all neurons compute as in the network itself, where they are not linear and the
    weights behind them read analog values: where an encoder could stand and none does."""
    if network.analog and not any(each.activation.kind == "encoder" for each in network.populations):
        warnings.warn(
            f"these operations are not linear and stay analog in front of the first neurons: {listed(network.analog)}; "
            "find_thresholds gives thresholds to the encoders behind them, or take this as it is",
            stacklevel=4,
        )


def _observer(observe: Observe | Observer | None) -> Observer:
    """The observer that calls `observe`, if there is any, for each population."""
    if isinstance(observe, Observer):
        return observe

    def look(memory, operation, inputs, outputs):
        seen = observe(outputs[0], site_of(operation, inputs[1])) if observe and operation.is_activation else None
        return memory, seen

    return Observer(lambda operation: None, look, sees_currents=False)


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
    if value is None:
        return ()
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
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return jax.eval_shape(lambda x: jnp.moveaxis(x, axis, 0), leaf)
    return jnp.moveaxis(leaf, axis, 0)


def _one_step(train: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(train.shape[1:], train.dtype)
