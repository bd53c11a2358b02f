"""The two views of a value that varies in time, and the choice between them where both would do.

After t steps a spike train x_1, ..., x_t with the sum S_t stands for its mean m_t = S_t / t. A value is held as

    INCREMENTS  x_t, as neurons emit them and weights pass them on
    MEANS       m_t, as an operation that is not linear takes and makes them

A linear operation keeps the view of its operands; of operands in both views it takes the means. Every change of
view carries one more array from chunk to chunk and takes one more pass over the data at each step.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Container, Mapping, Sequence
from enum import Enum
from typing import Any

from gnsnn_jax.engine.graph import Operation, Slot
from gnsnn_jax.engine.jaxprs import holds_jaxprs, type_of
from gnsnn_jax.engine.rules import is_weighted

SMALL_OPERANDS = 1.5  # of x - mean(x), the mean may be summed beside x: its own operand is mostly x again


class View(Enum):
    """What is held of a value that varies in time: what each step adds to it, or its mean so far."""

    INCREMENTS = "increments"
    MEANS = "means"


class How(Enum):
    """How an operation runs over time: see `engine.rules.OverTime`; a linear one at each step by itself."""

    LINEAR = "linear"
    OF_MEANS = "means"
    OF_SUMS = "sums"


def better_held_as_means(
    operations: Sequence[Operation],
    outputs: Container[Slot],
    how: Mapping[tuple[Slot, ...], How],
    views: Mapping[Slot, View],
) -> set[Slot]:
    """Increments of which only means are read, and whose operands' means cost no more than their own.

    They are what linear operations without weights make, such as the x - mean(x) of a layer norm, where the means
    of x are read too: one sum is carried for the whole of the norm, instead of one for each of its parts. So are the
    results of operations on sums, such as the maximum within a softmax, which may run on means as well.

    Args:
        operations: those that vary in time, in order.
        outputs: the slots of the network's outputs.
        how: how each of the operations that are no activations runs.
        views: of each value that varies.
    """
    choice = _Choice(outputs, how, views)
    for operation in operations:
        choice.note(operation)
    for operation in reversed(operations):
        choice.consider(operation)
    return choice.as_means


class _Choice:
    def __init__(
        self, outputs: Container[Slot], how: Mapping[tuple[Slot, ...], How], views: Mapping[Slot, View]
    ) -> None:
        self.how, self.views = how, views
        self.outputs = outputs
        self.as_means: set[Slot] = set()
        self.readers: dict[Slot, list[Operation]] = defaultdict(list)
        self.summed: set[Slot] = set()  # increments whose sums are carried in any case

    def note(self, operation: Operation) -> None:
        for slot in operation.inputs:
            self.readers[slot].append(operation)
        if self._takes_means(operation) or self._takes_sums(operation):
            self.summed.update(self._increments_of(operation))

    def consider(self, operation: Operation) -> None:
        if self._may_change(operation) and self._costs_no_more(operation):
            self.as_means.update(operation.outputs)
            self.summed.update(self._increments_of(operation))

    def _may_change(self, operation: Operation) -> bool:
        if operation.is_activation or not operation.outputs:
            return False
        if is_weighted(operation.eqn) or holds_jaxprs(operation.eqn) or operation.eqn.effects:
            return False
        return all(self._is_read_as_means(slot) for slot in operation.outputs)

    def _is_read_as_means(self, slot: Slot) -> bool:
        if self.views[slot] is View.MEANS or slot in self.outputs or not self.readers[slot]:
            return False
        return all(map(self._takes_means, self.readers[slot]))

    def _takes_means(self, reader: Operation) -> bool:
        if reader.is_activation or not reader.outputs:
            return False
        made = reader.outputs[0]
        return self.views[made] is View.MEANS or made in self.as_means

    def _takes_sums(self, reader: Operation) -> bool:
        return not reader.is_activation and self.how[reader.outputs] is How.OF_SUMS

    def _costs_no_more(self, operation: Operation) -> bool:
        more = set(self._increments_of(operation)) - self.summed
        sizes = dict(zip(operation.inputs, operation.eqn.invars, strict=True))
        saved = sum(map(_entries, operation.eqn.outvars))
        return sum(_entries(sizes[slot]) for slot in more) <= SMALL_OPERANDS * saved

    def _increments_of(self, operation: Operation) -> list[Slot]:
        held = lambda slot: self.views.get(slot) is View.INCREMENTS and slot not in self.as_means
        return [slot for slot in operation.inputs if held(slot)]


def _entries(var: Any) -> int:
    """The size of an array, where lengths that are symbols, as of the batch in an export, count as 1."""
    return math.prod(length for length in type_of(var).shape if isinstance(length, int))
