"""The one place that decides in which types potentials, thresholds and sums are kept."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from gnsnn_jax._types import Array, Num


def at_least_single(dtype: Any) -> Any:
    """The floating-point type for potentials, thresholds and their sums beside values of this type."""
    return dtype if jnp.finfo(dtype).bits > 32 else jnp.dtype(jnp.float32)


def state_type(*values: Any) -> Any:
    """The type of a neuron's potentials, and of its threshold beside them: float32, or wider if one of these is.

    The values are currents and thresholds, arrays or their avals; Python's numbers take the type of the others.
    """
    own = [value.dtype for value in values if hasattr(value, "dtype") and not getattr(value, "weak_type", False)]
    wide = [at_least_single(dtype) for dtype in own if jnp.issubdtype(dtype, jnp.floating)]
    return max(wide, key=lambda dtype: jnp.finfo(dtype).bits, default=jnp.dtype(jnp.float32))


def sum_type(dtype: Any) -> Any:
    """The type for sums of values of this type: of half precision float32, of truth values and short integers int32."""
    dtype = jnp.dtype(dtype)
    if jnp.issubdtype(dtype, jnp.floating):
        return at_least_single(dtype)
    return jnp.dtype(jnp.int32) if dtype.itemsize < 4 else dtype


def summed_over_time(values: Array) -> Num[Array, "T *shape"]:
    """The sums over the first 1..T of [T, ...], in `sum_type`."""
    return jnp.cumsum(values.astype(sum_type(values.dtype)), 0)


def state_type(currents: Array, threshold: Any) -> Any:
    """The type of a neuron's state: float32, or wider where the currents or the threshold are.

    A Python number as threshold has no type of its own.
    """
    types = [currents.dtype] if _is_untyped(threshold) else [currents.dtype, threshold.dtype]
    return max(map(at_least_single, types), key=lambda dtype: jnp.finfo(dtype).bits)


def _is_untyped(value: Any) -> bool:
    weak = getattr(value, "weak_type", not hasattr(value, "dtype"))
    return weak or not jnp.issubdtype(value.dtype, jnp.floating)
