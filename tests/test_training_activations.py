"""The activations that networks are trained with, by name: what they are in training, and what is converted."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT, run_script

import gnsnn_jax as gs
from gnsnn_jax.data.sets import load_dataset
from gnsnn_jax.interop.weights import load_weights, save_weights
from gnsnn_jax.method.methods import parse_methods
from gnsnn_jax.models.layers import activation_module
from gnsnn_jax.runs.converted import convert, needs_thresholds
from gnsnn_jax.runs.directories import load_run
from gnsnn_jax.runs.network import build_network
from gnsnn_jax.runtime.config import Config, Data, Model
from gnsnn_jax.training import loop

TRAINED = ("qcfs", "noisy_qcfs", "clip")  # activations with a threshold that is learned


def small(activation):
    sizes = {"blocks": (1,), "widths": (8,)}
    model = gs.build("resnet10", num_classes=10, levels=4, threshold=2.0, activation=activation, **sizes)
    x = jax.random.normal(jax.random.key(1), (2, 8, 8, 1))
    return model, jax.jit(model.init)(jax.random.key(0), x), x


@pytest.mark.parametrize("name", TRAINED)
def test_parameters_have_the_names_that_qcfs_has(name):
    shapes = lambda activation: jax.tree.map(
        lambda leaf: leaf.shape,
        jax.eval_shape(
            build_network(Model(name="resnet10", activation=activation, levels=4, threshold=2.0), 10).init,
            jax.random.key(0),
            jnp.zeros((2, 8, 8, 1)),
        ),
    )
    assert shapes(name) == shapes("qcfs")


def test_noise_is_there_with_random_numbers_alone_and_differs_from_site_to_site():
    model, variables, x = small("noisy_qcfs")
    quiet, _, _ = small("qcfs")
    np.testing.assert_array_equal(model.apply(variables, x), quiet.apply(variables, x))
    noisy = lambda seed: model.apply(variables, x, rngs={"noise": jax.random.key(seed)})
    np.testing.assert_array_equal(noisy(0), noisy(0))
    assert (noisy(0) != noisy(1)).any()
    _, seen = model.apply(variables, x, rngs={"noise": jax.random.key(0)}, capture_intermediates=True)
    block = seen["intermediates"]["stage1_block0"]
    first = jnp.concatenate([block[name]["__call__"][0].ravel() for name in ("act1", "act2")])
    assert len(jnp.unique(first)) > len(first) / 4  # on no lattice, as no two values got the same noise


def test_the_clip_of_a_network_is_that_of_its_threshold():
    module = activation_module("clip", 4, 0.75)(name="act")
    x = jnp.linspace(-1, 2, 31)
    found, variables = module.init_with_output(jax.random.key(0), x)
    np.testing.assert_array_equal(found, jnp.clip(x, 0, 0.75))
    assert variables["params"]["threshold"].dtype == jnp.float32


@pytest.mark.parametrize("name", ["resnet10", "vgg11", "vit_digits"])
def test_unknown_activations_suggest_the_nearest(name):
    for wrong, meant in (("noisy_qfcs", "noisy_qcfs"), ("clipp", "clip")):
        model = gs.build(name, num_classes=10, levels=4, activation=wrong)
        with pytest.raises(gs.InputError, match=f"unknown activation '{wrong}'; .*qcfs, noisy_qcfs, clip.*'{meant}'"):
            jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))


@pytest.mark.parametrize("name", TRAINED)
def test_networks_with_thresholds_of_their_own_need_none(name):
    model, dataset = Model(activation=name, levels=4), load_dataset(Data(), 0)
    images = jnp.zeros((1, *dataset.image_shape))
    variables = jax.jit(build_network(model, 10).init)(jax.random.key(0), images)
    (method,) = parse_methods(["gn"], members=4, probe_steps=4)
    network = convert(model, variables, dataset, method, 1)
    assert not needs_thresholds(network)
    sites = gs.sites(network.apply(), variables, images)
    assert {site.kind for site in sites} == {"qcfs"}
    assert all(site.threshold.item() == 8 for site in sites)


def test_group_neurons_of_a_noisy_network_are_its_qcfs_and_of_a_clip_come_near():
    for name in ("noisy_qcfs", "clip"):
        model, variables, x = small(name)
        expected = model.apply(variables, x)
        found = jax.jit(gs.to_spiking(model.apply, gs.group_neuron(4), steps=1))(variables, x)[0]
        if name == "noisy_qcfs":
            np.testing.assert_allclose(found, expected, atol=1e-4)
        else:
            finer = jax.jit(gs.to_spiking(model.apply, gs.group_neuron(256), steps=1))(variables, x)[0]
            assert np.abs(finer - expected).max() < 0.1 * np.abs(found - expected).max()


@pytest.mark.parametrize("name", TRAINED)
def test_weights_go_out_and_come_back_in_published_names(name, tmp_path):
    model, variables, _ = small(name)
    save_weights(tmp_path / "w.npz", variables, model)
    back = load_weights(tmp_path / "w.npz", model)
    jax.tree.map(np.testing.assert_array_equal, back, variables)
    plain = load_weights(tmp_path / "w.npz", small("qcfs")[0])
    jax.tree.map(np.testing.assert_array_equal, plain, variables)


def trained_for_a_step(activation, threshold=8.0, weight_decay=5e-4):
    optimizer = replace(Config().optimizer, weight_decay=weight_decay, learning_rate=0.5)
    config = Config(model=Model(activation=activation, levels=4, threshold=threshold), optimizer=optimizer)
    dataset = load_dataset(config.data, 0)
    plan = loop.make_plan(config, dataset)
    return next(iter(loop.train(plan, dataset, loop.initial_state(plan)))).params


@pytest.mark.slow
def test_training_with_noise_differs_from_training_without_and_is_the_same_each_time():
    one, again, quiet = (trained_for_a_step(name) for name in ("noisy_qcfs", "noisy_qcfs", "qcfs"))
    jax.tree.map(np.testing.assert_array_equal, one, again)
    assert (one["conv1"]["kernel"] != quiet["conv1"]["kernel"]).any()


@pytest.mark.slow
def test_sgd_decays_the_learned_threshold_of_a_clip():
    """With thresholds far above all currents the gradient is 0, and decay is all that moves them."""
    after = trained_for_a_step("clip", threshold=1e4, weight_decay=0.01)
    np.testing.assert_allclose(after["act1"]["threshold"], 1e4 * (1 - 0.5 * 0.01), rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["noisy_qcfs", "clip"])
def test_the_scripts_train_and_convert(name, tmp_path, monkeypatch, unchecked):
    monkeypatch.chdir(tmp_path)
    settings = [f"--model.activation={name}", "--model.levels=4", "--training.epochs=2", "--workdir=run"]
    assert run_script(monkeypatch, "train.py", ROOT / "configs" / "digits.toml", *settings) == 0
    run = load_run(tmp_path / "run")
    assert run.config.model.activation == name
    thresholds = [
        leaf for path, leaf in jax.tree.leaves_with_path(run.variables["params"]) if path[-1].key == "threshold"
    ]
    assert len(thresholds) == 9
    assert all(leaf != 8 for leaf in thresholds)
    assert run_script(monkeypatch, "convert.py", "run", "--quick", "--methods", "if", "gn", "--steps", "1,2") == 0
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["activation"] == name
    if name == "noisy_qcfs":
        assert report["methods"][1]["agreement"]["1"] == 1.0
    network = gs.load_converted(tmp_path / "run" / "converted" / "gn")
    assert network.thresholds is None
    assert network(np.zeros((1, 8, 8, 1), np.uint8)).shape == (2, 1, 10)
