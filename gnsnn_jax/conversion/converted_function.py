"""The converted network in what a user gives for one."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax

from gnsnn_jax.conversion.to_spiking import SpikingFunction


def converted_function(snn: Any) -> SpikingFunction:
    """What `to_spiking` returned, of which `snn` may be the `jax.jit`, once or several times.

    Raises TypeError for anything else: other transformations change the arguments or the outputs.
    """
    found = snn
    while isinstance(found, jax.stages.Wrapped):
        found = found.__wrapped__  # type: ignore[attr-defined]
    if not isinstance(found, SpikingFunction):
        raise TypeError(f"snn must be what to_spiking returned, or jax.jit of that, got {_said(found)}")
    return found


def _said(found: Any) -> str:
    if isinstance(found, partial):
        return f"functools.partial of {_short(found.func)}; give the function itself, without arguments bound to it"
    if callable(getattr(found, "spiking", None)) and not isinstance(found.spiking, SpikingFunction):
        return f"an object of type {type(found).__name__}; give its spiking(steps), which takes normalised images"
    return _short(found)


def _short(found: Any) -> str:
    return getattr(found, "__name__", None) or f"an object of type {type(found).__name__}"
