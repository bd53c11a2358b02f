"""Encoders: populations of signed neurons in front of weights that would read something else than spikes.

Weights are applied to spikes. Behind a layer norm, a GELU or a product of two spike trains there are none, and so an
encoder stands in front of the weights that read such a value; it is an activation of the network like others, the
identity there, of kind "encoder" and named after the module that reads it. One value has one encoder, however many
weights read it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn

from gnsnn_jax.engine.dependence import bends
from gnsnn_jax.engine.graph import Activation, Network, Operation, Slot
from gnsnn_jax.engine.jaxprs import holds_jaxprs, type_of
from gnsnn_jax.engine.rules import OverTime, applies_weights, everywhere, is_weighted, known_rule_of
from gnsnn_jax.errors import InputError
from gnsnn_jax.xla.identity import identity_primitive

# Where encoders stand: in front of weights that read what is behind an operation that is not linear, and of both
# operands of products; also where weights read the linear result of other weights; nowhere.
Encoders = Literal["auto", "all"] | None

encode_p = identity_primitive("encode")


def checked_encoders(encoders: Encoders) -> Encoders:
    """Raises InputError for anything but "auto", "all" and None."""
    if encoders not in ("auto", "all", None):
        raise InputError(f'encoders must be "auto", "all" or None, got {encoders!r}')
    return encoders


def with_encoders(network: Network, operations: Sequence[Operation], encoders: Encoders) -> list[Operation]:
    """The operations with encoders, nameless as yet, in front of the weights that need them."""
    return list(_Placing(network, encoders).placed(operations)) if encoders else list(operations)


class _Placing:
    """Follows the data through the operations.

    weights   what weights may be made of: parameters, and arrays that the network closes over
    data      what depends on the data
    behind    what of it lies behind weights or an activation
    spikes    what is made of spikes alone, by what moves, scales, adds up and picks them
    bent      what is behind an operation that is not linear in the data since the last weights or activation
    """

    def __init__(self, network: Network, encoders: Encoders):
        self.network, self.encoders = network, encoders
        closed_over = (slot for slot, value in network.constants.items() if np.ndim(value))
        self.weights: set[Slot] = {*network.parameters, *closed_over}
        self.data: set[Slot] = set(network.inputs) - network.parameters
        self.behind: set[Slot] = set()
        self.spikes: set[Slot] = set()
        self.bent: set[Slot] = set()
        self.placed_at: dict[Slot, Slot] = {}

    def placed(self, operations: Iterable[Operation]) -> Iterable[Operation]:
        for operation in operations:
            positions = [at for at, slot in enumerate(operation.inputs) if slot in self.data]
            if not positions and not operation.is_activation:
                self._follow_parameters(operation)
            elif operation.is_activation:
                self._mark(operation, self.data, self.behind, self.spikes)
            elif self._is_layer(operation, positions):
                yield from self._encoders_before(operation, positions)
                operation = self._reading_encoders(operation)
                self._mark(operation, self.data, self.behind, *([self.bent] if len(positions) > 1 else []))
            else:
                self._follow_data(operation, positions)
            yield operation

    def _mark(self, operation: Operation, *sets: set[Slot]) -> None:
        for each in sets:
            each.update(operation.outputs)

    def _follow_parameters(self, operation: Operation) -> None:
        if not self.weights.isdisjoint(operation.inputs):
            self._mark(operation, self.weights)

    def _is_layer(self, operation: Operation, positions: Sequence[int]) -> bool:
        """Whether it multiplies data by weights or by data; a product with anything else is a fixed map."""
        if not is_weighted(operation.eqn):
            return False
        others = [slot for at, slot in enumerate(operation.inputs[:2]) if at not in positions]
        return all(slot in self.weights for slot in others)

    def _follow_data(self, operation: Operation, positions: Sequence[int]) -> None:
        eqn = operation.eqn
        read = {operation.inputs[at] for at in positions}
        self._mark(operation, self.data)
        if applies_weights(eqn) and holds_jaxprs(eqn):  # weights within a loop or a call
            return self._mark(operation, self.behind)
        if self._keeps_spikes(operation, positions):
            return self._mark(operation, self.behind, self.spikes)
        looks_up = eqn.primitive.name == "gather" and operation.inputs[0] in self.weights
        if looks_up or not self.behind.isdisjoint(read):
            self._mark(operation, self.behind)
        if not looks_up and (not self.bent.isdisjoint(read) or _bends(eqn, positions)):
            self._mark(operation, self.bent)

    def _keeps_spikes(self, operation: Operation, positions: Sequence[int]) -> bool:
        if not self.spikes.issuperset(operation.inputs[at] for at in positions):
            return False
        eqn, rule = operation.eqn, known_rule_of(operation.eqn)
        is_alone = len(positions) == len(operation.inputs)
        if rule.linear is everywhere and not rule.moves and not is_alone:  # adds something that is no spikes
            return False
        return not _bends(eqn, positions) or (rule.otherwise is OverTime.OF_SUMS and is_alone)

    def _encoders_before(self, operation: Operation, positions: Sequence[int]) -> Iterable[Operation]:
        for at in positions:
            slot = operation.inputs[at]
            if slot not in self.placed_at and self._needs_one(operation.eqn, slot, at, len(positions) > 1):
                yield self._encoder(operation, slot, at)

    def _needs_one(self, eqn: JaxprEqn, slot: Slot, position: int, is_product: bool) -> bool:
        if slot in self.spikes or slot not in self.behind or not _is_float(eqn, position):
            return False
        return self.encoders == "all" or is_product or slot in self.bent

    def _encoder(self, reader: Operation, slot: Slot, position: int) -> Operation:
        aval = type_of(reader.eqn.invars[position])
        (eqn,) = jax.make_jaxpr(encode_p.bind)(jax.ShapeDtypeStruct(aval.shape, aval.dtype)).eqns
        encoded = self.placed_at[slot] = self.network.new_slot()
        origin = reader.origin.inside(reader.eqn)
        encoder = Operation(eqn, (slot,), (encoded,), origin, Activation("", "encoder", slot, None))
        self._mark(encoder, self.data, self.behind, self.spikes)
        return encoder

    def _reading_encoders(self, operation: Operation) -> Operation:
        return operation._replace(inputs=tuple(self.placed_at.get(slot, slot) for slot in operation.inputs))


def _is_float(eqn: JaxprEqn, position: int) -> bool:
    return jnp.issubdtype(type_of(eqn.invars[position]).dtype, jnp.floating)


def _bends(eqn: JaxprEqn, positions: Sequence[int]) -> bool:
    """Whether an operation is not linear in these operands; of loops, branches and calls that is not looked up."""
    return holds_jaxprs(eqn) or bends(eqn, positions)
