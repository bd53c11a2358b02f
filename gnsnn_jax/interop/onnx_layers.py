"""Layers among ONNX's operators in JAX: convolutions, pooling, norms, interpolation.

Arguments are the inputs of an operator and its attributes by name; arrays have channels behind the batch, [B, C, ...].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

from gnsnn_jax._types import Array
from gnsnn_jax.errors import InputError, shown
from gnsnn_jax.interop import aten_layers as aten
from gnsnn_jax.interop.onnx_values import as_jax, axes_of, numbers
from gnsnn_jax.xla.convolution import conv_general_dilated

Pads = list[tuple[int, int]]


class Window(NamedTuple):
    """What convolutions and pooling have in common, one value for each axis of a map.

    padding    in front and behind, without what `ceil_mode` adds
    """

    lengths: Sequence[int]
    sizes: Sequence[int]
    strides: Sequence[int]
    dilations: Sequence[int]
    padding: Pads

    @property
    def reach(self) -> list[int]:
        """How many entries a window spans."""
        return [rate * (size - 1) + 1 for size, rate in zip(self.sizes, self.dilations, strict=True)]

    def outputs(self, ceil_mode: bool) -> list[int]:
        """How many windows there are; with `ceil_mode` the last one must begin in the map or in front of it."""
        counts = []
        for length, span, stride, (front, behind) in zip(
            self.lengths, self.reach, self.strides, self.padding, strict=True
        ):
            free = length + front + behind - span
            count = (-(-free // stride) if ceil_mode else free // stride) + 1
            counts.append(count - (ceil_mode and (count - 1) * stride >= length + front))
        return counts


def window(x: Array, sizes, strides, dilations, pads, auto_pad) -> Window:
    axes = len(sizes)
    strides, dilations = strides or [1] * axes, dilations or [1] * axes
    lengths = x.shape[2:]
    found = Window(lengths, sizes, strides, dilations, _pairs(pads, axes))
    if auto_pad in ("NOTSET", "", "VALID"):
        return found._replace(padding=_pairs([], axes)) if auto_pad == "VALID" else found
    if auto_pad not in ("SAME_UPPER", "SAME_LOWER"):
        raise InputError(f"auto_pad is {shown(auto_pad)}, which ONNX does not have")
    needed = [
        max((-(-length // stride) - 1) * stride + span - length, 0)
        for length, stride, span in zip(lengths, strides, found.reach, strict=True)
    ]
    return found._replace(padding=_halves(needed, auto_pad))


def _pairs(pads: Sequence[int] | None, axes: int) -> Pads:
    return list(zip(pads[:axes], pads[axes:], strict=True)) if pads else [(0, 0)] * axes


def _halves(totals: Sequence[int], auto_pad: str) -> Pads:
    """On both sides alike; of an odd number the larger part behind, or in front for SAME_LOWER."""
    pairs = [(total // 2, total - total // 2) for total in totals]
    return [pair[::-1] for pair in pairs] if auto_pad == "SAME_LOWER" else pairs


def _with_bias(x: Array, bias: Any) -> Array:
    return x if bias is None else x + along(bias, x.ndim, 1)


def along(vector: Any, ndim: int, axis: int) -> Array:
    """A vector [C] along one axis of an array with `ndim` axes."""
    return as_jax(vector).reshape([-1 if i == axis % ndim else 1 for i in range(ndim)])


def convolution(
    x, weight, bias=None, *, auto_pad="NOTSET", dilations=None, group=1, kernel_shape=None, pads=None, strides=None
) -> Array:
    x, weight = as_jax(x), as_jax(weight)
    found = window(x, weight.shape[2:], strides, dilations, pads, auto_pad)
    out = conv_general_dilated(
        x, weight, found.strides, found.padding, rhs_dilation=found.dilations, feature_group_count=group
    )
    return _with_bias(out, bias)


def transposed_convolution(
    x, weight, bias=None, *, auto_pad="NOTSET", dilations=None, group=1, kernel_shape=None, output_padding=None,
    output_shape=None, pads=None, strides=None,
) -> Array:  # fmt: skip
    x, weight = as_jax(x), as_jax(weight)
    axes = weight.ndim - 2
    more = output_padding or [0] * axes
    found = Window(
        x.shape[2:], weight.shape[2:], strides or [1] * axes, dilations or [1] * axes, _pairs(pads, axes)
    )  # fmt: skip
    if output_shape or auto_pad.startswith("SAME"):
        wanted = output_shape or [n * stride for n, stride in zip(found.lengths, found.strides, strict=True)]
        full = [
            stride * (length - 1) + extra + span
            for length, stride, extra, span in zip(found.lengths, found.strides, more, found.reach, strict=True)
        ]
        totals = [one - other for one, other in zip(full, wanted[-axes:], strict=True)]
        found = found._replace(padding=_halves(totals, "SAME_UPPER" if auto_pad == "SAME_UPPER" else "SAME_LOWER"))
    fronts = [front for front, _ in found.padding]
    more = [extra + front - behind for extra, (front, behind) in zip(more, found.padding, strict=True)]
    out = aten.convolution(x, weight, None, found.strides, fronts, found.dilations, True, more, group)
    return _with_bias(out, bias)


# Pooling.


def max_pool(
    x, *, kernel_shape, auto_pad="NOTSET", ceil_mode=0, dilations=None, pads=None, storage_order=0, strides=None
) -> tuple[Array]:
    """The maxima; the places of them, a second output, are left out."""
    x = as_jax(x)
    found = window(x, kernel_shape, strides, dilations, pads, auto_pad)
    lowest = -np.inf if jnp.issubdtype(x.dtype, jnp.floating) else int(jnp.iinfo(x.dtype).min)
    return (_reduced(x, lowest, lax.max, found, bool(ceil_mode)),)


def average_pool(
    x, *, kernel_shape, auto_pad="NOTSET", ceil_mode=0, count_include_pad=0, dilations=None, pads=None, strides=None
) -> Array:
    """Windows that tile the map by a reshape, which XLA does faster on CPUs."""
    x = as_jax(x)
    found = window(x, kernel_shape, strides, dilations, pads, auto_pad)
    if found.padding == [(0, 0)] * len(kernel_shape) and set(found.dilations) == {1} and not ceil_mode:
        return aten.avg_pool(len(kernel_shape))(x, list(kernel_shape), list(found.strides))
    divisors = _counts(found, bool(ceil_mode), bool(count_include_pad))
    sums = _reduced(x, 0, lax.add, found, bool(ceil_mode))
    if (divisors == divisors.flat[0]).all():
        return sums / int(divisors.flat[0])
    return sums / jnp.asarray(divisors[None, None], sums.dtype)


def _counts(found: Window, ceil_mode: bool, with_padding: bool) -> np.ndarray:
    """How many entries each window holds, in a map with its padding or without."""
    counts = []
    for axis, outputs in enumerate(found.outputs(ceil_mode)):
        front, behind = found.padding[axis]
        first = np.arange(outputs)[:, None] * found.strides[axis] - front
        places = first + np.arange(found.sizes[axis]) * found.dilations[axis]
        low, high = (-front, found.lengths[axis] + behind) if with_padding else (0, found.lengths[axis])
        counts.append(((places >= low) & (places < high)).sum(1))
    return reduce(np.multiply, np.ix_(*counts))


def _reduced(x: Array, start: Any, combine: Callable, found: Window, ceil_mode: bool) -> Array:
    padding = [(0, 0), (0, 0)]
    for axis, outputs in enumerate(found.outputs(ceil_mode)):
        front, behind = found.padding[axis]
        end = (outputs - 1) * found.strides[axis] + found.reach[axis] - found.lengths[axis] - front
        padding.append((front, max(end, behind)))
    whole = (1, 1)
    start = np.asarray(start, x.dtype)[()]
    shape, strides, rates = ((*whole, *each) for each in (found.sizes, found.strides, found.dilations))
    return lax.reduce_window(x, start, combine, shape, strides, padding, window_dilation=rates)


def global_pool(pool: Callable[..., Array]) -> Callable[[Any], Array]:
    def apply(x):
        x = as_jax(x)
        return pool(x, axis=tuple(range(2, x.ndim)), keepdims=True)

    return apply


# Norms.


def batch_norm(
    x, scale, bias, mean, variance, *, epsilon=1e-5, momentum=0.9, training_mode=0, spatial=1
) -> tuple[Array]:
    if training_mode:
        raise InputError("the norm is in training mode; export the network in inference mode")
    x, scale, bias, mean, variance = map(as_jax, (x, scale, bias, mean, variance))
    return aten.batch_norm_in_inference(x, scale, bias, mean, variance, momentum, epsilon)


def instance_norm(x, scale, bias, *, epsilon=1e-5) -> Array:
    return group_norm(x, scale, bias, num_groups=x.shape[1], epsilon=epsilon)


def group_norm(x, scale, bias, *, num_groups, epsilon=1e-5, stash_type=1) -> Array:
    """`scale` and `bias` [C]."""
    x, scale, bias = map(as_jax, (x, scale, bias))
    return aten.group_norm(x, scale, bias, x.shape[0], x.shape[1], None, num_groups, epsilon)[0]


def group_norm_by_group(x, scale, bias, *, num_groups, epsilon=1e-5) -> Array:
    """`scale` and `bias` [groups], as before operator set 21."""
    channels = x.shape[1] // num_groups
    scale, bias = (jnp.repeat(as_jax(each), channels) for each in (scale, bias))
    return group_norm(x, scale, bias, num_groups=num_groups, epsilon=epsilon)


def layer_norm(x, scale, bias=None, *, axis=-1, epsilon=1e-5, stash_type=1) -> tuple[Array]:
    x = as_jax(x)
    shape = x.shape[axis:]
    whole = lambda each: jnp.broadcast_to(as_jax(each), shape)
    return aten.layer_norm(x, shape, whole(scale), None if bias is None else whole(bias), epsilon)


def lp_norm(x, axis=-1, p=2) -> Array:
    size = jnp.abs(x) if p == 1 else jnp.square(x)
    total = size.sum(axis, keepdims=True)
    return x / (total if p == 1 else jnp.sqrt(total))


def mean_variance_norm(x, axes=(0, 2, 3)) -> Array:
    axes = axes_of(axes)
    centred = x - x.mean(axes, keepdims=True)
    return centred / (jnp.sqrt(jnp.square(centred).mean(axes, keepdims=True)) + 1e-9)


def local_response_norm(x, size, alpha=1e-4, beta=0.75, bias=1.0) -> Array:
    """x / (bias + alpha / size * sum of squares over `size` channels)^beta."""
    front = (size - 1) // 2
    shape = [size if axis == 1 else 1 for axis in range(x.ndim)]
    padding = [(front, size - 1 - front) if axis == 1 else (0, 0) for axis in range(x.ndim)]
    start = np.asarray(0, x.dtype)[()]
    total = lax.reduce_window(jnp.square(x), start, lax.add, shape, [1] * x.ndim, padding)
    return x / (bias + alpha / size * total) ** beta


# Channels for pixels.


def depth_to_space(x, blocksize, mode="DCR") -> Array:
    batch, channels, height, width = x.shape
    depth = channels // blocksize**2
    if mode == "DCR":
        x = x.reshape(batch, blocksize, blocksize, depth, height, width).transpose(0, 3, 4, 1, 5, 2)
    else:
        x = x.reshape(batch, depth, blocksize, blocksize, height, width).transpose(0, 1, 4, 2, 5, 3)
    return x.reshape(batch, depth, height * blocksize, width * blocksize)


def space_to_depth(x, blocksize) -> Array:
    batch, channels, height, width = x.shape
    tiles = x.reshape(batch, channels, height // blocksize, blocksize, width // blocksize, blocksize)
    return tiles.transpose(0, 3, 5, 1, 2, 4).reshape(batch, -1, height // blocksize, width // blocksize)


# Interpolation.

_PLACES: dict[str, Callable[[np.ndarray, float, int, int], np.ndarray]] = {
    "half_pixel": lambda at, scale, old, new: (at + 0.5) / scale - 0.5,
    "pytorch_half_pixel": lambda at, scale, old, new: (at + 0.5) / scale - 0.5 if new > 1 else 0 * at,
    "align_corners": lambda at, scale, old, new: at * ((old - 1) / max(new - 1, 1)),
    "asymmetric": lambda at, scale, old, new: at / scale,
    "tf_half_pixel_for_nn": lambda at, scale, old, new: (at + 0.5) / scale,
}
_NEAREST: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "round_prefer_floor": lambda at: np.ceil(at - 0.5),
    "round_prefer_ceil": lambda at: np.floor(at + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}


def resize(
    x, roi=None, scales=None, sizes=None, *, antialias=0, axes=None, coordinate_transformation_mode="half_pixel",
    cubic_coeff_a=-0.75, exclude_outside=0, extrapolation_value=0.0, keep_aspect_ratio_policy="stretch",
    mode="nearest", nearest_mode="round_prefer_floor",
) -> Array:  # fmt: skip
    known = mode in ("nearest", "linear") and coordinate_transformation_mode in _PLACES
    if not known or antialias or keep_aspect_ratio_policy != "stretch":
        raise InputError(
            f"it resizes by {mode} interpolation ({coordinate_transformation_mode}"
            f"{', antialias' * bool(antialias)}), of which nearest and linear without antialias are known here"
        )
    x = as_jax(x)
    along_axes = range(x.ndim) if axes is None else axes_of(axes)
    by_size = sizes is not None and sizes.size > 0
    for axis, wanted in zip(along_axes, numbers(sizes if by_size else scales, "a size or scale"), strict=True):
        old = x.shape[axis]
        if wanted == (old if by_size else 1):
            continue
        new, scale = (wanted, wanted / old) if by_size else (math.floor(old * wanted), wanted)
        places = _PLACES[coordinate_transformation_mode](np.arange(new, dtype=np.float64), scale, old, new)
        x = _taken(x, axis, places, _NEAREST[nearest_mode] if mode == "nearest" else None)
    return x


def _taken(x: Array, axis: int, places: np.ndarray, rounded: Callable[[np.ndarray], np.ndarray] | None) -> Array:
    """The entries nearest to places, or sums of the two entries beside each, weighted by their distance."""
    last = x.shape[axis] - 1
    entries = lambda at: jnp.take(x, jnp.asarray(np.clip(at, 0, last).astype(np.int32)), axis)
    if rounded:
        return entries(rounded(places))
    places = np.clip(places, 0, last)
    low = np.floor(places)
    share = along(np.asarray(places - low, x.dtype), x.ndim, axis)
    return entries(low) * (1 - share) + entries(low + 1) * share


def upsample(x, scales, *, mode="nearest") -> Array:
    nearest = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    scales = np.asarray(scales, np.float32) if isinstance(scales, list) else scales
    return resize(x, None, scales, mode=mode, **nearest)
