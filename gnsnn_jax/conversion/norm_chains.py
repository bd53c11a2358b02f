"""Layers of a traced network with a norm behind them: what can be folded, told by the equations alone.

A layer is a product or a convolution of data and weights that are one leaf of the variables, at most moved.
Behind it comes a chain of steps, each the only reader of the one before, that move its values, shift them
or scale them by numbers which no data reach. A norm is a step that scales by the root of a leaf, a variance.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence, Set
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import JaxprEqn, Primitive

from gnsnn_jax.engine.graph import Network, Operation, Slot, needed
from gnsnn_jax.engine.jaxprs import CONVOLUTIONS, type_of
from gnsnn_jax.engine.rules import is_linear

MOVES = {lax.reshape_p, lax.transpose_p, lax.squeeze_p, lax.rev_p, lax.copy_p}
SHIFTS = {lax.add_p, lax.sub_p}
ROOTS = {lax.rsqrt_p, lax.sqrt_p, lax.pow_p}


class Step(NamedTuple):
    """An operation behind a layer: a "move", or a "shift" or "scale" by the values of a slot that no data reach."""

    kind: str
    operation: Operation
    by: Slot | None = None


class Factor(NamedTuple):
    """A factor of what a norm scales by, computed from one leaf."""

    slot: Slot
    leaf: Slot


class Chain(NamedTuple):
    """A layer and the steps behind it, up to the end of its last norm.

    operation   applies the weights: the operand at `position`, made from `leaf` by `moves`, the last one first
    factors     that the norms scale by
    shifts      leaves that steps add or subtract, and nothing else reads, with the step of each
    """

    operation: Operation
    position: int
    leaf: Slot
    moves: tuple[Operation, ...]
    steps: tuple[Step, ...]
    factors: tuple[Factor, ...]
    shifts: tuple[tuple[Slot, int], ...]

    @property
    def data(self) -> Slot:
        return self.operation.inputs[1 - self.position]

    @property
    def end(self) -> Slot:
        return self.steps[-1].operation.outputs[0]

    @property
    def first_scale(self) -> int:
        return next(at for at, step in enumerate(self.steps) if step.kind == "scale")


def chains_of(network: Network, leaves: Set[Slot], data: Set[Slot]) -> list[Chain]:
    """The layers with a norm behind them; `leaves` are the variables that are floats, `data` the other arguments."""
    flow = _Flow(network, leaves, data)
    found = (_chain(flow, operation) for operation in network.operations)
    return [chain for chain in found if chain]


class _Flow:
    """Where values come from and where they go; `depends` has the leaves that each value without data is
    computed from."""

    def __init__(self, network: Network, leaves: Set[Slot], data: Set[Slot]):
        self.network, self.leaves, self.data = network, leaves, set(data)
        self.makers = {slot: each for each in network.operations for slot in each.outputs}
        self.depends: dict[Slot, frozenset[Slot]] = defaultdict(frozenset, {slot: frozenset([slot]) for slot in leaves})
        self.readers: dict[Slot, list[Operation]] = defaultdict(list)
        self.reads = Counter(network.outputs)
        for operation in network.operations:
            self._add(operation)

    def _add(self, operation: Operation) -> None:
        self.reads.update(operation.inputs)
        for slot in set(operation.inputs):
            self.readers[slot].append(operation)
        if not self.data.isdisjoint(operation.inputs):
            self.data.update(operation.outputs)
        else:
            depends = frozenset().union(*(self.depends[slot] for slot in operation.inputs))
            self.depends.update(dict.fromkeys(operation.outputs, depends))

    def only_reader(self, slot: Slot) -> Operation | None:
        return self.readers[slot][0] if self.reads[slot] == 1 and self.readers[slot] else None

    def dependent(self, operation: Operation, leaf: Slot) -> list[int]:
        """The operands that are computed from a leaf."""
        return [at for at, slot in enumerate(operation.inputs) if leaf in self.depends[slot]]

    def ends(self, leaf: Slot) -> set[tuple[Slot, ...]]:
        """The outputs of the first operations on data that a leaf reaches; () stands for an output of the network."""
        reached, found = {leaf}, set()
        for operation in self.network.operations:
            if reached.isdisjoint(operation.inputs):
                continue
            if operation.outputs and self.data.isdisjoint(operation.outputs):
                reached.update(operation.outputs)
            else:
                found.add(operation.outputs)
        return found if reached.isdisjoint(self.network.outputs) else {*found, ()}

    def is_linear_in(self, slot: Slot, leaf: Slot) -> bool:
        """Whether a value is linear in a leaf, up to what is added to it."""
        if slot == leaf or leaf not in self.depends[slot]:
            return True
        maker = self.makers[slot]
        positions = self.dependent(maker, leaf)
        return is_linear(maker.eqn, positions) and all(self.is_linear_in(maker.inputs[at], leaf) for at in positions)

    def is_invertible_in(self, slot: Slot, leaf: Slot) -> bool:
        """Whether a leaf can be computed back from a value."""
        if slot == leaf:
            return True
        maker = self.makers[slot]
        positions = self.dependent(maker, leaf)
        can_invert = maker.eqn.primitive in INVERSES or _repeats(maker)
        return can_invert and len(positions) == 1 and self.is_invertible_in(maker.inputs[positions[0]], leaf)

    def has_root(self, slot: Slot | None) -> bool:
        """Whether a value is computed with a root of a leaf."""
        made_by = needed(self.network.operations, [slot])
        return any(each.eqn.primitive in ROOTS and self.depends[each.inputs[0]] for each in made_by)

    def factors(self, slot: Slot) -> list[Factor] | None:
        """Factors whose product a value is, but for constants; None where it is no such product."""
        leaves = self.depends[slot]
        if len(leaves) <= 1:
            return [Factor(slot, leaf) for leaf in leaves]
        maker = self.makers[slot]
        if not (maker.eqn.primitive in (lax.mul_p, lax.div_p) or _repeats(maker)):
            return None
        found = [self.factors(each) for each in maker.inputs]
        return None if None in found else list(itertools.chain(*found))


def _chain(flow: _Flow, operation: Operation) -> Chain | None:
    given = [at for at, slot in enumerate(operation.inputs) if slot in flow.data]
    if len(given) != 1 or not _is_layer(operation, 1 - given[0]):
        return None
    weights = _moved_leaf(flow, operation.inputs[1 - given[0]])
    steps = _steps(flow, operation.outputs[0])
    end, factors = _norms(flow, steps)
    if not weights or not end:
        return None
    return Chain(operation, 1 - given[0], *weights, tuple(steps[:end]), tuple(factors), _shifts(flow, steps[:end]))


def _is_layer(operation: Operation, position: int) -> bool:
    eqn = operation.eqn
    is_one = (eqn.primitive.name in CONVOLUTIONS and position == 1) or eqn.primitive is lax.dot_general_p
    return is_one and jnp.issubdtype(type_of(eqn.outvars[0]).dtype, jnp.floating)


def _moved_leaf(flow: _Flow, slot: Slot) -> tuple[Slot, tuple[Operation, ...]] | None:
    """The leaf that weights are made from and the moves on the way, the last first; None where others read it too."""
    moves = []
    while flow.only_reader(slot) and slot not in flow.leaves:
        maker = flow.makers.get(slot)
        if maker is None or not is_move(maker):
            return None
        moves.append(maker)
        slot = maker.inputs[0]
    return (slot, tuple(moves)) if flow.only_reader(slot) else None


def _steps(flow: _Flow, slot: Slot) -> list[Step]:
    steps = []
    while (reader := flow.only_reader(slot)) and (step := _step(flow, reader, reader.inputs.index(slot))):
        steps.append(step)
        slot = reader.outputs[0]
    return steps


def _step(flow: _Flow, operation: Operation, position: int) -> Step | None:
    """The step that an operation on one of its operands is, where it is one."""
    if is_move(operation):
        return Step("move", operation)
    kept = _shape(operation.eqn, position) == operation.shape
    if len(operation.inputs) != 2 or not kept or operation.inputs[1 - position] in flow.data:
        return None
    kind = _kind(operation.eqn.primitive, position)
    return Step(kind, operation, operation.inputs[1 - position]) if kind else None


def _kind(primitive: Primitive, position: int) -> str | None:
    if primitive in SHIFTS:
        return "shift"
    scales = primitive is lax.mul_p or (primitive is lax.div_p and position == 0)
    return "scale" if scales else None


def _shape(eqn: JaxprEqn, position: int) -> tuple[int, ...]:
    return type_of(eqn.invars[position]).shape


def _norms(flow: _Flow, steps: Sequence[Step]) -> tuple[int, list[Factor]]:
    """So many steps as the last norm ends after, and the factors of all norms; 0 without any."""
    last = 0
    found: list[Factor] = []
    for at, step in enumerate(steps):
        if step.kind == "scale" and flow.has_root(step.by):
            end, factors = _norm(flow, steps, at)
            last, found = (end, found + factors) if end else (last, found)
    return last, found


def _norm(flow: _Flow, steps: Sequence[Step], at: int) -> tuple[int, list[Factor]]:
    """The norm whose root is in a step: where it ends and what it scales by, of its own scale too, beside the root."""
    before, after = _next(steps[:at][::-1], 0, "scale"), _next(steps, at + 1, "scale")
    before = None if before is None else at - 1 - before
    for beside in ([before, after], [after], [before], []):
        scales = [at, *(each for each in beside if each is not None and not flow.has_root(steps[each].by))]
        bias = _next(steps, max(scales) + 1, "shift")
        end = (max(scales) if bias is None else bias) + 1
        products = [flow.factors(steps[each].by) for each in scales]
        factors = list(itertools.chain(*filter(None, products)))
        if None not in products and all(_can_become_one(flow, each, steps[:end]) for each in factors):
            return end, factors
    return 0, []


def _can_become_one(flow: _Flow, factor: Factor, steps: Sequence[Step]) -> bool:
    return _is_read_only_in(flow, factor.leaf, steps) and flow.is_invertible_in(*factor)


def _next(steps: Sequence[Step], first: int, kind: str) -> int | None:
    """The next step that is no move, if it is of this kind."""
    at = next((at for at in range(first, len(steps)) if steps[at].kind != "move"), None)
    return at if at is not None and steps[at].kind == kind else None


def _is_read_only_in(flow: _Flow, leaf: Slot, steps: Sequence[Step]) -> bool:
    return flow.ends(leaf) <= {step.operation.outputs for step in steps}


def _shifts(flow: _Flow, steps: Sequence[Step]) -> tuple[tuple[Slot, int], ...]:
    scaling = frozenset().union(*(flow.depends[step.by] for step in steps if step.kind == "scale"))
    return tuple(
        (leaf, at)
        for at, step in enumerate(steps)
        if step.kind == "shift"
        for leaf in sorted(flow.depends[step.by] - scaling)
        if flow.is_linear_in(step.by, leaf) and _is_read_only_in(flow, leaf, steps)
    )


# Inverses: of what only moves values, and of operations on numbers.


def is_move(operation: Operation) -> bool:
    """Whether an operation only puts values in another order, shape or floating-point type."""
    eqn = operation.eqn
    if eqn.primitive is lax.broadcast_in_dim_p:
        return math.prod(_shape(eqn, 0)) == math.prod(operation.shape)
    between_floats = all(jnp.issubdtype(type_of(each).dtype, jnp.floating) for each in (eqn.invars[0], eqn.outvars[0]))
    return len(eqn.invars) == 1 and (
        eqn.primitive in MOVES or (eqn.primitive is lax.convert_element_type_p and between_floats)
    )


def _repeats(operation: Operation) -> bool:
    return operation.eqn.primitive is lax.broadcast_in_dim_p or is_move(operation)


# The operand at a position, given the output y and all operands as far as they are known.
INVERSES: dict[Primitive, Callable[[np.ndarray, Sequence[Any], int, dict], np.ndarray]] = {
    lax.add_p: lambda y, known, at, _: y - known[1 - at],
    lax.sub_p: lambda y, known, at, _: known[0] - y if at else y + known[1],
    lax.mul_p: lambda y, known, at, _: y / known[1 - at],
    lax.div_p: lambda y, known, at, _: known[0] / y if at else y * known[1],
    lax.neg_p: lambda y, *_: -y,
    lax.max_p: lambda y, *_: y,
    lax.rsqrt_p: lambda y, *_: 1 / y**2,
    lax.sqrt_p: lambda y, *_: y**2,
    lax.square_p: lambda y, *_: np.sqrt(y),
    lax.exp_p: lambda y, *_: np.log(y),
    lax.integer_pow_p: lambda y, known, at, params: y ** (1 / params["y"]),
    lax.pow_p: lambda y, known, at, _: np.log(y) / np.log(known[0]) if at else y ** (1 / known[1]),
}


def operand_for(y: np.ndarray, operation: Operation, operands: Sequence[Any], at: int) -> np.ndarray:
    """What the operand at a position must be for an operation to give `y`; not finite where it cannot."""
    eqn = operation.eqn
    if _repeats(operation):
        return undone(operation, y)
    with np.errstate(all="ignore"):
        return shrunk(INVERSES[eqn.primitive](y, operands, at, eqn.params), _shape(eqn, at))


def undone(operation: Operation, x: np.ndarray) -> np.ndarray:
    """What a move makes `x` from; of a value that is repeated the first."""
    eqn = operation.eqn
    if eqn.primitive is lax.transpose_p:
        return x.transpose(np.argsort(eqn.params["permutation"]))
    if eqn.primitive is lax.rev_p:
        return np.flip(x, eqn.params["dimensions"])
    if eqn.primitive is lax.broadcast_in_dim_p:
        kept = eqn.params["broadcast_dimensions"]
        x = first_along(x, [axis for axis in range(x.ndim) if axis not in kept])
        return shrunk(x.reshape([x.shape[axis] for axis in kept]), _shape(eqn, 0))
    return x.reshape(_shape(eqn, 0))


def first_along(x: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    """`x` with these axes of length 1, of which the first entries remain."""
    return x[tuple(slice(0, 1) if axis in axes else slice(None) for axis in range(x.ndim))]


def shrunk(x: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """The first entries of `x` along the axes that have length 1 in a shape of the same rank, or the first of all."""
    if not shape:
        return x.reshape(-1)[0]
    return first_along(x, [axis for axis, size in enumerate(shape) if size == 1])
