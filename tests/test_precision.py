"""Products in half precision that round nothing but the weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import dyadic, seeds
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

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


def convolve(x, kernel, stride=1):
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def pooled(x, size, stride):
    window, strides = (1, size, size, 1), (1, stride, stride, 1)
    return jax.lax.reduce_window(x, 0.0, jax.lax.add, window, strides, "SAME")


PARTS = {  # of spikes x [B, H, W, C] with a fixed kernel and other numbers, the same shape or fewer places
    "residual": lambda x, k: convolve(x, k) + x,
    "twice": lambda x, k: x + x,
    "difference": lambda x, k: x - x[:, ::-1],
    "concatenation": lambda x, k: jnp.concatenate([x, 0.3 * x], -1)[..., 1:4],
    "bias": lambda x, k: x + jnp.broadcast_to(k[0, 0, 0], x.shape),
    "norm": lambda x, k: x * jnp.broadcast_to(1.3 + k[0, 0, 0], x.shape) - 0.7,
    "overlap": lambda x, k: pooled(x, 3, 1) / 9,
    "average": lambda x, k: pooled(x, 2, 2) * 0.25,
    "padded": lambda x, k: jnp.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0))),
    "many": lambda x, k: jnp.broadcast_to(17 * x.sum((1, 2), keepdims=True), x.shape),
    "nothing": lambda x, k: 0.0 * x,
    "counted": lambda x, k: pooled(x, 3, 2) / pooled(jnp.ones_like(x), 3, 2),
}


@settings(max_examples=10, phases=[Phase.generate])
@given(
    st.lists(st.sampled_from(list(PARTS)), min_size=1, max_size=3),
    st.sampled_from([1.0, 0.7, "channels"]),
    st.sampled_from([1, 4, 100]),
    st.sampled_from([jnp.bfloat16, jnp.float16]),
    seeds,
)
def test_nothing_but_the_weights_is_rounded(parts, threshold, members, dtype, seed):
    random = np.random.default_rng(seed)
    threshold = jnp.asarray(random.uniform(0.5, 2, 3) if threshold == "channels" else threshold, jnp.float32)
    first, *kernels = (jnp.asarray(random.normal(size=(3, 3, 3, 3)) / 3, jnp.float32) for _ in range(3))
    x = jnp.asarray(random.normal(size=(2, 4, 4, 3)), jnp.float32)

    def head(kernels, fixed, x):
        x = gs.qcfs(convolve(x, first), threshold, 4)
        for part in parts:
            x = PARTS[part](x, fixed)
        return convolve(x, kernels[0]), convolve(x, kernels[1], 2)

    single = jax.tree.map(lambda kernel: kernel.astype(dtype).astype(jnp.float32), kernels)
    fixed = single[0]  # rounded already: it stands for weights in front of the product, too
    convert = lambda **options: jax.jit(gs.to_spiking(head, gs.group_neuron(members), steps=3, **options))
    half, full = convert(product_dtype=dtype)(kernels, fixed, x), convert()(single, fixed, x)
    for a, b in zip(half, full, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-6 * float(jnp.abs(b).max()))
