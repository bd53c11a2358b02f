"""The one place that decides in which types potentials, thresholds and sums are kept."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp


def at_least_single(dtype: Any) -> Any:
    """The floating-point type for potentials, thresholds and their sums beside values of this type."""
    return dtype if jnp.finfo(dtype).bits > 32 else jnp.dtype(jnp.float32)
