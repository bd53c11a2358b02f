"""Neurons, calibrations and methods are values; a user's own ones work as those of the library do."""

import copy
import dataclasses
import json
import pickle
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CALIBRATIONS, NEURONS, SENDING, dyadic, seeds
from hypothesis import given
from hypothesis import strategies as st

import gnsnn_jax as gs
from gnsnn_jax.method import calibrations, neurons
from gnsnn_jax.method.methods import Method, parse_method
from gnsnn_jax.method.values import from_json, to_json


@dataclass(frozen=True)
class Leaky(gs.Neuron):
    """Nothing but init and step, the types of its arrays left to JAX."""

    leak: float = 0.5

    def init(self, threshold, shape):
        return jnp.zeros(shape)

    def step(self, state, x_t, threshold):
        charged = self.leak * state + x_t
        spikes = jnp.where(charged >= threshold, threshold, 0)
        return charged - spikes, spikes


class Counted(NamedTuple):
    potential: Any
    fired: Any


@dataclass(frozen=True)
class Counting(gs.Neuron):
    """The group neuron with a state of two arrays, one of them of integers."""

    members: int = 2

    def init(self, threshold, shape):
        return Counted(gs.group_neuron(self.members).init(threshold, shape), jnp.zeros(shape, jnp.int32))

    def step(self, state, x_t, threshold):
        potential, y_t = gs.group_neuron(self.members).step(state.potential, x_t, threshold)
        return Counted(potential, state.fired + (y_t > 0).astype(jnp.int32)), y_t


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Hidden:
    membrane: Any
    key: Any


@dataclass(frozen=True)
class Unnamed(gs.Neuron):
    """A state without a potential, with a key of random numbers in it."""

    def init(self, threshold, shape):
        return Hidden(jnp.zeros(shape), jnp.broadcast_to(jax.random.key(0), shape))

    def step(self, state, x_t, threshold):
        return dataclasses.replace(state, membrane=state.membrane + x_t), x_t


@dataclass(frozen=True)
class Nothing(gs.Calibration):
    tags: tuple[str, ...] = ()
    other: gs.Calibration | None = None

    def initial(self, neuron, currents, threshold):
        return jnp.zeros(currents.shape[1:])


OWN = [Leaky(0.25), Counting(), Unnamed(), Nothing(3), Nothing(2, ("a", "b"), gs.offset_spikes(4))]
values = pytest.mark.parametrize("value", [*NEURONS, *CALIBRATIONS, *OWN], ids=repr)


def made_again(value):
    return type(value)(**{each.name: getattr(value, each.name) for each in dataclasses.fields(value)})


@values
def test_equal_values_are_equal_and_hash_alike(value):
    again = made_again(value)
    assert again == value
    assert hash(again) == hash(value)
    assert len({again, value}) == 1


@values
def test_values_survive_what_stores_and_shows_them(value):
    for back in (
        pickle.loads(pickle.dumps(value)),
        copy.deepcopy(value),
        from_json(json.loads(json.dumps(to_json(value)))),
    ):
        assert back == value
        assert hash(back) == hash(value)
        assert repr(back) == repr(value)
    assert repr(value).startswith(type(value).__name__ + "(")
    with pytest.raises(dataclasses.FrozenInstanceError):
        value.members = 3


def test_values_of_other_fields_differ():
    everything = [*NEURONS, *CALIBRATIONS, *OWN, Leaky(0.5), Counting(3), gs.offset_spikes(4, 2), gs.offset_spikes(2)]
    assert len(set(everything)) == len(everything)


def test_the_registered_ones_are_among_those_that_the_shared_suites_run_over():
    assert set(map(type, SENDING.values())) <= set(map(type, NEURONS))
    assert {type(make(4, 1)) for make in calibrations.CALIBRATIONS.values()} <= set(map(type, CALIBRATIONS))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("wrong", [4.0, "4", None, True, np.float32(4)])
def test_numbers_of_other_types_are_refused_whatever_was_made_before(wrong):
    assert gs.group_neuron(np.int64(4)) == gs.group_neuron(4)
    assert gs.offset_spikes(np.int64(4), np.int8(2)) == gs.offset_spikes(4, 2)
    for make in (
        lambda: gs.group_neuron(wrong),
        lambda: neurons.GroupNeuron(wrong),
        lambda: gs.offset_spikes(wrong, 2),
        lambda: gs.offset_spikes(4, wrong),
        lambda: dataclasses.replace(gs.offset_spikes(4, 2), probe_steps=wrong),
    ):
        with pytest.raises(TypeError, match="must be an integer"):
            make()


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("base", [gs.Neuron, gs.Calibration])
@pytest.mark.parametrize("arguments", [(), (lambda *_: None, lambda *_: None, 4), (4, lambda *_: None)])
def test_the_base_classes_say_how_to_subclass_them(base, arguments):
    with pytest.raises(TypeError, match=rf"{base.__name__} is a base class.*\n.*@dataclass\(frozen=True\)\n.*class My"):
        base(*arguments)


def test_a_neuron_without_step_is_refused():
    class Incomplete(gs.Neuron):
        def init(self, threshold, shape): ...

    with pytest.raises(TypeError, match="step"):
        Incomplete()


def test_plain_subclasses_are_equal_to_themselves_only():
    class Plain(Leaky):
        pass

    class Free(gs.Neuron):
        def __init__(self, leak):
            self.leak = leak

        init, step = Leaky.init, Leaky.step

    one, other = Free(0.25), Free(0.5)
    assert one != other
    x = dyadic(0, (4, 3))
    for neuron in (one, other):
        np.testing.assert_array_equal(gs.run(neuron, x, 1.0)[0], gs.run(Leaky(neuron.leak), x, 1.0)[0])
    assert Plain(0.5) != Leaky(0.5)


# A user's own neuron.


@pytest.mark.parametrize("steps", [2, 5])
@pytest.mark.parametrize("neuron", [Leaky(), Counting(), Unnamed()], ids=repr)
@pytest.mark.parametrize("of_currents", ["bfloat16", "float32", "float64"])
def test_own_neurons_run_in_every_type(neuron, of_currents, steps):
    with jax.enable_x64(True):
        for of_threshold in ("float32", "float64"):
            currents, threshold = dyadic(1, (steps, 3, 2)).astype(of_currents), jnp.asarray(2.0, of_threshold)
            outputs, final = gs.run(neuron, currents, threshold)
            assert (outputs.shape, outputs.dtype) == (currents.shape, currents.dtype)
            wide = jnp.float64 if "float64" in (of_currents, of_threshold) else jnp.float32
            floats = [x.dtype for x in jax.tree.leaves(final) if jnp.issubdtype(x.dtype, jnp.floating)]
            assert floats == [wide]


# Steps and where they are cut, few, as each length compiles; up to 16 are unrolled, two at a time.
@given(st.sampled_from([Leaky(), Counting(), Counting(4)]), st.sampled_from([(1, 0), (4, 3), (18, 1)]), seeds)
def test_a_state_continues_the_simulation(neuron, lengths, seed):
    steps, cut = lengths
    currents = dyadic(seed, (steps, 3))
    head, state = gs.run(neuron, currents[:cut], 2.0)
    tail, final = gs.run(neuron, currents[cut:], 2.0, state)
    whole, expected = gs.run(neuron, currents, 2.0)
    np.testing.assert_array_equal(jnp.concatenate([head, tail]), whole)
    jax.tree.map(np.testing.assert_array_equal, final, expected)


@partial(jax.jit, static_argnames="neuron")
def gradients(neuron, currents):
    return jax.grad(lambda x: (gs.run(neuron, x, 2.0)[0] * jnp.arange(3.0)[None]).sum())(currents)


@partial(jax.jit, static_argnames=("calibration", "neuron"))
def calibrated(calibration, neuron, currents):
    return calibration.initial(neuron, currents, 2.0)


@pytest.mark.slow
@given(st.sampled_from([1, 5, 18]), st.sampled_from([1, 4]), seeds)
def test_a_tree_as_state_changes_nothing(steps, count, seed):
    currents, potential = dyadic(seed, (steps, 3)), dyadic(seed, (3,))
    for initial in (None, potential, float(potential[0])):
        outputs, state = gs.run(Counting(count), currents, 2.0, initial)
        expected, final = gs.run(gs.group_neuron(count), currents, 2.0, initial)
        np.testing.assert_array_equal(outputs, expected)
        np.testing.assert_array_equal(state.potential, final)
        np.testing.assert_array_equal(state.fired, (np.asarray(outputs) > 0).sum(0))
    np.testing.assert_array_equal(gradients(Counting(count), currents), gradients(gs.group_neuron(count), currents))


@given(st.sampled_from(CALIBRATIONS), st.sampled_from([1, 4]), seeds)
def test_calibrations_reach_into_trees(calibration, count, seed):
    currents = dyadic(seed, (5, 7))
    found = calibrated(calibration, Counting(count), currents)
    np.testing.assert_array_equal(found, calibrated(calibration, gs.group_neuron(count), currents))


def test_calibrations_take_own_neurons_and_say_where_there_is_no_potential():
    currents = dyadic(2, (4, 5))
    assert gs.offset_spikes(4, 2).initial(Leaky(), currents, 1.0).shape == (5,)
    for use in (
        lambda: gs.offset_spikes(2).initial(Unnamed(), currents, 1.0),
        lambda: gs.run(Unnamed(), currents, 1.0, 0.5),
    ):
        with pytest.raises(TypeError, match="state of Unnamed, a Hidden, has no attribute `potential`"):
            use()


@pytest.mark.slow
@pytest.mark.parametrize("neuron", [Counting(4), gs.signed_memory_neuron()], ids=repr)
def test_a_network_of_trees_as_states_runs_in_chunks_and_stops_early(neuron):
    weights, x = dyadic(3, (5, 5), -1, 1), dyadic(4, (16, 5))
    network = lambda weights, x: gs.qcfs(gs.qcfs(x @ weights, 2.0, 8) @ weights, 2.0, 8) @ weights
    snn = lambda chunk: gs.to_spiking(network, neuron, steps=6, chunk=chunk, calibration=gs.offset_spikes(3))
    outputs = np.asarray(snn(None)(weights, x))
    np.testing.assert_array_equal(snn(2)(weights, x), outputs)
    answers = gs.stop_when(0.9)(snn(2))(weights, x)
    taken = answers.latency - 3
    assert len(set(taken)) > 1
    np.testing.assert_allclose(answers.outputs, outputs.cumsum(0)[taken - 1, np.arange(16)], atol=1e-5)


@pytest.mark.usefixtures("unchecked")
def test_a_state_of_another_structure_is_explained():
    with pytest.raises(gs.InputError, match="initial must be a potential or a state of structure"):
        gs.run(gs.group_neuron(2), dyadic(0, (2, 3)), 1.0, (jnp.zeros(3), jnp.zeros(3)))


@given(st.sampled_from(NEURONS), st.sampled_from(["float16", "bfloat16", "float32"]), seeds)
def test_units_and_spikes_are_counted(neuron, dtype, seed):
    random = np.random.default_rng(seed)
    counts, threshold = random.integers(-neuron.members, neuron.members + 1, (3, 4)), random.uniform(0.1, 3, 4)
    outputs = jnp.asarray(counts * threshold / neuron.members, dtype)
    threshold = jnp.asarray(threshold, jnp.float32)
    units, sent = neuron.units(outputs, threshold), neuron.count(outputs, threshold)
    np.testing.assert_array_equal(units, counts)
    assert units.dtype == sent.dtype == jnp.int32
    if type(neuron).count is gs.Neuron.count:
        np.testing.assert_array_equal(sent, np.abs(counts))


# JSON.


def test_json_names_the_class_and_its_fields():
    assert to_json(gs.group_neuron(8)) == {"kind": "GroupNeuron", "members": 8}
    assert to_json(gs.group_neuron(8, signed=True)) == {"kind": "GroupNeuron", "members": 8, "signed": True}
    assert to_json(gs.offset_spikes(4)) == {"kind": "OffsetSpikes", "probe_steps": 4, "passes": 1}
    assert to_json(Leaky(np.float32(0.25))) == {"kind": f"{__name__}.Leaky", "leak": 0.25}
    assert to_json(OWN[-1])["other"] == to_json(gs.offset_spikes(4))


def test_a_field_that_a_class_got_later_is_stored_and_shown_where_it_is_not_its_default():
    assert from_json({"kind": "GroupNeuron", "members": 8}) == gs.group_neuron(8, signed=False)
    assert repr(gs.group_neuron(8)) == "GroupNeuron(members=8)"
    assert repr(gs.group_neuron(8, signed=True)) == "GroupNeuron(members=8, signed=True)"
    assert gs.group_neuron(8, signed=True) != gs.group_neuron(8)
    assert gs.integrate_and_fire(signed=True) == gs.group_neuron(1, signed=True)


def refused(about, match):
    with pytest.raises(gs.InputError, match=match) as error:
        from_json(about)
    assert "\n" not in str(error.value)


@pytest.mark.usefixtures("unchecked")
def test_bad_json_is_explained():
    refused(
        {"kind": "antigravity.Fly"}, "'antigravity.Fly'; known are .*GroupNeuron.*import the module that defines it"
    )
    refused({"kind": "GroupNeurone", "members": 2}, "did you mean 'GroupNeuron'")
    refused({"kind": "Neuron"}, "unknown neuron")
    refused({"members": 2}, "stored as")
    refused([1], "stored as")
    refused({"kind": "GroupNeuron"}, "GroupNeuron takes members, signed, got none")
    refused({"kind": "GroupNeuron", "members": 2, "more": 1}, "takes members, signed, got members, more")
    refused({"kind": "GroupNeuron", "members": "2"}, "members must be an integer, got '2'")
    refused({"kind": "GroupNeuron", "members": 0}, "members must be at least 1")
    with pytest.raises(gs.InputError, match=r"leak of .*Leaky is a .*, which JSON does not hold"):
        to_json(Leaky(np.ones(3)))


def test_loading_imports_nothing_that_a_file_names():
    import sys

    before = set(sys.modules)
    refused({"kind": "this.Nothing"}, "unknown")
    assert "this" not in set(sys.modules) - before


METHODS = [
    parse_method(name, members=4, probe_steps=3, passes=2, thresholds=rule, channel_axis=axis)
    for name in ("if", "gn", "cos", "gn+cos")
    for rule, axis in ((None, None), ("mse", -1))
] + [Method("LEAKY", Leaky(0.25), Nothing(2, ("a",)))]


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_methods_come_back_from_json(method):
    back = Method.from_json(json.loads(json.dumps(method.to_json())))
    assert back == method
    assert hash(back) == hash(method)


@pytest.mark.parametrize(
    ("name", "neuron", "members", "calibration", "probe_steps", "passes"),
    [
        ("IF", "if", 1, None, 0, 0),
        ("GN", "gn", 4, None, 0, 0),
        ("COS", "if", 1, "cos", 3, 2),
        ("GN+COS", "gn", 4, "cos", 3, 2),
    ],
)
def test_methods_stored_by_names_still_load(name, neuron, members, calibration, probe_steps, passes):
    about = {
        "name": name, "neuron": neuron, "members": members, "calibration": calibration, "probe_steps": probe_steps,
        "passes": passes, "thresholds": "mse", "channel_axis": -1,
    }  # fmt: skip
    method = Method.from_json(about)
    assert method == parse_method(name, members=4, probe_steps=3, passes=2, thresholds="mse", channel_axis=-1)
    assert {key: getattr(method, key) for key in ("name", "members", "probe_steps", "passes", "channel_axis")} == {
        key: about[key] for key in ("name", "members", "probe_steps", "passes", "channel_axis")
    }
    assert method.neuron_name == neuron
    with pytest.raises(gs.InputError, match="unknown neuron 'gm'"):
        Method.from_json(about | {"neuron": "gm"})


def test_a_registered_name_is_a_method(monkeypatch):
    monkeypatch.setitem(neurons.NEURONS, "leaky", lambda members: Leaky(0.25))
    method = parse_method("leaky+cos", members=4, probe_steps=3)
    assert (method.name, method.neuron, method.neuron_name) == ("LEAKY+COS", Leaky(0.25), "leaky")
    assert Method.from_json(method.to_json()) == method
