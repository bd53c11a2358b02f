import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import dyadic, levels, seeds, shapes, thresholds_for
from hypothesis import given
from hypothesis import strategies as st

import gnsnn_jax as gs


def naive_qcfs(x, threshold, levels):
    unit = np.float64(threshold) / levels
    return unit * np.clip(np.floor((np.float64(x) + unit / 2) / unit), 0, levels)


@given(shapes, levels.flatmap(lambda n: st.tuples(st.just(n), thresholds_for(n))), seeds)
def test_qcfs_is_its_equation(shape, case, seed):
    levels, threshold = case
    x = dyadic(seed, shape, -threshold, 2 * threshold)
    np.testing.assert_array_equal(gs.qcfs(x, threshold, levels), naive_qcfs(x, threshold, levels))


@given(shapes, levels, seeds)
def test_qcfs_is_the_shifted_staircase(shape, levels, seed):
    x, unit = dyadic(seed, shape), 0.5
    np.testing.assert_array_equal(gs.qcfs(x, unit * levels, levels), gs.staircase(x + unit / 2, unit, levels))


@given(st.sampled_from([0.3, 0.7, 3.3, 41.0, 47.0, 49.0]), levels)
def test_a_value_on_a_step_is_on_that_step(unit, levels):
    # Where XLA computes x / unit as x * (1 / unit), floor(41 / 41) is 0.
    unit = jnp.float32(unit)
    steps = jnp.arange(12.0)
    for staircase in (gs.staircase, jax.jit(gs.staircase, static_argnums=2)):
        found = staircase(steps * unit, unit, levels)
        np.testing.assert_array_equal(found, jnp.minimum(steps, levels) * unit)
        below = staircase(jnp.nextafter(steps[1:] * unit, 0.0), unit, levels)
        np.testing.assert_array_equal(below, jnp.minimum(steps[:-1], levels) * unit)


@pytest.mark.parametrize("threshold", [1.0, 0.7, 3.0])
@pytest.mark.parametrize("levels", [1, 3, 4, 8])
def test_gradients_at_and_between_the_edges(threshold, levels):
    theta = jnp.float32(threshold)
    edges = [0.0, float(theta)]
    ties = [(k + 0.5) * threshold / levels for k in range(levels)]
    x = jnp.asarray([-1.0, *edges, *ties, 0.31 * threshold, 1.01 * threshold, 9.0], jnp.float32)
    y = gs.qcfs(x, theta, levels)
    by_x, by_theta = jax.vmap(jax.grad(lambda x, t: gs.qcfs(x, t, levels), argnums=(0, 1)), (0, None))(x, theta)
    inside = (x >= 0) & (x <= theta)
    np.testing.assert_array_equal(by_x, inside.astype(jnp.float32))
    expected = jnp.where(x > theta, 1.0, jnp.where(x < 0, 0.0, y / theta - x / theta))
    np.testing.assert_allclose(by_theta, expected, atol=1e-6)


def test_surrogate_of_a_spike_is_a_rectangle_around_the_threshold():
    x = jnp.asarray([0.24, 0.25, 0.5, 0.75, 0.76])
    slope = jax.vmap(jax.grad(lambda x: gs.staircase(x, 0.5, 1)))(x)
    np.testing.assert_array_equal(slope, [0, 1, 1, 1, 0])


def test_per_channel_thresholds_get_per_channel_gradients():
    x, theta = dyadic(0, (5, 4, 3)), jnp.asarray([0.5, 1.0, 2.0])
    np.testing.assert_array_equal(
        gs.qcfs(x, theta, 4), jnp.stack([gs.qcfs(x[..., c], theta[c], 4) for c in range(3)], -1)
    )
    gradient = jax.grad(lambda t: gs.qcfs(x, t, 4).sum())(theta)
    single = [jax.grad(lambda t, c=c: gs.qcfs(x[..., c], t, 4).sum())(theta[c]) for c in range(3)]
    np.testing.assert_allclose(gradient, single, rtol=1e-5)


@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0), (2, 0), (1, None)])
def test_vmap_over_values_thresholds_and_both(axes):
    x, theta = dyadic(1, (3, 3, 3)), jnp.asarray([0.5, 1.0, 1.5])
    theta = theta if axes[1] is not None else theta[0]
    found = jax.vmap(lambda x, t: gs.qcfs(x, t, 4), axes)(x, theta)
    for i in range(3):
        one = x if axes[0] is None else jnp.take(x, i, axes[0])
        np.testing.assert_array_equal(found[i], gs.qcfs(one, theta[i] if axes[1] == 0 else theta, 4))


def test_half_precision_is_computed_in_single():
    x = dyadic(2, (200,)).astype(jnp.bfloat16)
    found = gs.qcfs(x, 0.7, 3)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found, gs.qcfs(x.astype(jnp.float32), 0.7, 3).astype(jnp.bfloat16))


def test_qcfs_lowers_for_every_platform():
    shape = jax.ShapeDtypeStruct((2, 3), jnp.float32)
    exported = jax.export.export(jax.jit(lambda x: gs.qcfs(x, 1.0, 4)), platforms=("cpu", "cuda", "tpu"))(shape)
    assert exported.platforms == ("cpu", "cuda", "tpu")


# QCFS with noise in place of rounding.


@given(shapes, levels, seeds)
def test_noisy_qcfs_is_its_equation(shape, levels, seed):
    x, theta, key = dyadic(seed, shape, -2.0, 3.0), jnp.float32(1.5), jax.random.key(seed)
    noise = np.asarray(jax.random.uniform(key, shape, minval=-0.5, maxval=0.5), np.float64)
    unit = 1.5 / levels
    expected = unit * np.clip(np.asarray(x, np.float64) / unit + noise, 0, levels)
    np.testing.assert_allclose(gs.noisy_qcfs(x, theta, levels, key), expected, atol=1e-6)


@pytest.mark.parametrize("levels", [1, 4])
def test_the_mean_over_the_noise_is_the_clip_and_smooth_within_half_a_unit_of_its_edges(levels):
    theta, count = 2.0, 20_000
    unit = theta / levels
    x = jnp.linspace(-unit, theta + unit, 13, dtype=jnp.float32)
    keys = jax.random.split(jax.random.key(0), count)
    found = jax.vmap(lambda key: gs.noisy_qcfs(x, theta, levels, key))(keys).mean(0)
    if levels > 1:
        inside = (x >= unit / 2) & (x <= theta - unit / 2)
        assert inside.sum() > 5
        np.testing.assert_allclose(found[inside], x[inside], atol=0.01)
    over = lambda value: np.clip(np.asarray(value) + unit / 2, 0, unit) ** 2 / (2 * unit)  # the mean of max(x + e u, 0)
    above = lambda value: over(value) + np.maximum(np.asarray(value) - unit / 2, 0)
    np.testing.assert_allclose(found, above(x) - above(x - theta), atol=0.01)


@pytest.mark.parametrize("levels", [1, 3, 8])
def test_gradients_of_noisy_qcfs_are_those_of_its_own_formula(levels):
    theta = jnp.float32(0.75)
    unit = theta / levels
    key = jax.random.key(3)
    noise = jax.random.uniform(key, (), minval=-0.5, maxval=0.5)
    # Where noise moves a value onto an edge, to the last bit, both sides of it count as inside.
    x = jnp.asarray([-1.0, 0.1, 0.5, 0.7, 2.0], jnp.float32)
    one = lambda x, t: gs.noisy_qcfs(x, t, levels, key)
    by_x, by_theta = jax.vmap(jax.grad(one, argnums=(0, 1)), (0, None))(x, theta)
    noisy = x + noise * unit
    inside = (noisy >= 0) & (noisy <= theta)
    np.testing.assert_array_equal(by_x, inside.astype(jnp.float32))
    expected = jnp.where(noisy > theta, 1.0, jnp.where(noisy < 0, 0.0, noise / levels))
    np.testing.assert_allclose(by_theta, expected, atol=1e-6)


def test_the_edges_of_noisy_qcfs_are_inside(monkeypatch):
    monkeypatch.setattr(jax.random, "uniform", lambda key, shape, dtype, low, high: jnp.zeros(shape, dtype))
    one = lambda x, t: gs.noisy_qcfs(x, t, 4, jax.random.key(0))
    by_x, by_theta = jax.vmap(jax.grad(one, argnums=(0, 1)), (0, None))(jnp.asarray([0.0, 2.0]), jnp.float32(2.0))
    np.testing.assert_array_equal(by_x, [1, 1])
    np.testing.assert_array_equal(by_theta, [0, 0])


def test_noisy_qcfs_takes_thresholds_by_channel_and_computes_in_single():
    x, theta, key = dyadic(5, (40, 3)), jnp.asarray([0.5, 1.0, 2.0]), jax.random.key(1)
    y = gs.noisy_qcfs(x, theta, 4, key)
    assert (y.max(0) <= theta).all()
    assert (y.max(0) == theta).any()
    half = gs.noisy_qcfs(x.astype(jnp.bfloat16), theta, 4, key)
    np.testing.assert_array_equal(
        half, gs.noisy_qcfs(x.astype(jnp.bfloat16).astype(jnp.float32), theta, 4, key).astype(jnp.bfloat16)
    )


# The clip at a learned threshold.


@pytest.mark.parametrize("threshold", [1.0, 0.7, 3.0])
def test_gradients_of_the_clip_at_and_between_its_edges(threshold):
    theta = jnp.float32(threshold)
    above = jnp.nextafter(theta, jnp.float32(9))
    x = jnp.stack([jnp.float32(-1), -jnp.float32(1e-6), jnp.float32(0), 0.4 * theta, theta, above, 2 * theta])
    np.testing.assert_array_equal(gs.clip(x, theta), np.clip(x, 0, theta))
    by_x, by_theta = jax.vmap(jax.grad(gs.clip, argnums=(0, 1)), (0, None))(x, theta)
    np.testing.assert_array_equal(by_x, [0, 0, 1, 1, 1, 0, 0])
    np.testing.assert_array_equal(by_theta, [0, 0, 0, 0, 0, 1, 1])


def test_the_clip_is_qcfs_of_ever_more_levels():
    x, theta = jnp.linspace(-1, 3, 401), jnp.float32(1.5)
    for count in (2, 16, 128):
        distance = jnp.abs(gs.qcfs(x, theta, count) - gs.clip(x, theta)).max()
        assert 0.4 * theta / (2 * count) < distance <= 1.001 * theta / (2 * count)


def test_the_clip_vmaps_and_lowers_for_every_platform():
    x, theta = dyadic(1, (3, 4)), jnp.asarray([0.5, 1.0, 1.5])
    found = jax.vmap(gs.clip)(x, theta)
    np.testing.assert_array_equal(found, np.clip(x, 0, theta[:, None]))
    shape = jax.ShapeDtypeStruct((2, 3), jnp.float32)
    exported = jax.export.export(jax.jit(lambda x: gs.clip(x, 1.0)), platforms=("cpu", "cuda", "tpu"))(shape)
    assert exported.platforms == ("cpu", "cuda", "tpu")


def test_a_clip_converts_with_its_own_threshold_wherever_it_stands():
    weights, theta = jnp.eye(3), jnp.asarray([0.5, 1.0, 2.0])
    ann = lambda x: gs.clip(x, theta) @ weights
    x = dyadic(3, (5, 3), -1.0, 3.0)
    (site,) = gs.sites(ann, x)
    assert site.kind == "qcfs"
    np.testing.assert_array_equal(site.threshold, theta[None])
    rate = gs.to_spiking(ann, gs.group_neuron(8), steps=4)(x).mean(0)
    np.testing.assert_allclose(rate, gs.qcfs(x, theta, 32), atol=1e-6)


@pytest.mark.usefixtures("unchecked")
def test_bad_input_of_the_training_activations_is_explained():
    x, key = jnp.ones((2, 3)), jax.random.key(0)
    with pytest.raises(gs.InputError, match="levels must be at least 1, got 0"):
        gs.noisy_qcfs(x, 1.0, 0, key)
    for activation in (lambda x, t: gs.noisy_qcfs(x, t, 4, key), gs.clip):
        with pytest.raises(gs.InputError, match=r"threshold of shape \(2,\) does not broadcast .*\(2, 3\)"):
            activation(x, jnp.ones(2))
        with pytest.raises(TypeError, match="x must be floating point, got int32"):
            activation(jnp.ones(3, jnp.int32), 1.0)


@pytest.mark.usefixtures("unchecked")
def test_bad_input_is_explained():
    x = jnp.ones((2, 3))
    with pytest.raises(gs.InputError, match="levels must be at least 1, got 0"):
        gs.qcfs(x, 1.0, 0)
    with pytest.raises(TypeError, match=r"levels must be an integer, got 2\.5"):
        gs.qcfs(x, 1.0, 2.5)
    with pytest.raises(gs.InputError, match=r"threshold of shape \(2,\) does not broadcast .*\(2, 3\)"):
        gs.qcfs(x, jnp.ones(2), 4)
    with pytest.raises(TypeError, match="x must be floating point, got int32"):
        gs.qcfs(jnp.ones(3, jnp.int32), 1.0, 4)
