"""A traced network without calls: its operations in order, and which of them are activations.

An activation is a call of `qcfs`, or a cut at 0 from below: `jax.nn.relu` and `relu6` wherever they
stand, and behind weights `maximum(x, 0)`, `clip(x, 0, a)` and their like. Before the weights such a
cut keeps pixels or variances in range, and is no activation.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal

from gnsnn_jax._types import Array
from gnsnn_jax.engine.jaxprs import (
    WEIGHTED,
    applies,
    bind,
    called_by,
    has_own_gradient,
    inner_jaxprs,
    library_function,
    place_of,
    scope_of,
)
from gnsnn_jax.method.activations import qcfs_p

Slot = int  # names a value; every value of a network has its own


class Origin(NamedTuple):
    """Where an operation comes from, as far as the calls around it tell: line of the user's code, modules, and
    function of `jax.nn`."""

    place: str | None = None
    scope: tuple[str, ...] = ()
    function: str | None = None

    def inside(self, eqn: JaxprEqn) -> Origin:
        """The origin of the operations within an equation."""
        return Origin(place_of(eqn) or self.place, self.scope + scope_of(eqn), self.function or library_function(eqn))


class Activation(NamedTuple):
    """What makes an operation an activation; `threshold` is its own, that of `qcfs` or the bound of a clip."""

    name: str
    kind: str
    current: Slot
    threshold: Slot | None


class Operation(NamedTuple):
    """An equation without calls around it; one that is `absorbed` is a part of the activation after it."""

    eqn: JaxprEqn
    inputs: tuple[Slot, ...]
    outputs: tuple[Slot, ...]
    origin: Origin
    activation: Activation | None = None
    absorbed: bool = False

    @property
    def is_activation(self) -> bool:
        return self.activation is not None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.eqn.outvars[0].aval.shape


@dataclass
class Network:
    """The operations of a traced network in order, its calls entered, its activations marked and named."""

    inputs: tuple[Slot, ...] = ()
    outputs: tuple[Slot, ...] = ()
    constants: dict[Slot, Any] = field(default_factory=dict)
    operations: list[Operation] = field(default_factory=list)
    new_slot: Callable[[], Slot] = field(default_factory=lambda: itertools.count().__next__)

    @property
    def activations(self) -> list[Operation]:
        return [operation for operation in self.operations if operation.is_activation]

    def constant(self, value: Any) -> Slot:
        slot = self.new_slot()
        self.constants[slot] = value
        return slot


def network_of(traced: ClosedJaxpr) -> Network:
    """Enters the calls of a traced network, and marks and names its activations."""
    network = _entered(traced)
    network.operations = _named(_marked(network))
    return network


def evaluate(
    network: Network,
    inputs: Sequence[Any],
    wanted: Iterable[Slot],
    activate: Callable[[Operation, Sequence[Any]], Array] | None = None,
) -> list[Any]:
    """The values of the wanted slots, from as few operations as they take.

    `activate(operation, values)` takes the place of each activation; its values are the current and,
    if it has one, its own threshold.
    """
    wanted = list(wanted)
    values = network.constants | dict(zip(network.inputs, inputs, strict=True))
    for operation in _needed(network.operations, wanted):
        if operation.is_activation and activate:
            found = operation.activation
            given = [found.current] if found.threshold is None else [found.current, found.threshold]
            results = [activate(operation, [values[slot] for slot in given])]
        else:
            results = bind(operation.eqn, *(values[slot] for slot in operation.inputs))
        values.update(zip(operation.outputs, results, strict=True))
    return [values[slot] for slot in wanted]


def _needed(operations: Sequence[Operation], wanted: Iterable[Slot]) -> list[Operation]:
    needed, kept = set(wanted), []
    for operation in reversed(operations):
        if needed.intersection(operation.outputs):
            needed.update(operation.inputs)
            kept.append(operation)
    return kept[::-1]


# Entering calls.


def _entered(traced: ClosedJaxpr) -> Network:
    network = Network()
    network.inputs = tuple(network.new_slot() for _ in traced.jaxpr.invars)
    network.outputs = tuple(_enter(network, traced, network.inputs, Origin()))
    return network


def _enter(network: Network, called: ClosedJaxpr, inputs: Sequence[Slot], origin: Origin) -> list[Slot]:
    """Adds the operations of a jaxpr to the network; returns the slots of its outputs."""
    slots = dict(zip(called.jaxpr.constvars, map(network.constant, called.consts), strict=True))
    slots.update(zip(called.jaxpr.invars, inputs, strict=True))

    def slot_of(atom):
        return network.constant(atom.val) if isinstance(atom, Literal) else slots[atom]

    for eqn in called.jaxpr.eqns:
        outputs = _add(network, eqn, tuple(map(slot_of, eqn.invars)), origin)
        slots.update(zip(eqn.outvars, outputs, strict=True))
    return [slot_of(atom) for atom in called.jaxpr.outvars]


def _add(network: Network, eqn: JaxprEqn, inputs: tuple[Slot, ...], origin: Origin) -> Sequence[Slot]:
    called = called_by(eqn)
    if called and (not has_own_gradient(eqn) or _encloses_activation(eqn)):
        return _enter(network, called, inputs, origin.inside(eqn))
    outputs = tuple(network.new_slot() for _ in eqn.outvars)
    network.operations.append(Operation(eqn, inputs, outputs, origin))
    return outputs


def _encloses_activation(eqn: JaxprEqn) -> bool:
    """Whether within an equation, and not as all of it, is an activation that is one wherever it stands."""
    inside = (inner for jaxpr in inner_jaxprs(eqn) for inner in jaxpr.eqns)
    is_one = lambda inner: inner.primitive is qcfs_p or upper_bound(inner) is not None
    return upper_bound(eqn) is None and any(is_one(inner) or _encloses_activation(inner) for inner in inside)


# Marking activations.

_MADE_OF_BITS = ("random_bits", "bitcast_convert_type")  # random numbers, which are no currents
_KEEP_VALUES = ("convert_element_type", "broadcast_in_dim", "reshape", "squeeze", "expand_dims", "copy")


class _Cut(NamedTuple):
    """max(current, 0), or with a bound min(max(current, 0), bound); `parts` are values on the way to it."""

    current: Slot
    bound: Slot | None = None
    parts: tuple[Slot, ...] = ()


def _marked(network: Network) -> list[Operation]:
    """The operations with activations marked, nameless as yet."""
    cuts = _Cuts(network, _currents(network))
    found = {operation.outputs: cut for operation in network.operations if (cut := cuts.at(operation))}
    parts = {(slot,) for cut in found.values() for slot in cut.parts}
    return [
        _mark(operation, found.get(operation.outputs), operation.outputs in parts) for operation in network.operations
    ]


def _mark(operation: Operation, cut: _Cut | None, absorbed: bool) -> Operation:
    if operation.eqn.primitive is qcfs_p:
        return operation._replace(activation=Activation("", "qcfs", *operation.inputs))
    if absorbed or not cut:
        return operation._replace(absorbed=absorbed)
    kind = "relu" if cut.bound is None else "clip"
    return operation._replace(activation=Activation("", kind, cut.current, cut.bound))


def _currents(network: Network) -> set[Slot]:
    """What depends on the arguments behind weights, or behind an activation that is one wherever it stands."""
    given, currents = set(network.inputs), set()
    for operation in network.operations:
        eqn, is_qcfs = operation.eqn, operation.eqn.primitive is qcfs_p
        if not is_qcfs and (eqn.primitive.name in _MADE_OF_BITS or given.isdisjoint(operation.inputs)):
            continue
        given.update(operation.outputs)
        behind = not currents.isdisjoint(operation.inputs)
        if behind or is_qcfs or applies(eqn, WEIGHTED) or upper_bound(eqn) is not None:
            currents.update(operation.outputs)
    return currents


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
    body = _entered(called)
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
    inside = (operation for body in inner_jaxprs(eqn) for operation in _marked(_entered(body)))
    return any(operation.is_activation or holds_activation(operation.eqn) for operation in inside)


# Naming activations.


def _named(operations: Sequence[Operation]) -> list[Operation]:
    """The operations with each activation named after its module, else after its place in the code.

    Left out is the part of the module path that all layers share, which is the network itself. A name
    that occurs again gets a number: "act1", "act1#2".
    """
    scopes = [operation.origin.inside(operation.eqn).scope for operation in operations]
    layers = [scope for scope, each in zip(scopes, operations, strict=True) if applies(each.eqn, WEIGHTED)]
    activations = [scope for scope, each in zip(scopes, operations, strict=True) if each.is_activation]
    shared = _shared_depth([*layers, *activations])
    containers = {scope[:depth] for scope in layers for depth in range(len(scope) + 1)}
    taken: Counter[str] = Counter()
    return [
        _name(operation, scope, shared, scope in containers, taken) if operation.is_activation else operation
        for operation, scope in zip(operations, scopes, strict=True)
    ]


def _shared_depth(scopes: Sequence[tuple[str, ...]]) -> int:
    """How many names, from the outermost on, all scopes begin with."""
    return sum(1 for _ in itertools.takewhile(lambda names: len(set(names)) == 1, zip(*scopes, strict=False)))


def _name(operation: Operation, scope: tuple[str, ...], shared: int, in_container: bool, taken: Counter) -> Operation:
    kind = operation.activation.kind
    if scope:
        name = "/".join([*scope[shared:], kind] if in_container else scope[shared:]) or kind
    else:
        name = Path(operation.origin.inside(operation.eqn).place or kind).name
    taken[name] += 1
    name = name if taken[name] == 1 else f"{name}#{taken[name]}"
    return operation._replace(activation=operation.activation._replace(name=name))
