"""Array types for annotations.

Shapes stand in the annotations of public functions and are checked by the tests, where jaxtyping
is installed; a user needs neither jaxtyping nor the checks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jax import Array

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int, Num, PyTree, Shaped
else:
    try:
        from jaxtyping import Bool, Float, Int, Num, PyTree, Shaped
    except ImportError:
        Bool = Float = Int = Num = PyTree = Shaped = Any

__all__ = ["Array", "Bool", "Float", "Int", "Num", "PyTree", "Shaped"]
