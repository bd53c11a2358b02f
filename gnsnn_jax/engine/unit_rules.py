"""Whole numbers of a unit through an operation: which unit its outputs have, where its inputs have one.

Spikes are k u with whole numbers k. What moves, sums and scales them keeps them whole numbers of a unit, and so a
type of few digits holds them exactly, and sums of them are rounded to the number that is meant.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import jax.numpy as jnp

from gnsnn_jax._types import Array
from gnsnn_jax.engine.jaxprs import bind, type_of
from gnsnn_jax.xla.computed_once import computed_once

if TYPE_CHECKING:
    from gnsnn_jax.engine.graph import Operation
    from gnsnn_jax.engine.units import Units


class Whole(NamedTuple):
    """Values k * size with whole numbers k, |k| <= most.

    size   [], or of the shape of the values; values of one `key` have one size
    """

    key: tuple
    size: Array
    most: int

    @property
    def is_single(self) -> bool:
        """Whether all values have one unit."""
        return not self.size.ndim

    def times(self, count: int) -> Whole:
        return self._replace(most=self.most * count)


UnitRule = Callable[["Units", "Operation"], "Whole | None"]


def moved(units: Units, operation: Operation) -> Whole | None:
    """Of one operand, at other places."""
    unit = units.found.get(operation.inputs[0])
    return unit and _moved_like(units, operation, unit)


def _moved_like(units: Units, operation: Operation, unit: Whole) -> Whole | None:
    """A unit for each value moves with the values."""
    if unit.is_single:
        return unit
    others = [units.fixed(slot) for slot in operation.inputs[1:]]
    if len(operation.outputs) > 1 or any(other is None for other in others):
        return None
    return unit._replace(size=bind(operation.eqn, unit.size, *others)[0])


def padded(units: Units, operation: Operation) -> Whole | None:
    filling, unit = units.scalar(operation.inputs[1]), units.found.get(operation.inputs[0])
    return unit if unit and unit.is_single and filling and filling[0] == 0.0 else None


def picked(units: Units, operation: Operation) -> Whole | None:
    """Of what picks one of its operands: whole numbers of a unit that all have; 0 stands where they differ.

    The largest of the units is f(u) and the smallest -f(-u), f being the operation.
    """
    found = [units.found.get(slot) for slot in operation.inputs]
    if None in found or len({unit.key for unit in found}) > 1:
        return None
    if all(unit.is_single for unit in found):
        return found[0]._replace(most=max(unit.most for unit in found))
    # As a value computed once, since XLA would spend seconds on windows of constant units while it compiles.
    sizes = [
        computed_once(jnp.broadcast_to(unit.size, type_of(var).shape))
        for unit, var in zip(found, operation.eqn.invars, strict=True)
    ]
    (one,), (other,) = bind(operation.eqn, *sizes), bind(operation.eqn, *(-size for size in sizes))
    return found[0]._replace(size=jnp.where(one == -other, one, 0), most=max(unit.most for unit in found))


def summed(count: Callable[[Operation], int]) -> UnitRule:
    """Of sums of so many values."""

    def rule(units: Units, operation: Operation) -> Whole | None:
        unit = units.found.get(operation.inputs[0])
        return unit.times(count(operation)) if unit and unit.is_single else None

    return rule


def reduced(operation: Operation) -> int:
    shape = type_of(operation.eqn.invars[0]).shape
    return math.prod(shape[axis] for axis in operation.eqn.params["axes"])


def in_window(operation: Operation) -> int:
    return math.prod(operation.eqn.params["window_dimensions"])


def accumulated(operation: Operation) -> int:
    return type_of(operation.eqn.invars[0]).shape[operation.eqn.params["axis"]]


def joined(most: Callable[[Sequence[int]], int]) -> UnitRule:
    """Of operands that all have one unit."""

    def rule(units: Units, operation: Operation) -> Whole | None:
        found = [units.found.get(slot) for slot in operation.inputs]
        if None in found or len({unit.key for unit in found}) > 1 or not found[0].is_single:
            return None
        return found[0]._replace(most=most([unit.most for unit in found]))

    return rule


def scaled(by: Callable[[Array, Array], Array], positions: Sequence[int]) -> UnitRule:
    """Of a product or quotient with one fixed value, the spikes in one of the positions."""

    def rule(units: Units, operation: Operation) -> Whole | None:
        for position in positions:
            unit, scalar = units.found.get(operation.inputs[position]), units.scalar(operation.inputs[1 - position])
            if unit and scalar:
                key, factor = scalar
                size = by(unit.size, factor.astype(jnp.float32))
                return Whole((*unit.key, operation.eqn.primitive.name, key), size, unit.most)
        return None

    return rule
