"""Converted networks as NIR graphs, and NIR graphs as functions."""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gnsnn_jax as gs

nir = pytest.importorskip("nir")
h5py = pytest.importorskip("h5py")

STEPS = 5
UNITS = (1.0, 2.0, 4.0)


def mean_pool(x, size, stride, padding=0):
    around = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    window, strides = (1, size, size, 1), (1, stride, stride, 1)
    return jax.lax.reduce_window(x, np.float32(0), jax.lax.add, window, strides, around) / 4


class Convolutional(nn.Module):
    """A residual block with a shortcut of its own, strides, groups, pooling and a dense head; thresholds by channel."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(4, (3, 3), strides=2, padding="SAME")(x)
        x = gs.qcfs(x, self.param("threshold0", nn.initializers.ones, ()), 4)
        y = nn.BatchNorm(use_running_average=True)(nn.Conv(4, (3, 3), padding=1, use_bias=False)(x))
        x = gs.qcfs(x + y, self.param("threshold1", nn.initializers.ones, (4,)), 4)
        y = nn.Conv(8, (3, 3), strides=2, padding=1, feature_group_count=4)(x)
        x = gs.qcfs(y + nn.Conv(8, (1, 1), strides=2)(x), self.param("threshold2", nn.initializers.ones, (8,)), 4)
        x = mean_pool(x, 2, 2)
        x = gs.qcfs(nn.Dense(6)(x.reshape(x.shape[0], -1)), self.param("threshold3", nn.initializers.ones, ()), 4)
        return nn.Dense(3)(x)


class Odd(nn.Module):
    """A normalised image, kernels that are not square or dilated, overlapping pools, joined channels, pixel sums."""

    @nn.compact
    def __call__(self, x):
        x = (x - jnp.asarray([0.5, 1.0], jnp.float32)[None, None, None]) / 2
        x = nn.Conv(4, (1, 3), padding="SAME")(x)
        x = gs.qcfs(x, self.param("threshold0", nn.initializers.ones, (4,)), 4)
        y = nn.Conv(4, (3, 3), padding="SAME", kernel_dilation=2, feature_group_count=4)(x)
        z = mean_pool(x, 3, 1, padding=1)
        x = gs.qcfs(jnp.concatenate([y, z], -1), self.param("threshold1", nn.initializers.ones, ()), 4)
        y = jnp.pad(x[..., 2:6], ((0, 0), (1, 1), (0, 0), (0, 0)))
        x = gs.qcfs(nn.Conv(3, (3, 2), padding="VALID")(y), self.param("threshold2", nn.initializers.ones, (3,)), 4)
        return nn.Dense(2)(x.sum((1, 2)) / 4)


class Dense(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = gs.qcfs(nn.Dense(5)(x), self.param("threshold0", nn.initializers.ones, (5,)), 4)
        x = gs.qcfs(x[:, ::-1] + nn.Dense(5)(x), self.param("threshold1", nn.initializers.ones, ()), 4)
        return nn.Dense(3)(x) - 0.25


def variables(model, x, seed=4):
    """Few bits, so that sums are exact in any order, and thresholds that are powers of two."""
    random = np.random.default_rng(seed)

    def leaf(path, like):
        name = path[-1].key
        if name.startswith("threshold"):
            return jnp.asarray(random.choice(UNITS, like.shape), jnp.float32)
        if name == "var":  # with epsilon a power of four
            return jnp.asarray(random.choice(np.float32([1, 4]), like.shape) - np.float32(1e-5))
        return jnp.asarray(random.integers(-4, 6, like.shape) / 4, jnp.float32)

    shapes = jax.eval_shape(model.init, jax.random.key(0), x)
    return jax.tree_util.tree_map_with_path(leaf, shapes)


def images(*shape):
    return jnp.asarray(np.random.default_rng(1).integers(-8, 17, shape) / 8, jnp.float32)


CASES = {
    "convolutional": (Convolutional(), images(2, 8, 8, 2)),
    "odd": (Odd(), images(2, 6, 5, 2)),
    "dense": (Dense(), images(3, 4)),
}


def trains(x, steps=STEPS):
    """The same at each step, channels first."""
    x = jnp.broadcast_to(x, (steps, *x.shape))
    return jnp.moveaxis(x, -1, 2)


def outputs_of(path, x):
    outputs = gs.from_nir(path)(trains(x))
    return outputs.reshape(*outputs.shape[:2], -1)


@pytest.mark.parametrize("neuron", [gs.integrate_and_fire(), gs.group_neuron(4)], ids=["if", "gn"])
@pytest.mark.parametrize("case", CASES)
def test_the_exact_form_is_the_simulation_to_the_last_digit(case, neuron, tmp_path):
    model, x = CASES[case]
    weights = variables(model, x)
    snn = gs.to_spiking(model.apply, neuron, steps=STEPS)
    gs.to_nir(snn, weights, x, path=tmp_path / "exact.nir", form="exact")
    wanted = np.asarray(snn(weights, x))
    assert len(np.unique(wanted)) > 3
    np.testing.assert_array_equal(outputs_of(tmp_path / "exact.nir", x), wanted)


@pytest.mark.parametrize("case", CASES)
def test_the_portable_form_follows_its_metadata(case, tmp_path):
    model, x = CASES[case]
    weights = variables(model, x)
    snn = gs.to_spiking(model.apply, gs.integrate_and_fire(), steps=STEPS)
    graph = gs.to_nir(jax.jit(snn), weights, x, path=tmp_path / "none.nir", initial="none")
    np.testing.assert_array_equal(outputs_of(tmp_path / "none.nir", x), snn(weights, x))
    for node in graph.nodes.values():
        if isinstance(node, nir.IF):
            assert (node.r == 1).all()
            assert (node.v_threshold == 1).all()
        if isinstance(node, nir.Conv2d):
            assert node.groups == 1
            assert node.weight.shape[2] == node.weight.shape[3]
    assert not any(isinstance(node, nir.Flatten | nir.AvgPool2d | nir.Threshold) for node in graph.nodes.values())
    with h5py.File(tmp_path / "none.nir") as file:
        assert not any("v_reset" in node for node in file["node/nodes"].values())


def test_the_bias_makes_up_for_the_initial_potential():
    """One layer of a constant current sends as many spikes; a network stays close."""
    model, x = nn.Sequential([nn.Dense(6), lambda x: gs.qcfs(x, jnp.float32(2.0), 4), nn.Dense(3)]), images(3, 4)
    weights = variables(model, x)
    for steps in (1, 4, 8):
        snn = gs.to_spiking(model.apply, gs.integrate_and_fire(), steps=steps)
        outputs = gs.from_nir(gs.to_nir(snn, weights, x))(trains(x, steps))
        np.testing.assert_allclose(outputs.sum(0), snn(weights, x).sum(0), atol=1e-5)


def test_encoders_and_channels_first():
    """Encoders, which are signed, in front of weights that read what others made."""

    def network(weights, x):  # as from PyTorch
        numbers = ("NCHW", "OIHW", "NCHW")
        conv = lambda x, w: jax.lax.conv_general_dilated(x, w, (1, 1), ((1, 1), (1, 1)), dimension_numbers=numbers)
        x = gs.qcfs(conv(x, weights["first"]), jnp.float32(1.0), 4)
        x = gs.qcfs(conv(conv(x, weights["second"]), weights["third"]), jnp.float32(2.0), 4)
        return x.reshape(x.shape[0], -1) @ weights["head"]

    shapes = {"first": (3, 2, 3, 3), "second": (4, 3, 3, 3), "third": (3, 4, 3, 3), "head": (3 * 4 * 5, 3)}
    weights = {name: images(*shape) / 4 - 0.25 for name, shape in shapes.items()}
    x = images(2, 2, 4, 5)
    found = gs.find_thresholds(network, [x], levels=4, variables=weights, encoders="all")
    encoders = {name: 2.0 ** np.round(np.log2(value)) for name, value in found.items() if "encoder" in name}
    assert encoders
    snn = gs.to_spiking(network, gs.group_neuron(2), steps=3, thresholds=encoders, encoders="all")
    outputs = gs.from_nir(gs.to_nir(snn, weights, x, form="exact"))(jnp.broadcast_to(x, (3, *x.shape)))
    np.testing.assert_array_equal(outputs.reshape(3, 2, 3), snn(weights, x))


def test_data_with_a_time_axis():
    model, x = CASES["dense"]
    weights = variables(model, x)
    snn = gs.to_spiking(model.apply, gs.group_neuron(2), steps=4, time_axes=(None, 1))
    x = images(3, 4, 4)  # [B, T, N]
    graph = gs.to_nir(snn, weights, x, form="exact")
    np.testing.assert_array_equal(gs.from_nir(graph)(x.transpose(1, 0, 2)), snn(weights, x))


# What NIR cannot express.


def test_all_that_cannot_be_expressed_is_listed_with_its_place():
    def network(weights, x):
        x = gs.qcfs(x @ weights, jnp.float32(1.0), 4)
        x = jax.nn.softmax(x @ weights)
        return jnp.maximum(gs.qcfs(x, jnp.float32(1.0), 4) @ weights, x)

    snn = gs.to_spiking(network, {"*qcfs": gs.integrate_and_fire(), "*": gs.group_neuron(3)}, steps=2, encoders=None)
    with pytest.raises(gs.InputError, match="NIR cannot express") as error:
        gs.to_nir(snn, images(4, 4), images(2, 4))
    message = str(error.value)
    assert 'form="exact"' in message
    assert "softmax" in message
    assert message.count("test_nir.py:") == message.count("\n") == 3


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"calibration": gs.offset_spikes(2)}, "calibration"),
        ({"product_dtype": jnp.bfloat16}, "product_dtype"),
    ],
)
def test_settings_without_a_place_in_nir(changes, words):
    model, x = CASES["dense"]
    snn = gs.to_spiking(model.apply, gs.integrate_and_fire(), steps=2, **changes)
    with pytest.raises(gs.InputError, match=words):
        gs.to_nir(snn, variables(model, x), x)


def test_arguments_are_checked(unchecked):
    model, x = CASES["dense"]
    weights = variables(model, x)
    snn = gs.to_spiking(model.apply, gs.integrate_and_fire(), steps=2)
    for wrong in ({"form": "nir"}, {"initial": 3}, {"path": "/no/such/place.nir"}):
        with pytest.raises(gs.InputError):
            gs.to_nir(snn, weights, x, **wrong)
    with pytest.raises(gs.InputError, match="known values"):
        jax.jit(lambda weights: gs.to_nir(snn, weights, x))(weights)
    with pytest.raises(TypeError):
        gs.to_nir(model.apply, weights, x)


def test_a_graph_that_computes_something_else_is_not_written(tmp_path):
    def network(weights, x):  # a sample knows its place in the batch
        return gs.qcfs(x @ weights + jnp.arange(len(x), dtype=jnp.float32)[:, None], jnp.float32(1.0), 4) @ weights

    snn = gs.to_spiking(network, gs.integrate_and_fire(), steps=2)
    with pytest.raises(gs.InputError, match="does not compute"):
        gs.to_nir(snn, images(4, 4), images(3, 4), path=tmp_path / "wrong.nir")
    assert not list(tmp_path.iterdir())


# What other simulators write.


def graph_of(*nodes):
    return nir.NIRGraph.from_list(nir.Input(np.array([3])), *nodes, nir.Output(np.array([3])))


def full(*values):
    return np.asarray(values, np.float32)


ONES, ZEROS = np.ones(3, np.float32), np.zeros(3, np.float32)
TAU, LEAK = full(2, 4, 8), full(0, 0.5, -0.5)
CURRENTS = np.random.default_rng(0).uniform(0, 2, (6, 2, 3)).astype(np.float32)


def euler(charge, state, resets=True):
    """Step by step in numpy: charge(state, x) charges state["v"], spikes where it exceeds 1, and resets to 0."""
    outputs = []
    for x in CURRENTS:
        charge(state, x)
        z = (state["v"] > 1).astype(np.float32)
        outputs.append(z if resets else state["v"].copy())
        state["v"] = np.where(z > 0, 0, state["v"]) if resets else state["v"]
    return np.stack(outputs)


def leaky(state, x):
    state["v"] = state["v"] + (LEAK - state["v"] + 3 * x) / TAU


def synaptic(state, x):
    state["i"] = state["i"] + (2 * x - state["i"]) / (2 * TAU)
    leaky(state, state["i"])


def integrating(state, x):
    state["v"] = state["v"] + 0.5 * x


NEURONS = {
    "I": (lambda: nir.I(ONES / 2), integrating, False),
    "IF": (lambda: nir.IF(ONES / 2, ONES), integrating, True),
    "LI": (lambda: nir.LI(TAU, 3 * ONES, LEAK), leaky, False),
    "LIF": (lambda: nir.LIF(TAU, 3 * ONES, LEAK, ONES), leaky, True),
    "CubaLI": (lambda: nir.CubaLI(2 * TAU, TAU, 3 * ONES, LEAK, 2.0), synaptic, False),
    "CubaLIF": (lambda: nir.CubaLIF(2 * TAU, TAU, 3 * ONES, LEAK, ONES, w_in=2.0), synaptic, True),
}


@pytest.mark.parametrize("name", NEURONS)
def test_neurons_take_euler_steps(name):
    make, charge, resets = NEURONS[name]
    rest = LEAK if "L" in name else ZEROS
    wanted = euler(charge, {"v": np.zeros((2, 3)) + rest, "i": np.zeros((2, 3))}, resets)
    run = gs.from_nir(graph_of(make()), dt=1.0)
    np.testing.assert_allclose(jax.jit(run)(CURRENTS), wanted, atol=1e-5)
    gradient = jax.grad(lambda x: run(x).sum())(jnp.asarray(CURRENTS))
    assert (np.abs(gradient) > 0).all()
    assert np.isfinite(gradient).all()


def test_the_step_in_seconds_and_soft_reset():
    node = nir.IF(1e4 * ONES, ONES)
    run = gs.from_nir(graph_of(node), reset="subtract")  # of 1e-4 s
    spikes = run(np.full((4, 1, 3), 0.75, np.float32))
    assert spikes[:, 0, 0].tolist() == [0, 1, 1, 0]  # 0.75, 1.5, 1.25, 1.0
    assert gs.from_nir(graph_of(nir.IF(ONES, ONES))).reading.dt == 1


def test_layers_and_their_shapes():
    x = np.random.default_rng(2).normal(size=(1, 2, 2, 4, 6)).astype(np.float32)
    weight = np.arange(36, dtype=np.float32).reshape(4, 1, 3, 3) / 8
    nodes = {
        "in": nir.Input(np.array([2, 4, 6])),
        "conv": nir.Conv2d((4, 6), weight, (1, 2), (1, 1), (1, 1), 2, np.ones(4, np.float32)),
        "sum": nir.SumPool2d(np.array([2, 1]), np.array([2, 1]), np.array([0, 0])),
        "mean": nir.AvgPool2d(np.array([2, 3]), np.array([2, 3]), np.array([0, 0])),
        "flat": nir.Flatten({"input": np.array([4, 1, 1])}, 0, -1),
        "line": nir.Linear(np.eye(4, dtype=np.float32)[:3]),
        "out": nir.Output(np.array([3])),
    }
    names = list(nodes)
    graph = nir.NIRGraph(nodes, list(itertools.pairwise(names)), type_check=False)
    padded = np.pad(x[0], ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))[:, :, :, ::2]
    channels = [np.einsum("bhwij,ij->bhw", windows[:, out // 2], weight[out, 0]) + 1 for out in range(3)]
    wanted = np.stack(channels, 1).reshape(2, 3, 2, 2, 3).sum(3).mean((2, 3))
    np.testing.assert_allclose(gs.from_nir(graph)(x)[0], wanted, rtol=1e-4)


def test_delays_cycles_and_sub_graphs():
    inner = nir.NIRGraph(
        {"in": nir.Input(np.array([3])), "scale": nir.Scale(full(1, 2, 3)), "out": nir.Output(np.array([3]))},
        [("in", "scale"), ("scale", "out")],
    )
    nodes = {
        "in": nir.Input(np.array([3])),
        "late": nir.Delay(full(0, 1, 2)),
        "block": inner,
        "half": nir.Scale(ONES / 2),
        "out": nir.Output(np.array([3])),
    }
    edges = [("in", "late"), ("late", "block"), ("block", "out"), ("block", "half"), ("half", "block")]
    x = np.zeros((4, 1, 3), np.float32)
    x[0] = 1
    run = gs.from_nir(nir.NIRGraph(nodes, edges, type_check=False), dt=1.0)
    # y(t) = scale (x(t - delay) + y(t - 1) / 2)
    wanted = [[1, 0, 0], [0.5, 2, 0], [0.25, 2, 3], [0.125, 2, 4.5]]
    np.testing.assert_array_equal(run(x)[:, 0], wanted)
    assert set(run.variables) == {"block/scale", "half"}


def test_the_arrays_of_a_graph_are_variables():
    run = gs.from_nir(graph_of(nir.Affine(np.eye(3, dtype=np.float32), ONES), nir.IF(ONES, ONES)))
    variables = {**run.variables, "affine": {"weight": jnp.zeros((3, 3)), "bias": jnp.zeros(3)}}
    assert run(CURRENTS).any()
    assert not run(CURRENTS, variables).any()
    gradient = jax.grad(lambda variables: run(CURRENTS, variables).sum())(run.variables)
    assert np.abs(gradient["affine"]["weight"]).sum() > 0


# Files.


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "graph.nir"
    nir.write(path, graph_of(nir.Affine(np.eye(3, dtype=np.float32), ONES), nir.IF(ONES, ONES)))
    return path


def refusal(path):
    with pytest.raises(gs.InputError) as error:
        gs.from_nir(path)
    assert str(error.value).count("\n") == 0
    return str(error.value)


def test_files_that_are_no_graph(file, tmp_path):
    assert "no file" in refusal(tmp_path / "missing.nir")
    assert "directory" in refusal(tmp_path)
    content = file.read_bytes()
    for damaged in (b"", b"not HDF5", content[: len(content) // 2], content[:600] + bytes(400) + content[1000:]):
        file.write_bytes(damaged)
        refusal(file)
    with h5py.File(file, "w") as other:
        other["data"] = ZEROS
    assert "no NIR graph" in refusal(file)


def edited(file, edit):
    with h5py.File(file, "r+") as opened:
        edit(opened, opened["node/nodes"])
    return refusal(file)


def test_graphs_that_are_wrong(file):
    def replaced(nodes, name, value):
        del nodes[name]
        nodes[name] = value

    def types(opened, nodes):
        replaced(nodes, "if/type", "Soft\nmax")
        replaced(nodes, "affine/type", "ReLU")

    content = file.read_bytes()
    edits = {
        "ReLU": types,
        "link": lambda opened, nodes: nodes.__setitem__("x", h5py.ExternalLink("/etc/hosts", "/")),
        "link ": lambda opened, nodes: nodes.__setitem__("x", h5py.SoftLink("/node")),
        "bytes": lambda opened, nodes: nodes["affine"].create_dataset("huge", (2**40,), np.float32, chunks=(2**10,)),
        "cannot be read": lambda opened, nodes: nodes["if"].pop("v_threshold"),
        "edge": lambda opened, nodes: nodes.pop("affine"),
        "reaches": lambda opened, nodes: replaced(opened["node"], "edges", [["affine", "if"], ["if", "output"]]),
    }
    for words, edit in edits.items():
        file.write_bytes(content)
        assert words.strip() in edited(file, edit), words


def test_shapes_that_do_not_go_together(file, unchecked):
    with pytest.raises(gs.InputError, match=r"\[T, B, 3\]"):
        gs.from_nir(file)(jnp.zeros((4, 3)))
    wrong = graph_of(nir.Scale(ONES))
    wrong.nodes["scale"].scale = np.ones(4, np.float32)
    with pytest.raises(gs.InputError, match="go together"):
        gs.from_nir(wrong)(CURRENTS)
    for arguments in ({"dt": 0}, {"reset": "hard"}):
        with pytest.raises(gs.InputError):
            gs.from_nir(file, **arguments)


# Other simulators.


@pytest.fixture
def residual(tmp_path):
    """A network, its outputs over time and its files in both forms."""
    model, x = CASES["convolutional"]
    weights = variables(model, x)
    snn = gs.to_spiking(model.apply, gs.integrate_and_fire(), steps=STEPS)
    gs.to_nir(snn, weights, x, path=tmp_path / "portable.nir", initial="none")
    gs.to_nir(snn, weights, x, path=tmp_path / "exact.nir", form="exact")
    return tmp_path, np.array(x.transpose(0, 3, 1, 2)), np.asarray(snn(weights, x))


def over_time(torch, module, x):
    outputs, state = [], None
    with torch.no_grad():
        for _ in range(STEPS):
            output, state = module(torch.from_numpy(x), state)
            outputs.append(output.numpy().reshape(len(x), -1))
    return np.stack(outputs)


@pytest.mark.filterwarnings("ignore")
def test_spikingjelly_runs_the_portable_form(residual):
    torch = pytest.importorskip("torch")
    pytest.importorskip("spikingjelly", exc_type=ImportError)
    from spikingjelly.activation_based import neuron
    from spikingjelly.activation_based.nir_exchange.from_nir import import_from_nir

    path, x, wanted = residual
    module = import_from_nir(str(path / "portable.nir"), dt=1.0)
    as_imported = over_time(torch, module, x)
    assert as_imported.shape == wanted.shape
    for each in module.modules():
        if isinstance(each, neuron.IFNode):  # subtracts its threshold and starts from half of it
            each.v_reset, each.v = None, 0.5
    np.testing.assert_array_equal(over_time(torch, module, x), wanted)


@pytest.mark.filterwarnings("ignore")
def test_nirtorch_runs_the_exact_form(residual):
    torch = pytest.importorskip("torch")
    nirtorch = pytest.importorskip("nirtorch", exc_type=ImportError)

    def module_of(function):
        class Module(torch.nn.Module):
            def __init__(self, node):
                super().__init__()
                self.node = node

            def forward(self, x, state=None):
                return function(self.node, x, state)

        return Module

    def integrated(node, x, state):
        v = x if state is None else state + x
        return v, v

    class Integrator(module_of(integrated)):
        pass

    class Stateless(torch.nn.Module):
        def __init__(self, node):
            super().__init__()
            self.node = node

        def forward(self, x):
            if isinstance(self.node, nir.Threshold):
                return (x > torch.from_numpy(self.node.threshold)).float()
            return x * torch.from_numpy(self.node.scale)

    path, x, wanted = residual
    modules = {nir.I: Integrator, nir.Threshold: Stateless, nir.Scale: Stateless}
    module = nirtorch.nir_to_torch(nir.read(path / "exact.nir"), modules)
    np.testing.assert_array_equal(over_time(torch, module, x), wanted)


def test_a_file_that_is_there_is_replaced_only_on_demand(tmp_path):
    model, x = CASES["dense"]
    weights, path = variables(model, x), tmp_path / "network.nir"
    snn = gs.to_spiking(model.apply, gs.integrate_and_fire(), steps=STEPS)
    path.write_text("a user's own")
    with pytest.raises(gs.InputError, match=r"network\.nir exists; give another path, or overwrite=True"):
        gs.to_nir(snn, weights, x, path=path, initial="none")
    assert path.read_text() == "a user's own"
    gs.to_nir(snn, weights, x, path=path, initial="none", overwrite=True)
    np.testing.assert_array_equal(outputs_of(path, x), snn(weights, x))
