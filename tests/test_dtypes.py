"""Potentials have one type from the first step to the last, whatever the types of currents and thresholds."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import SENDING, dyadic

import gnsnn_jax as gs

DTYPES = ["bfloat16", "float16", "float32", "float64"]
CALIBRATIONS = [None, gs.offset_spikes(2), gs.offset_spikes(3, 3)]
every_dtype = pytest.mark.parametrize("dtype", DTYPES)
every_neuron = pytest.mark.parametrize("neuron", SENDING.values(), ids=SENDING)
every_calibration = pytest.mark.parametrize("calibration", CALIBRATIONS, ids=["none", "cos", "cos3"])


def wide_if(dtype):
    return jax.enable_x64() if dtype == "float64" else contextlib.nullcontext()


def network(weights, x):
    """A threshold that is found from data, float32, then the bound of a clip, in the type of its currents."""
    x = jax.nn.relu(x @ weights[0])
    return jnp.clip(x @ weights[1], 0, 1) @ weights[0]


def numbers(dtype):
    weights = [np.asarray(dyadic(seed, (6, 6), -1, 1)) for seed in range(2)]
    return [jnp.asarray(matrix, dtype) for matrix in weights], jnp.asarray(np.asarray(dyadic(2, (3, 6))), dtype)


def convert(neuron, weights, x, **options):
    found = {site.name: np.float32(1.0) for site in gs.sites(network, weights, x) if site.kind == "relu"}
    return jax.jit(gs.to_spiking(network, neuron, thresholds=found, **options))


def compare(found, expected, neuron, dtype):
    """Exactly, or up to the rounding of sums where the unit of the neuron is no power of two."""
    rounds = 0 if np.frexp(neuron.members)[0] == 0.5 else 8 * float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(np.asarray(found, float), np.asarray(expected, float), rtol=0, atol=rounds)


@every_dtype
@every_neuron
@every_calibration
def test_every_type_simulates_alike_however_it_is_cut_into_chunks(dtype, neuron, calibration):
    with wide_if(dtype):
        weights, x = numbers(dtype)
        simulate = lambda steps, chunk: convert(neuron, weights, x, steps=steps, chunk=chunk, calibration=calibration)(
            weights, x
        )
        whole = simulate(5, 5)
        assert whole.dtype == dtype
        for steps, chunk in [(5, 2), (4, 1)]:
            compare(simulate(steps, chunk), whole[:steps], neuron, dtype)


@every_dtype
@every_neuron
def test_samples_of_every_type_leave_early(dtype, neuron):
    with wide_if(dtype):
        weights, x = numbers(dtype)
        snn = convert(neuron, weights, x, steps=5, calibration=CALIBRATIONS[1])
        found = gs.stop_when(0.9)(snn)(weights, x)
        sums = np.cumsum(np.asarray(snn(weights, x), found.outputs.dtype), 0)
        compare(found.outputs, sums[found.latency - 3, np.arange(3)], neuron, dtype)


def test_numbers_of_python_widen_nothing():
    with jax.enable_x64():
        assert gs.run(gs.integrate_and_fire(), jnp.ones((4, 3), jnp.float32), 1.0)[1].dtype == jnp.float32
