"""Group neurons, and IF neurons as groups of one."""

from __future__ import annotations

from dataclasses import dataclass, field

import jax.numpy as jnp

from gnsnn_jax._types import Array
from gnsnn_jax.dtypes import at_least_single
from gnsnn_jax.errors import at_least_one
from gnsnn_jax.method.activations import align, staircase
from gnsnn_jax.method.neurons.base import Neuron


@dataclass(frozen=True)
class GroupNeuron(Neuron):
    """Integrates charge and emits up to `members` units a step, keeping the remainder.

        y_t = u clip(floor((v + x_t) / u), 0, m),   v <- v + x_t - y_t,   u = threshold / m,   v(0) = u/2

    The state is the potential v [...], float32 or wider; `x_t` [...] and `threshold` [] or [C] share its unit.

    Args:
        members: m, at least 1; of one member it is the IF neuron.

    Raises:
        InputError: for members < 1.
        TypeError: for members that are no integer.

    Lv et al. 2024, arXiv 2402.19061.
    """

    members: int = field()

    def __post_init__(self) -> None:
        object.__setattr__(self, "members", at_least_one("members", self.members, "members=1 is an IF neuron"))

    def init(self, threshold: Array | float, shape: tuple[int, ...]) -> Array:
        threshold = jnp.asarray(threshold)
        start = self.unit(threshold.astype(at_least_single(threshold.dtype))) / 2
        return jnp.broadcast_to(align(start, shape, "threshold"), shape)

    def step(self, state: Array, x_t: Array, threshold: Array | float) -> tuple[Array, Array]:
        charged = state + x_t.astype(state.dtype)
        unit = align(self.unit(jnp.asarray(threshold, charged.dtype)), charged.shape, "threshold")
        spikes = staircase(charged, unit, self.members)
        return charged - spikes, spikes


def group_neuron(members: int) -> GroupNeuron:
    """The neuron that integrates charge and emits up to `members` units a step: `GroupNeuron(members)`.

    Equal arguments give equal neurons. Raises InputError for members < 1. Lv et al. 2024, arXiv 2402.19061.
    """
    return GroupNeuron(members)


def integrate_and_fire() -> GroupNeuron:
    """IF neuron with soft reset: fires one threshold where the charged potential reaches it.

        y_t = theta [v + x_t >= theta],   v <- v + x_t - y_t,   v(0) = theta/2

    The group neuron of one member. Bu et al. 2022, arXiv 2303.04347.
    """
    return GroupNeuron(1)
