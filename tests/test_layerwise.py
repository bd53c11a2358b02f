"""Neurons that wait for all their currents: what their papers claim of them, alone and in networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import dyadic, members, seeds, thresholds_for
from hypothesis import given
from hypothesis import strategies as st

import gnsnn_jax as gs

MANY = 50
# A few, as the number of steps compiles anew.
lengths = st.sampled_from([1, 2, 4, 9])
WAITING = [
    gs.parallel_neuron(),
    gs.parallel_neuron(4),
    gs.two_phase_neuron(),
    gs.permuted(gs.integrate_and_fire()),
    gs.permuted(gs.group_neuron(4), seed=3),
]


@given(members, lengths, st.booleans(), seeds, st.data())
def test_parallel_neurons_send_what_qcfs_asks_for_whatever_the_order(count, steps, signed, seed, data):
    threshold = data.draw(thresholds_for(count))
    neuron, unit = gs.parallel_neuron(count, signed), threshold / count
    currents = dyadic(seed, (steps, MANY), -2 * threshold, 2 * threshold)
    trains, left = gs.run(neuron, currents, threshold)
    total = np.float64(currents).sum(0)
    lowest = -count * steps if signed else 0
    wanted = np.clip(np.floor(total / unit + 0.5), lowest, count * steps)
    np.testing.assert_array_equal(np.float64(trains).sum(0) / unit, wanted)
    np.testing.assert_array_equal(left, total + unit / 2 - unit * wanted)
    sizes = np.abs(np.float64(trains)) / unit
    assert (np.diff(sizes, axis=0) <= 0).all()  # the spikes come first
    assert sizes.max() <= count
    shuffled = np.random.default_rng(seed).permuted(np.asarray(currents), axis=0)
    np.testing.assert_array_equal(gs.run(neuron, jnp.asarray(shuffled), threshold)[0], trains)


@given(lengths, seeds)
def test_a_parallel_neuron_fires_where_the_paper_says(steps, seed):
    """T/t mean(x) + theta/2t >= theta, in numpy."""
    currents = dyadic(seed, (steps, MANY), -1, 2)
    trains, _ = gs.run(gs.parallel_neuron(), currents, 1.0)
    total, t = np.float64(currents).sum(0), np.arange(1, steps + 1)[:, None]
    np.testing.assert_array_equal(trains, total[None] / t + 0.5 / t >= 1)


@given(st.sampled_from([1, 2, 5]), st.booleans(), seeds)
def test_two_phases_send_the_floor_or_one_more(steps, signed, seed):
    currents = dyadic(seed, (steps, MANY), -2, 2)
    trains, _ = gs.run(gs.two_phase_neuron(steps, signed), currents, 1.0)
    total = np.clip(np.float64(currents).sum(0), -steps if signed else 0, steps)
    count = np.float64(trains).sum(0)
    assert set(np.unique(trains)) <= {-1.0, 0.0, 1.0}
    assert ((count == np.floor(total)) | (count == np.ceil(total))).all()


@pytest.mark.parametrize("total", [-3.5, 0.25, 1.5, 2.9, 7.0])
@pytest.mark.parametrize("signed", [False, True])
def test_two_phases_are_right_in_expectation_at_every_step(total, signed):
    """Of 40000 neurons with the same current: expected sum, and evenly over the steps."""
    currents = jnp.full((4, 40_000), total / 4)
    trains, _ = gs.run(gs.two_phase_neuron(1, signed), currents, 1.0)
    wanted = np.clip(total, -4 if signed else 0, 4) / 4
    np.testing.assert_allclose(trains.mean(1), np.full(4, wanted), atol=0.01)


@given(st.sampled_from([gs.integrate_and_fire(), gs.group_neuron(3), gs.group_neuron(2, signed=True)]), seeds)
def test_permuted_trains_hold_the_same_spikes(neuron, seed):
    currents = dyadic(seed, (6, MANY), -1, 2)
    trains, _ = gs.run(neuron, currents, float(neuron.members))
    mixed, _ = gs.run(gs.permuted(neuron, neuron.members), currents, float(neuron.members))
    np.testing.assert_array_equal(np.sort(mixed, 0), np.sort(trains, 0))
    assert not np.array_equal(mixed, trains)


def network(weights, x):
    for each in weights[:-1]:
        x = gs.qcfs(x @ each, 2.0, 4)
    return x @ weights[-1]


def weights_of(seed):
    random = np.random.default_rng(seed)
    return [jnp.asarray(random.integers(-8, 9, shape) / 8, jnp.float32) for shape in ((5, 32), (32, 16), (16, 3))]


@pytest.mark.parametrize("seed", range(3))
def test_a_network_of_parallel_neurons_is_the_ann(seed):
    """T = L, and T m = L: nothing is left of the error, however deep."""
    weights, x = weights_of(seed), dyadic(seed, (20, 5))
    for neuron, steps in ((gs.parallel_neuron(), 4), (gs.parallel_neuron(2), 2)):
        snn = jax.jit(gs.to_spiking(network, neuron, steps=steps, chunk=1))
        np.testing.assert_array_equal(snn(weights, x).mean(0), network(weights, x))
    uneven = gs.to_spiking(network, gs.integrate_and_fire(), steps=4)(weights, x).mean(0)
    assert not np.array_equal(uneven, network(weights, x))


@pytest.mark.parametrize("neuron", WAITING, ids=repr)
def test_populations_have_random_numbers_of_their_own_and_the_same_at_each_call(neuron):
    same = lambda x: gs.qcfs(x, 1.0, 4) - gs.qcfs(x, 1.0, 4)
    snn = jax.jit(gs.to_spiking(same, neuron, steps=4))
    x = dyadic(1, (200,), 0, 1)
    outputs = snn(x)
    np.testing.assert_array_equal(outputs, snn(x))
    random = isinstance(neuron, type(gs.two_phase_neuron()) | type(gs.permuted(gs.integrate_and_fire())))
    assert bool(jnp.any(outputs != 0)) == random


@pytest.mark.slow
def test_encoders_and_sums_over_time():
    """A softmax behind neurons, whose weights read encoders of the same kind."""

    def transformer(weights, x):
        hidden = gs.qcfs(x @ weights, 1.0, 8)
        return jax.nn.softmax(hidden @ hidden.T) @ hidden

    weights, x = dyadic(0, (4, 8), -1, 1), dyadic(1, (6, 4), -1, 1)
    thresholds = gs.find_thresholds(transformer, [x], 32, variables=weights)
    right = transformer(weights, x)
    for neuron in WAITING:
        snn = jax.jit(gs.to_spiking(transformer, neuron, steps=32, thresholds=thresholds, reduce="mean"))
        assert np.abs(snn(weights, x) - right).max() < 0.35
    exact = jax.jit(gs.to_spiking(transformer, gs.parallel_neuron(8), steps=64, thresholds=thresholds, reduce="mean"))
    assert np.abs(exact(weights, x) - right).max() < 0.15


@pytest.mark.parametrize("neuron", WAITING, ids=repr)
def test_what_needs_steps_is_refused(neuron):
    weights, x = weights_of(0), dyadic(0, (2, 5))
    snn = gs.to_spiking(network, neuron, steps=4)
    with pytest.raises(gs.InputError, match="wait for the currents of all steps"):
        snn.initial_state(weights, x)
    calibrated = gs.to_spiking(network, neuron, steps=4, calibration=gs.offset_spikes(2))
    with pytest.raises(gs.InputError, match="needs the currents of all steps"):
        calibrated(weights, x)
    with pytest.raises(TypeError, match="can be permuted"):
        gs.permuted(neuron)
    with pytest.raises(TypeError, match="seed must be an integer"):
        gs.two_phase_neuron(-1)
