"""A network goes from PyTorch through a conversion to another simulator, and its accuracy with it."""

import math
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gnsnn_jax as gs

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("unchecked")]
STEPS = 16


@pytest.fixture(scope="module")
def round_trip():
    for package in ("torch", "sklearn", "nir", "spikingjelly"):
        pytest.importorskip(package, exc_type=ImportError)
    sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
    import round_trip

    threads = round_trip.torch.get_num_threads()
    round_trip.torch.set_num_threads(1)
    yield round_trip
    round_trip.torch.set_num_threads(threads)
    sys.path.pop(0)


@pytest.fixture(autouse=True)
def as_users_do():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def test_each_station_keeps_the_accuracy(round_trip):
    train, (images, labels) = round_trip.digits()
    found = round_trip.stations(train, (images, labels), epochs=10, steps=STEPS, width=8)
    module, network, _, _, file, elsewhere, _ = found.values()
    np.testing.assert_allclose(network, module, rtol=1e-4, atol=1e-4)
    reached = (round_trip.accuracy(outputs, labels) for outputs in found.values())
    of_module, _, of_groups, of_fired, of_file, of_elsewhere, as_imported = reached
    assert of_module > 95
    assert abs(of_groups - of_module) <= 2
    assert of_fired > of_module - 3
    assert min(of_file, of_elsewhere) > of_module - 5
    assert as_imported < 50
    assert np.mean(elsewhere.argmax(-1) == file.argmax(-1)) > 0.99
    changed = (
        np.abs(elsewhere - file).max(-1) > 1e-3
    )  # by a spike of a potential that is its threshold but for rounding
    assert changed.mean() < 0.02


def dyadic(tensor, random):
    """Multiples of a power of two, of few bits."""
    deviation = math.sqrt(2 / math.prod(tensor.shape[1:]))
    grain = 2.0 ** math.floor(math.log2(deviation) - 1)
    return np.round(random.normal(size=tensor.shape) * deviation / grain) * grain


def test_without_rounding_another_simulator_gives_every_digit(round_trip, tmp_path):
    torch, random = round_trip.torch, np.random.default_rng(0)
    module = round_trip.ResNet(4).eval()
    for name, each in module.state_dict().items():
        if each.ndim > 1:
            each.copy_(torch.as_tensor(dyadic(each, random)))
        elif name.endswith("running_var"):
            each.fill_(1 - 1e-5)  # and epsilon is 1
        elif name.endswith("bias") or name.endswith("running_mean"):
            each.copy_(torch.as_tensor(random.integers(-4, 5, each.shape) / 16))
    images = random.integers(-16, 17, (4, 1, 8, 8)).astype(np.float32) / 16
    apply, variables = gs.from_torch(module, torch.from_numpy(images[:2]))
    thresholds = {site.name: jnp.float32(2) for site in gs.sites(apply, variables, images)}
    snn = gs.to_spiking(apply, gs.integrate_and_fire(), steps=STEPS, thresholds=thresholds)
    gs.to_nir(snn, variables, images, path=tmp_path / "network.nir")
    outputs = gs.from_nir(tmp_path / "network.nir")(jnp.broadcast_to(images, (STEPS, *images.shape)))
    theirs = round_trip.in_spikingjelly(tmp_path / "network.nir", images, STEPS, soft_reset=True)
    assert np.ptp(theirs) > 10
    np.testing.assert_array_equal(outputs.sum(0).reshape(theirs.shape), theirs)
