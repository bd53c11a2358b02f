"""What can be read from an equation of a traced network, and its application to other values."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Collection, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn

from gnsnn_jax._types import Array

CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "remat2": "jaxpr",
    "checkpoint": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
}
# Operations that apply weights.
WEIGHTED = ("dot_general", "conv_general_dilated", "ragged_dot_general")


def called_by(eqn: JaxprEqn) -> ClosedJaxpr | None:
    """The body of an equation that only calls it."""
    body = eqn.params.get(CALLS.get(eqn.primitive.name))
    return None if body is None else _closed(body)


def has_own_gradient(eqn: JaxprEqn) -> bool:
    return eqn.primitive.name in ("custom_jvp_call", "custom_vjp_call")


def inner_jaxprs(eqn: JaxprEqn) -> Iterator[ClosedJaxpr]:
    for value in eqn.params.values():
        for item in value if isinstance(value, (tuple, list)) else [value]:
            if isinstance(item, (ClosedJaxpr, Jaxpr)):
                yield _closed(item)


def _closed(body: Jaxpr | ClosedJaxpr) -> ClosedJaxpr:
    """With the values of its constants, which newer versions of JAX keep in the jaxpr itself."""
    return body if hasattr(body, "consts") else ClosedJaxpr(body, ())


def applies(eqn: JaxprEqn, primitives: Collection[str]) -> bool:
    """Whether an equation, or one within it, is of one of these primitives."""
    within = (inner for jaxpr in inner_jaxprs(eqn) for inner in jaxpr.eqns)
    return eqn.primitive.name in primitives or any(applies(inner, primitives) for inner in within)


def bind(eqn: JaxprEqn, *values: Any, **changed: Any) -> list[Array]:
    """Applies the operation of an equation to other values, with some of its parameters changed."""
    with eqn.ctx.manager:
        outputs = eqn.primitive.bind(*values, **eqn.primitive.get_bind_params(eqn.params | changed))
    return list(outputs) if eqn.primitive.multiple_results else [outputs]


def bind_over_time(eqn: JaxprEqn, values: Sequence[Any], have_time: Sequence[bool], **changed: Any) -> list[Array]:
    """The same at every time-step at once; values with time have it in front."""
    axes = [0 if has_time else None for has_time in have_time]
    return jax.vmap(partial(bind, eqn, **changed), in_axes=axes)(*values)


def scope_of(eqn: JaxprEqn) -> tuple[str, ...]:
    """The modules that an equation was made in, outermost first, where a framework left their names.

    A transformation in between, as in "vmap(Block)/Dense_0", is no module.
    """
    names = re.sub(r"\w+\(|\)", "", str(eqn.source_info.name_stack))
    return tuple(name for name in names.split("/") if name)


_LIBRARIES = ("jax", "jaxlib", "flax", "equinox", "haiku", "einops", "jaxtyping", "beartype", "numpy")
_NN = str(Path("jax", "_src", "nn", "functions.py"))
_PYTHON = ("contextlib", "functools", "dataclasses", "threading", "runpy")
_OURS = tuple(str(Path(__file__).parents[1] / room) + os.sep for room in ("method", "engine", "conversion", "xla"))


def place_of(eqn: JaxprEqn) -> str | None:
    """File and line of the user's code that an equation comes from, if JAX knows any."""
    traceback, libraries = eqn.source_info.traceback, _library_roots()
    for frame in traceback.frames if traceback else []:
        if not frame.file_name.startswith(libraries):
            return f"{frame.file_name}:{frame.line_num}"
    return None


def library_function(eqn: JaxprEqn) -> str | None:
    """The function of `jax.nn` that an equation is a part of, such as gelu, if JAX knows."""
    traceback = eqn.source_info.traceback
    names = [frame.function_name for frame in (traceback.frames if traceback else []) if frame.file_name.endswith(_NN)]
    return names[-1] if names else None


def _library_roots() -> tuple[str, ...]:
    """Where files lie that are not the user's: of the libraries in use, of Python, of the method itself."""
    modules = [sys.modules[name] for name in _LIBRARIES if name in sys.modules]
    roots = [str(Path(module.__file__).parent) + os.sep for module in modules if getattr(module, "__file__", None)]
    python = Path(contextlib.__file__).parent
    return (*roots, *(str(python / f"{name}.py") for name in _PYTHON), "<frozen ", *_OURS)
