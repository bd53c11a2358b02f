"""Corrections by name of the site, as a user gives them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from gnsnn_jax.conversion.known_values import check_threshold
from gnsnn_jax.engine.names import by_present_names
from gnsnn_jax.engine.split import SpikingNetwork
from gnsnn_jax.errors import InputError, listed, nearest
from gnsnn_jax.method.corrections import Correction


def checked_corrections(corrections: Any) -> dict[str, Correction]:
    """Corrections by name with arrays of numpy, float32, or tracers.

    Raises:
        TypeError: for what is no mapping of corrections.
        InputError: for numbers that are NaN or infinite, and thresholds that are not positive.
    """
    if not isinstance(corrections, Mapping) or not all(isinstance(each, Correction) for each in corrections.values()):
        raise TypeError(
            f"corrections must be a mapping from names of sites to Corrections such as find_corrections returns, got "
            f"{corrections!r}"
        )
    return {name: _checked(name, each) for name, each in corrections.items()}


def corrections_for(network: SpikingNetwork, corrections: Mapping[str, Correction] | None) -> Mapping[str, Correction]:
    """Those of the populations of a network by their present names. Raises InputError for names of no population."""
    present = by_present_names(corrections or {}, network.ann.operations)
    names = [population.activation.name for population in network.populations]
    for name in present:
        if name not in names:
            raise InputError(
                f"corrections has {name!r}, and no neurons stand there; there are {listed(names)}{nearest(name, names)}"
            )
    return present


def _checked(name: str, correction: Correction) -> Correction:
    found = Correction(**{field: _array(name, field, value) for field, value in correction._asdict().items()})
    if np.ndim(found.bias) < 1 or not np.shape(found.bias)[0]:
        raise InputError(
            f"the bias of the correction of {name!r} must have a row for each step, [S, ...], got shape "
            f"{np.shape(found.bias)}"
        )
    if isinstance(found.threshold, np.ndarray):
        check_threshold(name, found.threshold)
    return found


def _array(name: str, field: str, value: Any) -> Any:
    if value is None or isinstance(value, jax.core.Tracer):
        return value
    value = np.asarray(value, np.float32)
    if not np.isfinite(value).all():
        raise InputError(f"the {field} of the correction of {name!r} holds NaN or infinity; find the corrections again")
    return value
