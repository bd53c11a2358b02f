"""Each way to write a cut at 0 is found, and what only looks like one is not; what depends on what in a network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import dyadic, seeds
from hypothesis import given

import gnsnn_jax as gs
from gnsnn_jax.engine.dependence import dependence_of
from gnsnn_jax.engine.graph import needed, reached_from
from gnsnn_jax.engine.patterns import PATTERNS, upper_bound
from gnsnn_jax.engine.recognise import network_of, not_linear

WEIGHTS, X = dyadic(0, (3, 3)), dyadic(1, (4, 3))
EXAMPLES = {code: bound for pattern in PATTERNS for code, bound in pattern.examples.items()}


def written(code):
    """The function of x that a piece of code stands for, with the promotion of types that users have by default."""
    function = eval(f"lambda x: {code}", {"jax": jax, "jnp": jnp})

    def call(x):
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            return function(x)

    return call


def with_own_jvp(function):
    wrapped = jax.custom_jvp(function)
    wrapped.defjvp(lambda x, x_dot: (wrapped(*x), x_dot[0]))
    return wrapped


def with_own_vjp(function):
    wrapped = jax.custom_vjp(function)
    wrapped.defvjp(lambda x: (wrapped(x), None), lambda _, gradient: (gradient,))
    return wrapped


AROUND = {
    "nothing": lambda function: function,
    "jit": jax.jit,
    "vmap": jax.vmap,
    "vmap of vmap": lambda function: jax.vmap(jax.vmap(function)),
    "checkpoint": jax.checkpoint,
    "custom_jvp": with_own_jvp,
    "custom_vjp": with_own_vjp,
    "jit of custom_vjp": lambda function: jax.jit(with_own_vjp(function)),
    "vmap of custom_jvp": lambda function: jax.vmap(with_own_jvp(function)),
    "value beside a gradient": lambda function: lambda x: jax.vjp(function, x)[0],
}
DTYPES = [jnp.float32, jnp.bfloat16]


def behind_a_layer(function, dtype):
    """The function behind weights, with weights after it."""
    weights = WEIGHTS.astype(dtype)
    return lambda x: function(x @ weights) @ weights


def found(code, around, dtype):
    sites = gs.sites(behind_a_layer(AROUND[around](written(code)), dtype), X.astype(dtype), encoders=None)
    return [(site.kind, None if site.threshold is None else float(np.max(site.threshold))) for site in sites]


def test_the_entries_of_the_table_differ_and_have_examples():
    assert len({pattern.name for pattern in PATTERNS}) == len(PATTERNS)
    assert all(pattern.examples and pattern.ends_in for pattern in PATTERNS)


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("code", EXAMPLES)
def test_each_example_is_found_once_with_its_kind_and_bound(code, around):
    bound = EXAMPLES[code]
    for dtype in DTYPES:
        assert found(code, around, dtype) == [("relu" if bound is None else "clip", bound)]


@pytest.mark.parametrize("code", EXAMPLES)
def test_each_example_is_the_cut_that_the_table_says(code):
    currents = jnp.concatenate([dyadic(2, (64,), -9, 9), jnp.asarray([0.0, -0.0, 2.0, 6.0])])
    expected = np.clip(currents, 0, EXAMPLES[code])
    np.testing.assert_array_equal(written(code)(currents), expected)


@pytest.mark.parametrize("code", EXAMPLES)
def test_each_example_converts_in_front_and_behind_spikes_and_leaves_nothing_over(code):
    ann = lambda x: written(code)(written(code)(x @ WEIGHTS) @ WEIGHTS) @ WEIGHTS
    bound = EXAMPLES[code] or 2.0
    expected = lambda x: gs.qcfs(gs.qcfs(x @ WEIGHTS, bound, 4) @ WEIGHTS, bound, 4) @ WEIGHTS
    thresholds = {site.name: bound for site in gs.sites(ann, X)}
    converted = gs.to_spiking(ann, gs.group_neuron(4), steps=1, thresholds=thresholds)(X)
    np.testing.assert_allclose(converted[0], expected(X), atol=1e-6)
    assert not_linear(network_of(jax.make_jaxpr(ann)(X))) == []


@pytest.mark.parametrize("code", [code for code, bound in EXAMPLES.items() if bound is None])
def test_each_relu_that_no_spike_reaches_stays_one(code):
    ann = lambda x: gs.qcfs(written(code)(x @ WEIGHTS) @ WEIGHTS, 2.0, 4)
    np.testing.assert_allclose(gs.to_spiking(ann, gs.group_neuron(4), steps=1)(X)[0], ann(X), atol=1e-6)


NEAR_MISSES = [
    "jnp.clip(x, -1, 2)",
    "jnp.maximum(x, 1)",
    "jnp.where(x > 1, x, 0)",
    "jnp.where(x > 0, x, 1)",
    "jnp.where(x > 0, 0, x)",
    "jnp.where(x < 0, x, 0)",
    "jnp.where(x != 0, x, 0)",
    "jnp.where(x > 0, -x, 0)",
    "jnp.where(x > 0, 1, 0) + 0 * x",
    "jnp.where(x > 0, x, 0.5 * x)",
    "jnp.where(-x > 0, x, 0)",
    "jnp.where(x.sum() > 0, x, 0)",
    "x * (-x > 0)",
    "x * (x < 0)",
    "x * (x > 1)",
    "x * (x != 0)",
    "x * (x[::-1] > 0)",
    "x * jnp.greater(0, x)",
    "jnp.where(jnp.greater(0, x), x, 0)",
    "-x * (x > 0)",
    "jnp.where(x > 2, 2, jnp.where(x < -2, -2, x))",
    "jnp.where(x > 2, 2, jnp.where(x < 1, 1, x))",
    "jax.nn.hard_tanh(x)",
    "jax.nn.elu(x)",
    "jax.nn.silu(x)",
    "jax.nn.sparse_plus(x)",
]


@pytest.mark.parametrize("around", ["nothing", "jit", "vmap", "custom_jvp", "custom_vjp"])
@pytest.mark.parametrize("code", NEAR_MISSES)
def test_near_misses_are_not_found(code, around):
    assert [found(code, around, dtype) for dtype in DTYPES] == [[], []]


NO_BOUNDS = [
    "jnp.where(x > 3, 2, jnp.maximum(x, 0))",
    "jnp.where(2 * x > 2, 2, jnp.maximum(x, 0))",
    "jnp.minimum(jnp.maximum(x, 0), -1)",
    "jnp.minimum(jnp.maximum(x, 0), -x)",
]


@pytest.mark.parametrize("code", NO_BOUNDS)
def test_what_is_no_bound_leaves_a_relu(code):
    assert found(code, "nothing", jnp.float32) == [("relu", None)]


TWO_CURRENTS = {
    "a product": lambda x, y: x * (y > 0).astype(x.dtype),
    "a select": lambda x, y: jnp.where(y > 0, x, 0),
    "a bound": lambda x, y: jnp.where(y > 2, 2, jnp.where(y > 0, x, 0)),
}


@pytest.mark.parametrize("case", TWO_CURRENTS)
def test_a_current_is_not_cut_by_the_sign_of_another(case):
    ann = lambda x: TWO_CURRENTS[case](x @ WEIGHTS, x @ (2 * WEIGHTS)) @ WEIGHTS
    assert gs.sites(ann, X, encoders=None) == []


READ_ELSEWHERE = {
    "the comparison of a product": lambda x, mask: (x * mask.astype(x.dtype), mask),
    "the mask of a product": lambda x, mask: (x * (factor := mask.astype(x.dtype)), factor),
    "the comparison of a select": lambda x, mask: (jnp.where(mask, x, 0), mask),
}


@pytest.mark.filterwarnings("ignore:these operations are not linear and stay analog")
@pytest.mark.parametrize("case", READ_ELSEWHERE)
def test_parts_that_something_else_reads_are_not_dropped(case):
    ann = lambda x: READ_ELSEWHERE[case](current := x @ WEIGHTS, current > 0)
    network = network_of(jax.make_jaxpr(ann)(X))
    assert [each.activation.kind for each in network.activations] == ["relu"]
    assert [each.eqn.primitive.name for each in not_linear(network)] == ["gt"]
    thresholds = dict.fromkeys([site.name for site in gs.sites(ann, X)], 2.0)
    spikes, mask = gs.to_spiking(ann, gs.group_neuron(4), steps=1, thresholds=thresholds)(X)
    np.testing.assert_allclose(spikes[0], gs.qcfs(X @ WEIGHTS, 2.0, 4), atol=1e-6)
    np.testing.assert_array_equal(mask[0], ann(X)[1])


def test_only_cuts_with_their_own_gradient_have_an_upper_bound():
    bounds = lambda function: [upper_bound(eqn) for eqn in jax.make_jaxpr(function)(X).eqns]
    assert bounds(jax.nn.relu) == [np.inf]
    assert bounds(jax.nn.relu6) == [6]
    assert bounds(with_own_vjp(lambda x: jnp.where(x > 0, x, 0))) == [np.inf]
    assert bounds(jax.nn.silu) == bounds(jnp.tanh) == [None]


# Dependence.

STEPS = [
    lambda x, y: x @ WEIGHTS,
    lambda x, y: x + y,
    lambda x, y: x @ y.T @ y,
    lambda x, y: jnp.tanh(x),
    lambda x, y: jnp.maximum(x, 0),
    lambda x, y: jax.nn.relu(x),
    lambda x, y: gs.qcfs(y, 1.0, 4),
    lambda x, y: jnp.ones_like(x) * 2,
    lambda x, y: x + jax.random.uniform(jax.random.key(0), x.shape),
]


def any_network(seed):
    """A traced network of two inputs, made of operations between random values."""
    random = np.random.default_rng(seed)

    def network(*values):
        values = list(values)
        for step in random.choice(len(STEPS), 7):
            values.append(STEPS[step](*(values[at] for at in random.choice(len(values), 2))))
        return values[-3:]

    return network_of(jax.make_jaxpr(network)(X, X))


@given(seeds)
def test_what_a_slot_reaches_needs_it(seed):
    network = any_network(seed)
    slots = {slot for each in network.operations for slot in (*each.inputs, *each.outputs)}
    for start in network.inputs:
        reached = reached_from(network.operations, [start])
        for slot in slots - {start}:
            read = {used for each in needed(network.operations, [slot]) for used in each.inputs}
            assert (slot in reached) == (start in read)


@given(seeds)
def test_currents_and_bent_values_are_data(seed):
    network = any_network(seed)
    given, currents, bent = dependence_of(network)
    spikes = {slot for each in network.operations if each.eqn.primitive.name == "qcfs" for slot in each.outputs}
    assert given == reached_from(network.operations, {*network.inputs, *spikes})
    assert currents | bent <= given
    for each in network.operations:
        if each.eqn.primitive.name == "tanh" and each.reads(given):
            assert bent.issuperset(each.outputs)
        if each.activation and each.activation.kind == "qcfs":
            assert currents.issuperset(each.outputs)
            assert bent.isdisjoint(each.outputs)


DEPENDENCES = {
    "weights": (lambda x: x @ WEIGHTS, "given currents"),
    "pixels": (lambda x: x / 255, "given"),
    "pixels in range": (lambda x: jnp.clip(x, 0, 1), "given bent"),
    "a function behind weights": (lambda x: jnp.tanh(x @ WEIGHTS), "given currents bent"),
    "weights behind a function": (lambda x: jnp.tanh(x) @ WEIGHTS, "given currents"),
    "a product of two currents": (lambda x: (x @ WEIGHTS) @ (x @ (2 * WEIGHTS)).T, "given currents bent"),
    "an activation of pixels": (jax.nn.relu, "given currents"),
    "random numbers": (lambda x: jax.random.uniform(jax.random.key(0), x.shape), ""),
}


@pytest.mark.parametrize("case", DEPENDENCES)
def test_what_depends_on_the_data_and_how(case):
    function, expected = DEPENDENCES[case]
    network = network_of(jax.make_jaxpr(function)(X))
    sets = dependence_of(network)._asdict()
    assert [name for name, slots in sets.items() if network.outputs[0] in slots] == expected.split()
