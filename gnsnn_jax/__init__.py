"""Trained networks as spiking networks that answer in one to eight time-steps."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from gnsnn_jax.analysis.accuracy import accuracy_over_time
from gnsnn_jax.analysis.observation import observe
from gnsnn_jax.analysis.operations import neurobench, operations
from gnsnn_jax.conversion.allocation import allocate_members
from gnsnn_jax.conversion.calibrate_weights import calibrate_weights
from gnsnn_jax.conversion.find_corrections import find_corrections
from gnsnn_jax.conversion.find_delay import find_delay
from gnsnn_jax.conversion.find_thresholds import find_thresholds
from gnsnn_jax.conversion.folding import fold_batch_norm
from gnsnn_jax.conversion.sites import Site, sites
from gnsnn_jax.conversion.stopping import stop_when
from gnsnn_jax.conversion.to_spiking import to_spiking
from gnsnn_jax.conversion.verification import Verification, verify
from gnsnn_jax.errors import InputError
from gnsnn_jax.interop.exported import export, load_exported
from gnsnn_jax.interop.from_nir import from_nir
from gnsnn_jax.interop.stored_functions import load, save
from gnsnn_jax.interop.to_nir import to_nir
from gnsnn_jax.method.activations import clip, noisy_qcfs, qcfs, staircase
from gnsnn_jax.method.calibrations import Calibration, offset_spikes, residual_membrane
from gnsnn_jax.method.corrections import Correction, CorrectionRule
from gnsnn_jax.method.neurons import GroupNeuron, Neuron, group_neuron, integrate_and_fire, run
from gnsnn_jax.method.neurons.binary_group import binary_group_neuron
from gnsnn_jax.method.neurons.differential import differential
from gnsnn_jax.method.neurons.layerwise import LayerwiseNeuron, parallel_neuron, permuted, two_phase_neuron
from gnsnn_jax.method.neurons.multi_threshold import multi_threshold_neuron
from gnsnn_jax.method.neurons.signed_memory import signed_memory_neuron
from gnsnn_jax.method.neurons.st_bif import st_bif_neuron
from gnsnn_jax.xla.convolution import use_fast_convolutions

# Names that need an extra, which are imported when they are first used: the others need nothing but jax and numpy.
_LAZY = {
    "build": "gnsnn_jax.models",
    "from_onnx": "gnsnn_jax.interop.from_onnx",
    "from_torch": "gnsnn_jax.interop.from_torch",
    "load_converted": "gnsnn_jax.runs.converted",
    "load_weights": "gnsnn_jax.interop.weights",
    "save_weights": "gnsnn_jax.interop.weights",
}

__all__ = [
    "Calibration",
    "Correction",
    "CorrectionRule",
    "GroupNeuron",
    "InputError",
    "LayerwiseNeuron",
    "Neuron",
    "Site",
    "Verification",
    "accuracy_over_time",
    "allocate_members",
    "binary_group_neuron",
    "build",
    "calibrate_weights",
    "clip",
    "differential",
    "export",
    "find_corrections",
    "find_delay",
    "find_thresholds",
    "fold_batch_norm",
    "from_nir",
    "from_onnx",
    "from_torch",
    "group_neuron",
    "integrate_and_fire",
    "load",
    "load_converted",
    "load_exported",
    "load_weights",
    "multi_threshold_neuron",
    "neurobench",
    "noisy_qcfs",
    "observe",
    "offset_spikes",
    "operations",
    "parallel_neuron",
    "permuted",
    "qcfs",
    "residual_membrane",
    "run",
    "save",
    "save_weights",
    "signed_memory_neuron",
    "sites",
    "st_bif_neuron",
    "staircase",
    "stop_when",
    "to_nir",
    "to_spiking",
    "two_phase_neuron",
    "use_fast_convolutions",
    "verify",
]


if TYPE_CHECKING:
    from gnsnn_jax.interop.from_onnx import from_onnx
    from gnsnn_jax.interop.from_torch import from_torch
    from gnsnn_jax.interop.weights import load_weights, save_weights
    from gnsnn_jax.models import build
    from gnsnn_jax.runs.converted import load_converted
else:  # hidden from type checkers, for which any name would exist

    def __getattr__(name: str) -> Any:
        if name in _LAZY:
            return getattr(import_module(_LAZY[name]), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
