"""Neurons that wait for all their currents before they send: parallel conversion, two-phase, permuted trains."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp

from gnsnn_jax._types import Array, Float
from gnsnn_jax.errors import InputError, at_least_one, shown
from gnsnn_jax.method.activations import align, staircase
from gnsnn_jax.method.neurons.base import Neuron
from gnsnn_jax.method.neurons.group import GroupNeuron, integrate_and_fire
from gnsnn_jax.method.neurons.run import run


@dataclass(frozen=True, eq=False)
class LayerwiseNeuron(Neuron):
    """Base class of neurons whose spikes depend on all currents of all T steps, so that a layer waits for the one
    before it: an answer takes T steps for each layer in a row. A subclass is a frozen dataclass with `whole`."""

    layerwise = True

    @abstractmethod
    def whole(
        self, currents: Float[Array, "T *shape"], threshold: Float[Array, "..."], potential: Float[Array, "*shape"]
    ) -> Float[Array, "T *shape"]:
        """The outputs at all steps, a pure function.

        Args:
            currents: x [T, ...] of all steps, in the type of the threshold.
            threshold: [] or [C].
            potential: v(0) [...].

        Returns:
            y [T, ...].
        """

    def init(self, threshold: Array | float, shape: tuple[int, ...]) -> Array:
        """Half a unit."""
        return GroupNeuron(self.members).init(threshold, shape)

    def step(self, state: Any, x_t: Array, threshold: Array | float) -> tuple[Any, Array]:
        """Refused: there is no step before all currents are there."""
        raise InputError(
            f"{self} needs the currents of all steps before it sends, so it runs neither step by step nor under a "
            "calibration that probes it; use it with to_spiking or run alone, or take another neuron"
        )


@dataclass(frozen=True)
class ParallelNeuron(LayerwiseNeuron):
    """Sends the spikes that the mean current of all steps asks for, the first steps first.

        n = clip(floor((S_T + v(0)) / u), l T, m T),   S_T = x_1 + ... + x_T,   v(0) = u/2
        y_t = u clip(n - m (t - 1), 0, m)  for n >= 0, and likewise with the signs changed below 0

    with l = -m if signed, else 0. The sum is that of QCFS with m T levels for every train of the same sum: no error
    of uneven spikes is left. At m = 1 it is the published neuron, which fires at step t where T/t mean(x) + v(0)/t >=
    theta.

    Args:
        members: m, at least 1; 1 by default.
        signed: whether it sends negative spikes too.

    Raises:
        InputError: for members < 1.
        TypeError: for members that are no integer and for a `signed` that is not a truth value.

    Hao et al., ICML 2025, arXiv 2412.13610.
    """

    members: int = 1
    signed: bool = field(default=False, metadata={"omit_default": True})

    def __post_init__(self) -> None:
        object.__setattr__(self, "members", at_least_one("members", self.members))
        if not isinstance(self.signed, bool):
            raise TypeError(f"signed must be True or False, got {shown(self.signed)}")

    def whole(self, currents: Array, threshold: Array, potential: Array) -> Array:
        steps = len(currents)
        unit = align(self.unit(threshold), potential.shape, "threshold")
        total = staircase(potential + currents.sum(0), unit, self.members * steps, self.signed)
        before = _numbers(steps, currents) * (self.members * unit)[None]
        least = 0 if not self.signed else -(self.members * unit)[None]
        sent = jnp.clip(jnp.abs(total)[None] - before, 0, (self.members * unit)[None])
        return jnp.maximum(jnp.sign(total)[None] * sent, least)

    def signed_form(self) -> ParallelNeuron:
        return replace(self, signed=True)


@dataclass(frozen=True)
class TwoPhaseNeuron(LayerwiseNeuron):
    """TPP: collects all currents first, then sends at random what is left, evenly over the steps that are left.

        v_0 = theta floor(S_T / theta + r),  r uniform in [0, 1);   p_t = clip(v_(t-1) / (theta (T - t + 1)), 0, 1)
        y_t = theta with probability p_t,   v_t = v_(t-1) - y_t

    The count is floor(S_T / theta) or one more, within 0..T, and its expectation is clip(S_T / theta, 0, T) exactly. A
    signed neuron sends -theta where v is negative. The random numbers are those of the seed and of the site, the same
    at each call.

    The authors' code is not public. As described there, the probabilities start from v_0 = S_T, whose fractions of a
    spike they send too often: 0.436 spikes for S_T = theta/4 at T = 4. Rounding at random in front makes them right.

    Args:
        seed: of the random numbers, 0 by default.
        signed: whether it sends negative spikes too.
        site: number of the population, which the converted network sets.

    Raises:
        TypeError: for a seed that is no integer and for a `signed` that is not a truth value.

    Bojkovic, Wu, Gu, ICML 2025, arXiv 2502.14487.
    """

    seed: int = 0
    signed: bool = field(default=False, metadata={"omit_default": True})
    site: int = field(default=0, metadata={"omit_default": True})

    def __post_init__(self) -> None:
        _check_seed(self.seed)
        if not isinstance(self.signed, bool):
            raise TypeError(f"signed must be True or False, got {shown(self.signed)}")

    def init(self, threshold: Array | float, shape: tuple[int, ...]) -> Array:
        """No charge: half a unit of it would be sent on top, on average."""
        return jnp.zeros_like(super().init(threshold, shape))

    def whole(self, currents: Array, threshold: Array, potential: Array) -> Array:
        steps, theta = len(currents), align(threshold, potential.shape, "threshold")
        key = jax.random.fold_in(jax.random.key(self.seed), self.site)
        for_rounding, for_spikes = jax.random.split(key)
        chances = jax.random.uniform(for_spikes, currents.shape, currents.dtype)
        up = jax.random.uniform(for_rounding, potential.shape, currents.dtype)
        whole = jnp.floor((potential + currents.sum(0)) / theta + up)  # spikes to send

        def send(left: Array, step: tuple[Array, Array]) -> tuple[Array, Array]:
            remaining, chance = step
            size = jnp.abs(left) if self.signed else jnp.maximum(left, 0)
            spikes = (chance * remaining < size).astype(left.dtype) * jnp.sign(left)
            return left - spikes, spikes

        remaining = jnp.arange(steps, 0, -1, dtype=currents.dtype)
        return jax.lax.scan(send, whole, (remaining, chances))[1] * theta[None]

    def signed_form(self) -> TwoPhaseNeuron:
        return replace(self, signed=True)

    def at_site(self, number: int) -> TwoPhaseNeuron:
        return replace(self, site=number)


@dataclass(frozen=True)
class PermutedNeuron(LayerwiseNeuron):
    """Another neuron whose spikes are put into a random order in time, for each neuron and sample by itself.

    Sums over all steps stay the same and what is uneven is spread, so how much accuracy rises tells how much of the
    error comes from when spikes arrive. A diagnostic: the order is that of the seed and of the site.

    Args:
        neuron: whose outputs are the spikes that it sends.
        seed: of the random numbers, 0 by default.
        site: number of the population, which the converted network sets.

    Raises:
        TypeError: for another neuron, and for a seed that is no integer.

    Bojkovic, Wu, Gu, ICML 2025, arXiv 2502.14487, use permutations to show what they call temporal misalignment.
    """

    neuron: Neuron = field()
    seed: int = 0
    site: int = field(default=0, metadata={"omit_default": True})

    def __post_init__(self) -> None:
        if not isinstance(self.neuron, Neuron) or not self.neuron.sends_its_value or self.neuron.layerwise:
            raise TypeError(
                "the trains of neurons that send their outputs step by step can be permuted, such as those of "
                f"integrate_and_fire or group_neuron, got {shown(self.neuron)}"
            )
        _check_seed(self.seed)

    @property
    def members(self) -> int:
        """Those of the neuron."""
        return self.neuron.members

    @property
    def signed(self) -> bool:
        """Whether the neuron is."""
        return self.neuron.signed

    @property
    def values_a_step(self) -> int:
        """Those of the neuron."""
        return self.neuron.values_a_step

    def init(self, threshold: Array | float, shape: tuple[int, ...]) -> Array:
        return self.neuron.potential(self.neuron.init(jnp.asarray(threshold), shape))

    def whole(self, currents: Array, threshold: Array, potential: Array) -> Array:
        spikes, _ = run(self.neuron, currents, threshold, potential)
        key = jax.random.fold_in(jax.random.key(self.seed), self.site)
        return jax.random.permutation(key, spikes, axis=0, independent=True)

    def unit(self, threshold: Array) -> Array:
        return self.neuron.unit(threshold)

    def count(self, outputs: Array, threshold: Array | float) -> Array:
        return self.neuron.count(outputs, threshold)

    def signed_form(self) -> PermutedNeuron | None:
        form = self.neuron.signed_form()
        return None if form is None else replace(self, neuron=form)

    def at_site(self, number: int) -> PermutedNeuron:
        return replace(self, site=number)


def _numbers(steps: int, like: Array) -> Array:
    """0, 1, ..., T - 1 along the time axis."""
    return jnp.arange(steps, dtype=like.dtype).reshape(-1, *(1,) * (like.ndim - 1))


def _check_seed(seed: Any) -> None:
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**31:
        raise TypeError(f"seed must be an integer from 0 to 2^31 - 1, got {shown(seed)}")


parallel_neuron = ParallelNeuron
two_phase_neuron = TwoPhaseNeuron
permuted = PermutedNeuron
# By name, given the number of members that group neurons have.
NEURONS = {
    "parallel": lambda members: parallel_neuron(),
    "tpp": lambda members: two_phase_neuron(),
    "permuted": lambda members: permuted(integrate_and_fire()),
}
OVER = {"permuted": permuted}
HELP = {
    "parallel": "parallel conversion, sends what all T steps together ask for; each layer waits for the one before",
    "tpp": "two-phase probabilistic neuron, sends at random what T steps brought; each layer waits",
    "permuted": "spikes of if, or of the neuron beside it, in random order, a diagnostic of uneven spikes",
}
