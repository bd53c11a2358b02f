"""Calibrations: the initial potential that each neuron starts from, found by probing its currents."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gnsnn_jax._types import Array, Float
from gnsnn_jax.dtypes import at_least_single
from gnsnn_jax.errors import InputError, at_least_one
from gnsnn_jax.method.activations import align, floating
from gnsnn_jax.method.neurons import Neuron, placed_as, short
from gnsnn_jax.xla.computed_once import computed_once

MARGIN = 1e-3  # how far past the decisive potential a shift goes, in units of the neuron


class Calibration(NamedTuple):
    """How many steps a calibration looks at, and the pure function that looks.

    initial(neuron, currents [probe_steps, ...], threshold) -> initial potential [...]
    """

    probe_steps: int
    initial: Callable[[Neuron, Array, Array], Array]


@cache
def offset_spikes(probe_steps: int, passes: int = 1) -> Calibration:
    """COS: shifts the initial potential of a neuron whose spike count over the probe is off by one or more.

    From v(0) = u/2 the neuron runs over the `probe_steps` first currents. What its final potential
    exceeds u/2 + v(probe_steps) - v(0) by is the charge that its spikes left over:

        v(rho) - v(0) + u/2 <  0, some spikes:         v(0) <- v(0) - max(u, lowest + eps u)
        v(rho) - v(0) + u/2 >= u, not full throughout:  v(0) <- v(0) + max(u, u + eps u - highest)

    with the potential after reset that was `lowest` among the steps that fired and `highest` among
    those that could have fired more. Each pass changes the count by exactly one towards
    clip(floor(sum x / u + 1/2), 0, m rho), that of QCFS with m rho levels, so m rho passes reach
    it, and more are not computed. A neuron that fires fully at every step is saturated and stays as it is.
    Currents and threshold as in `run`. Equal arguments give the same calibration. Raises InputError for
    probe_steps or passes < 1. Hao et al. 2023, arXiv 2302.10685.
    """
    probe_steps = at_least_one("probe_steps", probe_steps)
    passes = at_least_one("passes", passes)

    def initial(
        neuron: Neuron, currents: Float[Array, "T *shape"], threshold: Float[Array, "..."] | float
    ) -> Float[Array, "*shape"]:
        currents = floating("currents", currents)
        if len(currents) < probe_steps:
            raise InputError(f"{probe_steps} probe steps need as many currents, got {len(currents)}")
        currents = currents[:probe_steps]
        threshold = jnp.asarray(threshold, at_least_single(currents.dtype))
        start = placed_as(neuron.init(threshold, currents.shape[1:]), currents)
        currents, threshold, start = jax.lax.stop_gradient((currents, threshold, start))
        shift_once = lambda _, potential: _shifted(neuron, currents, threshold, potential)
        helpful = min(passes, neuron.members * probe_steps)
        return computed_once(jax.lax.fori_loop(0, helpful, shift_once, start) if helpful > 1 else shift_once(0, start))

    return Calibration(probe_steps, initial)


CALIBRATIONS: dict[str, Callable[..., Calibration]] = {"cos": offset_spikes}


class _Probe(NamedTuple):
    potential: Array
    lowest: Array  # after reset, among the steps that fired
    highest: Array  # after reset, among the steps that did not fire fully


def _shifted(neuron: Neuron, currents: Array, threshold: Array, initial: Array) -> Array:
    """The initial potential after one pass."""
    unit = align(threshold / neuron.members, initial.shape, "threshold")
    probe = _probe(neuron, currents, threshold, unit, initial)
    left_over = probe.potential - initial + unit / 2
    fired, unsaturated = probe.lowest < jnp.inf, probe.highest > -jnp.inf
    down = jnp.maximum(unit, probe.lowest + MARGIN * unit)
    up = jnp.maximum(unit, unit + MARGIN * unit - probe.highest)
    too_many, too_few = (left_over < 0) & fired, (left_over >= unit) & unsaturated
    return initial - jnp.where(too_many, down, 0) + jnp.where(too_few, up, 0)


def _probe(neuron: Neuron, currents: Array, threshold: Array, unit: Array, initial: Array) -> _Probe:
    def fire(probe: _Probe, x_t: Array) -> tuple[_Probe, None]:
        potential, spikes = neuron.step(probe.potential, x_t, threshold)
        lowest = jnp.where(spikes > 0, jnp.minimum(probe.lowest, potential), probe.lowest)
        could_more = spikes < unit * neuron.members
        highest = jnp.where(could_more, jnp.maximum(probe.highest, potential), probe.highest)
        return _Probe(potential, lowest, highest), None

    nothing = jnp.full_like(initial, jnp.inf)
    start = _Probe(initial, nothing, -nothing)
    probe, _ = jax.lax.scan(fire, start, currents, unroll=short(len(currents)))
    return probe
