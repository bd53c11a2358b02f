"""COS: offset spikes calibrated away."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gnsnn_jax._types import Array, Float
from gnsnn_jax.errors import at_least_one
from gnsnn_jax.method.activations import align
from gnsnn_jax.method.calibrations.base import Calibration
from gnsnn_jax.method.neurons.base import Neuron
from gnsnn_jax.method.neurons.run import initial_state, one_step
from gnsnn_jax.xla.computed_once import computed_once
from gnsnn_jax.xla.time_scan import short

MARGIN = 1e-3  # how far past the decisive potential a shift goes, in units of the neuron


@dataclass(frozen=True)
class OffsetSpikes(Calibration):
    """COS: shifts the initial potential of a neuron whose spike count over the probe is off by one or more.

    From v(0) = u/2 the neuron runs over the `probe_steps` first currents. What its final potential
    exceeds u/2 + v(probe_steps) - v(0) by is the charge that its spikes left over:

        v(rho) - v(0) + u/2 <  0, a step could emit less:  v(0) <- v(0) - max(u, lowest + eps u)
        v(rho) - v(0) + u/2 >= u, a step could emit more:  v(0) <- v(0) + max(u, u + eps u - highest)

    with the potential after reset that was `lowest` among the steps that could have emitted less and
    `highest` among those that could have emitted more. Each pass over a group neuron changes its count by
    exactly one towards clip(floor(sum x / u + 1/2), l rho, m rho), that of QCFS with m rho levels: l = -m
    if the neuron is signed, else 0. So (m - l) rho passes reach it, and more are not computed. A neuron
    that fires fully at every step is saturated and stays as it is, and so does one that emits l units at
    every step and has a charge below that. Of other neurons a pass shifts the initial potential in the right
    direction, and the count may change by another number than one.

    Args:
        probe_steps: rho, at least 1.
        passes: at least 1.

    Raises:
        InputError: for probe_steps or passes < 1.
        TypeError: for those that are no integers.

    Hao et al. 2023, arXiv 2302.10685.
    """

    passes: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "passes", at_least_one("passes", self.passes))

    def initial(
        self, neuron: Neuron, currents: Float[Array, "T *shape"], threshold: Float[Array, "..."] | float
    ) -> Float[Array, "*shape"]:
        """The initial potential of each neuron after `passes` passes over the probe.

        Args:
            neuron: any whose state has a potential.
            currents: x [T, ...] with T >= probe_steps, in the unit of the threshold.
            threshold: [] or [C].

        Returns:
            v(0) [...], which no gradient reaches.

        Raises:
            InputError: for fewer currents than probe steps and for shapes that do not broadcast.
            TypeError: for a neuron whose state has no potential.
        """
        currents, threshold = self.probed(currents, threshold)
        start = initial_state(neuron, currents, threshold)
        shift_once = lambda _, potential: _shifted(neuron, currents, threshold, start, potential)
        helpful, own = min(self.passes, (neuron.members - neuron.lowest) * self.probe_steps), neuron.potential(start)
        return computed_once(jax.lax.fori_loop(0, helpful, shift_once, own) if helpful > 1 else shift_once(0, own))


def offset_spikes(probe_steps: int, passes: int = 1) -> OffsetSpikes:
    """COS, the calibration of offset spikes over the first `probe_steps` currents: `OffsetSpikes(probe_steps, passes)`.

    Args:
        probe_steps: rho, at least 1.
        passes: at least 1.

    Returns:
        A calibration; equal arguments give equal ones.

    Raises:
        InputError: for probe_steps or passes < 1.
        TypeError: for those that are no integers.

    Hao et al. 2023, arXiv 2302.10685.
    """
    return OffsetSpikes(probe_steps, passes)


# By name, given probe_steps and passes.
CALIBRATIONS = {"cos": offset_spikes}
HELP = {"cos": "offset spikes calibrated away by rho probe steps for each sample, as in gn+cos"}


class _Probe(NamedTuple):
    state: Any
    lowest: Array  # potential after reset, among the steps that could have emitted less
    highest: Array  # after reset, among the steps that could have emitted more


def _shifted(neuron: Neuron, currents: Array, threshold: Array, start: Any, initial: Array) -> Array:
    """The initial potential after one pass."""
    unit = align(neuron.unit(threshold), initial.shape, "threshold")
    probe = _probe(neuron, currents, threshold, unit, neuron.with_potential(start, initial))
    left_over = neuron.potential(probe.state) - initial + unit / 2
    could_less, could_more = probe.lowest < jnp.inf, probe.highest > -jnp.inf
    down = jnp.maximum(unit, probe.lowest + MARGIN * unit)
    up = jnp.maximum(unit, unit + MARGIN * unit - probe.highest)
    too_many, too_few = (left_over < 0) & could_less, (left_over >= unit) & could_more
    return initial - jnp.where(too_many, down, 0) + jnp.where(too_few, up, 0)


def _probe(neuron: Neuron, currents: Array, threshold: Array, unit: Array, start: Any) -> _Probe:
    step = one_step(neuron, threshold)

    def fire(probe: _Probe, x_t: Array) -> tuple[_Probe, None]:
        state, spikes = step(probe.state, x_t)
        potential = neuron.potential(state)
        could_less = spikes > neuron.least_output(probe.state, unit)
        lowest = jnp.where(could_less, jnp.minimum(probe.lowest, potential), probe.lowest)
        could_more = spikes < unit * neuron.members
        highest = jnp.where(could_more, jnp.maximum(probe.highest, potential), probe.highest)
        return _Probe(state, lowest, highest), None

    nothing = jnp.full_like(neuron.potential(start), jnp.inf)
    probe, _ = jax.lax.scan(fire, _Probe(start, nothing, -nothing), currents, unroll=short(len(currents)))
    return probe
