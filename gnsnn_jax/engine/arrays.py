"""What counts as an array among the arguments of a network."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gnsnn_jax.errors import InputError, printable

LONGEST_REASON = 400  # characters of the error of another library within a sentence


def known_to_jax(leaf: Any) -> bool:
    return isinstance(leaf, (jax.Array, np.ndarray, np.generic, jax.ShapeDtypeStruct))


def is_array(leaf: Any) -> bool:
    """Whether it is an array of JAX or NumPy, or one of another framework, which knows how to become one."""
    return known_to_jax(leaf) or _is_foreign(type(leaf))


def _is_foreign(kind: type) -> bool:
    return hasattr(kind, "__array__") or hasattr(kind, "__array_interface__")


def as_array(leaf: Any) -> Any:
    """An array that JAX takes: of another framework's a copy of its values here, without its gradient.

    Raises InputError where that framework cannot give its values away.
    """
    if known_to_jax(leaf):
        return leaf
    leaf = leaf.detach() if callable(getattr(leaf, "detach", None)) else leaf
    try:
        return np.asarray(leaf)
    except Exception as error:
        return _through_dlpack(leaf, error)


def _through_dlpack(leaf: Any, reason: Exception) -> jax.Array:
    """For values on another device, or of a type that NumPy lacks, such as bfloat16."""
    try:
        return jnp.from_dlpack(leaf)
    except Exception:
        raise InputError(
            f"an object of type {type(leaf).__name__} does not become an array: {first_line(reason)}; turn it into "
            "one of NumPy or JAX before"
        ) from reason


def holds_numbers(array: Any) -> bool:
    """Whether its entries are numbers, truth values or random keys, and not strings or objects."""
    return any(jnp.issubdtype(array.dtype, kind) for kind in (jnp.number, jnp.bool_, jax.dtypes.extended))


def first_line(error: BaseException) -> str:
    """The kind of an error and the first paragraph of what it says, in one line."""
    said = printable(" ".join(str(error).split("\n\n")[0].split()), LONGEST_REASON)
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
