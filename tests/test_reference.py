"""Neurons and converted networks against the plain simulation of numpy_reference."""

import dyadic
import jax
import jax.numpy as jnp
import numpy as np
import numpy_reference
import pytest

import gnsnn_jax as gs
from gnsnn_jax.models.resnet import ResNet

# members, probe steps, time-steps
METHODS = {
    "IF": (1, None, 6),
    "GN": (4, None, 4),
    "COS": (1, 4, 6),
    "COS, T < rho": (1, 4, 2),
    "GN+COS": (4, 4, 6),
    "GN+COS, T < rho": (2, 4, 3),
}
methods = pytest.mark.parametrize(("members", "probe_steps", "steps"), METHODS.values(), ids=METHODS)
NETWORK = ResNet(num_classes=3, levels=4, threshold=1.0, blocks=(1, 1), widths=(3, 4))


def calibration(probe_steps):
    return probe_steps and gs.offset_spikes(probe_steps)


def as_numpy(variables):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])


@methods
def test_equal_currents_give_equal_spikes(members, probe_steps, steps):
    random = np.random.default_rng(0)
    length = max(steps, probe_steps or 0)
    for threshold in (0.5, 1.0, 3.0):
        grain = threshold / members / 4  # coarse, so that many potentials lie on a threshold
        mean, spread = random.uniform(-0.5, 1.5, 2000), random.uniform(0, 2, 2000)
        currents = mean + spread * random.normal(size=(length, 2000))
        currents = np.round(currents * threshold / grain) * grain
        expected = np.stack(numpy_reference.fire(list(currents), threshold, members, probe_steps))
        given, neuron = jnp.asarray(currents, jnp.float32), gs.group_neuron(members)
        initial = calibration(probe_steps) and gs.offset_spikes(probe_steps).initial(
            neuron, given[:probe_steps], jnp.float32(threshold)
        )
        found, _ = gs.run(neuron, given, threshold, initial)
        np.testing.assert_array_equal(found, np.float32(expected))
        assert len(np.unique(expected)) == members + 1


@methods
def test_networks_spike_alike_where_sums_are_exact(members, probe_steps, steps):
    variables = dyadic.variables(NETWORK, (4, 4, 2))
    folded = gs.fold_batch_norm(variables)
    images = dyadic.images(1, (2, 4, 4, 2))
    expected, layers = numpy_reference.simulate(as_numpy(folded), np.asarray(images), steps, members, probe_steps)
    neuron = gs.group_neuron(members)
    spiking = gs.to_spiking(NETWORK.apply, neuron, steps=steps, calibration=calibration(probe_steps))
    outputs, spikes = jax.jit(spiking.observed(lambda spikes, site: spikes))(folded, images)
    assert len(spikes) == len(layers) == 5
    for found, wanted in zip(spikes, layers, strict=True):
        assert len(np.unique(wanted)) > 1
        np.testing.assert_array_equal(found, wanted)
    np.testing.assert_allclose(outputs, expected, atol=1e-5)


@methods
def test_networks_agree_on_early_steps(members, probe_steps, steps):
    images = jax.random.normal(jax.random.key(1), (2, 4, 4, 2))
    variables = jax.jit(NETWORK.init)(jax.random.key(0), images)
    folded = gs.fold_batch_norm(with_random_norms(variables))
    expected, _ = numpy_reference.simulate(as_numpy(folded), np.float64(images), steps, members, probe_steps)
    neuron = gs.group_neuron(members)
    spiking = gs.to_spiking(NETWORK.apply, neuron, steps=steps, calibration=calibration(probe_steps))
    outputs = jax.jit(spiking)(folded, images)
    np.testing.assert_allclose(outputs[:2], expected[:2], atol=1e-4)
    assert np.abs(expected[0] - expected[1]).max() > 1e-2


def with_random_norms(variables):
    random = np.random.default_rng(0)

    def randomise(path, leaf):
        low, high = {"var": (0.5, 2), "scale": (0.5, 2), "mean": (-0.5, 0.5), "bias": (-0.2, 0.5)}.get(
            path[-1].key, (None, None)
        )
        return leaf if low is None else jnp.asarray(random.uniform(low, high, leaf.shape), jnp.float32)

    return jax.tree_util.tree_map_with_path(randomise, variables)
