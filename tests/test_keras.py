"""Networks in files of Keras: what they compute, which code they may not run, and convert.py on them."""

import json
import os
import sys
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import run_script
from sklearn.datasets import load_digits

import gnsnn_jax as gs
from gnsnn_jax.interop.functions import own_network

# Keras's variables make arrays in a way that NumPy will give up.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")]

os.environ.setdefault("KERAS_BACKEND", "jax")
pytest.importorskip("h5py")
keras = pytest.importorskip("keras")


@pytest.fixture(scope="module")
def model():
    """Separable convolution, batch norm, max-pooling, sum and softmax, with a head by least squares on the digits."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        keras.utils.set_random_seed(0)
        layers = keras.layers
        inputs = keras.Input((8, 8, 1))
        x = layers.Conv2D(32, 3, padding="same", activation="relu", name="stem")(inputs)
        y = layers.SeparableConv2D(32, 3, padding="same", name="branch")(x)
        x = layers.ReLU(name="unite")(layers.Add()([x, layers.BatchNormalization(name="norm")(y)]))
        x = layers.Flatten()(layers.MaxPooling2D(name="pool")(x))
        outputs = layers.Dense(10, activation="softmax", name="head")(layers.Dropout(0.5)(x))
        network = keras.Model(inputs, outputs)
        norm = network.get_layer("norm")
        norm.moving_variance.assign(np.linspace(0.5, 2, 32))
        images, labels = digits()
        features = np.asarray(keras.Model(inputs, x)(images))
        head, *_ = np.linalg.lstsq(features, np.eye(10, dtype=np.float32)[labels])
        network.get_layer("head").kernel.assign(10 * head)
    return network


@pytest.fixture
def as_users_do(unchecked):
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield
    own_network.cache_clear()


def digits():
    images, labels = load_digits(return_X_y=True)
    return ((images - images.mean()) / images.std()).astype(np.float32).reshape(-1, 8, 8, 1), labels


@pytest.mark.usefixtures("as_users_do")
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_a_saved_model_converts_with_the_names_of_its_layers(model, suffix, tmp_path):
    path = tmp_path / f"network{suffix}"
    model.save(path)
    apply, variables = own_network(str(path))
    images = digits()[0][:64]
    np.testing.assert_allclose(apply(variables, images), model(images, training=False), atol=1e-5)
    assert variables["branch/pointwise_kernel"].shape == (1, 1, 32, 32)
    doubled = {**variables, "head/kernel": 2 * variables["head/kernel"]}
    assert jnp.abs(apply(doubled, images) - apply(variables, images)).max() > 0.01
    names = [site.name for site in gs.sites(apply, variables, images)]
    assert names == ["stem/relu", "unite"]
    thresholds = gs.find_thresholds(apply, [images], levels=16, variables=variables)
    snn = gs.to_spiking(apply, gs.group_neuron(16), steps=4, thresholds=thresholds)
    found = gs.verify(apply, snn, [images], variables=variables)
    assert [site.name for site in found.sites] == names
    assert found.agreement.min() > 0.9


@pytest.mark.usefixtures("as_users_do")
def test_convert_makes_the_files_of_a_run(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model.save("network.keras")
    options = ["--dataset", "digits", "--methods", "gn", "if", "--steps", "1,4", "--quick", "--workdir", "run"]
    assert run_script(monkeypatch, "convert.py", "--network", "network.keras", *options) == 0
    report = json.loads(Path("run/report.json").read_text())
    assert report["ann_accuracy"] > 0.9
    of_groups, of_if = report["methods"]
    assert of_groups["accuracy"]["1"] > report["ann_accuracy"] - 0.05
    assert of_if["accuracy"]["4"] > of_if["accuracy"]["1"]
    assert "network.keras" in Path("run/report.md").read_text()
    own_network.cache_clear()  # the file is read again
    monkeypatch.chdir("/")
    stored = gs.load_converted(tmp_path / "run" / "converted" / "gn")
    assert stored(load_digits().images[:5, ..., None].astype(np.uint8), steps=2).shape == (2, 5, 10)
    own_network.cache_clear()
    monkeypatch.setitem(sys.modules, "keras", None)
    with pytest.raises(gs.InputError, match=r"network\.keras, a network of Keras, needs keras, .*gnsnn_jax\[keras\]"):
        gs.load_converted(tmp_path / "run" / "converted" / "gn")
    (tmp_path / "network.keras").unlink()
    with pytest.raises(gs.InputError, match=r"reads its layers from .*network\.keras, with the extra keras, and there"):
        gs.load_converted(tmp_path / "run" / "converted" / "gn")


def with_config(path, change):
    """The file with a changed configuration."""
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    contents["config.json"] = change(contents["config.json"].decode()).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return path


@pytest.mark.usefixtures("as_users_do")
def test_no_code_that_a_file_names_is_run(model, tmp_path, monkeypatch):
    (tmp_path / "evil_of_tests.py").write_text("raise SystemExit('was run')")
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "network.keras"
    model.save(path)
    with_config(
        path,
        lambda config: config.replace('"keras.layers", "class_name": "ReLU"', '"evil_of_tests", "class_name": "ReLU"'),
    )
    with pytest.raises(gs.InputError, match=r"names code \(ReLU of 'evil_of_tests'\), which is not run; build the"):
        own_network(str(path))
    assert "evil_of_tests" not in sys.modules
    network = keras.Sequential([keras.Input((3,)), keras.layers.Lambda(lambda x: 2 * x)])
    for suffix in (".keras", ".h5"):
        path = tmp_path / f"lambda{suffix}"
        network.save(path)
        with pytest.raises(gs.InputError, match=r"names code \(Lambda"):
            own_network(str(path))


@pytest.mark.usefixtures("as_users_do")
def test_what_is_no_model_is_refused(model, tmp_path):
    path = tmp_path / "network.keras"
    with pytest.raises(gs.InputError, match="there is no file"):
        own_network(str(path))
    path.write_bytes(b"no archive")
    with pytest.raises(gs.InputError, match="cannot be read as a model of Keras"):
        own_network(str(path))
    model.save_weights(tmp_path / "network.weights.h5")
    with pytest.raises(gs.InputError, match="holds weights alone, without the layers; save the model whole"):
        own_network(str(tmp_path / "network.weights.h5"))
    (tmp_path / "folder.h5").mkdir()
    with pytest.raises(gs.InputError, match="is a directory, not a file"):
        own_network(str(tmp_path / "folder.h5"))


@pytest.mark.usefixtures("as_users_do")
def test_layers_of_one_name_in_two_inner_models_keep_their_own_weights(tmp_path):
    inner = lambda: keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, activation="relu", name="layer")])
    inputs = keras.Input((3,))
    network = keras.Model(inputs, keras.layers.Add()([inner()(inputs), inner()(inputs)]))
    network.save(tmp_path / "two.keras")
    apply, variables = own_network(str(tmp_path / "two.keras"))
    assert len(variables) == 4
    images = np.ones((2, 3), np.float32)
    np.testing.assert_allclose(apply(variables, images), network(images), atol=1e-6)
