"""One device, eight devices, and two processes of four devices compute the same."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import gnsnn_jax as gs
from gnsnn_jax.data.sets import load_dataset
from gnsnn_jax.runtime import devices
from gnsnn_jax.runtime.config import Data

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parent / "steps_on_devices.py"


def start(count, *arguments):
    """A process with as many simulated devices, a little of the two cores for each."""
    environment = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={count}",
        "JAX_ENABLE_X64": "1",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(SCRIPT.parent.parent),
    }
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def result(process):
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return output


@pytest.fixture(scope="module")
def results():
    address = f"127.0.0.1:{free_port()}"
    started = [start(1), start(8), start(4, address, "0"), start(4, address, "1")]
    *printed, silent = map(result, started)
    assert "losses" not in silent
    return [json.loads(output.splitlines()[-1]) for output in printed]


def test_any_number_of_devices_and_processes_takes_the_same_steps(results):
    one, *others = results
    assert len(one["losses"]) == 20
    assert one["losses"][15] < one["losses"][0]
    for other in others:
        np.testing.assert_allclose(other["losses"], one["losses"], rtol=0, atol=1e-5)
        np.testing.assert_allclose(other["validation"], one["validation"], rtol=0, atol=1e-5)


def test_any_number_of_devices_and_processes_evaluates_every_sample_once(results):
    labels = load_dataset(Data(), 0).test.labels
    for found in results:
        np.testing.assert_array_equal(found["labels"], labels)
        np.testing.assert_array_equal(found["predictions"], results[0]["predictions"])
        np.testing.assert_allclose(found["spikes"], results[0]["spikes"], rtol=1e-6)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("localhost:1", None, None), "--coordinator, --processes and --process-id say together"),
        (("localhost:1", 2, 2), "--process-id is 0 to 1 for 2 processes, got 2"),
        (("localhost", 2, 0), "--coordinator takes HOST:PORT of the first process, got 'localhost'"),
    ],
)
def test_processes_that_are_half_told_are_refused(given, message):
    with pytest.raises(gs.InputError, match=message):
        devices.start_processes(*given)


def test_a_process_that_is_alone_starts_alone():
    devices.start_processes(None, None, None)
    assert devices.is_first()
    assert devices.agreed(3) == 3
    assert not devices.anywhere(False)
