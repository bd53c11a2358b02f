"""Values of programs of PyTorch and ONNX as JSON: of what JSON lacks there stands a dictionary with one entry."""

from __future__ import annotations

import math
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from gnsnn_jax.errors import InputError, shown
from gnsnn_jax.interop.onnx_program import Declared, Graph, Node
from gnsnn_jax.interop.torch_program import Reference


class _Kind(NamedTuple):
    """A class of values, and functions from one to what JSON holds, or to values that it holds, and back."""

    type: type
    write: Callable[[Any], Any]
    read: Callable[[Any], Any]


def values_to_json(value: Any) -> Any:
    """Numbers, texts, containers, types, arrays and parts of programs as JSON.

    Raises InputError for other values.
    """
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, list):
        return [values_to_json(each) for each in value]
    for name, kind in _KINDS.items():
        if isinstance(value, kind.type) and not (kind.type is tuple and hasattr(value, "_fields")):
            return {name: values_to_json(kind.write(value))}
    raise InputError(f"an argument {shown(value)} of an operation cannot be stored")


def values_from_json(described: Any) -> Any:
    """What `values_to_json` described; arrays are those of NumPy.

    Raises KeyError, TypeError, ValueError or AttributeError for anything else.
    """
    if isinstance(described, list):
        return [values_from_json(each) for each in described]
    if isinstance(described, dict):
        ((name, held),) = described.items()
        return _KINDS[name].read(values_from_json(held))
    return described


def array_to_json(array: Any) -> list[Any]:
    """Its type, its shape and its bytes."""
    array = np.asarray(array)
    return [array.dtype.name, list(array.shape), b64encode(array.tobytes()).decode()]


def array_from_json(described: list[Any]) -> np.ndarray:
    """What `array_to_json` described."""
    name, shape, data = described
    return np.frombuffer(b64decode(data), jnp.dtype(name)).reshape(shape)


def _node(described: list[Any]) -> Node:
    operator, name, inputs, outputs, attributes, scope = described
    return Node(str(operator), str(name), _texts(inputs), _texts(outputs), dict(attributes), _texts(scope))


def _texts(described: Any) -> tuple[str, ...]:
    return tuple(map(str, described))


def _graph(described: list[Any]) -> Graph:
    nodes, inputs, outputs, constants = described
    return Graph(_all(Node, nodes), _all(Declared, inputs), _all(Declared, outputs), dict(constants))


def _all(kind: type, described: Any) -> tuple:
    if not all(isinstance(each, kind) for each in described):
        raise TypeError(f"what is no {kind.__name__}")
    return tuple(described)


def _declared(described: list[Any]) -> Declared:
    name, dtype, shape = described
    return Declared(str(name), np.dtype(dtype), shape and tuple(shape))


_KINDS: Mapping[str, _Kind] = {
    "float": _Kind(float, str, float),
    "value": _Kind(Reference, lambda reference: reference.name, Reference),
    "graph": _Kind(Graph, list, _graph),
    "node": _Kind(Node, lambda node: list(map(_plain, node)), _node),
    "declared": _Kind(Declared, list, _declared),
    "tuple": _Kind(tuple, list, tuple),
    "dict": _Kind(Mapping, lambda held: [[str(name), each] for name, each in held.items()], dict),
    "slice": _Kind(slice, lambda held: [held.start, held.stop, held.step], lambda held: slice(*held)),
    "dtype": _Kind(np.dtype, lambda dtype: dtype.name, jnp.dtype),
    "array": _Kind(np.ndarray, array_to_json, array_from_json),
}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
