"""Corrections from data against plain simulations of each, and what they promise."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import dyadic, seeds
from hypothesis import given
from hypothesis import strategies as st

import gnsnn_jax as gs
from gnsnn_jax.method.corrections import CORRECTIONS, Seen, corrected
from gnsnn_jax.method.corrections.data_aware import DataAware
from gnsnn_jax.method.corrections.forward_bias import ForwardBias
from gnsnn_jax.method.corrections.light import LightCalibration
from gnsnn_jax.method.corrections.threshold_and_potential import SCALES, STARTS, ThresholdAndPotential
from gnsnn_jax.method.values import from_json, to_json

STEPS, SAMPLES, CHANNELS = 4, 16, 3
# Whoever adds a correction adds it here too.
RULES = [ForwardBias(), ForwardBias(0.25), LightCalibration(), LightCalibration(True), DataAware()]
EVERY = [*RULES, ThresholdAndPotential()]
neurons = st.sampled_from([gs.integrate_and_fire(), gs.group_neuron(4), gs.group_neuron(2, signed=True)])


def fire(neuron, charged, theta):
    """What a group neuron emits, in numpy."""
    unit = theta / neuron.members
    return unit * np.clip(np.floor(charged / unit), -neuron.members if neuron.signed else 0, neuron.members)


def simulate(neuron, currents, theta, start=None):
    potential = np.broadcast_to(theta / neuron.members / 2 if start is None else start, currents.shape[1:])
    outputs = []
    for x in currents:
        outputs.append(fire(neuron, potential + x, theta))
        potential = potential + x - outputs[-1]
    return np.stack(outputs)


def site(seed, neuron, theta=1.0, axis=-1, batch=1):
    """What a rule sees: uneven currents whose mean is not quite the network's own."""
    own = dyadic(seed, (SAMPLES, CHANNELS), -1, 2)
    currents = own[None] + dyadic(seed + 1, (STEPS, SAMPLES, CHANNELS), -1, 1)
    wanted = jnp.clip(own, -theta if neuron.signed else 0, theta)
    return Seen(neuron, currents, jnp.float32(theta), own, wanted, axis, batch)


@given(neurons, seeds, st.sampled_from([0.25, 0.5, 1.0]))
def test_forward_bias_is_that_of_a_plain_simulation(neuron, seed, rate):
    seen = site(seed, neuron)
    found = ForwardBias(rate).correct(seen, seen.nothing())
    potential, wanted, biases = np.full((SAMPLES, CHANNELS), 0.5 / neuron.members), np.float64(seen.wanted), []
    for x in np.float64(seen.currents):
        bias = -rate * (fire(neuron, potential + x, 1.0) - wanted).mean(0)
        potential = potential + x + bias
        potential = potential - fire(neuron, potential, 1.0)
        biases.append(bias)
    np.testing.assert_allclose(found.bias, biases, atol=1e-6)


@given(neurons, seeds)
def test_light_calibration_is_that_of_a_plain_simulation(neuron, seed):
    seen = site(seed, neuron)
    found = LightCalibration(potential=True).correct(seen, seen.nothing())
    currents, wanted = np.float64(seen.currents), np.float64(seen.wanted)
    bias = (wanted - simulate(neuron, currents, 1.0).mean(0)).mean(0)
    np.testing.assert_allclose(found.bias[0], bias, atol=1e-6)
    left = STEPS * (wanted - simulate(neuron, currents + bias, 1.0).mean(0)).mean(0)
    np.testing.assert_allclose(found.start, 0.5 / neuron.members + left, atol=1e-5)


@given(neurons, seeds)
def test_data_aware_shifts_are_those_of_a_plain_simulation(neuron, seed):
    seen = site(seed, neuron)
    found = DataAware().correct(seen, seen.nothing())
    currents, wanted = np.float64(seen.currents), np.float64(seen.wanted)
    psi = (np.float64(seen.own_currents) - currents.mean(0)).mean(0)
    phi = np.maximum((wanted - simulate(neuron, currents + psi, 1.0).mean(0)).mean(0), -0.5)
    np.testing.assert_allclose(found.threshold, 1 + phi, atol=1e-6)
    # A neuron of threshold theta whose spikes are worth theta + phi.
    scaled = simulate(neuron, currents + psi, 1.0) * (1 + phi)
    trains, _ = gs.run(neuron, corrected(seen.currents, found), found.threshold, found.start)
    assert np.isclose(trains, scaled, atol=1e-4).mean() > 0.95  # but for ties that rounding breaks


@given(neurons, seeds)
def test_threshold_and_potential_are_the_best_of_all_pairs(neuron, seed):
    seen = site(seed, neuron)
    found = ThresholdAndPotential().correct(seen, seen.nothing())
    error = lambda scale, start: (
        (simulate(neuron, np.float64(seen.currents), scale, start * scale / neuron.members).mean(0) - seen.wanted) ** 2
    ).mean()
    errors = {(scale, start): error(scale, start) for scale in SCALES for start in STARTS}
    reached = float(((seen.mean_output(found) - seen.wanted) ** 2).mean())
    assert reached <= min(errors.values()) + 0.02  # ties of numbers that are no powers of two
    assert reached <= errors[1.0, 0.5] + 1e-6  # what it was without


@pytest.mark.parametrize("rule", EVERY, ids=repr)
def test_several_batches_go_on_from_the_first(rule):
    seen = site(3, gs.group_neuron(4))
    once = rule.correct(seen, seen.nothing())
    twice = rule.correct(seen._replace(batch=2), once)
    assert jax.tree.structure(once) == jax.tree.structure(twice)
    error = lambda correction: float(jnp.abs(seen.by_channel(seen.mean_output(correction) - seen.wanted)).mean())
    assert error(twice) <= error(seen.nothing()) + 0.02
    kinds = {type(make()) for make in CORRECTIONS.values()}
    assert kinds <= set(map(type, EVERY))


@given(seeds, st.integers(0, 5), st.integers(1, 4))
def test_rows_serve_their_steps_and_the_last_all_after_them(seed, done, rows):
    currents, bias = dyadic(seed, (3, 2, CHANNELS)), dyadic(seed + 1, (rows, CHANNELS))
    found = corrected(currents, gs.Correction(bias, jnp.float32(2)), jnp.int32(done))
    for step in range(3):
        wanted = 2 * currents[step] + bias[min(done + step, rows - 1)][None]
        np.testing.assert_array_equal(found[step], wanted)


def two_layers(seed):
    random = np.random.default_rng(seed)
    weights = [jnp.asarray(random.integers(-8, 9, shape) / 8, jnp.float32) for shape in ((5, 6), (6, 4), (4, 3))]

    def network(weights, x):
        for each in weights[:-1]:
            x = jax.nn.relu(x @ each)
        return x @ weights[-1]

    return network, weights


def spiking(network, weights, x, **options):
    names = [each.name for each in gs.sites(network, weights, x)]
    thresholds = dict(zip(names, (2.0, 1.0), strict=True))
    return gs.to_spiking(network, gs.integrate_and_fire(), steps=STEPS, thresholds=thresholds, **options)


@pytest.mark.parametrize("seed", range(3))
def test_layers_are_corrected_one_after_the_other(seed):
    """FTBC of a whole network, two batches, against numpy."""
    network, weights = two_layers(seed)
    x = dyadic(seed, (2, SAMPLES, 5), -1, 2)
    found = gs.find_corrections(spiking(network, weights, x[0]), list(x), method="ftbc", variables=weights)
    neuron, tables = gs.integrate_and_fire(), [np.zeros((STEPS, 6)), np.zeros((STEPS, 4))]
    for batch in np.float64(x):
        train, own = np.broadcast_to(batch, (STEPS, *batch.shape)), batch
        for table, weight, theta in zip(tables, weights, (2.0, 1.0), strict=False):
            own = np.maximum(own @ weight, 0)
            potential, currents, spikes = np.full(own.shape, theta / 2), train @ np.float64(weight), []
            for t in range(STEPS):
                trial = fire(neuron, potential + currents[t] + table[t], theta)
                table[t] -= 0.5 * (trial - own).mean(0)
                charged = potential + currents[t] + table[t]
                spikes.append(fire(neuron, charged, theta))
                potential = charged - spikes[-1]
            train = np.stack(spikes)
    for correction, table in zip(found.values(), tables, strict=True):
        np.testing.assert_allclose(correction.bias, table, atol=1e-5)


@pytest.mark.parametrize("method", CORRECTIONS)
def test_a_corrected_network_is_one_whatever_the_chunk_and_as_a_stream(method, tmp_path):
    network, weights = two_layers(1)
    x = dyadic(5, (SAMPLES, 5), -1, 2)
    found = gs.find_corrections(spiking(network, weights, x), [x], method=method, variables=weights)
    whole = spiking(network, weights, x, corrections=found, chunk=STEPS)
    wanted = jax.jit(whole)(weights, x)
    plain = spiking(network, weights, x)(weights, x)
    assert not np.array_equal(wanted, plain)
    for chunk in (2, 3):
        snn = jax.jit(spiking(network, weights, x, corrections=found, chunk=chunk))
        np.testing.assert_allclose(snn(weights, x), wanted)
    state, forward = whole.initial_state(weights, x), jax.jit(whole.step)
    for step in wanted:
        state, outputs = forward(state, weights, x)
        np.testing.assert_allclose(outputs, step, atol=1e-6)
    assert whole == spiking(network, weights, x, corrections=found, chunk=STEPS)
    assert whole != spiking(network, weights, x, chunk=STEPS)
    gs.save(tmp_path / "corrected.npz", whole, weights, x, symbolic_batch=False)
    np.testing.assert_allclose(gs.load(tmp_path / "corrected.npz")(x), wanted, atol=1e-6)
    again = gs.load(tmp_path / "corrected.npz", ann=network)
    np.testing.assert_allclose(again(x), wanted, atol=1e-6)


@pytest.mark.parametrize("method", CORRECTIONS)
def test_transformers_and_max_pooling_are_corrected_too(method):
    def network(weights, x):
        hidden = jax.nn.relu(x @ weights)
        pooled = hidden.reshape(len(x), -1, 2).max(-1)
        return jax.nn.softmax(pooled @ pooled.T) @ pooled

    weights, x = dyadic(0, (4, 8), -1, 1), dyadic(1, (6, 4), -1, 1)
    thresholds = gs.find_thresholds(network, [x], 8, variables=weights)
    snn = gs.to_spiking(network, gs.group_neuron(8), steps=2, thresholds=thresholds)
    found = gs.find_corrections(snn, [x, x], method=method, variables=weights)
    assert list(found) == [each.name for each in gs.sites(network, weights, x)]
    repaired = gs.to_spiking(network, gs.group_neuron(8), steps=2, thresholds=thresholds, corrections=found)
    assert np.isfinite(repaired(weights, x)).all()


def test_channels_first_get_biases_of_their_own_axis():
    network = lambda x: jax.nn.relu(x * 2).sum((-1, -2))
    x = dyadic(0, (4, 3, 5, 5))
    (name,) = [each.name for each in gs.sites(network, x)] or ["relu"]
    snn = gs.to_spiking(network, gs.integrate_and_fire(), steps=2, thresholds={name: 1.0})
    (first,) = gs.find_corrections(snn, [x], channel_axis=-3).values()
    (last,) = gs.find_corrections(snn, [x]).values()
    (one,) = gs.find_corrections(snn, [x], channel_axis=None).values()
    assert (first.bias.shape, last.bias.shape, one.bias.shape) == ((2, 3, 1, 1), (2, 5), (2,))
    spikes, _ = gs.run(gs.integrate_and_fire(), jnp.broadcast_to(2 * x, (2, *x.shape)), 1.0)
    wanted = -0.5 * (spikes[0] - jnp.maximum(2 * x, 0)).mean((0, 2, 3))
    np.testing.assert_allclose(first.bias[0, :, 0, 0], wanted, atol=1e-6)


def test_what_does_not_fit_is_said():
    network, weights = two_layers(0)
    x = dyadic(0, (SAMPLES, 5))
    snn = spiking(network, weights, x)
    with pytest.raises(gs.InputError, match="unknown method 'ftcb'"):
        gs.find_corrections(snn, [x], method="ftcb", variables=weights)
    calibrated = gs.to_spiking(network, snn.neuron, steps=4, thresholds=snn.thresholds, calibration=gs.offset_spikes(2))
    with pytest.raises(gs.InputError, match="found without a calibration"):
        gs.find_corrections(calibrated, [x], variables=weights)
    found = gs.find_corrections(snn, [x], variables=weights)
    name = next(iter(found))
    with pytest.raises(gs.InputError, match="no neurons stand there"):
        spiking(network, weights, x, corrections={"other": found[name]})(weights, x)
    with pytest.raises(gs.InputError, match="holds NaN"):
        spiking(network, weights, x, corrections={name: found[name]._replace(gain=jnp.nan)})
    with pytest.raises(gs.InputError, match="does not broadcast"):
        spiking(network, weights, x, corrections={name: found[name]._replace(bias=jnp.zeros((4, 7)))})(weights, x)
    with pytest.raises(TypeError, match="corrections"):
        spiking(network, weights, x, corrections=[found[name]])
    with pytest.raises(TypeError, match="write a subclass"):
        gs.CorrectionRule()
    with pytest.raises(gs.InputError, match="rate of FTBC"):
        ForwardBias(0.0)
    with pytest.raises(gs.InputError, match="NIR neurons have no bias"):
        gs.to_nir(spiking(network, weights, x, corrections=found), weights, x)


@dataclass(frozen=True)
class Nothing(gs.CorrectionRule):
    def correct(self, seen, before):
        return before


def test_a_rule_of_ones_own_and_values():
    network, weights = two_layers(0)
    x = dyadic(0, (SAMPLES, 5))
    found = gs.find_corrections(spiking(network, weights, x), [x], method=Nothing(), variables=weights)
    repaired = spiking(network, weights, x, corrections=found)
    np.testing.assert_array_equal(repaired(weights, x), spiking(network, weights, x)(weights, x))
    for rule in EVERY:
        assert from_json(to_json(rule), gs.CorrectionRule) == rule


# SRP, which looks at each sample.


@given(seeds, st.sampled_from([1, 3, 5]), st.sampled_from([1, 4]))
def test_residual_membrane_silences_who_sent_too_much(seed, probe, members):
    neuron, currents = gs.group_neuron(members), dyadic(seed, (6, 40), -1, 2)
    initial = gs.residual_membrane(probe).initial(neuron, currents, 1.0)
    left = (
        0.5 / members + np.float64(currents[:probe]).sum(0) - simulate(neuron, np.float64(currents[:probe]), 1.0).sum(0)
    )
    np.testing.assert_array_equal(initial, np.where(left > 1e-3 / members, np.float32(0.5 / members), -np.inf))
    outputs, _ = gs.run(neuron, currents, 1.0, initial)
    assert not np.any(np.asarray(outputs)[:, left <= 0])
    np.testing.assert_array_equal(outputs[:, left > 0.01], gs.run(neuron, currents, 1.0)[0][:, left > 0.01])


def test_residual_membrane_leaves_encoders_and_asks_for_its_steps():
    currents = dyadic(0, (2, 8), -2, 2)
    initial = gs.residual_membrane(2).initial(gs.group_neuron(2, signed=True), currents, 1.0)
    np.testing.assert_array_equal(initial, np.full(8, 0.25))
    with pytest.raises(gs.InputError, match="3 probe steps need as many currents, got 2"):
        gs.residual_membrane(3).initial(gs.group_neuron(2), currents, 1.0)
