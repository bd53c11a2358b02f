"""Accuracy against time."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from gnsnn_jax._types import Array, Float, Int, Num
from gnsnn_jax.conversion.answers import classes_of
from gnsnn_jax.dtypes import summed_over_time
from gnsnn_jax.engine.arrays import as_array, is_array
from gnsnn_jax.errors import InputError, shown


def predictions_over_time(logits: Num[Array, "T B K"]) -> Int[Array, "T B"]:
    """The class with the largest output summed over the first 1..T steps, for each sample.

    Of one output alone, K = 1, class 1 where the sum is above 0, else class 0. Sums are float32 or wider.
    """
    return classes_of(summed_over_time(logits))


def accuracy_over_time(logits: Num[Array, "T B K"], labels: Int[Array, " B"], *, delay: int = 0) -> Float[Array, " T"]:
    """The share of samples that are predicted correctly if the network stops after 1..T steps.

        accuracy_t = mean_b [argmax_k sum_{s <= t} logits_s == labels]

    With a delay the outputs of the first steps, which deep layers make of hardly any spikes, are left out: the sum is
    over delay < s <= t, and the outputs of step t alone where t <= delay.

    With one logit, K = 1, the sign decides: labels are 0 and 1, and 1 is predicted where the sum is above 0.

    Args:
        logits: of each step [T, B, K]. Sums are float32 or wider, whatever their type.
        labels: [B].
        delay: how many steps at the start are left out, such as `find_delay` finds; 0 by default.

    Returns:
        The accuracy after each step [T], from 0 to 1.

    Raises:
        InputError: where the logits are not one array [T, B, K] and the labels one array [B], and for a delay below 0.
    """
    if not isinstance(delay, int) or isinstance(delay, bool) or delay < 0:
        raise InputError(f"delay must be 0 or a number of steps, got {shown(delay)}")
    logits, labels = _one_array(logits), _one_array(labels)
    if logits.ndim != 3 or not logits.shape[-1] or labels.shape != logits.shape[1:2]:
        hint = "; give one logit for each sample as logits[..., None]" if logits.ndim == 2 else ""
        raise InputError(
            f"accuracy_over_time takes logits [steps, batch, classes] and labels [batch], got shapes "
            f"{logits.shape} and {labels.shape}{hint}"
        )
    predictions = predictions_over_time(logits[delay:])
    if delay:
        predictions = jnp.concatenate([classes_of(logits[:delay]), predictions])
    return jnp.mean(predictions == labels[None].astype(jnp.int32), axis=-1)


def _one_array(given: Any) -> Array:
    try:
        return jnp.asarray(as_array(given) if is_array(given) else given)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"accuracy_over_time takes one array of logits [steps, batch, classes] and one of labels [batch], got a "
            f"{type(given).__name__}, which makes no array; of several outputs give the one that holds the classes"
        ) from error
