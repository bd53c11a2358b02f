"""Convolutions that XLA computes up to a hundred times too slowly on CPUs, in another form.

Those over maps smaller than their kernel, as on the 2x2 maps at the end of a VGG network: XLA exchanges map
and kernel, and the exchanged convolution runs in plain loops. They become one matrix product for each tap
of the kernel. And those with axes in another order than batch, pixels, channels: XLA puts them in order,
but not inside of a loop over time, where channels come first in a user's network or in the gradient of
weights. They are put in order here.

`convolve` is a convolution with this repair, and `conv_general_dilated` the same with the arguments of
`jax.lax.conv_general_dilated`. Both stay what they are under every transformation of JAX, the repair is
for the CPU alone, and no other convolution of the process changes. `use_fast_convolutions` changes those.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Literal, Primitive
from jax.interpreters import ad, batching, mlir

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


def convolve(lhs: Any, rhs: Any, **params: Any) -> Array:
    """What `jax.lax.conv_general_dilated_p.bind` gives for the same arguments, and fast on CPUs.

    The primitive `repaired_convolution` where the repair applies: to floating-point numbers of one type on
    no explicit mesh. A convolution that is fast takes part, because its gradients need not be. All others
    are JAX's own.
    """
    repairable = _is_plain(jax.typeof(lhs), jax.typeof(rhs)) and params.get("out_sharding") is None
    return (repaired_convolution_p if repairable else lax.conv_general_dilated_p).bind(lhs, rhs, **params)


def conv_general_dilated(lhs: Any, rhs: Any, *args: Any, **kwargs: Any) -> Array:
    """`convolve` with the arguments of `jax.lax.conv_general_dilated`, as flax.linen.Conv takes it."""
    return _repaired(lambda lhs, rhs: lax.conv_general_dilated(lhs, rhs, *args, **kwargs), lhs, rhs)


def _repaired(function: Callable[..., Array], *args: Any) -> Array:
    """The function applied to arrays, with `convolve` in place of each of its convolutions."""
    jaxpr = jax.make_jaxpr(function)(*args)
    values = dict(zip([*jaxpr.jaxpr.constvars, *jaxpr.jaxpr.invars], [*jaxpr.consts, *args], strict=True))
    read = lambda atom: atom.val if isinstance(atom, Literal) else values[atom]
    for eqn in jaxpr.jaxpr.eqns:
        apply = convolve if eqn.primitive is lax.conv_general_dilated_p else eqn.primitive.bind
        found = apply(*map(read, eqn.invars), **eqn.primitive.get_bind_params(eqn.params))
        values.update(zip(eqn.outvars, found if eqn.primitive.multiple_results else [found], strict=True))
    (out,) = map(read, jaxpr.jaxpr.outvars)
    return out


_PARAMETERS = (
    "window_strides", "padding", "lhs_dilation", "rhs_dilation", "dimension_numbers", "feature_group_count",
    "batch_group_count", "precision", "preferred_element_type", "out_sharding",
)  # fmt: skip


@partial(jax.jit, static_argnames=_PARAMETERS)
def _called(lhs, rhs, **params):
    return repaired_convolution_p.bind(lhs, rhs, **params)


def _on_cpu(lhs: Array, rhs: Array, **params: Any) -> Array:
    types = jax.typeof(lhs), jax.typeof(rhs)
    if is_slow(*types, **params):
        return convolve_by_products(lhs, rhs, **params)
    if is_out_of_order(*types, **params):
        return convolve_in_order(lhs, rhs, **params)
    return lax.conv_general_dilated_p.bind(lhs, rhs, **params)


def _mapped(args, axes, **params):
    mapped = jax.vmap(partial(lax.conv_general_dilated_p.bind, **params), tuple(axes))
    return _repaired(mapped, *args), 0


def _transposed(operand: int, cotangent, *operands, **params):
    """The gradient of one operand, a convolution of the cotangent and the other operand."""
    type_ = jax.ShapeDtypeStruct(operands[operand].aval.shape, operands[operand].aval.dtype)

    def gradient(cotangent, other):
        in_order = lambda x: (x, other) if operand == 0 else (other, x)
        apply = lambda x: lax.conv_general_dilated_p.bind(*in_order(x), **params)
        return jax.linear_transpose(apply, type_)(cotangent)[0]

    return _repaired(gradient, cotangent, operands[1 - operand])


repaired_convolution_p = Primitive("repaired_convolution")
repaired_convolution_p.def_impl(_called)
repaired_convolution_p.def_abstract_eval(
    lambda lhs, rhs, **params: lax.conv_general_dilated_p.abstract_eval(lhs, rhs, **params)[0]
)
ad.defbilinear(repaired_convolution_p, partial(_transposed, 0), partial(_transposed, 1))
batching.primitive_batchers[repaired_convolution_p] = _mapped
mlir.register_lowering(repaired_convolution_p, mlir.lower_fun(lax.conv_general_dilated_p.bind, multiple_results=False))
mlir.register_lowering(repaired_convolution_p, mlir.lower_fun(_on_cpu, multiple_results=False), platform="cpu")


def use_fast_convolutions() -> None:
    """Repairs every convolution of this process, in place of JAX's own lowering of them for CPUs.

    The networks of this package and converted networks have the repair already; networks that are only
    called or trained, and not ours, need this. It holds for what is compiled afterwards. JAX keeps its
    lowerings in private tables: if these have moved, a RuntimeWarning says so and nothing changes.
    """
    convolution = lax.conv_general_dilated_p
    try:
        own = mlir._platform_specific_lowerings["cpu"].get(convolution) or mlir._lowerings[convolution]
        jax_rule = own.rule
    except (AttributeError, KeyError):
        warnings.warn(
            f"JAX {jax.__version__} does not keep its convolutions where use_fast_convolutions looks for them; "
            "they stay as they are, so pass gnsnn_jax.xla.convolution.conv_general_dilated to nn.Conv instead",
            RuntimeWarning,
            stacklevel=2,
        )
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
    known = all(isinstance(size, int) for size in (*pixels, *taps))  # the batch of an export has no size
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


def _slice(shape: Sequence[Any], pixels: Sequence[tuple[int, int, int]]) -> tuple[list[Any], list[Any], list[Any]]:
    """Starts, limits and steps that take these pixels of an array [batch, pixels, channels]."""
    middle = [(first, first + step * (length - 1) + 1, step) for first, step, length in pixels]
    return tuple(map(list, zip((0, shape[0], 1), *middle, (0, shape[-1], 1), strict=True)))  # type: ignore[return-value]


def _padding(shape: Sequence[int], outputs: Sequence[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """What puts a product at these outputs of an array [batch, outputs, channels]."""
    middle = [
        (first, size - 1 - first - step * (length - 1), step - 1)
        for size, (first, step, length) in zip(shape, outputs, strict=True)
    ]
    return [(0, 0, 0), *middle, (0, 0, 0)]
