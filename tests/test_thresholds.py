"""Thresholds found from data: what each rule promises, streaming, and what networks make of them."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gnsnn_jax as gs
from gnsnn_jax.conversion.find_thresholds import SILENT
from gnsnn_jax.method.threshold_rules import (
    BINS,
    RULES,
    Rule,
    balance,
    least_error,
    least_squares_threshold,
    ltb,
    percentile,
    squared_error,
)

LEVELS = 8


def normal(seed, shape, mean=0.0, deviation=1.0):
    return np.random.default_rng(seed).normal(mean, deviation, shape).astype(np.float32)


def found_by(rule, batches):
    state, update = rule.start(batches[0].shape[1]), jax.jit(rule.update)
    for batch in batches:
        state = update(state, jnp.asarray(batch))
    return np.asarray(rule.threshold(state))


# The rules.


@pytest.mark.parametrize("name", RULES)
def test_thresholds_scale_with_the_currents_and_know_no_order_of_samples(name):
    rule, x = RULES[name](LEVELS), normal(0, (3, 400, 2), 0.5)
    expected = found_by(rule, list(x))
    np.testing.assert_allclose(found_by(rule, list(4 * x)), 4 * expected, rtol=1e-4)
    shuffled = np.random.default_rng(1).permutation(x, axis=1)
    np.testing.assert_allclose(found_by(rule, list(shuffled)), expected, rtol=1e-4)


@pytest.mark.parametrize("name", ["max", "percentile", "mse"])
def test_batches_one_after_the_other_count_as_one(name):
    rule, x = RULES[name](LEVELS), normal(2, (1000, 3), [-1.0, 0.0, 2.0], [0.5, 1.0, 30.0])
    parts = [x[:100], x[100:107], x[107:]]
    whole = found_by(rule, [x])
    np.testing.assert_allclose(found_by(rule, parts), whole, rtol=1e-3)
    np.testing.assert_allclose(found_by(rule, parts[::-1]), whole, rtol=1e-3)


@pytest.mark.parametrize("percent", [90.0, 99.9, 100.0])
def test_percentiles_are_exact_to_a_bin_whatever_the_range(percent):
    scales = np.asarray([1e-6, 0.3, 1.0, 7.0, 1e6], np.float32)
    growths = np.repeat(np.asarray([0.1, 1.0, 3.0, 1000.0], np.float32), len(scales))
    first = normal(11, (500, len(growths)))
    batches = [np.tile(scales, 4) * first, np.tile(scales, 4) * growths * first[::-1]]
    values = np.sort(np.maximum(np.concatenate(batches), 0), 0)
    below, above = (values[int(rounded(percent / 100 * 999))] for rounded in (np.floor, np.ceil))
    width, found = 2 * values[-1] / BINS, found_by(percentile(percent), batches)
    assert ((below - width <= found) & (found <= above + width)).all()


def test_percentiles_of_rare_activations_are_unknown():
    x = np.where(np.arange(2000) == 7, 1, -1).astype(np.float32).reshape(2000, 1)
    assert found_by(percentile(), [x]) == 0
    (found,) = gs.find_thresholds(lambda x: nn.relu(x @ jnp.eye(1)), [x], LEVELS, method="percentile").values()
    assert found == 1


def error(theta, mean, deviation, levels):
    """The mean squared error of quantising a normal variable, summed on a fine grid."""
    x = np.linspace(mean - 7 * deviation, mean + 7 * deviation, 8001)
    density = np.exp(-(((x - mean) / deviation) ** 2) / 2)
    unit = theta / levels
    quantised = unit * np.clip(np.floor(x / unit + 0.5), 0, levels)
    return ((np.maximum(x, 0) - quantised) ** 2 * density).sum() / density.sum()


@pytest.mark.parametrize("levels", [1, 2, 4, 16, 64, 256])
@pytest.mark.parametrize(("mean", "deviation"), [(0, 1), (1, 1), (-3, 1), (3, 0.5), (10, 0.5), (0.2, 3)])
def test_the_least_squares_threshold_is_that_of_a_grid_search(mean, deviation, levels):
    found = float(least_squares_threshold(jnp.float32(mean), jnp.float32(deviation), levels))
    top = max(mean, 0) + 7 * deviation
    best = min(error(theta, mean, deviation, levels) for theta in np.linspace(0.02 * top, top, 400))
    assert error(found, mean, deviation, levels) <= 1.005 * best


def test_the_least_squares_threshold_stays_under_the_published_iteration():
    mean, deviation, n = 0.7, 1.3, 6
    theta = float(least_squares_threshold(jnp.float32(mean), jnp.float32(deviation), n))
    i = np.arange(1, n + 1)
    c = (2 * i - 1) * theta / (2 * n)
    e = np.asarray(jax.scipy.special.erf(jnp.asarray((c - mean) / (np.sqrt(2) * deviation), jnp.float32)))
    g = np.exp(-((c - mean) ** 2) / (2 * deviation**2))
    factor = mean / theta * (1 - e.mean()) + deviation / theta * np.sqrt(2 / np.pi) * g.mean()
    assert factor / (1 - ((2 * i - 1) * e).sum() / n**2) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("levels", [1, 4, 16])
@pytest.mark.parametrize("draw", ["normal", "laplace", "chisquare"])
def test_the_least_error_of_what_was_seen_is_that_of_a_grid_search(draw, levels):
    random = np.random.default_rng(5)
    x = getattr(random, draw)(**({"df": 0.3} if draw == "chisquare" else {}), size=(4000, 1)).astype(np.float32)
    values = np.maximum(x, 0)

    def error_of(theta):
        unit = theta / levels
        return ((values - unit * np.clip(np.floor(values / unit + 0.5), 0, levels)) ** 2).mean()

    found = found_by(least_error(levels), [x[:100], x[100:]])
    best = min(map(error_of, np.geomspace(0.01, 1, 400) * values.max()))
    assert error_of(found) <= 1.02 * best


def test_encoders_of_a_softmax_keep_the_large_shares():
    """Most are small and a few are 1; a normal distribution would cut these off."""
    scores = normal(6, (4, 200, 16), 0, 3.0)
    one, two = jnp.eye(16), jnp.ones((16, 2))
    read = lambda x: jax.nn.softmax(x @ one) @ two
    (found,) = gs.find_thresholds(read, list(scores), 16).values()
    shares = np.asarray(jax.nn.softmax(scores))
    quantised = np.clip(np.floor(shares / (found / 16) + 0.5), 0, 16) * found / 16
    assert 0.8 < found <= shares.max()
    assert np.linalg.norm(quantised - shares) < 0.1 * np.linalg.norm(shares)


def test_balancing_never_passes_the_largest_value_and_cuts_off_ever_less():
    x = normal(3, (64, 500, 2), 0.5)
    after = [found_by(balance(), list(x[:count])) for count in (1, 4, 16, 64)]
    assert (np.diff(after, axis=0) > 0).all()
    assert (after[-1] < x.max((0, 1))).all()
    assert (np.mean(x > after[-1], axis=(0, 1)) < 0.01).all()
    one = 0.5 * 2 * np.maximum(x[0], 0).mean(0)
    np.testing.assert_allclose(found_by(balance(rounds=1), [x[0]]), one, rtol=1e-5)
    two = one + 0.25 * 2 * np.maximum(x[1] - one, 0).mean(0)
    np.testing.assert_allclose(found_by(balance(0.25, 1), [2 * x[0], x[1]]), two, rtol=1e-5)


def test_ltb_is_the_loop_of_its_authors():
    x = np.abs(normal(9, (30, 200, 3), 0.2, [0.5, 1.0, 4.0]))
    theta = np.zeros(3)
    for batch in x:
        for column in range(3):
            raised = sum(2 * (value - theta[column]) for value in batch[:, column] if value > theta[column])
            theta[column] += raised / len(batch)
    np.testing.assert_allclose(found_by(ltb(), list(x)), theta, rtol=1e-4)
    more = found_by(ltb(), list(x) * 5)
    assert (more > theta).all()
    with pytest.raises(gs.InputError, match="rate of balancing must be positive"):
        ltb(0.0)


def signed_error(theta, mean, deviation, levels):
    x = np.linspace(mean - 7 * deviation, mean + 7 * deviation, 8001)
    density, unit = np.exp(-(((x - mean) / deviation) ** 2) / 2), theta / levels
    return ((x - unit * np.clip(np.floor(x / unit + 0.5), -levels, levels)) ** 2 * density).sum() / density.sum()


@pytest.mark.parametrize("levels", [1, 4, 16])
@pytest.mark.parametrize(("mean", "deviation"), [(0, 1), (1, 1), (-3, 1), (0.2, 3)])
def test_the_signed_least_squares_threshold_is_that_of_a_grid_search(mean, deviation, levels):
    found = float(least_squares_threshold(jnp.float32(mean), jnp.float32(deviation), levels, -levels))
    top = abs(mean) + 7 * deviation
    best = min(signed_error(theta, mean, deviation, levels) for theta in np.linspace(0.02 * top, top, 400))
    assert signed_error(found, mean, deviation, levels) <= 1.005 * best


@pytest.mark.parametrize("lowest", [0, -3, -6])
def test_thresholds_stay_under_the_published_iteration_of_any_range(lowest):
    mean, deviation, n = 0.7, 1.3, 6
    theta = float(least_squares_threshold(jnp.float32(mean), jnp.float32(deviation), n, lowest))
    i = np.arange(lowest + 1, n + 1)
    c = (2 * i - 1) * theta / (2 * n)
    e = np.asarray(jax.scipy.special.erf(jnp.asarray((c - mean) / (np.sqrt(2) * deviation), jnp.float32)))
    g = np.exp(-((c - mean) ** 2) / (2 * deviation**2))
    factor = mean * (lowest + n - e.sum()) + deviation * np.sqrt(2 / np.pi) * g.sum()
    assert factor * n / theta / (lowest**2 + n**2 - ((2 * i - 1) * e).sum()) == pytest.approx(1, abs=1e-4)


def test_encoders_get_the_signed_iteration_where_it_is_asked_for():
    x = normal(8, (2, 300, 4))
    one, two = jnp.eye(4), jnp.ones((4, 2))
    read = lambda x: jnp.tanh(x @ one) @ two
    (found,) = gs.find_thresholds(read, list(x), 8, method=squared_error(8, signed=True)).values()
    deviation = jnp.sqrt((jnp.tanh(x) ** 2).mean())
    expected = least_squares_threshold(jnp.float32(0), deviation, 8, -8)
    np.testing.assert_allclose(found, jnp.minimum(expected, jnp.tanh(x).max()), rtol=1e-3)


# Networks.


class Network(nn.Module):
    """A convolution and two dense layers, with a ReLU, a clip and another ReLU."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(4, (3, 3), name="conv")(x))
        x = nn.relu6(nn.Dense(5, name="dense")(x.mean((-3, -2))))
        return nn.relu(nn.Dense(3, name="head")(x))


@pytest.fixture(scope="module")
def network():
    model, images = Network(), normal(4, (5, 8, 6, 6, 2))
    return model, jax.jit(model.init)(jax.random.key(0), images[0]), images


def activations(model, variables, images):
    """The currents of each activation, from the network's own intermediate values."""
    apply = lambda x: model.apply(variables, x, capture_intermediates=True)[1]["intermediates"]
    inner = apply(images.reshape(-1, *images.shape[2:]))
    return {
        name: np.asarray(inner[layer]["__call__"][0])
        for name, layer in [("relu", "conv"), ("clip", "dense"), ("relu#2", "head")]
    }


@partial(jax.jit, static_argnums=0)
def spiking_rate(model, thresholds, variables, images):
    snn = gs.to_spiking(model.apply, gs.group_neuron(LEVELS), steps=8, thresholds=thresholds)
    return snn(variables, images).mean(0)


@pytest.mark.slow
@pytest.mark.parametrize("method", RULES)
@pytest.mark.parametrize("per_channel", [False, True])
def test_thresholds_fit_the_network_they_were_found_for(network, method, per_channel):
    model, variables, images = network
    batches = iter([*images] * (80 if method == "ltb" else 4))
    found = gs.find_thresholds(
        model.apply, batches, LEVELS, method=method, per_channel=per_channel, variables=variables
    )
    assert list(found) == [site.name for site in gs.sites(model.apply, variables, images[0])]
    shapes = [(4,), (5,), (3,)] if per_channel else [()] * 3
    assert [(theta.shape, theta.dtype) for theta in found.values()] == [(shape, jnp.float32) for shape in shapes]
    if method == "max":
        for name, current in activations(model, variables, images).items():
            axes = tuple(range(current.ndim - per_channel))
            largest = np.maximum(current, 0).max(axes)
            np.testing.assert_allclose(found[name], np.where(largest > 0, largest, largest.max()), rtol=1e-5)
    expected = np.asarray(model.apply(variables, images[0]))
    rate = np.asarray(spiking_rate(model, found, variables, images[0]))
    assert np.linalg.norm(rate - expected) < 0.15 * np.linalg.norm(expected)


def test_closed_over_weights_and_several_arguments_give_the_same(network):
    model, variables, images = network
    find = partial(gs.find_thresholds, method="max")
    expected = find(model.apply, images, LEVELS, variables=variables)
    closed = find(lambda x: model.apply(variables, x), images, LEVELS)
    two = lambda variables, x, shift: model.apply(variables, x + shift)
    pairs = ((x - 1, np.float32(1)) for x in images)
    several = find(two, pairs, LEVELS, variables=variables)
    jax.tree.map(lambda a, b, c: np.testing.assert_allclose([a, b], c, rtol=1e-4), closed, several, expected)


def test_any_number_of_batches_compiles_once_and_none_is_kept(network):
    model, variables, images = network
    traces, alive = [], []

    def ann(x):
        traces.append(1)
        return model.apply(variables, x)

    def batches():
        import gc
        import weakref

        for _ in range(4):
            batch = np.array(images[0])
            alive.append(weakref.ref(batch))
            yield batch
            del batch
            gc.collect()
            assert sum(reference() is not None for reference in alive) <= 2

    gs.find_thresholds(ann, batches(), LEVELS, method="max")
    assert len(traces) == 2  # to find the names, and to compile


def test_thresholds_survive_a_file(network, tmp_path):
    model, variables, images = network
    found = gs.find_thresholds(model.apply, images, LEVELS, method="max", per_channel=True, variables=variables)
    np.savez(tmp_path / "thresholds.npz", **found)
    with np.load(tmp_path / "thresholds.npz") as loaded:
        snn = lambda thresholds: gs.to_spiking(model.apply, gs.group_neuron(4), steps=2, thresholds=thresholds)
        assert snn(dict(loaded)) == snn(found)


def test_channels_first_have_their_axis():
    weights = normal(5, (4, 2, 1, 1))

    def ann(x):
        x = nn.relu(jax.lax.conv_general_dilated(x, weights, (1, 1), "SAME"))
        return nn.relu(x.mean((-2, -1)) @ jnp.eye(4))

    x = normal(6, (8, 2, 6, 6))
    found = gs.find_thresholds(ann, [x], LEVELS, method="max", per_channel=True, channel_axis=-3)
    assert [theta.shape for theta in found.values()] == [(4, 1, 1), (4,)]
    currents = np.asarray(jax.lax.conv_general_dilated(x, weights, (1, 1), "SAME"))
    (first, _) = found.values()
    np.testing.assert_allclose(first.reshape(4), currents.max((0, 2, 3)), rtol=1e-5)
    convert = lambda ann: gs.to_spiking(ann, gs.group_neuron(4), steps=1, thresholds=found)
    of_one = lambda x: ann(x[None])[0]
    np.testing.assert_allclose(jax.vmap(convert(of_one))(x)[:, 0], convert(ann)(x)[0], atol=1e-5)


def test_silent_channels_get_a_neighbours_threshold_and_silent_activations_one():
    ann = lambda x: nn.relu(nn.relu(x @ np.diag([1.0, -1.0, 2.0]).astype(np.float32)) @ -jnp.eye(3))
    x = np.abs(normal(7, (16, 3))) + 0.1
    for method in RULES:
        first, second = gs.find_thresholds(ann, [x], LEVELS, method=method, per_channel=True).values()
        assert first[1] == max(first[0], first[2])
        np.testing.assert_array_equal(second, np.full(3, SILENT))


def test_qcfs_keeps_its_threshold_and_shapes_what_comes_behind_it():
    weights = np.eye(3, dtype=np.float32)
    ann = lambda x: nn.relu(gs.qcfs(x @ weights, 2.0, 1) @ (3 * weights))
    x = normal(8, (64, 3), 2.0)
    (found,) = gs.find_thresholds(ann, [x], LEVELS, method="max").values()
    assert found == 6


def test_clips_are_seen_as_the_network_cuts_them():
    ann = lambda x: jnp.clip(x @ jnp.eye(3), 0, 1.5)
    (found,) = gs.find_thresholds(ann, [normal(9, (64, 3), 2.0)], LEVELS, method="max").values()
    assert found == 1.5


def test_balancing_shows_later_layers_what_earlier_ones_cut_off():
    ann = lambda x: nn.relu(nn.relu(x @ jnp.eye(1)) @ (2 * jnp.eye(1)))
    x = np.abs(normal(10, (512, 1)))
    first, second = gs.find_thresholds(ann, [x] * 3, LEVELS, method="balance").values()
    assert first < x.max()
    assert second <= 2 * first


# What a threshold never exceeds, and what it does not depend on.


def last(state, x):
    return x[-1] * 0 + 1e6


GREEDY = Rule(lambda count: jnp.zeros(count), last, lambda state: state)  # a user's own, far too high
LIMITING = GREEDY._replace(limits=True)


def any_rule(name):
    return {"greedy": GREEDY, "limiting": LIMITING}.get(name, name)


@pytest.mark.slow
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("method", [*RULES, "greedy", "limiting"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_no_threshold_exceeds_the_largest_current_or_a_bound_of_its_own(method, per_channel, dtype):
    for seed in range(2):
        draw = np.random.default_rng(seed)
        weights = jnp.asarray(draw.normal(0, 3, (4, 5)) - [0, 0, 0, 0, 30], dtype)  # the last channel is silent
        bound = jnp.asarray([draw.uniform(0.2, 2), draw.uniform(0.2, 2, (1, 5))][seed % 2], dtype)
        x = jnp.asarray(np.abs(draw.normal(0, 1, (2, 16, 4))), dtype)

        def ann(variables, x):
            hidden = jnp.clip(x @ variables["weights"], 0, variables["bound"])
            return nn.relu(hidden @ variables["weights"].T)

        variables = {"weights": weights, "bound": bound}
        options = {"method": any_rule(method), "per_channel": per_channel, "variables": variables}
        first, second = gs.find_thresholds(ann, x, LEVELS, **options).values()
        axes = (0, 1) if per_channel else None
        assert (first <= np.float32(bound if per_channel else bound.max()).reshape(-1)).all()
        assert (first > 0).all()
        assert (second > 0).all()
        currents = x @ weights
        cut = np.float32(jnp.minimum(currents, jnp.broadcast_to(bound, currents.shape)))
        heard = cut.max(axes) > 0
        assert np.where(heard, first <= cut.max(axes) + 1e-6, True).all()
        hidden = jnp.maximum(jnp.asarray(cut, dtype), 0)
        most = np.float32(hidden @ weights.T).max(axes)
        if method not in ("balance", "limiting"):  # which show the second layer less
            assert (second <= np.where(most > 0, most * 1.01, most.max() * 1.01 + 1)).all()


def test_a_clip_behind_large_weights_gets_no_more_than_its_bound():
    ann = lambda x: jnp.clip(x @ (3 * jnp.eye(4)), 0, 1.0)
    (found,) = gs.find_thresholds(ann, [normal(12, (64, 4))], LEVELS).values()
    assert found <= 1


@pytest.mark.parametrize("bound", [0.25, np.asarray([[2.0, 0.25]], np.float32)])
def test_silent_clips_keep_to_their_bounds(bound):
    ann = lambda x: jnp.clip(x @ np.diag([1.0, -1.0]).astype(np.float32), 0, bound)
    (found,) = gs.find_thresholds(ann, [np.abs(normal(13, (64, 2)))], LEVELS, method="max", per_channel=True).values()
    assert found[1] == 0.25


@pytest.mark.slow
@pytest.mark.parametrize("method", RULES)
@pytest.mark.parametrize("spread", [0.0, 1.0, 60.0])
def test_channels_far_below_0_raise_no_threshold(method, spread):
    for seed in range(3):
        draw = np.random.default_rng(seed)
        live = draw.normal(0, 1, (3, 4)).astype(np.float32)
        dead = (spread * draw.normal(0, 0.1, (3, 7))).astype(np.float32)
        x = draw.normal(0.3, 1, (2, 64, 3)).astype(np.float32)
        find = lambda weights, shift, x=x: gs.find_thresholds(
            lambda x: nn.relu(x @ weights + shift), x, LEVELS, method=method
        ).popitem()[1]
        alone = find(live, np.zeros((1, 4), np.float32))
        shift = np.repeat(np.float32([[0, -100]]), [4, 7], axis=1)
        among = find(np.concatenate([live, dead], 1), shift)
        assert among <= alone * 1.001
        if method in ("mse", "max"):
            np.testing.assert_allclose(among, alone, rtol=1e-3)


def test_channels_that_are_all_heard_share_the_threshold_of_all_currents_as_one_column():
    x = normal(18, (256, 3), [0.0, 1.0, -0.5], [1.0, 0.3, 2.0])
    shared = gs.find_thresholds(lambda x: nn.relu(x @ jnp.eye(3)), [x[:90], x[90:]], LEVELS).popitem()[1]
    np.testing.assert_allclose(shared, found_by(squared_error(LEVELS), [x.reshape(-1, 1)])[0], rtol=1e-3)


def test_one_channel_alone_has_the_threshold_it_would_share():
    x = normal(14, (256, 1), 0.4)
    options = [{}, {"per_channel": True}]
    shared, own = (
        gs.find_thresholds(lambda x: nn.relu(x @ jnp.eye(1)), [x], LEVELS, **each).popitem()[1] for each in options
    )
    np.testing.assert_allclose(shared, own[0], rtol=1e-5)


@pytest.mark.parametrize("method", RULES)
def test_batches_of_other_sizes_and_currents_without_axes_find_thresholds(method):
    weights = normal(15, (3,), 1.0)
    grown = lambda x: nn.relu(jax.lax.conv_general_dilated(x, jnp.ones((4, 2, 1, 1)), (1, 1), "SAME"))
    sizes = [normal(16, (4, 2, 5, size), 0.5) for size in (5, 7, 5)]
    for channel_axis in (-1, -3):
        (found,) = gs.find_thresholds(grown, sizes, LEVELS, method=method, channel_axis=channel_axis).values()
        assert 0 < found <= max(float(grown(x).max()) for x in sizes) * 1.001
    for per_channel in (False, True):
        single = lambda x: nn.relu(x @ weights)
        (found,) = gs.find_thresholds(
            single, list(np.abs(normal(17, (9, 3)))), LEVELS, method=method, per_channel=per_channel
        ).values()
        assert found.shape == ()
        assert found > 0


# Refusals.


@pytest.mark.usefixtures("unchecked")
def test_bad_input_is_explained(network):
    model, variables, images = network
    refused = lambda match: pytest.raises(gs.InputError, match=match)
    find = lambda batches=images, levels=LEVELS, **options: gs.find_thresholds(
        model.apply, batches, levels, variables=variables, **options
    )
    with refused("unknown method 'msa'.* did you mean 'mse'"):
        find(method="msa")
    with refused("unknown method <function .* and any Rule$"):
        find(method=percentile)
    with refused("levels must be at least 1, got 0"):
        find(levels=0)
    with refused("at least one batch"):
        find(batches=[])
    with refused(r"empty array of shape \(0, 6, 6, 2\)"):
        find(batches=[images[0][:0]])
    with refused("channel_axis counts from the right"):
        find(per_channel=True, channel_axis=1)
    with refused("currents of 'relu' hold NaN"):
        find(batches=[np.where(images[0] > 2, np.nan, images[0])])
    with refused("found no ReLU or clip"):
        gs.find_thresholds(lambda x: gs.qcfs(x, 1.0, 4), [images[0]], LEVELS)
    with refused("percentile must be above 0"):
        percentile(0)
    with refused("rate of balancing must be positive"):
        balance(0.0)
    with refused("levels must be at least 1"):
        squared_error(0)


@pytest.mark.parametrize(
    ("seed", "method", "levels", "per_channel"),
    [(0, "max", 2, False), (1, "percentile", 5, False), (2, "max", 5, True)],
)
def test_quantised_layers_pass_on_their_levels(seed, method, levels, per_channel):
    """The second layer gets the threshold that it has behind a QCFS with that of the first."""
    keys = jax.random.split(jax.random.key(seed), 3)
    x, first, second = (
        jax.random.normal(key, shape) for key, shape in zip(keys, [(64, 6), (6, 5), (5, 4)], strict=True)
    )
    find = lambda net, **more: gs.find_thresholds(net, [x], levels, method=method, per_channel=per_channel, **more)
    found = find(lambda x: nn.relu(nn.relu(x @ first) @ second), quantised=True)
    theta, behind = found.values()
    (expected,) = find(lambda x: nn.relu(gs.qcfs(x @ first, theta, levels) @ second)).values()
    np.testing.assert_allclose(behind, expected, rtol=1e-5)


@pytest.mark.parametrize("quantised", [False, True])
def test_channels_without_a_positive_current_pass_on_nothing(quantised):
    """Whether what lies behind sees currents cut off or quantised."""
    x, weights = np.abs(normal(0, (64, 6))), np.abs(normal(1, (6, 5)))
    weights[:, 2] *= -1
    second = normal(2, (5, 4))
    find = lambda second: gs.find_thresholds(
        lambda x: nn.relu(nn.relu(x @ weights) @ second),
        [x],
        3,
        method=Rule(*RULES["max"](3)[:3], limits=True),
        per_channel=True,
        quantised=quantised,
    )
    of_silent = np.zeros_like(second)
    of_silent[2] = second[2]
    with_it, without_it = list(find(second).values())[1], list(find(second - of_silent).values())[1]
    np.testing.assert_array_equal(with_it, without_it)
