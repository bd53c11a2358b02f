"""What `verify` says of converted networks that are right, and of ones that are wrong in a known place."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import TwoLayers

import gnsnn_jax as gs
from gnsnn_jax.analysis.evaluation import evaluate_over_time
from gnsnn_jax.analysis.observation import observe
from gnsnn_jax.conversion.verification import _relative, _Squares
from gnsnn_jax.data.batches import Split

STEPS = 5
X = jax.random.normal(jax.random.key(0), (12, 6))
WEIGHTS = [jax.random.normal(jax.random.key(seed), (6, 6)) / 2 for seed in range(1, 5)]
THRESHOLD = 6.0


def ann(x):
    for weights in WEIGHTS[:-1]:
        x = jax.nn.relu(x @ weights)
    return x @ WEIGHTS[-1]


NAMES = [site.name for site in gs.sites(ann, X)]


def converted(thresholds=THRESHOLD, neuron=None, **options):
    thresholds = thresholds if isinstance(thresholds, dict) else dict.fromkeys(NAMES, thresholds)
    return gs.to_spiking(ann, neuron or gs.group_neuron(64), steps=STEPS, thresholds=thresholds, **options)


@pytest.fixture(scope="module")
def of_if():
    snn = converted(2.0, gs.integrate_and_fire(), chunk=2)
    return snn, gs.verify(ann, snn, [X])


def test_group_neurons_of_as_many_members_as_levels_are_right_at_once():
    network, images = TwoLayers(), jax.random.normal(jax.random.key(1), (3, 4, 4, 2))
    variables = jax.jit(network.init)(jax.random.key(2), images)
    snn = gs.to_spiking(network.apply, gs.group_neuron(4), steps=1)
    found = gs.verify(network.apply, snn, [images], variables=variables)
    assert found.agreement == [1]
    np.testing.assert_allclose([found.error[0], *(site.error[0] for site in found.sites)], 0, atol=1e-6)
    assert [site.name for site in found.sites] == [site.name for site in gs.sites(network.apply, variables, images)]


def test_errors_of_the_outputs_are_those_of_their_mean_over_time(of_if):
    snn, found = of_if
    right = np.asarray(ann(X))
    mean = np.cumsum(np.asarray(snn(X)), 0) / np.arange(1, STEPS + 1).reshape(-1, 1, 1)
    np.testing.assert_allclose(
        found.error, np.linalg.norm(mean - right, axis=(1, 2)) / np.linalg.norm(right), rtol=1e-5
    )
    np.testing.assert_allclose(found.agreement, gs.accuracy_over_time(snn(X), ann(X).argmax(-1)))
    assert found.agreement[0] < 1


def test_neurons_that_no_spike_reaches_err_as_they_do_alone_and_those_behind_err_more(of_if):
    _, (_, _, (first, *rest)) = of_if
    np.testing.assert_allclose(first.error, first.alone, rtol=1e-6)
    expected = gs.qcfs(X @ WEIGHTS[0], 2.0, STEPS) - jax.nn.relu(X @ WEIGHTS[0])
    np.testing.assert_allclose(
        first.alone[-1], np.linalg.norm(expected) / np.linalg.norm(jax.nn.relu(X @ WEIGHTS[0])), rtol=1e-5
    )
    assert all(site.error[0] > site.alone[0] for site in rest)


@pytest.mark.parametrize("bad", range(3))
def test_the_first_activation_that_goes_wrong_is_named(bad):
    found = gs.verify(ann, converted({name: 0.1 if name == NAMES[bad] else THRESHOLD for name in NAMES}), [X])
    assert found.first_wrong() == NAMES[bad]
    assert [site.alone[-1] > 0.5 for site in found.sites] == [index == bad for index in range(3)]
    assert all(site.error[-1] < 0.1 for site in found.sites[:bad])
    assert f"first off by more than 10%: {NAMES[bad]}" in str(found)
    assert gs.verify(ann, converted(), [X]).first_wrong() is None


def test_batches_count_together_under_jit_and_with_variables(of_if):
    snn, whole = of_if
    two = lambda shift, x: ann(x + shift)
    shifted = gs.to_spiking(two, snn.neuron, steps=STEPS, thresholds=dict.fromkeys(names(two), 2.0))
    parts = [(X[:7] - 1,), (X[7:] - 1,)]
    for found in (
        gs.verify(ann, jax.jit(snn), [X[:7], X[7:]]),
        gs.verify(two, shifted, parts, variables=jnp.ones(())),
    ):
        assert len(found.sites) == 3
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
            (found.agreement, found.error, [site[1:] for site in found.sites]),
            (whole.agreement, whole.error, [site[1:] for site in whole.sites]),
        )


def names(two):
    return [site.name for site in gs.sites(two, jnp.ones(()), X)]


def test_of_several_outputs_those_with_classes_agree_or_not():
    split = lambda y: {"classes": y, "size": y.sum(-1), "one": y[:, :1]}
    several = lambda x: split(ann(x))
    snn = gs.to_spiking(several, gs.group_neuron(64), steps=2, thresholds=dict.fromkeys(NAMES, THRESHOLD))
    one, all_of_them = gs.verify(ann, converted(), [X]), gs.verify(several, snn, [X])
    signs = np.asarray(snn(X)["one"].cumsum(0) > 0)[..., 0] == np.asarray(ann(X)[:, 0] > 0)
    np.testing.assert_allclose(all_of_them.agreement, (one.agreement[:2] + signs.mean(-1)) / 2)
    of_one = lambda x: ann(x)[:, :1]
    snn = gs.to_spiking(of_one, gs.group_neuron(64), steps=2, thresholds=dict.fromkeys(NAMES, THRESHOLD))
    np.testing.assert_allclose(gs.verify(of_one, snn, [X]).agreement, signs.mean(-1))
    none = lambda x: ann(x).sum(-1)
    snn = gs.to_spiking(none, gs.group_neuron(64), steps=2, thresholds=dict.fromkeys(NAMES, THRESHOLD))
    found = gs.verify(none, snn, [X])
    assert found.agreement is None
    assert "same predictions" not in str(found)


CONSTANTS = {
    "ones": lambda x: jnp.ones((3, 4)),
    "number": lambda x: 3.0,
    "whole number": lambda x: 3,
    "truth": lambda x: True,
    "of numpy": lambda x: np.arange(4),
    "shape": lambda x: x.shape,
    "none": lambda x: None,
    "truth values of the input": lambda x: x > 0,
    "whole numbers of the input": lambda x: jnp.argmax(x, -1),
    "table of whole numbers": lambda x: jnp.round(x).astype(jnp.int8),
}


@pytest.mark.parametrize("name", CONSTANTS)
def test_outputs_that_are_no_logits_are_compared_and_predict_nothing(of_if, name):
    snn, alone = of_if
    both = lambda x: (ann(x), CONSTANTS[name](x))
    thresholds = dict.fromkeys(names_in(both), 2.0)
    found = gs.verify(both, gs.to_spiking(both, snn.neuron, steps=STEPS, thresholds=thresholds), [X])
    np.testing.assert_array_equal(found.agreement, alone.agreement)
    assert (found.error <= alone.error * (1 + 1e-6)).all()
    wrong = lambda x: (jnp.zeros_like(X[:, 0]) + 0 * ann(x).sum(-1), CONSTANTS[name](x))
    assert gs.verify(wrong, gs.to_spiking(wrong, snn.neuron, steps=2, thresholds=thresholds), [X]).agreement is None


def names_in(both):
    return [site.name for site in gs.sites(both, X)]


@pytest.mark.parametrize("name", ["bfloat16", "float16", "float32", "float64"])
def test_outputs_of_every_type_are_compared(name):
    with jax.enable_x64(name == "float64"):
        dtype = jnp.dtype(name)
        one, x = jnp.ones((6, 1), dtype), X.astype(dtype)
        network = lambda x: (jax.nn.relu(x) @ one + jnp.asarray(20, dtype), gs.qcfs(x, jnp.asarray(2, dtype), 4) @ one)
        found = gs.verify(network, gs.to_spiking(network, gs.integrate_and_fire(), steps=97), [x])
        assert found.error[-1] < 0.02
        assert found.agreement[-1] > 0.9


def test_silence_that_is_right_is_no_error_and_spikes_in_place_of_it_are_infinitely_wrong():
    silent = lambda x: jax.nn.relu(jax.nn.relu(x @ WEIGHTS[0]) @ -jnp.ones((6, 6)))
    first, second = (site.name for site in gs.sites(silent, X))
    snn = gs.to_spiking(silent, gs.integrate_and_fire(), steps=2, thresholds={first: 2.0, second: 1.0})
    found = gs.verify(silent, snn, [X])
    np.testing.assert_array_equal([found.error, found.sites[1].error], 0)
    np.testing.assert_array_equal(_relative(_Squares(np.asarray([0.0, 1.0]), np.float64(0))), [0, np.inf])


def test_the_table_has_a_line_for_each_activation_and_a_column_for_each_power_of_two(of_if):
    _, found = of_if
    head, same, error, *sites, legend, verdict = str(found).splitlines()
    assert head.split() == ["steps", "T", "1", "2", "4", "5"]
    assert [line.split()[0] for line in sites] == NAMES
    for line, values in ((same, found.agreement), (error, found.error)):
        assert line.split()[-4:] == [f"{100 * values[t - 1]:.1f}" for t in (1, 2, 4, 5)]
    assert len({len(line) for line in (head, same, error, *sites)}) == 1
    assert "after 5 steps" in verdict
    assert "alone" in legend


@pytest.mark.usefixtures("unchecked")
def test_what_cannot_be_compared_is_refused(of_if):
    snn, _ = of_if
    refused = lambda match: pytest.raises(gs.InputError, match=match)
    with refused("at least one batch"):
        gs.verify(ann, snn, [])
    with refused(r"empty array of shape \(0, 6\)"):
        gs.verify(ann, snn, [X[:0]])
    with refused("an activation that ann has not"):
        gs.verify(lambda x: jax.nn.relu(x @ WEIGHTS[0]), snn, [X])


# Whatever takes a converted network.

TAKE = {
    "verify": lambda snn: gs.verify(ann, snn, [X]).error,
    "stop_when": lambda snn: gs.stop_when(0.9)(snn)(X),
    "observe": lambda snn: [
        [list(map(int, spikes)) for spikes in each.spikes] for each in observe(snn, [X]).populations
    ],
    "evaluate_over_time": lambda snn: evaluate_over_time(snn, None, SPLIT, first_features, 12)[:-1],
}
SPLIT = Split(np.zeros((12, 2, 3, 1), np.uint8) + np.arange(12, dtype=np.uint8).reshape(-1, 1, 1, 1), np.arange(12) % 6)


def first_features(images):
    return images.reshape(len(images), -1).astype(jnp.float32) / 8


@pytest.mark.parametrize("take", TAKE)
def test_a_converted_network_is_taken_under_jit_and_nothing_else_is(of_if, take, unchecked):
    snn, _ = of_if
    if take == "evaluate_over_time":
        behind = lambda variables, x: ann(x)
        snn = gs.to_spiking(behind, snn.neuron, steps=STEPS, thresholds=dict.fromkeys(NAMES, 2.0))
    wanted = TAKE[take](snn)
    for under in (jax.jit(snn), jax.jit(jax.jit(snn)), jax.jit(snn, donate_argnums=0)):
        jax.tree.map(np.testing.assert_array_equal, TAKE[take](under), wanted)
    partial_one = functools.partial(snn)
    others = [ann, jax.jit(ann), partial_one, jax.jit(partial_one), jax.vmap(snn), lambda x: snn(x), None, 3]
    for other in [*others, gs.stop_when(0.9)(snn)]:
        with pytest.raises(TypeError, match=r"what to_spiking returned, or jax\.jit of that") as error:
            TAKE[take](other)
        assert "\n" not in str(error.value)
    with pytest.raises(TypeError, match=r"functools\.partial of .*give the function itself"):
        TAKE[take](partial_one)


@pytest.mark.parametrize("axis", [0, 1])
def test_inputs_over_time_are_compared_with_the_network_on_their_mean_so_far(axis):
    x = jax.random.normal(jax.random.key(5), (STEPS, 12, 6))
    snn, given = converted(2.0, gs.group_neuron(4), time_axes=axis), jnp.moveaxis(x, 0, axis)
    found = gs.verify(ann, snn, [given[:7], given[7:]] if axis else [given[:, :7], given[:, 7:]])
    count = jnp.arange(1.0, STEPS + 1).reshape(-1, 1, 1)
    right, mean = ann(jnp.cumsum(x, 0) / count), jnp.cumsum(snn(given), 0) / count
    error = np.linalg.norm(mean - right, axis=(1, 2)) / np.linalg.norm(right, axis=(1, 2))
    np.testing.assert_allclose(found.error, error, rtol=1e-4)
    np.testing.assert_allclose(found.agreement, (mean.argmax(-1) == right.argmax(-1)).mean(-1))
    np.testing.assert_allclose(found.sites[0].error, found.sites[0].alone, rtol=1e-4)
