"""A scan over time-steps that XLA fuses where that pays.

What it works around: a `jax.lax.scan` that is not unrolled writes the state to memory at each step, which costs
more than the step itself where the step is elementwise. One that is unrolled as a whole is fused by XLA on CPUs
into one piece for each output, and each piece repeats all steps before its own: T (T + 1) / 2 steps in place of
T. So a short sequence is unrolled a few steps at a time, and the state between them is computed once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from gnsnn_jax._types import Array
from gnsnn_jax.xla.computed_once import computed_once

State = TypeVar("State")

UNROLLED_STEPS = 16  # scans up to this length are unrolled, so that XLA can fuse their steps
FUSED_STEPS = 2  # of them at a time: fused in one piece, each step would repeat all before it


def time_scan(step: Callable[[State, Any], tuple[State, Any]], state: State, inputs: Any) -> tuple[State, Any]:
    """`jax.lax.scan(step, state, inputs)` for any trees of arrays, unrolled for a short sequence."""
    steps = len(jax.tree.leaves(inputs)[0])
    if not 0 < steps <= UNROLLED_STEPS:
        return jax.lax.scan(step, state, inputs)
    outputs = []
    for start in range(0, steps, FUSED_STEPS):
        part = jax.tree.map(lambda x, start=start: x[start : start + FUSED_STEPS], inputs)
        before = jax.tree.map(computed_once, state) if start else state
        state, found = jax.lax.scan(step, before, part, unroll=min(FUSED_STEPS, steps - start))
        outputs.append(found)
    return state, jax.tree.map(lambda *parts: computed_once(jnp.concatenate(parts)), *outputs)


def short(steps: int) -> int:
    """How many steps of a scan of this length to unroll: all of a short one, none of a long one."""
    return max(steps, 1) if steps <= UNROLLED_STEPS else 1


def placed_as(state: State, currents: Array) -> State:
    """The state [...], split over devices as the currents [T, ...] of one step are: a loop's carry must not change."""
    return jax.tree.map(lambda x: _placed(x, currents[0]), state) if len(currents) else state


def _placed(x: Array, like: Array) -> Array:
    if not jnp.issubdtype(x.dtype, jnp.number):
        return x
    zeros = jnp.zeros_like(like, x.dtype)
    return x + zeros.reshape(zeros.shape + (1,) * (x.ndim - zeros.ndim))
