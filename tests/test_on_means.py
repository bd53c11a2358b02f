"""The bill of what runs on means and sums of spikes, signed spikes and inputs with a time axis."""

import doctest

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gnsnn_jax as gs
from gnsnn_jax.analysis import coefficients
from gnsnn_jax.analysis.connections import connections_of
from gnsnn_jax.analysis.energy import MODELS, of_float_ann, of_spiking
from gnsnn_jax.analysis.mean_operations import MeanOperations

IF, GN = gs.integrate_and_fire(), gs.group_neuron(4)
STEPS = 3
RANDOM = np.random.default_rng(0)


def weights(*shape):
    return jnp.asarray(RANDOM.uniform(0.5, 1.5, shape) * RANDOM.choice([-1, 1], shape), jnp.float32)


W = [weights(4, 5), weights(5, 6), weights(6, 6), weights(6, 3)]
X = jax.random.normal(jax.random.key(0), (4, 4))


def converted(ann, x, neuron, **options):
    found = {each.name: 2.0 for each in gs.sites(ann, x, encoders=options.get("encoders", "auto"))}
    return gs.to_spiking(ann, neuron, steps=STEPS, thresholds=found, **options)


def observed(ann, x, neuron, **options):
    snn = converted(ann, x, neuron, **options)
    return snn, gs.observe(snn, [x[:1], x[1:]], compare=False)


def test_the_example_of_transposing_with_ones_is_right():
    assert doctest.testmod(coefficients, extraglobs={"jax": jax, "jnp": jnp}) == (0, 4)


# Means.


def gelu(x):
    return nn.gelu(nn.relu(x @ W[0]) @ W[1], approximate=True) @ W[3]


def test_operations_on_means_are_counted_at_each_step_and_spikes_of_encoders_one_by_one():
    snn, behaviour = observed(gelu, X, IF)
    _, encoder = behaviour.populations
    trains = snn.observed(lambda spikes, site: jnp.abs(spikes / 2))(X)[1]
    relu_spikes, encoder_spikes = (np.asarray(each).sum() / len(X) for each in trains)
    taken = gs.operations(behaviour, STEPS)
    assert (encoder.kind, encoder.signed) == ("encoder", True)
    # By weights, and 6 means are sums of what weights make: no connection past them.
    assert taken.accumulates == pytest.approx(relu_spikes * 6 + encoder_spikes * 3)
    assert taken.multiply_accumulates == taken.once == 4 * 5
    found = behaviour.connections.on_means
    # x ** 3, 0.044715 *, x +, sqrt(2 / pi) *, tanh, 1 +, 0.5 *, x *, of 6 values; their mean and its increment.
    assert found == MeanOperations(products=0, elementwise=8 * 6, changes=2 * 6)
    assert taken.mean_operations == STEPS * 10 * 6
    bench = gs.neurobench(behaviour, STEPS)
    assert bench.mean_operations == taken.mean_operations
    assert bench.effective_acs == pytest.approx(taken.accumulates)  # of 1, 0 and -1


def test_weights_that_read_means_are_multiply_accumulates_at_each_step():
    _, behaviour = observed(gelu, X, IF, encoders=None)
    taken = gs.operations(behaviour, STEPS)
    assert taken.multiply_accumulates == 4 * 5 + STEPS * 6 * 3
    assert behaviour.connections.dense == 4 * 5 + 5 * 6 + 6 * 3


def test_a_network_that_is_cheaper_as_an_ann_looks_so():
    """A chain of elementwise operations costs the spiking network as often as it has steps."""

    def ann(x):
        y = nn.relu(x @ W[0]) @ W[1]
        for _ in range(20):
            y = jnp.tanh(y)
        return y @ W[3]

    _, behaviour = observed(ann, X, IF)
    energy = of_spiking(MODELS[0], gs.operations(behaviour, STEPS))
    assert energy > 2 * of_float_ann(MODELS[0], behaviour)
    elementwise = 20 * 6 * MODELS[0].multiply_accumulate(32)
    assert energy > STEPS * elementwise


def test_products_of_two_trains_are_multiply_accumulates_at_each_step():
    square = weights(5, 5)

    def attention(x):
        s = nn.relu(jnp.repeat(x[:, :, None], 5, -1))
        return jnp.einsum("bnd,bmd->bnm", s @ square, s)

    _, behaviour = observed(attention, X, GN)
    assert behaviour.connections.on_means.products == 4 * 4 * 5
    taken = gs.operations(behaviour, STEPS)
    assert taken.multiply_accumulates == STEPS * 4 * 4 * 5
    assert behaviour.connections.dense == 4 * 5 * 5 + 4 * 4 * 5


# Max-pooling.


@pytest.mark.parametrize("neuron", [IF, GN])
def test_spikes_of_max_pooling_are_counted_where_they_leave_it(neuron):
    layer = jnp.tile(weights(1, 4), (2, 1))
    pool = lambda s: nn.max_pool(s[..., None], (2,), (2,))[..., 0]
    ann = lambda x: pool(nn.relu(x)) @ layer
    snn, behaviour = observed(ann, X, neuron)
    pooled = converted(lambda x: pool(nn.relu(x)), X, neuron)(X) / 2 * neuron.members
    (train,) = snn.observed(lambda spikes, site: spikes / 2 * neuron.members)(X)[1]
    taken = gs.operations(behaviour, STEPS)
    # Each spike is added to one sum, and each that leaves the pooling has four connections.
    wanted = (np.asarray(train).sum() + 4 * np.asarray(pooled).sum()) / len(X)
    assert taken.accumulates == pytest.approx(wanted)
    assert behaviour.connections.on_means == MeanOperations(products=0, elementwise=4, changes=4 + 2)
    bench = gs.neurobench(behaviour, STEPS)
    events = 4 * (np.asarray(pooled) != 0).sum() / len(X)
    assert (bench.effective_macs, bench.effective_acs) == ((0, events) if neuron is IF else (events, 0))


# Networks in Flax.


class Attending(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(4)(x))
        y = nn.LayerNorm()(x)
        x = x + nn.MultiHeadDotProductAttention(num_heads=2)(y, y)
        return nn.Dense(3)(x.mean(1))


def test_attention_is_observed_counted_and_verified():
    network, x = Attending(), jax.random.normal(jax.random.key(1), (2, 3, 4))
    variables = jax.jit(network.init)(jax.random.key(2), x)
    found = {each.name: 2.0 for each in gs.sites(network.apply, variables, x)}
    snn = gs.to_spiking(network.apply, GN, steps=2, thresholds=found)
    behaviour = gs.observe(snn, [x], variables=variables)
    # Scores and values of 3 tokens in two heads of 2: 2 * 3 * 3 * 2 each.
    assert behaviour.connections.on_means.products == 2 * 36
    assert {each.kind for each in behaviour.populations} == {"relu", "encoder"}
    assert gs.operations(behaviour, 2).mean_operations > 0
    verified = gs.verify(network.apply, snn, [x], variables=variables)
    assert any("softmax" in each for each in verified.on_means)
    assert "run on means or sums of spikes" in str(verified)


class Layer(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return nn.relu(nn.Dense(5)(x)), None


class Scanned(nn.Module):
    @nn.compact
    def __call__(self, x):
        layers = nn.scan(Layer, variable_axes={"params": 0}, split_rngs={"params": True}, length=2)
        return nn.Dense(3)(layers()(x, None)[0])


def test_the_passes_of_a_scan_are_layers_of_their_own():
    network, x = Scanned(), jax.random.normal(jax.random.key(1), (2, 5))
    variables = jax.jit(network.init)(jax.random.key(2), x)
    found = {each.name: 2.0 for each in gs.sites(network.apply, variables, x)}
    snn = gs.to_spiking(network.apply, IF, steps=2, thresholds=found)
    behaviour = gs.observe(snn, [x], variables=variables)
    assert [each.connections for each in behaviour.connections.layers] == [25, 25, 15]
    assert [fan.whole[0] for fan in behaviour.connections.fans.values()] == [5, 3]
    assert behaviour.connections.on_means == MeanOperations()


# Signed neurons.


def test_rates_of_signed_neurons_are_compared_from_minus_one_to_one():
    signed = gs.group_neuron(2, signed=True)
    ann = lambda x: jnp.tanh(nn.relu(x @ W[0]) @ W[1]) @ W[3]
    snn = converted(ann, X, {"*relu*": GN, "*": signed})
    encoder = gs.observe(snn, [X]).populations[1]
    trains = np.rint(np.asarray(snn.observed(lambda spikes, site: spikes)(X)[1][1]) * signed.members / 2)
    count, most = trains.sum(0), STEPS * signed.members
    own = np.clip(np.tanh(np.asarray(nn.relu(X @ W[0]) @ W[1])) / 2, -1, 1)
    assert (count < 0).any()
    assert encoder.spikes.events.sum() == (trains != 0).sum()
    assert encoder.spikes.units.sum() == np.abs(trains).sum()
    assert encoder.mean("rate", STEPS) == pytest.approx((count / most).mean(), abs=1e-6)
    assert encoder.mean("silent", STEPS) == pytest.approx((count == 0).mean())
    assert encoder.mean("saturated", STEPS) == pytest.approx((np.abs(count) == most).mean())
    beyond = np.clip(count - np.clip(np.floor(own * most + 0.5), -most, most), -2, 2)
    np.testing.assert_allclose(encoder.offsets(STEPS), [(beyond == by).mean() for by in range(-2, 3)], atol=1e-6)


# Inputs over time.


@pytest.mark.parametrize("axis", [0, 1])
def test_events_are_counted_over_time(axis):
    ann = lambda x: nn.relu(x @ W[0]) @ W[1]
    events = jax.random.bernoulli(jax.random.key(3), 0.5, (4, STEPS, 4)).astype(jnp.float32)
    x = jnp.moveaxis(events, 1, axis)
    found = {each.name: 2.0 for each in gs.sites(ann, X)}
    snn = gs.to_spiking(ann, IF, steps=STEPS, thresholds=found, time_axes=axis)
    behaviour = gs.observe(snn, [x])
    (train,) = snn.observed(lambda spikes, site: spikes / 2)(x)[1]
    taken = gs.operations(behaviour, STEPS)
    assert behaviour.samples == 4
    assert taken.accumulates == pytest.approx(np.asarray(train).sum() * 6 / 4)
    assert (taken.once, taken.multiply_accumulates) == (0, STEPS * 4 * 5)
    assert connections_of(snn, x).dense == 4 * 5 + 5 * 6
