"""What can be read from an equation of a traced network, and its application to other values."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn
from jax.interpreters import partial_eval

from gnsnn_jax._types import Array
from gnsnn_jax.xla.convolution import convolve

CALLS = frozenset(
    "jit pjit remat2 checkpoint closed_call core_call eval_jaxpr composite custom_jvp_call custom_vjp_call".split()
)
CONTROL_FLOW = ("scan", "while", "cond")
CONVOLUTIONS = ("conv_general_dilated", "repaired_convolution")


def called_by(eqn: JaxprEqn) -> ClosedJaxpr | None:
    """The body of an equation that only calls it."""
    if eqn.primitive.name not in CALLS:
        return None
    body = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
    return None if body is None else _closed(body)


def has_own_gradient(eqn: JaxprEqn) -> bool:
    return eqn.primitive.name in ("custom_jvp_call", "custom_vjp_call")


def inner_jaxprs(eqn: JaxprEqn) -> Iterator[ClosedJaxpr]:
    for value in eqn.params.values():
        for item in value if isinstance(value, (tuple, list)) else [value]:
            if isinstance(item, (ClosedJaxpr, Jaxpr)):
                yield _closed(item)


def parts_of_scan(eqn: JaxprEqn) -> tuple[int, int]:
    """How many constants a scan reads, and how many values it carries, in the words of any version of JAX."""
    if "num_consts" in eqn.params:
        return eqn.params["num_consts"], eqn.params["num_carry"]
    constants, carry, _ = map(list, eqn.params["ft_in"].unpack())
    return len(constants), len(carry)


def holds_jaxprs(eqn: JaxprEqn) -> bool:
    """Whether an equation has others within it: a call, a loop, a branch."""
    return any(True for _ in inner_jaxprs(eqn))


def _closed(body: Any) -> ClosedJaxpr:
    """With the values of its constants, which newer versions of JAX keep in the jaxpr itself."""
    return body if hasattr(body, "consts") else ClosedJaxpr(body, ())


def applies(eqn: JaxprEqn, primitives: Collection[str]) -> bool:
    """Whether an equation, or one within it, is of one of these primitives."""
    within = (inner for jaxpr in inner_jaxprs(eqn) for inner in jaxpr.eqns)
    return eqn.primitive.name in primitives or any(applies(inner, primitives) for inner in within)


def bind(eqn: JaxprEqn, *values: Any, **changed: Any) -> list[Array]:
    """Applies the operation of an equation to other values, with some of its parameters changed."""
    apply = convolve if eqn.primitive.name in CONVOLUTIONS else eqn.primitive.bind
    with eqn.ctx.manager:
        outputs = apply(*values, **eqn.primitive.get_bind_params(eqn.params | changed))
    return list(outputs) if eqn.primitive.multiple_results else [outputs]


def bind_over_time(eqn: JaxprEqn, values: Sequence[Any], have_time: Sequence[bool], **changed: Any) -> list[Array]:
    """The same at every time-step at once; values with time have it in front."""
    axes = [0 if has_time else None for has_time in have_time]
    return jax.vmap(partial(bind, eqn, **changed), in_axes=axes)(*values)


def scope_of(eqn: JaxprEqn) -> tuple[str, ...]:
    """The modules that an equation was made in, outermost first, where a framework left their names.

    A transformation in between, as in "vmap(Block)/Dense_0", is no module, and no formula of `einsum` is one.
    """
    names = re.sub(r"\w+\(|\)", "", str(eqn.source_info.name_stack))
    return tuple(name for name in names.split("/") if name and "->" not in name)


_NORM = re.compile(r"(batch|layer|group|instance|rms|weight)_?norm|normali[sz]ation|standardize", re.IGNORECASE)


def type_of(variable: Any) -> jax.core.ShapedArray:
    """Shape and dtype of a variable that an equation reads or makes."""
    return variable.aval


def made_in_a_norm(eqn: JaxprEqn) -> bool:
    """Whether a function, file or module around an equation is called after a normalisation, such as LayerNorm."""
    traceback: Any = eqn.source_info.traceback
    frames = [f"{Path(frame.file_name).name} {frame.function_name}" for frame in traceback.frames] if traceback else []
    return any(_NORM.search(each) for each in [*frames, str(eqn.source_info.name_stack)])


def without_dead_code(traced: ClosedJaxpr) -> ClosedJaxpr:
    """The same function of the same inputs, without what its outputs do not need, in loops and calls too."""
    jaxpr, _ = partial_eval.dce_jaxpr(traced.jaxpr, [True] * len(traced.jaxpr.outvars), instantiate=True)
    return ClosedJaxpr(jaxpr, traced.consts)
