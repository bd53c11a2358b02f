"""The operations of a network, split into what varies in time and what does not, and how what varies runs over time.

A value that varies in time is held in one of two views, see `engine.views`. What has no meaning
for a mean is refused here, all of it at once, each with the place in the user's code and what to do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

from gnsnn_jax.engine.encoders import Encoders
from gnsnn_jax.engine.graph import Network, Operation, Origin, Slot, needed
from gnsnn_jax.engine.jaxprs import CONTROL_FLOW, called_by, inner_jaxprs, parts_of_scan, type_of
from gnsnn_jax.engine.names import by_present_names
from gnsnn_jax.engine.recognise import holds_activation, network_of, not_linear
from gnsnn_jax.engine.rules import OverTime, is_linear, known_rule_of, rule_of
from gnsnn_jax.engine.views import How, View, better_held_as_means
from gnsnn_jax.errors import InputError, nearest
from gnsnn_jax.method.activations import align

SHOWN_NAMES = 8  # in a sentence


@dataclass
class SpikingNetwork:
    """A network without calls: `static` operations are evaluated once, `dynamic` ones at each time-step after them.

    The inputs of an activation among `dynamic` are its current and its threshold; a population stands there.
    """

    inputs: tuple[Slot, ...]
    outputs: tuple[Slot, ...]
    constants: dict[Slot, Any]
    static: list[Operation] = field(default_factory=list)
    dynamic: list[Operation] = field(default_factory=list)
    views: dict[Slot, View] = field(default_factory=dict)  # of what varies in time
    analog: list[str] = field(default_factory=list)  # operations before all neurons that are not linear, with places
    kept: list[str] = field(default_factory=list)  # activations that stay what they are, for want of a threshold
    how: dict[tuple[Slot, ...], How] = field(default_factory=dict)  # dynamic operations that are no activations
    ann: Network = field(default_factory=Network)  # the network before it was split, of the same trace and slots

    @property
    def varying(self) -> Mapping[Slot, View]:
        """The slots of the values that vary in time."""
        return self.views

    @property
    def populations(self) -> list[Operation]:
        return [operation for operation in self.dynamic if operation.is_activation]

    @property
    def encodes_means(self) -> bool:
        """Whether neurons stand behind operations that run on means."""
        return any(self.views.get(population.inputs[0]) is View.MEANS for population in self.populations)

    @property
    def on_means(self) -> list[str]:
        """Place and name of each operation that runs on means or sums, in full at every time-step."""
        runs = [each for each in self.dynamic if self.how.get(each.outputs, How.LINEAR) is not How.LINEAR]
        return _in_words(runs)

    @property
    def is_sharded(self) -> bool:
        """Whether the type of some value says more than shape and dtype, as under explicit sharding."""
        avals = (type_of(var) for operation in self.dynamic for var in operation.eqn.outvars)
        return any(aval != jax.core.ShapedArray(aval.shape, aval.dtype, aval.weak_type) for aval in avals)


def split(
    traced: ClosedJaxpr,
    inputs_vary: Sequence[bool],
    thresholds: Mapping[str, Any] | None = None,
    encoders: Encoders = "auto",
) -> SpikingNetwork:
    """Enters every call of a traced network, sorts its operations and gives its activations their thresholds.

    A threshold of `thresholds`, by name, comes before one that the activation has itself. A ReLU or an encoder
    without one that no spike reaches stays what it is.

    Raises:
        InputError: where no activation is to become neurons, for thresholds of activations that are not there or do
            not broadcast, and where spikes reach an activation without threshold or an operation that has no
            meaning for their mean; the error names each of these, its file and line, and the remedy.
    """
    network = network_of(traced, encoders)
    thresholds = by_present_names(thresholds or {}, network.operations)
    _check_names(network, thresholds)
    sorting = _Sorting(network, inputs_vary, thresholds)
    if sorting.refusals.lines:
        raise InputError(_refusal_text(sorting.refusals.lines))
    if not sorting.found.populations:
        raise InputError(_nothing_to_convert(network, inputs_vary))
    return sorting.found


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
        """Adds the operation, or the function of `jax.nn` that it is a part of."""
        origin = self.origin.inside(eqn)
        name = what or origin.function or eqn.primitive.name
        self.lines.append(f"{origin.place or 'unknown place'}: {name}: {remedy}")


class _Sorting:
    def __init__(self, network: Network, inputs_vary: Sequence[bool], thresholds: Mapping[str, Any]):
        self.network, self.thresholds = network, thresholds
        self.found = SpikingNetwork(network.inputs, network.outputs, network.constants, ann=network)
        vary = (slot for slot, varies in zip(network.inputs, inputs_vary, strict=True) if varies)
        self.found.views = dict.fromkeys(vary, View.INCREMENTS)
        self.refusals = _Refusals([])
        self.unconverted: list[Operation] = []
        self.absorbed: list[Operation] = []
        self.refused: set[tuple[Slot, ...]] = set()
        for operation in network.operations:
            self._add(operation)
        self._check_outputs()
        self._hold_means()
        self.found.analog = _in_words(self._in_front())
        self.found.kept = [f"{operation.activation.name}: no threshold" for operation in self.unconverted]

    def _add(self, operation: Operation) -> None:
        if operation.absorbed:
            self.absorbed.append(operation)
            return
        refusals = self.refusals.of(operation.origin)
        if operation.is_activation:
            operation = self._with_threshold(operation, refusals)
        vary = [slot in self.found.views for slot in operation.inputs]
        if operation.is_activation:
            self.found.views.update(dict.fromkeys(operation.outputs, View.INCREMENTS))
        elif any(vary):
            self._run_over_time(operation, vary, refusals)
        elif holds_activation(operation.eqn):  # in front of the neurons too, where it would silently stay analog
            refusals.add(operation.eqn, _HIDDEN_ACTIVATION)
        (self.found.dynamic if any(vary) or operation.is_activation else self.found.static).append(operation)

    def _run_over_time(self, operation: Operation, vary: Sequence[bool], refusals: _Refusals) -> None:
        over_time = _over_time(operation.eqn, vary, refusals)
        if over_time is OverTime.REFUSED:
            self.refused.add(operation.outputs)
        views = {self.found.views[slot] for slot in operation.inputs if slot in self.found.views}
        how = _how(operation.eqn, over_time, View.MEANS in views)
        self.found.how[operation.outputs] = how
        view = View.MEANS if how is How.OF_MEANS or View.MEANS in views else View.INCREMENTS
        self.found.views.update(dict.fromkeys(operation.outputs, view))

    def _hold_means(self) -> None:
        """Chooses between the views where both would do."""
        found = self.found
        means = better_held_as_means(found.dynamic, found.outputs, found.how, found.views)
        found.views.update(dict.fromkeys(means, View.MEANS))
        on_sums = (outputs for outputs, how in found.how.items() if how is How.OF_SUMS)
        found.how.update({outputs: How.OF_MEANS for outputs in on_sums if means.issuperset(outputs)})

    def _in_front(self) -> list[Operation]:
        """What is evaluated once, lies behind weights and is not linear in the data."""
        return [each for each in not_linear(self.network) if each.outputs and each in self.found.static]

    def _check_outputs(self) -> None:
        """Outputs are increments, and of whole numbers and truth values there are none."""
        makers = {slot: operation for operation in self.found.dynamic for slot in operation.outputs}
        for slot in self.network.outputs:
            if self._has_no_increments(slot, makers) and makers[slot].outputs not in self.refused:
                self.refusals.of(makers[slot].origin).add(makers[slot].eqn, _NO_FLOAT)

    def _has_no_increments(self, slot: Slot, makers: Mapping[Slot, Operation]) -> bool:
        is_mean = self.found.views.get(slot) is View.MEANS and slot in makers
        return is_mean and not _makes_floats(makers[slot], slot)

    def _with_threshold(self, operation: Operation, refusals: _Refusals) -> Operation:
        """The activation as neurons with a threshold, or as what it is where it has none and no spike reaches it."""
        name, kind, current, threshold = operation.activation
        if name in self.thresholds:
            given = jnp.asarray(self.thresholds[name])
            align(given, operation.shape, f"the threshold of {name!r}")
            threshold = self.network.constant(given)
        if threshold in self.found.views:
            refusals.add(operation.eqn, "the threshold depends on spikes; make it a parameter", kind)
        if threshold is not None:
            return operation._replace(inputs=(current, threshold))
        if current in self.found.views:
            what = "encoder" if kind == "encoder" else "activation"
            refusals.add(operation.eqn, f"the {what} {name!r} has no threshold; {_FIND_THRESHOLDS}", kind)
            return operation._replace(inputs=(current,))
        self.unconverted.append(operation)
        self.found.static.extend(needed(self.absorbed, operation.inputs))
        return operation._replace(activation=None)


_FIND_THRESHOLDS = "find_thresholds finds one for each activation and encoder, and thresholds={...} gives them"
_NO_FLOAT = (
    "an output that is no floating-point number has no mean over time; leave it out of the network and apply it to "
    "the mean of the outputs over time"
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


def _nothing_to_convert(network: Network, inputs_vary: Sequence[bool]) -> str:
    """Says so, and what will be in the way once the activations have thresholds."""
    names = [operation.activation.name for operation in network.activations]
    if names:
        sorting = _Sorting(network, inputs_vary, dict.fromkeys(names, 1.0))
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
        inside, eqn = found.of(operation.origin), operation.eqn
        inside.add(eqn, _HIDDEN_ACTIVATION if holds_activation(eqn) else _NO_ACTIVATION)
    lines = list(dict.fromkeys(found.lines))
    return "; these operations are not linear:\n" + "\n".join(f"  {line}" for line in lines) if lines else ""


_NO_ACTIVATION = (
    "conversion knows the activations relu, clip(x, 0, a) and gnsnn_jax.qcfs; weights behind this operation would get "
    "an encoder"
)
_HIDDEN_ACTIVATION = (
    "an activation inside of a while loop, of a branch that depends on spikes or of a function with a gradient of its "
    "own cannot be reached; write it out, or use scan, which is unrolled"
)


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


def _refusal_text(refusals: Sequence[str]) -> str:
    unique = list(dict.fromkeys(refusals))
    count = "an operation that does" if len(unique) == 1 else f"{len(unique)} operations that do"
    return f"spikes reach {count} not convert:\n" + "\n".join(f"  {line}" for line in unique)


def _makes_floats(operation: Operation, slot: Slot) -> bool:
    var = operation.eqn.outvars[operation.outputs.index(slot)]
    return jnp.issubdtype(type_of(var).dtype, jnp.inexact)


# How an operation runs over time.


def _how(eqn: JaxprEqn, over_time: OverTime | None, of_means: bool) -> How:
    """`over_time` is None for a linear one. Sums are for increments: of means there are means already."""
    if over_time is None:
        return How.LINEAR
    floats = all(jnp.issubdtype(type_of(var).dtype, jnp.floating) for var in eqn.outvars)
    return How.OF_SUMS if over_time is OverTime.OF_SUMS and floats and not of_means else How.OF_MEANS


def _over_time(eqn: JaxprEqn, vary: Sequence[bool], refusals: _Refusals) -> OverTime | None:
    """How an operation runs over time whose operands vary so, None if it is linear in them; adds to `refusals`
    what does not convert."""
    if holds_activation(eqn):
        refusals.add(eqn, _HIDDEN_ACTIVATION)
        return OverTime.REFUSED
    if is_linear(eqn, _positions(vary)):
        return None
    if _is_followed(eqn):
        return _over_time_within(eqn, vary, refusals)
    rule = known_rule_of(eqn)
    if rule.otherwise is OverTime.REFUSED:
        refusals.add(eqn, rule.remedy)
    return rule.otherwise


def _is_followed(eqn: JaxprEqn) -> bool:
    """Whether what runs within it decides how an operation runs over time."""
    return eqn.primitive.name in CONTROL_FLOW or _applied_by(eqn) is not None


def _applied_by(eqn: JaxprEqn) -> ClosedJaxpr | None:
    """The body of a call, or of what has no rule and applies one function to its operands, such as `shard_map`.

    What has a rule may hold functions too, such as the one that a scatter combines two values by.
    """
    bodies = list(inner_jaxprs(eqn))
    applies_one = len(bodies) == 1 and len(bodies[0].jaxpr.invars) == len(eqn.invars)
    return called_by(eqn) or (bodies[0] if applies_one and not rule_of(eqn) else None)


def _positions(vary: Sequence[bool]) -> list[int]:
    return [position for position, varies in enumerate(vary) if varies]


def _over_time_within(eqn: JaxprEqn, vary: Sequence[bool], refusals: _Refusals) -> OverTime | None:
    """The same of a loop, a branch or a call, which is applied as a whole: linear if all within it is."""
    bent: list[JaxprEqn] = []
    _Within(refusals.inside(eqn), bent).outputs_of(eqn, vary)
    return OverTime.OF_MEANS if bent else None


class _Within(NamedTuple):
    """Follows what varies through the bodies of loops, branches and calls; `bent` collects what is not linear."""

    refusals: _Refusals
    bent: list[JaxprEqn]

    def outputs_of(self, eqn: JaxprEqn, vary: Sequence[bool]) -> list[bool]:
        """Which outputs of an equation vary when these inputs do."""
        follow = {"cond": self._of_cond, "scan": self._of_scan, "while": self._of_while}.get(eqn.primitive.name)
        if follow:
            return follow(eqn, vary)
        if called := _applied_by(eqn):
            return self._through(called.jaxpr, vary)
        return [any(vary)] * len(eqn.outvars)

    def _through(self, jaxpr: Jaxpr, vary: Sequence[bool]) -> list[bool]:
        varying = {var for var, varies in zip(jaxpr.invars, vary, strict=True) if varies}
        varies = lambda atom: not isinstance(atom, Literal) and atom in varying
        for eqn in jaxpr.eqns:
            given = [varies(atom) for atom in eqn.invars]
            if not any(given):
                continue
            over_time = _over_time(eqn, given, self.refusals)
            if over_time is not None:
                self.bent.append(eqn)
            outputs = self.outputs_of(eqn, given) if _is_followed(eqn) else None
            varying.update(var for at, var in enumerate(eqn.outvars) if outputs is None or outputs[at])
        return [varies(atom) for atom in jaxpr.outvars]

    def _of_cond(self, eqn: JaxprEqn, vary: Sequence[bool]) -> list[bool]:
        if vary[0]:
            self.refusals.add(eqn, "the branch taken must not depend on spikes; use jnp.where, which converts")
        branches = [self._through(body.jaxpr, vary[1:]) for body in inner_jaxprs(eqn)]
        return [any(varies) for varies in zip(*branches, strict=True)]

    def _of_scan(self, eqn: JaxprEqn, vary: Sequence[bool]) -> list[bool]:
        fixed, carried = parts_of_scan(eqn)
        head, carry, scanned = vary[:fixed], vary[fixed : fixed + carried], vary[fixed + carried :]
        carry, outputs = self._through_passes(eqn.params["jaxpr"].jaxpr, head, carry, scanned)
        return [*carry, *outputs[carried:]]

    def _of_while(self, eqn: JaxprEqn, vary: Sequence[bool]) -> list[bool]:
        test_consts, body_consts = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
        of_test, of_body = vary[:test_consts], vary[test_consts : test_consts + body_consts]
        body, carry = eqn.params["body_jaxpr"].jaxpr, vary[test_consts + body_consts :]
        carry, _ = self._through_passes(body, of_body, carry, [])
        quiet = _Within(_Refusals([]), [])
        if any(quiet._through(eqn.params["cond_jaxpr"].jaxpr, [*of_test, *carry])):
            self.refusals.add(eqn, "the number of passes must not depend on spikes")
        return carry

    def _through_passes(self, body: Jaxpr, fixed, carry, scanned) -> tuple[list[bool], list[bool]]:
        """What of the carry varies once some pass made it vary, and what of the body's outputs does."""
        carry = list(carry)
        while True:
            found = _Within(_Refusals([], self.refusals.origin), [])
            outputs = found._through(body, [*fixed, *carry, *scanned])
            grown = [old or new for old, new in zip(carry, outputs, strict=False)]
            if grown == carry:
                self.refusals.lines.extend(found.refusals.lines)
                self.bent.extend(found.bent)
                return carry, outputs
            carry = grown
