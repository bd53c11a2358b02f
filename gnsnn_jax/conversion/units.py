"""Which values are whole numbers of a unit, so that a half-precision type holds these numbers exactly."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gnsnn_jax._types import Array
from gnsnn_jax.engine.graph import Operation, Slot
from gnsnn_jax.engine.jaxprs import type_of
from gnsnn_jax.engine.split import Program
from gnsnn_jax.method.neurons import Neuron

MOVES = (
    "reshape transpose slice rev squeeze expand_dims broadcast_in_dim tile gather dynamic_slice split unstack copy "
    "copy_p name device_put sharding_constraint reshard neg"
).split()
FILLS = "reshape broadcast_in_dim squeeze expand_dims convert_element_type copy".split()  # keep one value one value


class Whole(NamedTuple):
    """Values k * size with whole numbers k, |k| <= most. Values of one `key` have one size."""

    key: tuple
    size: Array
    most: int

    def times(self, count: int) -> Whole:
        return self._replace(most=self.most * count)


class Units:
    """The unit of each slot of a program whose values are surely whole numbers of it, as many as `dtype` holds."""

    def __init__(self, program: Program, values: Mapping[Slot, Any], neuron: Neuron, dtype: Any):
        self.program, self.values, self.neuron = program, values, neuron
        self.largest = 2 ** (jnp.finfo(dtype).nmant + 1)  # up to here the type holds every whole number
        self.sources = _sources(program)
        self.found: dict[Slot, Whole] = {}
        for operation in program.timed:
            unit = self._of(operation)
            if unit and unit.most <= self.largest and _is_single(operation):
                self.found |= dict.fromkeys(operation.outputs, unit)

    def of(self, slot: Slot) -> Array | None:
        """The size of the unit, never 0, which no gradient reaches."""
        unit = self.found.get(slot)
        return unit and jax.lax.stop_gradient(jnp.where(unit.size == 0, 1, unit.size))

    def _of(self, operation: Operation) -> Whole | None:
        if operation.is_activation:
            return self._of_spikes(operation.inputs[1])
        name = operation.eqn.primitive.name
        return RULES[name](self, operation) if name in RULES else None

    def _of_spikes(self, threshold: Slot) -> Whole | None:
        value = jnp.asarray(self.values[threshold])
        unit = lambda: self.neuron.unit(value.reshape(()).astype(jnp.float32))
        return Whole((threshold,), unit(), self.neuron.members) if value.size == 1 else None

    def scalar(self, slot: Slot) -> tuple[Any, Array] | None:
        """What tells a fixed value that is the same everywhere from others, and the value."""
        slot = self.sources.get(slot, slot)
        value = None if slot in self.program.has_time else self.values[slot]
        if value is None or np.size(value) != 1:
            return None
        is_known = slot in self.program.constants and not isinstance(value, jax.core.Tracer)
        return float(np.asarray(value).reshape(())) if is_known else ("slot", slot), jnp.asarray(value).reshape(())


def _is_single(operation: Operation) -> bool:
    return all(type_of(var).dtype == jnp.float32 for var in operation.eqn.outvars)


def _sources(program: Program) -> dict[Slot, Slot]:
    """The slot of the one value that a fixed slot is filled with."""
    found: dict[Slot, Slot] = {}
    for operation in program.fixed:
        if operation.eqn.primitive.name in FILLS and len(operation.inputs) == 1:
            (slot,) = operation.inputs
            found[operation.outputs[0]] = found.get(slot, slot)
    return found


def _moved(units: Units, operation: Operation) -> Whole | None:
    return units.found.get(operation.inputs[0])


def _padded(units: Units, operation: Operation) -> Whole | None:
    filling = units.scalar(operation.inputs[1])
    return _moved(units, operation) if filling and filling[0] == 0.0 else None


def _summed(count: Callable[[Operation], int]) -> Callable[[Units, Operation], Whole | None]:
    def summed(units: Units, operation: Operation) -> Whole | None:
        unit = _moved(units, operation)
        return unit and unit.times(count(operation))

    return summed


def _reduced(operation: Operation) -> int:
    shape = type_of(operation.eqn.invars[0]).shape
    return math.prod(shape[axis] for axis in operation.eqn.params["axes"])


def _in_window(operation: Operation) -> int:
    return math.prod(operation.eqn.params["window_dimensions"])


def _accumulated(operation: Operation) -> int:
    return type_of(operation.eqn.invars[0]).shape[operation.eqn.params["axis"]]


def _joined(most: Callable[[Sequence[int]], int]) -> Callable[[Units, Operation], Whole | None]:
    """Of operands that all have one unit."""

    def joined(units: Units, operation: Operation) -> Whole | None:
        found = [units.found.get(slot) for slot in operation.inputs]
        if None in found or len({unit.key for unit in found}) > 1:
            return None
        return found[0]._replace(most=most([unit.most for unit in found]))

    return joined


def _scaled(
    by: Callable[[Array, Array], Array], positions: Sequence[int]
) -> Callable[[Units, Operation], Whole | None]:
    """Of a product or quotient with one fixed value, the spikes in one of the positions."""

    def scaled(units: Units, operation: Operation) -> Whole | None:
        for position in positions:
            unit, scalar = units.found.get(operation.inputs[position]), units.scalar(operation.inputs[1 - position])
            if unit and scalar:
                key, factor = scalar
                size = by(unit.size, factor.astype(jnp.float32))
                return Whole((*unit.key, operation.eqn.primitive.name, key), size, unit.most)
        return None

    return scaled


RULES: dict[str, Callable[[Units, Operation], Whole | None]] = {
    **dict.fromkeys(MOVES, _moved),
    "convert_element_type": _moved,
    "pad": _padded,
    "reduce_sum": _summed(_reduced),
    "reduce_window_sum": _summed(_in_window),
    "cumsum": _summed(_accumulated),
    **dict.fromkeys(["add", "add_any", "sub"], _joined(sum)),
    **dict.fromkeys(["concatenate", "stack"], _joined(max)),
    "mul": _scaled(jnp.multiply, (0, 1)),
    "div": _scaled(jnp.divide, (0,)),
}
