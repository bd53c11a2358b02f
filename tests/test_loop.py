"""The training loop: what decides a step, and each option of the optimiser against its definition."""

from dataclasses import replace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gnsnn_jax as gs
from gnsnn_jax.data.batches import PADDING
from gnsnn_jax.data.order import FixedOrder, Share, ShuffledOrder
from gnsnn_jax.data.sets import Dataset, Split, load_dataset
from gnsnn_jax.engine.jaxprs import CONVOLUTIONS
from gnsnn_jax.runs.network import build_network
from gnsnn_jax.runtime.config import Config, Data, Optimizer, Training
from gnsnn_jax.training import loop


class Small(nn.Module):
    """A linear layer, an activation, a linear layer."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Dense(8)(x.reshape(len(x), -1))
        x = gs.qcfs(x, self.param("threshold", nn.initializers.constant(2.0), ()), 4)
        return nn.Dense(3)(x)


@pytest.fixture(scope="module")
def dataset():
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (64, 4, 4, 1)).astype(np.uint8)
    labels = (images.mean((1, 2, 3)) // 10 % 3).astype(np.int32)
    split = Split(images, labels)
    return load_dataset(Data(), 0)._replace(num_classes=3, train=split, validation=split, test=split)


def plan_of(dataset: Dataset, optimizer=None, **training):
    settings = {"epochs": 2, "batch_size": 16} | training
    config = Config(optimizer=Optimizer(**(optimizer or {})), training=Training(**settings))
    return replace(loop.make_plan(config, dataset), network=Small(), image_shape=(4, 4, 1))


def trained(plan, dataset):
    *_, state = loop.train(plan, dataset, loop.initial_state(plan))
    return state


def assert_equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_training_is_decided_by_its_seed(dataset):
    one, same, other = (trained(plan_of(dataset, seed=seed), dataset).variables for seed in (0, 0, 1))
    assert_equal(one, same)
    assert any(jax.tree.leaves(jax.tree.map(lambda a, b: (a != b).any(), one, other)))


def test_a_state_goes_on_from_any_step_to_the_same_end(dataset):
    plan = plan_of(dataset)
    undisturbed = jax.tree.map(np.asarray, trained(plan, dataset))
    for stop in (1, 3, 4, 7):
        for _, state in zip(range(stop), loop.train(plan, dataset, loop.initial_state(plan)), strict=False):
            held = jax.tree.map(np.asarray, state)
        *_, state = loop.train(plan, dataset, held)
        assert_equal(state, undisturbed)


def test_metrics_are_those_of_the_epoch(dataset):
    plan = plan_of(dataset)
    counts = [int(state.metrics.count) for state in loop.train(plan, dataset, loop.initial_state(plan))]
    assert counts == [16, 32, 48, 64] * 2


def test_micro_batches_give_the_gradient_of_the_batch(dataset):
    whole, parts = (trained(plan_of(dataset, {"micro_batches": k}), dataset) for k in (1, 4))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), whole.params, parts.params)
    np.testing.assert_allclose(whole.metrics, parts.metrics, rtol=1e-5)


def test_the_average_follows_its_recursion(dataset):
    plan = plan_of(dataset, {"average_decay": 0.5})
    initial = loop.initial_state(plan)
    expected = np.asarray(initial.params["Dense_0"]["kernel"])
    for time, state in enumerate(loop.train(plan, dataset, initial)):
        decay = min(0.5, (1 + time) / (10 + time))
        expected = decay * expected + (1 - decay) * np.asarray(state.params["Dense_0"]["kernel"])
        np.testing.assert_allclose(state.kept["params"]["Dense_0"]["kernel"], expected, rtol=1e-5, atol=1e-7)
    assert plan_of(dataset).config.optimizer.average_decay == 0
    assert loop.initial_state(plan_of(dataset)).average == {}


def test_a_loss_that_is_no_number_changes_nothing_any_more(dataset):
    plan = plan_of(dataset)
    state = loop.initial_state(plan)
    step = jax.jit(loop.train_step, static_argnums=0)
    good, labels = np.asarray(dataset.train.images[None, :16], np.float32), dataset.train.labels[None, :16]
    after = step(plan, state, good, labels)
    bad = good.copy()
    bad[0, 3] = np.inf
    stopped = step(plan, after, bad, labels)
    assert bool(after.is_finite)
    assert not bool(stopped.is_finite)
    assert_equal(stopped._replace(is_finite=after.is_finite), after)
    assert_equal(step(plan, stopped, good, labels), stopped)


def test_decay_is_added_to_the_gradient_before_the_momentum_thresholds_included():
    config = Config()
    rate, momentum, decay = 0.1, config.optimizer.momentum, config.optimizer.weight_decay
    params = {"layer": {"kernel": jnp.asarray(2.0)}, "act": {"threshold": jnp.asarray(3.0)}}
    gradient = jax.tree.map(lambda _: jnp.asarray(0.5), params)
    optimizer = loop.make_optimizer(config, optax.constant_schedule(rate))
    state, expected, velocity = optimizer.init(params), params, jax.tree.map(jnp.zeros_like, params)
    for _ in range(3):
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        velocity = jax.tree.map(lambda v, g, p: momentum * v + g + decay * p, velocity, gradient, expected)
        expected = jax.tree.map(lambda p, v: p - rate * v, expected, velocity)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), params, expected)


@pytest.mark.parametrize(("length", "expected"), [(0.0, 5.0), (10.0, 5.0), (2.5, 2.5)])
def test_gradients_are_cut_to_a_length_before_the_decay(length, expected):
    config = Config(optimizer=Optimizer(gradient_norm=length, weight_decay=0.25, momentum=0.0))
    params, gradient = {"kernel": jnp.asarray([4.0, 0.0])}, {"kernel": jnp.asarray([3.0, 4.0])}
    optimizer = loop.make_optimizer(config, optax.constant_schedule(1.0))
    updates, _ = optimizer.update(gradient, optimizer.init(params), params)
    np.testing.assert_allclose(-updates["kernel"], np.asarray([3.0, 4.0]) * expected / 5 + np.asarray([1.0, 0.0]))


def test_thresholds_stay_positive():
    keep = loop.keep_thresholds_positive(1e-3)
    params = {"kernel": jnp.asarray(1.0), "threshold": jnp.asarray(1.0)}
    updates, _ = keep.update(jax.tree.map(lambda p: -5.0 * p, params), keep.init(params), params)
    moved = optax.apply_updates(params, updates)
    assert moved["kernel"] == -4
    np.testing.assert_allclose(moved["threshold"], 1e-3, rtol=1e-4)


def test_the_learning_rate_rises_in_a_line_and_falls_in_a_cosine():
    config = Config(optimizer=Optimizer(learning_rate=0.2, warmup_epochs=2.5), training=Training(epochs=10))
    rates = [float(loop.make_schedule(config, 4)(step)) for step in range(41)]
    np.testing.assert_allclose(rates[:11], np.linspace(0, 0.2, 11), rtol=1e-5)
    np.testing.assert_allclose(rates[10:], 0.1 * (1 + np.cos(np.pi * np.linspace(0, 1, 31))), atol=1e-6)
    cosine = loop.make_schedule(Config(training=Training(epochs=10)), 4)
    np.testing.assert_allclose(cosine(0), 0.1)


def test_smoothed_labels_give_every_class_its_share():
    logits, labels = jnp.asarray([[2.0, -1.0, 0.5], [0.0, 3.0, 1.0]]), jnp.asarray([0, 2])
    soft = optax.smooth_labels(jax.nn.one_hot(labels, 3), 0.1)
    np.testing.assert_allclose(
        loop.smoothed_loss(logits, labels, 0.1), optax.softmax_cross_entropy(logits, soft), rtol=1e-6
    )
    hard = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    np.testing.assert_array_equal(loop.smoothed_loss(logits, labels, 0.0), hard)


@jax.numpy_dtype_promotion("standard")  # Flax's batch norm leans on it where types are mixed
def test_bfloat16_computes_in_it_and_keeps_everything_in_float32():
    network = build_network(Config().model, 10, "bfloat16")
    images = jax.ShapeDtypeStruct((2, 8, 8, 1), jnp.float32)
    variables = jax.eval_shape(network.init, jax.random.key(0), images)
    traced = jax.make_jaxpr(lambda v, x: network.apply(v, x, train=True, mutable=["batch_stats"]))(variables, images)
    products = [eqn for eqn in traced.jaxpr.eqns if eqn.primitive.name in CONVOLUTIONS]
    assert products
    assert {str(eqn.outvars[0].aval.dtype) for eqn in products} == {"bfloat16"}
    assert {str(aval.dtype) for aval in jax.tree.leaves([variables, traced.out_avals])} == {"float32"}


# Orders.


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_an_epoch_visits_samples_once_in_an_order_of_its_own(micro_batches):
    order = ShuffledOrder(50, 8, 0, micro_batches)
    assert order.steps_per_epoch == 6
    epochs = [np.concatenate([order(step) for step in range(6 * epoch, 6 * epoch + 6)]) for epoch in (0, 1)]
    assert all(len(np.unique(visited)) == len(visited) == 48 for visited in epochs)
    assert (epochs[0] != epochs[1]).any()


def test_processes_share_each_micro_batch():
    whole = ShuffledOrder(50, 16, 0, micro_batches=2)
    parts = [replace(whole, share=Share(process, 4)) for process in range(4)]
    together = np.concatenate([part(5).reshape(2, -1) for part in parts], 1)
    np.testing.assert_array_equal(together.reshape(-1), whole(5))


@pytest.mark.parametrize("processes", [1, 2])
def test_a_fixed_order_reads_every_sample_once(processes):
    orders = [FixedOrder(21, 8, Share(process, processes)) for process in range(processes)]
    read = np.concatenate([order(step) for step in range(orders[0].steps) for order in orders])
    np.testing.assert_array_equal(read[:21], np.arange(21))
    assert (read[21:] == PADDING).all()


# Evaluation and refusals.


def test_evaluation_counts_every_sample_once(dataset):
    plan = plan_of(dataset)
    variables = loop.initial_state(plan).variables
    whole, *others = (
        loop.loss_and_accuracy(Small(), variables, dataset.train, dataset.statistics, batch_size=size)
        for size in (64, 17, 100)
    )
    for other in others:
        np.testing.assert_allclose(other, whole, rtol=1e-5)


@pytest.mark.parametrize(
    ("optimizer", "training", "message"),
    [
        ({}, {"batch_size": 65}, r"training\.batch_size = 65 is more than the 64 training samples"),
        (
            {"micro_batches": 3},
            {},
            r"training\.batch_size = 16 cannot be shared evenly by 1 devices in 3",
        ),
        ({"warmup_epochs": 2.0}, {}, r"optimizer\.warmup_epochs = 2\.0 must be less than training\.epochs = 2"),
    ],
)
def test_settings_that_do_not_fit_are_refused(optimizer, training, message, dataset):
    with pytest.raises(gs.InputError, match=message):
        plan_of(dataset, optimizer, **training)
