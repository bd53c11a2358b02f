"""Converted networks as one file of StableHLO, which runs with jax alone on CPUs, GPUs and TPUs, or of ONNX."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.export as jax_export
import jax.numpy as jnp
import numpy as np
from jax.extend.mlir import deserialize_portable_artifact, ir, passmanager, serialize_portable_artifact
from jax.extend.mlir.dialects import stablehlo
from jax.interpreters import mlir

from gnsnn_jax.conversion.stopping import EarlyStop
from gnsnn_jax.conversion.to_spiking import SpikingFunction
from gnsnn_jax.engine.arrays import as_array, first_line, is_array
from gnsnn_jax.engine.parameters import are_parameters
from gnsnn_jax.engine.tracing import parted
from gnsnn_jax.errors import InputError, MissingPackage, extra, listed, printable
from gnsnn_jax.interop.files import existing_file, whole_file
from gnsnn_jax.interop.onnx_export import onnx_bytes

PLATFORMS = ("cpu", "cuda", "tpu")
ONNX = ".onnx"
_MARK = b"gnsnn_jax"  # in front of the fingerprint behind an artefact, where jax.export does not look
_FINGERPRINT = hashlib.sha256().digest_size
# Calls out of StableHLO that an artefact may make: checks and operations of unknown shape, random bits, linear algebra.
_CALLS = re.compile(
    r"shape_assertion|Sharding|stablehlo\.\w+|mhlo\.\w+|cu_threefry2x32_ffi|(lapack|cusolver|cublas)_\w+|Qr|Eigh"
    r"|LuDecomposition|ProductOfElementaryHouseholderReflectors"
)


def export(path: str | Path, snn: Callable, *args: Any, symbolic_batch: bool = True, overwrite: bool = False) -> None:
    """Writes a converted network as one file for CPU, CUDA and TPU, which needs no code of the model or this library.

        gs.export("network.stablehlo", snn, variables, x)
        outputs = gs.load_exported("network.stablehlo")(x)    # [T, B, K]
        gs.export("network.onnx", snn, variables, x)          # for onnxruntime and others, by jax2onnx

    The weights are stored inside, and the data stay arguments: the last argument with arrays, and those before it
    that are no parameters and whose arrays have all the same batch in front. Everything else, such as train=False,
    is stored as it is here. With jax alone, and its package flatbuffers,
    `jax.export.deserialize(bytearray(open(path, "rb").read())).call(x)` is the same. The file holds no places in
    source code.

    ONNX takes the arrays of the data as inputs of the name input, or input_0 and so on, and gives output likewise.
    While jax2onnx writes it, no other thread may trace functions with JAX: it replaces functions of JAX meanwhile.

    Args:
        path: the file to write; a name that ends in .onnx makes it ONNX.
        snn: what `to_spiking` returned, `jax.jit` of it, or a function around it such as
            `lambda variables, x: snn(variables, x).mean(0)`.
        args: its arguments; of data `jax.ShapeDtypeStruct` is enough.
        symbolic_batch: whether it takes batches of every size, or only of that of the data here.
        overwrite: whether a file that exists is replaced.

    Raises:
        InputError: where the file exists, where weights are shapes only, where the network takes no batch of every
            size, and for what no file of StableHLO can hold: callbacks to Python and classes of trees. Of ONNX for
            a primitive that jax2onnx does not write, which the error names.
        TypeError: for what `stop_when` returns.
        MissingPackage: where flatbuffers is not installed, or for ONNX jax2onnx.
    """
    with whole_file(path, overwrite) as unfinished:
        arguments = arguments_of(snn, args)
        content = _as_onnx if Path(path).suffix.lower() == ONNX else _as_stablehlo
        called = partial(arguments.called, snn, arguments.stored)
        unfinished.write_bytes(content(called, arguments, symbolic_batch))


def _as_stablehlo(function: Callable, arguments: Arguments, symbolic_batch: bool) -> bytes:
    return with_fingerprint(serialised(exported_for(function, (), arguments, symbolic_batch)))


def _as_onnx(function: Callable, arguments: Arguments, symbolic_batch: bool) -> bytes:
    def write(symbolic: bool) -> bytes:
        arrays, structure = jax.tree.flatten(arguments.shapes(symbolic))
        return onnx_bytes(lambda *arrays: function(*jax.tree.unflatten(structure, arrays)), arrays)

    return _for_every_batch(write, symbolic_batch)


def load_exported(path: str | Path) -> ExportedFunction:
    """Reads what `export` wrote: a function of the data alone.

    The file is data: nothing in it names code of Python, and calls out of StableHLO other than those that XLA's own
    operations make are refused.

    Args:
        path: the file.

    Returns:
        A function of the data, which works under the transformations of JAX that `jax.export` knows: `jit`, and
        no `grad`.

    Raises:
        InputError: for a file that is missing, damaged, or was not written by `export`.
        MissingPackage: where flatbuffers is not installed.
    """
    content = existing_file(path).read_bytes()
    name = printable(path)
    return ExportedFunction(deserialised(without_fingerprint(content, name), name), name)


@dataclass(frozen=True, eq=False)
class ExportedFunction:
    """What `load_exported` returns: a function of the data, the same as `exported.call` of `jax.export`."""

    exported: jax_export.Exported
    name: str

    def __call__(self, *data: Any) -> Any:
        args, _ = jax.tree.unflatten(self.exported.in_tree, self.exported.in_avals)
        return self._compiled(*checked_data(data, args, self.name))

    @cached_property
    def _compiled(self) -> Callable:
        return jax.jit(self.exported.call)


class Arguments(NamedTuple):
    """The arguments of a call, parted into the data and what is stored with the network.

    args    as they were given, arrays of other frameworks as those of NumPy
    data    positions of the arguments that are data
    axes    of each array in the data the axis of the batch, or None
    """

    args: tuple
    data: tuple[int, ...]
    axes: list[int | None]

    @property
    def stored(self) -> list[Any]:
        """The arrays of all other arguments."""
        return [leaf for at, value in enumerate(self.args) if at not in self.data for leaf in _arrays(value)]

    @property
    def of_data(self) -> tuple:
        return tuple(self.args[at] for at in self.data)

    def around(self, stored: Sequence[Any], data: Sequence[Any]) -> tuple:
        """The arguments with other stored arrays and other data."""
        arrays, given = iter(stored), iter(data)
        fill = lambda value: jax.tree.map(lambda leaf: next(arrays) if is_array(leaf) else leaf, value)
        return tuple(next(given) if at in self.data else fill(value) for at, value in enumerate(self.args))

    def called(self, snn: Callable, stored: Sequence[Any], *data: Any) -> Any:
        return snn(*self.around(stored, data))

    def shapes(self, symbolic_batch: bool) -> tuple:
        """The data as shapes, with a symbol for the size of the batch."""
        size = jax_export.symbolic_shape("batch")[0] if symbolic_batch else None
        leaves, structure = jax.tree.flatten(self.of_data)
        found = [_shape(leaf, axis, size) for leaf, axis in zip(leaves, self.axes, strict=True)]
        return jax.tree.unflatten(structure, found)


def arguments_of(snn: Callable, args: tuple) -> Arguments:
    """Parts the arguments of a converted network.

    Raises TypeError for early stop, and InputError where none holds data, where data hold anything but arrays, and
    where weights are shapes.
    """
    if isinstance(snn, EarlyStop):
        raise TypeError(
            "early stop decides from answers when to go on, which no file holds; give what to_spiking returned"
        )
    arrays, others = parted(args, {})
    args = others.around(arrays)[0]
    time_axes = iter(_time_axes(snn, args))
    kinds = iter(are_parameters(args, {}))
    described = [[_Array(next(time_axes), next(kinds), each) for each in _arrays(value)] for value in args]
    last = max((at for at, found in enumerate(described) if any(each.shape for each in found)), default=None)
    if last is None:
        raise InputError("the arguments hold no data, arrays with a batch in front; give an example of them at the end")
    batch = next(each.batch for each in described[last] if each.shape)
    is_data = lambda found: bool(found) and all(not each.is_parameter and each.batch == batch for each in found)
    data = tuple(at for at, found in enumerate(described) if at == last or is_data(found))
    _check_parts(args, data)
    axes = [each.batch_axis if each.batch == batch else None for at in data for each in described[at]]
    return Arguments(args, data, axes)


class _Array(NamedTuple):
    """An array among the arguments."""

    time_axis: int | None
    is_parameter: bool
    array: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """That of one time-step."""
        shape = list(np.shape(self.array))
        if self.time_axis is not None:
            del shape[self.time_axis]
        return tuple(shape)

    @property
    def batch(self) -> int | None:
        return self.shape[0] if self.shape else None

    @property
    def batch_axis(self) -> int:
        """The first axis that is not the time."""
        is_first = self.time_axis is not None and self.time_axis % np.ndim(self.array) == 0
        return int(is_first)


def _arrays(tree: Any) -> list[Any]:
    return [leaf for leaf in jax.tree.leaves(tree) if is_array(leaf)]


def _time_axes(snn: Any, args: tuple) -> list[int | None]:
    """The time axis of each array among the arguments, None without one."""
    while isinstance(snn, jax.stages.Wrapped):
        snn = snn.__wrapped__  # type: ignore[attr-defined]
    given = snn.time_axes if isinstance(snn, SpikingFunction) else None
    is_axis = lambda node: node is None or isinstance(node, int)
    prefix = (given,) * len(args) if is_axis(given) else given
    spread = jax.tree.map(lambda axis, part: [axis] * len(_arrays(part)), prefix, args, is_leaf=is_axis)
    return jax.tree.leaves(spread, is_leaf=is_axis)


def _check_parts(args: tuple, data: Sequence[int]) -> None:
    for at, value in enumerate(args):
        if at in data and len(_arrays(value)) != len(jax.tree.leaves(value)):
            raise InputError(
                f"argument {at + 1} holds data and other values than arrays; give these in an argument of their own"
            )
        if at not in data and any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in _arrays(value)):
            raise InputError(
                f"argument {at + 1} is stored with the network and holds shapes without values; give its arrays"
            )


def _shape(leaf: Any, axis: int | None, size: Any) -> jax.ShapeDtypeStruct:
    shape = list(leaf.shape)
    if size is not None and axis is not None:
        shape[axis] = size
    return jax.ShapeDtypeStruct(tuple(shape), jax.dtypes.canonicalize_dtype(leaf.dtype))


def exported_for(function: Callable, before: tuple, arguments: Arguments, symbolic_batch: bool) -> jax_export.Exported:
    """A function of `before` and the data, exported.

    Raises InputError where it takes no batch of every size, but one of the size that the data have.
    """
    export_with = lambda symbolic: jax_export.export(jax.jit(function), platforms=PLATFORMS)(
        *before, *arguments.shapes(symbolic)
    )
    return _for_every_batch(export_with, symbolic_batch)


def _for_every_batch(export_with: Callable[[bool], Any], symbolic_batch: bool) -> Any:
    """What the function makes, given whether the size of the batch is a symbol.

    Raises InputError where it cannot be a symbol but a number.
    """
    if not symbolic_batch:
        return export_with(False)
    try:
        return export_with(True)
    except MissingPackage:
        raise
    except Exception as error:  # whatever a network does with a size that is no number
        export_with(False)  # raises what has another reason
        raise InputError(
            f"the network cannot be exported for batches of every size ({first_line(error)}); let it use x.shape[0] "
            "and no len(x) or number, or give symbolic_batch=False, which exports it for the batch of the data here"
        ) from error


def serialised(exported: jax_export.Exported) -> bytes:
    """Raises InputError for classes of trees that are unknown to `jax.export`."""
    _need_flatbuffers()
    try:
        return bytes(_without_places(exported).serialize())
    except ValueError as error:
        raise InputError(
            f"the data or outputs cannot be described in a file ({first_line(error)}); use tuples, lists and dicts"
        ) from error


def _without_places(exported: jax_export.Exported) -> jax_export.Exported:
    """The same without the files and lines that it was made from."""
    with mlir.make_ir_context():
        module = deserialize_portable_artifact(exported.mlir_module_serialized)
        passmanager.PassManager.parse("builtin.module(strip-debuginfo)").run(module.operation)
        version = stablehlo.get_version_from_compatibility_requirement(
            stablehlo.StablehloCompatibilityRequirement.WEEK_4
        )
        return replace(exported, mlir_module_serialized=serialize_portable_artifact(module, version))


def deserialised(content: bytes, name: str) -> jax_export.Exported:
    """Raises InputError for what is no artefact, and for one that calls out of StableHLO."""
    _need_flatbuffers()
    try:
        exported = jax_export.deserialize(bytearray(content))
        with mlir.make_ir_context():
            calls = set(_calls(deserialize_portable_artifact(exported.mlir_module_serialized)))
    except Exception as error:  # whatever the readers of flatbuffers and MLIR meet in a damaged file
        raise InputError(
            f"{name} cannot be read ({first_line(error)}); it is damaged, or of another version of JAX than "
            f"{jax.__version__} reads: export it again"
        ) from error
    if strange := sorted(call for call in calls if not _CALLS.fullmatch(call)):
        raise InputError(f"{name} calls {listed(strange)} outside of StableHLO, which no export does; do not use it")
    return exported


def _calls(module: ir.Module) -> list[str]:
    """The names of what a module calls out of StableHLO."""
    found: list[str] = []

    def look_at(operation: ir.Operation) -> ir.WalkResult:
        if "call_target_name" in operation.attributes:
            found.append(ir.StringAttr(operation.attributes["call_target_name"]).value)
        return ir.WalkResult.ADVANCE

    module.operation.walk(look_at)
    return found


def _need_flatbuffers() -> None:
    with extra("export", "storing functions of jax.export"):
        import_module("flatbuffers")


def with_fingerprint(content: bytes) -> bytes:
    return content + _MARK + hashlib.sha256(content).digest()


def without_fingerprint(content: bytes, name: str) -> bytes:
    """Raises InputError unless the content is as it was written."""
    end = len(content) - _FINGERPRINT - len(_MARK)
    if end < 0 or with_fingerprint(content[:end]) != content:
        raise InputError(f"{name} is damaged, or was not written by export; export it again")
    return content[:end]


def checked_data(data: tuple, wanted: tuple, name: str) -> tuple:
    """The data as arrays. Raises InputError unless their tree, types and shapes are the wanted ones."""
    given = jax.tree.map(lambda leaf: jnp.asarray(as_array(leaf)) if is_array(leaf) else leaf, data)
    own_tree: Any
    (own, own_tree), (leaves, tree) = jax.tree.flatten(given), jax.tree.flatten(wanted)
    if own_tree != tree or not all(map(_fits, own, leaves)):
        raise InputError(f"{name} takes {_shown(wanted)}, got {_shown(given)}; give the data alone, of these shapes")
    return given


def _fits(given: Any, wanted: Any) -> bool:
    if not is_array(given) or given.dtype != wanted.dtype or given.ndim != wanted.ndim:
        return False
    return all(own == size or not isinstance(size, int) for own, size in zip(given.shape, wanted.shape, strict=True))


def _shown(data: tuple) -> str:
    described = (
        f"{leaf.dtype}[{', '.join(map(str, leaf.shape))}]" if hasattr(leaf, "shape") else type(leaf).__name__
        for leaf in jax.tree.leaves(data)
    )
    return listed(described, separator=" and ") or "nothing"
