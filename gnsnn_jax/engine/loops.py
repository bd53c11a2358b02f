"""Loops and branches with activations inside, written out: each pass of a scan is a layer of its own.

A pass is named by its number, `layers[3]/act`. Of a branch that is chosen by something known in the trace the
operations remain; else all branches are evaluated, and the outputs of one of them selected.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, JaxprEqn

from gnsnn_jax.engine.jaxprs import inner_jaxprs, parts_of_scan, type_of

Slot = int
# Enters a function: adds its operations to a network, given the slots of its inputs and, in words, which pass it is;
# returns the slots of its outputs.
Enter = Callable[[ClosedJaxpr, Sequence[Slot], str], list[Slot]]


def unrolled(eqn: JaxprEqn, inputs: Sequence[Slot], enter: Enter) -> list[Slot]:
    """The passes of a scan one after the other.

        carry_i, y_i = body(constants, carry_(i-1), x_i),   i = 0 .. length-1

    Args:
        eqn: of `jax.lax.scan`.
        inputs: slots of constants, the first carry and what is scanned, [length, ...].
        enter: adds a function.

    Returns:
        The slots of the last carry and of the outputs of all passes, [length, ...].
    """
    params = eqn.params
    (fixed, carried), length = parts_of_scan(eqn), params["length"]
    constants, carry, scanned = inputs[:fixed], list(inputs[fixed : fixed + carried]), inputs[fixed + carried :]
    types = [type_of(var) for var in eqn.invars[fixed + carried :]]
    made: list[list[Slot]] = []
    passes = range(length)
    for number in reversed(passes) if params["reverse"] else passes:
        parts = [_taken(enter, slot, like, number) for slot, like in zip(scanned, types, strict=True)]
        outputs = enter(params["jaxpr"], [*constants, *carry, *parts], f"[{number}]")
        carry, of_pass = outputs[:carried], outputs[carried:]
        made.append(of_pass)
    if params["reverse"]:
        made.reverse()
    types = [type_of(var) for var in eqn.outvars[carried:]]
    return [*carry, *(_stacked(enter, [each[at] for each in made], like) for at, like in enumerate(types))]


def _taken(enter: Enter, slot: Slot, like: Any, number: int) -> Slot:
    """One of what is scanned."""
    take = lambda x: jax.lax.index_in_dim(x, number, keepdims=False)
    return enter(_traced(take, like), [slot], "")[0]


def _stacked(enter: Enter, slots: Sequence[Slot], like: Any) -> Slot:
    """The outputs of all passes, in order."""
    one = jax.ShapeDtypeStruct(like.shape[1:], like.dtype)
    return enter(_traced(lambda *parts: jnp.stack(parts), *[one] * len(slots)), slots, "")[0]


def branched(eqn: JaxprEqn, inputs: Sequence[Slot], index: Any, enter: Enter) -> list[Slot]:
    """The outputs of the branch of this index where it is known, else of all branches with one selected.

    Args:
        eqn: of `jax.lax.cond` or `jax.lax.switch`.
        inputs: slots of the index and of the operands.
        index: the index where the trace knows it, else None.
        enter: adds a function.
    """
    branches = list(inner_jaxprs(eqn))
    if index is not None:
        return enter(branches[int(np.clip(index, 0, len(branches) - 1))], inputs[1:], "")
    made = [enter(branch, inputs[1:], "" if len(branches) == 1 else f"[{at}]") for at, branch in enumerate(branches)]
    types = [type_of(var) for var in eqn.outvars]
    return [_selected(enter, eqn, [inputs[0], *(each[at] for each in made)], like) for at, like in enumerate(types)]


def _selected(enter: Enter, eqn: JaxprEqn, slots: Sequence[Slot], like: Any) -> Slot:
    """By the index, the first of the slots, one of the others."""

    def select(index, *cases):
        which = jnp.clip(index.astype(jnp.int32), 0, len(cases) - 1)
        return jax.lax.select_n(jnp.broadcast_to(which, cases[0].shape), *cases)

    cases = [jax.ShapeDtypeStruct(like.shape, like.dtype)] * (len(slots) - 1)
    return enter(_traced(select, type_of(eqn.invars[0]), *cases), slots, "")[0]


def _traced(function: Callable, *like: Any) -> ClosedJaxpr:
    return jax.make_jaxpr(function)(*(jax.ShapeDtypeStruct(each.shape, each.dtype) for each in like))
