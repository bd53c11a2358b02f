"""Early stop: each sample answers as it would alone, and the batch shrinks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gnsnn_jax as gs
from gnsnn_jax.analysis.evaluation import Evaluation
from gnsnn_jax.conversion import stopping
from gnsnn_jax.method.methods import parse_method
from gnsnn_jax.report.results import Result, make_report

CASES = {
    "if": (gs.integrate_and_fire(), None, 2),
    "gn, chunk of 1": (gs.group_neuron(4), None, 1),
    "cos": (gs.integrate_and_fire(), gs.offset_spikes(4), 3),
    "cos, more probe than steps": (gs.integrate_and_fire(), gs.offset_spikes(12), 3),
}


def network(weights, x):
    return gs.qcfs(gs.qcfs(x @ weights, 2.0, 4) @ weights, 2.0, 4) @ weights


def data(samples):
    weights = jax.random.normal(jax.random.key(0), (6, 6))
    return weights, jax.random.normal(jax.random.key(1), (samples, 6))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("samples", [1, 13])
def test_each_sample_stops_at_its_first_confident_step(name, samples):
    neuron, calibration, chunk = CASES[name]
    weights, x = data(samples)
    snn = gs.to_spiking(network, neuron, steps=10, calibration=calibration, chunk=chunk)
    sums = np.cumsum(np.asarray(jax.jit(snn)(weights, x)), 0)
    confident = np.asarray(jax.nn.softmax(sums)).max(-1) >= 0.9
    step = np.where(confident.any(0), confident.argmax(0), 9)
    answers = gs.stop_when(0.9)(snn)(weights, x)
    np.testing.assert_array_equal(answers.latency, step + 1 + (calibration.probe_steps if calibration else 0))
    np.testing.assert_allclose(answers.outputs, sums[step, np.arange(samples)], atol=1e-5)
    assert samples == 1 or len(set(step)) > 2


def test_the_batch_shrinks_to_those_that_are_left(monkeypatch):
    weights, x = data(32)
    seen = []
    original = stopping._next_chunk
    monkeypatch.setattr(
        stopping, "_next_chunk", lambda stop, shared, batch, *rest: seen.append(len(batch)) or original(
            stop, shared, batch, *rest
        )
    )  # fmt: skip
    snn = gs.to_spiking(network, gs.integrate_and_fire(), steps=10, chunk=1)
    latency = gs.stop_when(0.9)(snn)(weights, x).latency
    for chunk, size in enumerate(seen, start=1):
        left = (latency > chunk).sum()
        assert left <= size < max(2 * left, 2)
    assert seen[-1] < 32


def test_at_confidence_one_everything_takes_all_steps_and_bad_input_is_explained(unchecked):
    weights, x = data(4)
    snn = gs.to_spiking(network, gs.integrate_and_fire(), steps=3)
    assert (gs.stop_when(1.0)(snn)(0.1 * weights, x).latency == 3).all()
    for confidence in (0, 1.5, float("nan")):
        with pytest.raises(gs.InputError, match="confidence must be above 0 and at most 1, got"):
            gs.stop_when(confidence)
    with pytest.raises(gs.InputError, match="give the batch as the last argument"):
        gs.stop_when(0.9)(gs.to_spiking(lambda x, w: network(w, x), gs.group_neuron(2), steps=3))(x, weights)
    with pytest.raises(gs.InputError, match=r"one array \[batch, classes\]"):
        gs.stop_when(0.9)(gs.to_spiking(lambda x: gs.qcfs(x, 1.0, 4), gs.group_neuron(2), steps=3))(jnp.ones(3))
    with pytest.raises(gs.InputError, match="leave out time_axes"):
        gs.stop_when(0.9)(gs.to_spiking(network, gs.group_neuron(2), steps=3, time_axes=(None, 0)))(weights, x)


def test_the_report_tells_accuracy_and_average_latency():
    confidences = np.float32([[0.9, 0.1, 0.2], [0.2, 0.95, 0.3], [0.9, 0.9, 0.8]])
    predictions = np.asarray([[0, 1, 1], [1, 2, 1], [1, 1, 2]])
    evaluation = Evaluation(np.asarray([0, 2, 1]), predictions, np.zeros((3, 3), np.float32), confidences, 1)
    assert evaluation.stopped_when(0.9) == (2 / 3, 2.0)
    method = parse_method("cos", members=4, probe_steps=4)
    report = make_report(
        dataset="d", model="m", levels=4, labels=evaluation.labels, ann_predictions=predictions[0],
        results=[Result(method, evaluation)], steps=[1, 3], confidence=0.9,
    )  # fmt: skip
    assert report["methods"][0]["early_stop"] == {"confidence": 0.9, "accuracy": 2 / 3, "latency_steps": 6.0}
