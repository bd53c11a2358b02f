"""Converted networks leave as files that need no code, and come back the same."""

import io
import json
import re
import subprocess
import sys
import zipfile
from collections import namedtuple
from contextlib import suppress
from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.extend.core import Primitive

import gnsnn_jax as gs
from gnsnn_jax.interop.exported import deserialised
from gnsnn_jax.interop.onnx_export import _in_window, _padded

pytest.importorskip("flatbuffers")

METHODS = {
    "GN": (gs.group_neuron(4), {"steps": 3}),
    "IF in a mean": (gs.integrate_and_fire(), {"steps": 5, "reduce": "mean", "chunk": 1}),
    "COS": (gs.integrate_and_fire(), {"steps": 2, "calibration": gs.offset_spikes(4)}),
    "by site": ({"*/relu": gs.integrate_and_fire(), "*": gs.group_neuron(8)}, {"steps": 4, "chunk": 3}),
    "rounded": (gs.group_neuron(4), {"steps": 2, "product_dtype": jnp.bfloat16, "encoders": "all"}),
}


def network(variables, x):
    """Convolution, max-pooling, a GELU, which takes an encoder, and a residual."""
    x = jax.lax.conv_general_dilated(x, variables["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    x = gs.qcfs(x, jnp.abs(variables["threshold"]), 4)
    x = nn.max_pool(x, (2, 2), (2, 2)).reshape(x.shape[0], -1)
    x = jax.nn.relu(x @ variables["dense"][0] + variables["dense"][1])
    return x @ variables["head"] + jax.nn.gelu(x) @ variables["head"]


@pytest.fixture(scope="module", autouse=True)
def symbols_as_sizes():
    """Annotations say int, where an export has a symbol for the size of the batch."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="module")
def variables():
    keys = jax.random.split(jax.random.key(0), 3)
    dense = jax.random.normal(keys[1], (12, 6)) / 4, jnp.full((1, 6), 0.1)
    kernel = jax.random.normal(keys[0], (3, 3, 1, 3)) / 2
    return {"kernel": kernel, "threshold": jnp.float32(2), "dense": dense, "head": jax.random.normal(keys[2], (6, 4))}


@pytest.fixture(scope="module")
def thresholds(variables):
    return gs.find_thresholds(network, [images(16)], 8, variables=variables)


def images(batch):
    return jax.random.normal(jax.random.key(batch), (batch, 4, 4, 1))


def converted(name, thresholds):
    neuron, options = METHODS[name]
    return gs.to_spiking(network, neuron, thresholds=thresholds, **options)


@pytest.mark.parametrize("name", METHODS)
def test_what_is_stored_answers_as_before_for_every_batch(name, variables, thresholds, tmp_path):
    snn = jax.jit(converted(name, thresholds))
    gs.export(tmp_path / "network", snn, variables, images(2))
    gs.save(tmp_path / "network.npz", snn, variables, jax.ShapeDtypeStruct((2, 4, 4, 1), jnp.float32))
    exported, loaded = gs.load_exported(tmp_path / "network"), gs.load(tmp_path / "network.npz")
    again = gs.load(tmp_path / "network.npz", ann=network)
    assert loaded.steps == again.steps == METHODS[name][1]["steps"]
    assert loaded.thresholds.keys() == again.thresholds.keys() == thresholds.keys()
    right = snn(variables, images(5))
    for found in (exported, loaded, again):
        np.testing.assert_allclose(found(images(5)), right, rtol=1e-6, atol=1e-6)


def test_a_chain_on_means_is_stored_for_every_batch(tmp_path):
    def normed(weights, x):
        x = gs.qcfs(x @ weights, 2.0, 4)
        x = jnp.tanh((x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1))
        return x @ weights

    weights, x = jax.random.normal(jax.random.key(0), (6, 6)), jax.random.normal(jax.random.key(1), (5, 6))
    snn = gs.to_spiking(normed, gs.group_neuron(4), steps=2, encoders=None)
    gs.export(tmp_path / "network", snn, weights, x[:2])
    np.testing.assert_allclose(gs.load_exported(tmp_path / "network")(x), snn(weights, x), rtol=1e-5, atol=1e-5)


def test_an_artefact_is_plain_stablehlo_for_all_platforms(variables, thresholds, tmp_path):
    gs.export(tmp_path / "network", converted("COS", thresholds), variables, images(2))
    exported = gs.load_exported(tmp_path / "network").exported
    assert exported.platforms == ("cpu", "cuda", "tpu")
    for size in exported.in_avals[0].shape[1:]:
        assert isinstance(size, int)
    assert exported.mlir_module().count("custom_call") == exported.mlir_module().count("custom_call @shape_assertion")


def test_files_say_nothing_of_the_machine(variables, thresholds, tmp_path):
    snn = converted("GN", thresholds)
    gs.export(tmp_path / "network", snn, variables, images(2))
    gs.save(tmp_path / "network.npz", snn, variables, images(2))
    for path in tmp_path.iterdir():
        assert not re.findall(rb"[\w/]+\.py\b", path.read_bytes())


@pytest.fixture(scope="module")
def onnxruntime():
    pytest.importorskip("jax2onnx")
    return pytest.importorskip("onnxruntime")


@pytest.mark.parametrize("name", ["GN", "IF in a mean", "COS"])
def test_onnx_answers_as_before_for_every_batch(name, variables, thresholds, tmp_path, onnxruntime):
    snn, path = jax.jit(converted(name, thresholds)), tmp_path / "network.onnx"
    traced = lambda: str(jax.make_jaxpr(lambda *args: snn(*args))(variables, images(2)))
    before, functions = traced(), dict(vars(jnp))
    gs.export(path, snn, variables, images(2))
    assert traced() == before
    assert all(getattr(jnp, name) is value for name, value in functions.items())
    assert not re.findall(rb"[\w/]+\.py\b", path.read_bytes())
    session, wanted = onnxruntime.InferenceSession(path), snn(variables, images(5))
    for batch in (1, 5):
        (found,) = session.run(["output"], {"input": np.asarray(images(5)[:batch])})
        np.testing.assert_allclose(found, wanted[..., :batch, :], rtol=1e-5, atol=1e-5)


def test_what_onnx_cannot_hold_is_named(variables, thresholds, tmp_path, onnxruntime):
    strange_p, path = Primitive("strange"), tmp_path / "network.onnx"
    strange_p.def_abstract_eval(lambda x: x)
    strange = lambda weights, x: strange_p.bind(x @ weights)
    with pytest.raises(gs.InputError, match=r"jax2onnx cannot write the primitive strange .*as StableHLO"):
        gs.export(path, strange, jnp.ones((3, 3)), jnp.ones((2, 3)))
    with pytest.raises(gs.InputError, match=r"ONNX does not allow this network .*bfloat16"):
        gs.export(path, converted("rounded", thresholds), variables, images(2))
    assert not list(tmp_path.iterdir())
    path.write_text("of the user")
    with pytest.raises(gs.InputError, match="exists; give another path"):
        gs.export(path, strange, jnp.ones((3, 3)), jnp.ones((2, 3)))


def test_operations_for_onnx_are_those_of_jax():
    x = jax.random.normal(jax.random.key(0), (2, 3, 6, 5, 1))
    config = [(0, 0, 0), (1, 2, 0), (0, 1, 0), (0, 0, 0), (2, 0, 0)]
    for padding in (tuple(config), ((1, 0, 1), (-1, 0, 0), *config[2:])):
        np.testing.assert_array_equal(
            _padded(x, jnp.float32(3), padding_config=padding), jax.lax.pad(x, jnp.float32(3), padding)
        )
    window = {
        "window_dimensions": (1, 1, 2, 3, 1),
        "window_strides": (1, 1, 2, 1, 1),
        "padding": ((0, 0), (0, 0), (1, 0), (0, 2), (0, 0)),
        "base_dilation": (1, 1, 1, 2, 1),
        "window_dilation": (1, 1, 2, 1, 1),
    }
    for primitive in (jax.lax.reduce_window_sum_p, jax.lax.reduce_window_max_p, jax.lax.reduce_window_min_p):
        np.testing.assert_array_equal(_in_window(primitive, x, **window), primitive.bind(x, **window))


ALONE = """
import sys
class Refuse:
    def find_spec(self, name, *_):
        if name.split(".")[0] in {"flax", "gnsnn_jax", "orbax", "optax", "pydantic", "safetensors", "test_serving"}:
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
import jax.export, jax, numpy as np
network = jax.export.deserialize(bytearray(open("network", "rb").read()))
np.save("outputs.npy", network.call(np.load("images.npy")))
"""


def test_jax_alone_runs_an_artefact(variables, thresholds, tmp_path):
    snn = converted("GN", thresholds)
    gs.export(tmp_path / "network", snn, variables, images(2))
    np.save(tmp_path / "images.npy", images(3))
    subprocess.run([sys.executable, "-c", ALONE], cwd=tmp_path, check=True, timeout=300)
    right = snn(variables, images(3))
    np.testing.assert_allclose(np.load(tmp_path / "outputs.npy"), right, rtol=1e-6, atol=1e-6)


def test_a_loaded_network_is_verified_observed_and_stopped(variables, thresholds, tmp_path):
    snn = converted("GN", thresholds)
    gs.save(tmp_path / "network.npz", snn, variables, images(2))
    again, x = gs.load(tmp_path / "network.npz", ann=network), images(4)
    wanted = gs.verify(network, snn, [x], variables=variables)
    np.testing.assert_allclose(gs.verify(again.ann, again, [x]).error, wanted.error, rtol=1e-5)
    seen = [population.name for population in gs.observe(again, [x]).populations]
    assert seen == [site.name for site in gs.sites(network, variables, x)]
    right = gs.stop_when(0.9)(snn)(variables, x)
    for own, wanted in zip(gs.stop_when(0.9)(again)(x), right, strict=True):
        np.testing.assert_allclose(own, wanted, rtol=1e-5)


def test_data_may_have_time_and_be_several(tmp_path):
    def gated(weights, gate, flag, x):
        return jax.nn.relu(x @ weights) @ weights + (gate if flag else 0)

    snn = gs.to_spiking(
        gated, gs.integrate_and_fire(), steps=4, thresholds={"test_serving/relu": 1.0}, time_axes=(None, None, None, 1)
    )
    weights = jnp.arange(9, dtype=jnp.float32).reshape(3, 3) / 8
    args = lambda batch: (jnp.ones((batch, 3)), jnp.linspace(0, 1, batch * 12).reshape(batch, 4, 3))
    gs.export(tmp_path / "network", snn, weights, args(2)[0], True, args(2)[1])
    gs.save(tmp_path / "network.npz", snn, weights, args(2)[0], True, args(2)[1])
    for batch in (2, 5):
        gate, x = args(batch)
        right = snn(weights, gate, True, x)
        assert right.shape == (4, batch, 3)
        for found in map(gs.load_exported, [tmp_path / "network"]):
            np.testing.assert_array_equal(found(gate, x), right)
        np.testing.assert_array_equal(gs.load(tmp_path / "network.npz")(gate, x), right)
        np.testing.assert_array_equal(gs.load(tmp_path / "network.npz", ann=gated)(gate, x), right)


def test_a_network_that_needs_its_batch_is_exported_for_that(tmp_path):
    def fixed(weights, x):
        return jax.nn.relu(x.reshape(2, -1) @ weights) @ weights.T * (1 if x.shape[0] % 2 == 0 else 2)

    snn = gs.to_spiking(fixed, gs.group_neuron(4), steps=2, thresholds={"test_serving/relu": 1.0})
    args = jnp.ones((3, 3)), jnp.ones((2, 3))
    with pytest.raises(gs.InputError, match=r"batches of every size \(.*symbolic_batch=False"):
        gs.export(tmp_path / "network", snn, *args)
    assert not list(tmp_path.iterdir())
    gs.export(tmp_path / "network", snn, *args, symbolic_batch=False)
    loaded = gs.load_exported(tmp_path / "network")
    np.testing.assert_array_equal(loaded(args[1]), snn(*args))
    with pytest.raises(gs.InputError, match=r"takes float32\[2, 3\], got float32\[4, 3\]; give the data alone"):
        loaded(jnp.ones((4, 3)))
    with pytest.raises(TypeError, match="dot_general requires"):  # the user's own error stays what it is
        gs.export(tmp_path / "other", snn, jnp.ones((5, 3)), args[1])


@dataclass(frozen=True)
class Leaky(gs.Neuron):
    leak: float = 0.5

    def init(self, threshold, shape):
        return jnp.zeros(shape)

    def step(self, state, x_t, threshold):
        charged = self.leak * state + x_t
        spikes = gs.staircase(charged, threshold, 1)
        return charged - spikes, spikes


def test_neurons_of_ones_own_run_without_their_class_and_are_made_of_it_only_if_imported(tmp_path, variables):
    thresholds = gs.find_thresholds(network, [images(4)], 8, variables=variables, encoders=None)
    snn = gs.to_spiking(network, Leaky(0.25), steps=3, thresholds=thresholds, encoders=None)
    gs.save(tmp_path / "network.npz", snn, variables, images(2))
    assert gs.load(tmp_path / "network.npz", ann=network).neuron == Leaky(0.25)
    spoil(tmp_path / "network.npz", lambda about: about["neuron"].update(kind="nowhere.Leaky"))
    np.testing.assert_allclose(gs.load(tmp_path / "network.npz")(images(3)), snn(variables, images(3)), rtol=1e-6)
    with pytest.raises(gs.InputError, match=r"unknown neuron 'nowhere.Leaky'.*import the module that defines it"):
        gs.load(tmp_path / "network.npz", ann=network)


Weights = namedtuple("Weights", ["a", "b"])


def test_weights_in_other_trees_need_an_example(tmp_path):
    def apply(weights, x):
        return jax.nn.relu(x @ weights.a) @ weights.b

    weights = Weights(jnp.ones((3, 3), jnp.bfloat16), jnp.arange(3, dtype=jnp.bfloat16)[:, None])
    x = jnp.ones((2, 3), jnp.bfloat16)
    snn = gs.to_spiking(apply, gs.group_neuron(4), steps=2, thresholds={"test_serving/relu": 4.0})
    gs.save(tmp_path / "network.npz", snn, weights, x)
    np.testing.assert_array_equal(gs.load(tmp_path / "network.npz")(x), snn(weights, x))
    with pytest.raises(gs.InputError, match="like=arguments"):
        gs.load(tmp_path / "network.npz", ann=apply)
    like = jax.tree.map(jnp.zeros_like, (weights, x))
    again = gs.load(tmp_path / "network.npz", ann=apply, like=like)
    np.testing.assert_array_equal(again(x), snn(weights, x))
    with pytest.raises(gs.InputError, match="like must hold arguments such as save was given"):
        gs.load(tmp_path / "network.npz", ann=apply, like=(x, x))


def test_what_cannot_be_stored_is_refused_and_nothing_is_overwritten(tmp_path, variables, thresholds):
    snn, path = converted("GN", thresholds), tmp_path / "network"
    for write in (gs.export, gs.save):
        path.write_text("of the user")
        with pytest.raises(gs.InputError, match=r"exists; .*overwrite=True"):
            write(path, snn, variables, images(2))
        shapes = jax.eval_shape(lambda: variables)
        with pytest.raises(gs.InputError, match="argument 1 is stored with the network and holds shapes"):
            write(path, snn, shapes, images(2), overwrite=True)
        assert path.read_text() == "of the user"
        write(path, snn, variables, images(2), overwrite=True)
        assert list(tmp_path.iterdir()) == [path]
        with pytest.raises(gs.InputError, match="hold no data"):
            write(tmp_path / "other", snn)
    named = lambda variables, x: Weights(snn(variables, x), x)
    with pytest.raises(gs.InputError, match="use tuples, lists and dicts"):
        gs.export(tmp_path / "other", named, variables, images(2))
    with pytest.raises(TypeError, match="snn must be what to_spiking returned"):
        gs.save(tmp_path / "other", named, variables, images(2))
    with pytest.raises(TypeError, match="early stop decides"):
        gs.export(tmp_path / "other", gs.stop_when(0.9)(snn), variables, images(2))
    with pytest.raises(gs.InputError, match="observes its spikes"):
        gs.save(tmp_path / "other", snn.observed(lambda spikes, site: spikes), variables, images(2))
    assert list(tmp_path.iterdir()) == [path]


# Files that are damaged or hostile.


def spoil(path, change, **members):
    """Writes a stored network again with other words about it, and other members."""
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    about = json.loads(np.load(io.BytesIO(content["about.npy"])).tobytes())
    change(about)
    content["about.npy"] = as_npy(np.frombuffer(json.dumps(about).encode(), np.uint8))
    with zipfile.ZipFile(path, "w") as archive:
        for name, member in (content | members).items():
            archive.writestr(name, member)


def as_npy(array):
    file = io.BytesIO()
    np.lib.format.write_array(file, array, (1, 0))
    return file.getvalue()


@pytest.fixture(scope="module")
def stored(variables, thresholds, tmp_path_factory):
    directory = tmp_path_factory.mktemp("stored")
    snn = converted("GN", thresholds)
    gs.export(directory / "network", snn, variables, images(2))
    gs.save(directory / "network.npz", snn, variables, images(2))
    return directory


@given(st.data())
def test_damage_is_found(stored, tmp_path_factory, data):
    directory = tmp_path_factory.mktemp("damaged")
    for name, load in [("network", gs.load_exported), ("network.npz", lambda path: gs.load(path)(images(2)))]:
        whole = (stored / name).read_bytes()
        end = data.draw(st.integers(0, len(whole) - 1))
        (directory / name).write_bytes(whole[:end])
        with pytest.raises(gs.InputError, match="is damaged, or was not written by"):
            load(directory / name)


@given(st.data())
def test_other_words_are_refused_or_do_no_harm(stored, tmp_path_factory, data):
    path = tmp_path_factory.mktemp("words") / "network.npz"
    path.write_bytes((stored / "network.npz").read_bytes())
    anything = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )

    def change(about):
        about[data.draw(st.sampled_from(sorted(about)))] = data.draw(anything)

    spoil(path, change)
    for load in (gs.load, lambda path: gs.load(path, ann=network)):
        with suppress(gs.InputError):
            load(path)


HOSTILE = {
    "an object": {"argument_0.npy": b"\x93NUMPY\x01\x00" + np.asarray([None]).dumps()},
    "pickled": {"about.npy": np.asarray([None]).dumps()},
    "a huge shape": {"argument_0.npy": as_npy(np.zeros(0, np.uint8)).replace(b"(0,)", b"(9999999999,)")},
    "a type of objects": {"argument_0.npy": as_npy(np.zeros(1)).replace(b"'<f8'", b"'|O' ")},
    "another path": {"../../argument_0.npy": b"", "argument_0.npy": b""},
    "no artefact": {"exported.npy": as_npy(np.arange(100, dtype=np.uint8))},
    "no weights": {"argument_0.npy": as_npy(np.zeros(3, np.float32))},
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_members_are_refused(kind, stored, tmp_path):
    path = tmp_path / "network.npz"
    path.write_bytes((stored / "network.npz").read_bytes())
    spoil(path, lambda about: None, **HOSTILE[kind])
    with pytest.raises(gs.InputError):
        gs.load(path)(images(2))
    assert list(tmp_path.iterdir()) == [path]


def test_compressed_archives_and_other_files_are_refused(stored, tmp_path):
    with np.load(stored / "network.npz") as archive:
        np.savez_compressed(tmp_path / "network.npz", **archive)
    with pytest.raises(gs.InputError, match="its arrays are compressed"):
        gs.load(tmp_path / "network.npz")
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(gs.InputError, match="was not written by save"):
        gs.load(tmp_path / "other.npz")
    for load in (gs.load, gs.load_exported):
        with pytest.raises(gs.InputError, match="there is no file"):
            load(tmp_path / "nowhere")


def test_a_call_out_of_stablehlo_is_refused():
    name, shape = "xla_ffi_python_cpu_callback", jax.ShapeDtypeStruct((2,), jnp.float32)
    call = jax.ffi.ffi_call(name, shape)
    allowed = [jax.export.DisabledSafetyCheck.custom_call(name)]
    exported = jax.export.export(jax.jit(call), platforms=["cpu"], disabled_checks=allowed)(shape)
    with pytest.raises(gs.InputError, match=f"calls {name} outside of StableHLO"):
        deserialised(bytes(exported.serialize()), "network")
