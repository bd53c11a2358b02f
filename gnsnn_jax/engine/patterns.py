"""The ways to write a cut at 0 from below in JAX, as a table of patterns.

A cut is max(x, 0), or min(max(x, 0), a) with a bound a > 0. An entry of `PATTERNS` has a name, examples, and a
matcher, which is a function of the last operation of the pattern. To recognise another way to write a cut, add an
entry with its matcher; a test runs the examples of every entry.

Whether a cut is an activation depends on where it stands; `recognise` decides that.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn

from gnsnn_jax.engine.graph import Entering, Network, Operation, Slot, entered, reached_from
from gnsnn_jax.engine.jaxprs import called_by, has_own_gradient, inner_jaxprs, type_of
from gnsnn_jax.method.activations import qcfs_p

_KEEP_VALUES = ("convert_element_type", "broadcast_in_dim", "reshape", "squeeze", "expand_dims", "copy")


class Cut(NamedTuple):
    """max(current, 0), or with a bound min(max(current, 0), bound).

    `parts` are values on the way from the current to the result that nothing else reads. `named_last` is true of
    forms that earlier versions did not recognise, see `Operation`.
    """

    current: Slot
    bound: Slot | None = None
    parts: tuple[Slot, ...] = ()
    named_last: bool = False


class _Comparison(NamedTuple):
    """compared > limit, or where `is_above` is false compared < limit; equality may count as either."""

    compared: Slot
    limit: Slot
    is_above: bool


class _Choice(NamedTuple):
    """A select: `above` where compared > limit, `below` where compared < limit."""

    compared: Slot
    limit: Slot
    above: Slot
    below: Slot
    condition: Slot


class Reader:
    """Answers what matchers ask about the operations of a network.

    Args:
        network: its operations need no marks.
        currents: the slots that may be cut.
    """

    def __init__(self, network: Network, currents: set[Slot]):
        self.network, self.currents = network, currents
        self.makers = {slot: operation for operation in network.operations for slot in operation.outputs}
        used = (slot for operation in network.operations for slot in operation.inputs)
        self.uses = Counter([*used, *network.outputs])

    def cut_at(self, operation: Operation) -> Cut | None:
        """The cut of a current whose last operation this is, by the first pattern that matches."""
        if self.currents.isdisjoint(operation.outputs) or not _makes_floats(operation.eqn):
            return None
        patterns = (each for each in PATTERNS if operation.eqn.primitive.name in each.ends_in)
        return next(filter(None, (each.match(self, operation) for each in patterns)), None)

    def made_by(self, slot: Slot, primitive: str) -> Operation | None:
        """The operation that makes a slot, if it is of this primitive."""
        maker = self.makers.get(slot)
        return maker if maker and maker.eqn.primitive.name == primitive else None

    def maker_for_one_reader(self, slot: Slot) -> Operation | None:
        """The operation that makes a slot which is read once."""
        return self.makers.get(slot) if self.uses[slot] == 1 else None

    def current_first(self, inputs: Sequence[Slot]) -> tuple[Slot, Slot]:
        """The two inputs of a symmetric operation."""
        first, second = inputs
        return (first, second) if first in self.currents else (second, first)

    def comparison(self, slot: Slot) -> _Comparison | None:
        """The comparison of a current with something else that makes a truth value."""
        maker = self.makers.get(slot)
        if not maker or maker.eqn.primitive.name not in ("gt", "ge", "lt", "le"):
            return None
        is_above, (left, right) = maker.eqn.primitive.name in ("gt", "ge"), maker.inputs
        return _Comparison(left, right, is_above) if left in self.currents else _Comparison(right, left, not is_above)

    def choice(self, operation: Operation) -> _Choice | None:
        """A select between two values whose condition is a comparison."""
        condition, *cases = operation.inputs
        comparison = self.comparison(condition)
        if not comparison or len(cases) != 2:
            return None
        compared, limit, is_above = comparison
        below, above = cases if is_above else cases[::-1]
        return _Choice(compared, limit, above, below, condition)

    def read_once(self, chain: Iterable[Slot]) -> tuple[Slot, ...]:
        """Of slots each of which is made from the next, those that nothing outside the chain reads."""
        return tuple(itertools.takewhile(lambda slot: self.uses[slot] == 1, chain))

    def bounded(self, cut: Cut, bound: Slot, *parts: Slot) -> Cut | None:
        """A cut with a bound, which must not be a current itself and not be known to be 0 or less."""
        value = self.uniform(bound)
        if bound in self.currents or (value is not None and not value > 0):
            return None
        return cut._replace(bound=None if value == np.inf else bound, parts=(*cut.parts, *parts))

    def is_zero(self, slot: Slot) -> bool:
        """Whether a value is known to consist of zeros."""
        return self.uniform(slot) == 0

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
    return jnp.issubdtype(getattr(type_of(eqn.outvars[0]), "dtype", None), jnp.floating)


# Matchers, each of the last operation of a pattern.


def _own_gradient(reader: Reader, operation: Operation) -> Cut | None:
    cut = _cut_by(operation.eqn)
    if cut is None:
        return None
    found = Cut(operation.inputs[0], named_last=cut.named_last)
    return reader.bounded(found, reader.network.constant(np.float32(cut.bound)))


def _clamp(reader: Reader, operation: Operation) -> Cut | None:
    low, current, bound = operation.inputs
    return reader.bounded(Cut(current), bound) if reader.is_zero(low) else None


def _max_of_min(reader: Reader, operation: Operation) -> Cut | None:
    limited, low = reader.current_first(operation.inputs)
    below = reader.maker_for_one_reader(limited)
    if not reader.is_zero(low) or not below or below.eqn.primitive.name != "min":
        return None
    current, bound = reader.current_first(below.inputs)
    return reader.bounded(Cut(current), bound, limited)


def _max(reader: Reader, operation: Operation) -> Cut | None:
    current, low = reader.current_first(operation.inputs)
    return Cut(current) if reader.is_zero(low) else None


def _min_of_cut(reader: Reader, operation: Operation) -> Cut | None:
    rectified, bound = reader.current_first(operation.inputs)
    cut = _unbounded_cut(reader, rectified)
    return reader.bounded(cut, bound, rectified) if cut else None


def _where(reader: Reader, operation: Operation) -> Cut | None:
    choice = reader.choice(operation)
    if not choice or choice.above != choice.compared or not all(map(reader.is_zero, (choice.limit, choice.below))):
        return None
    return Cut(choice.compared, None, reader.read_once([choice.condition]), named_last=True)


def _where_of_cut(reader: Reader, operation: Operation) -> Cut | None:
    choice = reader.choice(operation)
    cut = _unbounded_cut(reader, choice.below) if choice else None
    if not cut or choice.compared != cut.current or not _are_one_number(reader, choice.limit, choice.above):
        return None
    parts = (choice.below, *reader.read_once([choice.condition]))
    return reader.bounded(cut._replace(named_last=True), choice.above, *parts)


def _product_with_mask(reader: Reader, operation: Operation) -> Cut | None:
    cuts = (_masked(reader, *pair) for pair in (operation.inputs, operation.inputs[::-1]))
    return next(filter(None, cuts), None)


def _masked(reader: Reader, current: Slot, mask: Slot) -> Cut | None:
    """current * mask, where the mask is 1 for currents above 0 and else 0."""
    converted = reader.made_by(mask, "convert_element_type")
    comparison = reader.comparison(converted.inputs[0]) if converted else None
    if comparison is None or (comparison.compared, comparison.is_above) != (current, True):
        return None
    parts = reader.read_once([mask, converted.inputs[0]])
    return Cut(current, None, parts, named_last=True) if reader.is_zero(comparison.limit) else None


def _unbounded_cut(reader: Reader, slot: Slot) -> Cut | None:
    """The cut without a bound that makes a slot which is read once."""
    maker = reader.maker_for_one_reader(slot)
    cut = reader.cut_at(maker) if maker else None
    return cut if cut and cut.bound is None else None


def _are_one_number(reader: Reader, *slots: Slot) -> bool:
    values = {reader.uniform(slot) for slot in slots}
    return len(values) == 1 and None not in values


class Pattern(NamedTuple):
    """One way to write a cut.

    Args:
        name: of the pattern, for readers.
        ends_in: the primitives that its last operation may be of.
        match: of a reader and that operation, returns the cut or None.
        examples: code in JAX, a function of the current `x`, with the bound that it has; None for a ReLU.
    """

    name: str
    ends_in: tuple[str, ...]
    match: Callable[[Reader, Operation], Cut | None]
    examples: Mapping[str, float | None]


PATTERNS = (
    Pattern(
        "a function with its own gradient",
        ("custom_jvp_call", "custom_vjp_call"),
        _own_gradient,
        {"jax.nn.relu(x)": None, "jax.nn.relu6(x)": 6.0},
    ),
    Pattern("clamp(0, x, a)", ("clamp",), _clamp, {"jax.lax.clamp(jnp.zeros_like(x), x, jnp.full_like(x, 2))": 2.0}),
    Pattern("max(min(x, a), 0)", ("max",), _max_of_min, {"jnp.maximum(jnp.minimum(x, 2), 0)": 2.0}),
    Pattern(
        "max(x, 0)",
        ("max",),
        _max,
        {"jnp.maximum(x, 0)": None, "jnp.maximum(0, x)": None, "jnp.clip(x, 0)": None},
    ),
    Pattern(
        "min(max(x, 0), a)",
        ("min",),
        _min_of_cut,
        {
            "jnp.minimum(jnp.maximum(x, 0), 2)": 2.0,
            "jnp.clip(x, 0, 2)": 2.0,
            "jnp.clip(x, 0, jnp.inf)": None,
            "jnp.minimum(jax.nn.relu(x), 2)": 2.0,
            "jnp.minimum(x * (x > 0), 2)": 2.0,
        },
    ),
    Pattern(
        "where(x > 0, x, 0)",
        ("select_n",),
        _where,
        {
            "jnp.where(x > 0, x, 0)": None,
            "jnp.where(x >= 0, x, jnp.zeros_like(x))": None,
            "jnp.where(x < 0, 0, x)": None,
            "jnp.where(x <= 0, 0, x)": None,
            "jnp.where(jnp.less(0, x), x, 0)": None,
        },
    ),
    Pattern(
        "where(x > a, a, max(x, 0))",
        ("select_n",),
        _where_of_cut,
        {
            "jnp.where(x > 2, 2, jnp.where(x < 0, 0, x))": 2.0,
            "jnp.where(x < 2, jnp.maximum(x, 0), 2)": 2.0,
        },
    ),
    Pattern(
        "x * (x > 0)",
        ("mul",),
        _product_with_mask,
        {"x * (x > 0)": None, "(x >= 0) * x": None, "x * jnp.less(0, x).astype(x.dtype)": None},
    ),
)


# Functions with a gradient of their own.


class _OwnCut(NamedTuple):
    """What a function with its own gradient does to its argument; the bound of a ReLU is infinity."""

    bound: float | None
    named_last: bool


def _cut_by(eqn: JaxprEqn) -> _OwnCut | None:
    called = called_by(eqn)
    if not called or not has_own_gradient(eqn) or len(called.jaxpr.invars) != 1 or len(eqn.outvars) != 1:
        return None
    body = entered(called, Entering(encloses_activation))
    reader = Reader(body, reached_from(body.operations, body.inputs))
    last = reader.makers.get(body.outputs[0])
    cut = reader.cut_at(last) if last else None
    if cut is None or cut.current != body.inputs[0]:
        return None
    bound = np.inf if cut.bound is None else reader.uniform(cut.bound)
    return None if bound is None else _OwnCut(bound, cut.named_last)


def upper_bound(eqn: JaxprEqn) -> float | None:
    """The bound at which a function with its own gradient that is nothing but a cut cuts its argument.

    Args:
        eqn: of any primitive.

    Returns:
        6 for a call of `jax.nn.relu6`, infinity for one of `jax.nn.relu`, None for anything else.
    """
    cut = _cut_by(eqn)
    return cut.bound if cut else None


def is_activation_anywhere(eqn: JaxprEqn) -> bool:
    """Whether an equation is an activation wherever it stands: `qcfs`, or a cut with its own gradient."""
    return eqn.primitive is qcfs_p or upper_bound(eqn) is not None


def encloses_activation(eqn: JaxprEqn) -> bool:
    """Whether within an equation, and not as all of it, is an activation that is one wherever it stands."""
    inside = (inner for jaxpr in inner_jaxprs(eqn) for inner in jaxpr.eqns)
    return upper_bound(eqn) is None and any(
        is_activation_anywhere(each) or encloses_activation(each) for each in inside
    )
