"""The bipolar neuron with a spike tracker (ST-BIF). You et al., "SpikeZIP-TF", ICML 2024, arXiv 2406.03470."""

from __future__ import annotations

import operator
from dataclasses import dataclass, replace
from typing import NamedTuple

import jax.numpy as jnp

from gnsnn_jax._types import Array
from gnsnn_jax.errors import InputError, shown
from gnsnn_jax.method.activations import align, staircase
from gnsnn_jax.method.neurons.base import Neuron
from gnsnn_jax.method.neurons.group import integrate_and_fire


class Tracker(NamedTuple):
    potential: Array  # v [...], float32 or wider
    tracker: Array  # K [...], int32: positive spikes less negative ones


@dataclass(frozen=True)
class StBifNeuron(Neuron):
    """IF neuron that also fires negatively, and whose count of spikes, the tracker, stays between two bounds.

        y_t = theta [c >= theta and K < b] - theta [c < 0 and K > a],   c = v + x_t
        v <- c - y_t,   K <- K + y_t / theta,   v(0) = theta/2,   K(0) = 0

    with a = lower and b = upper. Once it no longer spikes, as after enough steps without current, the sum of its
    outputs is theta clip(floor(sum x / theta + 1/2), a, b), in whichever order the currents came: with upper = L and
    threshold/L as its threshold, QCFS of L levels of the sum of its currents. Currents that come at each step, as
    `to_spiking` makes them of constant inputs, want it without an upper bound: the mean to T steps is then that of
    QCFS with T levels, except where spikes have not been taken back yet.

    Args:
        upper: b, at least 1; None is no bound.
        lower: a, at most 0; None is no bound. Without bounds it is the signed IF neuron.

    Raises:
        InputError: for upper < 1 or lower > 0.
        TypeError: for bounds that are neither integers nor None.
    """

    upper: int | None = None
    lower: int | None = 0
    signed = True

    def __post_init__(self) -> None:
        for name in ("upper", "lower"):
            object.__setattr__(self, name, _bound(name, getattr(self, name)))
        if self.upper is not None and self.upper < 1:
            raise InputError(f"upper must be at least 1 or None, got {self.upper}; it bounds the spikes sent")
        if self.lower is not None and self.lower > 0:
            raise InputError(
                f"lower must be at most 0 or None, got {self.lower}; 0 lets no more be taken than was sent"
            )

    def init(self, threshold: Array | float, shape: tuple[int, ...]) -> Tracker:
        return Tracker(integrate_and_fire().init(threshold, shape), jnp.zeros(shape, jnp.int32))

    def step(self, state: Tracker, x_t: Array, threshold: Array | float) -> tuple[Tracker, Array]:
        charged = state.potential + x_t.astype(state.potential.dtype)
        theta = align(jnp.asarray(threshold, charged.dtype), charged.shape, "threshold")
        spikes = jnp.where(self._can_fall(state), staircase(charged, theta, 1, True), staircase(charged, theta, 1))
        spikes = jnp.where((spikes > 0) & ~self._can_rise(state), 0, spikes)
        return Tracker(charged - spikes, state.tracker + jnp.sign(spikes).astype(jnp.int32)), spikes

    def signed_form(self) -> StBifNeuron:
        """With bounds that are as far below 0 as above it."""
        return self if self.lower != 0 else replace(self, lower=None if self.upper is None else -self.upper)

    def least_output(self, state: Tracker, unit: Array) -> Array:
        return jnp.where(self._can_fall(state), -unit, 0)

    def _can_fall(self, state: Tracker) -> Array:
        return jnp.ones_like(state.tracker, bool) if self.lower is None else state.tracker > self.lower

    def _can_rise(self, state: Tracker) -> Array:
        return jnp.ones_like(state.tracker, bool) if self.upper is None else state.tracker < self.upper


def _bound(name: str, value: int | None) -> int | None:
    if value is None:
        return None
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer or None, got {shown(value)}") from None


st_bif_neuron = StBifNeuron
NEURONS = {"stbif": lambda members: st_bif_neuron()}
HELP = {"stbif": "bipolar IF with a spike tracker, takes spikes back where its charge is below 0"}
