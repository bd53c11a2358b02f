"""The training loop: SGD or AdamW on the cross-entropy, one pure function of the state for each step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gnsnn_jax._types import Array, Bool, Float, Int, Shaped
from gnsnn_jax.data.augmentation import augment
from gnsnn_jax.data.batches import PADDING
from gnsnn_jax.data.order import ShuffledOrder, share_of_process
from gnsnn_jax.data.sets import Dataset, Split, Statistics, normalise, read_in_order
from gnsnn_jax.data.streaming import Stream
from gnsnn_jax.errors import InputError, extra
from gnsnn_jax.models.layers import NOISE
from gnsnn_jax.runs.network import build_network
from gnsnn_jax.runtime import devices
from gnsnn_jax.runtime.config import Config, Data, Optimizer

with extra("train"):
    import flax.linen as nn
    import optax

MOST_STEPS = 2**31 - 1  # which are counted in int32
SMALLEST_THRESHOLD = 1e-3  # thresholds are kept at least this far from 0
DECAYED = ("kernel", "embedding")  # what AdamW decays; all else are norms, biases, positions and thresholds


class Metrics(NamedTuple):
    """Sums over samples, so that uneven batches add up."""

    loss: Float[Array, ""]
    correct: Float[Array, ""]
    count: Float[Array, ""]  # type: ignore[assignment]

    def __add__(self, other: Metrics) -> Metrics:  # type: ignore[override]
        return Metrics(*map(jnp.add, self, other))

    def mean(self) -> tuple[float, float]:
        """Loss and accuracy."""
        loss, correct, count = map(float, self)
        return loss / count, correct / count


class State(NamedTuple):
    """All that training goes on from. The position in the data is a function of `step`."""

    step: Int[Array, ""]
    params: Any
    batch_stats: Any
    optimizer: Any
    average: Any  # of the variables; empty where none is asked for
    key: Shaped[Array, " 2"]
    metrics: Metrics  # of the epoch so far
    is_finite: Bool[Array, ""]  # whether loss and gradient were in all steps; once false, nothing else changes

    @property
    def variables(self) -> dict[str, Any]:
        return {"params": self.params, "batch_stats": self.batch_stats}

    @property
    def kept(self) -> dict[str, Any]:
        """The variables that are tested and kept: the average, where there is one."""
        return self.average or self.variables


@dataclass(frozen=True, eq=False)
class Plan:
    """What configuration and data decide before the first step."""

    config: Config
    network: nn.Module
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    order: ShuffledOrder
    statistics: Statistics
    image_shape: tuple[int, ...]
    augmentation: Data

    @property
    def steps(self) -> int:
        return self.order.steps_per_epoch * self.config.training.epochs


def make_plan(config: Config, dataset: Dataset) -> Plan:
    """What does not change while training.

    Args:
        config: the settings.
        dataset: the data that they name.

    Returns:
        Network, optimizer and the order of the samples.

    Raises:
        InputError: for settings that do not fit each other, the data or the devices.
    """
    order = _order_of(config, dataset)
    schedule = make_schedule(config, order.steps_per_epoch)
    is_stream = isinstance(dataset.train, Stream)  # which crops the images as it reads them
    return Plan(
        config,
        build_network(config.model, dataset.num_classes, config.training.precision),
        make_optimizer(config, schedule),
        schedule,
        order,
        dataset.statistics,
        dataset.image_shape,
        replace(config.data, resized_crop=config.data.resized_crop and not is_stream),
    )


def _order_of(config: Config, dataset: Dataset) -> ShuffledOrder:
    size, parts, count = config.training.batch_size, config.optimizer.micro_batches, dataset.train.count
    if size > count:
        raise InputError(
            f"training.batch_size = {size} is more than the {count} training samples of {dataset.name}; "
            "choose a smaller one"
        )
    if size % (parts * jax.device_count()):
        raise InputError(
            f"training.batch_size = {size} cannot be shared evenly by {jax.device_count()} devices in {parts} "
            f"micro-batches; choose a multiple of {parts * jax.device_count()}"
        )
    return ShuffledOrder(count, size, config.training.seed, parts, share_of_process())


def make_schedule(config: Config, steps_per_epoch: int) -> optax.Schedule:
    """A line up to the learning rate during the warm-up, then a cosine down to 0 in the last step."""
    settings, epochs = config.optimizer, config.training.epochs
    if settings.warmup_epochs >= epochs:
        raise InputError(
            f"optimizer.warmup_epochs = {settings.warmup_epochs} must be less than training.epochs = {epochs}"
        )
    if epochs * steps_per_epoch > MOST_STEPS:
        raise InputError(
            f"training.epochs = {epochs} of {steps_per_epoch} steps each are more than {MOST_STEPS} steps; choose "
            "fewer, or a larger training.batch_size"
        )
    warmup = round(settings.warmup_epochs * steps_per_epoch)
    cosine = optax.cosine_decay_schedule(settings.learning_rate, epochs * steps_per_epoch - warmup)
    rise = optax.linear_schedule(0.0, settings.learning_rate, warmup)
    schedule = optax.join_schedules([rise, cosine], [warmup]) if warmup else cosine
    return lambda step: schedule(jnp.asarray(step, jnp.float32))


def make_optimizer(config: Config, schedule: optax.Schedule) -> optax.GradientTransformation:
    """The optimizer that the configuration names, with gradients cut before it and thresholds kept positive after it.

    Args:
        config: the settings.
        schedule: the learning rate by step.

    Returns:
        SGD with momentum, the decay of all parameters added to the gradient before it; or AdamW, whose decay,
        w <- w - learning_rate weight_decay w, leaves out norms, biases, positions and thresholds.
    """
    settings = config.optimizer
    return optax.chain(
        optax.clip_by_global_norm(settings.gradient_norm) if settings.gradient_norm else optax.identity(),
        *OPTIMIZERS[settings.name](settings, schedule),
        keep_thresholds_positive(SMALLEST_THRESHOLD),
    )


def _sgd(settings: Optimizer, schedule: optax.Schedule) -> tuple[optax.GradientTransformation, ...]:
    return optax.add_decayed_weights(settings.weight_decay), optax.sgd(schedule, momentum=settings.momentum)


def _adamw(settings: Optimizer, schedule: optax.Schedule) -> tuple[optax.GradientTransformation, ...]:
    return (
        optax.adamw(
            schedule,
            b1=settings.momentum,
            b2=settings.second_momentum,
            weight_decay=settings.weight_decay,
            mask=decayed_by_adamw,
        ),
    )


OPTIMIZERS = {"sgd": _sgd, "adamw": _adamw}


def decayed_by_adamw(params: Any) -> Any:
    """Whether each parameter is a weight, which decays, and no norm, bias, position or threshold."""
    return jax.tree_util.tree_map_with_path(lambda path, _: getattr(path[-1], "key", None) in DECAYED, params)


def keep_thresholds_positive(smallest: float) -> optax.GradientTransformation:
    """Cuts the update of every parameter named "threshold" so that it stays at `smallest` or above."""

    def cut(path, update, parameter):
        is_threshold = getattr(path[-1], "key", None) == "threshold"
        return jnp.maximum(update, smallest - parameter) if is_threshold else update

    update = lambda updates, params: jax.tree_util.tree_map_with_path(cut, updates, params)
    return optax.stateless(update)


def initial_state(plan: Plan) -> State:
    key = jax.random.key(plan.config.training.seed)
    variables = jax.jit(plan.network.init)(key, jnp.zeros((1, *plan.image_shape), jnp.float32))
    params, batch_stats = variables["params"], variables.get("batch_stats", {})
    has_average = plan.config.optimizer.average_decay > 0
    return State(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        optimizer=plan.optimizer.init(params),
        average=jax.tree.map(jnp.array, {"params": params, "batch_stats": batch_stats}) if has_average else {},
        key=jax.random.key_data(key),
        metrics=no_metrics(),
        is_finite=jnp.asarray(True),
    )


def train(plan: Plan, dataset: Dataset, state: State) -> Iterator[State]:
    """Trains to the last step of a plan.

    All randomness follows from `config.training.seed`, whatever step the state is at.

    Args:
        plan: what `make_plan` returned.
        dataset: the data of the plan.
        state: where to start; its arrays are donated to the first step.

    Yields:
        The state after each of the remaining steps; its arrays are donated to the next one.
    """
    numbers = range(int(state.step), plan.steps)
    if isinstance(dataset.train, Stream):
        held, batches = (), dataset.train.read(plan.order, numbers)
    else:
        held, batches = devices.replicate(tuple(dataset.train)), ((plan.order(number),) for number in numbers)  # type: ignore[misc]
    step = jax.jit(partial(_take_step, plan), donate_argnums=0, out_shardings=devices.on_all())
    state = devices.replicate(state)
    for batch in batches:
        state = step(state, held, _in_micro_batches(plan, batch))
        yield state


def _in_micro_batches(plan: Plan, batch: tuple[np.ndarray, ...]) -> tuple[Array, ...]:
    """This process's samples of a step as arrays [micro-batches, samples of all devices, ...]."""
    parts = plan.config.optimizer.micro_batches
    return tuple(devices.distribute(x.reshape(parts, len(x) // parts, *x.shape[1:]), axis=1) for x in batch)


def _take_step(plan: Plan, state: State, held: tuple[Array, ...], batch: tuple[Array, ...]) -> State:
    """One step on a batch of images and labels, or of indices into those that the devices hold."""
    images, labels = (array[batch[0]] for array in held) if held else batch
    return train_step(plan, state, images, labels)


def train_step(plan: Plan, state: State, images: Shaped[Array, "k b H W C"], labels: Int[Array, "k b"]) -> State:
    """One update with the mean gradient of k micro-batches, unless it, the loss or a norm is NaN or infinite."""
    gradient, batch_stats, found = _gradient(plan, state, images, labels)
    updates, optimizer = plan.optimizer.update(gradient, state.optimizer, state.params)
    params = optax.apply_updates(state.params, updates)
    is_new_epoch = state.step % plan.order.steps_per_epoch == 0
    after = State(
        step=state.step + 1,
        params=params,
        batch_stats=batch_stats,
        optimizer=optimizer,
        average=_moved(plan, state, {"params": params, "batch_stats": batch_stats}),
        key=state.key,
        metrics=jax.tree.map(lambda old, new: jnp.where(is_new_epoch, 0, old) + new, state.metrics, found),
        is_finite=state.is_finite,
    )
    # The statistics of a batch can overflow while its loss is finite.
    of_norms = jnp.asarray([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(batch_stats)], bool).all()
    is_finite = state.is_finite & jnp.isfinite(found.loss) & jnp.isfinite(optax.tree.norm(gradient)) & of_norms
    kept = jax.tree.map(lambda old, new: jnp.where(is_finite, new, old), state, after)
    return kept._replace(is_finite=is_finite)


def _gradient(plan: Plan, state: State, images: Array, labels: Array) -> tuple[Any, Any, Metrics]:
    """The mean gradient over all samples, the batch statistics after them, and the metrics."""
    parts = len(images)
    key = jax.random.wrap_key_data(state.key)

    def add_part(sums, part):
        (gradient, batch_stats, metrics), (index, images, labels) = sums, part
        part_key = jax.random.fold_in(key, parts * state.step + index)
        found, batch_stats, of_part = _part_gradient(plan, state.params, batch_stats, images, labels, part_key)
        return (jax.tree.map(jnp.add, gradient, found), batch_stats, metrics + of_part), None

    sums = (jax.tree.map(jnp.zeros_like, state.params), state.batch_stats, no_metrics())
    if parts == 1:
        sums, _ = add_part(sums, (0, images[0], labels[0]))
    else:
        sums, _ = jax.lax.scan(add_part, sums, (jnp.arange(parts), images, labels))
    gradient, batch_stats, metrics = sums
    return jax.tree.map(lambda total: total / parts, gradient), batch_stats, metrics


def _part_gradient(plan: Plan, params: Any, batch_stats: Any, images: Array, labels: Array, key: Array):
    augment_key, dropout_key = jax.random.split(key)
    batch = augment(images, plan.statistics, augment_key, plan.augmentation)

    def loss_of(params):
        logits, updated = plan.network.apply(
            {"params": params, "batch_stats": batch_stats},
            batch,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": dropout_key, NOISE: jax.random.fold_in(dropout_key, 0)},
        )
        loss = smoothed_loss(logits, labels, plan.config.optimizer.label_smoothing).mean()
        return loss, (updated.get("batch_stats", {}), count_metrics(logits, labels))

    (_, (updated, metrics)), gradient = jax.value_and_grad(loss_of, has_aux=True)(params)
    # Statistics stay in the type that they have, whichever one the network computes in.
    return gradient, jax.tree.map(lambda new, old: new.astype(old.dtype), updated, batch_stats), metrics


def _moved(plan: Plan, state: State, variables: Any) -> Any:
    """The moving average a <- d a + (1 - d) w; d is (1 + t)/(10 + t) in the first steps, to forget the start."""
    if not state.average:
        return state.average
    time = state.step.astype(jnp.float32)
    decay = jnp.minimum(plan.config.optimizer.average_decay, (1 + time) / (10 + time))
    return jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, state.average, variables)


def smoothed_loss(logits: Float[Array, "B K"], labels: Int[Array, " B"], smoothing: float) -> Float[Array, " B"]:
    """Cross-entropy with labels of which every class gets the share `smoothing` / K."""
    hard = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    if not smoothing:
        return hard
    even = -jax.nn.log_softmax(logits).mean(-1)
    return (1 - smoothing) * hard + smoothing * even


def no_metrics() -> Metrics:
    return Metrics(*(jnp.zeros((), jnp.float32) for _ in Metrics._fields))


def count_metrics(logits: Float[Array, "B K"], labels: Int[Array, " B"]) -> Metrics:
    """Of the samples whose label is not that of padding."""
    counts = (labels != PADDING).astype(jnp.float32)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(labels, 0))
    correct = (jnp.argmax(logits, -1) == labels).astype(jnp.float32)  # which no padding is
    return Metrics(jnp.where(counts > 0, losses, 0).sum(), correct.sum(), counts.sum())


@partial(jax.jit, static_argnames=("network", "statistics"))
def _batch_metrics(network: nn.Module, statistics: Statistics, variables, images, labels) -> Metrics:
    return count_metrics(network.apply(variables, normalise(images, statistics), train=False), labels)  # type: ignore[arg-type]


def loss_and_accuracy(
    network: nn.Module, variables: Any, split: Split | Stream, statistics: Statistics, batch_size: int = 256
) -> tuple[float, float]:
    """On a split, each sample counted once.

    Args:
        network: takes normalised images [B, H, W, C].
        variables: its variables.
        split: images and labels.
        statistics: what the images are normalised by.
        batch_size: samples at a time.

    Returns:
        The mean cross-entropy in nats, and the share of samples that are classified correctly.
    """
    metrics = no_metrics()
    for batch in read_in_order(split, batch_size):
        images, labels = map(devices.distribute, batch)
        metrics += _batch_metrics(network, statistics, variables, images, labels)
    return metrics.mean()


def check_experiment(config: Config, dataset: Dataset) -> None:
    """Raises what training would raise at its start, before anything is written."""
    plan = make_plan(config, dataset)
    state = jax.eval_shape(lambda: initial_state(plan))
    size = config.training.batch_size // config.optimizer.micro_batches
    shape = (config.optimizer.micro_batches, size)
    images = jax.ShapeDtypeStruct((*shape, *plan.image_shape), dataset.train.image_dtype)
    jax.eval_shape(partial(train_step, plan), state, images, jax.ShapeDtypeStruct(shape, jnp.int32))
