"""Operations that are not linear in spikes: means, sums, encoders, loops written out, streams."""

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gnsnn_jax as gs
from gnsnn_jax.method.neurons.run import run_on_sums

RELU = 2.0  # threshold of the ReLUs here
X = jax.random.normal(jax.random.key(0), (3, 4, 4, 2))


def array(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape) / np.sqrt(shape[0])


def masked_softmax(s):
    return nn.softmax(jnp.where(jnp.arange(s.shape[-1]) < 2, s, -1e9))


# Anything behind spikes [B, 4, 4, C], and how its place is called.
FUNCTIONS = {
    "gelu": nn.gelu,
    "silu": nn.silu,
    "tanh": jnp.tanh,
    "leaky_relu": nn.leaky_relu,
    "elu": nn.elu,
    "softplus": nn.softplus,
    "softmax": lambda s: nn.softmax(s, -1),
    "masked softmax": masked_softmax,
    "log_softmax": nn.log_softmax,
    "layer norm": lambda s: (s - s.mean(-1, keepdims=True)) * jax.lax.rsqrt(s.var(-1, keepdims=True) + 1e-3),
    "batch norm in training": lambda s: jax.nn.standardize(s, (0, 1, 2), epsilon=1e-3),
    "l2 normalised": lambda s: s / (1e-3 + jnp.linalg.norm(s + 0.5, axis=-1, keepdims=True)),
    "gate": lambda s: s * nn.sigmoid(s[:, ::-1]),
    "squeeze and excite": lambda s: s * nn.sigmoid(s.mean((1, 2), keepdims=True)),
    "product of two": lambda s: jnp.einsum("bhwc,bhvc->bhwv", s, s),
    "quotient": lambda s: 1 / (1 + s),
    "comparison": lambda s: jnp.where(s > s.mean(), s, 0.1 * s),
    "rounding": lambda s: jnp.round(4 * s).astype(jnp.int32).astype(jnp.float32),
    "residual": lambda s: s + nn.gelu(s),
    "max and average": lambda s: nn.max_pool(s, (2, 2)) + jnp.tanh(s)[:, 1:, 1:],
    "linear loop": lambda s: jax.lax.scan(lambda c, _: (c * s, c), s, None, length=2)[0],
    "branch": lambda s: jax.lax.cond(s.shape[0] > 1, jnp.exp, jnp.sin, s),
    "sorted": lambda s: jnp.sort(s, -1),
    "norm of each": lambda s: jnp.abs(s - 0.3),
}
NEURONS = [gs.integrate_and_fire(), gs.group_neuron(3)]


def behind_spikes(function):
    """A network whose one population is in front of a function, and the function of its mean output."""
    return lambda x: function(nn.relu(2 * x))


def spikes_of(neuron, steps, x=X):
    return gs.run(neuron, jnp.broadcast_to(2 * x, (steps, *x.shape)), RELU)[0]


def thresholds(ann, *args, **kwargs):
    return {site.name: RELU for site in gs.sites(ann, *args, **kwargs)}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_outputs_average_to_the_function_of_the_mean_spikes(name):
    """(1/T) sum of x_out = f((1/T) sum of x), at every T."""
    ann, steps, neuron = behind_spikes(FUNCTIONS[name]), 5, NEURONS[len(name) % 2]
    found = thresholds(ann, X, encoders=None)
    snn = gs.to_spiking(ann, neuron, steps=steps, thresholds=found, chunk=2, encoders=None)
    means = jax.jit(lambda x: jnp.cumsum(x, 0) / jnp.arange(1.0, steps + 1).reshape(-1, *(1,) * (x.ndim - 1)))
    wanted = jax.jit(jax.vmap(FUNCTIONS[name]))(means(spikes_of(neuron, steps)))
    np.testing.assert_allclose(means(jax.jit(snn)(X)), wanted, rtol=1e-4, atol=2e-5)


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 6), st.sampled_from([(2, 2, "VALID"), (3, 2, "SAME"), (3, 1, "SAME")]))
def test_max_pooling_is_exact_and_of_binary_trains_binary(seed, steps, window):
    size, stride, padding = window
    x = jax.random.uniform(jax.random.key(seed), (2, 6, 6, 3), minval=-0.5, maxval=2.5)
    per_channel = jnp.asarray([1.1, 0.7, 1.3])
    pool = lambda s: nn.max_pool(s, (size, size), (stride, stride), padding)
    ann = lambda x: pool(nn.relu(x))
    found = {gs.sites(ann, x)[0].name: per_channel}
    trains = jax.jit(gs.to_spiking(ann, gs.integrate_and_fire(), steps=steps, thresholds=found))(x)
    spikes = gs.run(gs.integrate_and_fire(), jnp.broadcast_to(x, (steps, *x.shape)), per_channel)[0]
    assert np.isin(trains, [0, *per_channel]).all()
    np.testing.assert_allclose(jnp.cumsum(trains, 0), jax.jit(jax.vmap(pool))(jnp.cumsum(spikes, 0)), rtol=1e-5)


@pytest.mark.parametrize("function", [jnp.maximum, jnp.minimum])
def test_the_larger_of_two_trains_is_one(function):
    ann = lambda x: function(nn.relu(x), nn.relu(-x))
    trains = gs.to_spiking(ann, gs.integrate_and_fire(), steps=6, thresholds=thresholds(ann, X))(X)
    assert set(np.unique(trains)) <= {0.0, RELU}


WEIGHTS = array(1, 2, 5), array(2, 5, 6)
SQUARE, WIDE = array(3, 5, 5), array(4, 4, 5)


def two_layers(function, x, *, weights=WEIGHTS):
    return function(nn.relu(x @ weights[0])) @ weights[1]


PLACES = [
    (lambda s: s, [], [], ["relu"]),
    (nn.gelu, ["encoder"], [], ["relu", "encoder"]),
    (lambda s: s.mean((1, 2)), [], [], ["relu"]),
    (lambda s: nn.max_pool(s, (2, 2)), [], [], ["relu"]),
    (lambda s: s + 1, [], [], ["relu", "encoder"]),
    (lambda s: s @ SQUARE, [], [], ["relu", "encoder"]),
    (lambda s: jnp.einsum("bhwc,bhvc->bhwv", s, s @ SQUARE) @ WIDE, 2, [], None),
]


@pytest.mark.parametrize(("function", "auto", "none", "all_"), PLACES)
def test_encoders_stand_where_weights_would_read_no_spikes(function, auto, none, all_):
    ann = lambda x: two_layers(function, x)
    kinds = lambda encoders: [site.kind for site in gs.sites(ann, X, encoders=encoders)]
    assert kinds("auto")[1:] == (["encoder"] * auto if isinstance(auto, int) else auto)
    assert kinds(None)[1:] == none
    if all_:
        assert kinds("all") == all_


def test_one_value_has_one_encoder_and_the_name_of_its_first_reader():
    class Attention(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Dense(8, name="embed")(x)
            x = x + nn.MultiHeadDotProductAttention(2, name="attention")(nn.LayerNorm()(x))
            return nn.Dense(3, name="head")(x.mean(1))

    model, x = Attention(), array(0, 2, 4, 6)
    variables = jax.jit(model.init)(jax.random.key(0), x)
    names = [site.name for site in gs.sites(model.apply, variables, x)]
    assert names == [
        "attention/query/encoder",
        *("attention/encoder", "attention/encoder#2", "attention/encoder#3", "attention/encoder#4"),
        "attention/out/encoder",
    ]
    found = gs.find_thresholds(model.apply, [x], 64, variables=variables, method="max")
    snn = gs.to_spiking(model.apply, gs.group_neuron(64), steps=8, thresholds=found)
    np.testing.assert_allclose(snn(variables, x).mean(0), model.apply(variables, x), atol=0.02)


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from(list(FUNCTIONS)), st.sampled_from([None, 2, 4]))
def test_chunks_calibrations_reductions_and_streams_agree(seed, name, probe):
    weights = array(seed % 1000, 2, 5), array(seed % 999, 5, 6)
    ann = lambda x: two_layers(lambda s: FUNCTIONS[name](s).reshape(len(s), -1)[:, :5], x, weights=weights)
    found = gs.find_thresholds(ann, [X], 12)
    common = {"thresholds": found, "calibration": gs.offset_spikes(probe) if probe else None}
    convert = lambda **more: jax.jit(gs.to_spiking(ann, gs.group_neuron(3), **({"steps": 5} | common | more)))
    whole = convert(chunk=99)(X)
    for chunk in (1, 2, 3):
        np.testing.assert_allclose(convert(chunk=chunk)(X), whole, atol=1e-5)
    np.testing.assert_allclose(convert(reduce="sum")(X), whole.sum(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(convert(reduce="mean", steps=3)(X), whole[:3].mean(0), rtol=1e-4, atol=1e-5)
    if probe is None:
        stream = gs.to_spiking(ann, gs.group_neuron(3), steps=5, thresholds=found)
        state, outputs, step = stream.initial_state(X), [], jax.jit(stream.step)
        for _ in range(5):
            state, output = step(state, X)
            outputs.append(output)
        np.testing.assert_allclose(jnp.stack(outputs), whole, atol=1e-5)


def test_a_stream_under_jit_takes_other_data_at_each_step():
    ann = lambda w, x: nn.gelu(nn.relu(x @ w["a"])) @ w["b"]
    w, xs = {"a": array(1, 2, 5), "b": array(2, 5, 3)}, jax.random.normal(jax.random.key(1), (4, 3, 2))
    found = gs.find_thresholds(ann, [*xs], 8, variables=w)
    snn = gs.to_spiking(ann, gs.group_neuron(2), steps=4, thresholds=found)
    over_time = gs.to_spiking(ann, gs.group_neuron(2), steps=4, thresholds=found, time_axes=(None, 0))(w, xs)
    state, step = snn.initial_state(w, xs[0]), jax.jit(snn.step)
    for x, wanted in zip(xs, over_time, strict=True):
        state, output = step(state, w, x)
        np.testing.assert_allclose(output, wanted, atol=1e-5)
    with pytest.raises(gs.InputError, match="a stream has no calibration"):
        gs.to_spiking(ann, gs.group_neuron(2), steps=4, calibration=gs.offset_spikes(2)).initial_state(w, xs[0])


@pytest.mark.usefixtures("unchecked")
def test_a_step_takes_the_state_of_a_stream():
    snn = gs.to_spiking(lambda x: nn.relu(x), gs.integrate_and_fire(), steps=2)
    with pytest.raises(gs.InputError, match="step takes a state that initial_state or step returned, got None"):
        snn.step(None, X)


@pytest.mark.parametrize("other", [X[:1], jnp.stack([X, X])])
def test_a_step_takes_data_of_the_shape_that_the_state_is_of(other):
    snn = gs.to_spiking(lambda x: gs.qcfs(x, 1.0, 4), gs.integrate_and_fire(), steps=2)
    with pytest.raises(gs.InputError, match="give initial_state data of the same shape as step"):
        snn.step(snn.initial_state(X), other)


def test_a_step_takes_the_state_of_its_own_network():
    ann = lambda x: gs.qcfs(x, 1.0, 4)
    one, two = (gs.to_spiking(network, gs.integrate_and_fire(), steps=2) for network in (ann, lambda x: ann(ann(x))))
    with pytest.raises(gs.InputError, match="with its 2 populations, got one with 1; start from initial_state"):
        two.step(one.initial_state(X), X)


def test_early_stop_keeps_what_means_and_sums_carry():
    ann = lambda x: two_layers(
        lambda s: nn.gelu(nn.max_pool(s, (2, 2))).mean((1, 2)), x, weights=(array(1, 2, 5), 9 * array(2, 5, 6))
    )
    x = jax.random.normal(jax.random.key(3), (16, 4, 4, 2))
    found = gs.find_thresholds(ann, [x], 8)
    snn = gs.to_spiking(ann, gs.group_neuron(2), steps=8, thresholds=found, chunk=1)
    answers, sums = gs.stop_when(0.8)(snn)(x), jnp.cumsum(snn(x), 0)
    assert len(set(answers.latency)) > 2
    for sample, (outputs, latency) in enumerate(zip(*answers, strict=True)):
        np.testing.assert_allclose(outputs, sums[latency - 1, sample], atol=1e-4)


# Loops.


def test_a_scan_with_activations_is_its_passes_one_after_the_other():
    layers = array(5, 3, 2, 2)
    body = lambda h, w: (nn.relu(h @ w), h.sum(-1))
    looped = lambda x: jnp.stack(jax.lax.scan(body, x, layers, reverse=True)[1], -1)

    def written(x):
        sums = []
        for w in layers[::-1]:
            sums.append(x.sum(-1))
            x = nn.relu(x @ w)
        return jnp.stack(sums[::-1], -1)

    names = [site.name for site in gs.sites(looped, X)]
    assert [name[-8:] for name in names] == ["[2]/relu", "[1]/relu"]  # the first pass is the last layer
    convert = lambda ann: gs.to_spiking(ann, gs.group_neuron(2), steps=3, thresholds=thresholds(ann, X))(X)
    np.testing.assert_allclose(convert(looped), convert(written), atol=1e-6)


def test_scanned_modules_are_named_by_their_passes():
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            return x + nn.Dense(4, name="out")(nn.gelu(nn.Dense(8, name="fc")(nn.LayerNorm()(x)))), None

    class Network(nn.Module):
        @nn.compact
        def __call__(self, x):
            layers = nn.scan(Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=2)
            return nn.Dense(3)(layers(name="layers")(nn.Dense(4)(x), None)[0])

    model = Network()
    variables = jax.jit(model.init)(jax.random.key(0), X)
    names = [site.name for site in gs.sites(model.apply, variables, X)]
    assert names == [f"layers[{i}]/{each}/encoder" for i in range(2) for each in ("fc", "out")]


@pytest.mark.parametrize("which", [0, 1])
def test_branches_with_activations_are_entered(which):
    w = array(1, 2, 5)
    ann = lambda x, which: jax.lax.switch(which, [lambda x: nn.relu(x @ w), lambda x: nn.relu(-x @ w)], x)
    alone = lambda x: nn.relu((1 - 2 * which) * x @ w)
    wanted = gs.to_spiking(alone, gs.group_neuron(2), steps=3, thresholds=thresholds(alone, X))(X)
    for call, args in ((lambda x: ann(x, which), (X,)), (ann, (X, jnp.int32(which)))):
        snn = gs.to_spiking(call, gs.group_neuron(2), steps=3, thresholds=thresholds(call, *args))
        np.testing.assert_allclose(snn(*args), wanted, atol=1e-6)
        assert len(gs.sites(call, *args)) == len(args)  # the branch is known, or is not


# Neurons by site.


@dataclass(frozen=True)
class Doubling(gs.Neuron):
    """A user's own: passes on half of the current, and the rest at the end of two steps."""

    def init(self, threshold, shape):
        return jnp.zeros(shape)

    def step(self, potential, x_t, threshold):
        return potential + x_t / 2, x_t / 2


def test_patterns_choose_the_neuron_of_a_site():
    class Network(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Dense(5, name="first")(x)
            x = nn.relu(x)
            return nn.Dense(6, name="last")(nn.relu(nn.Dense(5, name="second")(nn.gelu(x) - 0.5)))

    model = Network()
    variables = jax.jit(model.init)(jax.random.key(0), X)
    names = [site.name for site in gs.sites(model.apply, variables, X)]
    found = gs.find_thresholds(model.apply, [X], 4, variables=variables)
    mapping = {names[0]: gs.group_neuron(4), "*/encoder": gs.group_neuron(2), "*": gs.integrate_and_fire()}
    snn = gs.to_spiking(model.apply, mapping, steps=3, thresholds=found)
    _, trains = snn.observed(lambda spikes, site: {site.name: spikes})(variables, X)
    units = [
        np.unique(np.round(np.asarray(train[name] / found[name] * n)))
        for train, name, n in zip(trains, names, (4, 2, 1), strict=True)
    ]
    assert units[0].max() > 1
    assert units[1].min() < 0
    assert set(units[2]) <= {0, 1}
    assert snn == gs.to_spiking(model.apply, dict(mapping), steps=3, thresholds=found)
    gs.verify(model.apply, snn, [X], variables=variables)
    behaviour = gs.observe(snn, [X], variables=variables)
    assert [each.members for each in behaviour.populations] == [4, 2, 1]


@pytest.mark.parametrize(
    ("mapping", "said"),
    [
        ({"body/*": gs.group_neuron(2), "*": gs.group_neuron(4)}, "'body/\\*' matches no site"),
        ({"nothing": gs.group_neuron(2)}, "'nothing' matches no site"),
        ({"*encoder": gs.group_neuron(2)}, "no pattern matches the site"),
    ],
)
def test_patterns_and_sites_without_each_other_are_refused(mapping, said):
    ann = lambda x: two_layers(nn.gelu, x)
    with pytest.raises(gs.InputError, match=said):
        gs.to_spiking(ann, mapping, steps=2, thresholds=thresholds(ann, X))(X)


def test_a_signed_group_neuron_stands_for_no_relu():
    ann = lambda x: two_layers(nn.gelu, x)
    with pytest.raises(gs.InputError, match=r"a signed neuron stands at '.*relu'"):
        gs.to_spiking(ann, gs.group_neuron(4, signed=True), steps=2, thresholds=thresholds(ann, X))(X)


def test_a_mapping_holds_neurons():
    with pytest.raises(TypeError, match="neuron"):
        gs.to_spiking(lambda x: x, {"*": 3}, steps=2)


def test_a_neuron_of_ones_own_goes_everywhere():
    ann = lambda x: two_layers(lambda s: s.mean((1, 2)), x)
    snn = gs.to_spiking(ann, Doubling(), steps=4, thresholds=thresholds(ann, X))
    gs.verify(ann, snn, [X])
    assert gs.observe(snn, [X]).populations[0].members == 1
    assert gs.stop_when(0.99)(snn)(X).latency.max() <= 4


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([1, 3, 16]), st.booleans(), st.sampled_from([1, 4, 9]))
def test_group_neurons_on_sums_are_those_on_currents(seed, members, signed, steps):
    """In whole numbers of a power of two, where neither rounds."""
    currents = jax.random.randint(jax.random.key(seed), (steps, 5), -40, 41) / 8
    neuron = gs.group_neuron(members, signed)
    threshold = jnp.float32(2.0 * members)
    outputs, potential = gs.run(neuron, currents, threshold)
    found, owed = run_on_sums(neuron, jnp.cumsum(currents, 0), threshold, None, currents.dtype)
    np.testing.assert_array_equal(found, outputs)
    np.testing.assert_array_equal(owed + currents.sum(0), potential)


def test_a_subclass_with_a_step_of_its_own_keeps_it():
    @dataclass(frozen=True)
    class Leaky(gs.GroupNeuron):
        def step(self, state, x_t, threshold):
            return super().step(state / 2, x_t, threshold)

    assert gs.group_neuron(4).steps_on_sums
    assert not Leaky(4).steps_on_sums


@pytest.mark.parametrize(
    ("function", "sums"),
    [
        (lambda x: jax.nn.gelu(x, approximate=False), 1),
        (jax.nn.silu, 1),
        (lambda x: (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-6), 1),
        (lambda x: jax.nn.softmax(2 * x + 1), 1),
        (lambda x: x + jnp.tanh(x), 1),
    ],
)
def test_one_sum_is_carried_for_a_chain_of_operations(function, sums):
    """Whatever linear operations lie within it: only spikes come in, and only a mean is read."""
    weights = jax.random.normal(jax.random.key(0), (6, 6)) / 2
    net = lambda x: function(jax.nn.relu(x) @ weights) @ weights
    x = jax.random.normal(jax.random.key(1), (2, 6))
    thresholds = gs.find_thresholds(net, [x], 16)
    snn = gs.to_spiking(net, gs.group_neuron(16), steps=3, thresholds=thresholds)
    assert len(snn.initial_state(x).carried) == sums, snn.initial_state(x).carried.keys()
