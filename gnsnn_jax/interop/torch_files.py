"""Exported programs of PyTorch in .pt2 files, read without running code that a file holds or names."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from gnsnn_jax.engine.arrays import first_line
from gnsnn_jax.errors import InputError, extra, listed, printable
from gnsnn_jax.interop.files import existing_file

_LOAD_IT_YOURSELF = (
    "if you trust whoever wrote it, read it by torch.export.load and pass the program to from_torch; otherwise export "
    "the network again by torch.export.save"
)
_CALLED = re.compile(r"torch\.ops\.\w+\.\w+(\.\w+)?|torch\.(sym_\w+|_sym_sqrt)|math\.\w+")
_OPERATORS = {
    f"_operator.{name}"
    for name in "add sub mul truediv floordiv mod pow neg pos abs eq ne lt le gt ge and_ or_ not_ getitem".split()
}
_EXPRESSION = re.compile(r"(?:'\w+'|[A-Z]\w*|[a-z]+(?=\s*=\s*[\w-])|[a-z]\d+|\d+\.?\d*|[\s(),+*/<>=-])*")


def loaded(torch: ModuleType, path: Path) -> Any:
    """The `torch.export.ExportedProgram` in a file that `torch.export.save` wrote.

    `torch.export.load` may run code of a file: it unpickles objects, opens compiled libraries, evaluates expressions
    of lengths by SymPy, and resolves any name below `torch` to a function that the program calls. So a file is read
    here if it holds tensors as bytes, an example input that `torch.load(weights_only=True)` accepts, calls of
    operations of PyTorch alone, and lengths that are made by arithmetic.

    Args:
        torch: the module.
        path: the file.

    Raises:
        InputError: for a file that is missing, damaged, of an older format, or holds anything else.
    """
    data = existing_file(path).read_bytes()
    archive = _of_torch(path, lambda: _archive(torch, data))
    _refuse_code(torch, archive, path)
    return _of_torch(path, lambda: _programs(data)["model"])


def _of_torch(path: Path, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except Exception as error:  # of PyTorch, whatever it meets in a damaged file
        raise InputError(
            f"{printable(path)} cannot be read ({first_line(error).split('. ')[0]}); it is damaged, or was "
            "not written by torch.export.save of PyTorch 2.8 to this one; "
            "from a file of torch.save give the module itself"
        ) from error


def _archive(torch: ModuleType, data: bytes) -> dict[str, Callable[[], bytes]]:
    """What the file holds: by name a function that reads it, with PyTorch's own reader of these archives."""
    with extra("torch"):
        from torch.export.pt2_archive import PT2ArchiveReader

    reader = PT2ArchiveReader(io.BytesIO(data))
    return {name: lambda name=name: reader.read_bytes(name) for name in reader.get_file_names()}  # type: ignore[misc]


def _programs(data: bytes) -> Any:
    """As `torch.export.load` does, without its way back to formats that are pickled."""
    with extra("torch"):
        from torch.export.pt2_archive._package import load_pt2

    return load_pt2(io.BytesIO(data)).exported_programs


def _refuse_code(torch: ModuleType, archive: dict[str, Callable[[], bytes]], path: Path) -> None:
    found = list(dict.fromkeys(_of_torch(path, lambda: [*_unsafe(torch, archive)])))
    if found:
        raise InputError(
            f"{printable(path)} may run code when it is read, as it holds {listed(found)}; {_LOAD_IT_YOURSELF}"
        )


def _unsafe(torch: ModuleType, archive: dict[str, Callable[[], bytes]]) -> Iterator[str]:
    for name, read in archive.items():
        if name.startswith("data/aotinductor/"):
            yield "a compiled library"
        elif name.startswith(("data/weights/", "data/constants/")) and name.endswith(".json"):
            yield from _pickled(json.loads(read())["config"])
        elif name.startswith(("data/weights/", "data/constants/")) and name.endswith(".pt"):
            yield "pickled weights of an older format"
        elif name.startswith("data/sample_inputs/") and not _is_of_tensors(torch, read()):
            yield "an example input of pickled objects"
        elif name.startswith("models/"):
            yield from _unsafe_in(json.loads(read()))


def _pickled(config: dict[str, dict[str, Any]]) -> Iterator[str]:
    for name, each in config.items():
        if each["use_pickle"] is not False or not re.fullmatch(r"(weight|tensor)_\w+", each["path_name"]):
            yield f"the pickled object {printable(name)}"


def _is_of_tensors(torch: ModuleType, data: bytes) -> bool:
    try:
        if data:
            torch.load(io.BytesIO(data), weights_only=True)
    except Exception:  # whatever it meets in pickled data
        return False
    return True


def _unsafe_in(described: Any) -> Iterator[str]:
    """Of the JSON of a program what is called beside operations, and expressions beside arithmetic."""
    if isinstance(described, list):
        for each in described:
            yield from _unsafe_in(each)
    if isinstance(described, dict):
        for key, value in described.items():
            if key == "target" and "inputs" in described and not _is_operation(value):
                yield f"a call of {printable(str(value))}"
            elif key == "expr_str" and not _EXPRESSION.fullmatch(str(value)):
                yield f"the expression {printable(str(value))}"
            else:
                yield from _unsafe_in(value)


def _is_operation(target: Any) -> bool:
    """Whether it names a function that computes and does nothing else: no function of a library on files."""
    if target in _OPERATORS:
        return True
    return isinstance(target, str) and _CALLED.fullmatch(target) is not None and _is_registered(target)


def _is_registered(target: str) -> bool:
    """Whether a name below torch.ops is that of an operation, not of a Python function there."""
    with extra("torch"):
        from torch._ops import OperatorBase, OpOverloadPacket

    found: Any = __import__("torch")
    if not target.startswith("torch.ops."):
        return True
    for name in target.split(".")[1:]:
        found = getattr(found, name, None)
    return isinstance(found, OperatorBase | OpOverloadPacket)
