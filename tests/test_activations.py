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
    steps = jnp.arange(levels + 3.0)
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
