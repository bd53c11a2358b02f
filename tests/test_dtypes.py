"""Potentials have one type from the first step to the last, whatever the types of currents and thresholds."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import dyadic

import gnsnn_jax as gs
from gnsnn_jax.dtypes import state_type
from gnsnn_jax.method import neurons

DTYPES = ["bfloat16", "float16", "float32", "float64"]
NEURONS = {name: make(4) for name, make in neurons.NEURONS.items()}
CALIBRATIONS = [None, gs.offset_spikes(2), gs.offset_spikes(3, 3)]
every_dtype = pytest.mark.parametrize("dtype", DTYPES)
every_neuron = pytest.mark.parametrize("neuron", NEURONS.values(), ids=NEURONS)
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
        for steps, chunk in [(5, 1), (5, 2), (4, 2), (4, 4)]:
            np.testing.assert_array_equal(simulate(steps, chunk), whole[:steps])


@every_dtype
@every_neuron
@pytest.mark.parametrize("steps", [4, 5])
def test_samples_of_every_type_leave_early(dtype, neuron, steps):
    with wide_if(dtype):
        weights, x = numbers(dtype)
        snn = convert(neuron, weights, x, steps=steps, calibration=CALIBRATIONS[1])
        found = gs.stop_when(0.9)(snn)(weights, x)
        sums = np.cumsum(np.asarray(snn(weights, x), found.outputs.dtype), 0)
        np.testing.assert_array_equal(found.outputs, sums[found.latency - 3, np.arange(3)])


@every_dtype
@every_neuron
@every_calibration
@pytest.mark.parametrize("steps", [4, 5])
def test_potentials_have_the_widest_type(dtype, neuron, calibration, steps):
    with wide_if(dtype):
        for other in DTYPES[: 4 if dtype == "float64" else 3]:
            currents, threshold = jnp.ones((steps, 3), dtype), jnp.ones((), other)
            initial = calibration and calibration.initial(neuron, currents, threshold)
            outputs, state = gs.run(neuron, currents, threshold, initial)
            potential, own = neuron.potential(state), neuron.potential(neuron.init(threshold, (3,)))
            wanted = "float64" if "float64" in (dtype, other) else "float32"
            assert (outputs.dtype, potential.dtype) == (dtype, wanted)
            assert initial is None or initial.dtype == wanted
            assert own.dtype == state_type(threshold, threshold)


def test_numbers_of_python_widen_nothing():
    with jax.enable_x64():
        assert gs.run(gs.integrate_and_fire(), jnp.ones((4, 3), jnp.float32), 1.0)[1].dtype == jnp.float32


@pytest.mark.parametrize("make", [gs.group_neuron, gs.offset_spikes, lambda count: gs.offset_spikes(4, count)])
@pytest.mark.usefixtures("unchecked")
def test_counts_are_checked_however_often_they_were_given_before(make):
    for count in (1, 4):
        assert make(count) == make(count)
        for alike in (float(count), True):
            with pytest.raises(TypeError, match="must be an integer"):
                make(alike)
