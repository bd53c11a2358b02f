"""How many connections each neuron has: one sweep back from what reads spikes, to the neurons that emit them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from gnsnn_jax._types import Array, Int
from gnsnn_jax.analysis import following
from gnsnn_jax.analysis.coefficients import Coefficients
from gnsnn_jax.analysis.mean_operations import runs_on_means
from gnsnn_jax.analysis.sources import Source
from gnsnn_jax.engine.graph import Operation, Slot, needed, reached_from
from gnsnn_jax.engine.jaxprs import type_of

BUDGET = 2**37  # multiply-accumulates, for the neurons of one population that are followed to one layer


class Read(NamedTuple):
    """A slot that is read, and where by a layer, the layer with the connections of each of its inputs [B, ...]."""

    slot: Slot
    layer: Operation | None = None
    fan_out: Array | None = None


class Fans:
    """The connections of the neurons of all sources.

    Args:
        coefficients: of the network.
        sources: of its spikes.
        layers: the outputs of its layers, which no spike passes.
    """

    def __init__(
        self, coefficients: Coefficients, sources: Sequence[Source], layers: Mapping[tuple[Slot, ...], object]
    ):
        self.coefficients, self.network = coefficients, coefficients.network
        self.sources = {each.slot: each for each in sources}
        self.passed = [each for each in self.network.dynamic if self._is_passed(each, layers)]
        self.reached = reached_from(self.passed, self.sources)

    def of(self, read: Read) -> dict[Slot, Int[np.ndarray, "..."]]:
        """By source, to how many outputs of the layer that reads a slot, or to how many values of the slot itself,
        each neuron leads."""
        if read.slot not in self.reached:
            return {}
        ones = jnp.ones(self._shape_of(read.slot), jnp.float32)
        paths = self._back_from(read.slot, ones)
        counts = paths if read.fan_out is None else self._back_from(read.slot, read.fan_out)
        cost = prod(ones.shape) if read.fan_out is None else int(read.fan_out.sum())
        meet = [slot for slot in paths if paths[slot].max(initial=0) > 1]  # two ways may end in one output
        return counts | {slot: self._apart(read, slot, counts[slot], cost) for slot in meet}

    def _is_passed(self, operation: Operation, layers: Mapping[tuple[Slot, ...], object]) -> bool:
        """Whether it is linear in spikes as they come, and no layer."""
        is_end = operation.is_activation or operation.outputs in layers
        return not is_end and not runs_on_means(self.network, operation)

    def _apart(self, read: Read, source: Slot, paths: np.ndarray, cost: int) -> np.ndarray:
        """The outputs instead of the paths to them, where that is not too much."""
        shape = self.sources[source].operation.shape
        way = self._between(source, read.slot) + ([read.layer] if read.layer else [])
        end = read.layer.outputs[0] if read.layer else read.slot
        each = following.Following(self.coefficients, source, shape, way, end)
        return each.reached() if cost // shape[0] * each.evaluations <= BUDGET else paths

    def _between(self, source: Slot, slot: Slot) -> list[Operation]:
        reached = reached_from(self.passed, [source])
        return needed([each for each in self.passed if each.reads(reached)], [slot])

    def _back_from(self, start: Slot, counts: Array) -> dict[Slot, np.ndarray]:
        """By source, how much of the counts at a slot belongs to each of its neurons."""
        arrived = {start: counts}
        for operation in reversed(self.passed):
            if not arrived.keys().isdisjoint(operation.outputs):
                self._step_back(operation, arrived)
        return {slot: whole_numbers(arrived[slot]) for slot in self.sources if slot in arrived}

    def _step_back(self, operation: Operation, arrived: dict[Slot, Array]) -> None:
        at_outputs = [
            arrived.pop(slot, jnp.zeros(type_of(var).shape, jnp.float32))
            for slot, var in zip(operation.outputs, operation.eqn.outvars, strict=True)
        ]
        for position in operation.reads(self.network.varying):
            slot, part = operation.inputs[position], self.coefficients.transposed(operation, position, at_outputs)
            arrived[slot] = arrived[slot] + part if slot in arrived else part

    def _shape_of(self, slot: Slot) -> tuple[int, ...]:
        return next(
            type_of(var).shape
            for operation in self.network.dynamic
            for made, var in zip(operation.outputs, operation.eqn.outvars, strict=True)
            if made == slot
        )


def whole_numbers(counts: Array) -> Int[np.ndarray, "..."]:
    """Of the one sample."""
    return np.rint(np.asarray(counts[0])).astype(np.int64)
