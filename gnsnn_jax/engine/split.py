"""The operations of a network, split into what spikes reach and what they do not.

Conversion asks that everything which a spike reaches be linear in the spikes; what is not is refused
here, all of it at once, each with the place in the user's code and what to do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

from gnsnn_jax.engine.graph import Network, Operation, Origin, Slot, needed
from gnsnn_jax.engine.jaxprs import called_by, has_own_gradient, inner_jaxprs, type_of
from gnsnn_jax.engine.names import by_present_names
from gnsnn_jax.engine.recognise import holds_activation, network_of, not_linear
from gnsnn_jax.engine.rules import NORM_REMEDY, is_linear, remedy_of
from gnsnn_jax.errors import InputError, nearest
from gnsnn_jax.method.activations import align

SHOWN_NAMES = 8  # in a sentence


@dataclass
class Program:
    """A network without calls: `fixed` is evaluated once, `timed` at each time-step after it.

    The inputs of an activation among `timed` are its current and its threshold.
    """

    inputs: tuple[Slot, ...]
    outputs: tuple[Slot, ...]
    constants: dict[Slot, Any]
    fixed: list[Operation] = field(default_factory=list)
    timed: list[Operation] = field(default_factory=list)
    has_time: set[Slot] = field(default_factory=set)
    analog: list[str] = field(default_factory=list)  # operations before all neurons that are not linear, with places
    kept: list[str] = field(default_factory=list)  # activations that stay what they are, for want of a threshold

    @property
    def activations(self) -> list[Operation]:
        return [operation for operation in self.timed if operation.is_activation]

    @property
    def is_sharded(self) -> bool:
        """Whether the type of some current says more than shape and dtype, as under explicit sharding."""
        currents = (type_of(activation.eqn.outvars[0]) for activation in self.activations)
        return any(aval != jax.core.ShapedArray(aval.shape, aval.dtype) for aval in currents)


def flatten(
    traced: ClosedJaxpr, inputs_have_time: Sequence[bool], thresholds: Mapping[str, Any] | None = None
) -> Program:
    """Enters every call of a traced network, sorts its operations and gives its activations their thresholds.

    A threshold of `thresholds`, by name, comes before one that the activation has itself. A ReLU without
    one that no spike reaches stays what it is.

    Raises InputError where no activation is to become neurons, for thresholds of activations that are not
    there or do not broadcast, and where spikes reach a ReLU without threshold or an operation that is not
    linear in them; the error names each of these, its file and line, and the remedy.
    """
    network = network_of(traced)
    thresholds = by_present_names(thresholds or {}, network.operations)
    _check_names(network, thresholds)
    sorting = _Sorting(network, inputs_have_time, thresholds)
    if sorting.refusals.lines:
        raise InputError(_refusal_text(sorting.refusals.lines))
    if not sorting.program.activations:
        raise InputError(_nothing_to_convert(network, inputs_have_time))
    return sorting.program


class _Refusals(NamedTuple):
    """What cannot be converted, each with its place: the innermost line of the user's code, which for
    an operation in a library function that JAX traced by itself is the line that called the function."""

    lines: list[str]
    origin: Origin = Origin()

    def inside(self, eqn: JaxprEqn) -> _Refusals:
        """The same list, for the operations within an equation."""
        return self.of(self.origin.inside(eqn))

    def of(self, origin: Origin) -> _Refusals:
        """The same list, for operations that come from there."""
        return _Refusals(self.lines, origin)

    def add(self, eqn: JaxprEqn, remedy: str, what: str | None = None) -> None:
        place = self.origin.inside(eqn).place or "unknown place"
        self.lines.append(f"{place}: {what or eqn.primitive.name}: {remedy}")

    def add_not_linear(self, eqn: JaxprEqn) -> None:
        """Adds the operation, or the function of `jax.nn` that it is a part of."""
        origin = self.origin.inside(eqn)
        if origin.function:
            return self.add(eqn, FUNCTION_REMEDIES.get(origin.function, _NO_RELU), origin.function)
        if has_own_gradient(eqn):
            return self.add(eqn, _NO_RELU)
        return self.add(eqn, NORM_REMEDY if origin.in_norm else remedy_of(eqn))


class _Sorting:
    def __init__(self, network: Network, inputs_have_time: Sequence[bool], thresholds: Mapping[str, Any]):
        self.network, self.thresholds = network, thresholds
        self.program = Program(network.inputs, network.outputs, network.constants)
        self.program.has_time = {
            slot for slot, has_time in zip(network.inputs, inputs_have_time, strict=True) if has_time
        }
        self.refusals = _Refusals([])
        self.unconverted: list[Operation] = []
        self.absorbed: list[Operation] = []
        for operation in network.operations:
            self._add(operation)
        self.program.analog = _in_words(self._in_front())
        self.program.kept = [f"{operation.activation.name}: no threshold" for operation in self.unconverted]

    def _add(self, operation: Operation) -> None:
        if operation.absorbed:
            self.absorbed.append(operation)
            return
        refusals = self.refusals.of(operation.origin)
        if operation.is_activation:
            operation = self._with_threshold(operation, refusals)
        have_time = [slot in self.program.has_time for slot in operation.inputs]
        spread = [True] if operation.is_activation else _spread(operation.eqn, have_time, refusals)
        self.program.has_time.update(slot for slot, timed in zip(operation.outputs, spread, strict=True) if timed)
        timed = any(have_time) or operation.is_activation
        (self.program.timed if timed else self.program.fixed).append(operation)

    def _in_front(self) -> list[Operation]:
        """What is evaluated once, lies behind weights and is not linear in the data."""
        return [each for each in not_linear(self.network) if each.outputs and each in self.program.fixed]

    def _with_threshold(self, operation: Operation, refusals: _Refusals) -> Operation:
        """The activation as neurons with a threshold, or as what it is where it has none and no spike reaches it."""
        name, kind, current, threshold = operation.activation
        if name in self.thresholds:
            given = jnp.asarray(self.thresholds[name])
            align(given, operation.shape, f"the threshold of {name!r}")
            threshold = self.network.constant(given)
        if threshold in self.program.has_time:
            refusals.add(operation.eqn, "the threshold depends on spikes; make it a parameter", kind)
        if threshold is not None:
            return operation._replace(inputs=(current, threshold))
        if current in self.program.has_time:
            refusals.add(operation.eqn, f"the activation {name!r} has no threshold; {_FIND_THRESHOLDS}", kind)
            return operation._replace(inputs=(current,))
        self.unconverted.append(operation)
        self.program.fixed.extend(needed(self.absorbed, operation.inputs))
        return operation._replace(activation=None)


_FIND_THRESHOLDS = (
    "find one from data and convert with thresholds=gnsnn_jax.find_thresholds(ann, batches, levels), or use relu6, "
    "clip(x, 0, a) or gnsnn_jax.qcfs, which have one"
)


def _check_names(network: Network, thresholds: Mapping[str, Any]) -> None:
    """Raises InputError for thresholds of activations that are not there."""
    known = [operation.activation.name for operation in network.activations]
    unknown = [name for name in thresholds if name not in known]
    if unknown:
        raise InputError(
            f"thresholds holds {_listed(unknown)}, but the network has the activations {_listed(known)}"
            f"{nearest(unknown[0], known)}"
        )


def _nothing_to_convert(network: Network, inputs_have_time: Sequence[bool]) -> str:
    """Says so, and what will be in the way once the activations have thresholds."""
    names = [operation.activation.name for operation in network.activations]
    if names:
        sorting = _Sorting(network, inputs_have_time, dict.fromkeys(names, 1.0))
        then = f"; but then {_refusal_text(sorting.refusals.lines)}" if sorting.refusals.lines else ""
        return f"the activations {_listed(names)} have no threshold; {_FIND_THRESHOLDS}{then}"
    return (
        "found no activation to turn into neurons; conversion looks for gnsnn_jax.qcfs, jax.nn.relu and jax.nn.relu6, "
        f"and behind weights for maximum(x, 0) and clip(x, 0, a){candidates(network)}"
    )


def candidates(network: Network) -> str:
    """The end of a sentence that found no activation: what might be one and what is in the way, a line for each."""
    found = _Refusals([])
    for operation in not_linear(network):
        inside = found.of(operation.origin)
        if holds_activation(operation.eqn):
            inside.add(operation.eqn, _HIDDEN_ACTIVATION[operation.eqn.primitive.name in CONTROL_FLOW])
        else:
            inside.add_not_linear(operation.eqn)
    lines = list(dict.fromkeys(found.lines))
    return "; these operations are not linear:\n" + "\n".join(f"  {line}" for line in lines) if lines else ""


def _in_words(operations: Sequence[Operation]) -> list[str]:
    """Place and name of each operation, each once."""
    words = []
    for operation in operations:
        origin = operation.origin.inside(operation.eqn)
        words.append(f"{origin.place or 'unknown place'}: {origin.function or operation.eqn.primitive.name}")
    return list(dict.fromkeys(words))


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:SHOWN_NAMES]))
    return shown + (f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else "") or "none"


# How time spreads.

_APPLY_AFTERWARDS = "leave it out of the network and apply it to the mean of the outputs over time"
_NO_RELU = (
    "conversion knows the activations relu, clip(x, 0, a) and gnsnn_jax.qcfs; use one, or move this out of the network"
)
# Of functions of jax.nn that are no activations.
FUNCTION_REMEDIES = {
    **dict.fromkeys(["softmax", "log_softmax", "logsumexp"], _APPLY_AFTERWARDS),
    "standardize": NORM_REMEDY,
}
_HIDDEN_ACTIVATION = {
    True: "an activation inside would need a neuron for each pass; write the layers out one by one",
    False: "an activation inside cannot be reached; apply this to the converted network instead",
}
CONTROL_FLOW = ("scan", "while", "cond")


def _spread(eqn: JaxprEqn, have_time: Sequence[bool], refusals: _Refusals) -> list[bool]:
    """Which outputs of an operation vary in time when these inputs do; adds what cannot be to `refusals`."""
    name = eqn.primitive.name
    if holds_activation(eqn):
        refusals.add(eqn, _HIDDEN_ACTIVATION[name in CONTROL_FLOW])
        return [True] * len(eqn.outvars)
    if not any(have_time):
        return [False] * len(eqn.outvars)
    if name in CONTROL_FLOW:
        return _spread_control_flow(eqn, have_time, refusals)
    if called := called_by(eqn):
        return _spread_through(called.jaxpr, have_time, refusals.inside(eqn))
    if not is_linear(eqn, [position for position, timed in enumerate(have_time) if timed]):
        refusals.add_not_linear(eqn)
    return [True] * len(eqn.outvars)


def _spread_through(jaxpr: Jaxpr, have_time: Sequence[bool], refusals: _Refusals) -> list[bool]:
    timed = {var for var, has_time in zip(jaxpr.invars, have_time, strict=True) if has_time}
    is_timed = lambda atom: not isinstance(atom, Literal) and atom in timed
    for eqn in jaxpr.eqns:
        spread = _spread(eqn, [is_timed(atom) for atom in eqn.invars], refusals)
        timed.update(var for var, has_time in zip(eqn.outvars, spread, strict=True) if has_time)
    return [is_timed(atom) for atom in jaxpr.outvars]


def _spread_control_flow(eqn: JaxprEqn, have_time: Sequence[bool], refusals: _Refusals) -> list[bool]:
    """Loops and branches are applied as they are: they may carry spikes, not be steered by them."""
    if eqn.primitive.name == "cond":
        if have_time[0]:
            refusals.add(eqn, "the branch taken must not depend on spikes")
        inside = refusals.inside(eqn)
        branches = [_spread_through(body.jaxpr, have_time[1:], inside) for body in inner_jaxprs(eqn)]
        return [any(timed) for timed in zip(*branches, strict=True)]
    return (_spread_scan if eqn.primitive.name == "scan" else _spread_while)(eqn, have_time, refusals)


def _spread_scan(eqn: JaxprEqn, have_time: Sequence[bool], refusals: _Refusals) -> list[bool]:
    body = eqn.params["jaxpr"].jaxpr
    # A scanned input or output has one axis more outside of the body than in it.
    whole = lambda outside, inside: sum(o.aval.shape == i.aval.shape for o, i in zip(outside, inside, strict=True))
    carried = whole(eqn.outvars, body.outvars)
    fixed = whole(eqn.invars, body.invars) - carried
    head, carry, scanned = have_time[:fixed], have_time[fixed : fixed + carried], have_time[fixed + carried :]
    carry, spread = _spread_carry(body, head, carry, scanned, refusals.inside(eqn))
    return [*carry, *spread[carried:]]


def _spread_while(eqn: JaxprEqn, have_time: Sequence[bool], refusals: _Refusals) -> list[bool]:
    test_consts, body_consts = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    of_test, of_body = have_time[:test_consts], have_time[test_consts : test_consts + body_consts]
    body, carry = eqn.params["body_jaxpr"].jaxpr, have_time[test_consts + body_consts :]
    carry, _ = _spread_carry(body, of_body, carry, [], refusals.inside(eqn))
    if any(_spread_through(eqn.params["cond_jaxpr"].jaxpr, [*of_test, *carry], _Refusals([]))):
        refusals.add(eqn, "the number of passes must not depend on spikes")
    return carry


def _spread_carry(body: Jaxpr, fixed, carry, scanned, refusals: _Refusals) -> tuple[list[bool], list[bool]]:
    """What of the carry has time once some pass gave it time, and what of the body's outputs has."""
    carry = list(carry)
    while True:
        found = _Refusals([], refusals.origin)
        spread = _spread_through(body, [*fixed, *carry, *scanned], found)
        grown = [old or new for old, new in zip(carry, spread, strict=False)]
        if grown == carry:
            refusals.lines.extend(found.lines)
            return carry, spread
        carry = grown


def _refusal_text(refusals: list[str]) -> str:
    unique = list(dict.fromkeys(refusals))
    count = "an operation that is" if len(unique) == 1 else f"{len(unique)} operations that are"
    return f"spikes reach {count} not linear in them:\n" + "\n".join(f"  {line}" for line in unique)
