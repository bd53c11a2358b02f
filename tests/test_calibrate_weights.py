"""Weights calibrated layer by layer."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import dyadic

import gnsnn_jax as gs
from gnsnn_jax.conversion.calibrate_weights import _loss_and_gradients
from gnsnn_jax.engine.tracing import parted

STEPS, THETA = 4, (2.0, 1.0)


def network(weights, x):
    hidden = jax.nn.relu(x @ weights["first"])
    return jax.nn.relu(hidden @ weights["second"]) @ weights["head"]


def setting():
    shapes = {"first": (5, 16), "second": (16, 8), "head": (8, 3)}
    weights = {name: dyadic(at, shape, -1, 1) for at, (name, shape) in enumerate(shapes.items())}
    x = dyadic(9, (64, 5), -1, 2)
    names = [each.name for each in gs.sites(network, weights, x)]
    thresholds = dict(zip(names, THETA, strict=True))
    return weights, x, gs.to_spiking(network, gs.integrate_and_fire(), steps=STEPS, thresholds=thresholds)


def test_each_layer_learns_from_its_own_error_alone():
    weights, x, snn = setting()
    moved = jax.tree.map(lambda leaf: leaf + 1 / 16, weights)
    arrays, others = parted((x,), {})
    loss, gradients = _loss_and_gradients(snn, others, moved, weights, arrays)

    def by_hand(moved):
        train, own, total = jnp.broadcast_to(x, (STEPS, *x.shape)), x, 0.0
        for name, theta in zip(("first", "second"), THETA, strict=True):
            own = jax.nn.relu(own @ weights[name])
            currents = train @ moved[name]
            spikes, _ = gs.run(gs.integrate_and_fire(), currents, theta)
            smooth = jnp.minimum(jnp.maximum(currents.mean(0), 0), theta)
            emitted = smooth + jax.lax.stop_gradient(spikes.mean(0) - smooth)
            total = total + ((emitted - own) ** 2).mean()
            train = jax.lax.stop_gradient(spikes)
        return total

    wanted, by_layer = jax.value_and_grad(by_hand)(moved)
    np.testing.assert_allclose(loss, wanted, rtol=1e-6)
    for name in weights:
        np.testing.assert_allclose(gradients[name], by_layer[name], atol=1e-6)
    assert jnp.abs(gradients["first"]).max() > 0
    np.testing.assert_array_equal(gradients["head"], jnp.zeros_like(weights["head"]))


def test_rounded_weights_are_brought_back():
    weights, x, _ = setting()
    thresholds = gs.find_thresholds(network, [x], 32, method="max", variables=weights)
    snn = gs.to_spiking(network, gs.integrate_and_fire(), steps=32, thresholds=thresholds)
    rounded = jax.tree.map(lambda leaf: jnp.round(leaf * 2) / 2, weights)
    with jax.numpy_dtype_promotion("standard"):  # as optax needs it
        found, losses = gs.calibrate_weights(
            snn, [x[:32], x[32:]], optax.adam(2e-2), variables=rounded, target=weights, iterations=60
        )
    assert len(losses) == 60
    assert np.mean(losses[-4:]) < 0.3 * np.mean(losses[:4])
    hidden = lambda weights_: jax.nn.relu(x @ weights_["first"])
    error = lambda weights_: float(jnp.abs(hidden(weights_) - hidden(weights)).mean())
    assert error(found) < 0.5 * error(rounded)
    np.testing.assert_array_equal(found["head"], rounded["head"])


def test_what_does_not_fit_is_said():
    weights, x, snn = setting()
    with pytest.raises(TypeError, match="optimiser must have init and update"):
        gs.calibrate_weights(snn, [x], 0.1, variables=weights, iterations=1)
    with pytest.raises(gs.InputError, match="iterations must be at least 1"):
        gs.calibrate_weights(snn, [x], optax.sgd(0.1), variables=weights, iterations=0)
    probing = gs.to_spiking(network, snn.neuron, steps=4, thresholds=snn.thresholds, calibration=gs.offset_spikes(2))
    with pytest.raises(gs.InputError, match="leave it out"):
        gs.calibrate_weights(probing, [x], optax.sgd(0.1), variables=weights, iterations=1)
    infinite = weights | {"first": jnp.full_like(weights["first"], jnp.inf)}
    with pytest.raises(gs.InputError, match=r"the loss is (nan|inf) at iteration 1; give the optimiser a smaller"):
        gs.calibrate_weights(snn, [jnp.abs(x)], optax.sgd(0.1), variables=infinite, iterations=5)
