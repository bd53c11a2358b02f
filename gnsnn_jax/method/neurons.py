"""Spiking neurons as pairs of pure functions, and the loop that runs them over time."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gnsnn_jax._types import Array, Float
from gnsnn_jax.dtypes import at_least_single
from gnsnn_jax.errors import InputError, at_least_one
from gnsnn_jax.method.activations import align, floating, staircase
from gnsnn_jax.xla.computed_once import computed_once

UNROLLED_STEPS = 16  # scans up to this length are unrolled, so that XLA can fuse their steps
FUSED_STEPS = 2  # of them at a time: fused in one piece, each step would repeat all before it


class Neuron(NamedTuple):
    """Two pure functions and the most units that one step can emit.

    init(threshold, shape) -> potential of that shape, v(0)
    step(potential, x_t, threshold) -> (potential, y_t),   y_t in {0 .. members} threshold / members
    """

    init: Callable[[Array, tuple[int, ...]], Array]
    step: Callable[[Array, Array, Array], tuple[Array, Array]]
    members: int = 1


@cache
def group_neuron(members: int) -> Neuron:
    """Integrates charge and emits up to `members` units a step, keeping the remainder.

        y_t = u clip(floor((v + x_t) / u), 0, m),   v <- v + x_t - y_t,   u = threshold / m,   v(0) = u/2

    `x_t` [...] and `threshold` [] or [C] share one unit; the potential is float32 or wider. Equal
    arguments give the same neuron. Raises InputError for members < 1. Lv et al. 2024, arXiv 2402.19061.
    """
    members = at_least_one("members", members, "members=1 is an IF neuron")

    def init(threshold: Array | float, shape: tuple[int, ...]) -> Array:
        return jnp.broadcast_to(align(jnp.asarray(threshold) / members / 2, shape, "threshold"), shape)

    def step(potential: Array, x_t: Array, threshold: Array | float) -> tuple[Array, Array]:
        charged = potential + x_t.astype(potential.dtype)
        unit = align(jnp.asarray(threshold, charged.dtype) / members, charged.shape, "threshold")
        spikes = staircase(charged, unit, members)
        return charged - spikes, spikes

    return Neuron(init, step, members)


def integrate_and_fire() -> Neuron:
    """IF neuron with soft reset: fires one threshold where the charged potential reaches it.

        y_t = theta [v + x_t >= theta],   v <- v + x_t - y_t,   v(0) = theta/2

    The group neuron of one member. Bu et al. 2022, arXiv 2303.04347.
    """
    return group_neuron(1)


# What a method's name stands for, given the number of members that group neurons have.
NEURONS: dict[str, Callable[[int], Neuron]] = {
    "if": lambda members: integrate_and_fire(),
    "gn": group_neuron,
}


@partial(jax.jit, static_argnames="neuron")
def run(
    neuron: Neuron,
    currents: Float[Array, "T *shape"],
    threshold: Float[Array, "..."] | float,
    initial: Float[Array, "..."] | None = None,
) -> tuple[Float[Array, "T *shape"], Float[Array, "*shape"]]:
    """Runs a neuron over a whole sequence; returns the outputs [T, ...] and the final potential [...].

    `currents` [T, ...], `threshold` [] or [C] and `initial` [...] share one unit; without `initial`
    the neuron's own v(0) is taken. Potentials are float32 or wider, outputs in the dtype of the
    currents. Differentiable in all three through the surrogate gradient of `staircase`.
    Raises InputError for currents without a time axis and for shapes that do not broadcast.
    """
    currents = floating("currents", currents)
    if currents.ndim < 1:
        raise InputError("currents must have a leading time axis, got a scalar")
    shape = currents.shape[1:]
    dtype = at_least_single(currents.dtype)
    threshold = jnp.asarray(threshold, dtype)
    if initial is None:
        state = neuron.init(threshold, shape)
    else:
        state = jnp.broadcast_to(align(jnp.asarray(initial, dtype), shape, "initial potential"), shape)

    def fire(potential, x_t):
        potential, spikes = neuron.step(potential, x_t, threshold)
        return potential, spikes.astype(currents.dtype)

    state, outputs = _scan(fire, placed_as(state, currents), currents)
    return outputs, state


def _scan(fire: Callable[[Array, Array], tuple[Array, Array]], state: Array, currents: Array) -> tuple[Array, Array]:
    """`jax.lax.scan`, unrolled for a short sequence."""
    if not 0 < len(currents) <= UNROLLED_STEPS:
        return jax.lax.scan(fire, state, currents)
    outputs = []
    for start in range(0, len(currents), FUSED_STEPS):
        part = currents[start : start + FUSED_STEPS]
        state, spikes = jax.lax.scan(fire, computed_once(state) if start else state, part, unroll=len(part))
        outputs.append(spikes)
    return state, computed_once(jnp.concatenate(outputs))


def placed_as(potential: Float[Array, "*shape"], currents: Float[Array, "T *shape"]) -> Float[Array, "*shape"]:
    """The potential, split over devices as the currents of one step are: a loop's carry must not change."""
    return potential + jnp.zeros_like(currents[0], potential.dtype) if len(currents) else potential


def short(steps: int) -> int:
    """How many steps of a scan of this length to unroll: all of a short one, none of a long one."""
    return max(steps, 1) if steps <= UNROLLED_STEPS else 1
