"""Lines of code that an equation comes from: which of them are the user's, which an installed package's."""

from __future__ import annotations

import contextlib
import os
import re
import site
import sys
import sysconfig
from collections.abc import Sequence
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from jax.extend.core import JaxprEqn


class Frame(NamedTuple):
    """A line that was running when an equation was traced.

    function     its qualified name, such as "Net.encode" or "f.<locals>.<lambda>"
    packaged_as  path within the packages, such as "equinox/nn/_mlp.py"; None for the user's own code
    """

    file: str
    line: int
    function: str
    packaged_as: str | None

    @property
    def is_own(self) -> bool:
        return self.packaged_as is None

    @property
    def place(self) -> str:
        """File and line, of a package with the module too: "equinox/nn/_mlp.py:25 (equinox.nn._mlp)"."""
        if self.is_own:
            return f"{self.file}:{self.line}"
        module = re.sub(r"(/__init__)?\.py$", "", self.packaged_as).replace("/", ".")
        return f"{self.packaged_as}:{self.line} ({module})"


def frames_of(eqn: JaxprEqn) -> tuple[Frame, ...]:
    """What ran in the trace of the function that an equation stands in, outermost first.

    Without JAX, NumPy, Python's own library and this package, whose models alone are a user's code.
    """
    traceback: Any = eqn.source_info.traceback
    frames = reversed(traceback.frames if traceback else [])
    return tuple(
        Frame(frame.file_name, frame.line_num, frame.function_name, _packaged_as(frame.file_name))
        for frame in frames
        if not _is_hidden(frame.file_name)
    )


def place_of(frames: Sequence[Frame]) -> str | None:
    """The innermost line of the user's code, else of a package, best of one that is no framework."""
    own = [frame for frame in frames if frame.is_own]
    others = [frame for frame in frames if not _is_framework(frame)]
    return next((found[-1].place for found in (own, others, frames) if found), None)


def functions_of(frames: Sequence[Frame]) -> tuple[str, ...]:
    """The user's classes and functions around a line, outermost first: ("Net", "Block.encode").

    A class stands for its `__call__`; functions without a name stand for the function that they are in.
    """
    names = (_name_of(frame.function) for frame in frames if frame.is_own)
    return tuple(name for name, _ in groupby(names) if name)


def module_of(frames: Sequence[Frame]) -> str | None:
    """The file of the innermost line of the user's code, where it has a lasting name, as notebooks do not."""
    stems = [Path(frame.file).stem for frame in frames if frame.is_own]
    return stems[-1] if stems and not re.match(r"<|\d+$", stems[-1]) else None


def former_place_of(frames: Sequence[Frame]) -> str | None:
    """The place that activations without a module were named after: innermost line outside of the frameworks."""
    places = [f"{frame.file}:{frame.line}" for frame in frames if not _is_framework(frame, _FORMER_FRAMEWORKS)]
    return places[-1] if places else None


_NN = str(Path("jax", "_src", "nn", "functions.py"))


def library_function(eqn: JaxprEqn) -> str | None:
    """The function of `jax.nn` that an equation is a part of, such as gelu, if JAX knows."""
    traceback: Any = eqn.source_info.traceback
    names = [frame.function_name for frame in (traceback.frames if traceback else []) if frame.file_name.endswith(_NN)]
    return names[-1] if names else None


def _name_of(function: str) -> str:
    for scope in reversed(function.split(".<locals>.")):
        names = [name for name in scope.split(".") if name != "__call__" and not name.startswith("<")]
        if names:
            return ".".join(names)
    return ""


# Whose a file is.

_FORMER_FRAMEWORKS = ("flax", "equinox", "haiku", "einops")  # which names of activations in earlier versions pass over
_FRAMEWORKS = (*_FORMER_FRAMEWORKS, "keras")
_INVISIBLE = ("jax", "jaxlib", "numpy", "jaxtyping", "beartype")  # never the line that a user looks for
_MADE_BY_PYTHON = ("<frozen ", "<@beartype", "<__array_function__")
_PACKAGE = str(Path(__file__).parents[1]) + os.sep
_MODELS = str(Path(_PACKAGE, "models")) + os.sep


def _is_framework(frame: Frame, frameworks: Sequence[str] = _FRAMEWORKS) -> bool:
    return not frame.is_own and frame.packaged_as.split("/")[0] in frameworks


@lru_cache
def _is_hidden(file: str) -> bool:
    if file.startswith(_PACKAGE):
        return not file.startswith(_MODELS)
    if packaged_as := _packaged_as(file):
        return packaged_as.split("/")[0] in _INVISIBLE
    return file.startswith((*_MADE_BY_PYTHON, *_folders_of_python()))


@lru_cache
def _packaged_as(file: str) -> str | None:
    if file.startswith(_PACKAGE):
        return None
    above = [folder for folder in _folders_of_packages(file) if file.startswith(folder)]
    return Path(file[len(max(above, key=len)) :]).as_posix() if above else None


def _folders_of_packages(file: str) -> list[str]:
    """Folders that packages are installed in, and those of the libraries in use that lie elsewhere."""
    installed = [*site.getsitepackages(), site.getusersitepackages(), *map(sysconfig.get_path, ("purelib", "platlib"))]
    installed += [folder for folder in sys.path if Path(folder).name in ("site-packages", "dist-packages")]
    modules = [sys.modules[name] for name in (*_FRAMEWORKS, *_INVISIBLE) if name in sys.modules]
    libraries = [Path(module.__file__).parent for module in modules if getattr(module, "__file__", None)]
    elsewhere = [str(library.parent) for library in libraries if file.startswith(str(library) + os.sep)]
    return [folder + os.sep for folder in (*installed, *elsewhere)]


def _folders_of_python() -> list[str]:
    folders = [sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), str(Path(contextlib.__file__).parent)]
    return [folder + os.sep for folder in folders]
