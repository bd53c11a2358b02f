"""A traced network without calls: its operations in order, and which of them are activations.

`recognise` says what an activation is and marks them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal

from gnsnn_jax._types import Array
from gnsnn_jax.engine.frames import Frame, frames_of, library_function, place_of
from gnsnn_jax.engine.jaxprs import (
    bind,
    called_by,
    has_own_gradient,
    made_in_a_norm,
    scope_of,
    type_of,
    without_dead_code,
)
from gnsnn_jax.engine.loops import branched, unrolled
from gnsnn_jax.engine.parameters import parameter_p

Slot = int  # names a value; every value of a network has its own


class Origin(NamedTuple):
    """Where an operation comes from, as far as the calls around it tell: lines of code and modules, outermost
    first, function of `jax.nn`, and whether a normalisation."""

    frames: tuple[Frame, ...] = ()
    scope: tuple[str, ...] = ()
    function: str | None = None
    in_norm: bool = False
    passes: str = ""  # of the loops around it, whose module is not known yet: "[3]"

    @property
    def place(self) -> str | None:
        """File and line of the user's code, if JAX knows any."""
        return place_of(self.frames)

    def inside(self, eqn: JaxprEqn) -> Origin:
        """The origin of the operations within an equation."""
        scope = scope_of(eqn)
        numbered = (scope[0] + self.passes, *scope[1:]) if scope and self.passes else scope
        return Origin(
            self.frames + frames_of(eqn),
            self.scope + numbered,
            self.function or library_function(eqn),
            self.in_norm or made_in_a_norm(eqn),
            "" if scope else self.passes,
        )

    def in_pass(self, number: str) -> Origin:
        """The origin of the operations in one pass of a loop, such as "[3]", named at the module within the loop."""
        return self._replace(passes=self.passes + number)


class Activation(NamedTuple):
    """What makes an operation an activation; `threshold` is its own, that of `qcfs` or the bound of a clip."""

    name: str
    kind: str
    current: Slot
    threshold: Slot | None


class Operation(NamedTuple):
    """An equation without calls around it; one that is `absorbed` is a part of the activation after it.

    An activation that is `named_last` gets its name after all others, as earlier versions did not recognise it:
    names that the others had are stored with thresholds.
    """

    eqn: JaxprEqn
    inputs: tuple[Slot, ...]
    outputs: tuple[Slot, ...]
    origin: Origin
    activation: Activation | None = None
    absorbed: bool = False
    named_last: bool = False

    @property
    def is_activation(self) -> bool:
        return self.activation is not None

    def reads(self, slots: Container[Slot]) -> list[int]:
        """The positions of its inputs that are among these slots."""
        return [position for position, slot in enumerate(self.inputs) if slot in slots]

    @property
    def shape(self) -> tuple[int, ...]:
        return type_of(self.eqn.outvars[0]).shape


@dataclass
class Network:
    """The operations of a traced network in order, its calls entered, its activations marked and named."""

    inputs: tuple[Slot, ...] = ()
    outputs: tuple[Slot, ...] = ()
    constants: dict[Slot, Any] = field(default_factory=dict)
    operations: list[Operation] = field(default_factory=list)
    parameters: set[Slot] = field(default_factory=set)  # inputs that are no data
    new_slot: Callable[[], Slot] = field(default_factory=lambda: itertools.count().__next__)

    @property
    def activations(self) -> list[Operation]:
        return [operation for operation in self.operations if operation.is_activation]

    def constant(self, value: Any) -> Slot:
        slot = self.new_slot()
        self.constants[slot] = value
        return slot


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
    for operation in needed(network.operations, wanted):
        if operation.is_activation and activate:
            found = operation.activation
            given = [found.current] if found.threshold is None else [found.current, found.threshold]
            results = [activate(operation, [values[slot] for slot in given])]
        else:
            results = bind(operation.eqn, *(values[slot] for slot in operation.inputs))
        values.update(zip(operation.outputs, results, strict=True))
    return [values[slot] for slot in wanted]


def needed(operations: Sequence[Operation], wanted: Iterable[Slot]) -> list[Operation]:
    """The operations that make the wanted slots, in order."""
    slots, kept = set(wanted), []
    for operation in reversed(operations):
        if slots.intersection(operation.outputs):
            slots.update(operation.inputs)
            kept.append(operation)
    return kept[::-1]


def reached_from(
    operations: Sequence[Operation],
    slots: Iterable[Slot],
    passes: Callable[[Operation, list[int]], bool] = lambda operation, positions: True,
) -> set[Slot]:
    """The slots that depend on some slots, these among them.

    Args:
        operations: in order.
        slots: where to start.
        passes: whether the outputs of an operation depend on its inputs at the given positions, which are reached.
    """
    reached = set(slots)
    for operation in operations:
        positions = operation.reads(reached)
        if positions and passes(operation, positions):
            reached.update(operation.outputs)
    return reached


def _needed_or_shown(operations: Sequence[Operation], wanted: Sequence[Slot]) -> list[Operation]:
    """Those, and the ones with effects, such as printing, on what these make or read."""
    kept = needed(operations, wanted)
    made = set(wanted).union(*((*each.inputs, *each.outputs) for each in kept))
    shown = [each for each in operations if each.eqn.effects and not each.outputs and made.issuperset(each.inputs)]
    return [each for each in operations if each in kept or each in shown] if shown else kept


# Entering calls.


class Entering(NamedTuple):
    """What is entered besides plain calls.

    calls    of calls with a gradient of their own, which are
    loops    of scans and branches, which are written out
    """

    calls: Callable[[JaxprEqn], bool]
    loops: Callable[[JaxprEqn], bool] = lambda eqn: False


def entered(traced: ClosedJaxpr, enters: Entering) -> Network:
    """The operations that the outputs need, with calls and loops entered."""
    network, traced = Network(), without_dead_code(traced)
    network.inputs = tuple(network.new_slot() for _ in traced.jaxpr.invars)
    network.outputs = tuple(_enter(network, traced, network.inputs, Origin(), enters))
    network.operations = _needed_or_shown(network.operations, network.outputs)
    return network


def _enter(
    network: Network, called: ClosedJaxpr, inputs: Sequence[Slot], origin: Origin, enters: Entering
) -> list[Slot]:
    """Adds the operations of a jaxpr to the network; returns the slots of its outputs."""
    slots = dict(zip(called.jaxpr.constvars, map(network.constant, called.consts), strict=True))
    slots.update(zip(called.jaxpr.invars, inputs, strict=True))

    def slot_of(atom):
        return network.constant(atom.val) if isinstance(atom, Literal) else slots[atom]

    for eqn in called.jaxpr.eqns:
        outputs = _add(network, eqn, tuple(map(slot_of, eqn.invars)), origin, enters)
        slots.update(zip(eqn.outvars, outputs, strict=True))
    return [slot_of(atom) for atom in called.jaxpr.outvars]


def _add(network: Network, eqn: JaxprEqn, inputs: tuple[Slot, ...], origin: Origin, enters: Entering) -> Sequence[Slot]:
    if eqn.primitive is parameter_p:
        network.parameters.update(inputs)
        return inputs
    called = called_by(eqn)
    if called and (not has_own_gradient(eqn) or enters.calls(eqn)):
        return _enter(network, called, inputs, origin.inside(eqn), enters)
    if eqn.primitive.name in ("scan", "cond") and enters.loops(eqn):
        return _enter_loop(network, eqn, inputs, origin.inside(eqn), enters)
    outputs = tuple(network.new_slot() for _ in eqn.outvars)
    network.operations.append(Operation(eqn, inputs, outputs, origin))
    return outputs


def _enter_loop(
    network: Network, eqn: JaxprEqn, inputs: tuple[Slot, ...], origin: Origin, enters: Entering
) -> list[Slot]:
    enter = lambda body, slots, number: _enter(network, body, slots, origin.in_pass(number), enters)
    if eqn.primitive.name == "scan":
        return unrolled(eqn, inputs, enter)
    return branched(eqn, inputs, _known_value(network, inputs[0]), enter)


def _known_value(network: Network, slot: Slot) -> Any:
    """The value of a slot that constants alone decide, None for another."""
    makers = needed(network.operations, [slot])
    made = {output for maker in makers for output in maker.outputs}
    sources = {slot, *(each for maker in makers for each in maker.inputs)} - made
    values = [network.constants.get(source) for source in sources]
    if any(value is None or isinstance(value, jax.core.Tracer) for value in values):
        return None
    with jax.ensure_compile_time_eval():
        return evaluate(Network(constants=network.constants, operations=makers), [], [slot])[0]
