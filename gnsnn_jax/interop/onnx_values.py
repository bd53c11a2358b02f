"""Values in a network of ONNX: arrays of NumPy for what depends on shapes and constants alone, else of JAX."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gnsnn_jax.errors import InputError


def all_static(values: Iterable[Any]) -> bool:
    return all(isinstance(value, np.ndarray) for value in values)


def module_of(*values: Any) -> ModuleType:
    """NumPy where all values are its own, else its counterpart in JAX."""
    return np if all_static(values) else jnp


def static(value: Any) -> np.ndarray:
    """A length, or a sequence of lengths, as an array of int64; where one is a symbol, of Python objects."""
    lengths = list(value) if isinstance(value, Sequence) else [value]
    dtype = np.int64 if all(isinstance(each, int | np.integer) for each in lengths) else object
    array = np.empty(len(lengths), dtype)
    array[:] = lengths
    return array if isinstance(value, Sequence) else array.reshape(())


def as_jax(value: Any) -> jax.Array:
    """An array of the type that JAX has for it; integers that are too large for it are cut off, as ends of slices."""
    if isinstance(value, jax.Array):
        return value
    if value.dtype == object:
        return jnp.stack([jnp.asarray(each) for each in value.ravel()]).reshape(value.shape)
    if value.dtype == np.int64 and jax.dtypes.canonicalize_dtype(np.int64) == np.int32:
        value = np.clip(value, np.iinfo(np.int32).min, np.iinfo(np.int32).max).astype(np.int32)
    return jnp.asarray(value)


def number_or_array(value: Any) -> Any:
    """A number for a constant without axes, so that it has no type of its own; all else as an array of JAX."""
    return value.item() if isinstance(value, np.ndarray) and not value.ndim else as_jax(value)


def fixed(value: Any, what: str) -> np.ndarray:
    """An array of NumPy. Raises InputError for what depends on the inputs or the variables of the network."""
    if not isinstance(value, np.ndarray):
        raise InputError(f"{what} depends on the values of inputs or variables, but must be known while JAX traces")
    return value


def numbers(value: Any, what: str) -> list[Any]:
    """The numbers of an attribute or of an input that must be fixed; lengths of symbolic shapes stay symbols."""
    if isinstance(value, int | float):
        return [value]
    return list(value) if isinstance(value, list | tuple) else fixed(value, what).ravel().tolist()


def axes_of(value: Any) -> tuple[int, ...]:
    """Axes, which are an attribute or an input; none where it is left out."""
    return () if value is None else tuple(numbers(value, "an axis"))
