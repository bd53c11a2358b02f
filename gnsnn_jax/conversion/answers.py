"""Which class summed outputs stand for, and how surely."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from gnsnn_jax._types import Array, Float, Int, Num
from gnsnn_jax.dtypes import sum_type


def classes_of(sums: Num[Array, "*shape K"]) -> Int[Array, "*shape"]:
    """The class with the largest of K outputs; of one output alone, K = 1, class 1 where it is above 0, else 0."""
    if sums.shape[-1] == 1:
        return (sums[..., 0] > 0).astype(jnp.int32)
    return jnp.argmax(sums, -1).astype(jnp.int32)


def confidence_of(sums: Num[Array, "*shape K"]) -> Float[Array, "*shape"]:
    """The probability of the class that summed outputs stand for.

    max_k softmax(sums)_k,   of one output: max(p, 1 - p), p = sigmoid(sum)
    """
    sums = sums.astype(sum_type(sums.dtype) if jnp.issubdtype(sums.dtype, jnp.floating) else jnp.float32)
    if sums.shape[-1] == 1:
        return jax.nn.sigmoid(jnp.abs(sums[..., 0]))
    return jax.nn.softmax(sums).max(-1)
