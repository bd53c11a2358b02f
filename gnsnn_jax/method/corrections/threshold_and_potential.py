"""One threshold and one start potential for each layer, as large language models are calibrated."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from gnsnn_jax._types import Array
from gnsnn_jax.method.corrections.base import Correction, CorrectionRule, Seen
from gnsnn_jax.method.neurons.run import run

SCALES = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2, 1.5)  # of the threshold
STARTS = (0.25, 0.5, 0.75)  # in units of the neuron


@dataclass(frozen=True)
class ThresholdAndPotential(CorrectionRule):
    """(theta, v(0)) for each layer: the pair with the least error of what the layer emits in all its steps.

        argmin over c in SCALES, p in STARTS of E[(mean_t y_t - h)^2],   threshold c theta, v(0) = p c theta/m

    Two numbers a layer repair much of what uneven spikes cost deep transformers. Layer after layer, from the currents
    that the layers before it make; over several batches the logarithms of the scales and the starts are averaged.

    Made for neurons of many levels. Of IF at T = 1 or 2 the least error of a layer asks for the smallest threshold,
    which is not the best for the layers behind it: on the digits it takes IF from 12 and 42 % to 10 % there.

    Reconstructed from the description of a submission to ICLR 2026, "Dual ANN-to-SNN conversion" of language models,
    which finds the pair of each layer for min |sum_t y - y_ann|.
    """

    def correct(self, seen: Seen, before: Correction) -> Correction:
        theta = jnp.asarray(seen.threshold, jnp.float32)
        scale, start = self._best(seen, theta)
        if before.threshold is not None:
            share = 1 / jnp.asarray(seen.batch, jnp.float32)
            earlier = (before.threshold / theta).mean()
            earlier_start = (before.start / seen.neuron.unit(before.threshold)).mean()
            scale = earlier * (scale / earlier) ** share
            start = earlier_start + share * (start - earlier_start)
        threshold = scale * theta
        return before._replace(threshold=threshold, start=start * seen.neuron.unit(threshold))

    def _best(self, seen: Seen, theta: Array) -> tuple[Array, Array]:
        """The scale and the start of the least error."""
        scales, starts = (jnp.asarray(each, jnp.float32) for each in (SCALES, STARTS))

        def error(pair: Array) -> Array:
            threshold = scales[pair // len(STARTS)] * theta
            potential = starts[pair % len(STARTS)] * seen.neuron.unit(threshold)
            outputs, _ = run(seen.neuron, seen.currents, threshold, potential)
            return ((outputs.mean(0) - seen.wanted) ** 2).mean()

        best = jax.lax.map(error, jnp.arange(len(SCALES) * len(STARTS), dtype=jnp.int32)).argmin()
        return scales[best // len(STARTS)], starts[best % len(STARTS)]


# By name, as methods are called.
CORRECTIONS = {"theta-v0": ThresholdAndPotential}
HELP = {"theta-v0": "a threshold and a start potential for each layer, from training data, for T steps"}
