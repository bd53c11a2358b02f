"""The one place that decides in which types potentials, thresholds and sums are kept."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from gnsnn_jax._types import Array, Num


def at_least_single(dtype: Any) -> Any:
    """The floating-point type for potentials, thresholds and their sums beside values of this type."""
    return dtype if jnp.finfo(dtype).bits > 32 else jnp.dtype(jnp.float32)


def state_type(currents: Any, threshold: Any) -> Any:
    """The type of a neuron's state: float32, or wider where the currents or the threshold are.

    Both are arrays or their avals; a Python number has no type of its own.
    """
    own = [jax.dtypes.canonicalize_dtype(value.dtype) for value in (currents, threshold) if _is_typed(value)]
    return max(map(at_least_single, own), key=lambda dtype: jnp.finfo(dtype).bits, default=jnp.dtype(jnp.float32))


def _is_typed(value: Any) -> bool:
    weak = getattr(value, "weak_type", not hasattr(value, "dtype"))
    return not weak and jnp.issubdtype(value.dtype, jnp.floating)


def sum_type(dtype: Any) -> Any:
    """The type for sums of values of this type: of half precision float32, of truth values and short integers int32."""
    dtype = jnp.dtype(dtype)
    if jnp.issubdtype(dtype, jnp.floating):
        return at_least_single(dtype)
    return jnp.dtype(jnp.int32) if dtype.itemsize < 4 else dtype


def summed_over_time(values: Array) -> Num[Array, "T *shape"]:
    """The sums over the first 1..T of [T, ...], in `sum_type`."""
    return jnp.cumsum(values.astype(sum_type(values.dtype)), 0)
