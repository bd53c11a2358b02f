"""Group neurons that send their units as binary spikes. Zhang et al., the harmony multi-threshold neuron (H-MT),
AAAI 2026."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from gnsnn_jax._types import Array, Float, Int
from gnsnn_jax.errors import InputError, at_least_one
from gnsnn_jax.method.neurons.group import GroupNeuron


@dataclass(frozen=True, repr=False)
class BinaryGroupNeuron(GroupNeuron):
    """The group neuron of m = 2^n - 1 members, whose k units a step are sent as the binary digits of k.

        s_k = [r_k >= 2^k u],   r_k = c - sum_{j > k} 2^j u s_j,   y_t = sum_k 2^k u s_k,   k = n-1..0,   c = v + x_t

    These n thresholds of powers of two fire one after the other within a step, the largest first, each on what the
    larger ones left. Their sum is that of the group neuron, u clip(floor(c / u), 0, m): equal outputs, sent in at
    most n spikes in place of m. A signed one sends the digits of |k| and a sign. Unlike the paper's pair of neurons for
    either sign it is one neuron.

    Args:
        members: m = 2^n - 1.
        signed: as that of the group neuron.

    Raises:
        InputError: for members that are not 2^n - 1.
        TypeError: as the group neuron.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.members & (self.members + 1):
            less, more = 2 ** (self.members.bit_length() - 1) - 1, 2 ** self.members.bit_length() - 1
            raise InputError(
                f"members must be 2^n - 1, as n binary spikes count so far, got {self.members}; use {less} or {more}"
            )

    def count(self, outputs: Float[Array, "*shape"], threshold: Float[Array, "..."] | float) -> Int[Array, "*shape"]:
        """One spike for each binary digit 1 of the units."""
        return jax.lax.population_count(jnp.abs(self.units(outputs, threshold)))


def binary_group_neuron(spikes: int, signed: bool = False) -> BinaryGroupNeuron:
    """The group neuron of 2^spikes - 1 members that sends its units as so many binary spikes: `BinaryGroupNeuron`.

    Args:
        spikes: n, at least 1; of one it is the IF neuron.
        signed: whether a step can emit negative units.

    Returns:
        A neuron; equal arguments give equal ones.

    Raises:
        InputError: for spikes < 1.
        TypeError: for spikes that are no integer and for a `signed` that is not a truth value.
    """
    return BinaryGroupNeuron(2 ** at_least_one("spikes", spikes) - 1, signed)


# The fewest spikes that count as far as so many members.
NEURONS = {"hmt": lambda members: binary_group_neuron(members.bit_length())}
HELP = {"hmt": "group neuron that sends its count a step as binary digits"}
