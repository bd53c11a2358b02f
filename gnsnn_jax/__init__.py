"""Trained networks as spiking networks that answer in one to eight time-steps."""

from __future__ import annotations

from importlib import import_module

from gnsnn_jax.conversion.find_thresholds import find_thresholds
from gnsnn_jax.conversion.folding import fold_batch_norm
from gnsnn_jax.conversion.sites import Site, sites
from gnsnn_jax.conversion.stopping import stop_when
from gnsnn_jax.conversion.to_spiking import to_spiking
from gnsnn_jax.conversion.verification import Verification, verify
from gnsnn_jax.errors import InputError
from gnsnn_jax.method.activations import qcfs, staircase
from gnsnn_jax.method.calibrations import Calibration, offset_spikes
from gnsnn_jax.method.neurons import Neuron, group_neuron, integrate_and_fire, run
from gnsnn_jax.xla.convolution import use_fast_convolutions

# Loaded when first used, so that the method needs nothing but jax.
_LAZY = {
    "accuracy_over_time": "gnsnn_jax.analysis.accuracy",
    "build": "gnsnn_jax.models",
    "load_converted": "gnsnn_jax.runs.converted",
    "load_weights": "gnsnn_jax.interop.weights",
    "neurobench": "gnsnn_jax.analysis.operations",
    "observe": "gnsnn_jax.analysis.observation",
    "operations": "gnsnn_jax.analysis.operations",
    "save_weights": "gnsnn_jax.interop.weights",
}

__all__ = [
    "Calibration",
    "InputError",
    "Neuron",
    "Site",
    "Verification",
    "accuracy_over_time",
    "build",
    "find_thresholds",
    "fold_batch_norm",
    "group_neuron",
    "integrate_and_fire",
    "load_converted",
    "load_weights",
    "neurobench",
    "observe",
    "offset_spikes",
    "operations",
    "qcfs",
    "run",
    "save_weights",
    "sites",
    "staircase",
    "stop_when",
    "to_spiking",
    "use_fast_convolutions",
    "verify",
]


def __getattr__(name: str):
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
