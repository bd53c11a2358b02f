"""Spikes, connections and errors of converted networks, against loops that count one by one."""

import itertools
import warnings

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import TwoLayers, dyadic

import gnsnn_jax as gs
from gnsnn_jax.analysis.behaviour import OFFSETS
from gnsnn_jax.analysis.connections import connections_of
from gnsnn_jax.analysis.energy import MODELS, EnergyModel, of_float_ann, of_quantised_ann, of_spiking
from gnsnn_jax.analysis.exact import sums_on_device, whole
from gnsnn_jax.analysis.observation import observe, observe_present
from gnsnn_jax.analysis.operations import neurobench, operations
from gnsnn_jax.conversion.to_spiking import Observer

IF, GN = gs.integrate_and_fire(), gs.group_neuron(4)


def connections_one_by_one(shape, kernel, strides, padding, dilation=(1, 1)):
    """Of each input [H, W, C] of a convolution with kernel [h, w, C, K], every connection counted by itself."""
    (height, width, _), taps = shape, kernel.shape[:2]
    sizes = [
        (pixels + sum(pad) - dilated * (tap - 1) - 1) // stride + 1
        for pixels, pad, dilated, tap, stride in zip(shape, padding, dilation, taps, strides, strict=False)
    ]
    found = np.zeros(shape, int)
    for y, x, i, j in itertools.product(*map(range, (*sizes, *taps))):
        row, column = y * strides[0] - padding[0][0] + i * dilation[0], x * strides[1] - padding[1][0] + j * dilation[1]
        if 0 <= row < height and 0 <= column < width:
            found[row, column] += np.count_nonzero(kernel[i, j], axis=1)
    return found


@pytest.mark.parametrize(
    ("strides", "padding", "dilation"),
    [
        ((1, 1), ((1, 1), (1, 1)), (1, 1)),
        ((2, 2), ((1, 1), (1, 1)), (1, 1)),
        ((2, 1), ((0, 2), (1, 0)), (1, 1)),
        ((1, 3), ((0, 0), (2, 2)), (2, 1)),
    ],
)
def test_connections_of_a_convolution_one_by_one(strides, padding, dilation):
    kernel = dyadic(0, (3, 3, 2, 4)).at[1, 2, 0, 1].set(0)

    def ann(x):
        s = gs.qcfs(x, 1.0, 4)
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            s, kernel, strides, padding, rhs_dilation=dilation, dimension_numbers=numbers
        )

    found = connections_of(gs.to_spiking(ann, IF, steps=1), jnp.ones((3, 7, 6, 2)))
    wanted = connections_one_by_one((7, 6, 2), np.asarray(kernel), strides, padding, dilation)
    (fan,) = found.fans.values()
    np.testing.assert_array_equal(fan.whole, wanted)
    np.testing.assert_array_equal(fan.plain, wanted)
    assert (found.dense, found.once, found.each_step, found.shortcuts) == (wanted.sum(), 0, 0, 0)
    (layer,) = found.layers
    assert (layer.weights, layer.zeros) == (72, int(np.sum(np.asarray(kernel) == 0)))


def test_pooling_and_norms_are_part_of_the_weights_and_shortcuts_count():
    weights, scale = dyadic(1, (3, 5)) + 8, jnp.asarray([2.0, 0.5, 1.0])

    def ann(x):
        s = gs.qcfs(x, 1.0, 4)  # [B, 4, 3], pooled by pairs: a connection for each output
        y = s.reshape(-1, 2, 2, 3).mean(2) * scale.reshape(1, 1, 3) + 1.0
        return gs.qcfs(y @ weights, 1.0, 4).sum(-1) + s.sum(-1)[:, :2]  # past all weights: the first two rows

    fans = connections_of(gs.to_spiking(ann, IF, steps=1), jnp.ones((2, 4, 3))).fans
    first, second = fans.values()
    np.testing.assert_array_equal(first.whole, 5 + np.asarray([1, 1, 0, 0])[:, None] * np.ones((4, 3)))
    assert not first.plain.any()
    np.testing.assert_array_equal(second.whole, np.ones((2, 5)))


def test_layers_behind_other_weights_are_multiply_accumulates_at_each_step():
    first, second = dyadic(2, (3, 5)) + 8, dyadic(3, (5, 2)) + 8
    ann = lambda x: gs.qcfs(x, 1.0, 4) @ first @ second
    x = dyadic(4, (6, 3))
    behaviour = observe(gs.to_spiking(ann, GN, steps=3), [x])
    spikes, taken = spikes_of(ann, GN, None, 3, x)[0] * 4, operations(behaviour, 3)
    assert taken.accumulates == spikes.sum() * 5 / 6
    assert (taken.multiply_accumulates, taken.once) == (3 * 10, 0)
    # Both layers stand in one line, and the second sees sums that are not zero wherever there is a spike.
    first_layer, second_layer = (layer.name for layer in behaviour.connections.layers)
    assert second_layer == f"{first_layer}#2"
    events = (spikes > 0).sum() * 5 + (spikes.sum(2) > 0).sum() * 10
    assert neurobench(behaviour, 3).effective_macs == events / 6


def test_loops_are_refused_with_their_place():
    def ann(x):
        return jax.lax.scan(lambda s, w: (s @ w, None), gs.qcfs(x, 1.0, 4), jnp.ones((2, 3, 3)))[0]

    with pytest.raises(gs.InputError, match=r"test_behaviour.py:\d+: scan: connections inside of it cannot be counted"):
        observe(gs.to_spiking(ann, IF, steps=1), [jnp.ones((2, 3))])


# A network with everything in it.


class Strided(nn.Module):
    """A residual block of stride 2 with a projected shortcut, pooling and a head."""

    @nn.compact
    def __call__(self, x):
        conv = lambda *args, **options: nn.Conv(*args, padding=((1, 1), (1, 1)), **options)
        x = gs.qcfs(conv(3, (3, 3), name="conv1")(x), 1.5, 4)
        y = gs.qcfs(conv(4, (3, 3), strides=2, name="conv2")(x), 1.0, 4)
        x = nn.Conv(4, (1, 1), strides=2, use_bias=False, name="shortcut")(x)
        x = gs.qcfs(x + conv(4, (3, 3), name="conv3")(y), 2.0, 4)
        return nn.Dense(3, name="head")(x.mean((-3, -2)))


@pytest.fixture(scope="module")
def strided():
    model, images = Strided(), jax.random.normal(jax.random.key(1), (4, 6, 6, 2)) + 0.5
    return model, jax.jit(model.init)(jax.random.key(0), images), images


def spikes_of(ann, neuron, calibration, steps, *args):
    """The output of each population at each step, in units of the threshold."""
    whole = lambda spikes, site: (
        spikes / jnp.expand_dims(site.threshold, tuple(range(spikes.ndim - site.threshold.ndim)))
    )
    snn = gs.to_spiking(ann, neuron, steps=steps, calibration=calibration)
    return [np.asarray(train, float) for train in jax.jit(snn.observed(whole))(*args)[1]]


METHODS = {
    "if": (IF, None),
    "cos": (IF, gs.offset_spikes(5)),
    "gn+cos": (GN, gs.offset_spikes(2)),
}


@pytest.mark.parametrize("method", ["cos", "gn+cos"])
def test_operations_are_those_of_a_loop_over_spikes_and_connections(strided, method):
    model, variables, images = strided
    neuron, calibration = METHODS[method]
    snn = gs.to_spiking(model.apply, neuron, steps=7, calibration=calibration, chunk=3)
    behaviour = observe(snn, [images[:3], images[3:]], variables=variables, steps=[3, 7], compare=False)
    kernel = lambda name: np.asarray(variables["params"][name]["kernel"])
    ones, two = ((1, 1), (1, 1)), (2, 2)
    fans = [
        connections_one_by_one((6, 6, 3), kernel("conv2"), two, ones)
        + connections_one_by_one((6, 6, 3), kernel("shortcut"), two, ((0, 0), (0, 0))),
        connections_one_by_one((3, 3, 4), kernel("conv3"), (1, 1), ones),
        np.full((3, 3, 4), 3),
    ]
    once = connections_one_by_one((6, 6, 2), kernel("conv1"), (1, 1), ones).sum()
    probe = calibration.probe_steps if calibration else 0
    trains = [train * neuron.members for train in spikes_of(model.apply, neuron, calibration, 7, variables, images)]
    for steps in (3, 7):
        executed = [np.concatenate([train[:steps], train[:probe]]) for train in trains]
        taken = operations(behaviour, steps)
        assert taken.unit_spikes == pytest.approx(sum(train.sum() for train in executed) / 4)
        by_spikes = sum((train * fan).sum() for train, fan in zip(executed, fans, strict=True)) / 4
        assert taken.accumulates == pytest.approx(by_spikes, rel=1e-12)
        by_events = sum(((train > 0) * fan).sum() for train, fan in zip(executed, fans, strict=True)) / 4
        assert taken.event_operations == pytest.approx(by_events, rel=1e-12)
        assert taken.multiply_accumulates == taken.once == once
        assert taken.neuron_steps == (steps + probe) * sum(fan.size for fan in fans)
        found = neurobench(behaviour, steps)
        conv_events = sum(((train > 0) * fan).sum() for train, fan in zip(executed[:2], fans[:2], strict=True)) / 4
        pooled = (executed[2].sum((2, 3)) > 0).sum() * 3 / 4
        first = connections_one_by_one((6, 6, 2), kernel("conv1"), (1, 1), ones)
        of_image = (np.asarray(images) != 0).reshape(4, -1) @ first.reshape(-1) / 4
        macs = of_image.sum() + pooled
        wanted = (macs, conv_events) if neuron.members == 1 else (macs + conv_events, 0)
        assert (found.effective_macs, found.effective_acs) == pytest.approx(wanted, rel=1e-12)
        silent = 1 - sum((train > 0).sum() for train in executed) / sum(train.size for train in executed)
        assert found.activation_sparsity == pytest.approx(silent)


def test_operations_are_those_of_neurobench(strided):
    model, variables, images = strided
    torch = pytest.importorskip("torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("snntorch")
        pytest.importorskip("neurobench")
        from neurobench.metrics.static import ConnectionSparsity, Footprint
        from neurobench.metrics.workload import ActivationSparsity, SynapticOperations
        from neurobench.models import TorchModel

    class Given(torch.nn.Module):
        """Gives the spikes that it is told."""

        def forward(self, x):
            return x

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            conv = lambda name, **options: self.load(name, torch.nn.Conv2d(*self.sizes(name), **options))
            self.conv1, self.conv2 = conv("conv1", padding=1), conv("conv2", padding=1, stride=2)
            self.shortcut = conv("shortcut", stride=2, bias=False)
            self.conv3, self.head = conv("conv3", padding=1), self.load("head", torch.nn.Linear(4, 3))
            self.act1, self.act2, self.act3 = Given(), Given(), Given()

        def sizes(self, name):
            *taps, inputs, outputs = variables["params"][name]["kernel"].shape
            return inputs, outputs, tuple(taps)

        def load(self, name, layer):
            kernel = np.array(variables["params"][name]["kernel"])
            axes = (3, 2, 0, 1) if kernel.ndim == 4 else (1, 0)
            layer.weight.data = torch.tensor(kernel.transpose(axes))
            return layer

        def forward(self, images):
            self.conv1(images)
            for first, second, third in zip(*trains, strict=True):
                self.conv2(self.act1(first)), self.shortcut(first), self.conv3(self.act2(second))
                self.head(self.act3(third).mean((2, 3)))

    channels_first = lambda train: torch.tensor(np.moveaxis(np.rint(train * neuron.members), -1, -3).astype("float32"))
    for neuron in (IF, GN):
        trains = [channels_first(train) for train in spikes_of(model.apply, neuron, None, 4, variables, images)]
        data = torch.tensor(np.moveaxis(np.asarray(images), -1, 1))
        wrapped = TorchModel(Network())
        wrapped.add_activation_module(Given)
        wrapped.register_hooks()
        wrapped(data)
        wanted = SynapticOperations()(wrapped, None, (data, None))
        sparsity = ActivationSparsity()(wrapped, None, (data, None))
        found = neurobench(
            observe(gs.to_spiking(model.apply, neuron, steps=4), [images], variables=variables, compare=False), 4
        )
        assert found.effective_macs == pytest.approx(wanted["Effective_MACs"])
        assert found.effective_acs == pytest.approx(wanted["Effective_ACs"])
        assert found.dense == pytest.approx(wanted["Dense"])
        assert found.activation_sparsity == pytest.approx(sparsity)
        assert found.connection_sparsity == pytest.approx(ConnectionSparsity()(wrapped))
        assert found.footprint == Footprint()(wrapped)


# Sums.


def test_sums_are_exact_beyond_32_bits():
    random = np.random.default_rng(0)
    counts = random.integers(0, 65, (2, 3, 40, 50, 3)).astype(np.int32)
    varied = random.integers(0, 40_000, (40, 50, 1)) * np.ones((1, 1, 3), np.int64)
    present = np.asarray([True, False, True])
    weights = [np.full((40, 50, 3), 123_457), varied]
    found = jax.jit(lambda counts, present: sums_on_device(counts, weights, 64, present))(counts, present)
    for sums, each in zip(found, weights, strict=True):
        wanted = (counts[:, present].astype(np.int64) * each).sum((1, 2, 3, 4))
        assert wanted.min() > 2**32
        np.testing.assert_array_equal(whole(np.asarray(sums), each.size, 64), wanted)


def test_chunks_batches_and_padding_change_nothing():
    first, second, x = dyadic(5, (4, 8)), dyadic(6, (8, 5)), dyadic(7, (5, 4))
    ann = lambda x: gs.qcfs(gs.qcfs(x @ first, 2.0, 4) @ second, 2.0, 4) @ jnp.ones((5, 2))
    snn = lambda chunk: gs.to_spiking(ann, IF, steps=6, calibration=gs.offset_spikes(2), chunk=chunk)
    whole_batch = observe(snn(6), [x])
    in_chunks = observe(snn(1), [x[:1], x[1:]])
    padded = jnp.concatenate([x, 7 + x[:3]])
    with_padding = observe_present(snn(4), [((padded,), jnp.arange(8) < 5)])
    for other in (in_chunks, with_padding):
        assert (other.samples, other.steps) == (5, (1, 2, 4, 6))
        for wanted, found in zip(whole_batch.populations, other.populations, strict=True):
            for one, two in zip(wanted.spikes, found.spikes, strict=True):
                np.testing.assert_array_equal(one, two)
            np.testing.assert_allclose(wanted.sums, found.sums, rtol=1e-5, atol=1e-5)
    # Nothing is shown of samples that are none.
    drawn, shown = (each.populations[0].pairs[6][0] for each in (whole_batch, with_padding))
    assert (len(drawn), 0 < len(shown) < 64) == (40, True)


# Errors.


def test_errors_are_those_computed_by_hand():
    model, images = TwoLayers(), jax.random.normal(jax.random.key(2), (3, 6, 6, 2))
    variables = jax.jit(model.init)(jax.random.key(0), images)
    neuron, calibration = METHODS["gn+cos"]
    behaviour = observe(
        gs.to_spiking(model.apply, neuron, steps=6, calibration=calibration, chunk=2), [images], variables=variables
    )
    steps = 6
    units = [train * neuron.members for train in spikes_of(model.apply, neuron, calibration, steps, variables, images)]
    # The network itself is one step of group neurons of as many members as it has levels.
    anns = [train[0] for train in spikes_of(model.apply, gs.group_neuron(4), None, 1, variables, images)]
    look = lambda memory, operation, inputs, outputs: (memory, inputs[0] if operation.is_activation else None)
    snn = gs.to_spiking(model.apply, neuron, steps=steps, calibration=calibration)
    currents = jax.jit(snn.observed(Observer(lambda operation: None, look)))(variables, images)[1]
    for population, train, ann, arrived in zip(behaviour.populations, units, anns, currents, strict=True):
        for t in (1, 2, 6):
            count = np.rint(train[:t].sum(0))
            rate, most = count / (t * neuron.members), t * neuron.members
            assert population.squared_error(t) == pytest.approx(((rate - ann) ** 2).mean(), abs=1e-6)
            if rate.std() > 0:
                assert population.correlation(t) == pytest.approx(np.corrcoef(rate.flat, ann.flat)[0, 1], abs=1e-4)
            assert population.mean("silent", t) == pytest.approx((count == 0).mean())
            assert population.mean("saturated", t) == pytest.approx((count == most).mean())
            beyond = np.clip(count - np.floor(np.clip(ann * most, 0, most) + 0.5), -2, 2)
            unit = population.threshold / neuron.members
            own = np.clip(count - np.clip(np.floor(np.sum(arrived[:t], 0) / unit + 0.5), 0, most), -2, 2)
            by_own = [(own == by).mean() for by in range(-2, 3)]
            np.testing.assert_allclose(population.offsets(t, own=True), by_own, atol=1e-6)
            np.testing.assert_allclose(population.offsets(t), [(beyond == by).mean() for by in range(-2, 3)], atol=1e-6)
        assert population.mean("ann_silent", steps) == pytest.approx((ann == 0).mean())
        assert population.mean("ann_saturated", steps) == pytest.approx((ann == 1).mean())


def test_no_error_where_the_theorems_say_so():
    model, images = TwoLayers(), jax.random.normal(jax.random.key(3), (4, 6, 6, 2))
    variables = jax.jit(model.init)(jax.random.key(0), images)
    exact = [0, 0, 1, 0, 0]
    for neuron, calibration, steps in ((GN, None, 1), (IF, gs.offset_spikes(4, passes=4), 4)):
        snn = gs.to_spiking(model.apply, neuron, steps=steps, calibration=calibration)
        for population in observe(snn, [images], variables=variables).populations:
            assert population.squared_error(steps) == 0
            assert population.correlation(steps) == pytest.approx(1)
            assert population.offsets(steps) == population.offsets(steps, own=True) == exact


def test_calibration_removes_the_offsets_from_a_neurons_own_currents(strided):
    model, variables, images = strided
    exact = OFFSETS.index("0")
    own = lambda calibration: [
        population.offsets(4, own=True)[exact]
        for population in observe(
            gs.to_spiking(model.apply, IF, steps=4, calibration=calibration), [images], variables=variables
        ).populations
    ]
    before, after = own(None), own(gs.offset_spikes(4, passes=4))
    assert before[0] == 1  # constant currents
    assert before[1] < 1
    assert after == [1, 1, 1]


# Energy.


def test_energy_by_hand(strided):
    model, variables, images = strided
    snn = gs.to_spiking(model.apply, GN, steps=2, calibration=gs.offset_spikes(3))
    behaviour = observe(snn, [images], variables=variables, compare=False)
    taken, connections = operations(behaviour, 2), behaviour.connections
    plain = MODELS[0]
    others = connections.dense - connections.once
    assert of_float_ann(plain, behaviour) == pytest.approx(4.6 * connections.dense + 0.9 * connections.shortcuts)
    assert of_quantised_ann(plain, behaviour, 4) == pytest.approx(
        4.6 * connections.once + (0.9 + 3.7 * 3 / 24) * others + 0.9 * connections.shortcuts
    )
    assert of_spiking(plain, taken) == pytest.approx(4.6 * connections.once + 0.9 * taken.accumulates)
    memory = EnergyModel("mine", add=1.0, multiply=8.0, multiplier_bits=8, weight_bits=4, sum_bits=16, memory_bit=0.5)
    neurons = sum(population.neurons for population in behaviour.populations)
    assert of_spiking(memory, taken) == pytest.approx(
        connections.once * (1 + 8 + 0.5 * (4 + 8)) + taken.accumulates * (1 + 0.5 * (4 + 32)) + 5 * neurons * 16
    )


@pytest.mark.usefixtures("unchecked")
def test_bad_input_is_explained(strided):
    model, variables, images = strided
    snn = gs.to_spiking(model.apply, IF, steps=2)
    with pytest.raises(gs.InputError, match="at least one batch of data, got none"):
        observe(snn, [], variables=variables)
    with pytest.raises(gs.InputError, match="steps must be at least 1, got 0"):
        observe(snn, [images], variables=variables, steps=[0])
    with pytest.raises(gs.InputError, match="steps names 3 time-steps, but the inputs have 2"):
        observe(gs.to_spiking(lambda x: gs.qcfs(x, 1.0, 1), IF, steps=2, time_axes=0), [jnp.ones((2, 3))], steps=[3])
    with pytest.raises(gs.InputError, match="the first axis is the batch everywhere"):
        observe(gs.to_spiking(lambda x: gs.qcfs(x.T, 1.0, 1).T @ jnp.ones((3, 2)), IF, steps=2), [jnp.ones((5, 3))])
