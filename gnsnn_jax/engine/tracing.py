"""Networks as functions of the arrays among their arguments, and their traces."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr

from gnsnn_jax.errors import InputError


def is_array(leaf: Any) -> bool:
    return isinstance(leaf, (jax.Array, np.ndarray, np.generic, jax.ShapeDtypeStruct))


def arrays_of(args: tuple, kwargs: Mapping[str, Any]) -> list[Any]:
    return [leaf for leaf in jax.tree.leaves((args, kwargs)) if is_array(leaf)]


def arguments_of(batch: Any, variables: Any = None) -> tuple:
    """The arguments that a batch holds, one or a tuple of several, after the variables where these are given.

    Raises InputError for a batch with an empty array.
    """
    args = batch if isinstance(batch, tuple) else (batch,)
    empty = [array.shape for array in arrays_of(args, {}) if not array.size]
    if empty:
        raise InputError(f"a batch holds an empty array of shape {empty[0]}; leave it out")
    return args if variables is None else (variables, *args)


def of_arrays(ann: Callable, args: tuple, kwargs: Mapping[str, Any]) -> Callable:
    """`ann` as a function of the arrays among its arguments; the others reach it as they are here."""
    leaves, structure = jax.tree.flatten((args, kwargs))

    def function(*arrays):
        given = iter(arrays)
        args, kwargs = jax.tree.unflatten(structure, [next(given) if is_array(leaf) else leaf for leaf in leaves])
        return ann(*args, **kwargs)

    return function


def trace(
    ann: Callable, args: tuple, kwargs: Mapping[str, Any], seen: Sequence[Any] | None = None
) -> tuple[ClosedJaxpr, Any]:
    """Traces `ann` as a function of the arrays among its arguments; returns it and the structure of its outputs.

    `seen` are arrays or shapes that `ann` sees in place of these.
    """
    seen = arrays_of(args, kwargs) if seen is None else seen
    traced, shapes = jax.make_jaxpr(of_arrays(ann, args, kwargs), return_shape=True)(*seen)
    return traced, jax.tree.structure(shapes)
