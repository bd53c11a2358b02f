"""What the library raises for input it cannot take, and the checks that many places share."""

from __future__ import annotations

import difflib
import operator
import reprlib
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import PurePath
from typing import Any

LARGEST_COUNT = 10**6  # beyond any use, and within what float32 counts exactly
LONGEST_NAME = 200  # characters of a name, a path or a value within a sentence
LISTED = 10  # names in a sentence; the others are counted


class InputError(ValueError):
    """Says in a sentence what was given, what is wanted and what to do; scripts print it and exit 2."""


class MissingPackage(InputError, ImportError):
    """A package that an optional extra of this one brings is not installed."""


@contextmanager
def extra(name: str, purpose: str = "", hint: str = "") -> Iterator[None]:
    """Around imports from packages that the extra `name` brings.

        with extra("train"):
            import optax

    Args:
        name: an optional dependency of pyproject.toml.
        purpose: what the packages are for, as the subject of a sentence: "reading cifar10".
        hint: what else the user should know, as the end of the sentence.

    Raises:
        MissingPackage: where one of the packages is not installed; names it and the extra.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package in {"", "gnsnn_jax"}:
            raise
        raise missing_package(package, name, purpose, hint) from None


def missing_package(package: str, name: str, purpose: str = "", hint: str = "") -> MissingPackage:
    """The error about a package that the extra `name` brings; see `extra` for the other arguments."""
    fact = f"{purpose} needs {package}, which is not installed" if purpose else f"{package} is not installed"
    return MissingPackage(f'{fact}; pip install "gnsnn_jax[{name}]" brings it' + (f", {hint}" if hint else ""))


@contextmanager
def imports_of(script: str, module: str) -> Iterator[None]:
    """Around the imports of a script: when it runs (`module` is "__main__"), a missing package is one sentence on
    standard error and exit status 2."""
    try:
        yield
    except MissingPackage as error:
        if module != "__main__":
            raise
        print(f"{script}: error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown name: a question after the nearest known one, or nothing."""
    name, known = printable(name), list(known)
    found = difflib.get_close_matches(name, known, n=1)
    found = found or [each for each in known if _one_letter_differs(name, each)]  # "gm" is too short for difflib
    return f"; did you mean {shown(found[0])}?" if found else ""


def _one_letter_differs(one: str, other: str) -> bool:
    return len(one) == len(other) > 1 and sum(map(operator.ne, one, other)) == 1


def shown(value: Any) -> str:
    """Any value as `repr` shows it, on one line and at most LONGEST_NAME characters long, whatever it holds."""
    return printable(_REPR.repr(value))


def printable(text: Any, longest: int = LONGEST_NAME) -> str:
    """A text, a path or an error as it is, control characters as escape sequences, and shortened in the middle."""
    text = str(text) if isinstance(text, str | PurePath | Exception) else _REPR.repr(text)
    if len(text) > longest:
        kept = (longest - 3) // 2
        text = f"{text[:kept]}...{text[-kept:]}"
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


def listed(names: Iterable[Any], most: int = LISTED, separator: str = ", ") -> str:
    """The first names as a list of words, and how many there are beside them: "a, b, c and 997 more"."""
    names = list(names)
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return separator.join(map(printable, names[:most])) + rest


class _Repr(reprlib.Repr):
    """`repr` of few words: Python itself refuses integers of many digits and overflows on deep nesting."""

    def __init__(self):
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother = 4, LONGEST_NAME, LONGEST_NAME

    def repr_int(self, value: int, level: int) -> str:
        return repr(value) if value.bit_length() <= 4 * LONGEST_NAME else f"an integer of {value.bit_length()} bits"


_REPR = _Repr()


def at_least_one(name: str, value: int, hint: str = "") -> int:
    """Returns `value` as an int; TypeError if it is no integer, InputError if it is below 1."""
    if isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, got {value}")
    try:
        value = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {shown(value)}") from None
    if value < 1:
        raise InputError(f"{name} must be at least 1, got {shown(value)}" + (f"; {hint}" if hint else ""))
    if value > LARGEST_COUNT:
        raise InputError(f"{name} must be at most {LARGEST_COUNT}, got {shown(value)}")
    return value
