"""The light pipeline of SNN calibration. Li et al., ICML 2021; IJCV 2024."""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp

from gnsnn_jax.errors import shown
from gnsnn_jax.method.corrections.base import Correction, CorrectionRule, Seen


@dataclass(frozen=True)
class LightCalibration(CorrectionRule):
    """SNN calibration, light: a bias for each channel that brings the mean output to that of the activation.

        b <- b - E[mean_t y_t - h] / k                      in the k-th batch, y with the bias b so far
        v(0) <- v(0) + T (h - mean_t y_t), averaged         if `potential`, for each neuron, y with the new bias

    with the mean over samples and positions of a channel, layer after layer. The paper takes one batch, and starts
    from v(0) = theta/2 as shift of the threshold; so do the neurons here.

    Args:
        potential: whether neurons get a start potential of their own too, averaged over the samples.

    Raises:
        TypeError: for a `potential` that is not a truth value.
    """

    potential: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.potential, bool):
            raise TypeError(f"potential must be True or False, got {shown(self.potential)}")

    def correct(self, seen: Seen, before: Correction) -> Correction:
        share = 1 / jnp.asarray(seen.batch, jnp.float32)
        error = seen.by_channel(seen.mean_output(before) - seen.wanted)
        with_bias = before._replace(bias=before.bias - share * error.astype(jnp.float32)[None])
        if not self.potential:
            return with_bias
        left = seen.steps * (seen.wanted - seen.mean_output(with_bias)).mean(0)
        own = seen.neuron.potential(seen.neuron.init(seen.threshold, left.shape))
        start = own if before.start is None else before.start
        return with_bias._replace(start=start + share * left.astype(start.dtype))


# By name, as methods are called.
CORRECTIONS = {"light": LightCalibration}
HELP = {"light": "a bias for each channel, from training data, for T steps"}
