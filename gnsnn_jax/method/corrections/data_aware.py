"""DA-QCFS: data-aware thresholds and shifts of parallel conversion. Hao et al., ICML 2025, arXiv 2412.13610."""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp

from gnsnn_jax._types import Array
from gnsnn_jax.method.corrections.base import Correction, CorrectionRule, Seen, same_rank

LEAST = -0.5  # of phi, in thresholds


@dataclass(frozen=True)
class DataAware(CorrectionRule):
    """DA-QCFS: a shift psi of the current and one phi of what a spike is worth, for each channel.

        y = (theta + phi)/theta neuron(x + psi; theta)
        psi <- psi + E[a - mean_t x_t - psi] / k,   phi <- phi + E[h - mean_t y_t] / k        in the k-th batch

    with the current a and the value h of the activation in the network itself, and the mean over samples and positions
    of a channel, layer after layer. Neurons that are scaled alike fire alike, so it is the neuron of the threshold
    theta + phi with the currents (theta + phi)/theta (x + psi), and its spikes are whole numbers of that.

    The released code averages exponentially over many batches, with 1 % for each; this is the average of all. phi is
    kept above -theta/2.
    """

    def correct(self, seen: Seen, before: Correction) -> Correction:
        share = 1 / jnp.asarray(seen.batch, jnp.float32)
        shift = seen.by_channel(seen.own_currents - seen.currents.mean(0)).astype(jnp.float32)
        theta, shift = same_rank(jnp.asarray(seen.threshold, jnp.float32), shift)
        gain = 1.0 if before.threshold is None else same_rank(before.threshold, theta)[0] / theta
        psi = same_rank(before.bias[0], theta)[0] / gain
        psi = psi + share * (shift - psi)
        error = seen.by_channel(seen.wanted - seen.mean_output(_with(theta, gain, psi))).astype(jnp.float32)
        phi = (gain - 1) * theta + share * same_rank(error, theta)[0]
        return _with(theta, 1 + jnp.maximum(phi / theta, LEAST), psi)


def _with(theta: Array, gain: Array | float, psi: Array) -> Correction:
    """The correction by gain = (theta + phi) / theta."""
    return Correction(bias=(gain * psi)[None], gain=jnp.asarray(gain, jnp.float32), threshold=gain * theta)


# By name, as methods are called.
CORRECTIONS = {"daqcfs": DataAware}
HELP = {"daqcfs": "a shift of currents and of spikes for each channel, from training data, for T steps"}
