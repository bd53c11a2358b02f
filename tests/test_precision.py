"""Products in half precision that round nothing but the weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import dyadic

import gnsnn_jax as gs

FINE = 1 + 2.0**-9  # no bfloat16


def network(weights, x):
    """A convolution of the image, then spikes through pooling, a convolution, a shortcut and a product."""
    image, kernel, matrix = weights
    convolve = lambda x, kernel: jax.lax.conv_general_dilated(
        x, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    x = gs.qcfs(convolve(x, image), FINE, 4)
    x = x.reshape(-1, 2, 2, 2, 2, 3).mean((2, 4))
    x = gs.qcfs(convolve(x, kernel) + x, FINE, 4)
    return x.sum((1, 2)) @ matrix


def numbers():
    weights = dyadic(0, (3, 3, 2, 3)), FINE * dyadic(1, (3, 3, 3, 3)), FINE * dyadic(2, (3, 5))
    return weights, dyadic(3, (2, 4, 4, 2))


def rounded(x):
    return x.astype(jnp.bfloat16).astype(x.dtype)


@pytest.mark.parametrize("neuron", [gs.integrate_and_fire(), gs.group_neuron(4)], ids=["if", "gn"])
def test_spikes_are_not_rounded(neuron):
    (image, *weights), x = numbers()
    convert = lambda **options: jax.jit(gs.to_spiking(network, neuron, steps=6, **options))
    half = convert(product_dtype=jnp.bfloat16)((image, *weights), x)
    assert half.dtype == jnp.float32
    np.testing.assert_array_equal(half, convert()((image, *map(rounded, weights)), x))
    assert (half != convert()((image, *weights), x)).any()


def test_thresholds_by_channel_and_gradients_work():
    matrix, x = dyadic(4, (3, 5)), dyadic(5, (7, 3))
    ann = lambda weights, x: gs.qcfs(gs.qcfs(x, jnp.asarray([1.0, 2.0, 4.0]), 4) @ weights, 1.0, 4) @ weights.T
    spiking = gs.to_spiking(ann, gs.integrate_and_fire(), steps=4, product_dtype=jnp.bfloat16)

    full = gs.to_spiking(ann, gs.integrate_and_fire(), steps=4)
    np.testing.assert_array_equal(spiking(rounded(matrix), x), full(rounded(matrix), x))
    gradient = jax.grad(lambda weights: spiking(weights, x).sum())(matrix)
    np.testing.assert_allclose(gradient, jax.grad(lambda weights: full(weights, x).sum())(matrix), rtol=0.1, atol=0.5)
    assert spiking != full
