"""The staircase that activations and neurons share, and the QCFS activation."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir

from gnsnn_jax._types import Array, Float
from gnsnn_jax.dtypes import at_least_single
from gnsnn_jax.errors import InputError, at_least_one

SLIGHTLY_LESS = 1 - 2.0**-21  # than 1, by more than float32 loses in a division and a product


def staircase(x: Float[Array, "*shape"], unit: Float[Array, "..."] | float, levels: int) -> Float[Array, "*shape"]:
    """Rounds down to a whole number of units, at least 0 and at most `levels`.

        y = u clip(floor(x / u), 0, n),   u = unit, n = levels

    `x` [...] and `unit` [] or of any shape that broadcasts to x's share one unit; u > 0. An x that
    equals k u, as float32 computes it, is on step k. The gradient passes straight through the floor
    between the first and the last half step:

        dy/dx = 1,   dy/du = (y - x) / u   for u/2 <= x <= (n + 1/2) u
        dy/dx = 0,   dy/du = n above, 0 below

    which makes it the rectangular surrogate gradient of a spike (width u around the threshold) for
    n = 1, and the gradient of `qcfs` for any n. Raises InputError for levels < 1 or a unit that
    does not broadcast.
    """
    levels = at_least_one("levels", levels)
    x = floating("x", x)
    wide, unit = _widen(x, unit, "unit")
    return _staircase(wide, unit, levels).astype(x.dtype)


def qcfs(x: Float[Array, "*shape"], threshold: Float[Array, "..."] | float, levels: int) -> Float[Array, "*shape"]:
    """Quantised clip-floor-shift activation; `to_spiking` turns each of its calls into neurons.

        y = staircase(x + u/2, u, L),   u = threshold / L,   L = levels
        dy/dx = 1,   dy/dtheta = (y - x) / theta   for 0 <= x <= theta
        dy/dx = 0,   dy/dtheta = 1 above, 0 below

    `x` [...]; `threshold` [] or [C] or any shape that broadcasts to x's, > 0, in the unit of x.
    Computed in float32 at least, returned in the dtype of x. Raises InputError for levels < 1 or a
    threshold that does not broadcast. Bu et al. 2022, arXiv 2303.04347.
    """
    levels = at_least_one("levels", levels)
    x = floating("x", x)
    wide, threshold = _widen(x, threshold, "threshold")
    return _qcfs(wide, threshold, levels).astype(x.dtype)


def floating(name: str, x: Array) -> Array:
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


def _steps_below(x: Array, unit: Array, levels: int) -> Array:
    """The largest k in 0..levels with k u <= x, exactly, however a compiler rounds the quotient; NaN for NaN.

    The quotient is taken a little too small: by more than its own rounding, yet by less than one in
    `LARGEST_COUNT`. So its floor is that k or one less, and one comparison tells which.
    """
    if levels == 1:
        return jnp.where(jnp.isnan(x), x, (x >= unit).astype(x.dtype))
    k = jnp.floor(x * (SLIGHTLY_LESS / unit))
    is_next = (k + 1) * unit <= x
    return jnp.clip(k + is_next.astype(x.dtype), 0, levels)


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _staircase(x: Array, unit: Array, levels: int) -> Array:
    return unit * _steps_below(x, unit, levels)


@_staircase.defjvp
def _staircase_jvp(levels, primals, tangents):
    (x, unit), (x_dot, unit_dot) = primals, tangents
    y = _staircase(x, unit, levels)
    above = x > (levels + 0.5) * unit
    return y, _through_floor(x_dot, unit_dot, (y - x) / unit, x < unit / 2, above, levels)


def _through_floor(x_dot, size_dot, slope, below, above, top):
    """The tangent of a staircase: straight through inside, the top step above, nothing below."""
    inside = x_dot + slope * size_dot
    return jnp.where(below, 0, jnp.where(above, top * size_dot, inside))


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _qcfs(x: Array, threshold: Array, levels: int) -> Array:
    return qcfs_p.bind(x, threshold, levels=levels)


@_qcfs.defjvp
def _qcfs_jvp(levels, primals, tangents):
    (x, threshold), (x_dot, threshold_dot) = primals, tangents
    y = _qcfs(x, threshold, levels)
    slope = (y - x) / threshold
    return y, _through_floor(x_dot, threshold_dot, slope, x < 0, x > threshold, 1)


def _qcfs_value(x: Array, threshold: Array, *, levels: int) -> Array:
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
