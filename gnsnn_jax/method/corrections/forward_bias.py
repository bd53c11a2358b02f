"""FTBC: forward temporal bias correction. Wu et al., ECCV 2024, arXiv 2403.18388."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from gnsnn_jax._types import Array
from gnsnn_jax.errors import InputError
from gnsnn_jax.method.activations import align
from gnsnn_jax.method.corrections.base import Correction, CorrectionRule, Seen, corrected
from gnsnn_jax.method.neurons.run import in_state_type, initial_state, one_step


@dataclass(frozen=True)
class ForwardBias(CorrectionRule):
    """FTBC: a bias for each step and channel that brings the mean output of the step to that of the activation.

    For t = 1..T, from the state that the neurons have with the biases of the steps before:

        b_t <- b_t - rate E[y_t - h],   y_t with the bias b_t so far

    with the mean over samples and positions of a channel. All layers are corrected in one pass over the network, each
    for the currents that the corrected layers before it make. A few batches of a few hundred samples are enough, one
    after the other. The released code goes on within the step with a bias of its own for each sample and position; here
    it goes on with b_t, the bias that the network will have.

    Args:
        rate: how much of the error one batch corrects, above 0; 0.5 by default.

    Raises:
        InputError: for a rate that is not above 0 and finite.
    """

    rate: float = 0.5
    holds_before = True

    def __post_init__(self) -> None:
        if not 0 < self.rate < float("inf"):
            raise InputError(f"the rate of FTBC must be above 0 and finite, got {self.rate}; 0.5 is usual")
        object.__setattr__(self, "rate", float(self.rate))

    def correct(self, seen: Seen, before: Correction) -> Correction:
        currents, threshold = in_state_type(corrected(seen.currents, before), seen.threshold)
        fire = one_step(seen.neuron, threshold)

        def step(state: Any, x_t: Array) -> tuple[Any, Array]:
            _, outputs = fire(state, x_t)
            change = -self.rate * seen.by_channel(outputs - seen.wanted.astype(outputs.dtype))
            after, _ = fire(state, x_t + align(change, x_t.shape, "bias").astype(x_t.dtype))
            return after, change

        _, changes = jax.lax.scan(step, initial_state(seen.neuron, currents, threshold), currents)
        return before._replace(bias=before.bias + changes.astype(jnp.float32))


# By name, as methods are called.
CORRECTIONS = {"ftbc": ForwardBias}
HELP = {"ftbc": "a bias for each step and channel, from training data"}
