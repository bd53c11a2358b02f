"""ONNX files, read into what needs the package onnx no more: nodes, their places and arrays of NumPy."""

from __future__ import annotations

import ast
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gnsnn_jax.engine.arrays import first_line
from gnsnn_jax.errors import InputError, extra, printable, shown
from gnsnn_jax.interop.files import existing_file

Arrays = dict[str, np.ndarray]
OLDEST = 7  # of the operator sets: before it, operands did not broadcast by themselves
# Inputs that say how an operator works. Arrays of the file in these places are settings, not variables.
SETTINGS: dict[str, tuple[int, ...]] = {
    "Clip": (1, 2),
    "CumSum": (1,),
    "Dropout": (1, 2),
    "OneHot": (1, 2),
    "Pad": (1, 2, 3),
    "Pow": (1,),
    "Range": (0, 1, 2),
    "Resize": (1, 2, 3),
    "Upsample": (1,),
}
# Arrays that are compared with others and read nowhere else are no variables either: they have no gradient.
COMPARISONS = dict.fromkeys("Equal Greater GreaterOrEqual Less LessOrEqual".split(), (0, 1))
_NAME_SCOPES = "pkg.torch.onnx.name_scopes"  # the modules around a node, which PyTorch's newer exporter writes
_KIND = "pkg.torch.export.graph_signature.InputSpec.kind"  # which it writes beside a parameter or a buffer
_DEEPEST = 50  # subgraphs within subgraphs


class Node(NamedTuple):
    """One operation.

    operator     "Conv", or of another domain than ONNX's own "domain.Name"
    inputs       and `outputs`, names of values; "" for one that is left out
    attributes   as Python has them; those that are graphs as `Graph`
    scope        the module that it stands in, ("layer1", "0", "relu"), else its own name
    """

    operator: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    scope: tuple[str, ...]

    def __str__(self) -> str:
        return printable(self.name or "/".join(self.scope) or self.operator)


class Declared(NamedTuple):
    """An input or output of a graph: its type, and its shape with None for an axis of any length."""

    name: str
    dtype: np.dtype
    shape: tuple[int | None, ...] | None


class Graph(NamedTuple):
    """Nodes in the order of evaluation, and `constants`, the arrays among their inputs that never change."""

    nodes: tuple[Node, ...]
    inputs: tuple[Declared, ...]
    outputs: tuple[Declared, ...]
    constants: Arrays


class Program(NamedTuple):
    """The network of a file: `variables` are the other arrays that its nodes read, by their names in the file."""

    graph: Graph
    variables: Mapping[str, np.ndarray | None]
    opset: int


def read(path: str | Path) -> Program:
    """The network in an ONNX file, with the arrays in files beside it.

    Raises:
        MissingPackage: where the package onnx is not installed.
        InputError: for a file that is missing, damaged or no ONNX, and for arrays in files outside of its folder.
    """
    with extra("onnx", "reading a network of ONNX"):
        import onnx
        import onnx.inliner
    path = existing_file(path)
    try:
        model = onnx.load(path, format="protobuf", load_external_data=False)
        model = onnx.inliner.inline_local_functions(model) if model.functions else model
        return _program(onnx, model, path)
    except InputError as error:
        raise InputError(f"{printable(path)}: {error}") from None
    except OSError:
        raise
    except Exception as error:  # whatever is met in a file that is not one of ONNX
        raise InputError(
            f"{printable(path)} cannot be read as ONNX ({first_line(error)}); it is damaged, or of another format"
        ) from error


def _program(onnx: ModuleType, model: Any, path: Path) -> Program:
    opsets = [each.version for each in model.opset_import if each.domain in ("", "ai.onnx")]
    if not opsets or not model.graph.output:
        raise InputError("the file holds no network of ONNX; it is damaged, or of another format")
    if opsets[0] < OLDEST:
        raise InputError(f"the file is of operator set {opsets[0]}, older than {OLDEST}; export the network again")
    reader = _Reader(onnx, path.parent)
    graph = reader.graph(model.graph)
    settings, weights = _read_places(graph.nodes)
    is_variable = lambda name, array: name in weights and jnp.issubdtype(array.dtype, jnp.floating)
    own = {each.name for each in model.graph.initializer} - _numbers_of_torch(model.graph)
    variables = {name: each for name, each in graph.constants.items() if name in own and is_variable(name, each)}
    used = settings | weights | {each.name for each in graph.outputs}
    kept = lambda name: name in settings or (name in used and name not in variables)
    constants = {name: array for name, array in graph.constants.items() if kept(name)}
    return Program(graph._replace(constants=constants), variables, opsets[0])


def _numbers_of_torch(graph: Any) -> set[str]:
    """Numbers in the user's code, which PyTorch's newer exporter writes beside parameters: 0.5 in `0.5 * x`."""
    kinds = {each.name for each in graph.value_info for about in each.metadata_props if about.key == _KIND}
    return {each.name for each in graph.initializer if kinds and not each.dims} - kinds


def _read_places(nodes: Iterable[Node]) -> tuple[set[str], set[str]]:
    """The names that nodes read as settings, and those that they read otherwise, in subgraphs too."""
    settings: set[str] = set()
    others: set[str] = set()
    for node in nodes:
        places = (SETTINGS | COMPARISONS).get(node.operator, ())
        for place, name in enumerate(node.inputs):
            (settings if place in places else others).add(name)
        for graph in subgraphs(node):
            for mine, found in zip((settings, others), _read_places(graph.nodes), strict=True):
                mine |= found
            others |= {each.name for each in graph.outputs}
    return settings, others


def subgraphs(node: Node) -> Iterator[Graph]:
    return (each for each in node.attributes.values() if isinstance(each, Graph))


class _Reader:
    """Reads the parts of a model; `folder` is where the arrays in other files are."""

    def __init__(self, onnx: ModuleType, folder: Path):
        self.onnx, self.folder = onnx, folder

    def graph(self, graph: Any, depth: int = 0) -> Graph:
        if depth > _DEEPEST:
            raise InputError(f"subgraphs stand within each other more than {_DEEPEST} deep")
        if graph.sparse_initializer:
            raise InputError("the file holds sparse arrays, which are not read; store them dense")
        constants = {each.name: self.array(each) for each in graph.initializer}
        nodes = []
        for each in graph.node:
            node = self.node(each, depth)
            if node.operator == "Constant":
                constants[node.outputs[0]] = _constant(node)
            else:
                nodes.append(node)
        given = {each.name for each in graph.initializer}
        inputs = tuple(self.declared(each) for each in graph.input if each.name not in given)
        return Graph(tuple(nodes), inputs, tuple(map(self.declared, graph.output)), constants)

    def node(self, node: Any, depth: int) -> Node:
        operator = node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"
        attributes = {each.name: self.attribute(each, depth) for each in node.attribute}
        if operator in ("Cast", "EyeLike") and (key := {"Cast": "to", "EyeLike": "dtype"}[operator]) in attributes:
            attributes[key] = self.dtype(attributes[key])
        if operator == "Split":
            attributes.setdefault("num_outputs", len(node.output))
        return Node(operator, node.name, tuple(node.input), tuple(node.output), attributes, _scope(node))

    def attribute(self, attribute: Any, depth: int) -> Any:
        kinds = self.onnx.AttributeProto
        if attribute.type == kinds.TENSOR:
            return self.array(attribute.t)
        if attribute.type == kinds.GRAPH:
            return self.graph(attribute.g, depth + 1)
        if attribute.type not in (kinds.FLOAT, kinds.INT, kinds.STRING, kinds.FLOATS, kinds.INTS, kinds.STRINGS):
            raise InputError(f"an attribute {shown(attribute.name)} is of a kind that is not read")
        return _plain(self.onnx.helper.get_attribute_value(attribute))

    def declared(self, value: Any) -> Declared:
        tensor = value.type.tensor_type
        if not tensor.elem_type:
            if value.type.WhichOneof("value"):
                raise InputError(f"{shown(value.name)} is a sequence, a map or optional, not an array")
            return Declared(value.name, np.dtype(np.float32), None)  # of a subgraph, which need not say
        lengths = (each.dim_value if each.HasField("dim_value") else None for each in tensor.shape.dim)
        shape = tuple(lengths) if tensor.HasField("shape") else None
        return Declared(value.name, self.dtype(tensor.elem_type), shape)

    def dtype(self, kind: int) -> np.dtype:
        dtype = np.dtype(self.onnx.helper.tensor_dtype_to_np_dtype(kind))
        if dtype.kind not in "biufV" and not jnp.issubdtype(dtype, jnp.number):
            raise InputError("an array holds strings, of which there are none in JAX")
        return dtype

    def array(self, tensor: Any) -> np.ndarray:
        self.dtype(tensor.data_type)
        if tensor.data_location == self.onnx.TensorProto.EXTERNAL:
            tensor.raw_data = self.bytes_of(tensor)
            tensor.data_location = self.onnx.TensorProto.DEFAULT
        try:
            return np.asarray(self.onnx.numpy_helper.to_array(tensor))
        except Exception as error:  # of the package, which has no common class of them
            raise InputError(f"the array {shown(tensor.name)} is damaged: {first_line(error)}") from None

    def bytes_of(self, tensor: Any) -> bytes:
        """The bytes of an array in another file, of which no more are read than the array has."""
        about = {each.key: each.value for each in tensor.external_data}
        path = self.beside(tensor.name, about.get("location", ""))
        bits = 8 * self.dtype(tensor.data_type).itemsize
        length = math.prod(tensor.dims) * bits // 8
        start, given = (about.get(key, "") for key in ("offset", "length"))
        start = int(start) if start.isdecimal() else 0
        length = int(given) if given.isdecimal() else length
        if min(length, start) < 0 or start + length > path.stat().st_size:
            raise InputError(f"{printable(path.name)} ends before the array {shown(tensor.name)}; copy it whole")
        with path.open("rb") as file:
            file.seek(start)
            return file.read(length)

    def beside(self, name: str, location: str) -> Path:
        """The path of a file in the folder of the model."""
        folder = self.folder.resolve()
        path = (folder / location).resolve()
        if not location or Path(location).is_absolute() or folder not in path.parents:
            raise InputError(
                f"the array {shown(name)} is said to be in {shown(location)}, outside of the folder of the model, "
                "which is not read"
            )
        if not path.is_file():
            raise InputError(f"there is no file {printable(location)} beside it, which holds the array {shown(name)}")
        return path


def _plain(value: Any) -> Any:
    """Bytes as text, and lists of them."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return list(map(_plain, value)) if isinstance(value, list | tuple) else value


_OF_CONSTANTS = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}


def _constant(node: Node) -> np.ndarray:
    ((name, value),) = node.attributes.items()
    if name != "value" and name not in _OF_CONSTANTS:
        raise InputError(f"the constant {node} holds strings or a sparse array, which are not read")
    return np.asarray(value, _OF_CONSTANTS.get(name))


# Names.


def _scope(node: Any) -> tuple[str, ...]:
    """The module that a node stands in, by PyTorch's or TensorFlow's names, else its own name."""
    scopes = {each.key: each.value for each in node.metadata_props if each.key == _NAME_SCOPES}
    if modules := _modules(scopes.get(_NAME_SCOPES, "[]")):
        return modules
    name = node.name or next(filter(None, node.output), "")
    *outer, last = [part for part in name.split("/") if part] or [node.op_type]
    of_torch = name.startswith("/")
    is_operator = bool(outer) and (of_torch or last.startswith(node.op_type))
    parts = outer if is_operator else [*outer, last]
    return _without_repetition(parts) if of_torch else tuple(parts)


def _modules(scopes: str) -> tuple[str, ...]:
    """Of "['', 'layer1', 'layer1.0', 'relu']" ("layer1", "0"); the last, the node itself, where it is in no module."""
    try:
        *modules, node = ast.literal_eval(scopes)  # reads literals of Python, and evaluates nothing
        path = modules[-1] if modules else ""
        return tuple(part.partition("@")[0] for part in (path or node).split(".") if part)
    except (ValueError, SyntaxError, TypeError, AttributeError, MemoryError, RecursionError):
        return ()


def _without_repetition(parts: list[str]) -> tuple[str, ...]:
    """Of "layer1/layer1.0", as PyTorch's older exporter writes it, ("layer1", "0")."""
    pairs = zip(["", *parts], parts, strict=False)
    paths = (part.removeprefix(f"{outer}.") if outer else part for outer, part in pairs)
    return tuple(name for path in paths for name in path.split(".") if name)


def jax_type(dtype: Any) -> np.dtype:
    """The type that JAX computes in: float32 for float64, int32 for int64, unless 64 bits are enabled."""
    return jax.dtypes.canonicalize_dtype(dtype)
