"""The table of rules: every primitive has one, linear means linear, and what is none of the network is left alone."""

import runpy
import warnings
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import dyadic
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir

import gnsnn_jax as gs
from gnsnn_jax.engine.rules import ENTERED, RULES, OverTime, Rule, everywhere, known_primitives, nowhere, register

DOCS = Path(__file__).parent.parent / "docs"
WEIGHTS, X = dyadic(0, (4, 4)), dyadic(1, (5, 4))
FINE = gs.group_neuron(4)


def spikes(x):
    return gs.qcfs(x @ WEIGHTS, 1.0, 4)


def test_every_primitive_of_jax_has_a_rule():
    unknown = {each.name for each in known_primitives() if each not in RULES and each.name not in ENTERED}
    assert not unknown


@pytest.fixture(scope="module")
def what_converts():
    """The names of the script that writes docs/what_converts.md."""
    return runpy.run_path(str(DOCS / "what_converts.py"))


@pytest.mark.slow
def test_the_documentation_says_what_converts(what_converts):
    committed = (DOCS / "what_converts.md").read_text(encoding="utf-8")
    if f"JAX {jax.__version__}," not in committed:
        pytest.skip("another version of JAX has other functions")
    assert what_converts["page"]() == committed, f"the page is not what the rules say: {what_converts['COMMAND']}"


def solved(s):
    return jnp.linalg.solve(WEIGHTS + 8 * jnp.eye(4), s.T).T


LINEAR = {
    "stop_gradient": jax.lax.stop_gradient,
    "subtract at": lambda s: (2 * s).at[0].subtract(s[0]),
    "solve": solved,
    "reduce_window": lambda s: jax.lax.reduce_window(s, 0.0, lambda a, b: a + b, (1, 2), (1, 1), "SAME"),
    "reduce": lambda s: jax.lax.reduce(s, 0.0, lambda a, b: a + b, (1,)),
    "sort by fixed keys": lambda s: jax.lax.sort((X, s), num_keys=1)[1],
    "where fixed": lambda s: jnp.where(X > 0, s, -s),
    "fft": lambda s: jnp.fft.fft(s).real,
    "take": lambda s: s[:, jnp.asarray([3, 0, 0])],
}


@pytest.mark.parametrize("name", LINEAR)
def test_linear_operations_convert(name):
    ann = lambda x: LINEAR[name](spikes(x)) * 0.5
    found = gs.to_spiking(ann, FINE, steps=3)(X)
    np.testing.assert_allclose(found[0], ann(X), atol=1e-5)


# Operations that hold a function, and are not linear.
HOLDING_A_FUNCTION = {
    "scatter_max": lambda s: s.at[:].max(0.4),
    "reduce": lambda s: jax.lax.reduce(s, jnp.float32(1), lambda a, b: a * b + a, (1,)),
    "reduce_window": lambda s: jax.lax.reduce_window(s, jnp.float32(1), jnp.multiply, (1, 2), (1, 1), "VALID"),
    "composite": jax.lax.composite(jnp.sin, "tests.sine"),
}


@pytest.mark.parametrize("name", HOLDING_A_FUNCTION)
def test_an_operation_is_not_linear_because_it_holds_a_function(name):
    """Its function tells how two values are combined, and the means of spikes go through it."""
    function = HOLDING_A_FUNCTION[name]
    snn = gs.to_spiking(lambda x: function(spikes(x)), gs.integrate_and_fire(), steps=3)
    outputs, trains = snn.observed(lambda spikes, site: spikes)(X / 8)  # so that few neurons are saturated
    np.testing.assert_allclose(outputs.mean(0), function(trains[0].mean(0)), atol=1e-5)


SCATTERED = {
    "scatter-mul: it converts at fixed indices": lambda s: s.at[0].multiply(s[1]),
    "scatter: it converts at fixed indices": lambda s: s.at[0].apply(jnp.sin),
    "scatter-add: integers made of spikes": lambda s: X.at[s[0].astype(jnp.int32)].add(1.0),
}


@pytest.mark.parametrize("words", SCATTERED)
def test_scatters_that_have_no_mean_are_refused(words):
    with pytest.raises(gs.InputError, match=words):
        gs.to_spiking(lambda x: SCATTERED[words](spikes(x)), FINE, steps=3)(X)


@pytest.mark.parametrize("seed", range(3))
def test_what_the_outputs_do_not_need_is_dropped(seed):
    head = dyadic(seed, (4, 3))

    def whole(x, aux=True):
        s = spikes(x)
        logits = s @ head
        if aux:
            jax.nn.softmax(logits), jnp.argmax(logits, -1), jax.nn.relu(logits @ head.T), jnp.sort(s)
        carry = lambda c, w: ((c[0] + w, jnp.tanh(c[1])), None)
        return logits + jax.lax.scan(carry, (s @ head, s), jnp.ones((2, 5, 3)))[0][0] if aux else logits + s @ head + 2

    assert [site.kind for site in gs.sites(whole, X)] == ["qcfs"]
    convert = lambda ann: gs.to_spiking(ann, gs.integrate_and_fire(), steps=4)(X)
    np.testing.assert_array_equal(convert(whole), convert(lambda x: whole(x, aux=False)))


@pytest.mark.parametrize("arguments", ["arrays", "tree", "closure"])
def test_a_cut_of_parameters_is_no_activation(arguments):
    ann = {
        "arrays": lambda w, x: spikes(x) @ jax.nn.relu(w),
        "tree": lambda w, x: spikes(x) @ jnp.maximum(w["a"] @ w["b"], 0),
        "closure": lambda w, x: spikes(x) @ jax.nn.relu(WEIGHTS),
    }[arguments]
    w = {"a": WEIGHTS, "b": WEIGHTS} if arguments == "tree" else dyadic(3, (4, 2))
    assert [site.kind for site in gs.sites(ann, w, X)] == ["qcfs"]
    np.testing.assert_allclose(gs.to_spiking(ann, FINE, steps=1)(w, X)[0], ann(w, X), atol=1e-5)


NORMS = {"layer": nn.LayerNorm(), "group": nn.GroupNorm(2), "rms": nn.RMSNorm(), "instance": nn.InstanceNorm()}


@pytest.mark.parametrize("spelling", [jax.nn.relu, lambda x: jnp.maximum(x, 0)])
@pytest.mark.parametrize("name", NORMS)
def test_the_variance_of_a_norm_is_no_current(name, spelling):
    weights, images = dyadic(2, (3, 4)), dyadic(4, (2, 3, 3, 3))
    variables = NORMS[name].init(jax.random.key(0), images @ weights)
    ann = lambda variables, x: spelling(NORMS[name].apply(variables, x @ weights)) @ weights.T
    (site,) = gs.sites(ann, variables, images)
    assert (site.kind, site.shape) == ("relu", (2, 3, 3, 4))
    with pytest.warns(UserWarning, match="stay analog in front of the first neurons: "):
        found = gs.to_spiking(ann, gs.group_neuron(256), steps=1, thresholds={site.name: 4.0})(variables, images)
    np.testing.assert_allclose(found[0], ann(variables, images), atol=0.1)


@jax.custom_vjp
def pact(x, bound):
    return jnp.clip(x, 0, bound)


pact.defvjp(lambda x, bound: (pact(x, bound), None), lambda _, g: (g, g.sum()))

# Without weights behind them, which would get an encoder.
CANDIDATES = {
    "leaky_relu": lambda x: jax.nn.leaky_relu(x @ WEIGHTS),
    "select_n": lambda x: jnp.where(x @ WEIGHTS > 0, x @ WEIGHTS, 0),
    "mul": lambda x: (x @ WEIGHTS) * (x @ WEIGHTS > 0).astype(jnp.float32),
    "custom_vjp_call": lambda x: pact(x @ WEIGHTS, jnp.float32(2)),
    "while": lambda x: jax.lax.while_loop(lambda h: h.sum() < 9, lambda h: jax.nn.relu(h @ WEIGHTS) + 1, x),
}


@pytest.mark.parametrize("name", CANDIDATES)
def test_candidates_are_named_where_no_activation_is_found(name):
    for refuse in (lambda ann: gs.to_spiking(ann, FINE, steps=2)(X), lambda ann: gs.find_thresholds(ann, [X], 4)):
        with pytest.raises(gs.InputError, match=rf"test_rules.py:\d+: {name}: \w+"):
            refuse(CANDIDATES[name])


def test_remedies_fit():
    with pytest.raises(gs.InputError, match="mean of the outputs over time"):
        gs.to_spiking(lambda x: jnp.argmax(spikes(x), -1), FINE, steps=1)(X)
    with pytest.raises(gs.InputError, match=r"rules\.register adds one"):
        gs.to_spiking(lambda x: unheard_of.bind(spikes(x)), FINE, steps=1)(X)


unheard_of = Primitive("unheard_of")
unheard_of.def_abstract_eval(lambda x: x)
unheard_of.def_impl(lambda x: jnp.maximum(x, 2 * x))
batching.defvectorized(unheard_of)
mlir.register_lowering(unheard_of, mlir.lower_fun(unheard_of.impl, multiple_results=False))


@pytest.mark.parametrize("over_time", [OverTime.OF_MEANS, OverTime.OF_SUMS])
def test_a_rule_is_registered_for_a_primitive_of_ones_own(over_time, monkeypatch):
    """max(x, 2 x), which is positively homogeneous: means and sums lead to the same."""
    monkeypatch.delitem(RULES, unheard_of, raising=False)
    register(unheard_of, Rule(nowhere, over_time))
    ann = lambda x: unheard_of.bind(spikes(x) - 0.4)
    outputs, trains = gs.to_spiking(ann, gs.integrate_and_fire(), steps=4).observed(lambda spikes, site: spikes)(X)
    means = trains[0].mean(0) - 0.4
    np.testing.assert_allclose(outputs.mean(0), jnp.maximum(means, 2 * means), atol=1e-6)


@pytest.mark.usefixtures("unchecked")
def test_rules_are_registered_for_primitives_alone():
    with pytest.raises(TypeError, match=r"must be a jax\.extend\.core\.Primitive, got 'unheard_of'"):
        register("unheard_of", Rule(everywhere))
    with pytest.raises(TypeError, match=r"rule must be a Rule such as Rule\(everywhere\), got <function"):
        register(unheard_of, everywhere)


def test_what_stays_analog_is_said_once():
    def ann(x):
        for _ in range(4):
            x = jax.nn.leaky_relu(x @ WEIGHTS)
        return gs.qcfs(x @ WEIGHTS, 1.0, 4) @ WEIGHTS

    snn = gs.to_spiking(ann, FINE, steps=2)
    with pytest.warns(UserWarning, match=r"test_rules.py:\d+: leaky_relu") as caught:
        snn(X)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = gs.verify(ann, snn, [X])
    assert any("leaky_relu" in line for line in found.analog)
    assert "leaky_relu" in str(found)
    gs.to_spiking(lambda x: spikes(jnp.clip(x / 255, 0, 1)), FINE, steps=1)(X)  # pixels: no warning
