import os
import subprocess
import sys
from functools import partial

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import TwoLayers, dyadic
from flax import nnx

import gnsnn_jax as gs
from gnsnn_jax.data.sets import Statistics
from gnsnn_jax.method.methods import parse_method
from gnsnn_jax.runs.converted import ConvertedNetwork, load_converted
from gnsnn_jax.runtime.config import Model

METHODS = {
    "if": (gs.integrate_and_fire(), None),
    "gn": (gs.group_neuron(4), None),
    "cos": (gs.integrate_and_fire(), gs.offset_spikes(4)),
    "gn+cos": (gs.group_neuron(4), gs.offset_spikes(3, passes=2)),
}
# Programs of two passes compile longest.
LONGEST_LAST = ["if", "gn", "cos", pytest.param("gn+cos", marks=pytest.mark.slow)]


@pytest.fixture(scope="module")
def network():
    model, images = TwoLayers(), jax.random.normal(jax.random.key(1), (2, 6, 6, 2))
    return model, jax.jit(model.init)(jax.random.key(0), images), images


@partial(jax.jit, static_argnums=(2, 3, 4))
def simulate_by_hand(variables, images, neuron, calibration, steps):
    """The network of `cases` written out layer by layer with `run`."""
    params, stats = variables["params"], variables["batch_stats"]
    convolve = lambda x, kernel: jax.lax.conv_general_dilated(
        x, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    over_time = jax.vmap(convolve, (0, None))
    wide = lambda x, ndim: x.reshape((1,) * (ndim - x.ndim) + x.shape)
    length = max(steps, calibration.probe_steps if calibration else 0)

    def fire(currents, threshold):
        initial = calibration and calibration.initial(neuron, currents[: calibration.probe_steps], threshold)
        return gs.run(neuron, currents, threshold, initial)[0]

    x = convolve(images, params["Conv_0"]["kernel"]) + wide(params["Conv_0"]["bias"], 4)
    x = fire(jnp.broadcast_to(x, (length, *x.shape)), params["threshold0"])
    y = over_time(x, params["Conv_1"]["kernel"])
    norm, stat = params["BatchNorm_0"], stats["BatchNorm_0"]
    y = (y - wide(stat["mean"], 5)) * wide(norm["scale"] / jnp.sqrt(stat["var"] + 1e-5), 5) + wide(norm["bias"], 5)
    y = fire(y, params["threshold1"])
    x = fire(x + y, params["threshold2"])
    return (x.mean((-3, -2)) @ params["Dense_0"]["kernel"] + wide(params["Dense_0"]["bias"], 3))[:steps]


@pytest.mark.parametrize("steps", [1, 7])
@pytest.mark.parametrize("method", METHODS)
def test_conversion_is_the_simulation_written_by_hand(network, method, steps):
    model, variables, images = network
    neuron, calibration = METHODS[method]
    snn = jax.jit(gs.to_spiking(model.apply, neuron, steps=steps, calibration=calibration))
    expected = simulate_by_hand(variables, images, neuron, calibration, steps)
    np.testing.assert_allclose(snn(variables, images), expected, atol=1e-5)


@pytest.mark.parametrize("method", LONGEST_LAST)
def test_every_chunk_gives_the_same(network, method):
    model, variables, images = network
    neuron, calibration = METHODS[method]
    simulate = lambda chunk: jax.jit(
        gs.to_spiking(model.apply, neuron, steps=10, calibration=calibration, chunk=chunk)
    )(variables, images)
    whole = simulate(10)
    for chunk in (1, 3, 99):
        np.testing.assert_allclose(simulate(chunk), whole, atol=1e-6)


def test_group_neurons_of_l_members_are_the_network_after_one_step(network):
    model, variables, images = network
    snn = gs.to_spiking(model.apply, gs.group_neuron(4), steps=1)
    np.testing.assert_allclose(snn(variables, images)[0], model.apply(variables, images), atol=1e-6)


def test_cos_repeated_until_nothing_changes_is_the_network(network):
    model, variables, images = network
    snn = gs.to_spiking(model.apply, gs.integrate_and_fire(), steps=4, calibration=gs.offset_spikes(4, passes=4))
    np.testing.assert_allclose(snn(variables, images).mean(0), model.apply(variables, images), atol=1e-5)


def test_fewer_steps_than_the_probe_are_the_first_of_more(network):
    model, variables, images = network
    simulate = lambda steps: gs.to_spiking(
        model.apply, gs.integrate_and_fire(), steps=steps, calibration=gs.offset_spikes(4)
    )(variables, images)
    np.testing.assert_allclose(simulate(2), simulate(6)[:2], atol=1e-6)


# One network in three frameworks.


class NnxNetwork(nnx.Module):
    def __init__(self, rngs):
        self.first, self.second = nnx.Linear(5, 7, rngs=rngs), nnx.Linear(7, 3, rngs=rngs)
        self.threshold = nnx.Param(jnp.float32(1.5))

    def __call__(self, x):
        return self.second(gs.qcfs(self.first(x), self.threshold[...], 4))


class EquinoxNetwork(eqx.Module):
    first: eqx.nn.Linear
    second: eqx.nn.Linear
    threshold: jax.Array

    def __call__(self, x):
        return self.second(gs.qcfs(self.first(x), self.threshold, 4))


class LinenNetwork(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = gs.qcfs(nn.Dense(7)(x), self.param("threshold", nn.initializers.constant(1.5), ()), 4)
        return nn.Dense(3)(x)


@pytest.fixture(scope="module")
def frameworks():
    """Functions of x alone with equal weights."""
    linen, x = LinenNetwork(), dyadic(0, (6, 5))
    params = linen.init(jax.random.key(0), x)["params"]
    in_nnx = NnxNetwork(nnx.Rngs(0))
    for layer, name in ((in_nnx.first, "Dense_0"), (in_nnx.second, "Dense_1")):
        layer.kernel[...], layer.bias[...] = params[name]["kernel"], params[name]["bias"]
    linear = lambda name: eqx.tree_at(
        lambda layer: (layer.weight, layer.bias),
        eqx.nn.Linear(*params[name]["kernel"].shape, key=jax.random.key(0)),
        (params[name]["kernel"].T, params[name]["bias"]),
    )
    in_equinox = EquinoxNetwork(linear("Dense_0"), linear("Dense_1"), params["threshold"])
    return x, {
        "linen": lambda x: linen.apply({"params": params}, x),
        "nnx": in_nnx,
        "equinox": jax.vmap(in_equinox),
        "equinox, single": in_equinox,
    }


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_linen_nnx_and_equinox_convert_alike(frameworks, method):
    x, networks = frameworks
    neuron, calibration = METHODS[method]
    convert = lambda ann: gs.to_spiking(ann, neuron, steps=5, calibration=calibration)
    expected = jax.jit(convert(networks["linen"]))(x)
    for name in ("nnx", "equinox"):
        np.testing.assert_allclose(jax.jit(convert(networks[name]))(x), expected, atol=1e-5)
    one_by_one = jax.vmap(convert(networks["equinox, single"]), out_axes=1)(x)
    np.testing.assert_allclose(one_by_one, expected, atol=1e-5)


# Transformations.


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_jit_and_vmap_change_nothing(network, method):
    model, variables, images = network
    neuron, calibration = METHODS[method]
    snn = gs.to_spiking(model.apply, neuron, steps=3, calibration=calibration)
    plain = snn(variables, images)
    np.testing.assert_allclose(jax.jit(snn)(variables, images), plain, atol=1e-6)
    mapped = jax.vmap(snn, (None, 0))(variables, images[:, None])
    np.testing.assert_allclose(mapped[:, :, 0].swapaxes(0, 1), plain, atol=1e-6)


def test_gradient_after_one_step_is_that_of_the_network(network):
    model, variables, images = network
    snn = gs.to_spiking(model.apply, gs.group_neuron(4), steps=1)
    weigh = lambda outputs: (outputs * jnp.arange(1.0, 4).reshape(1, 3)).sum()
    of_snn = jax.jit(jax.grad(lambda v: weigh(snn(v, images)[0])))(variables)
    of_ann = jax.grad(lambda v: weigh(model.apply(v, images)))(variables)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4, rtol=1e-4), of_snn, of_ann)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_step_along_the_gradient_lowers_the_loss(network, method):
    model, variables, images = network
    neuron, calibration = METHODS[method]
    snn = gs.to_spiking(model.apply, neuron, steps=4, calibration=calibration, chunk=2)
    loss = jax.jit(lambda v: ((snn(v, images).mean(0) - 1.0) ** 2).sum())
    gradient = jax.grad(loss)(variables)
    moved = jax.tree.map(lambda v, g: v - 0.02 * g, variables, gradient)
    assert loss(moved) < loss(variables)


@pytest.mark.parametrize("method", LONGEST_LAST)
def test_lowers_for_every_platform(network, method):
    model, variables, images = network
    neuron, calibration = METHODS[method]
    snn = gs.to_spiking(model.apply, neuron, steps=9, calibration=calibration)
    exported = jax.export.export(jax.jit(snn), platforms=("cpu", "cuda", "tpu"))(variables, images)
    np.testing.assert_allclose(exported.call(variables, images), jax.jit(snn)(variables, images), atol=1e-6)


def test_equal_settings_compile_once(network):
    model, variables, images = network
    traces = []

    def ann(variables, images):
        traces.append(1)
        return model.apply(variables, images)

    apply = jax.jit(lambda snn, *args: snn(*args), static_argnums=0)
    for _ in range(2):
        apply(gs.to_spiking(ann, gs.group_neuron(3), steps=2), variables, images)
    assert len(traces) == 1


def test_arguments_that_are_no_arrays_reach_the_network_as_they_are(network):
    model, variables, images = network
    snn = gs.to_spiking(model.apply, gs.group_neuron(4), steps=1)
    np.testing.assert_array_equal(snn(variables, images, train=False), snn(variables, images))


def test_calls_are_entered_and_loops_without_activations_applied():
    weights = dyadic(1, (3, 4, 4))

    def ann(x):
        x = jax.checkpoint(lambda x: gs.qcfs(x, 1.0, 4))(x)
        x, _ = jax.lax.scan(lambda x, w: (x @ w, None), x, weights)
        x = jax.lax.cond(x.shape[0] > 1, lambda x: 2 * x, lambda x: x, x)
        return jax.jit(lambda x: jnp.where(jnp.arange(4).reshape(1, 4) > 1, gs.qcfs(x, 0.5, 4), x))(x)

    x = dyadic(2, (3, 4))
    np.testing.assert_allclose(gs.to_spiking(ann, gs.group_neuron(4), steps=1)(x)[0], ann(x), atol=1e-6)


def test_linear_operations_pass():
    def ann(x):
        s = gs.qcfs(x, 1.0, 4)
        s = jnp.concatenate([s, jnp.pad(s, ((0, 0), (1, 1)))[:, 1:-1]], -1).reshape(2, 2, 2, 2)
        s = jax.lax.reduce_window(s, 0.0, jax.lax.add, (1, 2, 2, 1), (1, 1, 1, 1), "SAME")
        s = s.transpose(0, 2, 1, 3)[:, ::-1, :, ::-1]
        s = s[:, 0].at[:, 1].add(1.0) - jnp.roll(s[:, 1], 1, 0)
        s = jax.lax.dynamic_slice(s, (0, 0, 0), (2, 1, 2)) / 3.0
        return {"sum": s.sum(), "cumulative": jnp.cumsum(-s, 0), "fixed": jnp.tanh(x)}

    x = dyadic(3, (2, 4))
    outputs = gs.to_spiking(ann, gs.group_neuron(4), steps=3)(x)
    assert jax.tree.map(jnp.shape, outputs) == jax.tree.map(lambda y: (3, *y.shape), ann(x))
    jax.tree.map(lambda y, z: np.testing.assert_allclose(y[0], z, atol=1e-6), outputs, ann(x))


# Inputs with time.


def test_inputs_over_time_reach_the_neurons_step_by_step():
    ann = lambda weights, x: gs.qcfs(x @ weights, 1.0, 1)
    weights, x = dyadic(4, (3, 2)), dyadic(5, (6, 4, 3))
    expected, _ = gs.run(gs.integrate_and_fire(), jax.vmap(jnp.matmul, (0, None))(x, weights), 1.0)
    for chunk in (1, 4, 6):
        convert = lambda axes, chunk=chunk: gs.to_spiking(
            ann, gs.integrate_and_fire(), steps=6, time_axes=axes, chunk=chunk
        )
        np.testing.assert_allclose(convert((None, 0))(weights, x), expected, atol=1e-6)
        np.testing.assert_allclose(convert((None, 1))(weights, x.swapaxes(0, 1)), expected, atol=1e-6)


def test_inputs_over_time_in_trees():
    ann = lambda tree: gs.qcfs(tree["train"] + tree["bias"], 1.0, 1)
    tree = {"train": dyadic(6, (5, 3)), "bias": dyadic(7, (3,))}
    snn = gs.to_spiking(ann, gs.integrate_and_fire(), steps=5, time_axes=({"train": 0, "bias": None},))
    expected, _ = gs.run(gs.integrate_and_fire(), tree["train"] + tree["bias"].reshape(1, 3), 1.0)
    np.testing.assert_array_equal(jax.jit(snn)(tree), expected)


def test_inputs_over_time_under_cos_have_as_many_steps_as_are_computed():
    snn = gs.to_spiking(
        lambda x: gs.qcfs(x, 1.0, 1),
        gs.integrate_and_fire(),
        steps=2,
        calibration=gs.offset_spikes(4),
        time_axes=0,
    )
    assert snn(dyadic(8, (4, 3))).shape == (2, 3)
    with pytest.raises(gs.InputError, match="has 2 time-steps on axis 0, but 4 are wanted"):
        snn(dyadic(8, (2, 3)))


# Refusals.


def here():
    """The line that calls this, as errors name it."""
    import inspect

    return f"test_conversion.py:{inspect.currentframe().f_back.f_lineno}"


def refused(ann, *args):
    with pytest.raises(gs.InputError) as refusal:
        gs.to_spiking(ann, gs.integrate_and_fire(), steps=2)(*args)
    return str(refusal.value)


X = dyadic(9, (2, 4, 4, 1))
OPERATIONS = {
    "argmax": lambda s: jnp.argmax(s, -1),
    "top_k": lambda s: jax.lax.top_k(s, 1)[0],
    "gather": lambda s: jnp.arange(9.0)[jnp.round(s).astype(jnp.int32)],
    "dynamic_slice": lambda s: jax.lax.dynamic_slice(jnp.arange(9.0), (s.sum().astype(jnp.int32),), (2,)),
    "convert_element_type": lambda s: s.astype(jnp.int32),
    "gt": lambda s: s > 0.5,
    "while": lambda s: jax.lax.while_loop(lambda s: s.sum() < 9, lambda s: s + 1, s),
    "cond": lambda s: jax.lax.cond(s.sum() > 0, lambda s: s, lambda s: -s, s),
    "pure_callback": lambda s: jax.pure_callback(np.asarray, s, s),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_what_has_no_mean_is_refused_by_name_and_place(name):
    message = refused(lambda x: OPERATIONS[name](gs.qcfs(x, 1.0, 4)), X)
    assert f": {name}: " in message
    assert "test_conversion.py:" in message


def test_all_refusals_come_at_once_with_their_lines():
    def ann(x):
        s = gs.qcfs(x, 1.0, 4)
        places.append(here()), (a := jnp.argmax(s, -1))
        places.append(here()), (b := jax.lax.top_k(s, 1)[0])
        return a, b

    places = []
    message = refused(ann, X)
    assert "2 operations" in message
    assert all(place in message for place in places)


def test_operations_in_a_library_are_placed_where_the_user_calls_it():
    class Pooled(nn.Module):
        @nn.compact
        def __call__(self, x):
            places.append(here()), (x := jnp.argmax(nn.max_pool(gs.qcfs(x, 1.0, 4), (2, 2)), -1))
            return x

    places = []
    message = refused(lambda x: Pooled().apply({}, x), X)
    assert places[0] in message


@pytest.mark.parametrize("name", ["argmax", "stack of argsort"])
def test_operations_that_jax_traces_by_itself_are_placed_where_the_user_calls_them(name):
    # The body of a function that JAX itself jits has no line of the user's.
    functions = {
        "argmax": lambda s: (places.append(here()), jnp.nanargmax(s, -1))[1],
        "stack of argsort": lambda s: (places.append(here()), jnp.stack([jnp.argsort(s)]))[1],
    }
    places = []
    message = refused(lambda x: functions[name](gs.qcfs(x, 1.0, 4)), X)
    assert places[0] in message


def test_activations_under_shard_map_are_refused_with_the_remedy():
    mesh = jax.make_mesh((1,), ("b",), axis_types=(jax.sharding.AxisType.Auto,))
    mapped = jax.shard_map(lambda x: gs.qcfs(x, 1.0, 4), mesh=mesh, in_specs=jax.P(), out_specs=jax.P())
    assert "an activation inside" in refused(mapped, X)


@pytest.mark.slow
def test_sharded_inputs_give_what_whole_ones_give():
    """Under explicit sharding and inside shard_map, on four simulated devices."""
    code = """
import jax, jax.numpy as jnp, numpy as np, gnsnn_jax as gs
from jax.sharding import AxisType
mesh = lambda kind: jax.make_mesh((4,), ("b",), axis_types=(kind,))
ann = lambda x: gs.qcfs(gs.qcfs(x, 1.0, 4) @ jnp.full((4, 4), 0.3), 1.0, 4)
whole = jnp.linspace(0, 1, 32).reshape(8, 4)
for calibration in (None, gs.offset_spikes(3), gs.offset_spikes(3, 2)):
    for chunk in (2, 8):
        snn = gs.to_spiking(ann, gs.group_neuron(2), steps=6, calibration=calibration, chunk=chunk)
        with jax.set_mesh(mesh(AxisType.Explicit)):
            found = snn(jax.device_put(whole, jax.P("b")))
        np.testing.assert_allclose(found, snn(whole), atol=1e-6)
        mapped = jax.shard_map(snn, mesh=mesh(AxisType.Auto), in_specs=jax.P("b"), out_specs=jax.P(None, "b"))
        np.testing.assert_allclose(jax.jit(mapped)(whole), snn(whole), atol=1e-6)
"""
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | flags, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_gradients_of_the_users_own_are_kept():
    @jax.custom_vjp
    def double(x):
        return 2 * x

    double.defvjp(lambda x: (2 * x, None), lambda _, g: (7 * g,))
    ann = lambda x: double(gs.qcfs(x, 1.0, 4))
    snn = gs.to_spiking(ann, gs.group_neuron(4), steps=1)
    assert jax.grad(lambda x: snn(x)[0])(0.2) == jax.grad(ann)(0.2) == 7


def test_empty_batches_give_empty_outputs():
    snn = gs.to_spiking(lambda x: gs.qcfs(x, 1.0, 4), gs.group_neuron(4), steps=5, chunk=2)
    assert snn(jnp.zeros((0, 4))).shape == (5, 0, 4)


def test_activations_in_while_loops_are_refused():
    loop = lambda x: jax.lax.while_loop(lambda x: x.sum() < 3, lambda x: gs.qcfs(x, 1.0, 4) + 1, x)
    assert "an activation inside" in refused(lambda x: loop(gs.qcfs(x, 1.0, 4)), X)


def test_thresholds_that_depend_on_spikes_are_refused():
    message = refused(lambda x: gs.qcfs(x, gs.qcfs(x, 1.0, 4).sum(), 4), X)
    assert "threshold depends on spikes" in message


def test_networks_without_activations_are_refused():
    assert "found no activation" in refused(lambda x: jnp.maximum(x, 0), X)


@pytest.mark.usefixtures("unchecked")
def test_bad_input_is_explained(network):
    model, variables, images = network
    convert = lambda **options: gs.to_spiking(model.apply, gs.integrate_and_fire(), **options)
    with pytest.raises(gs.InputError, match="steps must be at least 1, got 0"):
        convert(steps=0)
    with pytest.raises(gs.InputError, match=r"an argument of shape \(2, 6, 6, 2\) holds NaN"):
        convert(steps=2)(variables, images.at[0, 0, 0, 0].set(jnp.nan))
    with pytest.raises(gs.InputError, match="chunk must be at least 1, got 0"):
        convert(steps=2, chunk=0)
    with pytest.raises(gs.InputError, match="time_axes must be None"):
        convert(steps=2, time_axes=(0,))(variables, images)
    with pytest.raises(gs.InputError, match="has no such axis"):
        convert(steps=2, time_axes=(None, 4))(variables, images)
    with pytest.raises(gs.InputError, match="has 2 time-steps on axis 0, but 3 are wanted"):
        convert(steps=3, time_axes=(None, 0))(variables, images)


BAD_THRESHOLDS = [0.0, -1.0, 1e-40, np.nan, np.inf]


@pytest.mark.parametrize("threshold", BAD_THRESHOLDS)
@pytest.mark.parametrize("shape", [(), (3,)])
def test_known_thresholds_are_positive_and_finite(shape, threshold):
    size = jnp.asarray(np.append(np.ones(2), threshold) if shape else threshold, jnp.float32)
    ann = lambda x, size: gs.qcfs(x, size, 4)
    convert = lambda ann: gs.to_spiking(ann, gs.integrate_and_fire(), steps=2)
    held, x = convert(lambda x: ann(x, size)), jnp.ones((2, 3))
    message = r"the threshold of '.*' must be positive and finite, got .*; "
    with pytest.raises(gs.InputError, match="holds NaN" if np.isnan(threshold) else message):
        convert(ann)(x, size)
    for call in (held, jax.jit(held), jax.grad(lambda x: held(x).sum())):
        with pytest.raises(gs.InputError, match=message):
            call(x)


@pytest.mark.usefixtures("unchecked")
def test_nan_is_refused_where_it_is_known():
    matrix, holds_nan = jnp.eye(3), jnp.ones((2, 3)).at[0, 0].set(jnp.nan)
    spiking = gs.to_spiking(lambda w, x: gs.qcfs(x @ w, 1.0, 4), gs.integrate_and_fire(), steps=2)

    def refused(call, *arguments):
        with pytest.raises(gs.InputError, match="holds NaN"):
            call(*arguments)

    for x in (holds_nan, np.asarray(holds_nan), holds_nan.astype(jnp.bfloat16).astype(jnp.float32)):
        refused(spiking, matrix, x)
    refused(spiking, matrix.at[1, 1].set(jnp.nan), jnp.ones((2, 3)))
    refused(jax.jit(lambda w: spiking(w, holds_nan)), matrix)
    refused(jax.grad(lambda w: spiking(w, holds_nan).sum()), matrix)
    assert np.isnan(jax.jit(spiking)(matrix, holds_nan)).any()


def test_looking_for_nan_fetches_truth_values_only(monkeypatch):
    fetched = []
    monkeypatch.setattr(jax, "device_get", lambda tree: fetched.append(jax.tree.leaves(tree)) or tree)
    monkeypatch.setattr(np, "isnan", lambda array: pytest.fail("on the host"))
    gs.to_spiking(lambda w, x: gs.qcfs(x @ w, 1.0, 4), gs.integrate_and_fire(), steps=2)(jnp.eye(3), jnp.ones((2, 3)))
    assert fetched
    assert all(leaf.shape == () and leaf.dtype == bool for leaves in fetched for leaf in leaves)


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan])
@pytest.mark.parametrize("where", ["params", "thresholds"])
def test_stored_networks_without_proper_thresholds_are_refused(tmp_path, where, bad):
    about = (
        Model("vgg11"),
        3,
        (32, 32, 3),
        Statistics((0.0,) * 3, (1.0,) * 3),
        parse_method("gn", members=4, probe_steps=4),
    )
    example = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    shapes = jax.eval_shape(gs.build("vgg11", num_classes=3, levels=4).init, jax.random.key(0), example)
    variables = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), shapes)
    variables["params"]["stage1"]["act1"]["threshold"] = np.float32(bad if where == "params" else 1)
    found = {"act1": np.float32(bad)} if where == "thresholds" else None
    ConvertedNetwork(*about, 4, variables, found).save(tmp_path / "stored")
    with pytest.raises(gs.InputError, match="act1"):
        load_converted(tmp_path / "stored")
