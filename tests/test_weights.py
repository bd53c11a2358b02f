"""Weights of the published PyTorch code: read, written, and refused where anything is amiss."""

import argparse
import sys
import tempfile
from functools import cache
from pathlib import Path

import dyadic
import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

import gnsnn_jax as gs
from gnsnn_jax.interop.layout import CONVENTIONS, entries_of
from gnsnn_jax.models import networks

SUFFIXES = [".safetensors", ".npz", ".pth"]
TINY = {"widths": (4, 8)}  # of resnet10


@pytest.fixture(scope="module")
def published():
    """The networks in PyTorch."""
    pytest.importorskip("torch")
    import torch_networks

    return torch_networks


@pytest.fixture
def model():
    return gs.build("resnet10", num_classes=10, levels=4, **TINY)


@pytest.fixture
def variables(model):
    return dyadic.variables(model, (8, 8, 3))


@pytest.fixture
def arrays(model, variables, tmp_path):
    """Sound weights as they stand in a file, by name."""
    gs.save_weights(tmp_path / "sound.safetensors", variables, model, names="cos")
    return load_file(tmp_path / "sound.safetensors")


def assert_same(tree, other):
    assert jax.tree.structure(tree) == jax.tree.structure(other)
    jax.tree.map(np.testing.assert_array_equal, tree, other)


def logits_of(network, images):
    import torch

    with torch.no_grad():
        return network(torch.from_numpy(images)).numpy()


def channels_last(images):
    return jnp.asarray(images.transpose(0, 2, 3, 1))


def save_torch(path, network, wrap=lambda state: state):
    import torch

    torch.save(wrap(network.state_dict()), path)
    return path


@pytest.mark.parametrize("name", ["resnet18", "resnet20", "resnet34", "vgg16"])
def test_logits_are_those_of_pytorch(name, published, tmp_path):
    network = published.randomise(published.build(name, num_classes=100))
    images = published.images(seed=1)
    expected = logits_of(network, images)
    assert np.abs(expected[0] - expected[1]).max() > 0.01
    model = gs.build(name, num_classes=100, levels=4)
    variables = gs.load_weights(save_torch(tmp_path / "weights.pth", network), model)
    np.testing.assert_allclose(jax.jit(model.apply)(variables, channels_last(images)), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "options", "side"),
    [
        ("vgg11", {"widths": (8, 8, 16, 16, 16), "hidden": 64}, 64),  # rows of the first linear layer in another order
        ("vgg13", {"widths": (8, 8, 16, 16, 16), "hidden": 64}, 96),
        ("resnet50", {"widths": (4, 4, 8, 8)}, 32),
    ],
)
def test_logits_of_small_relatives_are_those_of_pytorch(name, options, side, published, tmp_path):
    in_pytorch = options | ({"side": side} if "hidden" in options else {})
    network = published.randomise(published.build(name, channels=2, **in_pytorch))
    images = published.images(seed=1, side=side, channels=2)
    expected = logits_of(network, images)
    assert np.abs(expected[0] - expected[1]).max() > 0.01
    model = gs.build(name, num_classes=10, levels=4, **options)
    variables = gs.load_weights(save_torch(tmp_path / "weights.pth", network), model)
    np.testing.assert_allclose(jax.jit(model.apply)(variables, channels_last(images)), expected, atol=1e-4)
    gs.save_weights(tmp_path / "again.pth", variables, model)
    reload(network, tmp_path / "again.pth")
    np.testing.assert_array_equal(logits_of(network, images), expected)


def reload(network, path):
    """Reads a file as the published code does, every key accounted for."""
    import torch

    for parameter in network.parameters():
        torch.nn.init.constant_(parameter, torch.nan)
    network.load_state_dict(torch.load(path, weights_only=True), strict=True)


@pytest.mark.parametrize("names", ["gn", "qcfs"])
@pytest.mark.parametrize("name", [name for name, made in sorted(networks().items()) if hasattr(made.func, "published")])
def test_names_and_shapes_are_the_published_ones(name, names, published):
    torch = pytest.importorskip("torch")
    with torch.device("meta"):
        expected = {key: tuple(value.shape) for key, value in published.build(name, names=names).state_dict().items()}
    entries, _ = entries_of(gs.build(name, num_classes=10, levels=4), {})
    convention = CONVENTIONS[names]
    shape = lambda entry: convention.threshold_shape if entry.is_threshold else entry.published_shape
    found = {entry.published_name(convention): shape(entry) for entry in entries}
    counters = {key: () for key in expected if key.endswith("num_batches_tracked")}
    assert found | counters == expected


def test_the_first_linear_layer_of_large_images_reads_49_pixels(published):
    entries, _ = entries_of(gs.build("vgg16", num_classes=1000, levels=16), {"dense1": 512 * 49, "stage1/conv1": 3})
    shapes = {entry.published_name(CONVENTIONS["gn"]): entry.published_shape for entry in entries}
    assert shapes["classifier.1.weight"] == (4096, 25088)
    assert shapes["classifier.7.weight"] == (1000, 4096)


def nested(**others):
    return lambda state: {"model": state, **others}


@pytest.mark.parametrize("names", CONVENTIONS)
@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        nested(epoch=3, args=argparse.Namespace(lr=0.1), optimizer={"state": {}, "param_groups": [{"lr": 0.1}]}),
        lambda state: {f"module.{key}": value for key, value in state.items()},
        lambda state: {"state_dict": {f"module.{key}": value for key, value in state.items()}, "best": 0.5},
        lambda state: {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")},
    ],
    ids=["bare", "nested", "data-parallel", "both", "without counters"],
)
def test_every_dialect_is_read(names, wrap, published, model, tmp_path):
    network = published.randomise(published.build("resnet10", names=names, **TINY))
    plain = published.randomise(published.build("resnet10", **TINY))
    found = gs.load_weights(save_torch(tmp_path / "found.pth", network, wrap), model)
    assert_same(found, gs.load_weights(save_torch(tmp_path / "plain.pth", plain), model))


@pytest.mark.parametrize("prefix", ["module.", "model.", "state_dict.module."])
@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_prefixes_in_flat_formats(prefix, suffix, arrays, model, variables, tmp_path):
    path = tmp_path / f"weights{suffix}"
    write(path, {prefix + name: array for name, array in arrays.items()})
    assert_same(gs.load_weights(path, model), variables)


@pytest.mark.parametrize("names", CONVENTIONS)
@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet10", TINY),
        ("resnet50", {"widths": (4, 4, 8, 8), "blocks": (1, 1, 1, 1)}),
        ("vgg11", {"widths": (4, 4, 8, 8, 8), "hidden": 16}),
    ],
)
def test_out_and_in_again_is_the_identity(name, options, suffix, names, tmp_path):
    if suffix == ".pth":
        pytest.importorskip("torch")
    model = gs.build(name, num_classes=3, levels=4, **options)
    random = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda leaf: jnp.asarray(random.uniform(0.1, 1, leaf.shape), jnp.float32),
        dyadic.variables(model, (64, 64, 1)),
    )
    path = tmp_path / f"weights{suffix}"
    gs.save_weights(path, variables, model, names=names)
    assert_same(gs.load_weights(path, model), variables)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("names", CONVENTIONS)
def test_in_and_out_again_is_the_identity(names, published, model, tmp_path):
    torch = pytest.importorskip("torch")
    network = published.randomise(published.build("resnet10", names=names, **TINY))
    gs.save_weights(
        tmp_path / "out.pth",
        gs.load_weights(save_torch(tmp_path / "in.pth", network), model),
        model,
        names=names,
    )
    found = torch.load(tmp_path / "out.pth", weights_only=True)
    assert found.keys() == network.state_dict().keys()
    for name, value in network.state_dict().items():
        assert found[name].dtype == value.dtype
        torch.testing.assert_close(found[name], value, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [np.float64, np.float16, ml_dtypes.bfloat16])
def test_other_precisions_become_float32(dtype, arrays, model, variables, tmp_path):
    path = tmp_path / "weights.safetensors"
    cast = lambda array: array.astype(dtype) if array.dtype == np.float32 else array
    save_file({name: cast(array) for name, array in arrays.items()}, path)
    loaded = gs.load_weights(path, model)
    assert {leaf.dtype for leaf in jax.tree.leaves(loaded)} == {np.dtype(np.float32)}
    jax.tree.map(lambda leaf, wanted: np.testing.assert_allclose(leaf, wanted, rtol=0.02), loaded, variables)


def test_half_precision_of_pytorch(published, model, tmp_path):
    network = published.randomise(published.build("resnet10", **TINY))
    exact = gs.load_weights(save_torch(tmp_path / "exact.pth", network), model)
    found = gs.load_weights(save_torch(tmp_path / "half.pth", network.bfloat16()), model)
    jax.tree.map(lambda leaf, wanted: np.testing.assert_allclose(leaf, wanted, rtol=0.01), found, exact)


def write(path, arrays):
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    else:
        save_file(arrays, path)


def refused(path, model):
    with pytest.raises(gs.InputError) as caught:
        gs.load_weights(path, model)
    return str(caught.value)


def spoiled(arrays, model, tmp_path):
    save_file(arrays, tmp_path / "spoiled.safetensors")
    return refused(tmp_path / "spoiled.safetensors", model)


def test_everything_amiss_is_listed_at_once(arrays, model, tmp_path):
    del arrays["conv2_x.0.residual_function.0.weight"], arrays["conv3_x.1.relu.up"]
    arrays["surprise"] = np.zeros(3, np.float32)
    arrays["conv9_x.0.num_batches_tracked"] = np.zeros((), np.int64)
    arrays["fc.weight"] = arrays["fc.weight"][:, :-1].copy()
    arrays["fc.bias"] = arrays["fc.bias"].astype(np.int32)
    arrays["conv1.1.running_mean"][0] = np.nan
    message = spoiled(arrays, model, tmp_path)
    missing, left_over = [next(line for line in message.splitlines() if kind in line) for kind in KINDS]
    assert "conv2_x.0.residual_function.0.weight" in missing
    assert "conv3_x.1.relu" in missing
    assert left_over.split(": ")[1] == "conv9_x.0.num_batches_tracked, surprise"
    assert "fc.weight has shape (10, 7), not (10, 8)" in message
    assert "fc.bias holds int32" in message
    assert "conv1.1.running_mean holds NaN" in message
    assert "spoiled.safetensors" in message


KINDS = ["  missing:", "  left over:"]


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf, 1e-60, 1e-45])
def test_thresholds_must_be_positive(value, arrays, model, tmp_path):
    arrays["conv2_x.1.relu.up"] = np.full(1, value)
    message = spoiled(arrays, model, tmp_path)
    assert "conv2_x.1.relu.up" in message
    assert "fc" not in message


@pytest.mark.parametrize("value", [-1.0, -1e-30, -np.inf, np.nan])
def test_variances_must_not_be_negative(value, arrays, model, tmp_path):
    arrays["conv2_x.0.residual_function.1.running_var"][1] = value
    message = spoiled(arrays, model, tmp_path)
    assert "conv2_x.0.residual_function.1.running_var holds" in message
    assert message.count("\n") == 1


def test_foreign_names_are_shown_without_their_control_characters_and_not_all(arrays, model, tmp_path):
    arrays |= {f"\x1b[31m{n}\n": np.zeros(1, np.float32) for n in range(1000)}
    message = spoiled(arrays, model, tmp_path)
    assert message.count("\n") == 1
    assert message.replace("\n", "").isprintable()
    assert message.endswith(" and 990 more")
    assert len(message) < 1000


@cache
def model_and_arrays(name):
    """A small network of this name, and its weights as a file holds them."""
    options = {"resnet10": TINY, "vgg11": {"widths": (2,) * 5, "hidden": 4}}[name]
    model = gs.build(name, num_classes=3, levels=4, **options)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.npz"
        gs.save_weights(path, dyadic.variables(model, (32, 32, 1)), model)
        return model, dict(np.load(path))


@given(st.data())
def test_arrays_of_any_shape_are_taken_or_refused(data):
    """In every file some arrays have other shapes, 0 channels among them."""
    model, arrays = model_and_arrays(data.draw(st.sampled_from(["resnet10", "vgg11"])))
    arrays = dict(arrays)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.npz"
        for spoilt in data.draw(st.sets(st.sampled_from(sorted(arrays)), min_size=1, max_size=3)):
            shape = data.draw(st.lists(st.integers(0, 3), max_size=5) | st.just([0, *arrays[spoilt].shape[1:]]))
            arrays[spoilt] = np.ones(shape, arrays[spoilt].dtype)
        np.savez(path, **arrays)
        try:
            gs.load_weights(path, model)
        except gs.InputError as error:
            assert "do not fit" in str(error)  # noqa: PT017


@pytest.mark.parametrize("between", [[], ["state_dict"], ["model", "state_dict"]])
def test_a_file_that_holds_itself_is_refused(between, model, tmp_path):
    torch = pytest.importorskip("torch")
    contents = innermost = {}
    for name in between:
        innermost[name] = {}
        innermost = innermost[name]
    innermost["model"] = contents
    torch.save(contents, tmp_path / "weights.pth")
    assert "holds itself" in refused(tmp_path / "weights.pth", model)


@pytest.mark.parametrize("shape", [(4,), (1, 1), (0,)])
def test_thresholds_of_another_shape(shape, arrays, model, tmp_path):
    arrays["conv1.2.up"] = np.ones(shape, np.float32)
    assert "conv1.2.up has shape" in spoiled(arrays, model, tmp_path)


def test_a_threshold_under_two_names_is_one_too_many(arrays, model, tmp_path):
    arrays["conv1.2.thresh"] = arrays["conv1.2.up"]
    assert "left over: conv1.2" in spoiled(arrays, model, tmp_path)


def test_weights_of_another_network_are_refused(arrays, tmp_path):
    save_file(arrays, tmp_path / "weights.safetensors")
    for name, amiss in [("resnet18", "has shape"), ("vgg11", "left over: conv1.0.weight"), ("resnet20", "missing:")]:
        message = refused(tmp_path / "weights.safetensors", gs.build(name, num_classes=10, levels=4))
        assert amiss in message


def test_a_network_without_thresholds_says_how_they_may_be_named(arrays, model, tmp_path):
    message = spoiled({name: array for name, array in arrays.items() if not name.endswith("up")}, model, tmp_path)
    assert "v_threshold or up or thresh" in message


@pytest.mark.parametrize("rows", [7, 32, 8 * 49 + 1])
def test_a_map_that_is_no_square_is_refused(rows, tmp_path):
    model = gs.build("vgg11", num_classes=3, levels=4, widths=(4, 4, 8, 8, 8), hidden=16)
    gs.save_weights(tmp_path / "sound.npz", dyadic.variables(model, (32, 32, 3)), model)
    arrays = dict(np.load(tmp_path / "sound.npz"))
    arrays["classifier.1.weight"] = np.zeros((16, rows), np.float32)
    np.savez(tmp_path / "weights.npz", **arrays)
    if rows == 32:  # 2 x 2 pixels of 8 channels
        gs.load_weights(tmp_path / "weights.npz", model)
    else:
        assert f"classifier.1.weight has shape (16, {rows})" in refused(tmp_path / "weights.npz", model)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("kept", [0, 10, 0.5, 0.99])
def test_damaged_files_are_refused(suffix, kept, model, variables, tmp_path):
    if suffix == ".pth":
        pytest.importorskip("torch")
    whole, part = tmp_path / f"whole{suffix}", tmp_path / f"part{suffix}"
    gs.save_weights(whole, variables, model)
    contents = whole.read_bytes()
    part.write_bytes(contents[: kept if kept >= 1 else int(kept * len(contents))])
    assert str(part) in refused(part, model)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_files_of_another_kind_are_refused(suffix, model, tmp_path):
    if suffix == ".pth":
        pytest.importorskip("torch")
    path = tmp_path / f"weights{suffix}"
    path.write_text("lr: 0.1\n")
    assert str(path) in refused(path, model)
    assert "there is no file" in refused(tmp_path / f"missing{suffix}", model)
    (tmp_path / f"folder{suffix}").mkdir()
    assert "is a directory" in refused(tmp_path / f"folder{suffix}", model)


def test_unknown_suffixes_are_refused(model, variables, tmp_path):
    (tmp_path / "weights.h5").write_bytes(b"")
    assert ".safetensors, .npz, .pth" in refused(tmp_path / "weights.h5", model)
    with pytest.raises(gs.InputError, match=r"weights\.h5"):
        gs.save_weights(tmp_path / "weights.h5", variables, model, overwrite=True)


class Planted:
    """An object that would run code when it is unpickled."""

    def __reduce__(self):
        return Path.touch, (Path("planted"),)


def test_code_in_files_is_not_run(published, model, tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    torch.save({"model": Planted()}, "weights.pth")
    assert "state_dict" in refused(Path("weights.pth"), model)
    np.savez("weights.npz", weights=np.array(Planted(), dtype=object))
    assert "weights.npz" in refused(Path("weights.npz"), model)
    assert not Path("planted").exists()


@pytest.mark.parametrize("contents", [[1, 2], {"epoch": 3}, {"model": {"fc.weight": [1.0]}}])
def test_files_without_named_arrays_are_refused(contents, model, tmp_path):
    torch = pytest.importorskip("torch")
    torch.save(contents, tmp_path / "weights.pth")
    assert "save model.state_dict()" in refused(tmp_path / "weights.pth", model)


def test_without_pytorch_the_extra_is_named(model, variables, tmp_path, monkeypatch):
    (tmp_path / "weights.pth").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "torch", None)
    message = refused(tmp_path / "weights.pth", model)
    assert 'pip install "gnsnn_jax[torch]"' in message
    assert ".safetensors" in message
    with pytest.raises(gs.InputError, match="torch"):
        gs.save_weights(tmp_path / "other.pth", variables, model)
    assert not (tmp_path / "other.pth").exists()


def test_nothing_is_overwritten_unasked(model, variables, tmp_path):
    path = tmp_path / "weights.npz"
    path.write_text("precious")
    with pytest.raises(gs.InputError, match="overwrite=True"):
        gs.save_weights(path, variables, model)
    assert path.read_text() == "precious"
    gs.save_weights(path, variables, model, overwrite=True)
    assert_same(gs.load_weights(path, model), variables)


def test_a_write_that_fails_leaves_the_old_file(model, variables, tmp_path, monkeypatch):
    path = tmp_path / "weights.npz"
    gs.save_weights(path, variables, model)

    def fill_the_disk(file, **arrays):
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", fill_the_disk)
    with pytest.raises(OSError, match="No space left"):
        gs.save_weights(path, variables, model, overwrite=True)
    monkeypatch.undo()
    assert_same(gs.load_weights(path, model), variables)
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_is_refused(model, variables, tmp_path):
    path = tmp_path / "weights.npz"
    with pytest.raises(gs.InputError, match="did you mean 'cos'"):
        gs.save_weights(path, variables, model, names="cso")
    with pytest.raises(gs.InputError, match="no directory"):
        gs.save_weights(tmp_path / "nowhere" / "weights.npz", variables, model)
    with pytest.raises(gs.InputError, match="missing: params/head/bias"):
        gs.save_weights(path, without(variables, "head", "bias"), model)
    with pytest.raises(gs.InputError, match="left over: more/number"):
        gs.save_weights(path, variables | {"more": {"number": jnp.zeros(2)}}, model)
    negative = variables["params"] | {"act1": {"threshold": jnp.float32(-1)}}
    with pytest.raises(gs.InputError, match=r"params/act1/threshold is -1\.0"):
        gs.save_weights(path, variables | {"params": negative}, model)
    assert not path.exists()


def without(variables, layer, leaf):
    rest = {name: value for name, value in variables["params"][layer].items() if name != leaf}
    return variables | {"params": variables["params"] | {layer: rest}}


def test_networks_that_name_nothing_are_refused(tmp_path):
    model = nn.Dense(3)
    with pytest.raises(gs.InputError, match=r"Dense .* published\(\)"):
        gs.save_weights(tmp_path / "weights.npz", model.init(jax.random.key(0), jnp.zeros((1, 2))), model)
