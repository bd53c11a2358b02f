"""How many elementary operations an operation takes each time it is applied, such as additions and comparisons.

They matter where an operation runs on means or sums of spikes: it is then evaluated in full at every time-step.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from jax.extend.core import JaxprEqn

from gnsnn_jax.engine.jaxprs import type_of

WorkRule = Callable[[JaxprEqn], int]


def none(eqn: JaxprEqn) -> int:
    """Of what moves values or leaves some out."""
    return 0


def each_value(eqn: JaxprEqn) -> int:
    """One for each value that is read or made, whichever are more."""
    return max((math.prod(type_of(var).shape) for var in (*eqn.invars, *eqn.outvars)), default=0)


def each_in_window(eqn: JaxprEqn) -> int:
    """One for each value of each window."""
    return math.prod(type_of(eqn.outvars[0]).shape) * math.prod(eqn.params["window_dimensions"])


def each_product(eqn: JaxprEqn) -> int:
    """The multiply-accumulates of a product of matrices."""
    (axes, _), _ = eqn.params["dimension_numbers"]
    shape = type_of(eqn.invars[0]).shape
    return math.prod(type_of(eqn.outvars[0]).shape) * math.prod(shape[axis] for axis in axes)


def each_tap(eqn: JaxprEqn) -> int:
    """The multiply-accumulates of a convolution, those with padding included."""
    kernel, features = type_of(eqn.invars[1]).shape, eqn.params["dimension_numbers"].rhs_spec[0]
    return math.prod(type_of(eqn.outvars[0]).shape) * math.prod(kernel) // max(kernel[features], 1)
