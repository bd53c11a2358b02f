"""Networks of PyTorch go through convert.py, and what is stored of them is read without PyTorch."""

import json
import runpy
import subprocess
import sys
import textwrap

import jax
import numpy as np
import pytest
from conftest import run_script

import gnsnn_jax as gs

torch = pytest.importorskip("torch")

from gnsnn_jax.interop import torch_images  # noqa: E402
from gnsnn_jax.interop.functions import own_network  # noqa: E402

pytestmark = pytest.mark.slow

MODULE = '''
import torch
from torch import nn


class Digits(nn.Module):
    """Random features of convolutions, and a head by least squares."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.head = nn.Conv2d(1, 12, 3, 2, 1), nn.BatchNorm2d(12), nn.Linear(192, 10)
        self.register_buffer("shift", torch.arange(16).view(4, 4) / 100, persistent=False)

    def features(self, x):
        return torch.flatten(torch.relu(self.bn(self.conv(x))) + self.shift, 1)

    def forward(self, x):
        x = self.features(x)
        return self.head(x.reshape(x.shape[0], x.numel() // x.shape[0]))


@torch.no_grad()
def trained():
    from gnsnn_jax.data.sets import load_dataset, normalise
    from gnsnn_jax.runtime.config import Data
    import numpy as np

    torch.manual_seed(0)
    dataset, module = load_dataset(Data(), 0), Digits().eval()
    images = np.moveaxis(np.asarray(normalise(dataset.train.images, dataset.statistics)), -1, 1).copy()
    features = module.features(torch.as_tensor(images))
    module.head.bias.zero_()
    module.head.weight.copy_(torch.linalg.lstsq(features, torch.eye(10)[dataset.train.labels]).solution.T)
    return module


training = lambda: Digits()
'''


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "torch_by_tests.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    own_network.cache_clear()
    return tmp_path


def run_convert(monkeypatch, *arguments, code=0):
    assert run_script(monkeypatch, "convert.py", *arguments) == code


def test_modules_and_files_convert_alike_and_are_read_without_pytorch(here, monkeypatch):
    module = runpy.run_path("torch_by_tests.py")["trained"]()
    example = (torch.zeros(2, 1, 8, 8),)
    torch.export.save(torch.export.export(module, example, dynamic_shapes=({0: torch.export.Dim("b")},)), "digits.pt2")
    for name, network in (("module", "torch_by_tests:trained"), ("file", "digits.pt2")):
        run_convert(
            monkeypatch, "--network", network, "--dataset", "digits", "--methods", "gn", "--steps", "1,4", "--quick",
            "--workdir", name,
        )  # fmt: skip
    reports = [json.loads((here / name / "report.json").read_text()) for name in ("module", "file")]
    assert reports[0]["methods"] == reports[1]["methods"]
    images = np.random.default_rng(0).integers(0, 17, (3, 8, 8, 1)).astype(np.uint8)
    networks = [gs.load_converted(here / name / "converted" / "gn") for name in ("module", "file")]
    wanted = networks[0](images)
    np.testing.assert_array_equal(networks[1](images), wanted)
    normalised = jax.random.normal(jax.random.key(0), (5, 8, 8, 1))
    theirs = module(torch.as_tensor(np.moveaxis(np.asarray(normalised), -1, 1).copy())).detach().numpy()
    for network in networks:
        np.testing.assert_allclose(network.apply()(network.variables, normalised), theirs, atol=1e-4)
    networks[1].save(here / "again")
    np.testing.assert_array_equal(gs.load_converted(here / "again")(images), wanted)
    np.save("images.npy", images)
    script = """
        import sys, numpy as np
        sys.modules["torch"] = None
        import gnsnn_jax as gs
        np.save("outputs.npy", gs.load_converted("module/converted/gn")(np.load("images.npy")))
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, timeout=300)
    np.testing.assert_allclose(np.load("outputs.npy"), wanted, atol=1e-5)


def test_a_module_in_training_mode_is_refused(here, monkeypatch, capfd):
    run_convert(monkeypatch, "--network", "torch_by_tests:training", "--dataset", "digits", code=2)
    assert "training mode; call module.eval" in " ".join(capfd.readouterr().err.split())


def test_a_stored_program_calls_nothing_that_is_not_known():
    described = {"calls": [["x", ["os.system"], {"tuple": ["true"]}, {"dict": []}, [[], "", "", 1]]]}
    rest = {"inputs": [], "arguments": None, "outputs": None, "names": {}, "constants": {}}
    with pytest.raises(gs.InputError, match=r"operation 'os\.system' on sizes"):
        torch_images.ImageNetwork.from_json(described | rest, "the network")
    with pytest.raises(gs.InputError, match=r"the network says .* of its operations; convert it again"):
        torch_images.ImageNetwork.from_json({"calls": [1]}, "the network")
