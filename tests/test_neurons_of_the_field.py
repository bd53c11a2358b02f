"""Neurons of other conversion methods against a plain simulation of each, and what their papers claim of them."""

import json
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import dyadic, seeds, thresholds_for
from hypothesis import given
from hypothesis import strategies as st

import gnsnn_jax as gs
from gnsnn_jax.analysis import evaluation
from gnsnn_jax.data.batches import Split
from gnsnn_jax.data.sets import Statistics, normalise
from gnsnn_jax.method.methods import Method, parse_method
from gnsnn_jax.method.values import from_json, to_json

STEPS, MANY = 6, 40
ENOUGH = 64  # steps without current: more than any sum below needs to settle
TRACKERS = [gs.st_bif_neuron(*bounds) for bounds in ((None, 0), (3, 0), (5, -4), (None, None), (2, None))]
MULTI = [gs.multi_threshold_neuron(*which) for which in ((1,), (4,), (3, True))]
BINARY = [gs.binary_group_neuron(*which) for which in ((1,), (3,), (4, True))]
NAMED = [gs.st_bif_neuron(), gs.multi_threshold_neuron(4), gs.binary_group_neuron(3)]


@st.composite
def simulations(draw, neurons, steps=STEPS):
    """A neuron, currents of up to two thresholds and a threshold, sums exact."""
    neuron = draw(st.sampled_from(neurons))
    threshold = draw(thresholds_for(neuron.members))
    return neuron, dyadic(draw(seeds), (steps, MANY), -2 * threshold, 2 * threshold), threshold


def with_silence(currents):
    return jnp.concatenate([currents, jnp.zeros((ENOUGH, currents.shape[1]))])


def shuffled(currents, seed):
    """Each neuron's own currents in another order."""
    return jnp.asarray(np.random.default_rng(seed).permuted(np.asarray(currents), axis=0))


def each_neuron(*arrays):
    return zip(*(np.float64(x).T for x in arrays), strict=True)


# The spike tracker.


def track(currents, threshold, upper, lower):
    """Spikes, and the potential and the tracker after the last step."""
    upper, lower = np.inf if upper is None else upper, -np.inf if lower is None else lower
    potential, tracker, spikes = threshold / 2, 0, []
    for current in currents:
        potential += current
        spike = 0
        if potential >= threshold and tracker < upper:
            spike = 1
        if potential < 0 and tracker > lower:
            spike = -1
        potential -= spike * threshold
        tracker += spike
        spikes.append(spike)
    return spikes, potential, tracker


def settled(charge, threshold, upper, lower):
    """What the quantised network makes of a sum of currents."""
    bounds = -np.inf if lower is None else lower, np.inf if upper is None else upper
    return threshold * np.clip(np.floor(np.float64(charge) / threshold + 0.5), *bounds)


@given(simulations(TRACKERS))
def test_a_tracker_spikes_as_its_equations_say(simulation):
    neuron, currents, threshold = simulation
    outputs, state = gs.run(neuron, currents, threshold)
    for own, found, potential, tracker in each_neuron(currents, outputs, state.potential, state.tracker):
        spikes, *final = track(own, threshold, neuron.upper, neuron.lower)
        np.testing.assert_array_equal(found / threshold, spikes)
        assert [potential, tracker] == final


@given(simulations(TRACKERS), seeds)
def test_a_tracker_that_has_settled_is_the_quantised_activation_of_all_its_currents_in_any_order(simulation, seed):
    neuron, currents, threshold = simulation
    wanted = settled(currents.sum(0), threshold, neuron.upper, neuron.lower)
    for order in (currents, currents[::-1], shuffled(currents, seed)):
        outputs, state = gs.run(neuron, with_silence(order), threshold)
        np.testing.assert_array_equal(outputs.sum(0), wanted)
        np.testing.assert_array_equal(np.asarray(state.tracker) * threshold, wanted)
        assert not outputs[-1].any()


@given(simulations(TRACKERS))
def test_a_tracker_stays_between_its_bounds(simulation):
    neuron, currents, threshold = simulation
    so_far = np.cumsum(gs.run(neuron, currents, threshold)[0] / threshold, 0)
    assert (so_far >= (-np.inf if neuron.lower is None else neuron.lower)).all()
    assert (so_far <= (np.inf if neuron.upper is None else neuron.upper)).all()


@given(simulations([gs.st_bif_neuron(None, None)]))
def test_a_tracker_without_bounds_is_the_signed_if_neuron(simulation):
    neuron, currents, threshold = simulation
    found, _ = gs.run(neuron, currents, threshold)
    np.testing.assert_array_equal(found, gs.run(gs.integrate_and_fire(signed=True), currents, threshold)[0])


LEVELS = 4


def without_biases(weights, x):
    """Sums of its spikes are exact: all is whole numbers of powers of two."""
    for matrix in weights[:-1]:
        x = gs.qcfs(x @ matrix, 2.0, LEVELS)
    return x @ weights[-1]


@given(seeds)
def test_a_network_without_biases_that_is_given_its_input_once_becomes_exactly_the_quantised_one(seed):
    weights, x = [dyadic(seed + k, (5, 5), -1, 1) for k in range(3)], dyadic(seed, (8, 5), -1, 2)
    ends = settled_outputs(weights, jnp.concatenate([x[None], jnp.zeros((47, 8, 5))]))
    np.testing.assert_array_equal(ends, without_biases(weights, x))


@jax.jit
def settled_outputs(weights, currents):
    found = {site.name: jnp.float32(2.0 / LEVELS) for site in gs.sites(without_biases, weights, currents[0])}
    neuron = gs.st_bif_neuron(LEVELS)
    options = {"steps": len(currents), "time_axes": (None, 0), "thresholds": found, "reduce": "sum"}
    return gs.to_spiking(without_biases, neuron, **options)(weights, currents)


@pytest.mark.usefixtures("unchecked")
def test_bounds_that_leave_nothing_are_refused():
    for bounds, said in (((0,), "upper must be at least 1 or None, got 0"), ((2, 1), "lower must be at most 0")):
        with pytest.raises(gs.InputError, match=said):
            gs.st_bif_neuron(*bounds)
    with pytest.raises(TypeError, match=r"upper must be an integer or None, got 1\.5"):
        gs.st_bif_neuron(1.5)


# Several thresholds.


def nearest(currents, threshold, thresholds, either_sign):
    """Spikes in thresholds, and the potential after the last step."""
    sizes = [threshold / 2**k for k in range(thresholds)]
    potential, sent, spikes = 0.0, 0.0, []
    for current in currents:
        potential += current
        spike = 0.0
        for size in sizes:
            if potential >= 0.75 * size:
                spike = size
                break
            if -potential >= 0.75 * size and (either_sign or sent >= size):
                spike = -size
                break
        potential -= spike
        sent += spike
        spikes.append(spike)
    return spikes, potential


@given(simulations(MULTI))
def test_several_thresholds_spike_as_their_equations_say(simulation):
    neuron, currents, threshold = simulation
    outputs, state = gs.run(neuron, currents, threshold)
    for own, found, potential in each_neuron(currents, outputs, state.potential):
        spikes, final = nearest(own, threshold, neuron.thresholds, neuron.either_sign)
        np.testing.assert_array_equal(found, spikes)
        assert potential == final
    np.testing.assert_array_equal(neuron.count(outputs, threshold), outputs != 0)
    np.testing.assert_array_equal(state.sent, neuron.units(outputs, threshold).sum(0))


@given(st.sampled_from([1, 3, 6]), st.sampled_from([0.3, 1.0, 41.0]), seeds)
def test_the_spike_is_the_nearest_of_all_thresholds(thresholds, threshold, seed):
    charge = np.random.default_rng(seed).uniform(-1.5, 1.5, 200) * threshold
    sizes = np.asarray([sign * threshold / 2**k for k in range(thresholds) for sign in (1, -1)])
    fires = np.abs(charge) >= 0.75 * sizes.min(initial=np.inf, where=sizes > 0)
    wanted = np.where(fires, sizes[np.abs(charge[:, None] - sizes).argmin(1)], 0)
    neuron, charge = gs.multi_threshold_neuron(thresholds, either_sign=True), jnp.asarray(charge, jnp.float32)
    np.testing.assert_allclose(gs.run(neuron, charge[None], threshold)[0][0], wanted, rtol=1e-6)


@given(simulations(MULTI), seeds)
def test_several_thresholds_settle_within_three_quarters_of_the_smallest_in_any_order(simulation, seed):
    neuron, currents, threshold = simulation
    wanted = currents.sum(0) if neuron.either_sign else jnp.maximum(currents.sum(0), 0)
    for order in (currents, shuffled(currents, seed)):
        outputs, _ = gs.run(neuron, with_silence(order), threshold)
        assert (jnp.abs(outputs.sum(0) - wanted) < 0.75 * threshold / neuron.members).all()
        assert neuron.either_sign or (jnp.cumsum(outputs, 0) >= 0).all()


def test_the_gradient_of_several_thresholds_is_that_of_as_many_units():
    neuron, x = gs.multi_threshold_neuron(3), jnp.asarray([-1.0, -0.13, -0.1, 0.1, 0.13, 1.0, 1.12, 1.13])
    for sent, below in ((0, 0), (4, 1)):
        state = neuron.init(jnp.float32(1), ())._replace(sent=jnp.int32(sent))
        fire = lambda x, theta, state=state: neuron.step(state, x, theta)[1]
        by_x, by_theta = jax.vmap(jax.grad(fire, (0, 1)), (0, None))(x, jnp.float32(1))
        np.testing.assert_array_equal(by_x, [below, below, 0, 0, 1, 1, 1, 0])
        assert by_theta[-1] == 1


@pytest.mark.usefixtures("unchecked")
def test_thresholds_that_float32_does_not_hold_are_refused():
    for thresholds, said in ((0, "at least 1, got 0"), (21, "at most 20, got 21")):
        with pytest.raises(gs.InputError, match=f"thresholds must be {said}"):
            gs.multi_threshold_neuron(thresholds)
    with pytest.raises(TypeError, match="either_sign must be True or False"):
        gs.multi_threshold_neuron(3, 1)


# Units as binary spikes.


def digit_by_digit(currents, threshold, spikes, signed):
    """The outputs of each step, and how many of the thresholds have fired for it."""
    unit = threshold / (2**spikes - 1)
    potential, outputs, counts = unit / 2, [], []
    for current in currents:
        potential += current
        negative = signed and potential < 0
        # The floor of what is below 0 is the next unit down.
        rest, sign = (np.ceil(-potential / unit) * unit, -1) if negative else (potential, 1)
        fired = []
        for size in [unit * 2**k for k in reversed(range(spikes))]:
            fired.append(size if rest >= size else 0)
            rest -= fired[-1]
        outputs.append(sign * sum(fired))
        counts.append(sum(size > 0 for size in fired))
        potential -= outputs[-1]
    return outputs, counts


@given(simulations(BINARY))
def test_thresholds_of_powers_of_two_that_fire_in_turn_are_a_group_neuron_in_fewer_spikes(simulation):
    neuron, currents, threshold = simulation
    outputs, state = gs.run(neuron, currents, threshold)
    spikes = neuron.members.bit_length()
    for own, found, sent in each_neuron(currents, outputs, neuron.count(outputs, threshold)):
        values, counts = digit_by_digit(own, threshold, spikes, neuron.signed)
        np.testing.assert_array_equal(found, values)
        np.testing.assert_array_equal(sent, counts)
    group = gs.group_neuron(neuron.members, neuron.signed)
    for own, of_group in zip((outputs, state), gs.run(group, currents, threshold), strict=True):
        np.testing.assert_array_equal(own, of_group)
    assert (neuron.count(outputs, threshold) <= jnp.minimum(group.count(outputs, threshold), spikes)).all()


def test_members_that_are_no_binary_digits_are_refused():
    for members, said in ((8, "got 8; use 7 or 15"), (2, "got 2; use 1 or 3")):
        with pytest.raises(gs.InputError, match=f"members must be 2\\^n - 1.*{said}"):
            type(BINARY[0])(members)
    assert repr(gs.binary_group_neuron(3)) == "BinaryGroupNeuron(members=7)"
    assert gs.binary_group_neuron(3) != gs.group_neuron(7)


# Differential coding.

CODED = [
    gs.differential(each) for each in (gs.multi_threshold_neuron(3), gs.group_neuron(4), gs.binary_group_neuron(2))
]
CODED += [each.signed_form() for each in CODED]
EXACT = 3  # steps whose means, of one and two, are exact


def largest_spike(charge, unit, neuron, below, above):
    """What a neuron sends, in units, at least -below and at most `above`."""
    if isinstance(neuron, type(MULTI[0])):
        for size in [2.0**k for k in reversed(range(neuron.thresholds))]:
            if charge >= 0.75 * size * unit and size <= above:
                return size
            if -charge >= 0.75 * size * unit and size <= below:
                return -size
        return 0.0
    return max(-min(neuron.members, below), min(neuron.members, above, np.floor(charge / unit)))


class Receiver:
    """A neuron of the published network: currents and spikes tell changes alone, and it remembers both means."""

    def __init__(self, coded, threshold, bias):
        self.neuron, self.threshold, self.unit = coded.neuron, threshold, threshold / coded.members
        self.either_sign, self.time = coded == coded.signed_form(), 0
        self.potential = 0.0 if isinstance(self.neuron, type(MULTI[0])) else self.unit / 2
        self.mean_in, self.mean_out, self.total = bias, 0.0, 0.0

    def step(self, change):
        self.time += 1
        self.potential += change + self.mean_in - self.mean_out
        self.total += self.mean_out
        above = np.floor((self.time * self.threshold - self.total) / self.unit)
        below = np.floor((self.total + self.either_sign * self.time * self.threshold) / self.unit)
        spike = self.unit * largest_spike(self.potential, self.unit, self.neuron, below, above)
        self.potential -= spike
        self.total += spike
        self.mean_in += change / self.time
        self.mean_out += spike / self.time
        return spike

    def cost(self, spike):
        units = round(abs(spike) / self.unit)
        binary = isinstance(self.neuron, type(BINARY[0]))
        return bin(units).count("1") if binary else units if type(self.neuron) is gs.GroupNeuron else int(units > 0)


@given(simulations(CODED, steps=EXACT))
def test_a_differential_neuron_stands_for_what_the_receivers_of_its_spikes_remember(simulation):
    coded, currents, threshold = simulation
    outputs, _ = gs.run(coded, currents, threshold)
    _, sent = coded.sent(coded.nothing_sent(currents.shape[1:]), outputs, jnp.float32(threshold))
    for own, found, counts in each_neuron(currents, outputs, sent):
        receiver, before = Receiver(coded, threshold, 0.0), 0.0
        for x, y, count in zip(own, found, counts, strict=True):
            mean = receiver.mean_out
            spike = receiver.step(x - before)
            before += (x - before) / receiver.time
            assert (y, count) == (mean + spike, receiver.cost(spike))


def two_populations(parameters, x):
    weights, biases = parameters
    for matrix, bias in zip(weights[:-1], biases[:-1], strict=True):
        x = gs.qcfs(x @ matrix + bias[None], 2.0, 4)
    return x @ weights[-1] + biases[-1][None]


@pytest.mark.parametrize("coded", [CODED[0], *(pytest.param(each, marks=pytest.mark.slow) for each in CODED[1:3])])
def test_a_network_of_them_is_the_published_one_that_gets_its_input_and_biases_once(coded):
    weights, x = [dyadic(k, (5, 5), -1, 1) for k in range(3)], dyadic(3, (1, 5), -1, 2)
    biases = [dyadic(4 + k, (5,), -1, 1) for k in range(3)]
    snn = gs.to_spiking(two_populations, coded, steps=EXACT)
    found, seen = snn((weights, biases), x), gs.observe(snn, [x], variables=(weights, biases))
    layers = [[Receiver(coded, 2.0, float(each)) for each in bias] for bias in biases[:-1]]
    answer = np.float64(biases[-1])
    for t in range(EXACT):
        sent = np.float64(x[0]) * (t == 0)
        for layer, matrix, population in zip(layers, weights[:-1], seen.populations, strict=True):
            sent = np.asarray(
                [each.step(change) for each, change in zip(layer, sent @ np.float64(matrix), strict=True)]
            )
            costs = [each.cost(spike) for each, spike in zip(layer, sent, strict=True)]
            assert population.spikes.units[t] == sum(costs)
        change = sent @ np.float64(weights[-1])
        np.testing.assert_allclose(found[t, 0], answer + change, atol=1e-5)
        answer += change / (t + 1)


@given(st.sampled_from(CODED), seeds)
def test_the_mean_of_a_constant_current_is_right_within_a_unit_over_the_steps_and_costs_little(coded, seed):
    x, either_sign = dyadic(seed, (MANY,), -1.5, 1.5), coded == coded.signed_form()
    wanted, unit = np.clip(np.float64(x), -1.0 if either_sign else 0, 1.0), 1 / coded.members
    currents = jnp.broadcast_to(x, (24, MANY))
    outputs, _ = gs.run(coded, currents, 1.0)
    for steps in (4, 8, 24):
        assert (np.abs(np.float64(outputs[:steps]).mean(0) - wanted) <= unit / steps + 1e-5)[np.abs(x) <= 1].all()
    _, sent = coded.sent(coded.nothing_sent((MANY,)), outputs, jnp.float32(1))
    plain = gs.group_neuron(coded.members, either_sign)
    assert sent.sum() < plain.count(gs.run(plain, currents, 1.0)[0], 1.0).sum()


@given(simulations(CODED[:1]))
def test_spikes_are_counted_from_any_step_on(simulation):
    coded, currents, threshold = simulation
    outputs, threshold = gs.run(coded, currents, threshold)[0], jnp.float32(threshold)
    memory = coded.nothing_sent((MANY,))
    head_memory, head = coded.sent(memory, outputs[:4], threshold)
    _, tail = coded.sent(head_memory, outputs[4:], threshold)
    np.testing.assert_array_equal(jnp.concatenate([head, tail]), coded.sent(memory, outputs, threshold)[1])


@pytest.mark.slow
def test_an_evaluation_in_several_calls_counts_what_is_sent():
    images = np.random.default_rng(0).integers(0, 256, (6, 2, 2, 1)).astype(np.uint8)
    split, prepare = Split(images, np.zeros(6, np.int32)), partial(normalise, to=Statistics((128.0,), (64.0,)))
    network = lambda weights, x: gs.qcfs(x.reshape(len(x), -1) @ weights, 1.0, 4) @ weights
    weights, steps = dyadic(1, (4, 4), -1, 1), evaluation.LONGEST_CALL + 3
    found = evaluation.evaluate_over_time(gs.to_spiking(network, CODED[1], steps=steps), weights, split, prepare, 4)
    currents = jnp.broadcast_to(prepare(images).reshape(6, 4) @ weights, (steps, 6, 4))
    outputs = gs.run(CODED[1], currents, 1.0)[0]
    _, sent = CODED[1].sent(CODED[1].nothing_sent((6, 4)), outputs, jnp.float32(1))
    np.testing.assert_array_equal(found.spikes, jnp.cumsum(sent.sum(-1), 0))


def test_max_pooling_takes_the_sums_of_differential_neurons_as_they_are():
    """They are no whole numbers of a unit."""
    coded, x = CODED[0], dyadic(2, (7, 6), -1, 2)
    pooled = lambda x: jnp.max(gs.qcfs(x, 2.0, 4).reshape(7, 3, 2), -1) @ jnp.eye(3)
    found = gs.to_spiking(pooled, coded, steps=5, reduce="sum")(x)
    sums = gs.run(coded, jnp.broadcast_to(x, (5, 7, 6)), 2.0)[0].sum(0)
    np.testing.assert_allclose(found, sums.reshape(7, 3, 2).max(-1), atol=1e-5)


@pytest.mark.usefixtures("unchecked")
def test_what_differential_coding_does_not_take_is_explained():
    with pytest.raises(gs.InputError, match="starts from no other potential"):
        gs.offset_spikes(2).initial(CODED[0], dyadic(0, (3, 4)), 1.0)
    for wrong in (gs.st_bif_neuron(), 4, CODED[0]):
        with pytest.raises(TypeError, match="differential coding takes the spikes of group_neuron"):
            gs.differential(wrong)


# In networks.


class Network(nn.Module):
    """Populations of each kind, and encoders behind operations that are not linear."""

    @nn.compact
    def __call__(self, x):
        for _ in range(2):
            x = nn.gelu(nn.Dense(6)(gs.qcfs(nn.Dense(6)(x), jnp.float32(2.0), 128)))
        return nn.Dense(3)(x)


@pytest.mark.slow
def test_each_goes_everywhere():
    x, model = dyadic(1, (16, 5), -2, 2), Network()
    variables = jax.jit(model.init)(jax.random.key(0), x)
    found = gs.sites(model.apply, variables, x)
    which = [*NAMED, CODED[0]]
    neurons = {site.name: which[k] for k, site in enumerate(found)}
    options = {"thresholds": {site.name: jnp.float32(3.0) for site in found if site.kind == "encoder"}, "steps": 8}
    snn = gs.to_spiking(model.apply, neurons, **options)
    errors = gs.verify(model.apply, snn, [x], variables=variables)
    assert all(site.alone[-1] < 0.8 * site.alone[0] for site in errors.sites)
    seen = gs.observe(snn, [x], variables=variables).populations
    assert [each.members for each in seen] == [which[k].members for k in range(len(seen))]
    assert all((each.spikes.events <= each.spikes.units).all() for each in seen)


@pytest.mark.parametrize("neuron", NAMED, ids=repr)
def test_each_is_calibrated_towards_its_count(neuron):
    """Currents that come too early leave a spike too many, which a pass of calibration takes away or leaves."""
    currents = dyadic(3, (4, 200), -1.5 * neuron.members, 2 * neuron.members)
    threshold = float(neuron.members)
    wanted = np.clip(np.floor(np.float64(currents.sum(0)) + 0.5), 0, 4 * threshold)
    errors = []
    for initial in (None, gs.offset_spikes(4).initial(neuron, currents, threshold)):
        outputs, _ = gs.run(neuron, currents, threshold, initial)
        errors.append(np.abs(outputs.sum(0) - wanted).mean())
    assert errors[1] < errors[0]


@pytest.mark.slow
def test_binary_spikes_change_no_output_of_a_network_and_cost_less():
    weights, x = [dyadic(k, (5, 5), -1, 1) for k in range(3)], dyadic(3, (8, 5), -1, 2)
    convert = lambda neuron: gs.to_spiking(without_biases, neuron, steps=4)
    binary, group = convert(gs.binary_group_neuron(3)), convert(gs.group_neuron(7))
    np.testing.assert_array_equal(binary(weights, x), group(weights, x))
    sent, units = (gs.observe(snn, [x], variables=weights) for snn in (binary, group))
    for of_digits, of_units in zip(sent.populations, units.populations, strict=True):
        assert of_digits.spikes.units.sum() < of_units.spikes.units.sum()
        np.testing.assert_array_equal(of_digits.spikes.events, of_units.spikes.events)
        np.testing.assert_array_equal(of_digits.sums, of_units.sums)


@pytest.mark.parametrize(
    ("neuron", "encoder"),
    [
        (gs.st_bif_neuron(4), gs.st_bif_neuron(4, -4)),
        (gs.st_bif_neuron(), gs.st_bif_neuron(None, None)),
        (gs.multi_threshold_neuron(3), gs.multi_threshold_neuron(3, True)),
        (gs.binary_group_neuron(3), gs.binary_group_neuron(3, True)),
        (gs.differential(gs.group_neuron(4)), gs.differential(gs.group_neuron(4, True))),
        (gs.signed_memory_neuron(), gs.integrate_and_fire(signed=True)),
    ],
)
def test_encoders_take_the_form_of_either_sign_which_stands_for_no_activation(neuron, encoder):
    weights, x = dyadic(0, (5, 5)), dyadic(1, (2, 5))
    network = lambda x: nn.gelu(gs.qcfs(x, 2.0, 4)) @ weights
    found = gs.sites(network, x)
    thresholds = {site.name: jnp.float32(2.0) for site in found if site.kind == "encoder"}
    spiking = gs.to_spiking(network, neuron, steps=2, thresholds=thresholds)
    assert {site.kind: spiking.neuron_of(site) for site in found} == {"encoder": encoder, "qcfs": neuron}
    with pytest.raises(gs.InputError, match="a signed neuron stands at"):
        gs.to_spiking(network, encoder, steps=2, thresholds=thresholds)(x)


@pytest.mark.parametrize(
    ("name", "neuron"),
    [
        ("stbif", gs.st_bif_neuron()),
        ("mt", gs.multi_threshold_neuron(4)),
        ("hmt", gs.binary_group_neuron(4)),
        ("dc", gs.differential(gs.multi_threshold_neuron(4))),
    ],
)
def test_each_has_a_name_and_is_stored(name, neuron):
    method = parse_method(f"{name}+cos", members=8, probe_steps=4)
    assert method.neuron == neuron
    assert Method.from_json(json.loads(json.dumps(method.to_json()))) == method
    assert all(from_json(to_json(each)) == each for each in [*TRACKERS, *MULTI, *BINARY, *CODED])
