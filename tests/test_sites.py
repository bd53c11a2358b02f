"""Which activations conversion finds, under which names, and what their thresholds make of them."""

import importlib.util
import inspect
import random
import re
import runpy
import sys

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import dyadic
from flax import nnx

import gnsnn_jax as gs
from gnsnn_jax.data.sets import Statistics
from gnsnn_jax.method.methods import parse_method
from gnsnn_jax.runs.converted import ConvertedNetwork
from gnsnn_jax.runtime.config import Model

WEIGHTS, X = dyadic(0, (3, 3)), dyadic(1, (4, 3))
THRESHOLD, MEMBERS = 2.0, 4


def names(ann, *args):
    return [site.name for site in gs.sites(ann, *args)]


def here():
    """The line that calls this, as errors name it."""
    return f"test_sites.py:{inspect.currentframe().f_back.f_lineno}"


def converted(ann, x=X, steps=3, **options):
    return gs.to_spiking(ann, gs.group_neuron(MEMBERS), steps=steps, **options)(x)


# Spellings.


@jax.custom_jvp
def relu_of_the_users_own(x):
    return jnp.clip(x, 0, np.inf)


relu_of_the_users_own.defjvp(lambda x, x_dot: (relu_of_the_users_own(*x), x_dot[0] * (x[0] > 0)))

RELUS = {
    "jax.nn.relu": jax.nn.relu,
    "linen": nn.relu,
    "nnx": nnx.relu,
    "equinox": eqx.nn.Lambda(jax.nn.relu),
    "maximum": lambda x: jnp.maximum(x, 0),
    "maximum from the left": lambda x: jnp.maximum(0.0, x),
    "maximum of zeros": lambda x: jnp.maximum(x, jnp.zeros_like(x)),
    "maximum of a row of zeros": lambda x: jnp.maximum(x, np.zeros((1, 3), np.float32)),
    "lax.max": lambda x: jax.lax.max(x, jnp.zeros(x.shape)),
    "clip from 0": lambda x: jnp.clip(x, min=0),
    "clip to infinity": lambda x: jnp.clip(x, 0, jnp.inf),
    "where": lambda x: jnp.where(x > 0, x, 0),
    "product with a mask": lambda x: x * (x > 0).astype(x.dtype),
    "with its own gradient": relu_of_the_users_own,
}
BOUND = jnp.full((1, 3), THRESHOLD)
CLIPS = {
    "relu6": lambda x: jax.nn.relu6(x * 3.0) / 3.0,
    "clip": lambda x: jnp.clip(x, 0, 2),
    "clip to arrays": lambda x: jnp.clip(x, jnp.float32(0), jnp.float32(2)),
    "clip to a row": lambda x: jnp.clip(x, 0, BOUND),
    "lax.clamp": lambda x: jax.lax.clamp(0.0, x, 2.0),
    "lax.clamp of arrays": lambda x: jax.lax.clamp(jnp.zeros(x.shape), x, jnp.full(x.shape, 2.0)),
    "minimum of maximum": lambda x: jnp.minimum(jnp.maximum(x, 0), 2.0),
    "maximum of minimum": lambda x: jnp.maximum(jnp.minimum(2.0, x), 0.0),
    "minimum of relu": lambda x: jnp.minimum(jax.nn.relu(x), 2.0),
    "where of where": lambda x: jnp.where(x > 2, 2, jnp.where(x < 0, 0, x)),
}
AROUND = {
    "jit": jax.jit,
    "checkpoint": jax.checkpoint,
    "vmap": jax.vmap,
    "jit of jit": lambda f: jax.jit(jax.jit(f)),
    "named scope": lambda f: jax.named_scope("block")(f),
}


def two_layers(activation):
    return lambda x: activation(activation(x @ WEIGHTS) @ WEIGHTS) @ WEIGHTS


@pytest.fixture(scope="module")
def expected():
    return converted(two_layers(lambda x: gs.qcfs(x, THRESHOLD, MEMBERS)))


@pytest.mark.parametrize("spelling", RELUS)
def test_each_relu_with_a_threshold_becomes_the_neurons_of_qcfs(spelling, expected):
    ann = two_layers(RELUS[spelling])
    found = gs.sites(ann, X)
    assert [(site.kind, site.shape, site.threshold) for site in found] == [("relu", (4, 3), None)] * 2
    thresholds = {site.name: THRESHOLD for site in found}
    np.testing.assert_allclose(converted(ann, thresholds=thresholds), expected, atol=1e-6)


@pytest.mark.parametrize("spelling", CLIPS)
def test_each_clip_becomes_the_neurons_of_qcfs_by_itself(spelling, expected):
    ann = two_layers(CLIPS[spelling])
    found = gs.sites(ann, X)
    assert [(site.kind, site.shape) for site in found] == [("clip", (4, 3))] * 2
    assert all((site.threshold == (6 if spelling == "relu6" else 2)).all() for site in found)
    np.testing.assert_allclose(converted(ann), expected, atol=1e-6)


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("spelling", ["jax.nn.relu", "maximum", "clip"])
def test_activations_are_found_inside_of_transformed_functions(spelling, around, expected):
    activation = (RELUS | CLIPS)[spelling]
    ann = two_layers(lambda x: AROUND[around](activation)(x))
    thresholds = dict.fromkeys(names(ann, X), THRESHOLD)
    np.testing.assert_allclose(converted(ann, thresholds=thresholds), expected, atol=1e-6)
    whole = AROUND[around](lambda x: two_layers(activation)(x))
    thresholds = dict.fromkeys(names(whole, X), THRESHOLD)
    np.testing.assert_allclose(converted(whole, thresholds=thresholds), expected, atol=1e-6)


def test_a_learned_bound_is_the_threshold():
    ann = lambda bound, x: jnp.clip(x @ WEIGHTS, 0, bound)
    snn = gs.to_spiking(ann, gs.group_neuron(MEMBERS), steps=1)
    bound = jnp.asarray([[0.5, 1.0, 2.0]])
    np.testing.assert_allclose(snn(bound, X)[0], gs.qcfs(X @ WEIGHTS, bound, MEMBERS), atol=1e-6)
    (site,) = gs.sites(ann, bound, X)
    np.testing.assert_array_equal(site.threshold, bound)


NO_ACTIVATIONS = {
    "pixels kept in range": lambda x: jnp.clip(x, 0, 1) @ WEIGHTS,
    "a layer norm of the inputs": lambda x: nn.LayerNorm(use_scale=False, use_bias=False).apply({}, x) @ WEIGHTS,
    "weights cut off": lambda x: x @ jnp.maximum(jax.nn.relu(WEIGHTS), 0),
    "random numbers": lambda x: x @ WEIGHTS + jax.random.uniform(jax.random.key(0), (4, 3)),
    "indices": lambda x: (x @ WEIGHTS)[jnp.clip(jnp.argmax(x @ WEIGHTS, -1), 0, 2)],
    "softplus": lambda x: jax.nn.softplus(x @ WEIGHTS),
    "a cut elsewhere": lambda x: jnp.maximum(x @ WEIGHTS, 0.5) + jnp.clip(x @ WEIGHTS, -1, 1),
}


@pytest.mark.filterwarnings("ignore:these operations are not linear")
@pytest.mark.parametrize("case", NO_ACTIVATIONS)
def test_what_only_looks_like_an_activation_is_none(case):
    function = NO_ACTIVATIONS[case]
    assert gs.sites(function, X) == []
    ann = lambda x: gs.qcfs(function(x), 1.0, MEMBERS)
    np.testing.assert_allclose(converted(ann)[0], ann(X), atol=1e-6)


# Names.


@pytest.mark.parametrize("model", ["resnet10", "vgg11"])
def test_names_are_the_module_paths_of_the_parameters(model):
    network, images = gs.build(model, num_classes=3, levels=4), jax.ShapeDtypeStruct((1, 32, 32, 1), jnp.float32)
    variables = jax.eval_shape(network.init, jax.random.key(0), images)
    paths = jax.tree_util.tree_leaves_with_path(variables["params"])
    keys = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in paths]
    found = gs.sites(network.apply, variables, images)
    assert sorted(site.name for site in found) == sorted(
        key[: -len("/threshold")] for key in keys if "threshold" in key
    )
    assert {(site.kind, site.threshold.shape) for site in found} <= {("qcfs", (1,) * n) for n in (2, 4)}


class Block(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.relu(nn.Dense(3, name="dense")(x))


class Twice(nn.Module):
    def setup(self):
        self.block, self.head = Block(), nn.Dense(2)

    def __call__(self, x):
        return self.head(nn.relu(self.block(self.block(x))))


@pytest.fixture(scope="module")
def twice():
    network = Twice()
    return network, network.init(jax.random.key(0), X)


def test_names_are_unique_where_a_module_is_called_twice(twice):
    network, variables = twice
    assert names(network.apply, variables, X) == ["block/relu", "block/relu#2", "relu"]


def test_names_are_the_same_in_every_trace(twice):
    network, variables = twice
    expected = names(network.apply, variables, X)
    assert names(network.apply, variables, X[:1]) == expected
    assert names(lambda x: network.apply(variables, x), X) == expected
    assert names(jax.jit(network.apply), variables, X) == expected
    assert names(nn.jit(Twice)().apply, variables, X) == expected
    assert names(nn.remat(Twice)().apply, variables, X) == expected
    assert names(jax.vmap(network.apply, (None, 0)), variables, X) == expected
    with jax.named_scope("around"):
        assert names(network.apply, variables, X) == expected
    seen = []
    snn = gs.to_spiking(network.apply, gs.group_neuron(2), steps=9, chunk=4, thresholds=dict.fromkeys(expected, 1.0))
    jax.jit(snn.observed(lambda spikes, site: seen.append(site) or spikes))(variables, X)
    assert [site.name for site in seen] == expected * 2  # the first step, and the loop over chunks behind it
    assert {site.shape for site in seen} == {(4, 3)}


WRITTEN = {
    "functions": """
import jax, jax.numpy as jnp
W = jnp.eye(3)


@jax.jit
def block(x):
    return jnp.maximum(x @ W, 0)


def network(x):
    x = jax.nn.relu(block(x) @ W)
    return sum([block(x + i) for i in range(2)]) @ W
""",
    "lambdas": """
import jax, jax.numpy as jnp
W = jnp.eye(3)
layer = lambda x: jax.nn.relu(x @ W)


def made(activation):
    return lambda x: activation(x @ W)


network = lambda x: made(jax.nn.relu6)(layer(layer(x)))
""",
    "nnx": """
import jax
from flax import nnx


class Block(nnx.Module):
    def __init__(self, rngs):
        self.layer = nnx.Linear(3, 3, rngs=rngs)

    def __call__(self, x):
        return nnx.relu(self.layer(x))


class Network(nnx.Module):
    def __init__(self, rngs):
        self.blocks = nnx.List([Block(rngs), Block(rngs)])

    def encode(self, x):
        return jax.nn.relu6(self.blocks[1](x))

    def __call__(self, x):
        return nnx.relu(self.encode(self.blocks[0](x)))


network = Network(nnx.Rngs(0))
""",
    "equinox": """
import equinox as eqx, jax
key = jax.random.key(0)
linear = eqx.nn.Linear(3, 3, key=key)


class Head(eqx.Module):
    linear: eqx.Module

    def __call__(self, x):
        return jax.nn.relu(self.linear(x))


class Network(eqx.Module):
    body: eqx.Module
    head: Head

    def __call__(self, x):
        return jax.nn.relu(self.head(self.body(x)))


network = jax.vmap(Network(eqx.nn.Sequential([linear, eqx.nn.Lambda(jax.nn.relu)]), Head(linear)))
""",
    "sequential": """
import equinox as eqx, jax
layers = [eqx.nn.Linear(3, 3, key=jax.random.key(0)), eqx.nn.Lambda(jax.nn.relu)]


network = jax.vmap(eqx.nn.Sequential(layers * 2))
""",
}
NAMES = {
    "functions": ["block/relu", "written/relu", "block/relu#2", "block/relu#3"],
    "lambdas": ["written/relu", "written/relu#2", "made/clip"],
    "nnx": ["Block/relu", "Network.encode/Block/relu", "Network.encode/clip", "written/relu"],
    "equinox": ["eqx.nn.Sequential/relu", "Head/relu", "written/relu"],
    "sequential": ["relu", "relu#2"],
}


def written(folder, source):
    path = folder / "written.py"
    path.write_text(source)
    return runpy.run_path(str(path))["network"]


def edited(source, random):
    """The same code between other lines: comments and empty lines anywhere, functions between those there are."""
    around = lambda line: "".join(random.choice(["", "", "# more\n", "\n"]) for _ in range(3)) + line
    parts = source.split("\n\n\n")
    parts = ["\n".join(map(around, part.split("\n"))) for part in parts]
    return "\n\n\n".join(part + random.choice(["", "\n\n\ndef unused():\n    pass"]) for part in parts)


@pytest.mark.parametrize("case", WRITTEN)
def test_names_stay_while_the_code_around_is_edited(case, tmp_path):
    assert names(written(tmp_path, WRITTEN[case]), X) == NAMES[case]
    for seed in range(4):
        changed = edited(WRITTEN[case], random.Random(seed))
        assert changed != WRITTEN[case]
        assert names(written(tmp_path, changed), X) == NAMES[case]


@pytest.mark.parametrize("case", WRITTEN)
def test_names_are_the_same_however_the_network_is_called(case, tmp_path):
    network = written(tmp_path, WRITTEN[case])
    calls = [jax.jit(network), jax.checkpoint(network), lambda x: network(2 * x), jax.vmap(lambda x: network(x[None]))]
    for call in calls:
        assert names(call, X) == NAMES[case]


@pytest.mark.parametrize("file", ["<stdin>", "<ipython-input-3-0a1b2c>", "/tmp/ipykernel_12/3456.py", "<string>"])
def test_code_without_a_lasting_file_is_not_named_after_it(file):
    code = {}
    exec(compile(WRITTEN["functions"], file, "exec"), code)
    assert names(code["network"], X) == ["block/relu", "relu", "block/relu#2", "block/relu#3"]
    assert f"{file}:8: relu: " in refused(lambda x: code["block"](gs.qcfs(x, 1.0, 4)), X)


def lines_of(source, *codes):
    return [f"written.py:{1 + source[: source.index(code)].count(chr(10))}" for code in codes]


FORMER_NAMES = {
    "functions": ("(x @ W, 0)", "jax.nn.relu(block", "(x @ W, 0)", "(x @ W, 0)"),
    "lambdas": ("layer = ", "layer = ", "return lambda"),
    "nnx": ("nnx.relu(self.layer", "nnx.relu(self.layer", "jax.nn.relu6", "nnx.relu(self.encode"),
}


@pytest.mark.parametrize("case", FORMER_NAMES)
def test_thresholds_stored_by_file_and_line_are_those_of_the_same_activations(case, tmp_path):
    source = WRITTEN[case]
    network, lines = written(tmp_path, source), lines_of(source, *FORMER_NAMES[case])
    numbers = [lines[: index + 1].count(line) for index, line in enumerate(lines)]
    former = [line if number == 1 else f"{line}#{number}" for line, number in zip(lines, numbers, strict=True)]
    values = dict(zip(former, 2.0 ** np.arange(len(former)), strict=True))
    present = dict(zip(names(network, X), values.values(), strict=True))
    found, expected = converted(network, thresholds=values), converted(network, thresholds=present)
    np.testing.assert_array_equal(found, expected)
    half = dict(list(values.items())[:1] + list(present.items())[1:])
    np.testing.assert_array_equal(converted(network, thresholds=half), expected)
    convert = lambda thresholds: gs.to_spiking(network, gs.group_neuron(2), steps=2, thresholds=thresholds)
    assert str(gs.verify(network, convert(values), [X])) == str(gs.verify(network, convert(present), [X]))
    with pytest.raises(gs.InputError, match=r"written\.py:999"):
        converted(network, thresholds=present | {"written.py:999": 1.0})


@jax.custom_vjp
def where_with_a_gradient_of_its_own(x):
    return jnp.where(x > 0, x, 0)


where_with_a_gradient_of_its_own.defvjp(lambda x: (where_with_a_gradient_of_its_own(x), None), lambda _, g: (g,))

# Earlier versions left these as they are in front of the first neurons.
RECOGNISED_LATER = {
    "where": RELUS["where"],
    "product with a mask": RELUS["product with a mask"],
    "where of where": CLIPS["where of where"],
    "minimum of where": lambda x: jnp.minimum(jnp.where(x > 0, x, 0), 2),
    "with a gradient of its own": where_with_a_gradient_of_its_own,
}


def layer(x, activation=jax.nn.relu):
    return activation(x @ WEIGHTS)


class Later(nn.Module):
    activation: callable

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(nn.relu(nn.Dense(3)(self.activation(nn.Dense(3)(x)))))


LATER = Later(jnp.tanh).init(jax.random.key(0), X)
# A network with an activation at a place, and which of its activations that is.
PLACES = {
    "in the same function": (lambda activation: lambda x: layer(layer(layer(x, activation))), 0),
    "in an outer function": (lambda activation: lambda x: layer(activation(layer(x))), 1),
    "in the same module": (lambda activation: Later(activation).bind(LATER), 0),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("spelling", RECOGNISED_LATER)
def test_what_is_recognised_since_takes_no_name_from_others(spelling, place):
    network, at = PLACES[place]
    of = lambda activation: [site.name for site in gs.sites(network(activation), X, encoders=None)]
    before, found = of(jnp.tanh), of(RECOGNISED_LATER[spelling])
    assert found.pop(at) not in before
    assert found == before


def test_what_is_recognised_since_takes_no_former_name_from_others():
    line, ann = here(), lambda x: jax.nn.relu(jnp.where((y := x @ WEIGHTS) > 0, y, 0) @ WEIGHTS)
    second = names(ann, X)[1]
    np.testing.assert_array_equal(converted(ann, thresholds={line: 2.0}), converted(ann, thresholds={second: 2.0}))


OWN_NETWORK = """
import jax, numpy as np

def apply(variables, images):
    return jax.nn.relu(images.reshape(len(images), -1) @ variables) @ variables

def make():
    return apply, np.eye(4, dtype=np.float32)
"""


def test_stored_networks_with_names_of_file_and_line_still_load(tmp_path, monkeypatch):
    (tmp_path / "network_stored_before.py").write_text(OWN_NETWORK)
    monkeypatch.syspath_prepend(tmp_path)
    stored = lambda name: ConvertedNetwork(
        Model("network_stored_before:make"),
        4,
        (2, 2, 1),
        Statistics((0.0,), (1 / 255,)),
        parse_method("gn", members=2, probe_steps=4),
        3,
        np.eye(4, dtype=np.float32),
        {name: np.asarray(0.5, np.float32)},
    )
    stored("network_stored_before.py:5").save(tmp_path / "stored")
    images = dyadic(3, (2, 2, 2, 1))
    found = gs.load_converted(tmp_path / "stored", trust=True)(images)
    np.testing.assert_array_equal(found, stored("network_stored_before/relu")(images))
    assert np.abs(found).sum() > 0


def test_networks_of_functions_alone_have_names_too():
    mlp = eqx.nn.MLP(3, 2, 4, 2, activation=jax.nn.relu, key=jax.random.key(0))
    assert names(jax.vmap(mlp), X) == ["relu", "relu#2"]
    sequential = nn.Sequential([nn.Dense(3), nn.relu, nn.Dense(3), nn.relu])
    assert names(sequential.apply, sequential.init(jax.random.key(0), X), X) == ["relu", "relu#2"]


# Thresholds.


def test_given_thresholds_come_before_an_activations_own():
    ann = lambda x: gs.qcfs(jnp.clip(gs.qcfs(x @ WEIGHTS, 1.0, 4) @ WEIGHTS, 0, 1) @ WEIGHTS, 1.0, 4)
    other = lambda x: gs.qcfs(gs.qcfs(gs.qcfs(x @ WEIGHTS, 1.0, 4) @ WEIGHTS, 2.0, 4) @ WEIGHTS, 0.5, 4)
    _, second, third = names(ann, X)
    found = converted(ann, thresholds={second: 2.0, third: np.float64(0.5)})
    np.testing.assert_allclose(found, converted(other), atol=1e-6)


@pytest.mark.parametrize("shape", [(3,), (1, 3), (5, 1, 1), (1, 5, 1, 1)])
def test_thresholds_may_differ_by_channel_first_or_last(shape):
    x = dyadic(2, (2, 5, 4, 3))
    weigh = lambda x: jnp.einsum("bhwc,cd->bhwd", x, WEIGHTS)
    threshold = jnp.asarray(np.arange(1, 1 + np.prod(shape)).reshape(shape) / 2, jnp.float32)
    ann = lambda x: jnp.maximum(weigh(x), 0)
    (name,) = names(ann, x)
    found = converted(ann, x, steps=1, thresholds={name: threshold})
    np.testing.assert_allclose(found[0], gs.qcfs(weigh(x), threshold, MEMBERS), atol=1e-6)


@pytest.mark.parametrize("spelling", RELUS)
def test_a_relu_before_the_first_threshold_stays_one(spelling):
    ann = lambda x: jax.nn.relu(RELUS[spelling](x @ WEIGHTS) @ WEIGHTS)
    second = names(ann, X)[1]
    found = converted(ann, steps=1, thresholds={second: 4.0})
    np.testing.assert_allclose(found[0], gs.qcfs(jax.nn.relu(X @ WEIGHTS) @ WEIGHTS, 4.0, MEMBERS), atol=1e-6)


def test_thresholds_may_be_traced_and_compile_once():
    ann = lambda x: jax.nn.relu(x @ WEIGHTS)
    traces = []

    @jax.jit
    def run(thresholds):
        traces.append(1)
        return gs.to_spiking(ann, gs.group_neuron(1), steps=2, thresholds=thresholds)(X).mean()

    (name,) = names(ann, X)
    run({name: 1.0}), run({name: 2.0})
    assert len(traces) == 1
    gradient = jax.grad(run)({name: 1.0})[name]
    saturated = gs.to_spiking(ann, gs.group_neuron(1), steps=2, thresholds={name: 1.0})(X) == 1
    assert 0 < gradient <= saturated.mean() + 1


def test_equal_thresholds_are_equal_settings():
    ann = lambda x: jax.nn.relu(x @ WEIGHTS)
    make = lambda value: gs.to_spiking(ann, gs.group_neuron(1), steps=2, thresholds={"a": value})
    assert make(1.0) == make(np.ones((), np.float64))
    assert hash(make(1.0)) == hash(make(jnp.ones(())))
    assert make(1.0) != make(2.0)
    assert make(1.0) != make(np.ones(3))


# What else the network may do.


class Everything(nn.Module):
    """Two inputs, two outputs, a shared layer, a residual sum, all kinds of convolutions, inference norms."""

    activation: callable

    @nn.compact
    def __call__(self, x, z):
        conv = lambda features, **options: nn.Conv(features, (3, 3), **options)
        norm = lambda: nn.BatchNorm(use_running_average=True)
        act = self.activation
        x = act(norm()(conv(4)(x)))
        y = act(norm()(conv(4, feature_group_count=2)(x)) + x)
        y = jnp.concatenate([y, act(conv(4, kernel_dilation=2)(x))], -1)
        y = nn.pooling.pool(act(conv(4, strides=2)(y)), 0.0, jax.lax.add, (2, 2), (2, 2), "VALID") / 4.0
        shared = nn.Dense(4)
        y = act(shared(act(shared(y.mean((-3, -2))))))
        z = act(nn.Dense(4)(z))
        return {"sum": nn.Dense(2)(y + z), "rectified": act(nn.Dense(3)(y))}


@pytest.mark.slow
def test_what_a_trained_network_may_hold():
    x, z = jax.random.normal(jax.random.key(1), (2, 8, 8, 2)), jax.random.normal(jax.random.key(2), (2, 5))
    network = Everything(nn.relu)
    variables = network.init(jax.random.key(0), x, z)
    thresholds = dict.fromkeys(names(network.apply, variables, x, z), 1.5)
    assert len(thresholds) == 8
    snn = jax.jit(gs.to_spiking(network.apply, gs.group_neuron(4), steps=1, thresholds=thresholds))
    expected = Everything(lambda x: gs.qcfs(x, 1.5, 4)).apply(variables, x, z)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[0], b, atol=1e-5), snn(variables, x, z), expected)


# Refusals.


def refused(ann, *args, **options):
    with pytest.raises(gs.InputError) as refusal:
        gs.to_spiking(ann, gs.integrate_and_fire(), steps=2, **options)(*args)
    return str(refusal.value)


def test_relus_without_thresholds_are_refused_all_at_once_with_the_remedy(twice):
    network, variables = twice
    message = refused(network.apply, variables, X)
    assert "'block/relu', 'block/relu#2', 'relu' have no threshold" in message
    assert "find_thresholds" in message


def test_what_else_is_in_the_way_is_said_before_thresholds_are_looked_for():
    ann = lambda x: jnp.arange(3.0)[jnp.argmax(jax.nn.relu(x @ WEIGHTS), -1)]
    message = refused(ann, X)
    assert "have no threshold" in message
    assert "but then spikes reach 2 operations" in message
    assert "argmax: it has no meaning" in message
    assert "gather: integers made of spikes" in message


@pytest.mark.parametrize("name", "gelu silu softplus leaky_relu elu hard_tanh mish softmax log_softmax".split())
def test_functions_of_jax_nn_run_on_means(name):
    function = getattr(jax.nn, name)
    snn = gs.to_spiking(lambda x: function(gs.qcfs(x, 1.0, 4)), gs.integrate_and_fire(), steps=4)
    outputs, (spikes,) = snn.observed(lambda spikes, site: spikes)(X)
    np.testing.assert_allclose(outputs.mean(0), function(spikes.mean(0)), rtol=1e-5, atol=1e-6)


places = []


def test_everything_in_the_way_is_refused_at_once():
    def ann(x):
        x = jax.nn.relu6(x @ WEIGHTS)
        places.append(here()), (x := jax.nn.relu(x @ WEIGHTS))
        places.append(here()), (x := jnp.tanh(x) @ WEIGHTS)
        places.append(here()), (x := jnp.maximum(x @ WEIGHTS, 0))
        places.append(here()), (x := jax.lax.while_loop(lambda x: x.sum() < 3, jax.nn.relu, x))
        places.append(here()), (x := jnp.argmax(x, -1))
        return x

    places.clear()
    message = refused(ann, X)
    assert "5 operations" in message
    for place, what in zip(places, ["relu", "encoder", "relu", "while", "argmax"], strict=True):
        assert f"{place}: {what}: " in message


ARGMAX = eqx.nn.Lambda(jnp.argmax)


def test_without_a_line_of_the_users_the_one_of_the_framework_is_named():
    qcfs = eqx.nn.Lambda(lambda x: gs.qcfs(x, 1.0, 4))
    message = refused(jax.vmap(eqx.nn.Sequential([qcfs, ARGMAX])), X)
    assert re.search(r"^  equinox/nn/_sequential.py:\d+ \(equinox.nn._sequential\): argmax: ", message, re.MULTILINE)


PACKAGED = """
import jax.numpy as jnp, gnsnn_jax as gs
from {framework} import {module}

def steep(x):
    return 2 * {call}(jnp.argmax, gs.qcfs(x, 1.0, 4))
"""
CALLS = {"flax": ("linen", "(lambda f, x: f(x))"), "equinox": ("filter_jit", "(lambda f, x: filter_jit(f)(x))")}


@pytest.mark.parametrize("framework", CALLS)
def test_installed_packages_are_not_the_users_code(framework, tmp_path, monkeypatch):
    folder = tmp_path / "site-packages" / f"packaged_{framework}"
    folder.mkdir(parents=True)
    module, call = CALLS[framework]
    (folder / "parts.py").write_text(PACKAGED.format(framework=framework, module=module, call=call))
    monkeypatch.syspath_prepend(folder.parent)
    steep = importlib.import_module(f"packaged_{framework}.parts").steep
    places.clear()
    message = refused(lambda x: (places.append(here()), steep(x))[1], X)
    assert f"{places[0]}: argmax: " in message
    message = refused(steep, X)
    assert f"packaged_{framework}/parts.py:6 (packaged_{framework}.parts): argmax: " in message
    assert "jax/" not in message


def test_a_framework_in_any_folder_is_not_the_users_code(tmp_path, monkeypatch):
    """As where packages are installed into a folder of the user's choice."""
    file = tmp_path / "keras" / "__init__.py"
    file.parent.mkdir()
    file.write_text("import jax.numpy as jnp\n\n\ndef largest(x):\n    return jnp.argmax(x)\n")
    spec = importlib.util.spec_from_file_location("keras", file)
    framework = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "keras", framework)
    spec.loader.exec_module(framework)
    places.clear()
    message = refused(lambda x: (places.append(here()), framework.largest(gs.qcfs(x, 1.0, 4)))[1], X)
    assert f"{places[0]}: argmax: " in message
    message = refused(lambda x: framework.largest(gs.qcfs(x, 1.0, 4)), X)
    assert "test_sites.py:" in message


def test_relus_in_while_loops_are_refused_even_where_no_spikes_arrive():
    loop = lambda x: jax.lax.while_loop(lambda x: x.sum() < 3, lambda x: jnp.maximum(x @ WEIGHTS, 0) + 1, x)
    message = refused(lambda x: gs.qcfs(loop(x), 1.0, 4), X)
    assert "while: an activation inside" in message


@pytest.mark.usefixtures("unchecked")
def test_thresholds_that_fit_nothing_are_refused():
    ann = lambda x: jax.nn.relu(x @ WEIGHTS)
    (name,) = names(ann, X)
    assert f"did you mean {name!r}" in refused(ann, X, thresholds={name[:-1] + "0": 1.0})
    assert f"the threshold of {name!r} of shape (2,)" in refused(ann, X, thresholds={name: np.ones(2)})
    for bad in (0.0, -1.0, np.nan, np.inf):
        assert f"the threshold of {name!r} must be positive and finite" in refused(ann, X, thresholds={name: bad})
    with pytest.raises(TypeError, match="thresholds must be a mapping"):
        gs.to_spiking(ann, gs.integrate_and_fire(), steps=2, thresholds=1.0)
