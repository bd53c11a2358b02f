"""Accuracy against time."""

from __future__ import annotations

import jax.numpy as jnp

from gnsnn_jax._types import Array, Float, Int
from gnsnn_jax.errors import InputError


def predictions_over_time(logits: Float[Array, "T B K"]) -> Int[Array, "T B"]:
    """The class with the largest output summed over the first 1..T steps, for each sample."""
    return jnp.argmax(jnp.cumsum(logits, axis=0), axis=-1)


def accuracy_over_time(logits: Float[Array, "T B K"], labels: Int[Array, " B"]) -> Float[Array, " T"]:
    """The share of samples predicted rightly if the network stopped after 1..T steps.

        accuracy_t = mean_b [argmax_k sum_{s <= t} logits_s == labels]

    Raises InputError where the shapes do not belong together.
    """
    logits, labels = jnp.asarray(logits), jnp.asarray(labels)
    if logits.ndim != 3 or labels.shape != logits.shape[1:2]:
        raise InputError(
            f"accuracy_over_time takes logits [steps, batch, classes] and labels [batch], got shapes "
            f"{logits.shape} and {labels.shape}"
        )
    return jnp.mean(predictions_over_time(logits) == labels[None].astype(jnp.int32), axis=-1)
