"""Neurons and calibrations as JSON, and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import numpy as np

from gnsnn_jax.errors import InputError, listed, nearest, printable, shown
from gnsnn_jax.method.calibrations.base import Calibration
from gnsnn_jax.method.corrections.base import CorrectionRule
from gnsnn_jax.method.neurons.base import Neuron

PACKAGE = __name__.partition(".")[0]
DEEPEST = 16  # levels of lists and values within each other
T = TypeVar("T")
_WORDS: dict[Any, str] = {Neuron: "neuron", Calibration: "calibration", CorrectionRule: "correction"}


def to_json(value: Neuron | Calibration | CorrectionRule) -> dict[str, Any]:
    """Its class and fields, as JSON holds them: {"kind": "GroupNeuron", "members": 8}.

    A field with {"omit_default": True} as its metadata is left out where it has its default, so that a class can
    get new fields and its stored values stay as they were.

    Args:
        value: a neuron, a calibration or a rule for corrections, a dataclass.

    Returns:
        A dictionary of what JSON holds, for `from_json`.

    Raises:
        InputError: for a field that is not a number, text, truth value or None, nor a sequence of them, nor
            another neuron or calibration.
    """
    kind = kind_of(type(value))
    stored = [each for each in _arguments(type(value)) if not _is_left_out(each, getattr(value, each.name))]
    return {"kind": kind} | {each.name: _plain(getattr(value, each.name), f"{each.name} of {kind}") for each in stored}


def from_json(about: Any, base: type[T] = object) -> T:  # type: ignore[assignment]
    """The neuron or calibration that `to_json` described.

    Only classes that are imported are known; none is imported because a file names it.

    Args:
        about: what `to_json` returned, or what JSON made of it.
        base: the class that it must be of, `Neuron` or `Calibration`; by default either.

    Returns:
        A value equal to the stored one.

    Raises:
        InputError: for a class that is not known or not of `base`, and for fields that it does not take.
    """
    return _made(about, base, DEEPEST)


def _made(about: Any, base: type, levels: int) -> Any:
    if not isinstance(about, Mapping) or not isinstance(about.get("kind"), str):
        raise InputError(f'a neuron or calibration is stored as {{"kind": ..., its fields}}, got {shown(about)}')
    cls = _class_of(about["kind"], base)
    fields = {name: _value(field, levels) for name, field in about.items() if name != "kind"}
    _check_names(cls, fields)
    try:
        return cls(**fields)
    except TypeError as error:
        raise InputError(f"{about['kind']} cannot be made of what is stored: {printable(error)}") from error


def kind_of(cls: type) -> str:
    """The name of a class of neurons or calibrations in JSON: with its module, if that is not of this package."""
    is_ours = cls.__module__.partition(".")[0] == PACKAGE
    return cls.__qualname__ if is_ours else f"{cls.__module__}.{cls.__qualname__}"


def _class_of(kind: str, base: type) -> type:
    known = {kind_of(cls): cls for each in _WORDS for cls in _subclasses(each) if issubclass(cls, base)}
    if kind not in known:
        raise InputError(
            f"unknown {_WORDS.get(base, 'neuron or calibration')} {shown(kind)}; known are "
            f"{listed(known)}{nearest(kind, known)}; import the module that defines it first"
        )
    return known[kind]


def _subclasses(cls: Any) -> Iterator[type]:
    """All below it, what was defined last in the end."""
    for each in cls.__subclasses__():
        yield each
        yield from _subclasses(each)


def _arguments(cls: type) -> list[dataclasses.Field]:
    return [each for each in dataclasses.fields(cls) if each.init]


def _is_left_out(field: dataclasses.Field, value: Any) -> bool:
    return bool(field.metadata.get("omit_default")) and value == field.default


def _check_names(cls: type, given: Mapping[str, Any]) -> None:
    takes = {each.name: each for each in _arguments(cls)}
    needs = {name for name, each in takes.items() if each.default is each.default_factory is dataclasses.MISSING}
    if not needs <= given.keys() <= takes.keys():
        raise InputError(f"{kind_of(cls)} takes {listed(takes) or 'no fields'}, got {listed(given) or 'none'}")


def _plain(value: Any, name: str) -> Any:
    if isinstance(value, Neuron | Calibration | CorrectionRule):
        return to_json(value)
    if isinstance(value, list | tuple):
        return [_plain(each, name) for each in value]
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise InputError(f"{name} is a {type(value).__name__}, which JSON does not hold; use a number or a tuple")


def _value(stored: Any, levels: int) -> Any:
    if not levels:
        raise InputError(f"fields of a stored neuron or calibration are nested deeper than {DEEPEST} levels")
    if isinstance(stored, Mapping):
        return _made(stored, object, levels - 1)
    return tuple(_value(each, levels - 1) for each in stored) if isinstance(stored, list) else stored
