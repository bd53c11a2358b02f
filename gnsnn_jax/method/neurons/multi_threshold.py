"""The multi-threshold neuron. Huang et al., "Differential Coding for Training-Free ANN-to-SNN Conversion", ICML 2025,
arXiv 2503.00301."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gnsnn_jax._types import Array, Float, Int
from gnsnn_jax.dtypes import at_least_single
from gnsnn_jax.errors import InputError, at_least_one, shown
from gnsnn_jax.method.activations import align, staircase
from gnsnn_jax.method.neurons.base import Neuron

FIRES_AT = 0.75  # of a threshold: half-way between it and the next smaller one
MOST_THRESHOLDS = 20  # of which the largest is 2^19 of the smallest, within what float32 counts exactly


class Sent(NamedTuple):
    potential: Array  # v [...], float32 or wider
    sent: Array  # S [...], int32: the sum of its spikes, in units


@dataclass(frozen=True)
class MultiThresholdNeuron(Neuron):
    """Sends at most one spike a step, of the size of that of its thresholds which is nearest to its charge.

        y_t = +-theta_k for the first k = 0..n-1 with |c| >= 3/4 theta_k, 0 if there is none,   theta_k = theta / 2^k
        v <- c - y_t,   c = v + x_t,   S <- S + y_t,   v(0) = 0,   S(0) = 0

    A spike of -theta_k needs S >= theta_k too, so that the sum of the outputs is never below 0; with `either_sign` it
    needs not. After enough steps without current, the sum of the outputs is less than 3/4 theta_(n-1) from the sum of
    the currents, or 0 where that is negative: in whichever order the currents came. Its gradient is that of the group
    neuron of as many units.

    Args:
        thresholds: n, 1 to 20. The smallest is the unit, 2^(n-1) of which make theta.
        either_sign: whether the sum of its outputs can be negative, as an encoder needs it.

    Raises:
        InputError: for thresholds < 1 or > 20.
        TypeError: for thresholds that are no integer and for an `either_sign` that is not a truth value.
    """

    thresholds: int = field()
    either_sign: bool = False
    signed = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "thresholds", at_least_one("thresholds", self.thresholds))
        if self.thresholds > MOST_THRESHOLDS:
            raise InputError(
                f"thresholds must be at most {MOST_THRESHOLDS}, got {self.thresholds}; each is half the last"
            )
        if not isinstance(self.either_sign, bool):
            raise TypeError(f"either_sign must be True or False, got {shown(self.either_sign)}")

    @property
    def members(self) -> int:
        """The largest spike in units: 2^(n-1)."""
        return 2 ** (self.thresholds - 1)

    def init(self, threshold: Array | float, shape: tuple[int, ...]) -> Sent:
        threshold = jnp.asarray(threshold)
        align(threshold, shape, "threshold")
        return Sent(jnp.zeros(shape, at_least_single(threshold.dtype)), jnp.zeros(shape, jnp.int32))

    def step(self, state: Sent, x_t: Array, threshold: Array | float) -> tuple[Sent, Array]:
        charged = state.potential + x_t.astype(state.potential.dtype)
        unit = align(self.unit(jnp.asarray(threshold, charged.dtype)), charged.shape, "threshold")
        units = self._units(charged, unit, state.sent)
        spikes = jax.lax.stop_gradient(units.astype(charged.dtype) * unit) + self._surrogate(charged, unit, state.sent)
        return Sent(charged - spikes, state.sent + units), spikes

    def count(self, outputs: Float[Array, "*shape"], threshold: Float[Array, "..."] | float) -> Int[Array, "*shape"]:
        """One spike for each output but 0: it says by itself which threshold it is of."""
        return (self.units(outputs, threshold) != 0).astype(jnp.int32)

    @property
    def values_a_step(self) -> int:
        """Each of its thresholds and its negative."""
        return 2 * self.thresholds

    def signed_form(self) -> MultiThresholdNeuron:
        return replace(self, either_sign=True)

    def least_output(self, state: Sent, unit: Array) -> Array:
        back = self._largest(lambda size: self._can_take(size, state.sent), state.sent.shape)
        return -back.astype(unit.dtype) * unit

    def limited(self, charged: Array, unit: Array, below: Array, above: Array) -> Array:
        """What it emits at a charge, in units, if these are at least -below and at most `above`: int32, 0 or a power
        of two of either sign."""
        fires = lambda charged, most: lambda size: (charged >= FIRES_AT * size * unit) & (size <= most)
        up, down = fires(charged, above), fires(-charged, below)
        return self._largest(up, charged.shape) - self._largest(down, charged.shape)

    def _units(self, charged: Array, unit: Array, sent: Array) -> Array:
        below = jnp.full_like(sent, self.members) if self.either_sign else sent
        return self.limited(charged, unit, below, jnp.full_like(sent, self.members))

    def _can_take(self, size: int, sent: Array) -> Array:
        return jnp.ones_like(sent, bool) if self.either_sign else sent >= size

    def _largest(self, holds: Callable[[int], Array], shape: tuple[int, ...]) -> Array:
        """The largest size of a spike, in units, for which something holds, int32 [...]; 0 if for none."""
        found = jnp.zeros(shape, jnp.int32)
        for k in range(self.thresholds):
            found = jnp.where(holds(2**k), 2**k, found)
        return found

    def _surrogate(self, charged: Array, unit: Array, sent: Array) -> Array:
        """0, with the gradient of a group neuron where spikes can be sent or taken back."""
        back = jnp.where(self._can_take(1, sent), staircase(-charged, unit, self.members), 0)
        smooth = staircase(charged, unit, self.members) - back
        return smooth - jax.lax.stop_gradient(smooth)


multi_threshold_neuron = MultiThresholdNeuron
# As many thresholds as the units of so many members hold: 4 of 8 members, of which one is 8 units.
NEURONS = {"mt": lambda members: multi_threshold_neuron(members.bit_length())}
HELP = {"mt": "multi-threshold neuron, a spike a step, of either sign and one of several sizes"}
