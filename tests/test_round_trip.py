"""A network goes from PyTorch through a conversion to another simulator, and its accuracy with it."""

import sys
from pathlib import Path

import jax
import numpy as np
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def round_trip():
    for package in ("torch", "sklearn", "nir", "spikingjelly"):
        pytest.importorskip(package, exc_type=ImportError)
    sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
    import round_trip

    yield round_trip
    sys.path.pop(0)


def test_each_station_keeps_the_accuracy(round_trip, unchecked):
    train, (images, labels) = round_trip.digits()
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        found = round_trip.stations(train, (images[:200], labels[:200]), epochs=4, steps=16, width=4)
    module, network, _, _, file, elsewhere, _ = found.values()
    np.testing.assert_allclose(network, module, rtol=1e-4, atol=1e-4)
    reached = {name: round_trip.accuracy(outputs, labels[:200]) for name, outputs in found.items()}
    of_module, _, of_groups, of_fired, of_file, of_elsewhere, of_hard = reached.values()
    assert of_module > 60
    assert abs(of_groups - of_module) <= 2
    assert min(of_fired, of_file) > of_module - 15
    assert np.mean(elsewhere.argmax(-1) == file.argmax(-1)) > 0.97
    assert np.median(np.abs(elsewhere - file)) < 1e-3
    assert of_hard < of_elsewhere - 10
