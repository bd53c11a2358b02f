"""Networks of ONNX compute in JAX what onnxruntime computes, and convert under the names of their modules."""

import contextlib
import functools
import io
import itertools
import json
import logging
import subprocess
import sys
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import run_script
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

import gnsnn_jax as gs
from gnsnn_jax.interop.functions import own_network

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from gnsnn_jax.interop import onnx_operators  # noqa: E402
from gnsnn_jax.interop.onnx_images import OnnxImageNetwork, read_onnx  # noqa: E402

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent
RANDOM = np.random.default_rng(0)
OPSETS = range(11, 21)
FAST = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}  # to compile
KINDS = {"f": TensorProto.FLOAT, "i": TensorProto.INT64, "b": TensorProto.BOOL}


def normal(*shape):
    return RANDOM.standard_normal(shape).astype(np.float32)


def model_of(nodes, inputs, arrays=None, opset=17, outputs=("y",), shapes=None):
    """A model of nodes; of its inputs the first axis is of any length, and `arrays` are its initializers."""
    declared = [
        helper.make_tensor_value_info(name, KINDS[x.dtype.kind], (shapes or {}).get(name, ["N", *x.shape[1:]]))
        for name, x in inputs.items()
    ]
    found = [helper.make_empty_tensor_value_info(name) for name in outputs]
    stored = [numpy_helper.from_array(np.asarray(each), name) for name, each in (arrays or {}).items()]
    graph = helper.make_graph(nodes, "tested", declared, found, stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def written(model, folder):
    path = Path(folder) / "network.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def expected(model, inputs):
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    content = model.SerializeToString() if hasattr(model, "graph") else str(model)
    session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return session.run(None, dict(zip((each.name for each in session.get_inputs()), inputs.values(), strict=True)))


def assert_as_onnxruntime(model, inputs, folder, atol=1e-5):
    """All outputs agree to `atol` of the largest, or of 1."""
    path = written(model, folder) if hasattr(model, "graph") else model
    apply, variables = gs.from_onnx(path)
    found = jax.tree.leaves(jax.jit(apply, compiler_options=FAST)(variables, *inputs.values()))
    for want, got in zip(expected(model, inputs), found, strict=True):
        assert got.shape == want.shape
        assert got.dtype == jax.dtypes.canonicalize_dtype(want.dtype)
        np.testing.assert_allclose(got, want, rtol=0, atol=atol * max(1, np.abs(want, dtype=np.float64).max(initial=0)))
    return apply, variables


def assert_node(folder, operator, inputs, arrays=None, opset=17, results=1, **attributes):
    """One node alone; `inputs` and `arrays` are what it takes in this order, None for one that is left out."""
    arrays = arrays or {}
    names = [*inputs, *("" if each is None else name for name, each in arrays.items())]
    outputs = [f"y{i}" for i in range(results)]
    node = helper.make_node(operator, names, outputs, **attributes)
    arrays = {name: each for name, each in arrays.items() if each is not None}
    assert_as_onnxruntime(model_of([node], inputs, arrays, opset, outputs), inputs, folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("onnx")


# Operators.


@st.composite
def windows(draw, axes=2):
    """Attributes of a window over maps, and lengths of maps that hold it."""
    sizes = draw(st.lists(st.integers(1, 3), min_size=axes, max_size=axes))
    strides = draw(st.lists(st.integers(1, 3), min_size=axes, max_size=axes))
    found = {"kernel_shape": sizes, "strides": strides}
    fits = all(stride <= size for stride, size in zip(strides, sizes, strict=True))
    auto = draw(st.sampled_from(["NOTSET", "VALID", *(["SAME_UPPER", "SAME_LOWER"] if fits else [])]))
    if auto == "NOTSET":
        found["pads"] = [draw(st.integers(0, size - 1)) for size in sizes * 2]
    else:
        found["auto_pad"] = auto
    lengths = draw(st.lists(st.integers(5, 8), min_size=axes, max_size=axes))
    return found, lengths


@settings(max_examples=6)
@given(windows(), st.sampled_from([1, 2, 4]), st.integers(1, 2), st.booleans(), st.sampled_from(OPSETS))
def test_convolutions(folder, window, groups, rate, has_bias, opset):
    attributes, lengths = window
    if "auto_pad" not in attributes:
        attributes["dilations"] = [rate, 1]
    weight = normal(4, 4 // groups, *attributes["kernel_shape"])
    arrays = {"w": weight, **({"b": normal(4)} if has_bias else {})}
    assert_node(folder, "Conv", {"x": normal(2, 4, *lengths)}, arrays, opset, group=groups, **attributes)


@settings(max_examples=16)
@given(windows(), st.booleans(), st.booleans(), st.sampled_from(OPSETS))
def test_average_pooling(folder, window, ceils, counts, opset):
    attributes, lengths = window
    ceils = ceils and "auto_pad" not in attributes
    attributes |= {"ceil_mode": int(ceils), "count_include_pad": int(counts)}
    assert_node(folder, "AveragePool", {"x": normal(2, 3, *lengths)}, None, opset, **attributes)


@settings(max_examples=6)
@given(windows(), st.booleans(), st.integers(1, 2), st.sampled_from(OPSETS))
def test_max_pooling(folder, window, ceils, rate, opset):
    attributes, lengths = window
    if "auto_pad" not in attributes:
        attributes |= {"ceil_mode": int(ceils), "dilations": [rate, rate]}
    assert_node(folder, "MaxPool", {"x": normal(2, 3, *lengths)}, None, opset, **attributes)


@settings(max_examples=6)
@given(windows(1), st.integers(1, 2), st.integers(0, 1), st.booleans())
def test_transposed_convolutions(folder, window, groups, more, has_shape):
    attributes, lengths = window
    more = min(more, attributes["strides"][0] - 1)
    if has_shape:
        attributes = {name: attributes[name] for name in ("kernel_shape", "strides")}
        attributes["output_shape"] = [attributes["strides"][0] * lengths[0]]
        if attributes["kernel_shape"][0] < attributes["strides"][0]:
            return
    elif "auto_pad" in attributes:
        attributes["auto_pad"] = "VALID"
    else:
        attributes |= {"output_padding": [more]}
    arrays = {"w": normal(4, 3, *attributes["kernel_shape"]), "b": normal(3 * groups)}
    assert_node(folder, "ConvTranspose", {"x": normal(2, 4, *lengths)}, arrays, group=groups, **attributes)


REDUCTIONS = "ReduceSum ReduceMean ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceLogSumExp ReduceSumSquare"


@settings(max_examples=6)
@given(
    st.sampled_from(REDUCTIONS.split()),
    st.lists(st.sampled_from([0, 1, -1]), unique=True, max_size=3),
    st.integers(0, 1),
    st.sampled_from(OPSETS),
)
def test_reductions_take_axes_as_attribute_or_input(folder, operator, axes, keeps, opset):
    is_input = opset >= (13 if operator == "ReduceSum" else 18)
    arrays = {"axes": np.array(axes, np.int64)} if is_input and axes else {}
    attributes = {"axes": axes} if axes and not is_input else {}
    assert_node(folder, operator, {"x": normal(2, 3, 4)}, arrays, opset, keepdims=keeps, **attributes)


@settings(max_examples=6)
@given(st.sampled_from(["Softmax", "LogSoftmax"]), st.sampled_from([0, 1, 2, -1]), st.sampled_from(OPSETS))
def test_softmax_changed_its_meaning(folder, operator, axis, opset):
    assert_node(folder, operator, {"x": normal(2, 3, 4)}, None, opset, axis=axis)


ENDS = [-9, -3, 0, 2, 6, 2**63 - 1, -(2**63) + 1]


@settings(max_examples=6)
@given(
    st.lists(st.tuples(st.integers(-7, 7), st.sampled_from(ENDS)), min_size=1, max_size=3),
    st.sampled_from([1, 2, -1, -2]),
)
def test_slices(folder, bounds, step):
    starts, ends = np.array(bounds, np.int64).T
    ends = np.where((ends > 6) & (step < 0), -9, ends)  # which onnxruntime reads in a way of its own
    axes = np.arange(len(bounds))[::-1]
    arrays = {"starts": starts, "ends": ends, "axes": axes, "steps": np.full(len(bounds), step)}
    assert_node(folder, "Slice", {"x": normal(4, 5, 6)}, arrays)


@settings(max_examples=6)
@given(st.sampled_from(OPSETS), st.booleans(), st.sampled_from([-1, 1]))
def test_axes_and_parts_as_attributes_or_inputs(folder, opset, has_parts, axis):
    x = normal(2, 1, 6)
    of_axes = lambda axes: ({"axes": np.array(axes)}, {}) if opset >= 13 else ({}, {"axes": axes})
    arrays, attributes = of_axes([1])
    assert_node(folder, "Squeeze", {"x": x}, arrays, opset, **attributes)
    arrays, attributes = of_axes([0, axis])
    assert_node(folder, "Unsqueeze", {"x": x}, arrays, opset, **attributes)
    parts = {"parts": np.array([1, 5])} if opset >= 13 and has_parts else {}
    attributes = {"split": [1, 5]} if opset < 13 and has_parts else {}
    attributes |= {"num_outputs": 2} if opset >= 18 and not has_parts else {}
    assert_node(folder, "Split", {"x": x}, parts, opset, 2, axis=2, **attributes)


@settings(max_examples=6)
@given(st.sampled_from(["constant", "reflect", "edge"]), st.sampled_from(OPSETS), st.booleans())
def test_padding(folder, mode, opset, has_value):
    arrays = {"pads": np.array([0, 1, 2, 0, 0, 1])}
    arrays |= {"value": np.float32(0.5)} if has_value and mode == "constant" else {}
    assert_node(folder, "Pad", {"x": normal(2, 3, 4)}, arrays, opset, mode=mode)


NEAREST = ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]


@settings(max_examples=6)
@given(
    st.sampled_from(["nearest", "linear"]),
    st.sampled_from(["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"]),
    st.sampled_from(NEAREST),
    st.tuples(st.integers(2, 9), st.integers(2, 9)),
    st.booleans(),
    st.sampled_from(OPSETS),
)
def test_interpolation(folder, mode, places, nearest, lengths, by_scale, opset):
    x = normal(2, 3, 4, 4)
    sizes = np.array([2, 3, *lengths])
    scales = {"roi": np.zeros(0, np.float32), "scales": (sizes / x.shape).astype(np.float32)}
    arrays = scales if by_scale else {"roi": np.zeros(0, np.float32), "s": np.zeros(0, np.float32), "sizes": sizes}
    attributes = {"mode": mode, "coordinate_transformation_mode": places, "nearest_mode": nearest}
    assert_node(folder, "Resize", {"x": x}, arrays, opset, **attributes)


@settings(max_examples=6)
@given(
    st.sampled_from(["RNN", "GRU", "LSTM"]),
    st.sampled_from(["forward", "reverse", "bidirectional"]),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.integers(0, 1),
)
def test_recurrent_layers(folder, operator, direction, has_lengths, has_state, resets_later, has_clip):
    gates, directions = {"RNN": 1, "GRU": 3, "LSTM": 4}[operator], 1 + (direction == "bidirectional")
    arrays = {
        "w": normal(directions, gates * 4, 3),
        "r": normal(directions, gates * 4, 4),
        "b": normal(directions, gates * 8) if has_state or has_lengths else None,
        "lengths": np.array([5, 2, 3], np.int32) if has_lengths else None,
        "h": normal(directions, 3, 4) if has_state else None,
    }
    if operator == "LSTM":
        arrays |= {"c": normal(directions, 3, 4) if has_state else None, "p": normal(directions, 12)}
    attributes = {"hidden_size": 4, "direction": direction, **({"clip": 0.7} if has_clip else {})}
    attributes |= {"linear_before_reset": int(resets_later)} if operator == "GRU" else {}
    assert_node(folder, operator, {"x": normal(5, 3, 3)}, arrays, 14, 2 + (operator == "LSTM"), **attributes)


X, WORDS = normal(2, 4, 6), RANDOM.integers(0, 4, (2, 3))
SINGLE = {  # operator: inputs, arrays, attributes
    **dict.fromkeys(
        "Abs Acosh Asinh Atan Ceil Cos Cosh Elu Erf Exp Floor GlobalMaxPool HardSigmoid HardSwish LeakyRelu Mish "
        "Neg Relu Round Selu Sigmoid Sign Sin Softplus Softsign Tan Tanh ThresholdedRelu Celu IsNaN IsInf "
        "Size Shape".split(),
        ({"x": X}, {}, {}),
    ),
    "Acosh": ({"x": 1 + np.abs(X)}, {}, {}),
    "Log": ({"x": np.abs(X)}, {}, {}),
    "Sqrt": ({"x": np.abs(X)}, {}, {}),
    "Reciprocal": ({"x": 1 + np.abs(X)}, {}, {}),
    **dict.fromkeys(
        "Add Sub Mul Div PRelu Max Min Mean Sum Greater Less GreaterOrEqual LessOrEqual".split(),
        ({"x": X}, {"w": normal(4, 1)}, {}),
    ),
    "Pow": ({"x": X}, {"w": np.float32(2)}, {}),
    "Mod": ({"x": WORDS - 2}, {"w": np.array([3, 2, 3])}, {}),
    "Equal": ({"x": WORDS}, {"w": np.array(1)}, {}),
    "Clip": ({"x": X}, {"low": np.float32(-0.3), "high": np.float32(0.4)}, {}),
    "Where": ({"x": X > 0}, {"a": normal(1, 6), "b": np.float32(0.5)}, {}),
    "MatMul": ({"x": X}, {"w": normal(6, 3)}, {}),
    "Gemm": ({"x": X[0]}, {"w": normal(3, 6), "b": normal(3)}, {"alpha": 0.5, "beta": 2.0, "transB": 1}),
    "Einsum": ({"x": X}, {"w": normal(4, 6)}, {"equation": "bij,ij->bi"}),
    "Gather": ({"x": X}, {"w": np.array([[0, -1]])}, {"axis": 1}),
    "GatherElements": ({"x": X}, {"w": np.array([[[0, 3]], [[1, -1]]])}, {"axis": 2}),
    "GatherND": ({"x": X}, {"w": np.array([[[1]], [[2]]])}, {"batch_dims": 1}),
    "ScatterND": ({"x": X}, {"w": np.array([[0, 1], [1, 2]]), "u": normal(2, 6)}, {}),
    "ScatterElements": ({"x": X}, {"w": np.array([[[0, 3]]]), "u": normal(1, 1, 2)}, {"axis": 2}),
    "OneHot": ({"x": WORDS}, {"d": np.array(5), "v": np.float32([0, 2])}, {"axis": 1}),
    "TopK": ({"x": X}, {"k": np.array([2])}, {"axis": 1}),
    "ArgMax": ({"x": X}, {}, {"axis": 1, "keepdims": 0}),
    "ArgMin": ({"x": X}, {}, {"axis": -1, "select_last_index": 1}),
    "CumSum": ({"x": X}, {"a": np.array(1)}, {"exclusive": 1, "reverse": 1}),
    "Expand": ({"x": X[:, :1]}, {"s": np.array([1, 3, 1])}, {}),
    "Tile": ({"x": X}, {"s": np.array([1, 2, 1])}, {}),
    "Transpose": ({"x": X}, {}, {"perm": [0, 2, 1]}),
    "Flatten": ({"x": X}, {}, {"axis": -1}),
    "Reshape": ({"x": X}, {"s": np.array([0, -1, 3])}, {}),
    "Trilu": ({"x": X}, {"k": np.array(-1)}, {"upper": 0}),
    "Cast": ({"x": 3 * X}, {}, {"to": TensorProto.INT64}),
    "DepthToSpace": ({"x": normal(2, 8, 2, 3)}, {}, {"blocksize": 2, "mode": "CRD"}),
    "SpaceToDepth": ({"x": normal(2, 2, 4, 6)}, {}, {"blocksize": 2}),
    "LRN": ({"x": X[..., None]}, {}, {"size": 3, "alpha": 0.1}),
    "LpNormalization": ({"x": X}, {}, {"axis": 1, "p": 2}),
    "InstanceNormalization": ({"x": X}, {"w": normal(4), "b": normal(4)}, {}),
    "LayerNormalization": ({"x": X}, {"w": normal(4, 6), "b": normal(4, 6)}, {"axis": 1}),
    "BatchNormalization": (
        {"x": X},
        {"w": normal(4), "b": normal(4), "m": normal(4), "v": np.abs(normal(4))},
        {"epsilon": 0.01},
    ),
    "Dropout": ({"x": X}, {}, {}),
    "Identity": ({"x": X}, {}, {}),
}


@pytest.mark.parametrize("operator", SINGLE)
def test_operators(folder, operator):
    inputs, arrays, attributes = SINGLE[operator]
    opset = 18 if operator == "Mish" else 17
    assert_node(folder, operator, inputs, arrays, opset, 2 if operator == "TopK" else 1, **attributes)


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu(folder, approximate):
    assert_node(folder, "Gelu", {"x": X}, None, 20, approximate=approximate)


def choice_of(x):
    """As PyTorch writes `squeeze` where it does not know the length of an axis."""

    def branch(nodes, name):
        return helper.make_graph(nodes, name, [], [helper.make_empty_tensor_value_info(name)])

    axes = helper.make_node("Constant", [], ["axes"], value=numpy_helper.from_array(np.array([1])))
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"], start=1, end=2),
        helper.make_node("Equal", ["shape", "one"], ["is_one"]),
        helper.make_node(
            "If",
            ["is_one"],
            ["y"],
            then_branch=branch([axes, helper.make_node("Squeeze", ["x", "axes"], ["a"])], "a"),
            else_branch=branch([helper.make_node("Mul", ["x", "w"], ["b"])], "b"),
        ),
    ]
    length = x.shape[-1]
    return model_of(nodes, {"x": x}, {"one": np.array([1]), "w": normal(1, length)}, shapes={"x": ["N", "C", length]})


def test_a_fixed_condition_chooses_a_graph(folder):
    for channels in (1, 3):
        x = normal(2, channels, 4)
        assert_as_onnxruntime(choice_of(x), {"x": x}, folder)


def loop_of(condition, passes=3):
    """y <- 2 y + x and the places i y, while y is in a condition on the number of the pass or on the data."""
    declared = [
        helper.make_tensor_value_info("i", TensorProto.INT64, []),
        helper.make_tensor_value_info("before", TensorProto.BOOL, []),
        helper.make_tensor_value_info("state", TensorProto.FLOAT, None),
    ]
    nodes = [
        helper.make_node("Add", ["state", "state"], ["double"]),
        helper.make_node("Add", ["double", "x"], ["next"]),
        helper.make_node("Less", ["i", "last"], ["by_number"]),
        helper.make_node("ReduceMax", ["state"], ["most"], keepdims=0),
        helper.make_node("Less", ["most", "large"], ["by_data"]),
        helper.make_node("Identity", ["next"], ["kept"]),
    ]
    outputs = [
        helper.make_tensor_value_info(condition, TensorProto.BOOL, []),
        *(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("next", "kept")),
    ]
    body = helper.make_graph(nodes, "body", declared, outputs)
    loop = helper.make_node("Loop", ["most_passes", "", "x"], ["y", "places"], body=body, name="again")
    arrays = {"most_passes": np.array(passes), "last": np.array(1), "large": np.float32(3)}
    return model_of([loop], {"x": X}, arrays, outputs=["y", "places"])


def test_a_loop_of_a_fixed_length_is_written_out(folder):
    assert_as_onnxruntime(loop_of("by_number"), {"x": X}, folder)
    apply, variables = gs.from_onnx(written(loop_of("by_data"), folder))
    with pytest.raises(gs.InputError, match="Loop of node again: its condition depends on the values of inputs"):
        apply(variables, X)


# Networks of PyTorch.

EXPORTERS = [False, True]  # `dynamo`


def exported(module, x, path, newer, fixed_batch=False, **options):
    torch = pytest.importorskip("torch")
    if newer:
        pytest.importorskip("onnxscript")
        free = None if fixed_batch else tuple({0: torch.export.Dim.DYNAMIC} for _ in x)
        options |= {"dynamo": True, "dynamic_shapes": free, "external_data": False, "verbose": False}
    else:
        names = [f"input{i}" for i in range(len(x))]
        axes = {} if fixed_batch else {name: {0: "batch"} for name in names}
        options |= {"dynamo": False, "input_names": names, "dynamic_axes": axes}
    said = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        torch.onnx.export(module, tuple(map(torch.as_tensor, x)), path, **options)
        logging.disable(logging.NOTSET)
    return path


SITES = {
    "resnet": ["relu", "layer1/0/relu", "layer1/0/relu{}", "layer2/0/relu", "layer2/0/relu{}"],
    "mobilenet_v2": ["0/2", "1/2", "2/2"],
}
NETWORKS = ["resnet", "mobilenet_v2", "vit", "gru", "lstm"]


@pytest.mark.parametrize(
    ("name", "newer"), [*((name, False) for name in NETWORKS), *((name, True) for name in ("resnet", "gru"))]
)
def test_networks_of_pytorch_at_another_batch_than_they_were_exported_with(name, newer, folder):
    pytest.importorskip("torch")
    import torch_blocks

    module, shape = torch_blocks.build(name)
    path = exported(module, [normal(2, *shape)], folder / f"{name}.onnx", newer)
    x = normal(3, *shape)
    apply, variables = assert_as_onnxruntime(path, {"x": x}, folder)
    if name in SITES:
        again = "#2" if newer else "_1"
        assert [site.name for site in gs.sites(apply, variables, x)] == [each.format(again) for each in SITES[name]]


@pytest.mark.parametrize("newer", EXPORTERS, ids=["older", "newer"])
def test_words_and_masks(newer, folder):
    pytest.importorskip("torch")
    import torch
    import torch_blocks

    torch.manual_seed(0)
    words = np.random.default_rng(0).integers(0, 20, (3, 7))
    mask = (np.arange(7) < np.array([[3], [7], [5]])).astype(np.int64)
    path = exported(torch_blocks.Bert().eval(), [words[:2], mask[:2]], folder / "bert.onnx", newer)
    apply, variables = assert_as_onnxruntime(path, {"words": words, "mask": mask}, folder)
    with pytest.raises(gs.InputError, match="takes int32, got float32; give integers"):
        apply(variables, words.astype(np.float32), mask)


@pytest.mark.parametrize("newer", EXPORTERS, ids=["older", "newer"])
def test_a_network_that_was_exported_for_one_image_takes_more(newer, folder):
    torch = pytest.importorskip("torch")
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 5), torch.nn.Flatten(), torch.nn.Linear(64, 3)).eval()
    x = normal(3, 3, 8, 8)
    apply, variables = gs.from_onnx(exported(module, [x[:1]], folder / "fixed.onnx", newer, fixed_batch=True))
    wanted = module(torch.as_tensor(x)).detach().numpy()
    np.testing.assert_allclose(apply(variables, x), wanted, atol=1e-5)


def test_a_batch_that_a_network_computes_with_is_named(folder):
    def reshaping(shape):
        node = helper.make_node("Reshape", ["x", "shape"], ["y"])
        model = model_of([node], {"x": X}, {"shape": np.array(shape)}, shapes={"x": [1, 4, 6]})
        model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 24]))
        apply, variables = gs.from_onnx(written(model, folder))
        return apply(variables, X)

    assert reshaping([1, 24]).shape == (2, 24)
    for shape, match in (([-1], "48 entries for a batch of 2"), ([24], "Reshape .* failed in JAX")):
        with pytest.raises(gs.InputError, match=f"({match}).*; the file states a batch of 1: give that, or export"):
            reshaping(shape)


# Conversion.


@functools.cache
def digits_network(channels_last=False):
    """Convolution, max-pooling and a head by least squares on the digits."""
    x, labels = digits()
    x = x.transpose(0, 3, 1, 2)
    arrays = {"stem.weight": normal(16, 1, 3, 3), "stem.bias": normal(16), "shape": np.array([0, -1])}
    nodes = [
        helper.make_node("Conv", ["x", "stem.weight", "stem.bias"], ["a"], name="/stem/Conv", pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["b"], name="/stem/act/Relu"),
        helper.make_node("AveragePool", ["b"], ["c"], name="/pool/AveragePool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Reshape", ["c", "shape"], ["d"], name="/Reshape"),
        helper.make_node("Gemm", ["d", "head.weight", "head.bias"], ["y"], name="/head/Gemm"),
    ]
    (features,) = expected(model_of(nodes[:4], {"x": x}, arrays, outputs=["d"]), {"x": x})
    features = np.concatenate([features, np.ones((len(x), 1), np.float32)], 1)
    head, *_ = np.linalg.lstsq(features, np.eye(10, dtype=np.float32)[labels])
    arrays |= {"head.weight": head[:-1], "head.bias": head[-1]}
    if channels_last:
        nodes[0].input[0] = "moved"
        nodes.insert(0, helper.make_node("Transpose", ["x"], ["moved"], name="/Transpose", perm=[0, 3, 1, 2]))
    return model_of(nodes, {"x": x.transpose(0, 2, 3, 1) if channels_last else x}, arrays)


@functools.cache
def digits():
    images, labels = load_digits(return_X_y=True)
    return ((images - images.mean()) / images.std()).astype(np.float32).reshape(-1, 8, 8, 1), labels


def test_a_network_converts_with_its_variables_as_arguments(folder):
    path = written(digits_network(), folder)
    apply, variables = gs.from_onnx(path)
    assert variables.keys() == {"stem.weight", "stem.bias", "head.weight", "head.bias"}
    x = digits()[0][:64].transpose(0, 3, 1, 2)
    apply = jax.jit(apply)
    assert [(site.name, site.shape) for site in gs.sites(apply, variables, x)] == [("stem/act", (64, 16, 8, 8))]
    doubled = {**variables, "head.weight": 2 * variables["head.weight"], "head.bias": 2 * variables["head.bias"]}
    np.testing.assert_allclose(apply(doubled, x), 2 * apply(variables, x), atol=1e-5)
    gradient = jax.grad(lambda variables: apply(variables, x).sum())(variables)
    assert all(jnp.abs(each).max() > 0 for each in gradient.values())
    snn = gs.to_spiking(apply, gs.group_neuron(16), steps=1, thresholds={"stem/act": jnp.float32(8)})
    assert (snn(variables, x)[0].argmax(-1) == apply(variables, x).argmax(-1)).mean() > 0.9


def test_a_program_is_the_same_behind_json(folder):
    bounds = {
        "low": np.float32(-np.inf),
        "high": np.float32(0.4),
        "ends": np.array([2**63 - 1]),
        "start": np.array([1]),
    }
    nodes = [
        helper.make_node("Clip", ["x", "low", "high"], ["a"]),
        helper.make_node("Slice", ["a", "start", "ends"], ["b"]),
        helper.make_node("Cast", ["b"], ["c"], to=TensorProto.FLOAT16),
        helper.make_node("LeakyRelu", ["c"], ["y"], alpha=float("inf")),
    ]
    for model in (loop_of("by_number"), choice_of(X), model_of(nodes, {"x": X}, bounds), digits_network()):
        network, variables = read_onnx(written(model, folder))
        described = json.loads(json.dumps(network.to_json((8, 8, 1))))
        again = OnnxImageNetwork.from_json(described, "the network")
        x = digits()[0][:3] if model is digits_network() else X
        jax.tree.map(np.testing.assert_array_equal, again(variables, x), network(variables, x))
        assert again.to_json((8, 8, 1)) == described


def test_a_stored_program_that_is_damaged_is_one_sentence(folder):
    described = read_onnx(written(digits_network(), folder))[0].to_json((8, 8, 1))
    for change, match in [
        ({"graph": {"graph": [[], [], [1], {"dict": []}]}}, "says 'what is no Declared' of its operations; convert"),
        ({"graph": {"system": ["true"]}}, "the network says .*system.* of its operations; convert it again"),
        ({"graph": [1]}, "the network says .* of its operations; convert it again"),
        ({"opset": "new"}, "the network says .* of its operations; convert it again"),
        ({"graph": fancy_graph()}, r"does not know 1 of the network's operators: os\.system"),
    ]:
        with pytest.raises(gs.InputError, match=match):
            OnnxImageNetwork.from_json(described | change, "the network")


def fancy_graph():
    node = ["os.system", "", ["x"], ["y"], {"dict": []}, []]
    return {"graph": [{"tuple": [{"node": node}]}, {"tuple": []}, {"tuple": []}, {"dict": []}]}


@pytest.mark.parametrize("channels_last", [False, True])
def test_images_of_a_data_set_are_taken_wherever_the_file_wants_channels(channels_last, folder):
    images, labels = digits()
    network = own_network(str(written(digits_network(channels_last), folder)))
    assert (network.apply(network.variables, images).argmax(-1) == labels).mean() > 0.9
    own_network.cache_clear()


LOAD = """
import sys
sys.modules["onnx"] = None
import gnsnn_jax as gs, numpy as np
folder, x = sys.argv[1], np.load(sys.argv[1] + "/x.npy")
saved, converted = gs.load(folder + "/stored.npz"), gs.load_converted(folder + "/run/converted/gn")
np.savez(folder + "/outputs.npz", saved=saved(np.moveaxis(np.float32(x), -1, 1)), converted=converted(x))
"""


@pytest.mark.usefixtures("unchecked")
def test_stored_networks_load_without_the_file_and_the_package(tmp_path, monkeypatch):
    apply, variables = gs.from_onnx(written(digits_network(), tmp_path))
    x = load_digits().images[:5, ..., None].astype(np.uint8)
    inputs = np.moveaxis(np.float32(x), -1, 1)
    snn = gs.to_spiking(apply, gs.group_neuron(4), steps=2, thresholds={"stem/act": jnp.float32(8)})
    gs.save(tmp_path / "stored.npz", snn, variables, inputs[:2])
    monkeypatch.chdir(tmp_path)
    options = ["--dataset", "digits", "--methods", "gn", "--steps", "1", "--quick", "--workdir", "run"]
    assert run_script(monkeypatch, "convert.py", "--network", "network.onnx", *options) == 0
    report = json.loads(Path("run/report.json").read_text())
    assert report["ann_accuracy"] > 0.9
    assert report["methods"][0]["accuracy"]["1"] > report["ann_accuracy"] - 0.05
    stored = tmp_path / "run" / "converted" / "gn"
    assert str(tmp_path) not in (stored / "about" / "metadata").read_text()
    Path("network.onnx").unlink()
    np.save("x.npy", x)
    done = subprocess.run([sys.executable, "-c", LOAD, tmp_path], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    found = np.load("outputs.npz")
    network = gs.load_converted(stored)
    outputs = network(x)
    np.testing.assert_allclose(found["converted"], outputs, atol=1e-5)
    np.testing.assert_allclose(found["saved"], snn(variables, inputs), rtol=1e-4, atol=1e-4)
    network.save(tmp_path / "again")
    np.testing.assert_array_equal(gs.load_converted(tmp_path / "again")(x), outputs)
    own_network.cache_clear()


# What is refused.


def test_unknown_operators_are_listed_once_with_their_nodes(folder):
    nodes = [helper.make_node("NonMaxSuppression", ["x", "x"], ["a"], name="boxes")]
    nodes += [helper.make_node("Fancy", ["a"], ["b"], name=f"fancy{i}", domain="my.own") for i in range(5)]
    nodes += [helper.make_node("Scan", ["b"], ["y"], name="again", body=helper.make_graph([], "body", [], []))]
    said = (
        r"3 of the network's operators: NonMaxSuppression \(boxes\), "
        r"my.own.Fancy \(fancy0, fancy1, fancy2 and 2 more\), Scan \(again\); leave them"
    )
    path = written(model_of(nodes, {"x": X}), folder)
    with pytest.raises(gs.InputError, match=said):
        gs.from_onnx(path)
    nodes = [helper.make_node("Fancy", ["x"], ["y"], domain="my.own", factor=2.0)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(onnx_operators.OPERATORS, "my.own.Fancy", lambda x, factor: x * factor)
        apply, variables = gs.from_onnx(written(model_of(nodes, {"x": X}), folder))
        np.testing.assert_array_equal(apply(variables, X), 2 * X)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "holds no network of ONNX"),
        (b"\x80\x04 no ONNX at all", "cannot be read as ONNX .*; it is damaged, or of another format"),
        (None, "cannot be read as ONNX|is damaged"),
    ],
)
def test_a_damaged_file_is_one_sentence(content, match, folder):
    path = written(digits_network(), folder)
    path.write_bytes(path.read_bytes()[:-2000] if content is None else content)
    with pytest.raises(gs.InputError, match=match) as error:
        gs.from_onnx(path)
    assert "\n" not in str(error.value)


def test_a_missing_file_and_an_old_one(folder):
    with pytest.raises(gs.InputError, match="there is no file nowhere"):
        gs.from_onnx("nowhere.onnx")
    old = model_of([helper.make_node("Relu", ["x"], ["y"])], {"x": X}, opset=5)
    with pytest.raises(gs.InputError, match="operator set 5, older than 7"):
        gs.from_onnx(written(old, folder))


def with_external_arrays(folder, **changes):
    """The model with its weights in a file beside it, and what is said about them changed."""
    model = onnx.load_from_string(digits_network().SerializeToString())
    path = folder / "external.onnx"
    onnx.save_model(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    model = onnx.load(path, load_external_data=False)
    for entry in itertools.chain(*(each.external_data for each in model.graph.initializer)):
        entry.value = changes.get(entry.key, entry.value)
    path.write_bytes(model.SerializeToString())
    return path


def test_arrays_in_other_files_are_read_from_the_folder_of_the_model_alone(tmp_path):
    x = digits()[0][:4].transpose(0, 3, 1, 2)
    apply, variables = gs.from_onnx(with_external_arrays(tmp_path))
    assert apply(variables, x).shape == (4, 10)
    secret = tmp_path.parent / f"{tmp_path.name}-secret.bin"
    secret.write_bytes(bytes(100_000))
    (tmp_path / "link.bin").symlink_to(secret)
    for location in (f"../{secret.name}", str(secret), "link.bin", "", ".", "a/../../" + secret.name):
        with pytest.raises(gs.InputError, match="outside of the folder of the model, which is not read"):
            gs.from_onnx(with_external_arrays(tmp_path, location=location))
    with pytest.raises(gs.InputError, match=r"there is no file elsewhere\.bin beside it"):
        gs.from_onnx(with_external_arrays(tmp_path, location="elsewhere.bin"))
    for change in ({"offset": "1000000"}, {"length": str(2**62)}, {"length": "8"}):
        with pytest.raises(gs.InputError, match=r"ends before the array|is damaged"):
            gs.from_onnx(with_external_arrays(tmp_path, **change))


def test_wrong_inputs_are_one_sentence_each(folder):
    apply, variables = gs.from_onnx(written(digits_network(), folder))
    x = digits()[0][:4].transpose(0, 3, 1, 2)
    for args, match in [
        ((variables,), r"after its variables the network takes 1 inputs \(x\), got 0"),
        ((variables, x[:, :, :7]), r"input x must have the shape \[any, 1, 8, 8\], got \[4, 1, 7, 8\]"),
        (({}, x), "variables lack head.bias, head.weight, stem.bias, stem.weight; pass those"),
        ((x, x), "variables must be the dictionary that from_onnx returned"),
    ]:
        with pytest.raises(gs.InputError, match=match):
            apply(*args)


def test_what_depends_on_the_data_is_named_with_its_node(folder):
    nodes = [
        helper.make_node("ReduceMax", ["n"], ["m"], keepdims=0),
        helper.make_node("Unsqueeze", ["m", "zero"], ["s"]),
        helper.make_node("ConstantOfShape", ["s"], ["y"], name="room"),
    ]
    model = model_of(nodes, {"n": WORDS}, {"zero": np.array([0])})
    apply, variables = gs.from_onnx(written(model, folder))
    with pytest.raises(gs.InputError, match="ConstantOfShape of node room: a shape depends on the values of inputs"):
        apply(variables, WORDS)
    norm = helper.make_node("BatchNormalization", ["x", "w", "w", "w", "w"], ["y"], name="norm", training_mode=1)
    apply, variables = gs.from_onnx(written(model_of([norm], {"x": X}, {"w": normal(4)}), folder))
    with pytest.raises(gs.InputError, match="of node norm: the norm is in training mode"):
        apply(variables, X)
