"""The part of a network that varies in time, a chunk of time-steps after another, with neurons for activations.

A chunk is evaluated layer by layer. What one chunk leaves to the next is a `State`: those of the neurons, and of
values that are changed from one view to the other (`engine.split`) what the change needs:

    increments x_t -> means:  m_t = S_t / t             the sum S_t is carried
    means m_t -> increments:  x_t = t m_t - (t-1) m_(t-1)    t m_t is carried

so that every chunk gives the same, and the increments of f(m_t) add up to T f(m_T), whatever the spikes were.

That is rate coding, in which a train stands for S_t / t and what does not vary comes in at each step. In once coding
(`once`) a train stands for S_t, and what does not vary comes in at the first step alone: everything above holds with 1
in place of t.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gnsnn_jax._types import Array
from gnsnn_jax.dtypes import at_least_single, state_type, sum_type
from gnsnn_jax.engine.graph import Operation, Slot
from gnsnn_jax.engine.jaxprs import CONVOLUTIONS, bind, bind_over_time, type_of
from gnsnn_jax.engine.rules import is_linear
from gnsnn_jax.engine.split import SpikingNetwork
from gnsnn_jax.engine.units import Units
from gnsnn_jax.engine.views import How, View
from gnsnn_jax.method.calibrations import Calibration
from gnsnn_jax.method.corrections import Correction, corrected
from gnsnn_jax.method.neurons import GroupNeuron, Neuron, run
from gnsnn_jax.method.neurons.run import own_state, run_on_sums, with_initial
from gnsnn_jax.xla.computed_once import computed_once

PRODUCTS = ("dot_general", *CONVOLUTIONS)  # whose operands may be rounded while they add up in float32

Values = Mapping[Slot, Any]


class Observer(NamedTuple):
    """Sees every operation that varies in time, chunk after chunk, and may remember.

    start(operation) -> memory, before the first time-step
    look(memory, operation, inputs, outputs) -> (memory, observation), at n consecutive time-steps; the
        inputs of an activation are its currents [n, ...] and its threshold, the outputs of all are
        [n, ...], and an observation is None or arrays [n, ...]
    sees_currents  whether it looks at the currents of activations; None stands for them where it does not
    """

    start: Callable[[Operation], Any]
    look: Callable[[Any, Operation, Sequence[Any], Sequence[Array]], tuple[Any, Any]]
    sees_currents: bool = True


NOBODY = Observer(lambda operation: None, lambda memory, operation, inputs, outputs: (memory, None), False)


class State(NamedTuple):
    """What one chunk leaves to the next.

    neurons    the state of each population; None before the first step, where they start from their own
    carried    by view and slot, sums and products with the time of values that change their view [...]
    now        how many steps are over
    memories   of the observer
    """

    neurons: list[Any] | None
    carried: dict[str, Array] | None
    now: Array
    memories: list[Any]


class Found(NamedTuple):
    """Of n consecutive time-steps: the outputs of the network and the observations, each [n, ...]."""

    outputs: list[Array]
    observations: list[Any]


class Simulation:
    """Runs the dynamic operations of a network, given the values of the static ones.

    Args:
        network: what `split` made.
        values: by slot, of the inputs that do not vary, the constants and the static operations.
        neuron_at: the neuron of each population.
        chunk: how many time-steps are evaluated together.
        product_dtype: the type that weights are rounded to where spikes meet them, or None.
        observer: sees all operations.
        corrections: by name of the population, for those that have one.
        once: whether trains stand for their sums, and static values come in at the first step alone.
    """

    def __init__(
        self,
        network: SpikingNetwork,
        values: Values,
        neuron_at: Callable[[Operation], Neuron],
        chunk: int,
        product_dtype: Any = None,
        observer: Observer = NOBODY,
        corrections: Mapping[str, Correction] | None = None,
        once: bool = False,
    ):
        self.once = once
        self.network, self.values, self.neuron_at, self.chunk_steps = network, values, neuron_at, chunk
        self.product_dtype, self.observer, self.corrections = (
            product_dtype,
            observer,
            {} if corrections is None else corrections,
        )
        self.find_units()

    def find_units(self) -> None:
        """Which values are whole numbers of a unit, where somebody asks; again where a threshold has changed."""
        if self.product_dtype or How.OF_SUMS in self.network.how.values():
            self.units = Units(self.network, self.values, self.neuron_at)

    def start(self) -> State:
        """Before the first step."""
        return State(None, None, jnp.int32(0), [self.observer.start(operation) for operation in self.network.dynamic])

    def started(self, trains: Mapping[Slot, Array], length: int) -> tuple[State, Found]:
        """The same with all states written out, as a scan over chunks carries them.

        Args:
            trains: inputs that vary [length, ...].
            length: how many steps a chunk has.

        Returns:
            The state, and the shapes of what a chunk finds.
        """
        after, found = jax.eval_shape(lambda trains: self.chunk(trains, length, self.start()), trains)
        neurons = [self._own_state(population) for population in self.network.populations]
        carried = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), after.carried)
        return self.start()._replace(neurons=neurons, carried=carried), found

    def _own_state(self, population: Operation) -> Any:
        currents, threshold = type_of(population.eqn.outvars[0]), self.values[population.inputs[1]]
        threshold = jnp.asarray(threshold, state_type(currents, threshold))
        neuron, start = self.neuron_at(population), self._start_of(population)
        own = own_state(neuron, threshold, population.shape)
        return own if start is None else with_initial(neuron, own, start)

    def _start_of(self, population: Operation) -> Any:
        """The potential that a population starts from, where a correction tells one."""
        correction = self.corrections.get(population.activation.name)
        return None if correction is None else correction.start

    def chunk(
        self, trains: Mapping[Slot, Array], length: int, state: State, calibration: Calibration | None = None
    ) -> tuple[State, Found]:
        """Evaluates `length` time-steps layer by layer.

        Args:
            trains: inputs that vary [length, ...].
            length: how many steps.
            state: as `start`, `started` and `chunk` return it.
            calibration: finds the potentials that neurons start from, in the first chunk.

        Returns:
            The state after these steps, and what was found at each of them.
        """
        views = _Views(self.network, dict(self.values), trains, length, state, self.once)
        before = iter(state.neurons or [None] * len(self.network.populations))
        neurons, memories, observations = [], [], []
        for operation, memory in zip(self.network.dynamic, state.memories, strict=True):
            if operation.is_activation:
                inputs, (spikes, after) = self._fire(operation, views, next(before), calibration)
                neurons.append(after)
                results = [spikes]
            else:
                inputs, results = self._apply(operation, views)
            memory, seen = self.observer.look(memory, operation, inputs, results)
            memories.append(memory)
            observations.append(seen)
            views.put(operation.outputs, results)
        outputs = [views.increments(slot) for slot in self.network.outputs]
        return State(neurons, views.after, state.now + length, memories), Found(outputs, observations)

    def _fire(self, operation: Operation, views: _Views, state: Any, calibration) -> tuple[list[Any], Any]:
        """Runs one population from its state, its calibrated potential or its own initial one.

        Returns its currents, where somebody needs them, and its threshold; and its outputs with the state after them.
        """
        (slot, _), threshold = operation.inputs, self.values[operation.inputs[1]]
        neuron = self.neuron_at(operation)
        neuron = neuron.at_site(self.network.populations.index(operation)) if neuron.layerwise else neuron
        correction = self.corrections.get(operation.activation.name)
        from_sums = correction is None and views.holds_means(slot)
        if not (from_sums and isinstance(neuron, GroupNeuron) and neuron.steps_on_sums):
            currents = views.increments(slot)
            dtype = currents.dtype
            if correction is not None:
                currents = corrected(currents, correction, views.now)
                state = correction.start if state is None else state
            if calibration:
                state = calibration.initial(neuron, currents[: calibration.probe_steps], threshold)
            spikes, state = run(neuron, currents, threshold, state)
            return [currents, threshold], (spikes.astype(dtype), state)
        if calibration:
            state = calibration.initial(neuron, views.first_increments(slot, calibration.probe_steps), threshold)
        currents = views.increments(slot) if self.observer.sees_currents else None
        dtype = type_of(operation.eqn.outvars[0]).dtype
        return [currents, threshold], run_on_sums(neuron, views.sums(slot), threshold, state, dtype)

    def _apply(self, operation: Operation, views: _Views) -> tuple[list[Any], list[Array]]:
        """What an operation reads and makes, in the view of its outputs."""
        how, slots = self.network.how[operation.outputs], operation.inputs
        if how is How.OF_SUMS:
            return self._apply_to_sums(operation, views)
        held = self.network.views[operation.outputs[0]] if operation.outputs else View.INCREMENTS
        inputs = [views.means(slot) if held is View.MEANS else views.held(slot) for slot in slots]
        vary = [slot in self.network.views for slot in slots]
        if self.once and held is View.INCREMENTS:
            for position in _added(operation, vary):
                inputs[position], vary[position] = views.increments(slots[position]), True
        if self.product_dtype and operation.eqn.primitive.name in PRODUCTS:
            return inputs, self._rounded_product(operation, inputs, vary)
        return inputs, bind_over_time(operation.eqn, inputs, vary)

    def _apply_to_sums(self, operation: Operation, views: _Views) -> tuple[list[Any], list[Array]]:
        """x_out(t) = f(S(t)) - f(S(t-1)), rounded to whole spikes where their unit is known."""
        inputs = [views.sums(slot) for slot in operation.inputs]
        sums = bind_over_time(operation.eqn, inputs, [True] * len(inputs))
        results = []
        for slot, total, var in zip(operation.outputs, sums, operation.eqn.outvars, strict=True):
            increments = self.units.rounded(slot, views.differences(f"sums {slot}", total))
            results.append(increments.astype(type_of(var).dtype))
        return inputs, results

    def _rounded_product(self, operation: Operation, inputs: Sequence[Any], vary: Sequence[bool]) -> list[Array]:
        """The product with weights in the type that was asked for; so are the spikes, where it holds them exactly."""
        single, position = jnp.dtype(jnp.float32), list(vary).index(True)
        spikes = jnp.asarray(inputs[position])
        unit = None if all(vary) else self.units.one_for(operation.inputs[position], self.product_dtype)
        fits = unit is not None or spikes.dtype == self.product_dtype
        dtype = self.product_dtype if fits else at_least_single(spikes.dtype)
        whole = spikes if unit is None else spikes / unit
        operands = [
            (whole if at == position else x) if varies else self._rounded(x)
            for at, (x, varies) in enumerate(zip(inputs, vary, strict=True))
        ]
        wanted = single if fits else dtype
        (products,) = bind_over_time(
            operation.eqn, [x.astype(dtype) for x in operands], vary, preferred_element_type=wanted
        )
        products = products if unit is None else products * unit
        return [products.astype(type_of(operation.eqn.outvars[0]).dtype)]

    def _rounded(self, weights: Any) -> Array:
        """The weights as numbers that `product_dtype` holds; a mere cast there and back is left out by XLA."""
        about, weights = jnp.finfo(self.product_dtype), jnp.asarray(weights)
        return jax.lax.reduce_precision(weights, about.nexp, about.nmant)


def _added(operation: Operation, vary: Sequence[bool]) -> list[int]:
    """The positions of static operands that are added to what varies, as biases are, and not multiplied by it."""
    varying = {position for position, varies in enumerate(vary) if varies}
    static = set(range(len(vary))) - varying
    return [each for each in sorted(static) if is_linear(operation.eqn, varying | {each})]


class _Views:
    """The values of one chunk in the views that operations ask for, and what is carried to change them."""

    def __init__(
        self, network: SpikingNetwork, values: dict[Slot, Any], trains, length: int, state: State, once: bool = False
    ):
        self.network, self.values, self.length, self.once = network, values, length, once
        self.before, self.now = state.carried, state.now
        self.after: dict[str, Array] = {}
        self.made: dict[tuple[str, Slot], Array] = {}
        values.update(trains)

    def put(self, slots: Sequence[Slot], values: Sequence[Array]) -> None:
        self.values.update(zip(slots, values, strict=True))

    def held(self, slot: Slot) -> Any:
        """A value in the view that it is held in; one that does not vary has no time axis."""
        return self.values[slot]

    def increments(self, slot: Slot) -> Array:
        """What each step adds to a value [n, ...]."""
        value, view = jnp.asarray(self.values[slot]), self.network.views.get(slot)
        if view is None:
            return self._static(value)
        if view is View.INCREMENTS:
            return value
        return self._once("increments", slot, lambda: self._increments_of(slot, value))

    def _static(self, value: Array) -> Array:
        """What each step adds to the sum of a value that does not vary."""
        each = jnp.broadcast_to(value, (self.length, *value.shape))
        if not self.once:
            return each
        is_first = (self.now + jnp.arange(self.length, dtype=jnp.int32)) == 0
        return jnp.where(is_first.reshape(-1, *(1,) * value.ndim), each, jnp.zeros_like(each))

    def first_increments(self, slot: Slot, steps: int) -> Array:
        """Those of the first steps of all, for a value that is held as means; nothing is carried for them."""
        sums = self.sums(slot)[:steps]
        return jnp.diff(sums, axis=0, prepend=jnp.zeros_like(sums[:1])).astype(self.values[slot].dtype)

    def holds_means(self, slot: Slot) -> bool:
        return self.network.views.get(slot) is View.MEANS

    def means(self, slot: Slot) -> Any:
        """The means so far [n, ...] of a value that varies."""
        if self.network.views.get(slot) is not View.INCREMENTS:
            return self.values[slot]
        return self._once("means", slot, lambda: self._means_of(slot))

    def sums(self, slot: Slot) -> Array:
        """The sums so far [n, ...]: t c of a value c that does not vary."""
        view = self.network.views.get(slot)
        if view is View.INCREMENTS:
            return self._once("sums", slot, lambda: self._sums_of(slot))
        return self._once("sums", slot, lambda: self._times_of(slot, view))

    def differences(self, key: str, sums: Array) -> Array:
        """What each step adds to sums [n, ...]; the last of them is carried under the key."""
        before = self._carried(key, sums)
        self.after[key] = sums[-1]
        return sums - jnp.concatenate([before[None], sums[:-1]])

    def _once(self, view: str, slot: Slot, make: Callable[[], Array]) -> Array:
        if (view, slot) not in self.made:
            self.made[view, slot] = make()
        return self.made[view, slot]

    def _times_of(self, slot: Slot, view: View | None) -> Array:
        value = jnp.asarray(self.values[slot])
        return self._times(value[None] if view is None else value)

    def _increments_of(self, slot: Slot, means: Array) -> Array:
        return self.differences(f"times {slot}", self.sums(slot)).astype(means.dtype)

    def _means_of(self, slot: Slot) -> Array:
        sums = self.sums(slot)
        return (sums / self._steps(sums)).astype(self.values[slot].dtype)

    def _sums_of(self, slot: Slot) -> Array:
        increments = self.values[slot]
        wide = increments.astype(sum_type(increments.dtype))
        key = f"sum {slot}"
        sums = computed_once(self._carried(key, wide)[None] + jnp.cumsum(wide, axis=0))
        self.after[key] = sums[-1]
        return sums

    def _times(self, means: Array) -> Array:
        """t m_t."""
        wide = means.astype(sum_type(means.dtype))
        return wide * self._steps(wide)

    def _steps(self, like: Array) -> Array:
        """The numbers t of these steps, [n, 1, ...], and 1 for all of them in once coding."""
        if self.once:
            return jnp.ones((self.length, *(1,) * (like.ndim - 1)), like.dtype)
        steps = self.now + jnp.arange(1, self.length + 1, dtype=jnp.int32)
        return steps.astype(like.dtype).reshape(-1, *(1,) * (like.ndim - 1))

    def _carried(self, key: str, like: Array) -> Array:
        """What the chunk before left, 0 before the first step."""
        return self.before[key] if self.before else jnp.zeros_like(like[0])


def evaluated_once(network: SpikingNetwork, inputs: Sequence[Any]) -> dict[Slot, Any]:
    """The values of all that does not vary in time, and those of the inputs."""
    values = network.constants | dict(zip(network.inputs, inputs, strict=True))
    for operation in network.static:
        results = bind(operation.eqn, *(values[slot] for slot in operation.inputs))
        values.update(zip(operation.outputs, results, strict=True))
    return values
