"""What a batch is: the one rule for all functions that take batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from numbers import Number
from typing import Any, NamedTuple

import jax
import numpy as np

from gnsnn_jax.engine.arrays import as_array, first_line, holds_numbers, is_array
from gnsnn_jax.errors import InputError, listed, shown

A_BATCH = "a batch holds the arguments of the network after its variables, one array or a tuple of several"
SHOWN_ENTRIES = 4  # of a dict or a list, in errors


class Batches(NamedTuple):
    """The batches that a function was given, and how it is called with batches in place of {}.

    `in_front` says that the outputs of the network must have the batch as their first axis. They must too where
    the batches are one array, which may be one of samples.
    """

    given: Iterable[Any]
    variables: Any
    call: str
    in_front: bool = False

    def arguments(self) -> Iterator[tuple]:
        """The arguments of the network for one batch after the other, after the variables.

        Raises InputError for what is no batch, and where there are no batches.
        """
        _check_iterable(self)
        batch = None
        for batch in self.given:
            yield arguments_of(batch, self.variables)
        if batch is None:
            raise InputError(f"{self.call.partition('(')[0]} needs at least one batch of data, got none")

    def explaining(self, ann: Callable) -> Callable:
        """`ann`, which raises InputError with the shapes and the way out where it cannot take a batch."""

        def function(*args, **kwargs):
            batch = args if self.variables is None else args[1:]
            try:
                outputs = ann(*args, **kwargs)
            except InputError:
                raise
            except Exception as error:
                raise InputError(self._refusal(batch, first_line(error))) from error
            if self.in_front or is_array(self.given):
                self._check_in_front(batch, outputs)
            return outputs

        return function

    def _refusal(self, batch: tuple, reason: str) -> str:
        given = " and ".join(map(_shown, batch))
        rule = A_BATCH if self.variables is not None else f"{A_BATCH}, which are given as variables="
        return f"the network cannot take a batch of {given}: {reason}; {rule}; {self._way_out(batch)}"

    def _check_in_front(self, batch: tuple, outputs: Any) -> None:
        sizes = {len(leaf) for leaf in jax.tree.leaves(batch) if is_array(leaf) and leaf.ndim}
        shapes = [leaf.shape for leaf in jax.tree.leaves(outputs) if is_array(leaf) and leaf.ndim]
        if shapes and sizes.isdisjoint(shape[0] for shape in shapes):
            reason = f"its output of shape {list(shapes[0])} does not have the batch as its first axis"
            raise InputError(self._refusal(batch, reason))

    def called_with(self, batches: str) -> str:
        rest = "" if self.variables is None else ", variables=variables"
        return f"{self.call.format(batches)[:-1]}{rest})"

    def _way_out(self, batch: tuple) -> str:
        if len(batch) > 1:
            return f"leave out labels: {self.called_with('(x for x, _ in loader)')}"
        if isinstance(batch[0], (list, tuple)):
            entries = "(x,)" if len(batch[0]) == 1 else "x, _"
            return f"take the inputs out of their list: {self.called_with(f'(x for {entries} in loader)')}"
        if isinstance(batch[0], Mapping):
            return f"take out what the network needs: {self.called_with('(batch[name] for batch in loader)')}"
        return f"if this is one sample of an array x, the whole of it is one batch: {self.called_with('[x]')}"


def arguments_of(batch: Any, variables: Any = None) -> tuple:
    """The arguments that a batch holds, after the variables where these are given."""
    return as_batch(batch) if variables is None else (variables, *as_batch(batch))


def as_batch(batch: Any) -> tuple:
    """The arguments that a batch holds, each an array or a tree of arrays.

    A tuple holds several arguments, anything else is one. An argument is

    - an array of JAX or NumPy, or anything with `__array__`, such as a tensor of PyTorch or TensorFlow;
    - a number, or a list or tuple of numbers, also nested: an array of the type that JAX gives it;
    - a list, tuple or dict of these;
    - another pytree node, such as an Equinox module: what is no array in it stays what it is.

    Raises InputError for anything else, such as strings, None and lists of unequal lengths, and for empty arrays.
    """
    args = tuple(map(as_argument, batch if isinstance(batch, tuple) else (batch,)))
    arrays = [leaf for leaf in jax.tree.leaves(args) if is_array(leaf)]
    if not arrays:
        raise InputError(f"a batch holds {_shown(batch)}, which has no arrays; {A_BATCH}")
    empty = [array.shape for array in arrays if not array.size]
    if empty:
        raise InputError(f"a batch holds an empty array of shape {empty[0]}; leave it out")
    return args


def as_argument(value: Any) -> Any:
    """One argument of a batch, as `as_batch` has it."""
    if is_array(value):
        return _of_numbers(as_array(value), value)
    if _is_made_of_numbers(value):
        return _of_numbers(_stacked(value), value)
    if jax.tree_util.all_leaves([value]) or value is None:
        raise InputError(f"a batch holds {_shown(value)}, which is no array; {A_BATCH}")
    if isinstance(value, (list, tuple, Mapping)):
        return jax.tree.map(as_argument, value, is_leaf=lambda node: node is not value)
    return jax.tree.map(lambda leaf: as_argument(leaf) if is_array(leaf) else leaf, value)


def is_table(value: Any) -> bool:
    """Whether it is a list of lists of numbers, of any depth."""
    return isinstance(value, list) and _is_made_of_numbers(value) and isinstance(value[0], list)


def _is_made_of_numbers(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return bool(value) and all(map(_is_made_of_numbers, value))
    return isinstance(value, (Number, np.generic, memoryview)) or (
        isinstance(value, Sequence) and not isinstance(value, (str, bytes))
    )


def _stacked(numbers: Any) -> np.ndarray:
    """Numbers as an array of the type that JAX gives them: float32, and float64 only where that is switched on."""
    try:
        array = np.asarray(numbers)
    except (ValueError, TypeError) as error:
        raise InputError(
            f"a batch holds a list that is no array, since its parts differ in length or hold no numbers; {A_BATCH}"
        ) from error
    return array.astype(jax.dtypes.canonicalize_dtype(array.dtype)) if holds_numbers(array) else array


def _of_numbers(array: Any, given: Any) -> Any:
    if not holds_numbers(array):
        raise InputError(f"a batch holds {_shown(given)} of {array.dtype}, which is no array of numbers; {A_BATCH}")
    return array


def _check_iterable(batches: Batches) -> None:
    """Refuses what would hand over something else than batches, where that is certain."""
    given: Any = batches.given
    ways = f"{batches.called_with('[x]')} for one batch x, {batches.called_with('loader')} for what iterates over them"
    if isinstance(given, (Mapping, str, bytes)) or not (hasattr(given, "__iter__") or hasattr(given, "__getitem__")):
        raise InputError(f"batches must be a list or another iterable of them, got {_shown(given)}; write {ways}")
    if is_array(given) and given.ndim < 3:
        raise InputError(
            f"an array of shape {tuple(given.shape)} hands over its rows, which have no batch axis; write {ways}, and "
            f"{batches.called_with('list(x)')} where each row is a batch of single numbers"
        )


def _shown(value: Any) -> str:
    """A value in few words: types and shapes of arrays, names of what is none."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{value.dtype}{list(value.shape)}"
    if isinstance(value, Mapping):
        return "{" + listed((f"{shown(key)}: {_shown(each)}" for key, each in value.items()), SHOWN_ENTRIES) + "}"
    if isinstance(value, (list, tuple)):
        return f"a {type(value).__name__} of {listed(map(_shown, value), SHOWN_ENTRIES) or 'nothing'}"
    if value is None or isinstance(value, (str, Number)):
        return shown(value)
    return f"an object of type {type(value).__name__}"
