"""Converted networks as ONNX, which runs without JAX."""

from __future__ import annotations

import logging
import math
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import ClosedJaxpr, JaxprEqn, jaxpr_as_fun

from gnsnn_jax._types import Array
from gnsnn_jax.engine.arrays import first_line
from gnsnn_jax.engine.plain import plain
from gnsnn_jax.errors import InputError, extra

OPSET = 21  # what runtimes of ONNX take since 2024
_INSTEAD = "a name that does not end in .onnx writes it as StableHLO"


def onnx_bytes(function: Callable, data: Sequence[jax.ShapeDtypeStruct]) -> bytes:
    """A function of arrays as a file of ONNX, its inputs called input, or input_0 and so on, and its outputs likewise.

    Raises InputError where jax2onnx knows a primitive of it not, or ONNX does not have it for its type of numbers.
    """
    with extra("onnx-export", "writing .onnx"), _quietly():
        import jax2onnx
        import onnx
    traced = plain(jax.make_jaxpr(function)(*data), _REWRITTEN)
    with _quietly(), _functions_of_jax_kept():
        model = _model(jax2onnx.to_onnx, traced, data)
        _check(onnx.checker.check_model, model)
    return model.SerializeToString()


def _model(to_onnx: Callable, traced: ClosedJaxpr, data: Sequence[jax.ShapeDtypeStruct]) -> Any:
    names = _names("input", len(data)), _names("output", len(traced.jaxpr.outvars))
    try:
        return to_onnx(
            jaxpr_as_fun(traced),
            list(data),
            model_name="gnsnn_jax",
            opset=OPSET,
            input_names=names[0],
            output_names=names[1],
        )
    except Exception as error:  # whatever a rule of jax2onnx meets in an operation that it does not know
        raise InputError(
            f"jax2onnx cannot write the primitive {_primitive_at(error)} ({first_line(error)}); {_INSTEAD}"
        ) from error


def _check(check_model: Callable, model: Any) -> None:
    try:
        check_model(model, full_check=True)
    except Exception as error:  # the checker's own class, and what it meets in a model beyond 2 GB
        raise InputError(f"ONNX does not allow this network ({first_line(error)}); {_INSTEAD}") from error


def _names(kind: str, count: int) -> list[str]:
    return [kind] if count == 1 else [f"{kind}_{at}" for at in range(count)]


def _primitive_at(error: Exception) -> str:
    """The primitive that an error of jax2onnx is about, as it says itself, or as it was at it."""
    if named := re.search(r"primitive '([^']+)'", str(error)):
        return named[1]
    found, traceback = "of unknown name", error.__traceback__
    while traceback is not None:
        eqn = traceback.tb_frame.f_locals.get("eqn")
        found = eqn.primitive.name if isinstance(eqn, JaxprEqn) else found
        traceback = traceback.tb_next
    return found


@contextmanager
def _quietly() -> Iterator[None]:
    """Without what jax2onnx warns of and logs about shapes that it leaves open."""
    logger = logging.getLogger("onnx_ir")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logger.setLevel(level)


@contextmanager
def _functions_of_jax_kept() -> Iterator[None]:
    """Puts back what jax2onnx leaves replaced: its `jnp.cumsum` takes no axis by position."""
    before = [(module, dict(vars(module))) for module in (jax, jnp, lax, jax.nn)]
    try:
        yield
    finally:
        for module, functions in before:
            for name, value in functions.items():
                if getattr(module, name) is not value:
                    setattr(module, name, value)


# Operations that jax2onnx writes for few axes or for sizes that are numbers, in others that it writes for all.


def _padded(x: Array, value: Array, *, padding_config: Sequence[tuple[int, int, int]]) -> Array:
    """`lax.pad` by concatenation."""
    if any(inner or low < 0 or high < 0 for low, high, inner in padding_config):
        return lax.pad_p.bind(x, value, padding_config=padding_config)
    for axis, (low, high, _) in enumerate(padding_config):
        filled = lambda size, x=x, axis=axis: jnp.broadcast_to(value, (*x.shape[:axis], size, *x.shape[axis + 1 :]))
        parts = [*([filled(low)] if low else []), x, *([filled(high)] if high else [])]
        x = jnp.concatenate(parts, axis) if len(parts) > 1 else x
    return x


def _in_window(primitive: Any, x: Array, **params: Any) -> Array:
    """A reduction over windows with all axes that no window covers in front, as one."""
    per_axis = zip(*(params[name] for name in _WINDOW), strict=True)
    covered = [axis for axis, own in enumerate(per_axis) if own != (1, 1, (0, 0), 1, 1)]
    rest = [axis for axis in range(x.ndim) if axis not in covered]
    order = [*rest, *covered]
    merged = lax.reshape(
        x.transpose(order), (math.prod(x.shape[axis] for axis in rest), *(x.shape[axis] for axis in covered))
    )
    without = {"padding": (0, 0)}
    own = {name: (without.get(name, 1), *(params[name][axis] for axis in covered)) for name in _WINDOW}
    reduced = primitive.bind(merged, **(params | own))
    apart = lax.reshape(reduced, (*(x.shape[axis] for axis in rest), *reduced.shape[1:]))
    return apart.transpose([order.index(axis) for axis in range(x.ndim)])


_WINDOW = ("window_dimensions", "window_strides", "padding", "base_dilation", "window_dilation")
_WINDOWED = (lax.reduce_window_sum_p, lax.reduce_window_max_p, lax.reduce_window_min_p)
_REWRITTEN = {lax.pad_p: _padded} | {
    primitive: lambda x, primitive=primitive, **params: _in_window(primitive, x, **params) for primitive in _WINDOWED
}
