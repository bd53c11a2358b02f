"""One neuron after the other of a source of spikes, followed to the values that it changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gnsnn_jax._types import Array, Int
from gnsnn_jax.analysis.coefficients import Coefficients, bind_single
from gnsnn_jax.engine.graph import Operation, Slot
from gnsnn_jax.engine.jaxprs import type_of

FOLLOWED_AT_ONCE = 2**24  # values that are held


class Following:
    """The neurons of a source, followed along a path.

    Samples go their own ways, so that as many neurons as there are samples are followed at once, unless the batch
    is not in front of what they reach.

    Args:
        coefficients: of the network.
        source: the slot of the spikes, of this shape.
        path: the operations between the spikes and the slot that is wanted.
    """

    def __init__(
        self,
        coefficients: Coefficients,
        source: Slot,
        shape: tuple[int, ...],
        path: Sequence[Operation],
        wanted: Slot,
    ):
        self.source, self.shape, self.path, self.wanted = source, shape, path, wanted
        # None where spikes arrive: what they multiply stays what it is.
        varying = coefficients.network.varying
        self.ones = [
            [None if at in varying else value for at, value in zip(each.inputs, values, strict=True)]
            for each, values in zip(path, map(coefficients.of, path), strict=True)
        ]
        self.neurons, self.lanes = prod(shape[1:]), self._lanes()

    @property
    def evaluations(self) -> int:
        """Of all samples and so, with one lane, of as many as there are for each neuron."""
        return self._rows * self.shape[0]

    def reached(self) -> Int[np.ndarray, "..."]:
        """To how many values each neuron leads."""
        block = min(self._rows, max(FOLLOWED_AT_ONCE // self._largest(), 1))
        count = jax.jit(jax.vmap(self._count, in_axes=(0, None)))
        found = [count(start + jnp.arange(block), self.ones) for start in range(0, self._rows, block)]
        return np.concatenate(found).reshape(-1)[: self.neurons].reshape(self.shape[1:]).astype(np.int64)

    @property
    def _rows(self) -> int:
        return -(-self.neurons // self.lanes)

    def _largest(self) -> int:
        return max(self.neurons * self.shape[0], *(prod(each.shape) for each in self.path), 1)

    def _lanes(self) -> int:
        one_sample = jnp.zeros(self.shape, jnp.float32).at[0].set(1)
        arrived = self._followed(one_sample, self.ones)
        in_front = arrived.ndim and len(arrived) == self.shape[0] and not bool(arrived[1:].any())
        return self.shape[0] if in_front else 1

    def _count(self, row: Array, ones: Sequence[Any]) -> Array:
        """Of the neurons in the lanes of a row."""
        neurons = row * self.lanes + jnp.arange(self.lanes)
        spikes = jax.nn.one_hot(neurons, self.neurons, dtype=jnp.float32).reshape(self.lanes, *self.shape[1:])
        rest = [(0, self.shape[0] - self.lanes), *[(0, 0)] * (len(self.shape) - 1)]
        arrived = self._followed(jnp.pad(spikes, rest), ones)
        axes = None if self.lanes == 1 else tuple(range(1, arrived.ndim))
        return arrived.sum(axes, dtype=jnp.int32).reshape(self.lanes)

    def _followed(self, spikes: Array, ones: Sequence[Any]) -> Array:
        """Which values the spikes change."""
        marks = {self.source: spikes}
        for operation, values in zip(self.path, ones, strict=True):
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
            put = lambda x, at=position: bind_single(operation, [*ones[:at], x, *ones[at + 1 :]])
            _, parts = jax.jvp(put, (ones[position],), (marks[slot],))
            outputs = [jnp.maximum(*pair) for pair in zip(outputs, map(jnp.abs, parts), strict=True)]
    return [(output != 0).astype(jnp.float32) for output in outputs]
