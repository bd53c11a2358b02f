"""Convolutions that XLA computes slowly on CPUs: the same results in another form, on the CPU alone."""

import re
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import dyadic

import gnsnn_jax as gs
from gnsnn_jax.xla import convolution
from gnsnn_jax.xla.convolution import conv_general_dilated, is_slow

NHWC = ("NHWC", "HWIO", "NHWC")


def convolve(
    x,
    kernel,
    margin=0,
    *,
    dimensions=NHWC,
    strides=(1, 1),
    padding=((1, 1), (1, 1)),
    dilations=(1, 1),
    by=conv_general_dilated,
    **other,
):
    """A convolution; with a margin the map lies in a larger one of zeros, which makes it none of the slow ones."""
    numbers = jax.lax.conv_dimension_numbers(x.shape, kernel.shape, dimensions)
    frame = [(margin, margin, 0) if axis in numbers.lhs_spec[2:] else (0, 0, 0) for axis in range(x.ndim)]
    inner = [
        (low - margin * dilation, high - margin * dilation)
        for (low, high), dilation in zip(padding, dilations, strict=True)
    ]
    return by(
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
        layer = lambda x: gs.qcfs(convolve(gs.qcfs(x, 1.0, 4), kernel, by=jax.lax.conv_general_dilated), 1.0, 4)
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


def _random_convolution(seed):
    """Map, kernel and parameters of a convolution on one or two axes of pixels, with any order of its axes."""
    rng = np.random.default_rng(seed)
    pixels = "HW"[: rng.integers(1, 3)]
    draw = lambda low, high: tuple(int(n) for n in rng.integers(low, high, len(pixels)))
    shuffled = lambda letters: "".join(rng.permutation(list(letters)))
    groups, kind = int(rng.integers(1, 3)), rng.choice(["feature_group_count", "batch_group_count"])
    sizes = {"N": 2, "C": 2, "I": 2, "O": 2 * groups} | dict(zip(pixels, draw(1, 5), strict=True))
    sizes["N" if kind == "batch_group_count" else "C"] *= groups
    taps = sizes | dict(zip(pixels, draw(1, 4), strict=True))
    dimensions = shuffled("NC" + pixels), shuffled("IO" + pixels), shuffled("NC" + pixels)
    params = {
        "window_strides": draw(1, 3),
        "padding": [(int(low), int(high)) for low, high in rng.integers(1, 4, (len(pixels), 2))],
        "lhs_dilation": draw(1, 3),
        "rhs_dilation": draw(1, 2),
        "dimension_numbers": dimensions,
        kind: groups,
    }
    return dyadic(seed, [sizes[a] for a in dimensions[0]]), dyadic(seed + 1, [taps[a] for a in dimensions[1]]), params


def _everything(function, x, kernel):
    """Values, gradients, tangents, second derivatives and maps over either operand."""
    stacked = lambda a: jnp.stack([a, 2 * a, a - 1])
    of_all = lambda axes: [a if axis is None else stacked(a) for a, axis in zip((x, kernel), axes, strict=True)]
    square = lambda x, kernel: (function(x, kernel) ** 2).sum()
    mapped = [jax.vmap(function, axes)(*of_all(axes)) for axes in ((0, None), (None, 0), (0, 0))]
    tangents = jax.jvp(function, (x, kernel), (x - 1, kernel + 1))
    twice = jax.grad(lambda x, kernel: sum((g**2).sum() for g in jax.grad(square, (0, 1))(x, kernel)), (0, 1))
    over_maps = jax.grad(lambda k: jax.vmap(square, (0, None))(stacked(x), k).sum())(kernel)
    return mapped, tangents, jax.grad(square, (0, 1))(x, kernel), twice(x, kernel), over_maps


# With one axis of pixels and two, groups of features, of the batch and none, slow and fast.
@pytest.mark.parametrize("seed", [1, 3, 5, 6, 7])
def test_any_convolution_is_jaxs_under_every_transformation(seed):
    x, kernel, params = _random_convolution(seed)
    found, wanted = (
        jax.jit(partial(_everything, lambda x, kernel, by=by: by(x, kernel, **params)))(x, kernel)
        for by in (conv_general_dilated, jax.lax.conv_general_dilated)
    )
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), found, wanted)
    np.testing.assert_allclose(
        conv_general_dilated(x, kernel, **params), jax.lax.conv_general_dilated(x, kernel, **params), rtol=1e-6
    )


def test_gradients_are_repaired_as_the_convolution_is():
    """Those of a fast convolution, too: from 4x4 to 2x2 pixels, the gradient of the map is a slow one."""
    x, kernel = dyadic(11, (2, 4, 4, 3)), dyadic(12, (3, 3, 3, 2))
    squared = lambda x, kernel: (convolve(x, kernel, strides=(2, 2), padding=((1, 0), (1, 0))) ** 2).sum()
    for function in (jax.grad(squared), jax.grad(lambda x, k: (jax.grad(squared)(x, k) ** 2).sum())):
        for mapped in (function, jax.vmap(function, (0, None))):
            maps = x if mapped is function else jnp.stack([x, x])
            text = jax.jit(mapped).lower(maps, kernel).compile().as_text()
            assert "rhs_reversal" not in text


def test_exported_for_all_platforms():
    x, kernel = dyadic(13, (2, 2, 2, 4)), dyadic(14, (3, 3, 4, 5))
    gradients = jax.jit(jax.grad(lambda x, kernel: (convolve(x, kernel) ** 2).sum(), (0, 1)))
    batch = jax.ShapeDtypeStruct(jax.export.symbolic_shape("batch, 2, 2, 4"), jnp.float32)
    for given in (x, batch):
        exported = jax.export.export(gradients, platforms=("cpu", "cuda", "tpu"))(given, kernel)
        close = partial(np.testing.assert_allclose, rtol=1e-5)
        jax.tree.map(close, exported.call(x, kernel), gradients(x, kernel))


def test_what_the_repair_does_not_know_is_jaxs_own():
    integers = jnp.ones((2, 2, 2, 4), jnp.int32), jnp.ones((3, 3, 4, 5), jnp.int32)
    complexes = jnp.ones((2, 2, 2, 4), jnp.complex64), jnp.ones((3, 3, 4, 5), jnp.complex64)
    for x, kernel in (integers, complexes):
        assert "repaired" not in str(jax.make_jaxpr(convolve)(x, kernel))
        np.testing.assert_array_equal(convolve(x, kernel), convolve(x, kernel, by=jax.lax.conv_general_dilated))


IMPORTED = """
import itertools, logging, sys, warnings
import jax
from jax._src.interpreters import mlir
p = jax.lax.conv_general_dilated_p
def state():
    loggers = {name: logger.level for name, logger in logging.root.manager.loggerDict.items()
               if isinstance(logger, logging.Logger)}
    lowerings = [mlir._lowerings.get(p)] + [table.get(p) for table in mlir._platform_specific_lowerings.values()]
    return lowerings, logging.root.level, loggers, list(warnings.filters)
import flax.linen, optax
before = state()
import gnsnn_jax as gs
gs.build("resnet18", num_classes=2, levels=4)
lowerings, level, loggers, filters = state()
assert lowerings == before[0], "lowerings"
assert level == before[1] and all(loggers[name] == before[2].get(name, 0) for name in loggers), "logging"
assert filters == before[3], "warnings"
"""


def test_importing_changes_nothing():
    done = subprocess.run([sys.executable, "-c", IMPORTED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


SWITCHED = """
import jax, jax.numpy as jnp, warnings
import gnsnn_jax as gs
x, kernel = jnp.ones((2, 4, 2, 2)), jnp.ones((5, 4, 3, 3))
lowered = lambda: jax.jit(lambda x, k: jax.lax.conv(x, k, (1, 1), "SAME")).lower(x, kernel).as_text()
assert "stablehlo.convolution" in lowered()
warnings.simplefilter("error")
gs.use_fast_convolutions()
gs.use_fast_convolutions()
assert "stablehlo.convolution" not in lowered()
"""


def test_the_switch_repairs_every_convolution_of_the_process():
    done = subprocess.run([sys.executable, "-c", SWITCHED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("missing", ["_lowerings", "_platform_specific_lowerings"])
def test_the_switch_says_when_it_cannot(monkeypatch, missing):
    kept = {"_lowerings": {}, "_platform_specific_lowerings": {"cpu": {}}}
    moved = type("Moved", (), {name: table for name, table in kept.items() if name != missing})
    monkeypatch.setattr(convolution, "mlir", moved)
    with pytest.warns(RuntimeWarning, match="use_fast_convolutions") as told:
        gs.use_fast_convolutions()
    assert len(told) == 1
