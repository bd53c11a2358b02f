"""Which arguments of a network are its parameters and no data: known from how it is called, marked in its trace."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gnsnn_jax._types import Array
from gnsnn_jax.engine.arrays import is_array
from gnsnn_jax.xla.identity import identity_primitive

parameter_p = identity_primitive("parameter")


def marked(arrays: Sequence[Any], are_parameters: Sequence[bool]) -> list[Array]:
    """The arrays, those that are parameters so marked that a trace shows it."""
    pairs = zip(arrays, are_parameters, strict=True)
    return [parameter_p.bind(x) if is_parameter and _is_float(x) else x for x, is_parameter in pairs]


def _is_float(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jnp.floating)


def are_parameters(args: tuple, kwargs: Mapping[str, Any]) -> list[bool]:
    """Of each array among the arguments of a network, whether it is a parameter.

    Parameters are the first positional argument with arrays where it is a tree, such as the variables of Flax or a
    module of Equinox, and arrays come behind it. Of arrays one behind another, those that differ from the last in
    the length of the first axis are parameters, unless both have one axis at most: they are no batch beside it.
    """
    last = _last_with_arrays(args, kwargs)
    flags = []
    for position, argument in enumerate(args):
        behind = [*args[position + 1 :], *kwargs.values()]
        found = any(map(_arrays, behind)) and (
            _is_other_batch(argument, last) if is_array(argument) else not any(map(_arrays, args[:position]))
        )
        flags += [found] * len(_arrays(argument))
    return flags + [False] * len(_arrays(dict(kwargs)))


def _arrays(tree: Any) -> list[Any]:
    return [leaf for leaf in jax.tree.leaves(tree) if is_array(leaf)]


def _last_with_arrays(args: tuple, kwargs: Mapping[str, Any]) -> Any:
    """The first array of the last argument that holds one with axes: a number beside the data has none."""
    found = [[each for each in _arrays(argument) if np.ndim(each)] for argument in (*args, *kwargs.values())]
    return next((arrays[0] for arrays in reversed(found) if arrays), None)


def _is_other_batch(argument: Any, last: Any) -> bool:
    if last is None:
        return False
    one, other = (tuple(getattr(x, "shape", np.shape(x))) for x in (argument, last))
    return max(len(one), len(other)) > 1 and one[:1] != other[:1]
