"""Group neurons, and IF neurons as groups of one."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import jax.numpy as jnp

from gnsnn_jax._types import Array
from gnsnn_jax.dtypes import at_least_single
from gnsnn_jax.errors import at_least_one, shown
from gnsnn_jax.method.activations import align, staircase
from gnsnn_jax.method.neurons.base import Neuron
from gnsnn_jax.xla.computed_once import computed_once


@dataclass(frozen=True)
class GroupNeuron(Neuron):
    """Integrates charge and emits up to `members` units a step, keeping the remainder.

        y_t = u clip(floor((v + x_t) / u), l, m),   v <- v + x_t - y_t,   u = threshold / m,   v(0) = u/2

    with l = -m if signed, else 0. The mean of the outputs to T steps of a constant current x is
    u/T clip(floor(T x / u + 1/2), l T, m T): QCFS of m T levels, which a signed neuron continues below 0.
    The state is the potential v [...], float32 or wider; `x_t` [...] and `threshold` [] or [C] share its unit.

    Args:
        members: m, at least 1; of one member it is the IF neuron.
        signed: whether a step can emit down to -m units. A signed neuron encodes values of either sign.

    Raises:
        InputError: for members < 1.
        TypeError: for members that are no integer and for a `signed` that is not a truth value.

    Lv et al. 2024, arXiv 2402.19061.
    """

    members: int = field()
    signed: bool = field(default=False, metadata={"omit_default": True})

    def __post_init__(self) -> None:
        object.__setattr__(self, "members", at_least_one("members", self.members, "members=1 is an IF neuron"))
        if not isinstance(self.signed, bool):
            raise TypeError(f"signed must be True or False, got {shown(self.signed)}")

    def __repr__(self) -> str:
        return f"{type(self).__qualname__}(members={self.members}{', signed=True' if self.signed else ''})"

    def init(self, threshold: Array | float, shape: tuple[int, ...]) -> Array:
        threshold = jnp.asarray(threshold)
        start = self.unit(threshold.astype(at_least_single(threshold.dtype))) / 2
        return jnp.broadcast_to(align(start, shape, "threshold"), shape)

    def step(self, state: Array, x_t: Array, threshold: Array | float) -> tuple[Array, Array]:
        charged = state + x_t.astype(state.dtype)
        spikes = self._fire(charged, threshold)
        return charged - spikes, spikes

    def limited(self, charged: Array, unit: Array, below: Array, above: Array) -> Array:
        """What the signed form emits at a charge, in units, if these are at least -below and at most `above`, int32."""
        units = jnp.round(staircase(charged, unit, self.members, True) / unit).astype(jnp.int32)
        return jnp.clip(units, -below, above)

    def signed_form(self) -> GroupNeuron:
        return replace(self, signed=True)

    @property
    def steps_on_sums(self) -> bool:
        """Whether `step_on_sums` says the same as `step`, which a subclass may replace."""
        return type(self).step is GroupNeuron.step

    def step_on_sums(self, owed: Array, sum_t: Array, threshold: Array | float) -> tuple[Array, Array]:
        """`step` where the sum of the currents so far is known, so that none of them has to be computed.

            y_t = u clip(floor((w + S_t) / u), l, m),   w <- w - y_t,   w = v - S,   w(0) = v(0)

        Args:
            owed: w [...], the initial potential less all that was sent; float32 or wider.
            sum_t: S_t = x_1 + ... + x_t [...].
            threshold: [] or [C].

        Returns:
            w after the step, and the outputs y_t [...].
        """
        spikes = computed_once(self._fire(computed_once(owed + sum_t.astype(owed.dtype)), threshold))
        return owed - spikes, spikes

    def _fire(self, charged: Array, threshold: Array | float) -> Array:
        unit = align(self.unit(jnp.asarray(threshold, charged.dtype)), charged.shape, "threshold")
        return staircase(charged, unit, self.members, self.signed)


def group_neuron(members: int, signed: bool = False) -> GroupNeuron:
    """The neuron that integrates charge and emits up to `members` units a step: `GroupNeuron(members, signed)`.

    Args:
        members: m, at least 1; of one member it is the IF neuron.
        signed: whether a step can emit down to -m units.

    Returns:
        A neuron; equal arguments give equal ones.

    Raises:
        InputError: for members < 1.
        TypeError: for members that are no integer and for a `signed` that is not a truth value.

    Lv et al. 2024, arXiv 2402.19061.
    """
    return GroupNeuron(members, signed)


def integrate_and_fire(signed: bool = False) -> GroupNeuron:
    """IF neuron with soft reset: fires one threshold where the charged potential reaches it.

        y_t = theta [v + x_t >= theta],   v <- v + x_t - y_t,   v(0) = theta/2

    The group neuron of one member.

    Args:
        signed: whether it fires -theta where the charged potential is below 0.

    Returns:
        A neuron; equal arguments give equal ones.

    Raises:
        TypeError: for a `signed` that is not a truth value.

    Bu et al. 2022, arXiv 2303.04347.
    """
    return GroupNeuron(1, signed)


# By name, given the number of members that group neurons have.
NEURONS = {"if": lambda members: integrate_and_fire(), "gn": group_neuron}
HELP = {
    "if": "integrate and fire, a spike a step at most",
    "gn": "group neuron, up to m equal spikes a step",
}
