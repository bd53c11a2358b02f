"""Convolutions that XLA computes slowly on CPUs: the same results in another form, on the CPU alone."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import dyadic

import gnsnn_jax as gs
from gnsnn_jax.xla.convolution import is_slow

NHWC = ("NHWC", "HWIO", "NHWC")


def convolve(
    x, kernel, margin=0, *, dimensions=NHWC, strides=(1, 1), padding=((1, 1), (1, 1)), dilations=(1, 1), **other
):
    """A convolution; with a margin the map lies in a larger one of zeros, which makes it none of the slow ones."""
    numbers = jax.lax.conv_dimension_numbers(x.shape, kernel.shape, dimensions)
    frame = [(margin, margin, 0) if axis in numbers.lhs_spec[2:] else (0, 0, 0) for axis in range(x.ndim)]
    inner = [
        (low - margin * dilation, high - margin * dilation)
        for (low, high), dilation in zip(padding, dilations, strict=True)
    ]
    return jax.lax.conv_general_dilated(
        jax.lax.pad(x, jnp.zeros((), x.dtype), frame),
        kernel,
        strides,
        inner,
        lhs_dilation=dilations,
        dimension_numbers=dimensions,
        **other,
    )


SLOW = {  # shapes of map and kernel, and the parameters
    "2x2": ((3, 2, 2, 4), (3, 3, 4, 5), {}),
    "1x1": ((3, 1, 1, 4), (3, 3, 4, 5), {}),
    "strided": ((2, 2, 3, 4), (3, 3, 4, 5), {"strides": (2, 2)}),
    "unpadded": ((2, 4, 3, 2), (4, 4, 2, 3), {"padding": ((0, 0), (1, 0))}),
    "uneven": ((2, 2, 2, 3), (3, 3, 3, 2), {"padding": ((0, 3), (2, 1))}),
    "cropped": ((2, 2, 2, 3), (4, 4, 3, 2), {"padding": ((3, -1), (4, 4))}),
    "dilated": ((2, 2, 2, 3), (3, 3, 3, 2), {"dilations": (2, 3), "padding": ((2, 2), (3, 1)), "strides": (2, 1)}),
    "dilated kernel": ((2, 2, 3, 3), (3, 3, 3, 2), {"rhs_dilation": (2, 1), "padding": ((2, 2), (1, 1))}),
    "channels first": ((3, 4, 2, 2), (5, 4, 3, 3), {"dimensions": ("NCHW", "OIHW", "NCHW")}),
    "mixed layout": ((3, 2, 4, 2), (3, 5, 3, 4), {"dimensions": ("NHCW", "HOWI", "WNHC")}),
    "one axis": ((3, 4, 2), (5, 2, 3), {
        "dimensions": ("NHC", "HIO", "NHC"), "padding": ((2, 2),), "strides": (1,), "dilations": (1,),
    }),
    "all padding": ((2, 1, 1, 3), (3, 3, 3, 2), {"padding": ((5, 0), (1, 1))}),
}  # fmt: skip


@pytest.mark.parametrize("name", SLOW)
def test_products_give_the_convolution_and_its_gradients(name):
    map_shape, kernel_shape, parameters = SLOW[name]
    x, kernel = dyadic(0, map_shape), dyadic(1, kernel_shape)
    compiled = jax.jit(lambda x, kernel: convolve(x, kernel, **parameters)).lower(x, kernel)
    assert "stablehlo.dot_general" in compiled.as_text()
    assert "stablehlo.convolution" not in compiled.as_text()

    @partial(jax.jit, static_argnums=0)
    def results(margin, x, kernel):
        y, pull = jax.vjp(lambda x, kernel: convolve(x, kernel, margin, **parameters), x, kernel)
        return y, *pull(dyadic(2, y.shape))

    jax.tree.map(np.testing.assert_array_equal, results(0, x, kernel), results(8, x, kernel))


def test_mapped_over_maps_and_over_kernels():
    maps, kernels = dyadic(3, (3, 2, 2, 2, 4)), dyadic(4, (3, 3, 3, 4, 5))
    for axes in ((0, None), (None, 0), (0, 0)):
        x, kernel = (a if axis == 0 else a[0] for a, axis in zip((maps, kernels), axes, strict=True))
        found = jax.jit(jax.vmap(convolve, axes))(x, kernel)
        for index in range(3):
            one = convolve(maps[index if axes[0] == 0 else 0], kernels[index if axes[1] == 0 else 0], 8)
            np.testing.assert_array_equal(found[index], one)


def test_half_precision_adds_up_in_float32():
    x, kernel = dyadic(5, (2, 2, 2, 64)), dyadic(6, (3, 3, 64, 2))
    half = convolve(x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16))
    assert half.dtype == jnp.bfloat16
    exact = convolve(x.astype(jnp.bfloat16).astype(jnp.float32), kernel.astype(jnp.bfloat16).astype(jnp.float32), 8)
    np.testing.assert_array_equal(half, exact.astype(jnp.bfloat16))


@pytest.mark.parametrize(
    ("map_shape", "kernel_shape", "groups"),
    [((2, 3, 3, 4), (3, 3, 4, 4), 1), ((2, 2, 2, 4), (3, 3, 1, 4), 4), ((2, 8, 8, 4), (9, 9, 4, 4), 1)],
)
def test_other_convolutions_stay_as_they_are(map_shape, kernel_shape, groups):
    x, kernel = jnp.ones(map_shape), jnp.ones(kernel_shape)
    lowered = jax.jit(lambda x, kernel: convolve(x, kernel, feature_group_count=groups)).lower(x, kernel)
    assert "stablehlo.convolution" in lowered.as_text()


def test_other_platforms_keep_the_convolution():
    x, kernel = jnp.ones((2, 2, 2, 4)), jnp.ones((3, 3, 4, 4))
    for platform, kept in (("cpu", False), ("cuda", True), ("tpu", True)):
        text = jax.jit(convolve).trace(x, kernel).lower(lowering_platforms=(platform,)).as_text()
        assert ("stablehlo.convolution" in text) == kept


def test_the_threshold_is_that_of_xla():
    """Where XLA keeps map and kernel in their places, its convolution is fast and stays."""
    for pixels, taps in ((2, 3), (3, 3), (4, 5), (5, 5), (1, 1)):
        x, kernel = jnp.ones((2, pixels, pixels, 4)), jnp.ones((taps, taps, 4, 4))
        numbers = jax.lax.conv_dimension_numbers(x.shape, kernel.shape, NHWC)
        slow = is_slow(x.aval, kernel.aval, dimension_numbers=numbers, feature_group_count=1, batch_group_count=1)
        assert slow == (pixels < taps)
        if not slow:
            low, high = taps // 2, (taps - 1) // 2
            convolved = jax.jit(lambda x, k, p=((low, high), (low, high)): convolve(x, k, padding=p))
            assert "rhs_reversal" not in convolved.lower(x, kernel).compile().as_text()


ORDERED = "b01f_01io->b01f"
OUT_OF_ORDER = {  # dimensions, shapes of map and kernel, and other parameters
    "channels first": (("NCHW", "OIHW", "NCHW"), (3, 4, 6, 5), (6, 4, 3, 3), {}),
    "mixed": (("CHNW", "HIWO", "WNCH"), (4, 6, 3, 5), (3, 4, 3, 6), {"strides": (2, 1), "padding": ((1, 0), (2, 1))}),
    "groups": (("NCHW", "OIHW", "NCHW"), (3, 4, 6, 5), (6, 2, 3, 3), {"feature_group_count": 2}),
    "dilated kernel": (("NCHW", "OIHW", "NHWC"), (3, 4, 6, 6), (6, 4, 3, 3), {"rhs_dilation": (2, 1)}),
}


@pytest.mark.parametrize("name", OUT_OF_ORDER)
def test_any_order_of_axes_gives_the_same_in_xlas_order(name):
    dimensions, map_shape, kernel_shape, parameters = OUT_OF_ORDER[name]
    x, kernel = dyadic(7, map_shape), dyadic(8, kernel_shape)
    compiled = jax.jit(lambda x, kernel: convolve(x, kernel, dimensions=dimensions, **parameters))
    assert set(re.findall(r"dim_labels=([\w>-]+)", compiled.lower(x, kernel).compile().as_text())) == {ORDERED}
    reorder = lambda array, own, wanted: array.transpose([own.index(axis) for axis in wanted])
    ordered = convolve(
        reorder(x, dimensions[0], "NHWC"), reorder(kernel, dimensions[1], "HWIO"), dimensions=NHWC, **parameters
    )
    np.testing.assert_array_equal(compiled(x, kernel), reorder(ordered, "NHWC", dimensions[2]))


def test_gradients_in_a_loop_over_time_are_in_xlas_order():
    """XLA puts axes in order itself, but not inside of a loop, where it then takes up to twenty times as long."""
    x, kernel = dyadic(9, (2, 6, 6, 4)), dyadic(10, (3, 3, 4, 5))

    def loss(kernel):
        layer = lambda x: gs.qcfs(convolve(gs.qcfs(x, 1.0, 4), kernel), 1.0, 4)
        return gs.to_spiking(layer, gs.integrate_and_fire(), steps=12, chunk=4)(x).sum()

    text = jax.jit(jax.grad(loss)).lower(kernel).compile().as_text()
    assert " while(" in text
    assert set(re.findall(r"dim_labels=([\w>-]+)", text)) == {ORDERED}


def test_networks_have_no_slow_convolution_left():
    """In a network whose maps shrink to 2x2, in training and converted."""
    model = gs.build("vgg11", num_classes=3, levels=4, convolutions=(1, 2), widths=(4, 4), hidden=4)
    images = jnp.ones((2, 4, 4, 3))
    variables = jax.jit(model.init)(jax.random.key(0), images)
    loss = lambda variables, images: model.apply(variables, images).sum()
    spiking = gs.to_spiking(model.apply, gs.integrate_and_fire(), steps=2)
    for function in (jax.grad(loss), spiking):
        assert "rhs_reversal" not in jax.jit(function).lower(variables, images).compile().as_text()
