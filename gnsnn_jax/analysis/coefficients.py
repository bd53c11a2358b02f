"""Which outputs of an operation each of its inputs changes, counted by transposing the operation with ones.

An operation that is linear in one of its inputs is a matrix A, and the input i changes the outputs j with A_ji not 0.
With one in place of each coefficient that is not zero, the transposed matrix applied to counts at the outputs adds up,
for each input, the counts of all outputs that it changes. JAX transposes any linear operation, by `jax.vjp`:

    >>> weights = jnp.asarray([[0.5, 0.0], [2.0, -1.0]])  # of two inputs the first changes one output, the second two
    >>> with_ones = lambda x: x @ (weights != 0).astype(jnp.float32)
    >>> _, transpose = jax.vjp(with_ones, jnp.ones(2))
    >>> transpose(jnp.ones(2))[0].tolist()
    [1.0, 2.0]
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gnsnn_jax._types import Array
from gnsnn_jax.engine.graph import Operation, Slot
from gnsnn_jax.engine.jaxprs import type_of
from gnsnn_jax.engine.rules import known_rule_of
from gnsnn_jax.engine.split import SpikingNetwork


class Coefficients(NamedTuple):
    """The operations of a network with ones in place of coefficients.

    Args:
        network: of one trace.
        values: of what does not vary in time, of the same trace.
        given: the slots of it that depend on the data, which counts as never zero.
    """

    network: SpikingNetwork
    values: Mapping[Slot, Any]
    given: Collection[Slot]

    def transposed(self, operation: Operation, position: int, counts: Sequence[Array]) -> Array:
        """Counts at the outputs of an operation as counts at one of its inputs, each coefficient being one."""
        ones = self.of(operation)
        put = lambda x: bind_single(operation, [*ones[:position], x, *ones[position + 1 :]])
        _, transpose = jax.vjp(put, ones[position])
        (found,) = transpose(list(counts))
        return jnp.abs(found)

    def of(self, operation: Operation) -> list[Array]:
        """The inputs of an operation, ones in place of what varies and of coefficients that are not zero."""
        return [self._one_for(operation, position) for position in range(len(operation.inputs))]

    def keeps_apart(self, operation: Operation) -> bool:
        """Whether it adds up no two values: a fixed map too may do nothing but move them."""
        if not is_weighted(operation):
            return known_rule_of(operation.eqn).moves
        (most,) = bind_single(operation, self.of(operation))
        return bool(jnp.max(most) <= 1)

    def _one_for(self, operation: Operation, position: int) -> Array:
        slot, shape = operation.inputs[position], type_of(operation.eqn.invars[position]).shape
        if slot in self.network.varying:
            return jnp.ones(shape, jnp.float32)
        value = jnp.asarray(self.values[slot])
        if not jnp.issubdtype(value.dtype, jnp.floating) and not is_weighted(operation):
            return value
        if slot in self.given or position in known_rule_of(operation.eqn).divisors:
            return jnp.ones(shape, jnp.float32)
        return (value != 0).astype(jnp.float32)


def is_weighted(operation: Operation) -> bool:
    return known_rule_of(operation.eqn).weighted


def bind_single(operation: Operation, values: Sequence[Any]) -> list[Array]:
    """Applies an operation in float32, which holds counts exactly, whatever it was traced in."""
    eqn = operation.eqn
    if known_rule_of(eqn).casts:
        return [values[0]]
    params = eqn.params | _in_single_precision(eqn.params)
    with eqn.ctx.manager:
        outputs = eqn.primitive.bind(*values, **eqn.primitive.get_bind_params(params))
    return list(outputs) if eqn.primitive.multiple_results else [outputs]


def _in_single_precision(params: Mapping[str, Any]) -> dict[str, Any]:
    single = {"precision": (jax.lax.Precision.HIGHEST,) * 2, "preferred_element_type": jnp.dtype(jnp.float32)}
    return {name: value for name, value in single.items() if name in params}
