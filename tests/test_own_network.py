"""Networks of a user's own, named on the command line of convert.py."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import run_script
from flax import nnx

import gnsnn_jax as gs
from gnsnn_jax.data.sets import load_dataset, training_images
from gnsnn_jax.interop.functions import by_path, own_network, with_arrays
from gnsnn_jax.method.methods import parse_methods
from gnsnn_jax.runs.converted import convert, needs_thresholds, with_thresholds
from gnsnn_jax.runs.network import build_network
from gnsnn_jax.runtime.config import Data, Model

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
NETWORKS = '''
import jax, numpy as np
import jax.numpy as jnp
from gnsnn_jax.runtime.config import Data
from gnsnn_jax.data.sets import load_dataset, normalise

def apply(variables, images, activation=jax.nn.relu):
    return activation(images.reshape(len(images), -1) @ variables["features"]) @ variables["head"]

def trained():
    """Random features, and a head by least squares."""
    dataset = load_dataset(Data(), 0)
    images = np.asarray(normalise(dataset.train.images, dataset.statistics)).reshape(-1, 64)
    features = np.random.default_rng(0).normal(size=(64, 300)).astype(np.float32) / 8
    head, *_ = np.linalg.lstsq(np.maximum(images @ features, 0), np.eye(10, dtype=np.float32)[dataset.train.labels])
    return apply, {"features": features, "head": head}

variables = {"features": np.eye(64, dtype=np.float32), "head": np.ones((64, 10), np.float32)}
few_classes = lambda: (apply, variables | {"head": np.ones((64, 3), np.float32)})
other_images = lambda: (apply, variables | {"features": np.ones((65, 4), np.float32)})
no_pair = lambda: apply
no_function = lambda: (variables, apply)
two_outputs = lambda: (lambda variables, images: (apply(variables, images), 0), variables)
mean_over_batch = lambda: (lambda variables, images: apply(variables, images).mean(0), variables)
not_finite = lambda: (apply, variables | {"head": np.full((64, 10), np.nan, np.float32)})
no_arrays = lambda: (apply, {})
functions_as_weights = lambda: (apply, variables | {"activation": jax.nn.relu})
no_activation = lambda: (lambda variables, images: apply(variables, images, lambda x: x), variables)
unknown_activation = lambda: (lambda v, images: apply(v, jax.nn.relu6(images), jnp.tanh), variables)
own_thresholds = lambda: (lambda v, images: apply(v, images, lambda x: gs.qcfs(x, 1.0, 4)), variables)
number = 3

def fails():
    raise FileNotFoundError("no weights\\nhere")

import gnsnn_jax as gs
'''


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory with the user's modules."""
    (tmp_path / "networks_of_tests.py").write_text(NETWORKS)
    (tmp_path / "broken_by_tests.py").write_text("import numpy\nimport nowhere_to_be_found\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    own_network.cache_clear()
    return tmp_path


def run_convert(monkeypatch, *arguments):
    assert run_script(monkeypatch, "convert.py", *arguments) == 0


NETWORK = ["--network", "networks_of_tests:trained", "--dataset", "digits"]


@pytest.mark.usefixtures("unchecked")
def test_a_network_of_ones_own_gives_the_files_of_a_run(here, monkeypatch, capsys):
    options = ["--steps", "1,4,32", "--workdir", "own"]
    run_convert(monkeypatch, *NETWORK, "--methods", "gn", "if", *options)
    report = json.loads((here / "own" / "report.json").read_text())
    assert report["ann_accuracy"] > 0.93
    found = {method["name"]: method for method in report["methods"]}
    assert [(method["members"], method["thresholds"]) for method in found.values()] == [(16, "mse"), (1, "balance")]
    assert found["GN"]["accuracy"]["1"] > report["ann_accuracy"] - 0.01
    assert found["IF"]["accuracy"]["32"] > report["ann_accuracy"] - 0.01
    shown = capsys.readouterr().out
    assert "networks_of_tests:trained on digits, 450 test samples" in shown
    assert "one for each activation, from training images: GN by mse, IF by balance" in shown
    test = load_dataset(Data(), 0).test
    outputs = gs.load_converted(here / "own" / "converted" / "gn", trust=True)(test.images, steps=4)
    accuracy = gs.accuracy_over_time(outputs, jnp.asarray(test.labels))
    np.testing.assert_allclose(accuracy[np.asarray([0, 3])], [found["GN"]["accuracy"][t] for t in "14"], atol=1e-6)

    run_convert(monkeypatch, "own", "--methods", "gn", "--steps", "1,4", "--channel-axis", "-1")
    (again,) = json.loads((here / "own" / "report.json").read_text())["methods"]
    assert again["channel_axis"] == -1
    assert again["agreement"]["4"] > 0.95
    (threshold,) = gs.load_converted(here / "own" / "converted" / "gn", trust=True).thresholds.values()
    assert threshold.shape == (300,)


def test_code_that_a_stored_network_names_runs_only_if_it_is_given_or_trusted(here):
    (here / "named_by_tests.py").write_text(
        "import jax, jax.numpy as jnp\n"
        "def network():\n"
        "    weights = jnp.ones((64, 10)) / 64\n"
        "    return (lambda w, images: jax.nn.relu(images.reshape(-1, 64) @ w) @ jnp.eye(10)), weights\n"
    )
    apply, weights = own_network("named_by_tests:network")
    (method,) = parse_methods(["gn"], members=4, probe_steps=4)
    model, dataset = Model(name="named_by_tests:network", activation="relu", levels=4), load_dataset(Data(), 0)
    network = convert(model, weights, dataset, method, 2)
    name = gs.sites(apply, weights, jnp.ones((1, 8, 8, 1)))[0].name
    replace(network, thresholds={name: np.float32(1)}).save(here / "gn")
    sys.modules.pop("named_by_tests")
    own_network.cache_clear()
    with pytest.raises(gs.InputError, match=r"named_by_tests:network.*network=network\), or trust=True"):
        gs.load_converted(here / "gn")
    assert "named_by_tests" not in sys.modules
    outputs = gs.load_converted(here / "gn", network=lambda: (apply, 2 * weights))(dataset.test.images[:2])
    assert "named_by_tests" not in sys.modules
    np.testing.assert_array_equal(gs.load_converted(here / "gn", trust=True)(dataset.test.images[:2]), outputs)
    assert "named_by_tests" in sys.modules
    with pytest.raises(gs.InputError, match="returns other variables than when this was stored"):
        gs.load_converted(here / "gn", network=lambda: (apply, {"w": weights}))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("networks_of_tests", "a network of your own is named package.module:function, got 'networks_of_tests'"),
        ("nowhere_at_all.networks:f", "there is no module 'nowhere_at_all' for 'nowhere_at_all.networks'"),
        ("networks_of_tests.inside:f", "there is no module 'networks_of_tests.inside'"),
        ("broken_by_tests:f", "importing broken_by_tests raised ModuleNotFoundError: No module named 'nowhere_to_be"),
        ("networks_of_tests:trainde", "networks_of_tests has no function 'trainde'; did you mean 'trained'?"),
        ("networks_of_tests:number", "networks_of_tests has no function 'number'"),
        ("networks_of_tests:fails", "networks_of_tests:fails() raised FileNotFoundError: no weights here ("),
        ("networks_of_tests:no_pair", "must return (apply, variables), a function and its weights, got an object of"),
        ("networks_of_tests:no_function", "must return (apply, variables), a function and its weights, got a tuple"),
        ("networks_of_tests:few_classes", "few_classes has 3 outputs, too few for the 10 classes of the data"),
        ("networks_of_tests:other_images", "on images [2, 8, 8, 1] raised TypeError: dot_general requires"),
        ("networks_of_tests:two_outputs", "must return one array [batch, classes], got a tuple"),
        ("networks_of_tests:mean_over_batch", "must return one array [batch, classes], got an array float32[10]"),
        ("networks_of_tests:not_finite", "what networks_of_tests:not_finite returned holds NaN or infinity in head"),
        ("networks_of_tests:no_arrays", "the variables of networks_of_tests:no_arrays hold no arrays"),
        ("networks_of_tests:functions_as_weights", "at ['activation'], but only arrays of numbers can be stored"),
        ("networks_of_tests:no_activation", "found no activation to turn into neurons"),
    ],
)
def test_what_cannot_be_converted_is_refused_in_one_sentence_and_leaves_nothing(function, message, here, refused):
    before = {path.name for path in here.iterdir()}
    assert message in refused("convert.py", "--network", function, "--dataset", "digits", "--methods", "if")
    assert {path.name for path in here.iterdir()} - {"__pycache__"} == before - {"__pycache__"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--network", "networks_of_tests:trained"], "--network also needs --dataset"),
        ([*NETWORK, "--model", "resnet10"], "--model comes with --network"),
        ([*NETWORK, "--weights", "file.npz"], "give either --weights file.npz or --network"),
        (["run", *NETWORK], "give either the run run or --network"),
        (
            [*NETWORK, "--thresholds", "mes"],
            "unknown rule 'mes'; there are max, percentile, mse, balance, ltb; did",
        ),
        ([*NETWORK, "--channel-axis", "1"], "channel_axis counts from the right and must be below 0, got 1"),
        ([*NETWORK, "--levels", "0"], "model.levels: input should be greater than or equal to 1"),
        (
            [*NETWORK, "--network", "networks_of_tests:own_thresholds", "--thresholds", "mse"],
            "the activations of networks_of_tests:own_thresholds have thresholds of their own",
        ),
    ],
)
@pytest.mark.usefixtures("here")
def test_options_that_do_not_go_together_are_refused(arguments, message, refused):
    assert message in refused("convert.py", *arguments)


def test_modules_of_the_working_directory_come_before_those_beside_the_script(here):
    (here / "train.py").write_text(NETWORKS)
    sys.modules.pop("train", None)
    sys.path.insert(0, str(ROOT))
    before = list(sys.path)
    try:
        assert own_network("train:few_classes").variables["head"].shape == (64, 3)
    finally:
        sys.modules.pop("train", None)
    assert sys.path == before


def test_any_tree_of_arrays_survives_being_stored_by_path(here):
    (here / "trees_of_tests.py").write_text(
        "from flax import nnx\n"
        "def network():\n"
        "    graph, state = nnx.split(nnx.Sequential(nnx.Linear(64, 10, rngs=nnx.Rngs(0)), nnx.relu))\n"
        "    return (lambda state, images: nnx.merge(graph, state)(images.reshape(-1, 64))), state\n"
    )
    apply, state = own_network("trees_of_tests:network")
    stored = by_path(state)
    assert all(isinstance(leaf, np.ndarray) for leaf in stored.values())
    doubled = with_arrays("trees_of_tests:network", {name: 2 * leaf for name, leaf in stored.items()})
    assert isinstance(doubled, nnx.State)
    images = jnp.ones((2, 8, 8, 1))
    np.testing.assert_allclose(apply(doubled, images), 2 * apply(state, images), rtol=1e-6)
    with pytest.raises(gs.InputError, match="returns other variables than when this was stored"):
        with_arrays("trees_of_tests:network", stored | {"more": np.ones(3)})


def test_a_network_trained_here_with_relu_gets_thresholds_and_keeps_them(tmp_path):
    model, dataset = Model(activation="relu", levels=4), load_dataset(Data(), 0)
    images = jnp.zeros((1, *dataset.image_shape))
    variables = jax.jit(build_network(model, 10).init)(jax.random.key(0), images)
    (method,) = parse_methods(["gn"], members=4, probe_steps=4)
    network = convert(model, variables, dataset, method, 1)
    assert needs_thresholds(network)
    (network,) = with_thresholds([network], dataset, 0, 64)
    assert list(network.thresholds) == [site.name for site in gs.sites(network.apply(), variables, images)]
    network.save(tmp_path / "gn")
    assert gs.load_converted(tmp_path / "gn").spiking(1) == network.spiking(1)


def test_thresholds_see_training_images_in_random_order_and_nothing_else():
    dataset = load_dataset(Data(), 0)
    found = training_images(dataset, 100, 0)
    known = {image.tobytes() for image in dataset.train.images}
    assert len(found) == 100
    assert {image.tobytes() for image in found} <= known
    assert (found != dataset.train.images[:100]).any()
    np.testing.assert_array_equal(training_images(dataset, 10**6, 0)[:100], found)
