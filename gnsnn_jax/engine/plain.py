"""A traced function in JAX's own operations alone, for compilers that know no others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

import jax
from jax import lax
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal, Primitive

from gnsnn_jax.engine.jaxprs import called_by, type_of
from gnsnn_jax.xla.convolution import repaired_convolution_p
from gnsnn_jax.xla.identity import is_identity

Rewritings = Mapping[Primitive, Callable[..., Any]]  # functions of the operands and parameters of a primitive


def plain(traced: ClosedJaxpr, rewritten: Rewritings = MappingProxyType({})) -> ClosedJaxpr:
    """The same function without calls, primitives that are the identity, and repairs for XLA, in loops too.

    It is another trace: nothing that JAX keeps of the function itself changes, in this thread or others.

    Args:
        traced: the function.
        rewritten: other forms of primitives with one result, such as a compiler needs.
    """
    types = [jax.ShapeDtypeStruct(type_.shape, type_.dtype) for type_ in map(type_of, traced.jaxpr.invars)]
    return jax.make_jaxpr(partial(_evaluated, traced, rewritten))(*types)


def _evaluated(traced: ClosedJaxpr, rewritten: Rewritings, *args: Any) -> list[Any]:
    jaxpr = traced.jaxpr
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*traced.consts, *args], strict=True))
    read = lambda atom: atom.val if isinstance(atom, Literal) else values[atom]
    for eqn in jaxpr.eqns:
        values.update(zip(eqn.outvars, _applied(eqn, rewritten, [read(atom) for atom in eqn.invars]), strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _applied(eqn: JaxprEqn, rewritten: Rewritings, values: Sequence[Any]) -> Sequence[Any]:
    if is_identity(eqn.primitive):
        return values
    if (body := called_by(eqn)) is not None:
        return _evaluated(body, rewritten, *values)
    if eqn.primitive in rewritten:
        return [rewritten[eqn.primitive](*values, **eqn.params)]
    primitive = lax.conv_general_dilated_p if eqn.primitive is repaired_convolution_p else eqn.primitive
    params = {name: _plain_within(value, rewritten) for name, value in eqn.params.items()}
    with eqn.ctx.manager:
        outputs = primitive.bind(*values, **primitive.get_bind_params(params))
    return outputs if primitive.multiple_results else [outputs]


def _plain_within(value: Any, rewritten: Rewritings) -> Any:
    if isinstance(value, ClosedJaxpr):
        return plain(value, rewritten)
    return tuple(_plain_within(each, rewritten) for each in value) if type(value) is tuple else value
