"""Networks in files of ONNX as functions of JAX: `from_onnx`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gnsnn_jax.engine.arrays import as_array, first_line
from gnsnn_jax.errors import InputError, listed, printable, shown
from gnsnn_jax.interop.onnx_operators import operator_named
from gnsnn_jax.interop.onnx_program import (
    COMPARISONS,
    SETTINGS,
    Declared,
    Graph,
    Node,
    Program,
    jax_type,
    read,
    subgraphs,
)
from gnsnn_jax.interop.onnx_values import all_static, as_jax, fixed, static

Values = dict[str, Any]
MOST_PASSES = 1000  # of a loop that is written out


def from_onnx(path: str | Path) -> tuple[Callable, dict[str, jax.Array]]:
    """A trained network in a file of ONNX as a pure function of JAX and its weights.

        apply, variables = gs.from_onnx("network.onnx")
        outputs = apply(variables, images)    # those of onnxruntime

    Operators are those of JAX: ReLUs are `jax.nn.relu`, so that `sites`, `find_thresholds` and `to_spiking` find them,
    under the paths of their modules where PyTorch or TensorFlow wrote them, "layer1/0/relu", else under the names of
    their nodes. Arrays keep the order of axes that the file has, as a rule [B, C, H, W]; for thresholds by channel
    give `channel_axis=-3`. Operator sets 11 to 20 are tested. Nothing that the file names is run, and arrays in other
    files are read from its own folder alone.

    Args:
        path: a file that PyTorch's exporters, tf2onnx, Keras or other tools wrote, in inference mode.

    Returns:
        apply: `apply(variables, *inputs)` takes the inputs of the file in its order, and returns its output, or a
            tuple of several. The length of their first axis is free, also where the file has been exported with a
            fixed one and does not compute with it; all other lengths that the file states are fixed.
        variables: a dictionary of the arrays of floating point that the network reads, by their names in the file.
            Float64 becomes float32 unless JAX's 64 bits are enabled. Integers, shapes and settings such as the
            bounds of a Clip are constants of `apply`.

    Raises:
        InputError: for a file that is missing, damaged or no ONNX, and for operators without a counterpart in
            `gnsnn_jax.interop.onnx_operators.OPERATORS`: all in one list, with the names of their nodes.
        MissingPackage: where the package onnx is not installed.
    """
    program, variables = program_of(path)

    def apply(variables, *inputs):
        return evaluated(program, variables, inputs)

    return apply, variables


def program_of(path: str | Path) -> tuple[Program, dict[str, jax.Array]]:
    """What `from_onnx` evaluates: a program with None in place of its variables, and these.

    Raises as `from_onnx` does.
    """
    program = read(path)
    check_operators(program)
    variables = {name: jnp.asarray(array) for name, array in program.variables.items()}
    return program._replace(variables=dict.fromkeys(variables)), variables


def check_operators(program: Program) -> None:
    """Raises InputError that lists those which are not known."""
    places: dict[str, list[str]] = {}
    for node in _nodes(program.graph):
        if node.operator not in _WITH_GRAPHS and operator_named(node.operator, program.opset) is None:
            places.setdefault(node.operator, []).append(str(node))
    if places:
        found = [f"{operator} ({listed(nodes, 3)})" for operator, nodes in places.items()]
        raise InputError(
            f"from_onnx does not know {len(found)} of the network's operators: {listed(found, most=50)}; leave them "
            "out of the network, or add a function of JAX for each to gnsnn_jax.interop.onnx_operators.OPERATORS"
        )


def _nodes(graph: Graph) -> Iterator[Node]:
    for node in graph.nodes:
        yield node
        for inner in subgraphs(node):
            yield from _nodes(inner)


def evaluated(program: Program, variables: Any, inputs: tuple) -> Any:
    """The outputs of a program for these variables and inputs."""
    _check_variables(program, variables)
    declared = program.graph.inputs
    if len(inputs) != len(declared):
        names = listed(each.name for each in declared)
        raise InputError(f"after its variables the network takes {len(declared)} inputs ({names}), got {len(inputs)}")
    arrays = [_checked(each, given) for each, given in zip(declared, inputs, strict=True)]
    values: Values = {name: _jax_array(variables[name]) for name in program.variables}
    values |= {each.name: array for each, array in zip(declared, arrays, strict=True)}
    batch = _Batch.of(declared, arrays)
    outputs = [as_jax(each) for each in _run(program.graph, values, _Trace(program.opset, batch, {}))]
    batch.check(program.graph.outputs, outputs)
    return outputs[0] if len(outputs) == 1 else tuple(outputs)


def _check_variables(program: Program, variables: Any) -> None:
    if not isinstance(variables, Mapping):
        raise InputError(f"variables must be the dictionary that from_onnx returned, got {shown(type(variables))}")
    if missing := sorted({*program.variables} - {*variables}):
        raise InputError(f"variables lack {listed(missing)}; pass those that from_onnx returned")


class _Batch(NamedTuple):
    """The length of the first axis that the file states, where the inputs have another; else None twice."""

    stated: int | None
    given: Any

    @classmethod
    def of(cls, declared: Sequence[Declared], arrays: Sequence[Any]) -> _Batch:
        pairs = [(each.shape[0], array.shape[0]) for each, array in zip(declared, arrays, strict=True) if each.shape]
        return cls(*next(((old, new) for old, new in pairs if old not in (None, new)), (None, None)))

    def reshaped(self, node: Node, inputs: list[Any]) -> list[Any]:
        """A new shape that begins with the stated length, as the array does with the given one, begins with that."""
        if self.stated is None or node.operator != "Reshape" or not isinstance(inputs[1], np.ndarray):
            return inputs
        x, shape = inputs
        if x.shape[:1] != (self.given,) or shape.ravel()[:1].tolist() != [self.stated]:
            return inputs
        return [x, static([self.given, *shape.ravel()[1:].tolist()])]

    @property
    def hint(self) -> str:
        if self.stated is None:
            return ""
        return f"; the file states a batch of {self.stated}: give that, or export the network with a dynamic batch"

    def check(self, declared: Sequence[Declared], outputs: Sequence[Any]) -> None:
        """Raises InputError where the network computes with the length that the file states."""
        for wanted, found in zip(declared, outputs, strict=True):
            if self.stated and wanted.shape and wanted.shape[0] == self.stated and found.shape[0] != self.given:
                entries = f"output {printable(wanted.name)} has {found.shape[0]} entries for a batch of {self.given}"
                raise InputError(entries + self.hint)


def _checked(wanted: Declared, given: Any) -> jax.Array:
    """An input in the type of the file, of the lengths that it states but for the first."""
    array = _jax_array(given)
    dtype, shape = jax_type(wanted.dtype), wanted.shape
    name = printable(wanted.name)
    is_float = lambda dtype: jnp.issubdtype(dtype, jnp.floating)
    if not is_float(dtype) and is_float(array.dtype):
        raise InputError(f"input {name} takes {dtype.name}, got {array.dtype}; give integers")
    fits = shape is None or (
        len(array.shape) == len(shape)
        and all(length in (None, n) for length, n in zip(shape[1:], array.shape[1:], strict=True))
    )
    if not fits:
        raise InputError(f"input {name} must have the shape {_lengths(shape)}, got {list(array.shape)}")
    return array if array.dtype == dtype else array.astype(dtype)


def _jax_array(value: Any) -> jax.Array:
    return value if isinstance(value, jax.Array) else as_jax(np.asarray(as_array(value)))


def _lengths(shape: Sequence[int | None]) -> str:
    return "[" + ", ".join("any" if i == 0 or n is None else str(n) for i, n in enumerate(shape)) + "]"


class _Trace(NamedTuple):
    """What all nodes share; `constants` are those of the graphs around them."""

    opset: int
    batch: _Batch
    constants: Mapping[str, np.ndarray]


def _run(graph: Graph, outer: Values, trace: _Trace) -> list[Any]:
    """The outputs of a graph; `outer` are the values that it may read beside its own."""
    trace = trace._replace(constants={**trace.constants, **graph.constants})
    values = {**graph.constants, **outer}  # what is both a setting and a variable is the variable here
    for node in graph.nodes:
        results = _results(node, values, trace)
        values.update({name: each for name, each in zip(node.outputs, results, strict=False) if name})
    return [_value(values, each.name, "the output of the graph") for each in graph.outputs]


def _results(node: Node, values: Values, trace: _Trace) -> Sequence[Any]:
    if node.operator in _WITH_GRAPHS:
        return _WITH_GRAPHS[node.operator](node, values, trace)
    inputs = [_value(values, name, node) if name else None for name in node.inputs]
    inputs = trace.batch.reshaped(node, _with_settings(node, inputs, trace.constants))
    function = operator_named(node.operator, trace.opset)
    with jax.named_scope("/".join(node.scope)):
        try:
            found = function(*inputs, **node.attributes)
        except (TypeError, ValueError, IndexError, KeyError, ZeroDivisionError, NotImplementedError) as error:
            said = f": {error}" if isinstance(error, InputError) else f" failed in JAX: {first_line(error)}"
            raise InputError(f"{node.operator} of node {node}{said}{trace.batch.hint}") from error
    found = found if isinstance(found, tuple | list) else (found,)
    return [each if isinstance(each, jax.Array | np.ndarray) else _numpy(each) for each in found]


def _with_settings(node: Node, inputs: list[Any], constants: Mapping[str, np.ndarray]) -> list[Any]:
    """The inputs with arrays of the file for settings, and for what is compared with nothing but such arrays."""
    stored = [constants.get(name, value) for name, value in zip(node.inputs, inputs, strict=True)]
    if node.operator in COMPARISONS and all_static(stored):
        return stored
    places = SETTINGS.get(node.operator, ())
    return [stored[place] if place in places else value for place, value in enumerate(inputs)]


def _numpy(value: Any) -> np.ndarray:
    """NumPy's numbers, and lengths of symbolic shapes, as arrays without axes."""
    if isinstance(value, np.generic):
        return np.asarray(value)
    array = np.empty((), object)
    array[()] = value
    return array


def _branch(node: Node, values: Values, trace: _Trace) -> list[Any]:
    """The outputs of that branch which a condition chooses that depends on shapes and constants alone."""
    condition = _decided(_value(values, node.inputs[0], node), node)
    return _run(node.attributes["then_branch" if condition else "else_branch"], values, trace)


def _decided(condition: Any, node: Node) -> bool:
    try:
        return bool(fixed(condition, "its condition").all())
    except InputError as error:
        raise InputError(f"{node.operator} of node {node}: {error}") from None


def _loop(node: Node, values: Values, trace: _Trace) -> list[Any]:
    """Writes out the passes of a loop, of which shapes and constants alone say how many there are."""
    body = node.attributes["body"]
    limit, goes_on, *state = [_value(values, name, node) if name else np.ones((), bool) for name in node.inputs]
    limit = int(fixed(limit, "the number of passes")) if node.inputs[0] else MOST_PASSES + 1
    collected: list[list[Any]] = []
    while len(collected) < limit and _decided(goes_on, node):
        if len(collected) == MOST_PASSES:
            raise InputError(f"Loop of node {node} takes more than {MOST_PASSES} passes, too many to write out")
        given = [np.asarray(len(collected)), goes_on, *state]
        named = {each.name: value for each, value in zip(body.inputs, given, strict=True)}
        goes_on, *found = _run(body, {**values, **named}, trace)
        state, rest = found[: len(state)], found[len(state) :]
        collected.append(rest)
    return [*state, *(jnp.stack([*map(as_jax, each)]) for each in zip(*collected, strict=True))]


def _value(values: Values, name: str, reader: Any) -> Any:
    if name not in values:
        raise InputError(
            f"{reader} reads {shown(name)}, which no node before it makes, or which is an output that is not computed "
            "here, such as the indices of max-pooling"
        )
    return values[name]


_WITH_GRAPHS: Mapping[str, Callable[[Node, Values, _Trace], list[Any]]] = {"If": _branch, "Loop": _loop}
