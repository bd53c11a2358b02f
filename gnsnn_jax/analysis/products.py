"""The multiply-accumulates of a function, counted in its trace without evaluating it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import JaxprEqn

from gnsnn_jax.engine.jaxprs import inner_jaxprs
from gnsnn_jax.engine.rules import is_weighted, known_rule_of


def multiply_accumulates(function: Callable, *args: Any) -> int:
    """Counts the multiply-accumulates of convolutions and products of matrices, those with padding included.

    The body of a scan counts once for each of its steps, and every branch and the body of any other loop once.

    Args:
        function: Any function that JAX traces.
        *args: Its arguments, or `jax.ShapeDtypeStruct` in place of arrays.

    Returns:
        How many there are in one call.
    """
    return sum(map(_of, jax.make_jaxpr(function)(*args).jaxpr.eqns))


def _of(eqn: JaxprEqn) -> int:
    within = sum(_of(inner) for body in inner_jaxprs(eqn) for inner in body.jaxpr.eqns)
    own = known_rule_of(eqn).work(eqn) if is_weighted(eqn) else 0
    return own + within * eqn.params.get("length", 1) if eqn.primitive.name == "scan" else own + within
