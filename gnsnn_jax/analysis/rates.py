"""The rates of a population beside the activations of the network itself, step after step."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gnsnn_jax._types import Array, Bool, Float, Int
from gnsnn_jax.analysis.behaviour import OFFSETS, SUMS
from gnsnn_jax.method.neurons import Neuron

SHOWN_NEURONS = 2000  # of a population, for pictures
ROUNDING = 1e-6  # of the threshold, less than any difference of rates
FARTHEST = len(OFFSETS) // 2


def least_units(neuron: Neuron) -> int:
    """The fewest units for each step that a neuron can have emitted in sum: below 0 only if its first can be.

    A neuron that takes back spikes, as the signed one with memory does, stays at 0 or above.
    """
    with jax.ensure_compile_time_eval():
        one = jnp.float32(neuron.members)
        return int(neuron.least_output(neuron.init(one, ()), neuron.unit(one)))


class Progress(NamedTuple):
    """What a population has done so far."""

    step: Array
    count: Array  # type: ignore[assignment]  # unit spikes of each neuron, negative ones subtracted
    charge: Array  # and the sum of its currents


def nothing_yet(shape: tuple[int, ...]) -> Progress:
    zeros = jnp.zeros(shape, jnp.float32)
    return Progress(jnp.zeros((), jnp.int32), zeros, zeros)


class Population(NamedTuple):
    """What the rates of a population are compared with.

    activations    [B, ...] in units of the threshold
    unit           that broadcasts to them
    members        the most units of one step
    least          the fewest units that t steps can emit in sum, divided by t: below 0 for signed neurons
    present        who counts
    """

    activations: Float[Array, "B *shape"]
    unit: Float[Array, "..."]
    members: int
    least: int
    present: Bool[Array, " B"]


def compare(
    progress: Progress,
    population: Population,
    currents: Float[Array, "T B *shape"],
    units: Int[Array, "T B *shape"] | Float[Array, "T B *shape"],
    wanted: Bool[np.ndarray, " steps"],
) -> tuple[Progress, Float[Array, "T sums"], Float[Array, "T K"]]:
    """After each of the next steps, the sums of `SUMS` and the rates of some neurons.

    `units` are whole numbers, negative ones for negative spikes; of neurons that send something else than their
    value, any numbers. `wanted` says for each number of steps, from 0 on, whether to; at others there are zeros.
    """

    def one_step(progress: Progress, at_step: tuple[Array, Array]):
        x_t, units_t = at_step
        progress = Progress(progress.step + 1, progress.count + units_t, progress.charge + x_t.astype(jnp.float32))
        nothing = jnp.zeros(len(SUMS)), jnp.zeros(len(some(population.activations.shape)[0]))
        found = jax.lax.cond(
            jnp.asarray(wanted)[progress.step], lambda: _looked_at(progress, population), lambda: nothing
        )
        return progress, found

    progress, (sums, rates) = jax.lax.scan(one_step, progress, (currents, units.astype(jnp.float32)))
    return progress, sums, rates


def some(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Samples and neurons, drawn at random once, of activations of a shape."""
    neurons, random = int(np.prod(shape[1:])), np.random.default_rng(0)
    size = min(SHOWN_NEURONS, shape[0] * neurons)
    return random.integers(0, max(shape[0], 1), size), random.integers(0, max(neurons, 1), size)


def taken(x: Array) -> Float[Array, " K"]:
    """The values of some neurons."""
    return x.reshape(len(x), -1)[some(x.shape)]


def _looked_at(progress: Progress, population: Population) -> tuple[Array, Array]:
    activation, unit, members, least, present = population
    steps = progress.step.astype(jnp.float32)
    most = members * steps
    rate = progress.count / most
    desired = lambda spikes: jnp.clip(jnp.floor(spikes + 0.5), least * steps, most)
    size = jnp.abs if least < 0 else lambda x: x
    beyond = progress.count - desired(activation * most)
    beyond_own = progress.count - desired(progress.charge / unit)
    error = jnp.where(jnp.abs(rate - activation) < ROUNDING, 0, rate - activation)
    values = [error**2, rate, rate**2, activation, activation**2, rate * activation]
    values += [progress.count == 0, size(progress.count) == most, size(activation) <= 0]
    values += [size(activation) >= 1 - ROUNDING]
    for offset in (beyond, beyond_own):
        near = jnp.clip(jnp.round(offset), -FARTHEST, FARTHEST)
        values += [near == by for by in range(-FARTHEST, FARTHEST + 1)]
    return _sums([value.astype(jnp.float32) for value in values], present), taken(rate)


def _sums(values: list[Array], present: Bool[Array, " B"]) -> Float[Array, " sums"]:
    """The sum of each array [B, ...] over the samples that are present, in one pass over all of them.

    By sample first, so that sums of ones stay within what float32 counts.
    """
    axes, zeros = tuple(range(1, values[0].ndim)), [jnp.float32(0)] * len(values)
    add = lambda left, right: [a + b for a, b in zip(left, right, strict=True)]
    of_samples = jax.lax.reduce(values, zeros, add, axes) if axes else values
    return jnp.dot(present.astype(jnp.float32), jnp.stack(of_samples, 1), precision=jax.lax.Precision.HIGHEST)
