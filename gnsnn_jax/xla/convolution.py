"""Convolutions that XLA computes up to a hundred times too slowly on CPUs, in another form.

Those over maps smaller than their kernel, as on the 2x2 maps at the end of a VGG network: XLA exchanges map
and kernel, and the exchanged convolution runs in plain loops. They become one matrix product for each tap
of the kernel. And those with axes in another order than batch, pixels, channels: XLA puts them in order,
but not inside of a loop over time, where channels come first in a user's network or in the gradient of
weights. They are put in order here.

`use_fast_convolutions` gives JAX these lowerings. They are for the CPU alone and below everything that
sees a network: traces, gradients and `vmap` stay as they are, and so the networks of this package profit
as those of the user do, trained, called or converted.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.interpreters import mlir

from gnsnn_jax._types import Array
from gnsnn_jax.dtypes import at_least_single

MOST_TAPS = 64  # of a kernel that is unrolled, so that no large one takes long to compile


class _Tap(NamedTuple):
    """Along one axis, the pixels that a tap of the kernel reads and the outputs that it adds to.

    Both are arithmetic progressions of one length: (first, step, length).
    """

    position: int
    pixels: tuple[int, int, int]
    outputs: tuple[int, int, int]


def use_fast_convolutions() -> None:
    """Registers the lowerings with JAX; without effect if JAX no longer keeps its own where it did."""
    convolution = lax.conv_general_dilated_p
    try:
        own = mlir._platform_specific_lowerings["cpu"].get(convolution) or mlir._lowerings[convolution]
        jax_rule = own.rule
    except (AttributeError, KeyError):
        return
    products_rule = mlir.lower_fun(convolve_by_products, multiple_results=False)
    ordered_rule = mlir.lower_fun(convolve_in_order, multiple_results=False)

    def rule(ctx, lhs, rhs, **params):
        if is_slow(*ctx.avals_in, **params):
            return products_rule(ctx, lhs, rhs, **params)
        if is_out_of_order(*ctx.avals_in, **params):
            return ordered_rule(ctx, lhs, rhs, **params)
        return jax_rule(ctx, lhs, rhs, **params)

    mlir.register_lowering(convolution, rule, platform="cpu")


def is_slow(lhs: Any, rhs: Any, *, dimension_numbers, feature_group_count: int, batch_group_count: int, **_) -> bool:
    """Whether XLA would exchange map and kernel, given their types and the parameters of the convolution."""
    if not (_is_plain(lhs, rhs) and feature_group_count == batch_group_count == 1):
        return False
    lhs_axes, rhs_axes, _ = dimension_numbers
    pixels, taps = [lhs.shape[axis] for axis in lhs_axes[2:]], [rhs.shape[axis] for axis in rhs_axes[2:]]
    known = all(isinstance(size, int) for size in (*lhs.shape, *rhs.shape))
    return known and 0 < math.prod(pixels) < math.prod(taps) <= MOST_TAPS


def is_out_of_order(lhs: Any, rhs: Any, *, dimension_numbers, batch_group_count: int, **_) -> bool:
    """Whether XLA has to put the axes of the convolution in order."""
    return _is_plain(lhs, rhs) and batch_group_count == 1 and dimension_numbers != _in_order(lhs.ndim)


def _is_plain(lhs: Any, rhs: Any) -> bool:
    """Whether both are floating-point numbers of one type, on no explicit mesh."""
    plain = all(aval == jax.core.ShapedArray(aval.shape, aval.dtype) for aval in (lhs, rhs))
    return plain and jnp.issubdtype(lhs.dtype, jnp.floating) and lhs.dtype == rhs.dtype


def _in_order(rank: int) -> lax.ConvDimensionNumbers:
    """Batch, pixels, channels; and for the kernel taps, inputs, outputs."""
    pixels = range(1, rank - 1)
    mapped = (0, rank - 1, *pixels)
    return lax.ConvDimensionNumbers(mapped, (rank - 1, rank - 2, *(axis - 1 for axis in pixels)), mapped)


def convolve_in_order(lhs: Array, rhs: Array, *, dimension_numbers: lax.ConvDimensionNumbers, **params: Any) -> Array:
    """What `lax.conv_general_dilated` gives for the same parameters, by way of the order that XLA computes in."""
    lhs_axes, rhs_axes, out_axes = dimension_numbers
    x = lhs.transpose(lhs_axes[0], *lhs_axes[2:], lhs_axes[1])
    kernel = rhs.transpose(*rhs_axes[2:], rhs_axes[1], rhs_axes[0])
    out = lax.conv_general_dilated_p.bind(x, kernel, dimension_numbers=_in_order(lhs.ndim), **params)
    return _with_axes(out, out_axes)


def _with_axes(out: Array, out_axes: Sequence[int]) -> Array:
    """Batch, pixels, channels where the convolution wants them."""
    order = (out_axes[0], *out_axes[2:], out_axes[1])
    return out.transpose([order.index(axis) for axis in range(out.ndim)])


def convolve_by_products(
    lhs: Array,
    rhs: Array,
    *,
    window_strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int],
    rhs_dilation: Sequence[int],
    dimension_numbers: lax.ConvDimensionNumbers,
    precision: Any = None,
    preferred_element_type: Any = None,
    **_: Any,
) -> Array:
    """What `lax.conv_general_dilated` gives for the same parameters and one group: for each tap of the
    kernel, its matrix times the pixels that it meets, added up in float32 or wider."""
    lhs_axes, rhs_axes, out_axes = dimension_numbers
    pixels, sizes = [lhs.shape[axis] for axis in lhs_axes[2:]], [rhs.shape[axis] for axis in rhs_axes[2:]]
    per_axis = [*zip(pixels, sizes, window_strides, padding, lhs_dilation, rhs_dilation, strict=True)]
    shape = [_output_size(*axis) for axis in per_axis]
    taps = [_taps(size, *axis) for size, axis in zip(shape, per_axis, strict=True)]
    dtype = preferred_element_type or lhs.dtype
    x = lhs.transpose(lhs_axes[0], *lhs_axes[2:], lhs_axes[1])  # batch, pixels, channels
    contracted = ((x.ndim - 1,), (int(rhs_axes[0] < rhs_axes[1]),))  # the channels of x and of a matrix
    out = jnp.zeros((x.shape[0], *shape, rhs.shape[rhs_axes[0]]), at_least_single(dtype))
    for tap in itertools.product(*taps):
        met = lax.slice(x, *_slice(x.shape, [axis.pixels for axis in tap]))
        matrix = _matrix(rhs, {axis: at.position for axis, at in zip(rhs_axes[2:], tap, strict=True)})
        product = lax.dot_general(
            met, matrix, (contracted, ((), ())), precision=precision, preferred_element_type=out.dtype
        )
        out += lax.pad(product, jnp.zeros((), out.dtype), _padding(shape, [axis.outputs for axis in tap]))
    return _with_axes(out.astype(dtype), out_axes)


def _output_size(pixels, taps, stride, padding, lhs_dilation, rhs_dilation) -> int:
    dilated = (pixels - 1) * lhs_dilation + 1 + sum(padding)
    return max((dilated - (taps - 1) * rhs_dilation - 1) // stride + 1, 0)


def _taps(outputs, pixels, taps, stride, padding, lhs_dilation, rhs_dilation) -> list[_Tap]:
    """The taps along one axis that meet pixels: output o reads place o stride - low + tap rhs_dilation."""
    found = []
    for tap in range(taps):
        places = [(out, out * stride - padding[0] + tap * rhs_dilation) for out in range(outputs)]
        meets = [(out, place // lhs_dilation) for out, place in places if place % lhs_dilation == 0]
        meets = [(out, pixel) for out, pixel in meets if 0 <= pixel < pixels]
        if meets:
            outputs_met, pixels_met = zip(*meets, strict=True)
            found.append(_Tap(tap, _progression(pixels_met), _progression(outputs_met)))
    return found


def _progression(indices: Sequence[int]) -> tuple[int, int, int]:
    return indices[0], indices[1] - indices[0] if len(indices) > 1 else 1, len(indices)


def _matrix(kernel: Array, tap: Mapping[int, int]) -> Array:
    """The weights of one tap, given its index on each axis of the kernel that has taps."""
    starts = [tap.get(axis, 0) for axis in range(kernel.ndim)]
    limits = [tap[axis] + 1 if axis in tap else size for axis, size in enumerate(kernel.shape)]
    return lax.squeeze(lax.slice(kernel, starts, limits), sorted(tap))


def _slice(shape: Sequence[int], pixels: Sequence[tuple[int, int, int]]) -> tuple[list[int], list[int], list[int]]:
    """Starts, limits and steps that take these pixels of an array [batch, pixels, channels]."""
    middle = [(first, first + step * (length - 1) + 1, step) for first, step, length in pixels]
    return tuple(map(list, zip((0, shape[0], 1), *middle, (0, shape[-1], 1), strict=True)))


def _padding(shape: Sequence[int], outputs: Sequence[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """What puts a product at these outputs of an array [batch, outputs, channels]."""
    middle = [
        (first, size - 1 - first - step * (length - 1), step - 1)
        for size, (first, step, length) in zip(shape, outputs, strict=True)
    ]
    return [(0, 0, 0), *middle, (0, 0, 0)]
