"""Once coding: inputs and biases at the first step alone, and trains that stand for their sums."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import TwoLayers, dyadic, seeds
from hypothesis import given, settings

import gnsnn_jax as gs
from gnsnn_jax.conversion.quantised import quantised

ENOUGH = 200  # steps until nothing more is sent in the networks below


def dense(weights, x):
    """Layers with biases, a residual, joined and chosen parts: static values are added to spikes in many ways."""
    hidden = gs.qcfs(x @ weights[0] + 0.25, 2.0, 4)
    joined = jnp.concatenate([hidden, jnp.ones_like(hidden) / 2], -1)
    chosen = jnp.where(jnp.arange(joined.shape[-1])[None] % 3 == 0, 0.125, joined)
    moved = 1.5 - chosen.at[..., 0].set(0.5) / 2
    hidden = hidden + gs.qcfs(jnp.pad(moved, ((0, 0), (0, 2)), constant_values=0.25) @ weights[1] - 0.5, 1.0, 4)
    return gs.qcfs(hidden, 4.0, 8) @ weights[2] + 1.0


def weights_of(seed):
    random = np.random.default_rng(seed)
    shapes = ((5, 8), (18, 8), (8, 3))
    return [jnp.asarray(random.integers(-4, 5, shape) / 4, jnp.float32) for shape in shapes]


LEVELS = (4, 4, 8)
BOUNDS = (2.0, 1.0, 4.0)


def settling(network, *args, **options):
    """The network in once coding: trackers of as many levels, each with its share of the threshold."""
    names = [each.name for each in gs.sites(network, *args)]
    thresholds = {name: bound / levels for name, bound, levels in zip(names, BOUNDS, LEVELS, strict=True)}
    neurons = {name: gs.st_bif_neuron(upper=levels) for name, levels in zip(names, LEVELS, strict=True)}
    return gs.to_spiking(network, neurons, thresholds=thresholds, coding="once", **options)


@settings(max_examples=10)
@given(seeds)
def test_trackers_settle_exactly_at_the_quantised_network(seed):
    weights, x = weights_of(seed), dyadic(seed, (6, 5))
    snn = jax.jit(settling(dense, weights, x, steps=ENOUGH))
    outputs = snn(weights, x)
    np.testing.assert_array_equal(outputs.sum(0), dense(weights, x))
    np.testing.assert_array_equal(outputs[-20:], np.zeros((20, *outputs.shape[1:])))


def test_a_residual_network_with_norms_settles_too():
    model, images = TwoLayers(), dyadic(3, (2, 8, 8, 3), 0, 1)
    variables = jax.tree.map(lambda leaf: jnp.round(leaf * 8) / 8, jax.jit(model.init)(jax.random.key(0), images))
    names = [each.name for each in gs.sites(model.apply, variables, images)]
    bounds = {name: variables["params"][f"threshold{at}"] / 4 for at, name in enumerate(names)}
    snn = jax.jit(
        gs.to_spiking(
            model.apply, gs.st_bif_neuron(upper=4), steps=ENOUGH, thresholds=bounds, coding="once", reduce="sum"
        )
    )
    np.testing.assert_allclose(snn(variables, images), model.apply(variables, images), atol=1e-5)


def attention(weights, x):
    hidden = gs.qcfs(x @ weights + 0.25, 2.0, 8)
    scores = jax.nn.softmax(hidden @ hidden.T)
    return jax.nn.gelu(scores @ hidden - 0.5).max(-1, keepdims=True) * hidden


def test_what_is_not_linear_settles_at_the_quantised_network():
    """Softmax, products of two trains, GELU and a maximum, their encoders quantised alike."""
    weights, x = dyadic(0, (4, 8), -1, 1), dyadic(1, (6, 4), -1, 1)
    thresholds = gs.find_thresholds(attention, [x], 16, variables=weights)
    names = [each.name for each in gs.sites(attention, weights, x)]
    whole = {name: np.float32(thresholds.get(name, 2.0)) for name in names}
    snn = gs.to_spiking(
        attention,
        gs.st_bif_neuron(upper=16),
        steps=400,
        thresholds={n: t / 16 for n, t in whole.items()},
        coding="once",
    )
    rate = gs.to_spiking(attention, gs.group_neuron(16), steps=1, thresholds=whole)
    outputs = jax.jit(snn)(weights, x)
    np.testing.assert_allclose(outputs[-20:], np.zeros((20, *outputs.shape[1:])), atol=1e-6)
    np.testing.assert_allclose(outputs.sum(0), quantised(rate, 16)(weights, x), atol=1e-4)


@pytest.mark.parametrize("encoders", ["auto", None])
def test_fine_neurons_send_all_at_the_first_step(encoders):
    def relus(weights, x):
        hidden = jax.nn.relu(x @ weights + 0.25)
        return jax.nn.softmax(hidden @ hidden.T) @ hidden + 1.0

    weights, x = dyadic(0, (4, 8), -1, 1), dyadic(1, (6, 4), -1, 1)
    thresholds = gs.find_thresholds(relus, [x], 4096, variables=weights, method="max", encoders=encoders)
    neuron = gs.group_neuron(4096)
    snn = gs.to_spiking(relus, neuron, steps=3, thresholds=thresholds, coding="once", encoders=encoders)
    outputs = jax.jit(snn)(weights, x)
    np.testing.assert_allclose(outputs.sum(0), relus(weights, x), atol=0.01)
    assert np.abs(outputs[1:]).max() < 0.01


def test_every_chunk_and_a_file_give_the_same(tmp_path):
    weights, x = weights_of(1), dyadic(1, (6, 5))
    simulate = lambda chunk: jax.jit(settling(dense, weights, x, steps=7, chunk=chunk))(weights, x)
    wanted = simulate(7)
    for chunk in (1, 3):
        np.testing.assert_array_equal(simulate(chunk), wanted)
    snn = settling(dense, weights, x, steps=7)
    with pytest.raises(gs.InputError, match="a stream has data at each step"):
        snn.initial_state(weights, x)
    gs.save(tmp_path / "once.npz", snn, weights, x, symbolic_batch=False)
    np.testing.assert_array_equal(gs.load(tmp_path / "once.npz")(x), wanted)
    assert gs.load(tmp_path / "once.npz", ann=dense).coding == "once"
    assert snn != gs.to_spiking(dense, snn.neuron, steps=7, thresholds=snn.thresholds)


def test_verify_compares_sums():
    weights, x = weights_of(2), dyadic(2, (6, 5))
    found = gs.verify(dense, settling(dense, weights, x, steps=ENOUGH), [x], variables=weights)
    assert found.error[-1] < 1e-6
    assert all(max(site.error[-1], site.alone[-1]) < 1e-6 for site in found.sites)
    assert found.agreement[-1] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"calibration": gs.offset_spikes(2)}, "does not go with calibration"),
        ({"time_axes": (None, 0)}, "does not go with time_axes"),
        ({"reduce": "mean"}, "does not go with reduce"),
    ],
)
def test_what_goes_with_rates_alone_is_refused(options, message):
    with pytest.raises(gs.InputError, match=message):
        gs.to_spiking(dense, gs.group_neuron(4), steps=4, coding="once", **options)
    with pytest.raises(gs.InputError, match="differential"):
        gs.to_spiking(dense, gs.differential(gs.group_neuron(4)), steps=4, coding="once")
