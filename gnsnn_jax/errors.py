"""What the library raises for input it cannot take, and the checks that many places share."""

from __future__ import annotations

import difflib
import operator
from collections.abc import Iterable

LARGEST_COUNT = 10**6  # beyond any use, and within what float32 counts exactly


class InputError(ValueError):
    """Says in a sentence what was given, what is wanted and what to do; scripts print it and exit 2."""


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown name: a question after the nearest known one, or nothing."""
    found = difflib.get_close_matches(str(name), known, n=1)
    return f"; did you mean {found[0]!r}?" if found else ""


def at_least_one(name: str, value: int, hint: str = "") -> int:
    """Returns `value` as an int; TypeError if it is no integer, InputError if it is below 1."""
    if isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    try:
        value = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r}") from None
    if value < 1:
        raise InputError(f"{name} must be at least 1, got {value}" + (f"; {hint}" if hint else ""))
    if value > LARGEST_COUNT:
        raise InputError(f"{name} must be at most {LARGEST_COUNT}, got {value}")
    return value
