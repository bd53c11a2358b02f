"""Differential coding. Huang et al., "Differential Coding for Training-Free ANN-to-SNN Conversion", ICML 2025,
arXiv 2503.00301."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gnsnn_jax._types import Array, Float, Int
from gnsnn_jax.errors import InputError, shown
from gnsnn_jax.method.activations import align, staircase
from gnsnn_jax.method.neurons.base import Neuron
from gnsnn_jax.method.neurons.group import GroupNeuron
from gnsnn_jax.method.neurons.multi_threshold import MultiThresholdNeuron, multi_threshold_neuron


class Predicted(NamedTuple):
    charge: Array  # v [...], float32 or wider
    total: Array  # O [...], the sum of the outputs, as wide
    steps: Array  # t [...], int32: steps that are over


class Outputs(NamedTuple):
    total: Array  # of all outputs so far [...]
    steps: Array  # int32


@dataclass(frozen=True)
class DifferentialNeuron(Neuron):
    """Sends what its value is to change by, in the spikes of another neuron, and stands for the mean so far and that.

        p_t = O_(t-1) / (t-1),  p_1 = 0;   s_t = Q(c - p_t),   c = v + x_t
        y_t = p_t + s_t,   v <- c - y_t,   O <- O + y_t,   v(0) that of the other neuron

    Q is the spike that the other neuron sends at that charge, of either sign, restricted to those that keep the mean
    O / t within 0..theta, and within -theta..theta in its signed form. A network that carries y_t, with inputs and
    biases at each step, sends the same spikes as the published one, which carries s_t, has its inputs and biases at
    the first step alone, and lets each neuron remember the mean current so far: so the spikes that are counted are
    those of s_t, and that memory is not counted. The bound theta is that of the activations that it stands for; the
    paper has none.

    Args:
        neuron: a group neuron, one of several thresholds or one of binary spikes.

    Raises:
        TypeError: for another neuron.
    """

    neuron: GroupNeuron | MultiThresholdNeuron = field()
    signed = True
    sends_its_value = False

    def __post_init__(self) -> None:
        if not isinstance(self.neuron, GroupNeuron | MultiThresholdNeuron):
            raise TypeError(
                "differential coding takes the spikes of group_neuron, integrate_and_fire, binary_group_neuron or "
                f"multi_threshold_neuron, got {shown(self.neuron)}"
            )

    @property
    def members(self) -> int:
        """Units of a spike: those of the neuron that sends it."""
        return self.neuron.members

    @property
    def values_a_step(self) -> int:
        """Those of the spikes, of either sign."""
        return self.neuron.signed_form().values_a_step

    @property
    def is_signed_form(self) -> bool:
        return self.neuron.signed_form() == self.neuron

    def init(self, threshold: Array | float, shape: tuple[int, ...]) -> Predicted:
        start = self.neuron.potential(self.neuron.init(jnp.asarray(threshold), shape))
        return Predicted(start, jnp.zeros_like(start), jnp.zeros(shape, jnp.int32))

    def step(self, state: Predicted, x_t: Array, threshold: Array | float) -> tuple[Predicted, Array]:
        theta = align(jnp.asarray(threshold, state.charge.dtype), state.charge.shape, "threshold")
        unit, predicted = self.unit(theta), _mean(state.total, state.steps)
        change = state.charge + x_t.astype(state.charge.dtype) - predicted
        spikes = self._spikes(change, state._replace(total=state.total + predicted, steps=state.steps + 1), theta, unit)
        output = predicted + spikes
        return Predicted(change - spikes, state.total + output, state.steps + 1), output

    def sent(
        self, memory: Outputs, outputs: Float[Array, "n *shape"], threshold: Array
    ) -> tuple[Outputs, Int[Array, "n *shape"]]:
        """The spikes of y_t - p_t, at each of n steps."""
        totals = memory.total[None] + jnp.cumsum(outputs.astype(memory.total.dtype), 0)
        before = jnp.concatenate([memory.total[None], totals[:-1]])
        steps = (memory.steps + jnp.arange(len(outputs), dtype=jnp.int32)).reshape(-1, *(1,) * (outputs.ndim - 1))
        spikes = outputs.astype(memory.total.dtype) - _mean(before, steps)
        return Outputs(totals[-1], memory.steps + len(outputs)), self.neuron.count(spikes, threshold)

    def nothing_sent(self, shape: tuple[int, ...]) -> Outputs:
        return Outputs(jnp.zeros(shape, jnp.float32), jnp.int32(0))

    def signed_form(self) -> DifferentialNeuron:
        return DifferentialNeuron(self.neuron.signed_form())

    def potential(self, state: Any) -> Array:
        raise InputError(
            f"{self} starts from no other potential, as a calibration gives it: it corrects by itself what it sent too "
            "much, so leave the calibration out"
        )

    def with_potential(self, state: Any, potential: Array) -> Any:
        return self.potential(state)

    def least_output(self, state: Predicted, unit: Array) -> Array | int:
        return -self.members * unit if self.is_signed_form else 0

    def _spikes(self, change: Array, without: Predicted, theta: Array, unit: Array) -> Array:
        """What is sent on top of what the sum is `without` it, with the gradient of the signed group neuron."""
        room = without.steps.astype(theta.dtype) * theta
        below = self._whole(without.total + room if self.is_signed_form else without.total, unit)
        units = self.neuron.limited(change, unit, below, self._whole(room - without.total, unit))
        smooth = staircase(change, unit, self.members, True)
        return jax.lax.stop_gradient(units.astype(unit.dtype) * unit) + smooth - jax.lax.stop_gradient(smooth)

    def _whole(self, room: Array, unit: Array) -> Array:
        """Units that fit, as many as a spike can have at most."""
        return jnp.clip(jnp.floor(room / unit), 0, self.members).astype(jnp.int32)


def _mean(total: Array, steps: Array) -> Array:
    """0 before the first step."""
    return total / jnp.maximum(steps, 1).astype(total.dtype)


def differential(neuron: GroupNeuron | MultiThresholdNeuron) -> DifferentialNeuron:
    """Differential coding with the spikes of a neuron: `DifferentialNeuron(neuron)`.

    Args:
        neuron: a group neuron, one of several thresholds or one of binary spikes.

    Returns:
        A neuron; equal arguments give equal ones.

    Raises:
        TypeError: for another neuron.
    """
    return DifferentialNeuron(neuron)


NEURONS = {"dc": lambda members: differential(multi_threshold_neuron(members.bit_length()))}
OVER = {"dc": differential}
HELP = {"dc": "differential coding, sends changes in the spikes of mt, or of the neuron beside it, as in dc+gn"}
