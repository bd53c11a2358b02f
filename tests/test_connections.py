"""Connections of neurons, against the Jacobian of each layer with respect to the spikes, one entry after the other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import gnsnn_jax as gs
from gnsnn_jax.analysis import fans
from gnsnn_jax.analysis.connections import connections_of

IF, GN = gs.integrate_and_fire(), gs.group_neuron(4)
STEPS = 2


class Network:
    """A random network on images [B, 4, 4, 2] with one or two populations, which says where each spike goes.

    `first` makes currents of images; `maps` lie between the spikes and the layers that read them, and two networks
    of the same seed are equal. A spike of the first population reaches the layer and, where there is a shortcut,
    the currents of the second population.
    """

    def __init__(self, seed, maps, layer, shortcut):
        self.random = np.random.default_rng(seed)
        self.maps = [MAPS[name](self) for name in maps]
        self.layer, self.shortcut = LAYERS[layer](self), shortcut
        self.kernel, self.head = self.weights(1, 1, 2, 3), {}

    def weights(self, *shape):
        """Positive, so that no two paths cancel; some are zero."""
        values = self.random.uniform(0.5, 1.5, shape) * (self.random.uniform(size=shape) < 0.8)
        values.flat[0] = 1
        return jnp.asarray(values, jnp.float32)

    def first(self, x):
        return convolved(x, self.kernel)

    def mapped(self, spikes):
        for each in self.maps:
            spikes = each(spikes)
        return spikes

    def behind(self, spikes):
        """The values that the weights make of the spikes, and those past all weights."""
        read = self.mapped(spikes)
        made = self.layer(read)
        past = read.sum((1, 2, 3)).reshape(-1, 1) + spikes[:, 0, 0, :1] if self.shortcut else None
        return made, past

    def __call__(self, x):
        spikes = gs.qcfs(self.first(x), 1.0, 4)
        self.first(spikes[..., :2])  # leads nowhere
        made, past = self.behind(spikes)
        made = made.reshape(len(x), -1)
        made = made if past is None else made + past
        second = gs.qcfs(made, 2.0, 4)
        head = jnp.ones((made.shape[1], 3)) if self.head is None else self.last(made.shape[1])
        return second @ head

    def last(self, features):
        if features not in self.head:
            self.head[features] = np.where(np.arange(features * 3).reshape(features, 3) % 4, 1.5, 0).astype("float32")
        return jnp.asarray(self.head[features])


def convolved(x, kernel, **options):
    options = {"window_strides": (1, 1), "padding": "SAME", **options}
    return jax.lax.conv_general_dilated(x, kernel, dimension_numbers=("NHWC", "HWIO", "NHWC"), **options)


def pooled(window, strides):
    sizes = lambda pair: (1, *pair, 1)
    return lambda s: jax.lax.reduce_window(s, 0.0, jax.lax.add, sizes(window), sizes(strides), "VALID") / 4.0


def patches(s):
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated_patches(s, (2, 2), (1, 1), "SAME", dimension_numbers=numbers)


def smoothed(s):
    """By a constant matrix that the network makes itself."""
    size = s.shape[1]
    near = jnp.abs(jnp.arange(size)[:, None] - jnp.arange(size)[None]) <= 1
    return jnp.einsum("bhwc,hk->bkwc", s, near.astype(s.dtype))


def resized(method):
    return lambda s: jax.image.resize(s, (len(s), 3, 5, s.shape[-1]), method)


MAPS = {
    "blocks": lambda net: pooled((2, 2), (2, 2)),
    "overlapping": lambda net: pooled((2, 2), (1, 1)),
    "patches": lambda net: patches,
    "bilinear": lambda net: resized("bilinear"),
    "nearest": lambda net: resized("nearest"),
    "smoothed": lambda net: smoothed,
    "transposed": lambda net: lambda s: s.transpose(0, 2, 1, 3),
    "twice": lambda net: lambda s: jnp.concatenate([s, s[:, ::-1]], -1),
    "residual": lambda net: lambda s: s + jnp.roll(s, 1, 1),
    "scaled": lambda net: lambda s: s * jnp.asarray([1.5, 0.0, 2.0])[jnp.arange(s.shape[-1]) % 3].reshape(1, 1, 1, -1),
    "shifted": lambda net: lambda s: s / 3.0 + 0.25,
}


def lazily(make):
    """A layer whose weights are drawn once its inputs are known."""

    def layer(net):
        weights = {}

        def apply(s):
            if s.shape[1:] not in weights:
                with jax.ensure_compile_time_eval():
                    weights[s.shape[1:]] = net.weights(*make(s))
            return weights[s.shape[1:]]

        return apply

    return layer


def with_weights(make, apply):
    def layer(net):
        weights = lazily(make)(net)
        return lambda s: apply(s, weights(s))

    return layer


LAYERS = {
    "dense": with_weights(lambda s: (s[0].size, 3), lambda s, w: s.reshape(len(s), -1) @ w),
    "conv": with_weights(lambda s: (3, 3, s.shape[-1], 2), convolved),
    "strided": with_weights(
        lambda s: (2, 2, s.shape[-1], 2), lambda s, w: convolved(s, w, window_strides=(2, 1), padding=((1, 0), (0, 1)))
    ),
    "dilated": with_weights(lambda s: (2, 2, s.shape[-1], 2), lambda s, w: convolved(s, w, rhs_dilation=(2, 1))),
    "grouped": with_weights(
        lambda s: (2, 2, 1, s.shape[-1]), lambda s, w: convolved(s, w, feature_group_count=s.shape[-1])
    ),
}
networks = st.builds(
    Network,
    st.integers(0, 2**31),
    st.lists(st.sampled_from(sorted(MAPS)), max_size=2, unique=True),
    st.sampled_from(sorted(LAYERS)),
    st.booleans(),
)


def fan_by_jacobian(behind, spikes):
    """How many of the values behind each spike of one sample change with it."""
    jacobian = np.asarray(jax.jit(jax.jacobian(behind))(spikes[None]))
    return np.count_nonzero(jacobian.reshape(-1, spikes.size), axis=0).reshape(spikes.shape)


def images(seed, samples=5):
    return jnp.asarray(np.random.default_rng(seed).uniform(-0.5, 1.5, (samples, 4, 4, 2)), jnp.float32)


def trains(ann, neuron, x):
    """Unit spikes of each population [T, B, ...]."""
    snn = gs.to_spiking(ann, neuron, steps=STEPS)
    found = jax.jit(snn.observed(lambda spikes, site: spikes))(x)[1]
    thresholds = (1.0, 2.0)
    return [
        np.rint(each * neuron.members / theta) for each, theta in zip(map(np.asarray, found), thresholds, strict=True)
    ]


def counted(ann, neuron, batches):
    return gs.operations(gs.observe(gs.to_spiking(ann, neuron, steps=STEPS), batches, compare=False), STEPS)


def fans_by_jacobian(network, x):
    """Of both populations."""
    spikes = jnp.zeros((4, 4, 3))
    made = fan_by_jacobian(lambda s: network.behind(s)[0], spikes)
    features = network.behind(spikes[None])[0].size
    if network.shortcut:  # to one value, which is added to every current
        made = made + fan_by_jacobian(lambda s: network.behind(s)[1] + jnp.zeros((1, features)), spikes)
    return made, np.count_nonzero(np.asarray(network.last(features)), axis=1)


@settings(max_examples=5, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(networks, st.integers(1, 3))
def test_connections_are_entries_of_the_jacobian_at_any_size_of_the_batch(network, samples):
    found = connections_of(gs.to_spiking(network, IF, steps=1), images(0, samples)).fans.values()
    for fan, wanted in zip(found, fans_by_jacobian(network, images(0)), strict=True):
        np.testing.assert_array_equal(fan.whole, wanted)


def test_accumulates_are_spikes_times_connections_for_any_batches():
    network, x, neuron = Network(3, ["overlapping"], "conv", True), images(1, 3), GN
    pairs = zip(trains(network, neuron, x), fans_by_jacobian(network, x), strict=True)
    wanted = sum(float((train * fan).sum()) for train, fan in pairs) / len(x)
    one = counted(network, neuron, [x])
    assert one.accumulates == pytest.approx(wanted, rel=1e-12)
    assert counted(network, neuron, [x[:2], x[2:]]) == one


def test_without_a_budget_paths_are_counted(monkeypatch):
    monkeypatch.setattr(fans, "BUDGET", 0)
    network = Network(0, ["overlapping"], "conv", False)
    first, _ = connections_of(gs.to_spiking(network, IF, steps=1), images(0, 1)).fans.values()
    wanted, _ = fans_by_jacobian(network, images(0))
    assert (first.whole >= wanted).all()
    assert first.whole.sum() > wanted.sum()


# What batches are.


def mlp(dtype="float32"):
    weights = [np.random.default_rng(i).normal(size=shape).astype(dtype) for i, shape in enumerate([(3, 5), (5, 1)])]

    def ann(x):
        spikes = gs.qcfs(x @ weights[0], jnp.ones((), dtype), 4)
        return gs.qcfs(spikes @ weights[1], jnp.ones((), dtype), 4)

    return ann


def test_layers_go_by_name_where_the_trace_depends_on_the_batch():
    def ann(x):
        if len(x) == 1:  # one sample is written in another way
            x = (jnp.squeeze(x, 0) * 1.0)[None]
        return gs.qcfs(x @ jnp.ones((3, 5)), 1.0, 4).mean(1, keepdims=True) @ jnp.ones((1, 2))

    weights = np.ones((5, 4), "float32")

    def changing(x):
        return gs.qcfs(x @ jnp.ones((3, 5)), 1.0, 4) @ weights[:, : 2 if len(x) == 1 else 4]

    x = jnp.asarray(np.random.default_rng(0).normal(size=(8, 3)), jnp.float32)
    observed = lambda ann, batches: gs.observe(gs.to_spiking(ann, IF, steps=2), batches)
    each = [observed(network, batches) for network in (ann, mlp()) for batches in ([x], [x[:7], x[7:]])]
    for one, other in (each[:2], each[2:]):
        assert gs.operations(one, 2) == gs.operations(other, 2)
        assert gs.neurobench(one, 2) == gs.neurobench(other, 2)
    with pytest.raises(gs.InputError, match=r"other layers for arguments of shapes .* give batches of one size"):
        observed(changing, [x[:7], x[7:]])


def test_unused_branches_are_not_counted():
    ann = mlp()

    def with_more(x):
        gs.qcfs(x @ jnp.ones((3, 7)), 1.0, 4) @ jnp.ones((7, 9))
        return ann(x)

    x = jnp.ones((2, 3))
    found, wanted = (connections_of(gs.to_spiking(each, IF, steps=1), x) for each in (with_more, ann))
    assert (found.dense, list(found.fans)) == (wanted.dense, list(wanted.fans))
    assert found.dense == 20


def test_the_batch_is_not_taken_for_another_axis_of_its_size():
    ann = lambda x: gs.qcfs(x.T, 1.0, 1).T @ jnp.ones((3, 2))
    with pytest.raises(gs.InputError, match="the first axis is the batch everywhere"):
        connections_of(gs.to_spiking(ann, IF, steps=2), jnp.ones((3, 3)))


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_any_type_of_numbers(dtype):
    with jax.enable_x64(dtype == "float64"):
        x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3))).astype(dtype)
        found = counted(mlp(jnp.dtype(dtype)), GN, [x])
    assert found.accumulates > 0


def test_jit_around_a_converted_network_changes_nothing():
    snn, x = gs.to_spiking(mlp(), IF, steps=1), jnp.ones((2, 3))
    assert connections_of(jax.jit(snn), x).dense == connections_of(snn, x).dense == 20


def test_what_is_no_array_in_a_batch_stays_what_it_is():
    eqx = pytest.importorskip("equinox")

    class Scaled(eqx.Module):
        x: jax.Array
        name: str = "scaled"
        function: object = jax.nn.relu

    ann = lambda batch: mlp()(batch.x)
    assert connections_of(gs.to_spiking(ann, IF, steps=1), Scaled(jnp.ones((2, 3)))).dense == 20
