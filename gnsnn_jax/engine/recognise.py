"""Which operations of a traced network are activations.

An activation is a call of `qcfs`, or a cut at 0 from below: `jax.nn.relu` and `relu6` wherever they
stand, and behind weights `maximum(x, 0)`, `clip(x, 0, a)` and their like. Before the weights such a
cut keeps pixels in range, and in a norm a variance: neither is an activation, and no cut of parameters is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, JaxprEqn

from gnsnn_jax.engine.graph import Activation, Network, Operation, Slot, entered
from gnsnn_jax.engine.jaxprs import WEIGHTED, applies, called_by, has_own_gradient, inner_jaxprs
from gnsnn_jax.engine.names import named
from gnsnn_jax.engine.rules import is_linear
from gnsnn_jax.method.activations import qcfs_p


def network_of(traced: ClosedJaxpr) -> Network:
    """Enters the calls of a traced network, and marks and names its activations."""
    network = entered(traced, _encloses_activation)
    network.operations = named(_marked(network))
    return network


_MADE_OF_BITS = ("random_bits", "bitcast_convert_type")  # random numbers, which are no currents
_KEEP_VALUES = ("convert_element_type", "broadcast_in_dim", "reshape", "squeeze", "expand_dims", "copy")


class _Cut(NamedTuple):
    """max(current, 0), or with a bound min(max(current, 0), bound); `parts` are values on the way to it."""

    current: Slot
    bound: Slot | None = None
    parts: tuple[Slot, ...] = ()


def _marked(network: Network) -> list[Operation]:
    """The operations with activations marked, nameless as yet."""
    data = _data_of(network)
    cuts = _Cuts(network, data.currents)
    found = {
        operation.outputs: cut
        for operation in network.operations
        if (cut := cuts.at(operation)) and _is_activation(network, data, operation, cut)
    }
    parts = {(slot,) for cut in found.values() for slot in cut.parts}
    return [
        _mark(operation, found.get(operation.outputs), operation.outputs in parts) for operation in network.operations
    ]


def _is_activation(network: Network, data: _Data, operation: Operation, cut: _Cut) -> bool:
    """Whether a cut is that of an activation: one of `jax.nn` is, and others unless they belong to a norm."""
    is_one = upper_bound(operation.eqn) is not None
    return is_one or cut.current not in data.bent or _feeds_layers(network, operation)


def _mark(operation: Operation, cut: _Cut | None, absorbed: bool) -> Operation:
    if operation.eqn.primitive is qcfs_p:
        return operation._replace(activation=Activation("", "qcfs", *operation.inputs))
    if absorbed or not cut:
        return operation._replace(absorbed=absorbed)
    kind = "relu" if cut.bound is None else "clip"
    return operation._replace(activation=Activation("", kind, cut.current, cut.bound))


class _Data(NamedTuple):
    """What depends on the data: all of it, what of it lies behind weights or an activation that is one wherever it
    stands, and what of it went through something that is not linear since the last of these."""

    given: set[Slot]
    currents: set[Slot]
    bent: set[Slot]


def _is_one_anywhere(eqn: JaxprEqn) -> bool:
    """Whether an operation is an activation wherever it stands."""
    return eqn.primitive is qcfs_p or upper_bound(eqn) is not None


def _data_of(network: Network) -> _Data:
    data = _Data(set(network.inputs) - network.parameters, set(), set())
    for operation in network.operations:
        eqn, is_qcfs = operation.eqn, operation.eqn.primitive is qcfs_p
        if not is_qcfs and (eqn.primitive.name in _MADE_OF_BITS or data.given.isdisjoint(operation.inputs)):
            continue
        data.given.update(operation.outputs)
        positions = [at for at, slot in enumerate(operation.inputs) if slot in data.given]
        is_product = applies(eqn, WEIGHTED) and len(data.currents.intersection(operation.inputs)) > 1
        starts = _is_one_anywhere(eqn) or (applies(eqn, WEIGHTED) and not is_product)
        if starts or not data.currents.isdisjoint(operation.inputs):
            data.currents.update(operation.outputs)
        if not starts and (not data.bent.isdisjoint(operation.inputs) or _bends(eqn, positions)):
            data.bent.update(operation.outputs)
    return data


def _bends(eqn: JaxprEqn, positions: Sequence[int]) -> bool:
    """Whether an operation is not linear in these operands; loops and branches count as if they were."""
    return has_own_gradient(eqn) or (not any(True for _ in inner_jaxprs(eqn)) and not is_linear(eqn, positions))


def _feeds_layers(network: Network, cut: Operation) -> bool:
    """Whether weights, another activation or the outputs read a value, and not only what is not linear in it.

    The variance in a norm is cut off at 0 too, but goes on into a square root.
    """
    reached, bent = set(cut.outputs), False
    for operation in network.operations:
        positions = [at for at, slot in enumerate(operation.inputs) if slot in reached]
        if not positions or operation is cut:
            continue
        if (
            applies(operation.eqn, WEIGHTED)
            or operation.eqn.primitive is qcfs_p
            or upper_bound(operation.eqn) is not None
        ):
            return True
        if _bends(operation.eqn, positions):
            bent = True
        else:
            reached.update(operation.outputs)
    return not bent and not reached.isdisjoint(network.outputs)


class _Cuts:
    """Finds the activations among the operations of a network that cut currents off below 0."""

    def __init__(self, network: Network, currents: set[Slot]):
        self.network, self.currents = network, currents
        self.makers = {slot: operation for operation in network.operations for slot in operation.outputs}
        used = (slot for operation in network.operations for slot in operation.inputs)
        self.uses = Counter([*used, *network.outputs])

    def at(self, operation: Operation) -> _Cut | None:
        """The cut whose last operation this is."""
        if self.currents.isdisjoint(operation.outputs) or not _makes_floats(operation.eqn):
            return None
        bound = upper_bound(operation.eqn)
        if bound is not None:
            return self._bounded(operation.inputs[0], self.network.constant(np.float32(bound)))
        find = {"clamp": self._at_clamp, "max": self._at_max, "min": self._at_min}.get(operation.eqn.primitive.name)
        return find(operation.inputs) if find else None

    def _at_clamp(self, inputs: Sequence[Slot]) -> _Cut | None:
        low, current, bound = inputs
        return self._bounded(current, bound) if self.uniform(low) == 0 else None

    def _at_max(self, inputs: Sequence[Slot]) -> _Cut | None:
        current, low = self._current_first(inputs)
        if self.uniform(low) != 0:
            return None
        below = self._maker_for_this_alone(current)
        if below and below.eqn.primitive.name == "min":
            inner, bound = self._current_first(below.inputs)
            if cut := self._bounded(inner, bound, current):
                return cut
        return _Cut(current)

    def _at_min(self, inputs: Sequence[Slot]) -> _Cut | None:
        current, bound = self._current_first(inputs)
        above = self._maker_for_this_alone(current)
        cut = self.at(above) if above else None
        return self._bounded(cut.current, bound, current) if cut and cut.bound is None else None

    def _bounded(self, current: Slot, bound: Slot, *parts: Slot) -> _Cut | None:
        """The cut at a bound that is no current itself and not known to be 0 or less."""
        value = self.uniform(bound)
        if bound in self.currents or (value is not None and not value > 0):
            return None
        return _Cut(current, None if value == np.inf else bound, parts)

    def _current_first(self, inputs: Sequence[Slot]) -> tuple[Slot, Slot]:
        first, second = inputs
        return (first, second) if first in self.currents else (second, first)

    def _maker_for_this_alone(self, slot: Slot) -> Operation | None:
        return self.makers.get(slot) if self.uses[slot] == 1 else None

    def uniform(self, slot: Slot) -> float | None:
        """The one number that a value consists of, where it is known."""
        if slot in self.network.constants:
            return _uniform_value(self.network.constants[slot])
        maker = self.makers.get(slot)
        return self.uniform(maker.inputs[0]) if maker and maker.eqn.primitive.name in _KEEP_VALUES else None


def _uniform_value(value: Any) -> float | None:
    if isinstance(value, jax.core.Tracer) or not jnp.issubdtype(jnp.result_type(value), jnp.number):
        return None
    array = np.asarray(value)
    return float(array.flat[0]) if array.size and (array == array.flat[0]).all() else None


def _makes_floats(eqn: JaxprEqn) -> bool:
    return jnp.issubdtype(getattr(eqn.outvars[0].aval, "dtype", None), jnp.floating)


def upper_bound(eqn: JaxprEqn) -> float | None:
    """Where a function with a gradient of its own that does nothing but cut off currents cuts them.

    6 for a call of `jax.nn.relu6`, infinity for one of `jax.nn.relu`, None for anything else.
    """
    called = called_by(eqn)
    if not called or not has_own_gradient(eqn) or len(called.jaxpr.invars) != 1 or len(eqn.outvars) != 1:
        return None
    body = entered(called, _encloses_activation)
    given = set(body.inputs)
    for operation in body.operations:
        given.update(operation.outputs if given.intersection(operation.inputs) else ())
    cuts = _Cuts(body, given)
    last = cuts.makers.get(body.outputs[0])
    cut = cuts.at(last) if last else None
    if cut is None or cut.current != body.inputs[0]:
        return None
    return np.inf if cut.bound is None else cuts.uniform(cut.bound)


def holds_activation(eqn: JaxprEqn) -> bool:
    """Whether an operation that is not entered, such as a loop, has activations within it."""
    inside = (operation for body in inner_jaxprs(eqn) for operation in _marked(entered(body, _encloses_activation)))
    return any(operation.is_activation or holds_activation(operation.eqn) for operation in inside)


def _encloses_activation(eqn: JaxprEqn) -> bool:
    """Whether within an equation, and not as all of it, is an activation that is one wherever it stands."""
    inside = (inner for jaxpr in inner_jaxprs(eqn) for inner in jaxpr.eqns)
    is_one = lambda inner: inner.primitive is qcfs_p or upper_bound(inner) is not None
    return upper_bound(eqn) is None and any(is_one(inner) or _encloses_activation(inner) for inner in inside)


def not_linear(network: Network) -> list[Operation]:
    """The operations behind weights that are not linear in the data and no activations: what stays analog in front
    of the first neurons, and candidates where no activation was found."""
    data = _data_of(network)
    return [each for each in network.operations if _stays_analog(each, data)]


def _stays_analog(operation: Operation, data: _Data) -> bool:
    positions = [at for at, slot in enumerate(operation.inputs) if slot in data.given]
    if operation.is_activation or operation.absorbed or not positions:
        return False
    is_behind = not data.currents.isdisjoint(operation.inputs)
    return holds_activation(operation.eqn) or (is_behind and _bends(operation.eqn, positions))
