"""PyTorch's ATen operations in JAX: one table, keyed by the name of the operation.

A function takes the arguments of the operation, in PyTorch's order and under its names, with arrays for tensors. To
make another operation known, add it:

    OPERATIONS["library::operation"] = function      # of aten without "aten::"; "max.dim" for one overload
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gnsnn_jax._types import Array
from gnsnn_jax.interop import aten_layers as layers


def operation_named(name: str) -> Callable | None:
    """The function of JAX for an operation, "max.dim": that of its overload or, without one, of all overloads."""
    return OPERATIONS.get(name, OPERATIONS.get(name.partition(".")[0]))


# Operands of one type and rank, as PyTorch makes them.


def aligned(*values: Any) -> list[Any]:
    """Arrays and numbers in the type that PyTorch computes them in, arrays with the same number of axes.

    Arrays with axes decide on the type before those without, and these before numbers, unless these are of a
    higher kind: an integer array and 0.5 make float32.
    """
    arrays = [value for value in values if is_array(value)]
    dtype = _common_type(values)
    ndim = max((value.ndim for value in arrays), default=0)
    return [_of_rank(lax.convert_element_type(x, dtype), ndim) if is_array(x) else _number(x, dtype) for x in values]


def is_array(value: Any) -> bool:
    return isinstance(value, jax.Array | np.ndarray)


_KINDS = (jnp.bool_, jnp.integer, jnp.floating, jnp.complexfloating)


def _common_type(values: Sequence[Any]) -> Any:
    arrays = [value for value in values if is_array(value)]
    groups = [[x.dtype for x in arrays if x.ndim], [x.dtype for x in arrays if not x.ndim]]
    groups += [[_type_of_number(value) for value in values if not is_array(value) and value is not None]]
    found = [_promoted(group) for group in groups if group]
    return reduce(lambda one, other: other if _kind(other) > _kind(one) else one, found)


def _promoted(types: Sequence[Any]) -> Any:
    """The type of all together: integers take part in floats of any size, as in PyTorch."""
    with jax.numpy_dtype_promotion("standard"):
        return reduce(jnp.promote_types, types)


def _type_of_number(value: Any) -> Any:
    return jnp.dtype(jnp.bool_ if isinstance(value, bool) else jnp.int32 if isinstance(value, int) else jnp.float32)


def _kind(dtype: Any) -> int:
    return next(rank for rank, kind in enumerate(_KINDS) if jnp.issubdtype(dtype, kind))


def _of_rank(x: Array, ndim: int) -> Array:
    """With axes of length 1 in front; a single number stays one."""
    return x if x.ndim in (0, ndim) else lax.expand_dims(x, range(ndim - x.ndim))


def _number(value: Any, dtype: Any) -> Any:
    return float(value) if value is not None and jnp.issubdtype(dtype, jnp.floating) else value


def elementwise(function: Callable[..., Array]) -> Callable[..., Array]:
    """A function of arrays and numbers of one type."""
    return lambda *operands: function(*aligned(*operands))


def _add(x, other, alpha=1):
    return elementwise(jnp.add)(x, other if alpha == 1 else other * alpha)


def _subtract(x, other, alpha=1):
    return elementwise(jnp.subtract)(x, other if alpha == 1 else other * alpha)


def _divide(x, other, rounding_mode=None):
    divide = {None: jnp.true_divide, "floor": jnp.floor_divide, "trunc": lambda x, y: jnp.trunc(x / y)}[rounding_mode]
    x, other = aligned(x, other)
    out = divide(x, other)
    return out.astype(x.dtype) if rounding_mode else out


def _power(x, exponent):
    if not is_array(exponent) and float(exponent).is_integer():
        return lax.integer_pow(x, int(exponent))
    return jnp.sqrt(x) if not is_array(exponent) and exponent == 0.5 else elementwise(jnp.power)(x, exponent)


def _where(condition, x, other):
    x, other = aligned(x, other)
    ndim = max(condition.ndim, *(value.ndim for value in (x, other) if is_array(value)), 0)
    condition, x, other = (_of_rank(value, ndim) if is_array(value) else value for value in (condition, x, other))
    return jnp.where(condition, x, other)


def _clamp(x, min=None, max=None):
    x, low, high = aligned(x, min, max)
    if high is None:
        return jnp.maximum(x, low)
    return jnp.minimum(x, high) if low is None else jnp.clip(x, low, high)


def _hardtanh(x, min_val=-1, max_val=1):
    return jax.nn.relu6(x) if (min_val, max_val) == (0, 6) else _clamp(x, min_val, max_val)


def _elu(x, alpha=1, scale=1, input_scale=1):
    negative = alpha * jnp.expm1(jnp.minimum(x, 0) * input_scale)
    return scale * jnp.where(x > 0, x, negative)


_SOFTPLUS_IS_LINEAR = 20  # from where on its difference from the identity is below what float32 has


def _softplus(x, beta=1, threshold=20):
    smooth = jax.nn.softplus(x * beta) / beta
    return smooth if threshold >= _SOFTPLUS_IS_LINEAR else jnp.where(x * beta > threshold, x, smooth)


def _rrelu_in_inference(x, noise, lower=1 / 8, upper=1 / 3, training=False, generator=None):
    """The slope is the mean of those that training draws."""
    return _leaky_relu(x, (lower + upper) / 2), noise


def _leaky_relu(x, negative_slope=0.01):
    return jax.nn.leaky_relu(x, negative_slope)


# Reductions.


def _axes(dim: Any) -> Any:
    """As `axis` of NumPy: None for all, which PyTorch writes as an empty list too."""
    return (tuple(dim) or None) if isinstance(dim, list | tuple) else dim


def reduction(function: Callable[..., Array]) -> Callable[..., Array]:
    def apply(x, dim=None, keepdim=False, dtype=None):
        x = x if dtype is None else x.astype(dtype)
        return function(x, axis=_axes(dim), keepdims=keepdim)

    return apply


def _total(function: Callable[..., Array]) -> Callable[..., Array]:
    return lambda x, dtype=None: function(x if dtype is None else x.astype(dtype))


def with_indices(find: Callable, find_indices: Callable) -> Callable[..., tuple[Array, Array]]:
    """The largest or least along an axis, and where they are."""
    return lambda x, dim, keepdim=False: (find(x, dim, keepdims=keepdim), find_indices(x, dim, keepdims=keepdim))


def _variance(x, dim=None, unbiased=None, correction=None, keepdim=False):
    if isinstance(dim, bool):  # var(x, unbiased)
        dim, unbiased = None, dim
    freedom = int(unbiased is not False) if correction is None else correction
    return jnp.var(x, _axes(dim), ddof=freedom, keepdims=keepdim)


def _variance_and_mean(x, dim=None, *, correction=None, keepdim=False):
    return _variance(x, dim, None, correction, keepdim), jnp.mean(x, _axes(dim), keepdims=keepdim)


def _norm(x, ord=2, dim=None, keepdim=False, dtype=None):
    size, axes = jnp.abs(x), _axes(dim)
    if math.isinf(ord):
        return (size.max if ord > 0 else size.min)(axes, keepdims=keepdim)
    if ord == 0:
        return (size != 0).astype(x.dtype).sum(axes, keepdims=keepdim)
    return _power(_power(size, ord).sum(axes, keepdims=keepdim), 1 / ord)


def _cumulative(function: Callable[..., Array]) -> Callable[..., Array]:
    return lambda x, dim, dtype=None: function(x if dtype is None else x.astype(dtype), axis=dim)


def _top(x, k, dim=-1, largest=True, sorted=True):
    found, places = lax.top_k(jnp.moveaxis(x if largest else -x, dim, -1), k)
    return jnp.moveaxis(found if largest else -found, -1, dim), jnp.moveaxis(places, -1, dim)


def _sort(x, dim=-1, descending=False, stable=False):
    places = jnp.argsort(x, dim, descending=descending)
    return jnp.take_along_axis(x, places, dim), places


def _of_rank_in_order(x, k, dim=-1, keepdim=False):
    """The k-th least along an axis, counted from 1, and where it is."""
    found = (lax.slice_in_dim(each, k - 1, k, axis=dim) for each in _sort(x, dim))
    return tuple(each if keepdim else lax.squeeze(each, [dim]) for each in found)


def _median(x, dim=-1, keepdim=False):
    """Of an even number the lower one of both in the middle."""
    return _of_rank_in_order(x, (x.shape[dim] + 1) // 2, dim, keepdim)


def _cumulative_alone(function: Callable[..., Array]) -> Callable[..., tuple[Array]]:
    """The values without the indices."""
    return lambda x, dim: (function(x, axis=dim % x.ndim),)


def _bucketize(x, boundaries, out_int32=False, right=False):
    return jnp.searchsorted(boundaries, lax.convert_element_type(x, boundaries.dtype), "right" if right else "left")


def _distances(x1, x2, p=2, compute_mode=None):
    return _norm(x1[..., :, None, :] - x2[..., None, :, :], p, -1)


# What moves values.


def _expand(x, size, implicit=False):
    leading = len(size) - x.ndim
    lengths = [x.shape[i - leading] if length == -1 else length for i, length in enumerate(size)]
    return jnp.broadcast_to(x, lengths)


def _squeeze(x, dim=None):
    axes = range(x.ndim) if dim is None else layers.per_axis(dim, 1)
    return lax.squeeze(x, [axis for axis in axes if x.shape[axis] == 1])


def _unsqueeze(x, dim):
    return jnp.expand_dims(x, dim)


def _slice(x, dim=0, start=None, end=None, step=1):
    first, last, _ = slice(start, end).indices(x.shape[dim])
    return lax.slice_in_dim(x, first, max(first, last), step, dim)


def _select(x, dim, index):
    return lax.index_in_dim(x, index, dim, keepdims=False)


def _split(x, split_sizes, dim=0):
    if isinstance(split_sizes, int):
        split_sizes = [min(split_sizes, x.shape[dim] - start) for start in range(0, x.shape[dim], split_sizes)]
    return lax.split(x, split_sizes, dim % x.ndim)


def _cat(tensors, dim=0):
    tensors = [each for each in tensors if each.shape != (0,)]  # PyTorch leaves these out
    return jnp.concatenate(aligned(*tensors), dim)


def _repeat(x, repeats):
    return jnp.tile(x, repeats)


def _roll(x, shifts, dims=()):
    return jnp.roll(x, tuple(shifts), tuple(dims)) if dims else jnp.roll(x, shifts[0])


def _diagonal(x, offset=0, dim1=0, dim2=1):
    return jnp.diagonal(x, offset, dim1, dim2)


def _pad(x, pad, value=0):
    pairs = [(0, 0, 0)] * (x.ndim - len(pad) // 2) + [(*pad[i : i + 2], 0) for i in range(len(pad) - 2, -1, -2)]
    return lax.pad(x, np.asarray(value, x.dtype), pairs)


def _index(x, indices):
    return x[tuple(slice(None) if index is None else index for index in indices)]


def _index_put(x, indices, values, accumulate=False):
    at = x.at[tuple(slice(None) if index is None else index for index in indices)]
    values = lax.convert_element_type(values, x.dtype)
    return at.add(values) if accumulate else at.set(values)


def _index_select(x, dim, index):
    return jnp.take(x, index, dim)


def _gather(x, dim, index, sparse_grad=False):
    return jnp.take_along_axis(x, index, dim)


def _slice_scatter(x, src, dim=0, start=None, end=None, step=1):
    return x.at[(slice(None),) * (dim % x.ndim) + (slice(start, end, step),)].set(
        lax.convert_element_type(src, x.dtype)
    )


def _select_scatter(x, src, dim, index):
    return x.at[(slice(None),) * (dim % x.ndim) + (index,)].set(lax.convert_element_type(src, x.dtype))


def _scatter(x, dim, index, src, reduce="set"):
    places = list(jnp.indices(index.shape, sparse=True))
    places[dim] = index
    values = src[tuple(map(slice, index.shape))] if is_array(src) else src
    return getattr(x.at[tuple(places)], reduce)(lax.convert_element_type(values, x.dtype))


_REDUCTIONS = {"sum": "add", "prod": "multiply", "amax": "max", "amin": "min"}


def _scatter_reduce(x, dim, index, src, reduce, include_self=True):
    if reduce not in _REDUCTIONS or not include_self:
        raise ValueError(f"only {', '.join(_REDUCTIONS)} with include_self=True are known, got {reduce}")
    return _scatter(x, dim, index, src, _REDUCTIONS[reduce])


def _unfold(x, dim, size, step):
    """Windows along an axis, as a last axis."""
    starts = np.arange(0, x.shape[dim] - size + 1, step)
    return jnp.moveaxis(jnp.take(x, starts[:, None] + np.arange(size), dim), dim % x.ndim + 1, -1)


def _embedding(weight, indices, padding_idx=-1, scale_grad_by_freq=False, sparse=False):
    return jnp.take(weight, indices, 0)


def _copy(x, src, non_blocking=False):
    return jnp.broadcast_to(lax.convert_element_type(src, x.dtype), x.shape)


# What makes or converts values.


def _full(size, fill_value, dtype=None, **_):
    return jnp.full(size, fill_value, dtype or _type_of_number(fill_value))


def _full_like(x, fill_value, dtype=None, **_):
    return jnp.full(x.shape, fill_value, dtype or x.dtype)


def _filled_with(value: int) -> Callable[..., Array]:
    return lambda size, dtype=None, **_: jnp.full(size, value, dtype or jnp.float32)


def _filled_like(value: int) -> Callable[..., Array]:
    return lambda x, dtype=None, **_: jnp.full(x.shape, value, dtype or x.dtype)


def _arange(start, end=None, step=1, dtype=None, **_):
    start, end = (0, start) if end is None else (start, end)
    return jnp.arange(start, end, step, dtype or _promoted([*map(_type_of_number, (start, end, step))]))


def _scalar_tensor(value, dtype=None, **_):
    return jnp.asarray(value, dtype or jnp.float32)


def _converted(x, dtype=None, **_):
    return x if dtype is None else lax.convert_element_type(x, dtype)


def _same(x, *_, **__):
    return x


def _nothing(*_, **__):
    """A check of PyTorch's own, which needs nothing here."""


# Products.


def _addmm(bias, x, weight, beta=1, alpha=1):
    product = jnp.matmul(x, weight)
    product = product if alpha == 1 else alpha * product
    return _add(product, bias, beta)


def _trilinear(i1, i2, i3, expand1, expand2, expand3, sumdim, unroll_dim=1):
    operands = [jnp.expand_dims(x, axes) for x, axes in ((i1, expand1), (i2, expand2), (i3, expand3))]
    return jnp.sum(math.prod(operands), tuple(sumdim))


def _softmax(x, dim, half_to_float=False):
    return jax.nn.softmax(x, dim)


def _log_softmax(x, dim, half_to_float=False):
    return jax.nn.log_softmax(x, dim)


def _gelu(x, approximate="none"):
    return jax.nn.gelu(x, approximate=approximate == "tanh")


def _named(module: Any, names: str) -> dict[str, Callable]:
    """Functions that have the same name and arguments there."""
    return {name: getattr(module, name) for name in names.split()}


def _elementwise(names: str) -> dict[str, Callable]:
    return {name: elementwise(getattr(jnp, name)) for name in names.split()}


OPERATIONS: dict[str, Callable] = {
    # elementwise
    **_named(
        jnp,
        "abs acos acosh asin asinh atan atanh ceil cos cosh exp exp2 expm1 floor isfinite isinf isnan log log10 log1p "
        "log2 logical_not bitwise_not reciprocal round sign signbit sin sinh sqrt square tan tanh trunc",
    ),
    **_elementwise(
        "arctan2 bitwise_and bitwise_or bitwise_xor copysign fmax fmin fmod hypot logical_and logical_or logical_xor "
        "maximum minimum remainder"
    ),
    **_named(jax.scipy.special, "digamma erf erfc i0"),
    "erfinv": lax.erf_inv,
    "lgamma": lax.lgamma,
    "ldexp": elementwise(lambda x, other: x * jnp.exp2(other)),
    "__lshift__": elementwise(jnp.left_shift),
    "__rshift__": elementwise(jnp.right_shift),
    "atan2": elementwise(jnp.arctan2),
    "add": _add,
    "sub": _subtract,
    "rsub": lambda x, other, alpha=1: _subtract(other, x, alpha),
    "mul": elementwise(jnp.multiply),
    "div": _divide,
    "floor_divide": lambda x, other: _divide(x, other, "floor"),
    "pow": _power,
    "pow.Scalar": elementwise(jnp.power),
    "neg": jnp.negative,
    "rsqrt": lax.rsqrt,
    "sigmoid": jax.nn.sigmoid,
    "eq": elementwise(jnp.equal),
    "ne": elementwise(jnp.not_equal),
    "lt": elementwise(jnp.less),
    "le": elementwise(jnp.less_equal),
    "gt": elementwise(jnp.greater),
    "ge": elementwise(jnp.greater_equal),
    "where": _where,
    # activations
    "relu": jax.nn.relu,
    "relu6": jax.nn.relu6,
    "hardtanh": _hardtanh,
    "clamp": _clamp,
    "clamp_min": lambda x, min: _clamp(x, min),
    "clamp_max": lambda x, max: _clamp(x, None, max),
    "leaky_relu": _leaky_relu,
    "elu": _elu,
    "gelu": _gelu,
    "silu": jax.nn.silu,
    "mish": jax.nn.mish,
    "softplus": _softplus,
    "rrelu_with_noise_functional": _rrelu_in_inference,
    "hardswish": jax.nn.hard_swish,
    "hardsigmoid": jax.nn.hard_sigmoid,
    "_softmax": _softmax,
    "_log_softmax": _log_softmax,
    # reductions
    "sum": _total(jnp.sum),
    "sum.dim_IntList": reduction(jnp.sum),
    "mean": _total(jnp.mean),
    "mean.dim": reduction(jnp.mean),
    "prod": _total(jnp.prod),
    "prod.dim_int": reduction(jnp.prod),
    "amax": reduction(jnp.max),
    "amin": reduction(jnp.min),
    "any": reduction(jnp.any),
    "all": reduction(jnp.all),
    "argmax": reduction(jnp.argmax),
    "argmin": reduction(jnp.argmin),
    "max": jnp.max,
    "min": jnp.min,
    "max.dim": with_indices(jnp.max, jnp.argmax),
    "min.dim": with_indices(jnp.min, jnp.argmin),
    "var": _variance,
    "var_mean": _variance_and_mean,
    "linalg_vector_norm": _norm,
    "cumsum": _cumulative(jnp.cumsum),
    "cumprod": _cumulative(jnp.cumprod),
    "logcumsumexp": _cumulative(lambda x, axis: lax.cumlogsumexp(x, axis % x.ndim)),
    "cummax": _cumulative_alone(lax.cummax),
    "cummin": _cumulative_alone(lax.cummin),
    "median.dim": _median,
    "kthvalue": _of_rank_in_order,
    "bucketize": _bucketize,
    "_cdist_forward": _distances,
    "topk": _top,
    "sort": _sort,
    # what moves values
    "view": jnp.reshape,
    "view.dtype": lax.bitcast_convert_type,
    "reshape": jnp.reshape,
    "_unsafe_view": jnp.reshape,
    "permute": jnp.transpose,
    "t": jnp.transpose,
    "transpose": jnp.swapaxes,
    "expand": _expand,
    "squeeze": _squeeze,
    "unsqueeze": _unsqueeze,
    "slice": _slice,
    "select": _select,
    "split_with_sizes": _split,
    "split": _split,
    "unbind": lambda x, dim=0: jnp.unstack(x, axis=dim),
    "cat": _cat,
    "stack": lambda tensors, dim=0: jnp.stack(aligned(*tensors), dim),
    "repeat": _repeat,
    "flip": jnp.flip,
    "roll": _roll,
    "diagonal": _diagonal,
    "tril": jnp.tril,
    "triu": jnp.triu,
    "constant_pad_nd": _pad,
    "index": _index,
    "_unsafe_index": _index,
    "index_put": _index_put,
    "index_select": _index_select,
    "gather": _gather,
    "slice_scatter": _slice_scatter,
    "select_scatter": _select_scatter,
    "scatter": _scatter,
    "scatter_add": lambda x, dim, index, src: _scatter(x, dim, index, src, "add"),
    "scatter_reduce": _scatter_reduce,
    "unfold": _unfold,
    "embedding": _embedding,
    "copy": _copy,
    "sym_size": lambda x, dim: x.shape[dim],
    "sym_float": float,
    "sym_int": int,
    "sym_max": max,
    "sym_min": min,
    "sym_sum": sum,
    # what makes or converts values
    "full": _full,
    "full_like": _full_like,
    "empty": _filled_with(0),
    "zeros": _filled_with(0),
    "ones": _filled_with(1),
    "empty_like": _filled_like(0),
    "zeros_like": _filled_like(0),
    "ones_like": _filled_like(1),
    "fill": lambda x, value: jnp.full(x.shape, value, x.dtype),
    "arange": _arange,
    "scalar_tensor": _scalar_tensor,
    "_to_copy": _converted,
    "prims::convert_element_type": _converted,
    "tril_indices": lambda row, col, offset=0, **_: jnp.stack(jnp.tril_indices(row, offset, col)),
    "triu_indices": lambda row, col, offset=0, **_: jnp.stack(jnp.triu_indices(row, offset, col)),
    "clone": _same,
    "alias": _same,
    "detach": _same,
    "contiguous": _same,
    "lift_fresh_copy": _same,
    "_assert_async": _nothing,
    "_assert_scalar": _nothing,
    "_assert_tensor_metadata": _nothing,
    "sym_constrain_range_for_size": _nothing,
    # products and layers
    "mm": jnp.matmul,
    "bmm": jnp.matmul,
    "mv": jnp.matmul,
    "dot": jnp.matmul,
    "matmul": jnp.matmul,
    "addmm": _addmm,
    "baddbmm": _addmm,
    "_trilinear": _trilinear,
    "linear": layers.linear,
    "convolution": layers.convolution,
    "max_pool1d_with_indices": layers.max_pool(1),
    "max_pool2d_with_indices": layers.max_pool(2),
    "max_pool3d_with_indices": layers.max_pool(3),
    "avg_pool1d": layers.avg_pool(1),
    "avg_pool2d": layers.avg_pool(2),
    "avg_pool3d": layers.avg_pool(3),
    **dict.fromkeys(
        "adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d".split(),
        layers.adaptive_pool(jnp.mean),
    ),
    "adaptive_max_pool2d": lambda x, output_size: (layers.adaptive_pool(jnp.max)(x, output_size),),
    "adaptive_max_pool3d": lambda x, output_size: (layers.adaptive_pool(jnp.max)(x, output_size),),
    "_native_batch_norm_legit_no_training": layers.batch_norm_in_inference,
    "_native_batch_norm_legit.no_stats": layers.batch_norm_without_statistics,
    "native_layer_norm": layers.layer_norm,
    "native_group_norm": layers.group_norm,
    "scaled_dot_product_attention": layers.attention,
    "upsample_nearest1d": layers.upsample_nearest,
    "upsample_nearest2d": layers.upsample_nearest,
    "upsample_nearest3d": layers.upsample_nearest,
    "upsample_linear1d": layers.upsample_linear,
    "upsample_bilinear2d": layers.upsample_linear,
    "upsample_trilinear3d": layers.upsample_linear,
    "_upsample_bilinear2d_aa": layers.upsample_smoothly,
}
