"""The signed neuron with memory (SNM). Wang et al., "Signed Neuron with Memory", IJCAI 2022."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp

from gnsnn_jax._types import Array
from gnsnn_jax.errors import InputError
from gnsnn_jax.method.activations import align, staircase
from gnsnn_jax.method.neurons.base import Neuron
from gnsnn_jax.method.neurons.group import integrate_and_fire


class Memory(NamedTuple):
    potential: Array  # v [...], float32 or wider
    memory: Array  # M [...], int32: spikes sent and not taken back


@dataclass(frozen=True)
class SignedMemoryNeuron(Neuron):
    """IF neuron that also fires negatively, at no time more often than it has fired positively.

        y_t = theta [c >= theta] - theta [c <= -theta and M > 0],   c = v + x_t
        v <- c - y_t,   M <- M + y_t / theta,   v(0) = start theta,   M(0) = 0

    Args:
        start: v(0) in thresholds. 0.5 by default, as QCFS needs it; the paper starts from 0.

    Raises:
        InputError: for a start that is NaN or infinite.
    """

    start: float = 0.5
    signed = True

    def __post_init__(self) -> None:
        if not math.isfinite(self.start):
            raise InputError(f"start must be finite, got {self.start}; 0.5 is half a threshold")
        object.__setattr__(self, "start", float(self.start))

    def init(self, threshold: Array | float, shape: tuple[int, ...]) -> Memory:
        return Memory(2 * self.start * integrate_and_fire().init(threshold, shape), jnp.zeros(shape, jnp.int32))

    def step(self, state: Memory, x_t: Array, threshold: Array | float) -> tuple[Memory, Array]:
        charged = state.potential + x_t.astype(state.potential.dtype)
        theta = align(jnp.asarray(threshold, charged.dtype), charged.shape, "threshold")
        taken_back = jnp.where(state.memory > 0, staircase(-charged, theta, 1), 0)
        spikes = staircase(charged, theta, 1) - taken_back
        return Memory(charged - spikes, state.memory + jnp.sign(spikes).astype(jnp.int32)), spikes

    def signed_form(self) -> None:
        """None: its sum is never below 0."""

    def least_output(self, state: Memory, unit: Array) -> Array:
        return jnp.where(state.memory > 0, -unit, 0)


signed_memory_neuron = SignedMemoryNeuron
NEURONS = {"snm": lambda members: signed_memory_neuron()}
HELP = {"snm": "signed neuron with memory, IF that takes spikes back"}
