"""Early stop: each sample answers as it would alone, and the batch shrinks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gnsnn_jax as gs
from gnsnn_jax.analysis.accuracy import predictions_over_time
from gnsnn_jax.analysis.evaluation import Evaluation, evaluate_over_time, predict
from gnsnn_jax.conversion import stopping
from gnsnn_jax.data.batches import Split
from gnsnn_jax.dtypes import summed_over_time
from gnsnn_jax.interop.functions import OwnNetwork, check_outputs
from gnsnn_jax.method.methods import parse_method
from gnsnn_jax.report.compare_methods import make_report
from gnsnn_jax.report.report import EarlyStop

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
    with pytest.raises(TypeError, match=r"cannot be under jax\.jit"):
        jax.jit(gs.stop_when(0.9)(snn))(weights, x)
    with pytest.raises(gs.InputError, match="give the batch as the last argument"):
        gs.stop_when(0.9)(gs.to_spiking(lambda x, w: network(w, x), gs.group_neuron(2), steps=3))(x, weights)
    with pytest.raises(gs.InputError, match=r"one array \[batch, classes\]"):
        gs.stop_when(0.9)(gs.to_spiking(lambda x: gs.qcfs(x, 1.0, 4), gs.group_neuron(2), steps=3))(jnp.ones(3))


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("name", CASES)
def test_samples_with_inputs_over_time_stop_as_they_would_alone(name, axis):
    neuron, calibration, chunk = CASES[name]
    weights, _ = data(1)
    steps = max(10, calibration.probe_steps if calibration else 0)
    x = jnp.moveaxis(2 * jax.random.normal(jax.random.key(2), (steps, 13, 6)), 0, axis)
    snn = gs.to_spiking(network, neuron, steps=10, calibration=calibration, chunk=chunk, time_axes=(None, axis))
    sums = np.cumsum(np.asarray(jax.jit(snn)(weights, x)), 0)
    confident = np.asarray(jax.nn.softmax(sums)).max(-1) >= 0.9
    step = np.where(confident.any(0), confident.argmax(0), 9)
    answers = gs.stop_when(0.9)(snn)(weights, x)
    np.testing.assert_array_equal(answers.latency, step + 1 + (calibration.probe_steps if calibration else 0))
    np.testing.assert_allclose(answers.outputs, sums[step, np.arange(13)], atol=1e-5)
    assert len(set(step)) > 1


# Sums over time.

TYPES = ["bfloat16", "float16", "float32", "float64"]


def drifting(dtype, steps, classes, batch=40):
    """Outputs around 20 whose classes differ by far less than the last bit of half precision in their sums."""
    rng = np.random.default_rng(steps)
    means = 20 + rng.normal(0, 0.3, (1, batch, classes))
    return np.asarray(jnp.asarray(means + rng.normal(0, 2, (steps, batch, classes)), dtype))


def exact_sums(outputs):
    return np.cumsum(outputs.astype(np.float64), 0)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("steps", [1, 33, 256])
def test_predictions_are_those_of_sums_that_are_not_rounded(dtype, steps):
    with jax.enable_x64(dtype == "float64"):
        outputs = drifting(dtype, steps, 5)
        wanted = exact_sums(outputs).argmax(-1)
        sums = summed_over_time(jnp.asarray(outputs))
        assert sums.dtype == ("float64" if dtype == "float64" else "float32")
        assert (np.asarray(predictions_over_time(jnp.asarray(outputs))) == wanted).mean() > 0.999
        accuracy = gs.accuracy_over_time(jnp.asarray(outputs), jnp.asarray(wanted[-1], jnp.int32))
        np.testing.assert_allclose(accuracy, (wanted == wanted[-1:]).mean(-1), atol=1 / 40)
        assert accuracy[-1] == 1


@pytest.mark.parametrize("dtype", ["int8", "int32", "uint8"])
def test_sums_of_whole_numbers_do_not_overflow(dtype):
    outputs = jnp.asarray(np.random.default_rng(0).integers(0, 2, (300, 7, 3)) * 100, dtype)
    np.testing.assert_array_equal(predictions_over_time(outputs), np.asarray(outputs, np.int64).cumsum(0).argmax(-1))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("steps", "chunk"), [(9, 2), (256, 16)])
def test_early_stop_sums_in_single_precision_or_wider(dtype, steps, chunk):
    """One neuron for each class, whose outputs of 16 and more hide what half precision rounds away."""
    with jax.enable_x64(dtype == "float64"):
        x = jnp.asarray(1 + np.random.default_rng(1).normal(0, 0.02, (16, 4)), dtype)
        ann = lambda x: 20 * gs.qcfs(x @ jnp.eye(4, dtype=dtype), jnp.asarray(1.5, dtype), 4)
        snn = gs.to_spiking(ann, gs.group_neuron(8), steps=steps, chunk=chunk)
        sums = exact_sums(np.asarray(snn(x)))
        answers = gs.stop_when(1.0)(snn)(x)
        assert answers.outputs.dtype == ("float64" if dtype == "float64" else "float32")
        np.testing.assert_allclose(answers.outputs, sums[answers.latency - 1, np.arange(16)], rtol=1e-6)
        assert answers.latency.max() == steps


# One output.


def of_one_output(weights, x):
    return network(weights, x)[:, :1] - 1.0


def test_one_output_stands_for_two_classes():
    weights, x = data(64)
    snn = gs.to_spiking(of_one_output, gs.group_neuron(2), steps=6, chunk=2)
    two = lambda weights, x: jnp.pad(of_one_output(weights, x), ((0, 0), (1, 0)))
    of_two = gs.to_spiking(two, gs.group_neuron(2), steps=6, chunk=2)
    outputs, both = snn(weights, x), of_two(weights, x)
    labels = jnp.asarray(of_one_output(weights, x)[:, 0] > 0, jnp.int32)
    assert 0 < labels.mean() < 1
    np.testing.assert_array_equal(predictions_over_time(outputs), predictions_over_time(both))
    accuracy = gs.accuracy_over_time(outputs, labels)
    np.testing.assert_array_equal(accuracy, gs.accuracy_over_time(both, labels))
    assert accuracy[-1] > 0.9
    for confidence in (0.7, 0.99):
        answers, as_two = (gs.stop_when(confidence)(each)(weights, x) for each in (snn, of_two))
        np.testing.assert_array_equal(answers.latency, as_two.latency)
        np.testing.assert_allclose(answers.outputs[:, 0], as_two.outputs[:, 1], atol=1e-5)
        assert len(set(answers.latency)) > 1
    np.testing.assert_array_equal(
        gs.verify(of_one_output, snn, [x], variables=weights).agreement,
        gs.verify(two, of_two, [x], variables=weights).agreement,
    )


def test_one_output_is_evaluated_by_its_sign():
    weights, _ = data(1)
    images = np.random.default_rng(0).integers(0, 256, (32, 1, 6, 1)).astype(np.uint8)
    x = as_features(images)
    labels = np.asarray(of_one_output(weights, x)[:, 0] > 0).astype(np.int64)
    np.testing.assert_array_equal(predict(of_one_output, weights, Split(images, labels), as_features, 8), labels)
    snn = gs.to_spiking(of_one_output, gs.group_neuron(2), steps=5)
    found = evaluate_over_time(snn, weights, Split(images, labels), as_features, 8)
    sums = np.asarray(snn(weights, x)).cumsum(0)[..., 0]
    np.testing.assert_array_equal(found.predictions, sums > 0)
    p = 1 / (1 + np.exp(-sums))
    np.testing.assert_allclose(found.confidences, np.maximum(p, 1 - p), rtol=1e-5)
    assert len(set(labels)) == 2


def test_a_network_of_ones_own_may_have_one_output_for_two_classes():
    for outputs, classes, fits in ((1, 2, True), (1, 3, False), (2, 3, False), (3, 3, True), (0, 2, False)):
        network = OwnNetwork(lambda variables, x, outputs=outputs: x[:, 0, 0, :1] * jnp.ones((1, outputs)), {})
        if fits:
            check_outputs("mine", network, (1, 2, 3), classes)
        else:
            with pytest.raises(gs.InputError, match=f"has {outputs} outputs, too few for the {classes} classes"):
                check_outputs("mine", network, (1, 2, 3), classes)


def as_features(images):
    return jnp.asarray(images[:, 0, :, 0], jnp.float32) / 64 - 2


# Refusals.


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("logits", "labels", "match"),
    [
        (np.ones((3, 4)), np.zeros(4, int), r"\(3, 4\) and \(4,\); give one logit .*logits\[..., None\]"),
        ({"classes": np.ones((2, 3, 4)), "size": np.ones((2, 3))}, np.zeros(3, int), "got a dict"),
        ((np.ones((2, 3, 4)), np.ones((2, 3))), np.zeros(3, int), "got a tuple"),
        ([np.ones((2, 3, 4)), np.ones((2, 5))], np.zeros(3, int), "got a list"),
        ((np.ones((2, 3, 4)), np.ones((2, 3, 4))), np.zeros(3, int), r"got shapes \(2, 2, 3, 4\)"),
        (None, np.zeros(3, int), "got a NoneType"),
        (np.ones((2, 3, 4)), None, "got a NoneType"),
        (np.ones((2, 3, 4)), np.zeros((3, 4), int), r"\(3, 4\)"),
        (np.ones((2, 3, 0)), np.zeros(3, int), r"\(2, 3, 0\)"),
        ("abc", "abc", "got a str"),
    ],
)
def test_outputs_that_are_not_one_array_have_no_accuracy(logits, labels, match):
    with pytest.raises(gs.InputError, match=match) as error:
        gs.accuracy_over_time(logits, labels)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "several", [lambda y: {"classes": y, "size": y.sum(-1)}, lambda y: (y, y), lambda y: y.sum(-1), lambda y: y[None]]
)
def test_early_stop_takes_one_array(several):
    weights, x = data(4)
    snn = gs.to_spiking(lambda weights, x: several(network(weights, x)), gs.group_neuron(2), steps=3)
    with pytest.raises(gs.InputError, match=r"one array \[batch, classes\], got .*returns the classes alone") as error:
        gs.stop_when(0.9)(snn)(weights, x)
    assert "\n" not in str(error.value)


@pytest.mark.usefixtures("unchecked")
def test_early_stop_needs_a_batch_and_takes_trees_of_them():
    weights, x = data(13)
    stop = gs.stop_when(0.9)(gs.to_spiking(network, gs.group_neuron(2), steps=4))
    for args in ((), (weights, 3.0), (weights, {})):
        with pytest.raises(gs.InputError, match="batch"):
            stop(*args)
    of_tree = gs.to_spiking(lambda weights, x: network(weights, x["x"] + x["y"]), gs.group_neuron(2), steps=4)
    answers = gs.stop_when(0.9)(of_tree)(weights, {"x": x - 1, "y": np.ones_like(x)})
    np.testing.assert_array_equal(answers.latency, stop(weights, x).latency)


def test_the_report_tells_accuracy_and_average_latency():
    confidences = np.float32([[0.9, 0.1, 0.2], [0.2, 0.95, 0.3], [0.9, 0.9, 0.8]])
    predictions = np.asarray([[0, 1, 1], [1, 2, 1], [1, 1, 2]])
    evaluation = Evaluation(np.asarray([0, 2, 1]), predictions, np.zeros((3, 3), np.float32), confidences, 1)
    assert evaluation.stopped_when(0.9) == (2 / 3, 2.0)
    method = parse_method("cos", members=4, probe_steps=4)
    report = make_report(
        dataset="d", model="m", levels=4, ann_predictions=predictions[0],
        results=[(method, evaluation)], steps=[1, 3], confidence=0.9,
    )  # fmt: skip
    assert report.methods[0].early_stop == EarlyStop(confidence=0.9, accuracy=2 / 3, latency_steps=6.0)
