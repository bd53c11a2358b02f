"""The staircase that activations and neurons share, and the activations that networks are trained with: QCFS, QCFS
with noise in place of rounding, and a clip at a threshold that is learned."""

from __future__ import annotations

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir

from gnsnn_jax._types import Array, Float, Shaped
from gnsnn_jax.dtypes import at_least_single
from gnsnn_jax.errors import InputError, at_least_one

SLIGHTLY_LESS = 1 - 2.0**-21  # than 1, by more than float32 loses in a division and a product


def staircase(
    x: Float[Array, "*shape"], unit: Float[Array, "..."] | float, levels: int, signed: bool = False
) -> Float[Array, "*shape"]:
    """Rounds down to a whole number of units, at least 0 and at most `levels`.

        y = u clip(floor(x / u), l, n),   u = unit, n = levels,   l = -n if signed else 0

    An x that equals k u, as float32 computes it, is on step k. The gradient passes straight through the floor
    between the first and the last half step:

        dy/dx = 1,   dy/du = (y - x) / u   for (l + 1/2) u <= x <= (n + 1/2) u
        dy/dx = 0,   dy/du = n above, l below

    which makes it the rectangular surrogate gradient of a spike (width u around the threshold) for l = 0 and
    n = 1, and the gradient of `qcfs` for l = 0 and any n.

    Args:
        x: [...].
        unit: u > 0 in the unit of x, [] or any shape that broadcasts to that of x.
        levels: n, at least 1.
        signed: whether there are as many steps below 0 as above it.

    Returns:
        y [...] in the dtype of x, computed in float32 or wider.

    Raises:
        InputError: for levels < 1 or a unit that does not broadcast.
        TypeError: for levels that are no integer or an x that is not floating point.
    """
    levels = at_least_one("levels", levels)
    x = floating("x", x)
    wide, unit = _widen(x, unit, "unit")
    return _staircase(wide, unit, levels, signed).astype(x.dtype)


def qcfs(x: Float[Array, "*shape"], threshold: Float[Array, "..."] | float, levels: int) -> Float[Array, "*shape"]:
    """Quantised clip-floor-shift activation; `to_spiking` turns each of its calls into neurons.

        y = staircase(x + u/2, u, L),   u = threshold / L,   L = levels
        dy/dx = 1,   dy/dtheta = (y - x) / theta   for 0 <= x <= theta
        dy/dx = 0,   dy/dtheta = 1 above, 0 below

    Args:
        x: [...].
        threshold: theta > 0 in the unit of x, [] or [C] or any shape that broadcasts to that of x.
        levels: L, at least 1.

    Returns:
        y [...] in the dtype of x, computed in float32 or wider.

    Raises:
        InputError: for levels < 1 or a threshold that does not broadcast.
        TypeError: for levels that are no integer or an x that is not floating point.

    Bu et al. 2022, arXiv 2303.04347.
    """
    levels = at_least_one("levels", levels)
    x = floating("x", x)
    wide, threshold = _widen(x, threshold, "threshold")
    return _qcfs(wide, threshold, levels).astype(x.dtype)


def noisy_qcfs(
    x: Float[Array, "*shape"], threshold: Float[Array, "..."] | float, levels: int, key: Shaped[Array, "..."]
) -> Float[Array, "*shape"]:
    """QCFS with noise in place of rounding, for training; evaluate and convert the network with `qcfs`.

        y = u clip(x/u + e, 0, L),   e ~ U(-1/2, 1/2) for each value,   u = threshold / L,   L = levels
        dy/dx = 1,   dy/dtheta = e/L = (y - x) / theta   for 0 <= x + e u <= theta
        dy/dx = 0,   dy/dtheta = 1 above, 0 below

    The noise is as large as the error of rounding. Its mean is 0, so that the mean of y is clip(x, 0, theta) for
    u/2 <= x <= theta - u/2, and the gradient is that of the function itself, with nothing passed straight through.

    Args:
        x: [...].
        threshold: theta > 0 in the unit of x, [] or [C] or any shape that broadcasts to that of x.
        levels: L, at least 1.
        key: of `jax.random`, another one for each call.

    Returns:
        y [...] in the dtype of x, computed in float32 or wider.

    Raises:
        InputError: for levels < 1 or a threshold that does not broadcast.
        TypeError: for levels that are no integer or an x that is not floating point.

    Li and Rajendran 2023, arXiv 2312.05290.
    """
    levels = at_least_one("levels", levels)
    x = floating("x", x)
    wide, threshold = _widen(x, threshold, "threshold")
    noise = jax.random.uniform(key, x.shape, wide.dtype, -0.5, 0.5)
    noisy = wide + noise * (threshold / levels)
    # No minimum and maximum, which halve the gradient where both are equal.
    return jnp.where(noisy < 0, 0, jnp.where(noisy > threshold, threshold, noisy)).astype(x.dtype)


def clip(x: Float[Array, "*shape"], threshold: Float[Array, "..."] | float) -> Float[Array, "*shape"]:
    """Clip at a threshold that is learned, which is QCFS with infinitely many levels; `to_spiking` turns each of its
    calls into neurons of this threshold.

        y = clip(x, 0, theta),   theta = threshold
        dy/dx = 1,   dy/dtheta = 0   for 0 <= x <= theta
        dy/dx = 0,   dy/dtheta = 1 above, 0 below

    Decay theta as the weights are decayed: otherwise nothing keeps it small. Conversion treats it as `qcfs`, so
    `find_thresholds` leaves it out; it looks for a threshold below the bound of a `jnp.clip(x, 0, a)`.

    Args:
        x: [...].
        threshold: theta > 0 in the unit of x, [] or [C] or any shape that broadcasts to that of x.

    Returns:
        y [...] in the dtype of x, computed in float32 or wider.

    Raises:
        InputError: for a threshold that does not broadcast.
        TypeError: for an x that is not floating point.

    Ho and Chang 2021, arXiv 2008.04509.
    """
    x = floating("x", x)
    wide, threshold = _widen(x, threshold, "threshold")
    return _qcfs(wide, threshold, math.inf).astype(x.dtype)


def floating(name: str, x: Array) -> Array:
    """x as an array; TypeError if it is not floating point."""
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"{name} must be floating point, got {x.dtype}; cast it with .astype(jnp.float32)")
    return x


def _widen(x: Array, size: Array | float, name: str) -> tuple[Array, Array]:
    """x and a threshold or unit for it in one dtype of float32 or wider, with equal ranks."""
    dtype = at_least_single(x.dtype)
    size = jnp.asarray(size, dtype)
    return x.astype(dtype), align(size, x.shape, name)


def align(size: Array, shape: tuple[int, ...], name: str) -> Array:
    """`size` with axes of length 1 in front, so that it broadcasts to `shape` without promotion."""
    fits = size.ndim <= len(shape) and all(
        own in (1, wanted) for own, wanted in zip(size.shape[::-1], shape[::-1], strict=False)
    )
    if not fits:
        raise InputError(
            f"{name} of shape {size.shape} does not broadcast to values of shape {shape}; "
            "give a scalar, or one value per channel in the last axis"
        )
    return size.reshape((1,) * (len(shape) - size.ndim) + size.shape)


def _steps_below(x: Array, unit: Array, levels: int, signed: bool) -> Array:
    """The largest k <= levels with k u <= x, and at least 0 or -levels, exactly, however a compiler rounds the
    quotient; NaN for NaN.

    The quotient is taken a little too near to 0: by more than its own rounding, yet by less than one in
    `LARGEST_COUNT`. So its floor is that k or one less for x >= 0, and that k or one more for x < 0. One
    comparison each tells which.
    """
    if levels == 1 and not signed:
        return jnp.where(jnp.isnan(x), x, (x >= unit).astype(x.dtype))
    k = jnp.floor(x * (SLIGHTLY_LESS / unit))
    k = k - (k * unit > x).astype(x.dtype) if signed else k
    is_next = (k + 1) * unit <= x
    return jnp.clip(k + is_next.astype(x.dtype), _lowest(levels, signed), levels)


def _lowest(levels: int, signed: bool) -> int:
    return -levels if signed else 0


@partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def _staircase(x: Array, unit: Array, levels: int, signed: bool = False) -> Array:
    return unit * _steps_below(x, unit, levels, signed)


@_staircase.defjvp
def _staircase_jvp(levels, signed, primals, tangents):
    (x, unit), (x_dot, unit_dot) = primals, tangents
    y, lowest = _staircase(x, unit, levels, signed), _lowest(levels, signed)
    above = x > (levels + 0.5) * unit
    slope, below = (y - x) / unit, x < (unit / 2 if lowest == 0 else (lowest + 0.5) * unit)
    return y, _through_floor(x_dot, unit_dot, slope, below, above, levels, lowest)


def _through_floor(x_dot, size_dot, slope, below, above, top, bottom=0):
    """The tangent of a staircase: straight through inside, the top step above, the bottom step below."""
    inside = x_dot + slope * size_dot
    return jnp.where(below, bottom * size_dot if bottom else 0, jnp.where(above, top * size_dot, inside))


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _qcfs(x: Array, threshold: Array, levels: int | float) -> Array:
    return qcfs_p.bind(x, threshold, levels=levels)


@_qcfs.defjvp
def _qcfs_jvp(levels, primals, tangents):
    (x, threshold), (x_dot, threshold_dot) = primals, tangents
    y = _qcfs(x, threshold, levels)
    slope = (y - x) / threshold
    return y, _through_floor(x_dot, threshold_dot, slope, x < 0, x > threshold, 1)


def _qcfs_value(x: Array, threshold: Array, *, levels: int | float) -> Array:
    """An integer of levels, or infinitely many."""
    if not isinstance(levels, int):
        return jnp.minimum(jnp.maximum(x, 0), threshold)
    unit = threshold / levels
    return _staircase(x + unit / 2, unit, levels)


# A primitive of its own, so that conversion can find the activation in a traced network.
qcfs_p = Primitive("qcfs")
qcfs_p.def_impl(_qcfs_value)
qcfs_p.def_abstract_eval(lambda x, threshold, *, levels: x)
mlir.register_lowering(qcfs_p, mlir.lower_fun(_qcfs_value, multiple_results=False))


def _qcfs_batched(operands, axes, *, levels):
    """Both operands have equal ranks, so each gets the new axis in front, of length 1 where it has none."""
    front = [x[None] if axis is None else jnp.moveaxis(x, axis, 0) for x, axis in zip(operands, axes, strict=True)]
    x, threshold = front
    if x.shape[0] == 1:
        x = jnp.broadcast_to(x, threshold.shape[:1] + x.shape[1:])
    return qcfs_p.bind(x, threshold, levels=levels), 0


batching.primitive_batchers[qcfs_p] = _qcfs_batched
