"""Checks of values that are known: of all outside of `jit`, and within it of those that no argument decides."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gnsnn_jax.engine.graph import Slot, needed
from gnsnn_jax.engine.jaxprs import bind
from gnsnn_jax.engine.split import SpikingNetwork
from gnsnn_jax.errors import InputError

SMALLEST = float(np.finfo(np.float32).tiny)  # smaller numbers count as 0 on most devices


def refuse_nan(arrays: Iterable[Any]) -> None:
    """Raises InputError for arguments that hold NaN, where their values are known."""
    floating = [array for array in arrays if _is_known(array) and jnp.issubdtype(array.dtype, jnp.floating)]
    for array, holds_nan in zip(floating, _answers(_holds_nan, floating), strict=True):
        if holds_nan:
            raise InputError(f"an argument of shape {array.shape} holds NaN; remove or replace it")


def refuse_thresholds(network: SpikingNetwork, values: Mapping[Slot, Any]) -> None:
    """Raises InputError that names the first activation whose threshold is known and not positive and finite."""
    slots = {operation.inputs[1]: operation.activation.name for operation in network.populations}
    known = {slot: values[slot] for slot in slots if _is_known(values[slot])}
    if len(known) < len(slots):
        known |= _from_constants(network, slots.keys() - known.keys())
    for slot, is_bad in zip(known, _answers(_is_no_threshold, list(known.values())), strict=True):
        if is_bad:
            refuse_threshold(slots[slot], known[slot])


def check_threshold(name: str, value: Any) -> None:
    """Raises InputError for a threshold, an array of numpy, that is not positive and finite."""
    if _is_no_threshold(value):
        refuse_threshold(name, value)


def refuse_threshold(name: str, value: Any) -> None:
    value = np.asarray(value)
    given = str(value.reshape(())) if value.size == 1 else f"{value.min()}..{value.max()}"
    raise InputError(
        f"the threshold of {name!r} must be positive and finite, got {given}; train it again or give another "
        "with thresholds="
    )


def _is_known(value: Any) -> bool:
    return not isinstance(value, jax.core.Tracer) and getattr(value, "is_fully_addressable", True)


def _answers(question: Callable[[Any], Any], arrays: Sequence[Any]) -> list[Any]:
    """The answers for all of the arrays, found where these lie and fetched together, under an outer trace too."""
    with jax.ensure_compile_time_eval():
        return jax.device_get([question(array) for array in arrays])


def _holds_nan(array: Any) -> Any:
    return _any_nan(array) if isinstance(array, jax.Array) else np.isnan(array).any()


def _is_no_threshold(array: Any) -> Any:
    return _any_outside(array) if isinstance(array, jax.Array) else not _is_positive(np.asarray(array)).all()


@jax.jit
def _any_nan(array: Any) -> Any:
    return jnp.isnan(array).any()


@jax.jit
def _any_outside(array: Any) -> Any:
    return jnp.logical_not(_is_positive(array).all())


def _is_positive(array: Any) -> Any:
    """Of each number whether it is positive and finite; NaN is neither."""
    wide = array.astype(np.float32)
    return (wide >= SMALLEST) & (wide < np.inf)


def _from_constants(network: SpikingNetwork, wanted: Iterable[Slot]) -> dict[Slot, Any]:
    """Those of the wanted values that constants of the network decide."""
    wanted = set(wanted)
    values = {slot: value for slot, value in network.constants.items() if _is_known(value)}
    with jax.ensure_compile_time_eval():
        for operation in needed(network.static, wanted):
            if not operation.eqn.effects and values.keys() >= set(operation.inputs):
                results = bind(operation.eqn, *(values[slot] for slot in operation.inputs))
                values.update(zip(operation.outputs, results, strict=True))
    return {slot: values[slot] for slot in wanted if slot in values}
