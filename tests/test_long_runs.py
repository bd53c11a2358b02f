"""Evaluation over many time-steps goes in parts, and finds what one call does."""

from functools import partial

import numpy as np
import pytest

import gnsnn_jax as gs
from gnsnn_jax.analysis import evaluation
from gnsnn_jax.analysis.evaluation import evaluate_over_time
from gnsnn_jax.data.batches import Split
from gnsnn_jax.data.sets import Statistics, normalise

RANDOM = np.random.default_rng(0)
WEIGHTS = [RANDOM.normal(size=shape).astype(np.float32) / 2 for shape in ((16, 12), (12, 5))]
SPLIT = Split(RANDOM.integers(0, 256, (50, 4, 4, 1)).astype(np.uint8), (np.arange(50) % 5).astype(np.int32))
PREPARE = partial(normalise, to=Statistics((128.0,), (64.0,)))


def network(weights, images):
    for matrix in weights:
        images = gs.qcfs(images.reshape(len(images), -1) @ matrix, 1.0, 4) if matrix.shape[1] > 5 else images @ matrix
    return images


@pytest.mark.parametrize("steps", [33, 64, 101])
@pytest.mark.parametrize("calibration", [None, gs.offset_spikes(4), gs.offset_spikes(40)])
def test_a_long_simulation_in_parts_finds_what_one_call_finds(steps, calibration, monkeypatch):
    spiking = gs.to_spiking(network, gs.group_neuron(4), steps=steps, calibration=calibration)
    seen = []
    parts = evaluate_over_time(spiking, WEIGHTS, SPLIT, PREPARE, 16, on_steps=seen.append)
    monkeypatch.setattr(evaluation, "LONGEST_CALL", 10**6)
    whole = evaluate_over_time(spiking, WEIGHTS, SPLIT, PREPARE, 16, on_steps=seen.append)
    np.testing.assert_array_equal(parts.predictions, whole.predictions)
    np.testing.assert_array_equal(parts.labels, whole.labels)
    np.testing.assert_allclose(parts.spikes, whole.spikes, rtol=1e-6)
    np.testing.assert_allclose(parts.confidences, whole.confidences, rtol=1e-5)
    assert parts.neurons == whole.neurons
    assert [done for done in seen if done == steps] == [steps] * 4
    assert len(seen) >= 4 * 2 or calibration is not None
