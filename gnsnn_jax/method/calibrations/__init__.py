"""Calibrations, a file each: the initial potential that each neuron starts from, found by probing its currents."""

from __future__ import annotations

from collections.abc import Callable

from gnsnn_jax.method.calibrations.base import Calibration
from gnsnn_jax.method.calibrations.offset_spikes import OffsetSpikes, offset_spikes
from gnsnn_jax.method.calibrations.residual_membrane import ResidualMembrane, residual_membrane
from gnsnn_jax.method.registry import union

__all__ = [
    "CALIBRATIONS",
    "HELP",
    "Calibration",
    "OffsetSpikes",
    "ResidualMembrane",
    "offset_spikes",
    "residual_membrane",
]

# What a method's name stands for, given probe_steps and passes: the union of the dictionaries CALIBRATIONS in the
# files of this folder.
CALIBRATIONS: dict[str, Callable[..., Calibration]] = union(__name__, __path__, "CALIBRATIONS")
HELP: dict[str, str] = union(__name__, __path__, "HELP")  # what each is, in a line
