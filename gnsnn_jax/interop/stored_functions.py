"""Converted networks in one file each: weights, settings and computation, read without the code of the model."""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import jax
import jax.numpy as jnp
import numpy as np

from gnsnn_jax.conversion.converted_function import converted_function
from gnsnn_jax.conversion.to_spiking import SpikingFunction, to_spiking
from gnsnn_jax.engine.arrays import first_line, is_array
from gnsnn_jax.errors import LARGEST_COUNT, InputError, listed, printable, shown
from gnsnn_jax.interop.exported import (
    Arguments,
    arguments_of,
    checked_data,
    deserialised,
    exported_for,
    serialised,
)
from gnsnn_jax.interop.files import Arrays, existing_file, whole_file
from gnsnn_jax.method.calibrations import Calibration
from gnsnn_jax.method.corrections import Correction
from gnsnn_jax.method.neurons import Neuron
from gnsnn_jax.method.values import DEEPEST, from_json, to_json

FORMAT = 1  # of the file; a reader refuses later ones
_ABOUT, _EXPORTED, _ARGUMENT, _THRESHOLD, _CORRECTION = "about", "exported", "argument_", "threshold_", "correction_"
_PLAIN = (bool, int, float, str)


def save(path: str | Path, snn: Callable, *args: Any, symbolic_batch: bool = True, overwrite: bool = False) -> None:
    """Writes a converted network with its weights, neurons, calibration and thresholds into one file.

        gs.save("network.npz", snn, variables, x)
        snn = gs.load("network.npz")
        outputs = snn(x)    # [T, B, K], without the code of the model

    Which arguments are data and which are stored is decided as by `export`. The file is an archive of NumPy without
    pickled objects: arrays, JSON, and what `export` writes, which takes the weights from the arrays.

    Args:
        path: the file to write.
        snn: what `to_spiking` returned, or `jax.jit` of it.
        args: its arguments; of data `jax.ShapeDtypeStruct` is enough.
        symbolic_batch: whether it takes batches of every size, or only of that of the data here.
        overwrite: whether a file that exists is replaced.

    Raises:
        InputError: as `export` does, and for neurons and calibrations with fields that JSON does not hold.
        TypeError: for what is no converted network.
        MissingPackage: where flatbuffers is not installed.
    """
    spiking = converted_function(snn)
    with whole_file(path, overwrite) as unfinished:
        arguments = arguments_of(spiking, args)
        arrays = {f"{_ARGUMENT}{at}": _plain_array(leaf) for at, leaf in enumerate(arguments.stored)}
        thresholds = dict(spiking.thresholds or {})
        arrays |= {f"{_THRESHOLD}{at}": np.asarray(each) for at, each in enumerate(thresholds.values())}
        parts = {
            (name, field): value
            for name, correction in (spiking.corrections or {}).items()
            for field, value in correction._asdict().items()
            if value is not None
        }
        arrays |= {f"{_CORRECTION}{at}": np.asarray(each) for at, each in enumerate(parts.values())}
        of_sites = {"thresholds": list(thresholds), "corrections": list(map(list, parts))}
        about = _settings(spiking) | _structure(arguments) | of_sites
        run = lambda stored, *data: arguments.called(spiking, stored, *data)
        exported = exported_for(run, (arguments.stored,), arguments, symbolic_batch)
        arrays[_EXPORTED] = np.frombuffer(serialised(exported), np.uint8)
        arrays[_ABOUT] = np.frombuffer(json.dumps(about).encode(), np.uint8)
        with unfinished.open("wb") as file:  # given a path, savez would append to its name
            np.savez(file, **arrays)  # type: ignore[arg-type]


@overload
def load(path: str | Path, ann: None = None, *, like: tuple | None = None) -> StoredFunction: ...
@overload
def load(path: str | Path, ann: Callable, *, like: tuple | None = None) -> SpikingFunction: ...
def load(
    path: str | Path, ann: Callable | None = None, *, like: tuple | None = None
) -> StoredFunction | SpikingFunction:
    """Reads what `save` wrote, as a function of the data alone.

        snn = gs.load("network.npz")                     # runs the stored computation
        snn = gs.load("network.npz", ann=model.apply)    # converts the model again, for `verify` and `stop_when`
        print(gs.verify(snn.ann, snn, [x]))

    Nothing is imported or run because the file names it, and no file of the model is needed.

    Args:
        path: the file.
        ann: the network that was converted. With it a converted network as `to_spiking` makes it is returned, with
            the stored weights bound to the network: its `ann` is a function of the data too.
        like: arguments such as `save` was given, whose arrays are replaced by those in the file. Needed beside `ann`
            where weights are in classes of trees other than dicts, lists and tuples, such as modules of Equinox.

    Returns:
        A `StoredFunction`, which has the number of `steps` that it was stored with; or the converted network.

    Raises:
        InputError: for a file that is missing, damaged or not written by `save`, for neurons of a class that is not
            imported (beside `ann`), and for an `ann` that has no such activations or takes other arguments.
        MissingPackage: where flatbuffers is not installed, and `ann` is not given.
    """
    stored = _Stored.read(existing_file(path))
    if ann is None:
        return StoredFunction(stored)
    return stored.converted(ann, like)


@dataclass(frozen=True, eq=False)
class StoredFunction:
    """What `load` returns: a converted network as a function of the data, outputs [T, ...] as they were stored."""

    stored: _Stored

    @property
    def steps(self) -> int:
        """T, the number of time-steps."""
        return self.stored.about["steps"]

    @property
    def thresholds(self) -> dict[str, np.ndarray]:
        """Those that the network was converted with, by name of the site."""
        return self.stored.thresholds

    def __call__(self, *data: Any) -> Any:
        exported = self._exported
        (weights, *wanted), _ = jax.tree.unflatten(exported.in_tree, exported.in_avals)
        checked_data((self._weights,), (weights,), f"the network in {self.stored.name}")
        return self._compiled(self._weights, *checked_data(data, tuple(wanted), self.stored.name))

    @cached_property
    def _exported(self) -> Any:
        return deserialised(self.stored.exported, self.stored.name)

    @cached_property
    def _compiled(self) -> Callable:
        return jax.jit(self._exported.call)

    @cached_property
    def _weights(self) -> list[jax.Array]:
        return [jnp.asarray(each) for each in self.stored.weights]


@dataclass(frozen=True, eq=False)
class BoundNetwork:
    """A network as a function of the data, with its other arguments bound."""

    apply: Callable
    arguments: Arguments

    def __call__(self, *data: Any) -> Any:
        return self.apply(*self.arguments.around(self.arguments.stored, data))


# What is said about a converted network, and back.


def _settings(spiking: SpikingFunction) -> dict[str, Any]:
    if spiking.observe is not None:
        raise InputError("snn observes its spikes, which is not stored; give what to_spiking returned")
    neuron = spiking.neuron
    by_pattern = [[pattern, to_json(each)] for pattern, each in neuron.items()] if isinstance(neuron, Mapping) else None
    return {
        "package": "gnsnn_jax",
        "format": FORMAT,
        "neuron": by_pattern or to_json(neuron),  # type: ignore[arg-type]
        "steps": spiking.steps,
        "calibration": spiking.calibration and to_json(spiking.calibration),
        "chunk": spiking.chunk,
        "time_axes": _described(spiking.time_axes, iter(())),
        "product_dtype": spiking.product_dtype and spiking.product_dtype.name,
        "encoders": spiking.encoders,
        "reduce": spiking.reduce,
        "coding": spiking.coding,
    }


def _structure(arguments: Arguments) -> dict[str, Any]:
    """The arguments without their arrays; None in place of what JSON cannot describe."""
    numbers = iter(range(len(arguments.stored)))
    kept = tuple(None if at in arguments.data else value for at, value in enumerate(arguments.args))
    try:
        described = _described(kept, numbers)
    except InputError:
        described = None
    types = [str(leaf.dtype) for leaf in arguments.stored]
    return {"data": list(arguments.data), "count": len(kept), "types": types, "arguments": described}


def _described(node: Any, numbers: Iterator[int]) -> dict[str, Any]:
    """A tree of dicts, lists, tuples, numbers and texts as JSON, its arrays numbered in the order of JAX.

    Raises InputError for other nodes.
    """
    if is_array(node):
        return {"array": next(numbers)}
    if type(node) is dict and all(type(key) is str for key in node):
        return {"dict": {key: _described(node[key], numbers) for key in sorted(node)}}
    if type(node) in (list, tuple):
        return {type(node).__name__: [_described(each, numbers) for each in node]}
    if node is None or type(node) in _PLAIN:
        return {"value": node}
    raise InputError(f"a {type(node).__name__} is no dict, list, tuple, number or text, and so is not stored")


def _rebuilt(described: Any, arrays: Sequence[Any], levels: int = DEEPEST) -> Any:
    """The tree that `_described` made JSON of. Raises InputError for anything else."""
    kind, held = next(iter(described.items())) if isinstance(described, dict) and len(described) == 1 else (None, None)
    inside = lambda each: _rebuilt(each, arrays, levels - 1)
    if kind == "dict" and isinstance(held, dict) and levels:
        return {key: inside(each) for key, each in held.items()}
    if kind in ("list", "tuple") and isinstance(held, list) and levels:
        return list(map(inside, held)) if kind == "list" else tuple(map(inside, held))
    if kind == "array" and type(held) is int and 0 <= held < len(arrays):
        return arrays[held]
    if kind == "value" and (held is None or type(held) in _PLAIN):
        return held
    raise InputError(f"the arguments are not described as they should be, but by {shown(described)}")


_is_text_or_none = lambda value: value is None or type(value) is str
_is_part = lambda value: len(value) == 2 and type(value[0]) is str and value[1] in Correction._fields
_is_count = lambda value: type(value) is int and 1 <= value <= LARGEST_COUNT
_are = lambda kind: lambda value: type(value) is list and all(type(each) is kind for each in value)
_CHECKS: Mapping[str, Callable[[Any], bool]] = {
    "neuron": lambda value: type(value) is dict or _are(list)(value),
    "steps": _is_count,
    "calibration": lambda value: value is None or type(value) is dict,
    "chunk": lambda given: given is None or _is_count(given),
    "time_axes": lambda value: type(value) is dict,
    "product_dtype": _is_text_or_none,
    "encoders": _is_text_or_none,
    "reduce": _is_text_or_none,
    "coding": lambda value: value in ("rate", "once"),
    "data": _are(int),
    "count": _is_count,
    "types": _are(str),
    "arguments": lambda value: value is None or type(value) is dict,
    "thresholds": _are(str),
    "corrections": lambda value: _are(list)(value) and all(_is_part(each) for each in value),
}


@dataclass(frozen=True, eq=False)
class _Stored:
    """The content of a file, checked.

    name         of the file, in errors
    about        what JSON says
    weights      the arrays of the arguments that are no data
    thresholds   by name of the site
    corrections  by name of the site, or None
    exported     what `export` writes
    """

    name: str
    about: Mapping[str, Any]
    weights: list[np.ndarray]
    thresholds: dict[str, np.ndarray]
    corrections: dict[str, Correction] | None
    exported: bytes

    @classmethod
    def read(cls, path: Path) -> _Stored:
        name = printable(path)
        try:
            arrays = _arrays_in(path)
            about = _about(arrays.pop(_ABOUT, np.zeros(0, np.uint8)))
            exported = arrays.pop(_EXPORTED, np.zeros(0, np.uint8)).tobytes()
            weights = list(map(_of_type, _named(arrays, _ARGUMENT, about["types"]), about["types"]))
            thresholds = dict(zip(about["thresholds"], _named(arrays, _THRESHOLD, about["thresholds"]), strict=True))
            corrections = _corrections(about["corrections"], _named(arrays, _CORRECTION, about["corrections"]))
        except InputError as error:
            raise InputError(f"{name} is damaged, or was not written by save ({error}); save it again") from None
        return cls(name, about, weights, thresholds, corrections, exported)

    def converted(self, ann: Callable, like: tuple | None) -> SpikingFunction:
        """The network converted again, with these weights bound to it."""
        arguments = self._arguments() if like is None else self._arguments_like(tuple(like))
        axes = self._setting("time_axes", _rebuilt, [])
        try:
            return to_spiking(
                BoundNetwork(ann, arguments),
                self._setting("neuron", _neurons),
                steps=self.about["steps"],
                calibration=self._setting("calibration", lambda each: each and from_json(each, Calibration)),
                chunk=self.about["chunk"],
                time_axes=tuple(axes[at] for at in arguments.data) if isinstance(axes, tuple) else axes,
                thresholds=self.thresholds or None,
                product_dtype=self.about["product_dtype"],
                encoders=self.about["encoders"],
                reduce=self.about["reduce"],
                corrections=self.corrections,
                coding=self.about["coding"],
            )
        except (InputError, IndexError, TypeError) as error:
            raise InputError(f"{self.name} does not describe a converted network ({error})") from None

    def _setting(self, key: str, read: Callable, *args: Any) -> Any:
        try:
            return read(self.about[key], *args)
        except InputError as error:
            raise InputError(f"the {key} in {self.name} cannot be read: {error}") from None

    def _arguments(self) -> Arguments:
        if self.about["arguments"] is None:
            raise InputError(
                f"the weights in {self.name} were in a class of tree that a file does not describe; give load(..., "
                "like=arguments), such as save was given, whose arrays are replaced"
            )
        args = self._setting("arguments", _rebuilt, self.weights)
        if type(args) is not tuple or len(args) != self.about["count"]:
            raise InputError(f"the arguments in {self.name} are damaged; save it again")
        return Arguments(args, tuple(self.about["data"]), [])

    def _arguments_like(self, like: tuple) -> Arguments:
        wanted = Arguments(like, tuple(self.about["data"]), [])
        shapes = lambda arrays: [tuple(each.shape) for each in arrays]
        if len(like) != self.about["count"] or shapes(wanted.stored) != shapes(self.weights):
            raise InputError(
                f"like must hold arguments such as save was given, {self.about['count']} with {len(self.weights)} "
                f"arrays of the stored shapes beside the data, got {len(like)} with {len(wanted.stored)}"
            )
        return wanted._replace(args=wanted.around(self.weights, wanted.of_data))


def _neurons(stored: Any) -> Neuron | dict[str, Neuron]:
    if isinstance(stored, dict):
        return from_json(stored, Neuron)
    if not all(len(each) == 2 and type(each[0]) is str for each in stored):
        raise InputError(f"neurons by pattern are stored as pairs, got {shown(stored)}")
    return {pattern: from_json(each, Neuron) for pattern, each in stored}


def _corrections(parts: Sequence[Sequence[str]], arrays: Sequence[np.ndarray]) -> dict[str, Correction] | None:
    """The corrections by name of the site, of their parts; None where there is none."""
    found: dict[str, dict[str, Any]] = {}
    for (name, field), array in zip(parts, arrays, strict=True):
        found.setdefault(name, {})[field] = array
    if incomplete := [name for name, fields in found.items() if not {"bias", "gain"} <= fields.keys()]:
        raise InputError(f"the corrections of {listed(incomplete)} are incomplete")
    return {name: Correction(**fields) for name, fields in found.items()} or None


def _about(content: np.ndarray) -> dict[str, Any]:
    try:
        about = json.loads(content.tobytes())
    except (ValueError, RecursionError):
        raise InputError("it does not say what it holds") from None
    if type(about) is not dict or about.get("package") != "gnsnn_jax" or type(about.get("format")) is not int:
        raise InputError("it does not say what it holds")
    if about["format"] > FORMAT:
        raise InputError("a later version of gnsnn_jax wrote it, which reads it too")
    about = {"corrections": [], "coding": "rate", **about}  # earlier versions had neither
    if wrong := [key for key, is_right in _CHECKS.items() if key not in about or not is_right(about[key])]:
        raise InputError(f"{listed(wrong)} missing or wrong")
    if not all(0 <= at < about["count"] for at in about["data"]):
        raise InputError("data is wrong")
    return about


# Arrays of NumPy's archives, whatever they hold.


def _plain_array(leaf: Any) -> np.ndarray:
    """An array of a type that NumPy itself has; of others their bits."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
        raise InputError("random keys are not stored; let the network make them of jax.random.key_data")
    array = np.array(leaf, order="C")
    return array if array.dtype.isbuiltin == 1 else array.view(f"u{array.dtype.itemsize}")


def _of_type(array: np.ndarray, name: str) -> np.ndarray:
    """The array with its bits read as of the named type of numbers."""
    try:
        dtype = jnp.dtype(name)
    except TypeError:
        dtype = np.dtype(object)
    is_number = jnp.issubdtype(dtype, jnp.number) or jnp.issubdtype(dtype, jnp.bool_)
    if not is_number or dtype.itemsize != array.dtype.itemsize:
        raise InputError(f"{array.dtype} is no {shown(name)}")
    return array.view(dtype)


def _named(arrays: Arrays, prefix: str, wanted: Sequence[Any]) -> list[np.ndarray]:
    """The arrays of this prefix, numbered from 0, as many as are wanted."""
    names = [f"{prefix}{at}" for at in range(len(wanted))]
    if missing := [name for name in names if name not in arrays]:
        raise InputError(f"{listed(missing)} missing")
    return [arrays[name] for name in names]


def _arrays_in(path: Path) -> Arrays:
    """The arrays of an archive that is not compressed, so that none is larger than the file.

    Raises InputError for anything else.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            sizes = [member.file_size for member in members]
            is_plain = all(member.compress_type == zipfile.ZIP_STORED for member in members)
            if not is_plain or sum(sizes) > path.stat().st_size:
                raise InputError("its arrays are compressed")
            return {member.filename.removesuffix(".npy"): _array_of(archive.read(member)) for member in members}
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise error if isinstance(error, InputError) else InputError(first_line(error)) from None


def _array_of(content: bytes) -> np.ndarray:
    """The array of a .npy file. Raises InputError for Python objects and sizes that the content has not."""
    file = io.BytesIO(content)
    if np.lib.format.read_magic(file) != (1, 0):
        raise InputError("an array is of an unknown version")
    shape, is_transposed, dtype = np.lib.format.read_array_header_1_0(file)
    rest = content[file.tell() :]
    if dtype.hasobject or dtype.kind not in "biufc" or math.prod(shape) * dtype.itemsize != len(rest):
        raise InputError(f"an array is said to be {dtype}{list(shape)} in {len(rest)} bytes")
    return np.frombuffer(rest, dtype).reshape(shape, order="F" if is_transposed else "C")
