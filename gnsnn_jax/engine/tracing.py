"""Networks as functions of the arrays among their arguments, and their traces."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from jax.extend.core import ClosedJaxpr

from gnsnn_jax.engine.arrays import as_array, is_array
from gnsnn_jax.engine.batches import is_table
from gnsnn_jax.engine.parameters import are_parameters, marked
from gnsnn_jax.errors import InputError


class Others(NamedTuple):
    """All of some arguments but their arrays; equal ones make equal functions of the arrays.

    structure   of their tree
    leaves      each with its type, so that 1 is not True; None in place of an array
    """

    structure: Any
    leaves: tuple[tuple[type, Any] | None, ...]

    def around(self, arrays: Sequence[Any]) -> Any:
        """The arguments with these arrays among them."""
        given = iter(arrays)
        leaves = [next(given) if leaf is None else leaf[1] for leaf in self.leaves]
        return jax.tree.unflatten(self.structure, leaves)


def parted(args: tuple, kwargs: Mapping[str, Any]) -> tuple[list[Any], Others]:
    """The arrays among arguments, and the rest."""
    leaves, structure = jax.tree.flatten((args, kwargs))
    arrays = [as_array(leaf) for leaf in leaves if is_array(leaf)]
    return arrays, Others(structure, tuple(None if is_array(leaf) else (type(leaf), leaf) for leaf in leaves))


def arrays_of(args: tuple, kwargs: Mapping[str, Any]) -> list[Any]:
    return parted(args, kwargs)[0]


def of_arrays(ann: Callable, args: tuple, kwargs: Mapping[str, Any], seen: Sequence[Any] | None = None) -> Callable:
    """`ann` as a function of the arrays among its arguments, or of what it sees in place of these; the others reach
    it as they are here."""
    arrays, others = parted(args, kwargs)
    flags = are_parameters(*others.around(arrays if seen is None else seen))

    def function(*arrays):
        args, kwargs = others.around(marked(arrays, flags))
        return ann(*args, **kwargs)

    return function


def trace(
    ann: Callable, args: tuple, kwargs: Mapping[str, Any], seen: Sequence[Any] | None = None
) -> tuple[ClosedJaxpr, Any]:
    """Traces `ann` as a function of the arrays among its arguments; returns it and the structure of its outputs.

    `seen` are arrays or shapes that `ann` sees in place of these.

    Raises InputError for a list of lists of numbers, which JAX takes for a tree of many numbers.
    """
    _refuse_lists(args)
    seen = arrays_of(args, kwargs) if seen is None else seen
    traced, shapes = jax.make_jaxpr(of_arrays(ann, args, kwargs, seen), return_shape=True)(*seen)
    return traced, jax.tree.structure(shapes)


def _refuse_lists(args: tuple) -> None:
    for position, value in enumerate(args):
        if is_table(value):
            raise InputError(
                f"argument {position + 1} of the network is a list of lists of numbers, which JAX takes for so many "
                "arguments; give one array: jnp.asarray(...) of it"
            )
