"""What a report says of spikes, operations and errors is that of the network whose accuracy it states."""

from pathlib import Path

import jax
import numpy as np
import pytest

from gnsnn_jax.data.sets import load_dataset
from gnsnn_jax.method.methods import parse_methods
from gnsnn_jax.report.compare_methods import compare_methods
from gnsnn_jax.report.examination import examine
from gnsnn_jax.runs.directories import Run
from gnsnn_jax.runtime.config import Config, Data, Model

pytestmark = pytest.mark.slow

STEPS = [1, 2]
NEURONS = 20 + 12
METHODS = ["if", "ftbc", "light", "parallel"]


def network():
    """Two layers of ReLUs, never trained."""
    chance = np.random.default_rng(0)
    matrix = lambda *shape: chance.normal(size=shape).astype(np.float32) / 4
    variables = [matrix(64, 20), matrix(20, 12), matrix(12, 10)]

    def apply(variables, images):
        first, second, head = variables
        return jax.nn.relu(jax.nn.relu(images.reshape(len(images), -1) @ first) @ second) @ head

    return apply, variables


@pytest.fixture(scope="module")
def methods():
    """The results of all methods by name, examined."""
    config = Config(Data(), Model(f"{__name__}:network", levels=4))
    dataset = load_dataset(config.data, 0)
    methods = parse_methods(METHODS, members=4, probe_steps=4)
    report, networks = compare_methods(Run(Path(), config, network()[1]), dataset, methods, STEPS, 450)
    report, _ = examine(report, networks, dataset, STEPS, 450)
    return {result.name: result for result in report.methods}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("steps", STEPS)
def test_spikes_are_those_of_the_networks_that_were_evaluated(name, steps, methods):
    result = methods[name.upper()]
    counted = result.behaviour.operations[steps].unit_spikes
    np.testing.assert_allclose(counted, NEURONS * result.spikes_per_neuron[steps], rtol=1e-5)


def test_neurons_that_wait_do_in_one_step_what_others_do(methods):
    assert methods["PARALLEL"].behaviour.operations[1] == methods["IF"].behaviour.operations[1]
    errors = [methods[name].behaviour.populations[0].squared_error[1] for name in ("PARALLEL", "IF")]
    assert errors[0] == pytest.approx(errors[1], rel=1e-5)


@pytest.mark.parametrize("name", ["FTBC", "LIGHT"])
def test_what_is_corrected_is_not_taken_for_the_same(name, methods):
    assert methods[name].behaviour != methods["IF"].behaviour
