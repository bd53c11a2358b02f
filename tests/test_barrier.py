"""A barrier that changes nothing but what XLA may compute twice."""

import jax
import jax.numpy as jnp
import numpy as np
from cases import dyadic
from jax.extend.core import jaxpr_as_fun

from gnsnn_jax.engine.plain import plain
from gnsnn_jax.xla.computed_once import computed_once
from gnsnn_jax.xla.convolution import conv_general_dilated


def twice_read(x):
    shared = computed_once(jnp.sin(x))
    return shared.reshape(-1), shared + 1


def test_is_the_identity_under_every_transformation():
    x = dyadic(0, (3, 4))
    for function in (computed_once, jax.jit(computed_once), jax.vmap(computed_once), jax.vmap(computed_once, 1, 1)):
        np.testing.assert_array_equal(function(x), x)
    gradient = jax.grad(lambda x: (computed_once(x) ** 2).sum())
    np.testing.assert_array_equal(jax.jit(gradient)(x), 2 * x)
    np.testing.assert_array_equal(jax.jvp(computed_once, (x,), (x,))[1], x)
    np.testing.assert_array_equal(jax.jit(jax.vmap(gradient))(x), 2 * x)


def test_readers_share_the_value_on_cpus():
    text = lambda function: jax.jit(function).lower(dyadic(1, (64, 64))).compile().as_text()
    assert text(twice_read).count(" sine(") == 1
    apart = text(lambda x: ((x * 3).reshape(-1), x * 3 + 1))
    shared = text(lambda x: ((y := computed_once(x * 3)).reshape(-1), y + 1))
    assert apart.count(" multiply(") == 2
    assert shared.count(" multiply(") == 1


def test_other_platforms_see_no_call():
    lowered = jax.jit(twice_read).trace(dyadic(1, (4, 4))).lower(lowering_platforms=("cuda",))
    assert "inlineable" not in lowered.as_text()


def test_a_plain_function_is_the_same_without_it():
    kernel = jnp.ones((3, 3))[..., None, None]

    @jax.jit
    def function(x):
        _, outputs = jax.lax.scan(lambda state, _: (computed_once(state + x), jax.nn.relu(state)), x, length=3)
        convolved = conv_general_dilated(
            outputs[..., None], kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return jax.lax.cond(x[0, 0] > 0, computed_once, lambda x: -x, convolved)

    x = dyadic(0, (4, 4))
    traced = jax.make_jaxpr(function)(x)
    found = plain(traced)
    ours = ("computed_once", "repaired_convolution")
    assert all(name in str(traced) and name not in str(found) for name in ours)
    for value in (x, -x):
        np.testing.assert_array_equal(jaxpr_as_fun(found)(value)[0], function(value))
    assert str(jax.make_jaxpr(function)(x)) == str(traced)
