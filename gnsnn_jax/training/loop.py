"""The training loop: SGD on the cross-entropy, the best epoch kept by its validation accuracy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from gnsnn_jax._types import Array, Float, Int
from gnsnn_jax.errors import InputError
from gnsnn_jax.training.augmentation import augment
from gnsnn_jax.training.config import Config
from gnsnn_jax.training.data import Dataset, Split, Statistics, normalise
from gnsnn_jax.training.network import network_of

SMALLEST_THRESHOLD = 1e-3  # thresholds are kept at least this far from 0


class State(NamedTuple):
    step: Array
    params: Any
    batch_stats: Any
    optimizer: Any

    @property
    def variables(self) -> dict[str, Any]:
        return {"params": self.params, "batch_stats": self.batch_stats}


class Metrics(NamedTuple):
    """Sums over samples, so that epochs of uneven batches add up."""

    loss: Array
    correct: Array
    count: Array

    def __add__(self, other: Metrics) -> Metrics:
        return Metrics(*map(jnp.add, self, other))

    def mean(self) -> tuple[float, float]:
        """Loss and accuracy."""
        return float(self.loss / self.count), float(self.correct / self.count)


class Epoch(NamedTuple):
    number: int
    train_loss: float
    train_accuracy: float
    validation_loss: float
    validation_accuracy: float
    learning_rate: float
    variables: Any


def train(config: Config, dataset: Dataset, on_step: Callable[[], None] = lambda: None) -> Iterator[Epoch]:
    """Trains a network and yields after each epoch; `on_step` is called after each step.

    All randomness follows from `config.training.seed`. Raises InputError for a batch larger than
    the training split and when the loss is no number.
    """
    settings, network = config.training, network_of(config.model, dataset.num_classes)
    per_epoch = steps_per_epoch(config, dataset)
    cosine = optax.cosine_decay_schedule(config.optimizer.learning_rate, per_epoch * settings.epochs)
    schedule = lambda step: cosine(jnp.asarray(step, jnp.float32))
    optimizer = make_optimizer(config, schedule)
    key = jax.random.key(settings.seed)
    state = initial_state(network, optimizer, dataset, key)
    step = jax.jit(partial(train_step, network, optimizer, config, dataset.statistics), donate_argnums=0)
    images, labels = map(jnp.asarray, dataset.train)
    for epoch in range(1, settings.epochs + 1):
        metrics = no_metrics()
        for indices in batches_of_epoch(len(labels), settings.batch_size, settings.seed, epoch):
            state, found = step(state, images, labels, indices, key)
            metrics = metrics + found
            on_step()
        loss, accuracy = metrics.mean()
        if not np.isfinite(loss):
            raise InputError(f"the loss is {loss} in epoch {epoch}; lower optimizer.learning_rate or model.threshold")
        validation = evaluate(network, state.variables, dataset.validation, dataset.statistics)
        rate = float(schedule(int(state.step)))
        yield Epoch(epoch, loss, accuracy, *validation, rate, state.variables)


def steps_per_epoch(config: Config, dataset: Dataset) -> int:
    steps = len(dataset.train.labels) // config.training.batch_size
    if steps < 1:
        raise InputError(
            f"training.batch_size = {config.training.batch_size} is more than the {len(dataset.train.labels)} training "
            f"samples of {dataset.name}; choose a smaller one"
        )
    return steps


def check_experiment(config: Config, dataset: Dataset) -> None:
    """Raises what `train` would raise at its start, before anything is written."""
    steps_per_epoch(config, dataset)
    key = jax.random.key(0)
    raw = jax.ShapeDtypeStruct((1, *dataset.image_shape), dataset.train.images.dtype)
    example = jax.eval_shape(lambda images: augment(images, dataset.statistics, key, config.data), raw)
    jax.eval_shape(network_of(config.model, dataset.num_classes).init, key, example)


def make_optimizer(config: Config, schedule: optax.Schedule) -> optax.GradientTransformation:
    """SGD with momentum, the decay added to the gradient before it, thresholds kept positive."""
    settings = config.optimizer
    return optax.chain(
        optax.add_decayed_weights(settings.weight_decay),
        optax.sgd(schedule, momentum=settings.momentum),
        keep_thresholds_positive(SMALLEST_THRESHOLD),
    )


def keep_thresholds_positive(smallest: float) -> optax.GradientTransformation:
    """Cuts the update of every parameter named "threshold" so that it stays at `smallest` or above."""

    def cut(path, update, parameter):
        is_threshold = getattr(path[-1], "key", None) == "threshold"
        return jnp.maximum(update, smallest - parameter) if is_threshold else update

    update = lambda updates, params: jax.tree_util.tree_map_with_path(cut, updates, params)
    return optax.stateless(update)


def initial_state(network: nn.Module, optimizer, dataset: Dataset, key: Array) -> State:
    example = jnp.zeros((1, *dataset.image_shape), jnp.float32)
    variables = jax.jit(network.init)(key, example)
    params, batch_stats = variables["params"], variables.get("batch_stats", {})
    return State(jnp.zeros((), jnp.int32), params, batch_stats, optimizer.init(params))


def batches_of_epoch(count: int, batch_size: int, seed: int, epoch: int) -> Iterator[np.ndarray]:
    """Full batches of indices in an order that depends on seed and epoch alone."""
    order = np.random.default_rng((seed, epoch)).permutation(count)
    for start in range(0, count - batch_size + 1, batch_size):
        yield order[start : start + batch_size]


def train_step(
    network: nn.Module,
    optimizer: optax.GradientTransformation,
    config: Config,
    statistics: Statistics,
    state: State,
    images: Array,
    labels: Array,
    indices: Int[Array, " B"],
    key: Array,
) -> tuple[State, Metrics]:
    """One update on the samples at `indices`."""
    augment_key, dropout_key = jax.random.split(jax.random.fold_in(key, state.step))
    batch = augment(images[indices], statistics, augment_key, config.data)

    def loss_of(params):
        logits, updated = network.apply(
            state.variables | {"params": params},
            batch,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": dropout_key},
        )
        metrics = count_metrics(logits, labels[indices])
        return metrics.loss / metrics.count, (metrics, updated.get("batch_stats", {}))

    (_, (metrics, batch_stats)), gradient = jax.value_and_grad(loss_of, has_aux=True)(state.params)
    updates, optimizer_state = optimizer.update(gradient, state.optimizer, state.params)
    params = optax.apply_updates(state.params, updates)
    return State(state.step + 1, params, batch_stats, optimizer_state), metrics


def no_metrics() -> Metrics:
    return Metrics(*jnp.zeros(3, jnp.float32))


def count_metrics(logits: Float[Array, "B K"], labels: Int[Array, " B"]) -> Metrics:
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    correct = jnp.sum(jnp.argmax(logits, -1) == labels)
    return Metrics(losses.sum(), correct.astype(jnp.float32), jnp.asarray(len(labels), jnp.float32))


@partial(jax.jit, static_argnames=("network", "statistics"))
def _evaluate_batch(network: nn.Module, statistics: Statistics, variables, images, labels) -> Metrics:
    return count_metrics(network.apply(variables, normalise(images, statistics), train=False), labels)


def evaluate(
    network: nn.Module, variables: Any, split: Split, statistics: Statistics, batch_size: int = 256
) -> tuple[float, float]:
    """Loss and accuracy on a split, each sample counted once."""
    metrics = no_metrics()
    for start in range(0, len(split.labels), batch_size):
        part = slice(start, start + batch_size)
        metrics += _evaluate_batch(network, statistics, variables, split.images[part], split.labels[part])
    return metrics.mean()
