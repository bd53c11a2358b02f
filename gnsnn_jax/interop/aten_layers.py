"""Layers among PyTorch's ATen operations in JAX: convolutions, pooling, norms, attention, interpolation.

Arguments are those of the operation, in PyTorch's order; arrays have channels behind the batch, [B, C, ...].
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gnsnn_jax._types import Array
from gnsnn_jax.errors import InputError
from gnsnn_jax.xla.convolution import conv_general_dilated


def per_axis(value: Any, axes: int) -> list[Any]:
    """One value for each axis, where PyTorch takes a number or a list of one for all."""
    values = list(value) if isinstance(value, list | tuple) else [value]
    return values * axes if len(values) == 1 else values


def linear(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """x W^T + b over the last axis; `weight` [O, I]."""
    out = lax.dot_general(x, weight, (((x.ndim - 1,), (1,)), ((), ())))
    return out if bias is None else out + _as_axis(bias, out.ndim, -1)


def _as_axis(vector: Array, ndim: int, axis: int) -> Array:
    """A vector [C] along one axis of an array with `ndim` axes."""
    return lax.broadcast_in_dim(vector, [vector.size if i == axis % ndim else 1 for i in range(ndim)], [axis % ndim])


def convolution(
    x: Array,
    weight: Array,
    bias: Array | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Array:
    axes = weight.ndim - 2
    if x.ndim == weight.ndim - 1:  # no batch
        batch = convolution(x[None], weight, bias, stride, padding, dilation, transposed, output_padding, groups)
        return lax.squeeze(batch, [0])
    stride, padding, dilation, more = (per_axis(each, axes) for each in (stride, padding, dilation, output_padding))
    convolve = _transposed if transposed else _plain
    out = convolve(x, weight, stride, padding, dilation, more, groups)
    return out if bias is None else out + _as_axis(bias, out.ndim, 1)


def _plain(x, weight, stride, padding, dilation, _, groups) -> Array:
    pads = [(pad, pad) for pad in padding]
    return conv_general_dilated(x, weight, stride, pads, rhs_dilation=dilation, feature_group_count=groups)


def _transposed(x, weight, stride, padding, dilation, more, groups) -> Array:
    """The gradient of a convolution with respect to its input; `weight` [I, O / groups, ...]."""
    reach = [rate * (size - 1) for rate, size in zip(dilation, weight.shape[2:], strict=True)]
    pads = [(far - pad, far - pad + extra) for far, pad, extra in zip(reach, padding, more, strict=True)]
    inputs, outputs, *taps = weight.shape
    kernel = jnp.flip(weight, range(2, weight.ndim)).reshape(groups, inputs // groups, outputs, *taps)
    kernel = kernel.swapaxes(1, 2).reshape(groups * outputs, inputs // groups, *taps)
    ones = [1] * len(taps)
    return conv_general_dilated(
        x, kernel, ones, pads, lhs_dilation=stride, rhs_dilation=dilation, feature_group_count=groups
    )


# Pooling over the last axes.


def max_pool(axes: int) -> Callable[..., tuple[Array]]:
    """Max-pooling over so many axes; the indices, its second result, are left out."""

    def apply(x, kernel_size, stride=(), padding=0, dilation=1, ceil_mode=False):
        windows = _windows(x.shape[-axes:], kernel_size, stride, padding, dilation, ceil_mode)
        lowest = -np.inf if jnp.issubdtype(x.dtype, jnp.floating) else int(jnp.iinfo(x.dtype).min)
        return (_reduced(x, lowest, lax.max, windows),)

    return apply


def avg_pool(axes: int) -> Callable[..., Array]:
    """Average pooling over so many axes; windows that tile the map by a reshape, which XLA does faster on CPUs."""

    def apply(x, kernel_size, stride=(), padding=0, ceil_mode=False, count_include_pad=True, divisor_override=None):
        windows = _windows(x.shape[-axes:], kernel_size, stride, padding, 1, ceil_mode)
        if divisor_override is None and all(window.tiles for window in windows):
            return _tiled(x, [window.size for window in windows]).mean(_within_tiles(axes))
        counts = [window.counts(count_include_pad) for window in windows]
        divisors = divisor_override or math.prod(np.ix_(*counts))
        return _divided(_reduced(x, 0, lax.add, windows), np.asarray(divisors))

    return apply


class _Window(NamedTuple):
    """A window along one axis of `length` entries: `padded` of them in front, `beyond` behind, for `outputs`."""

    length: int
    size: int
    stride: int
    padded: int
    dilation: int
    outputs: int

    @property
    def beyond(self) -> int:
        reach = (self.outputs - 1) * self.stride + self.dilation * (self.size - 1) + 1
        return max(reach - self.length - self.padded, 0)

    @property
    def tiles(self) -> bool:
        return self.size == self.stride and self.length % self.size == 0 and not self.padded and self.dilation == 1

    def counts(self, with_padding: bool) -> np.ndarray:
        """How many entries each window holds, in a map with its padding or without."""
        padding = self.padded if with_padding else 0
        starts = np.arange(self.outputs) * self.stride - self.padded
        return np.minimum(starts + self.size, self.length + padding) - np.maximum(starts, -padding)


def _windows(lengths, sizes, strides, padding, dilation, ceil_mode) -> list[_Window]:
    settings = [per_axis(each, len(lengths)) for each in (sizes, strides or sizes, padding, dilation)]
    return [_window(ceil_mode, *each) for each in zip(lengths, *settings, strict=True)]


def _window(ceil_mode, length, size, stride, padding, dilation) -> _Window:
    """Where lengths are rounded up, the last window must begin in the map or the padding in front of it."""
    free = length + 2 * padding - dilation * (size - 1) - 1
    count = (-(-free // stride) if ceil_mode else free // stride) + 1
    is_outside = ceil_mode and (count - 1) * stride >= length + padding
    return _Window(length, size, stride, padding, dilation, count - is_outside)


def _reduced(x: Array, start: Any, reduce: Callable, windows: Sequence[_Window]) -> Array:
    whole = [(1, 1, (0, 0), 1)] * (x.ndim - len(windows))
    per_window = [(each.size, each.stride, (each.padded, each.beyond), each.dilation) for each in windows]
    sizes, strides, padding, dilation = zip(*whole, *per_window, strict=True)
    start = np.asarray(start, x.dtype)[()]
    return lax.reduce_window(x, start, reduce, sizes, strides, padding, window_dilation=dilation)


def _divided(sums: Array, divisors: np.ndarray) -> Array:
    if (divisors == divisors.flat[0]).all():
        return sums / int(divisors.flat[0])
    return sums / jnp.asarray(divisors.reshape([1] * (sums.ndim - divisors.ndim) + [*divisors.shape]), sums.dtype)


def _tiled(x: Array, sizes: Sequence[int]) -> Array:
    """[..., H, W] as [..., H / h, h, W / w, w]."""
    lengths = x.shape[x.ndim - len(sizes) :]
    tiles = [(length // size, size) for length, size in zip(lengths, sizes, strict=True)]
    return x.reshape(*x.shape[: x.ndim - len(sizes)], *itertools.chain(*tiles))


def _within_tiles(axes: int) -> tuple[int, ...]:
    return tuple(range(-1, -2 * axes, -2))


def adaptive_pool(reduce: Callable[..., Array]) -> Callable[[Array, Sequence[int | None]], Array]:
    """Pooling by `jnp.mean` or `jnp.max` to maps of given lengths; windows are boxes, so one axis after the other."""

    def apply(x, output_size):
        if set(output_size) == {1}:
            return reduce(x, axis=tuple(range(-len(output_size), 0)), keepdims=True)
        for axis, size in zip(range(-len(output_size), 0), output_size, strict=True):
            x = x if size in (None, x.shape[axis]) else _adapted(x, axis, size, reduce)
        return x

    return apply


def _adapted(x: Array, axis: int, size: int, reduce: Callable) -> Array:
    length = x.shape[axis]
    bounds = [(i * length // size, -(-(i + 1) * length // size)) for i in range(size)]
    parts = [reduce(lax.slice_in_dim(x, *bound, axis=axis), axis=axis, keepdims=True) for bound in bounds]
    return lax.concatenate(parts, x.ndim + axis)


# Norms; of the results of each the first alone, as the others serve training.


def batch_norm_in_inference(x, weight, bias, mean, variance, momentum, eps) -> tuple[Array]:
    scale = lax.rsqrt(variance + eps)
    scale = scale if weight is None else scale * weight
    out = (x.astype(scale.dtype) - _as_axis(mean, x.ndim, 1)) * _as_axis(scale, x.ndim, 1)
    return ((out if bias is None else out + _as_axis(bias, x.ndim, 1)).astype(x.dtype),)


def batch_norm_without_statistics(x, weight, bias, training, momentum, eps) -> tuple[Array]:
    axes = [axis for axis in range(x.ndim) if axis != 1]
    return (_affine(_normalised(x, axes, eps), weight, bias, 1),)


def layer_norm(x, shape, weight, bias, eps) -> tuple[Array]:
    out = _normalised(x, range(-len(shape), 0), eps)
    leading = [1] * (x.ndim - len(shape))
    out = out if weight is None else out * weight.reshape(*leading, *shape)
    return (out if bias is None else out + bias.reshape(*leading, *shape),)


def group_norm(x, weight, bias, batch, channels, pixels, groups, eps) -> tuple[Array]:
    out = _normalised(x.reshape(x.shape[0], groups, -1), [-1], eps).reshape(x.shape)
    return (_affine(out, weight, bias, 1),)


def _normalised(x: Array, axes: Sequence[int], eps: float) -> Array:
    axes = tuple(axes)
    centred = x - x.mean(axes, keepdims=True)
    return centred * lax.rsqrt(jnp.square(centred).mean(axes, keepdims=True) + eps)


def _affine(x: Array, weight: Array | None, bias: Array | None, axis: int) -> Array:
    x = x if weight is None else x * _as_axis(weight, x.ndim, axis)
    return x if bias is None else x + _as_axis(bias, x.ndim, axis)


# Attention.


def attention(
    query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, *, scale=None, enable_gqa=False
) -> Array:
    """softmax(Q K^T / sqrt(D) + mask) V, with zeros where a mask leaves nothing."""
    if dropout_p:
        raise InputError(f"attention has a dropout of {dropout_p} in eval mode too; give dropout_p=0 to it")
    if enable_gqa:
        groups = query.shape[-3] // key.shape[-3]
        key, value = jnp.repeat(key, groups, -3), jnp.repeat(value, groups, -3)
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = jnp.matmul(query * scale, key.swapaxes(-1, -2))
    mask = jnp.tril(jnp.ones(scores.shape[-2:], bool)) if is_causal else attn_mask
    return jnp.matmul(_attended(scores, mask), value)


def _attended(scores: Array, mask: Array | None) -> Array:
    if mask is None:
        return jax.nn.softmax(scores, -1)
    mask = mask.reshape(*[1] * (scores.ndim - mask.ndim), *mask.shape)
    if mask.dtype != bool:
        return jax.nn.softmax(scores + mask.astype(scores.dtype), -1)
    weights = jax.nn.softmax(jnp.where(mask, scores, jnp.finfo(scores.dtype).min), -1)
    return weights * mask.astype(weights.dtype)


# Interpolation over all axes behind the channels.


def upsample_nearest(x, output_size, scale_factors=None) -> Array:
    for axis, (length, ratio) in enumerate(_scales(x, output_size, scale_factors), start=2):
        if length % x.shape[axis] == 0 and ratio == x.shape[axis] / length:
            x = jnp.repeat(x, length // x.shape[axis], axis)
        else:
            places = np.floor(np.arange(length, dtype=np.float32) * np.float32(ratio)).astype(np.int32)
            x = jnp.take(x, np.minimum(places, x.shape[axis] - 1), axis)
    return x


def upsample_linear(x, output_size, align_corners=False, scale_factors=None) -> Array:
    for axis, (length, ratio) in enumerate(_scales(x, output_size, scale_factors), start=2):
        x = x if length == x.shape[axis] and ratio == 1 else _between(x, axis, length, ratio, align_corners)
    return x


def upsample_smoothly(x, output_size, align_corners=False, scales_h=None, scales_w=None) -> Array:
    """Weighted sums of all entries below the triangle around each place, as wide as what it stands for."""
    if align_corners:
        raise ValueError("antialias=True is known with align_corners=False alone")
    return jax.image.resize(x, (*x.shape[:2], *output_size), "linear", antialias=True)


def _scales(x: Array, output_size: Any, scale_factors: Any) -> list[tuple[int, float]]:
    """For each axis the new length, and how many entries of the old one a step of the new one takes."""
    lengths = x.shape[2:]
    if output_size is None:
        return [(int(length * factor), 1 / factor) for length, factor in zip(lengths, scale_factors, strict=True)]
    return [(int(new), old / new) for old, new in zip(lengths, output_size, strict=True)]


def _between(x: Array, axis: int, length: int, ratio: float, align_corners: bool) -> Array:
    """Weighted sums of the two entries beside each place."""
    last = x.shape[axis] - 1
    if align_corners:
        places = np.arange(length) * (last / max(length - 1, 1))
    else:
        places = np.maximum((np.arange(length) + 0.5) * ratio - 0.5, 0)
    low = np.minimum(np.floor(places).astype(np.int32), last)
    share = _as_axis(jnp.asarray(np.clip(places - low, 0, 1), x.dtype), x.ndim, axis)
    return jnp.take(x, low, axis) * (1 - share) + jnp.take(x, np.minimum(low + 1, last), axis) * share
