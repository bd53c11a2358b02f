"""ONNX's operators in JAX: one table, keyed by the name of the operator.

A function takes the inputs of the operator in ONNX's order, None for one that is left out, and its attributes by
their names. What depends on shapes and constants of the file alone is an array of NumPy, and stays one: so shapes
are computed while JAX traces, for batches of any length. To make another operator known, add it:

    OPERATORS["Name"] = function                     # of another domain than ONNX's own "domain.Name"
    OPERATORS["Name"] = {1: function, 13: another}   # since these operator sets
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gnsnn_jax.errors import InputError
from gnsnn_jax.interop import onnx_layers as layers
from gnsnn_jax.interop import onnx_recurrent as recurrent
from gnsnn_jax.interop.aten import OPERATIONS as ATEN
from gnsnn_jax.interop.aten import aligned
from gnsnn_jax.interop.onnx_program import jax_type
from gnsnn_jax.interop.onnx_values import (
    all_static,
    as_jax,
    axes_of,
    fixed,
    module_of,
    number_or_array,
    numbers,
    static,
)

LARGEST_CONSTANT = 10**6  # entries of a constant that NumPy makes; larger ones are made by the program


def operator_named(name: str, opset: int) -> Callable | None:
    """The function for an operator as it is since the last operator set up to this one."""
    found = OPERATORS.get(name)
    if not isinstance(found, dict):
        return found
    return next((found[since] for since in sorted(found, reverse=True) if since <= opset), None)


# Elementwise.


def elementwise(of_jax: Callable, of_numpy: Callable | None = None) -> Callable:
    """A function of operands that broadcast; on arrays of NumPy alone it is NumPy's."""

    def apply(*operands):
        if of_numpy and all_static(operands):
            return of_numpy(*operands)
        return of_jax(*aligned(*map(number_or_array, _with_an_array(operands))))

    return apply


def _with_an_array(operands: Sequence[Any]) -> list[Any]:
    """Operands of which at least one is an array of JAX."""
    return [as_jax(operands[0]), *operands[1:]] if all_static(operands) else list(operands)


def _same_in_both(names: str) -> dict[str, Callable]:
    return {name: elementwise(getattr(jnp, name), getattr(np, name)) for name in names.split()}


_BOTH = _same_in_both(
    "abs add ceil equal exp floor fmod greater greater_equal less less_equal log logical_and logical_not logical_or "
    "logical_xor maximum minimum multiply negative remainder round sign sqrt subtract"
)


def _divide(x, other):
    if jnp.issubdtype(getattr(x, "dtype", object), jnp.floating):
        return elementwise(jnp.true_divide, np.true_divide)(x, other)
    return elementwise(lax.div, _divide_integers)(*_same_shapes(x, other))


def _same_shapes(x, other):
    return (x, other) if all_static((x, other)) else jnp.broadcast_arrays(*aligned(as_jax(x), as_jax(other)))


def _divide_integers(x, other):
    """Towards zero; lengths of symbolic shapes are never negative."""
    quotient = np.floor_divide(x, other)
    if not np.issubdtype(getattr(quotient, "dtype", object), np.integer):
        return quotient
    return quotient + ((np.remainder(x, other) != 0) & ((x < 0) != (other < 0)))


def _power(x, exponent):
    if all_static((x, exponent)):
        return np.power(x, exponent).astype(x.dtype)
    exponent = number_or_array(exponent)
    if isinstance(exponent, np.ndarray | jax.Array) or not jnp.issubdtype(x.dtype, jnp.floating):
        return elementwise(jnp.power)(x, exponent).astype(x.dtype)
    return ATEN["pow"](x, exponent)


def _mod(x, other, fmod=0):
    return _BOTH["fmod" if fmod else "remainder"](x, other)


def _variadic(of_two: Callable) -> Callable:
    return lambda *operands: reduce(of_two, operands)


def _mean_of(*operands):
    return _variadic(_BOTH["add"])(*operands) / len(operands)


def _where(condition, x, other):
    if all_static((condition, x, other)):
        return np.where(condition, x, other)
    x, other = _with_an_array((x, other))
    return ATEN["where"](as_jax(condition), *map(number_or_array, (x, other)))


def _clip(x, min=None, max=None):
    if all_static(each for each in (x, min, max) if each is not None):
        return np.clip(x, min, max)
    low, high = (None if each is None else number_or_array(each) for each in (min, max))
    if low is None and high is None:
        return x
    if low is None or high is None or isinstance(low, jax.Array) or isinstance(high, jax.Array):
        return ATEN["clamp"](x, low, high)
    return ATEN["hardtanh"](x, low, high)


def _cast(x, to, saturate=1, round_mode="up"):
    if isinstance(x, np.ndarray):
        return x if x.dtype == object and np.issubdtype(to, np.integer) else x.astype(to)
    return lax.convert_element_type(x, jax_type(to))


def _cast_like(x, other, saturate=1, round_mode="up"):
    return _cast(x, other.dtype)


def _is_infinite(x, detect_negative=1, detect_positive=1):
    return jnp.isinf(x) & (((x < 0) & bool(detect_negative)) | ((x > 0) & bool(detect_positive)))


# Activations.


def _hard_sigmoid(x, alpha=0.2, beta=0.5):
    return jnp.clip(x * alpha + beta, 0, 1)


def _selu(x, alpha=1.6732632423543772, gamma=1.0507009873554805):
    return ATEN["elu"](x, alpha, gamma)


def _parametric_relu(x, slope):
    return _where(x > 0, x, _BOTH["multiply"](x, slope))


def _thresholded(x, alpha=1.0):
    return jnp.where(x > alpha, x, 0)


def _gelu(x, approximate="none"):
    return jax.nn.gelu(x, approximate=approximate == "tanh")


def _over_all_behind(function: Callable) -> Callable:
    """Before operator set 13 softmax runs over all axes from `axis` on as one."""

    def apply(x, axis=1):
        shape = x.shape
        return function(x.reshape(*shape[: axis % len(shape)], -1), -1).reshape(shape)

    return apply


def _along(function: Callable) -> Callable:
    return lambda x, axis=-1: function(x, axis)


# Reductions.


def reduction(name: str, before: Callable | None = None, after: Callable | None = None) -> Callable:
    """Over `axes`, which are an attribute or, in newer operator sets, an input; over all without them."""

    def apply(x, axes=None, keepdims=1, noop_with_empty_axes=0):
        axes = axes_of(axes)
        if not axes and noop_with_empty_axes:
            return x
        x = before(x) if before else x
        out = getattr(module_of(x), name)(x, axis=axes or None, keepdims=bool(keepdims))
        return after(out) if after else out

    return apply


def _arg(name: str) -> Callable:
    def apply(x, axis=0, keepdims=1, select_last_index=0):
        find = getattr(module_of(x), name)
        if not select_last_index:
            return find(x, axis=axis, keepdims=bool(keepdims))
        return x.shape[axis] - 1 - find(module_of(x).flip(x, axis), axis=axis, keepdims=bool(keepdims))

    return apply


def _top(x, k, axis=-1, largest=1, sorted=1):
    return ATEN["topk"](as_jax(x), numbers(k, "the number of the largest")[0], axis, bool(largest))


def _cumulative_sum(x, axis, exclusive=0, reverse=0):
    (axis,) = numbers(axis, "the axis of a cumulative sum")
    xp = module_of(x)
    x = xp.flip(x, axis) if reverse else x
    out = xp.cumsum(x, axis, dtype=x.dtype)
    out = out - x if exclusive else out
    return xp.flip(out, axis) if reverse else out


# Shapes.


def _shape(x, start=0, end=None):
    return static(x.shape[slice(start, end)])


def _size(x):
    return static(math.prod(x.shape))


def _reshape(x, shape, allowzero=0):
    lengths = numbers(shape, "a shape")
    if not allowzero:
        lengths = [x.shape[i] if isinstance(n, int) and n == 0 else n for i, n in enumerate(lengths)]
    return module_of(x).reshape(x, tuple(lengths))


def _flatten(x, axis=1):
    axis = axis + x.ndim if axis < 0 else axis
    return module_of(x).reshape(x, (math.prod(x.shape[:axis]), -1))


def _expand(x, shape):
    lengths = numbers(shape, "a shape")
    ndim = max(x.ndim, len(lengths))
    pairs = zip([1] * (ndim - x.ndim) + list(x.shape), [1] * (ndim - len(lengths)) + lengths, strict=True)
    lengths = [wanted if isinstance(own, int) and own == 1 else own for own, wanted in pairs]
    if isinstance(x, np.ndarray) and all(isinstance(each, int) for each in lengths):
        return np.broadcast_to(x, lengths)
    return jnp.broadcast_to(as_jax(x), lengths)


def _squeeze(x, axes=None):
    axes = [i for i, n in enumerate(x.shape) if isinstance(n, int) and n == 1] if axes is None else axes_of(axes)
    return module_of(x).squeeze(x, tuple(axes))


def _unsqueeze(x, axes):
    return module_of(x).expand_dims(x, axes_of(axes))


def _transpose(x, perm=None):
    return module_of(x).transpose(x, perm)


def _concatenate(*parts, axis):
    if all_static(parts):
        return np.concatenate(parts, axis)
    return jnp.concatenate(aligned(*map(as_jax, parts)), axis)


def _split(x, split=None, axis=0, num_outputs=None):
    if split is None:
        length = -(-x.shape[axis] // num_outputs)
        split = [min(length, x.shape[axis] - length * i) for i in range(num_outputs)]
    bounds = np.cumsum([0, *numbers(split, "the lengths of parts")]).tolist()
    return tuple(_cut(x, axis, first, last) for first, last in itertools.pairwise(bounds))


def _cut(x, axis, first, last, step=1):
    """From `first` to `last` along an axis, backwards where `step` is negative."""
    if isinstance(x, np.ndarray):
        return x[(slice(None),) * (axis % x.ndim) + (slice(first, None if last < 0 else last, step),)]
    if step > 0:
        return lax.slice_in_dim(x, first, max(first, last), step, axis)
    end = x.shape[axis] - 1
    return lax.slice_in_dim(lax.rev(x, [axis % x.ndim]), end - first, max(end - first, end - last), -step, axis)


def _slice(x, starts, ends, axes=None, steps=None):
    starts, ends = numbers(starts, "the start of a slice"), numbers(ends, "the end of a slice")
    axes = range(len(starts)) if axes is None else axes_of(axes)
    steps = [1] * len(starts) if steps is None else numbers(steps, "the step of a slice")
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        x = _sliced(x, axis, start, end, step)
    return x


def _sliced(x, axis, start, end, step):
    length = x.shape[axis]
    if (start, step) == (0, 1) and (end is length or (isinstance(end, int) and end >= np.iinfo(np.int32).max)):
        return x
    first, last = (at + length if at < 0 else at for at in (start, end))
    if step > 0:
        return _cut(x, axis, min(max(first, 0), length), min(max(last, 0), length), step)
    return _cut(x, axis, min(max(first, 0), length - 1), min(max(last, -1), length - 1), step)


def _gather(x, indices, axis=0):
    if all_static((x, indices)):
        return np.take(x, indices, axis)
    if isinstance(indices, np.ndarray) and not indices.ndim:
        return lax.index_in_dim(x, int(indices), axis, keepdims=False)
    return jnp.take(as_jax(x), as_jax(indices), axis)


def _gather_elements(x, indices, axis=0):
    lengths = [x.shape[i] if i == axis % x.ndim else length for i, length in enumerate(indices.shape)]
    return jnp.take_along_axis(as_jax(x)[tuple(map(slice, lengths))], as_jax(indices), axis)


def _gather_nd(x, indices, batch_dims=0):
    if batch_dims:
        return jax.vmap(lambda x, indices: _gather_nd(x, indices, batch_dims - 1))(as_jax(x), as_jax(indices))
    return as_jax(x)[tuple(jnp.moveaxis(as_jax(indices), -1, 0))]


def _scatter_nd(x, indices, updates, reduction="none"):
    at = as_jax(x).at[tuple(jnp.moveaxis(as_jax(indices), -1, 0))]
    return _placed(at, updates, reduction)


def _scatter_elements(x, indices, updates, axis=0, reduction="none"):
    places = list(jnp.indices(indices.shape, sparse=True))
    places[axis] = as_jax(indices)
    return _placed(as_jax(x).at[tuple(places)], updates, reduction)


def _placed(at, updates, reduction):
    put = {"none": at.set, "add": at.add, "mul": at.multiply, "max": at.max, "min": at.min}[reduction]
    return put(as_jax(updates))


def _tile(x, repeats):
    return module_of(x).tile(x, tuple(numbers(repeats, "a number of repetitions")))


def _pad(x, pads, value=None, axes=None, mode="constant"):
    pads = numbers(pads, "padding")
    axes = range(x.ndim) if axes is None else axes_of(axes)
    pairs = dict(zip([axis % x.ndim for axis in axes], zip(pads[: len(axes)], pads[len(axes) :], strict=True)))  # noqa: B905
    pairs = [pairs.get(axis, (0, 0)) for axis in range(x.ndim)]
    if mode == "constant":
        value = jnp.zeros((), x.dtype) if value is None else as_jax(value).reshape(()).astype(x.dtype)
        return lax.pad(as_jax(x), value, [(*pair, 0) for pair in pairs])
    return jnp.pad(x, pairs, {"reflect": "reflect", "edge": "edge", "wrap": "wrap"}[mode])


def _triangle(x, k=None, upper=1):
    diagonal = 0 if k is None else numbers(k, "a diagonal")[0]
    return (module_of(x).triu if upper else module_of(x).tril)(x, diagonal)


# What makes values.


def _filled(shape, value=None):
    lengths = numbers(shape, "a shape")
    value = np.zeros(1, np.float32) if value is None else value
    if any(not isinstance(n, int) for n in lengths) or math.prod(lengths) > LARGEST_CONSTANT:
        return jnp.full(lengths, as_jax(value.reshape(())))
    return np.full(lengths, value.reshape(()))


def _range(start, limit, delta):
    bounds = [numbers(each, "the bounds of a range")[0] for each in (start, limit, delta)]
    if all(isinstance(each, int | float) for each in bounds):
        return np.arange(*bounds, dtype=fixed(start, "").dtype if start.dtype != object else None)
    return jnp.arange(*bounds)


def _one_hot(indices, depth, values, axis=-1):
    (depth,) = numbers(depth, "the depth of a one-hot encoding")
    off, on = (as_jax(values)[i] for i in (0, 1))
    indices = jnp.where(as_jax(indices) < 0, as_jax(indices) + depth, as_jax(indices))
    return jnp.where(jax.nn.one_hot(indices, depth, dtype=bool, axis=axis), on, off)


def _eye_like(x, dtype=None, k=0):
    return np.eye(*x.shape, k=k, dtype=x.dtype if dtype is None else dtype)


def _nonzero(x):
    return np.stack(np.nonzero(fixed(x, "the places of what is not zero"))).astype(np.int64)


# Products.


def _matmul(x, other):
    return np.matmul(x, other) if all_static((x, other)) else jnp.matmul(*map(as_jax, (x, other)))


def _gemm(x, weight, bias=None, alpha=1.0, beta=1.0, transA=0, transB=0):
    x, weight = as_jax(x), as_jax(weight)
    weight = weight if transB else weight.T
    out = ATEN["linear"](x.T if transA else x, weight)
    out = out if alpha == 1 else out * alpha
    return out if bias is None else _BOTH["add"](out, bias if beta == 1 else bias * np.asarray(beta, bias.dtype)[()])


def _einsum(*operands, equation):
    return jnp.einsum(equation, *map(as_jax, operands))


def _same(x, *_, **__):
    return x


def _dropout(x, ratio=None, training_mode=None, seed=None):
    if training_mode is not None and bool(fixed(training_mode, "the mode of dropout").any()):
        raise InputError("dropout is in training mode; export the network in inference mode")
    return x, np.ones((), bool)


def _unary(names: str, module: Any = jnp) -> dict[str, Callable]:
    """Functions of ONNX's names in lower case."""
    return {name: _on_jax(getattr(module, name.lower())) for name in names.split()}


def _on_jax(function: Callable) -> Callable:
    return lambda x, *rest, **attributes: function(as_jax(x), *rest, **attributes)


OPERATORS: dict[str, Callable | dict[int, Callable]] = {
    # elementwise
    **_unary("Acos Acosh Asin Asinh Atan Atanh Cos Cosh Reciprocal Sin Sinh Tan Tanh IsNaN"),
    "Abs": _BOTH["abs"],
    "Add": _BOTH["add"],
    "And": _BOTH["logical_and"],
    "BitwiseAnd": elementwise(jnp.bitwise_and, np.bitwise_and),
    "BitwiseNot": elementwise(jnp.bitwise_not, np.bitwise_not),
    "BitwiseOr": elementwise(jnp.bitwise_or, np.bitwise_or),
    "BitwiseXor": elementwise(jnp.bitwise_xor, np.bitwise_xor),
    "Cast": _cast,
    "CastLike": _cast_like,
    "Ceil": _BOTH["ceil"],
    "Clip": _clip,
    "Div": _divide,
    "Equal": _BOTH["equal"],
    "Erf": _on_jax(jax.scipy.special.erf),
    "Exp": _BOTH["exp"],
    "Floor": _BOTH["floor"],
    "Greater": _BOTH["greater"],
    "GreaterOrEqual": _BOTH["greater_equal"],
    "IsInf": _on_jax(_is_infinite),
    "Less": _BOTH["less"],
    "LessOrEqual": _BOTH["less_equal"],
    "Log": _BOTH["log"],
    "Max": _variadic(_BOTH["maximum"]),
    "Mean": _mean_of,
    "Min": _variadic(_BOTH["minimum"]),
    "Mod": _mod,
    "Mul": _BOTH["multiply"],
    "Neg": _BOTH["negative"],
    "Not": _BOTH["logical_not"],
    "Or": _BOTH["logical_or"],
    "Pow": _power,
    "Round": _BOTH["round"],
    "Sign": _BOTH["sign"],
    "Sqrt": _BOTH["sqrt"],
    "Sub": _BOTH["subtract"],
    "Sum": _variadic(_BOTH["add"]),
    "Where": _where,
    "Xor": _BOTH["logical_xor"],
    # activations
    "Celu": _on_jax(lambda x, alpha=1.0: ATEN["elu"](x, alpha, 1, 1 / alpha)),
    "Elu": _on_jax(lambda x, alpha=1.0: ATEN["elu"](x, alpha)),
    "Gelu": _on_jax(_gelu),
    "HardSigmoid": _on_jax(_hard_sigmoid),
    "HardSwish": _on_jax(jax.nn.hard_swish),
    "LeakyRelu": _on_jax(lambda x, alpha=0.01: ATEN["leaky_relu"](x, alpha)),
    "LogSoftmax": {1: _over_all_behind(jax.nn.log_softmax), 13: _along(jax.nn.log_softmax)},
    "Mish": _on_jax(jax.nn.mish),
    "PRelu": _on_jax(_parametric_relu),
    "Relu": _on_jax(jax.nn.relu),
    "Selu": _on_jax(_selu),
    "Sigmoid": _on_jax(jax.nn.sigmoid),
    "Softmax": {1: _over_all_behind(jax.nn.softmax), 13: _along(jax.nn.softmax)},
    "Softplus": _on_jax(jax.nn.softplus),
    "Softsign": _on_jax(jax.nn.soft_sign),
    "Swish": _on_jax(lambda x, alpha=1.0: x * jax.nn.sigmoid(x if alpha == 1 else x * alpha)),
    "ThresholdedRelu": _on_jax(_thresholded),
    # reductions
    "ArgMax": _arg("argmax"),
    "ArgMin": _arg("argmin"),
    "CumSum": _cumulative_sum,
    "ReduceL1": reduction("sum", before=abs),
    "ReduceL2": reduction("sum", before=lambda x: x * x, after=_BOTH["sqrt"]),
    "ReduceLogSum": reduction("sum", after=_BOTH["log"]),
    "ReduceLogSumExp": reduction("sum", before=_BOTH["exp"], after=_BOTH["log"]),
    "ReduceMax": reduction("max"),
    "ReduceMean": reduction("mean"),
    "ReduceMin": reduction("min"),
    "ReduceProd": reduction("prod"),
    "ReduceSum": reduction("sum"),
    "ReduceSumSquare": reduction("sum", before=lambda x: x * x),
    "TopK": _top,
    # shapes, and what moves values
    "Concat": _concatenate,
    "DepthToSpace": _on_jax(layers.depth_to_space),
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "Identity": _same,
    "Pad": _pad,
    "Reshape": _reshape,
    "ScatterElements": _scatter_elements,
    "ScatterND": _scatter_nd,
    "Shape": _shape,
    "Size": _size,
    "Slice": _slice,
    "SpaceToDepth": _on_jax(layers.space_to_depth),
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Trilu": _triangle,
    "Unsqueeze": _unsqueeze,
    # what makes values
    "ConstantOfShape": _filled,
    "EyeLike": _eye_like,
    "NonZero": _nonzero,
    "OneHot": _one_hot,
    "Range": _range,
    # products and layers
    "AveragePool": layers.average_pool,
    "BatchNormalization": layers.batch_norm,
    "Conv": layers.convolution,
    "ConvTranspose": layers.transposed_convolution,
    "Dropout": _dropout,
    "Einsum": _einsum,
    "Gemm": _gemm,
    "GlobalAveragePool": layers.global_pool(jnp.mean),
    "GlobalMaxPool": layers.global_pool(jnp.max),
    "GroupNormalization": {18: layers.group_norm_by_group, 21: layers.group_norm},
    "GRU": recurrent.gru,
    "InstanceNormalization": layers.instance_norm,
    "LayerNormalization": layers.layer_norm,
    "LpNormalization": _on_jax(layers.lp_norm),
    "LRN": _on_jax(layers.local_response_norm),
    "LSTM": recurrent.lstm,
    "MatMul": _matmul,
    "MaxPool": layers.max_pool,
    "MeanVarianceNormalization": _on_jax(layers.mean_variance_norm),
    "Resize": {11: layers.resize},
    "RNN": recurrent.rnn,
    "Upsample": layers.upsample,
}
