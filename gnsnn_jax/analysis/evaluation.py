"""A spiking network over a whole test split: predictions and spikes at each time-step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gnsnn_jax._types import Array, Float, Int
from gnsnn_jax.conversion.answers import classes_of, confidence_of
from gnsnn_jax.conversion.converted_function import converted_function
from gnsnn_jax.conversion.to_spiking import SpikingFunction
from gnsnn_jax.data.batches import PADDING
from gnsnn_jax.data.sets import Split, read_in_order
from gnsnn_jax.data.streaming import Stream
from gnsnn_jax.dtypes import sum_type, summed_over_time
from gnsnn_jax.engine.graph import Operation
from gnsnn_jax.engine.simulation import Observer
from gnsnn_jax.runtime import devices


class Evaluation(NamedTuple):
    """What every sample got, after 1..T steps."""

    labels: Int[np.ndarray, " N"]
    predictions: Int[np.ndarray, "T N"]
    spikes: Float[np.ndarray, "T N"]  # unit spikes of all neurons so far
    confidences: Float[np.ndarray, "T N"]
    neurons: int

    def accuracy(self, steps: int) -> float:
        return self.agreement(self.labels, steps)

    def agreement(self, classes: Int[np.ndarray, " N"], steps: int) -> float:
        """Share of the samples for which these classes are predicted."""
        return float(np.mean(self.predictions[steps - 1] == classes))

    def stopped_when(self, confidence: float) -> tuple[float, float]:
        """Accuracy and average number of steps, if each sample stops once it is confident, as under `stop_when`."""
        confident = self.confidences >= confidence
        step = np.where(confident.any(0), confident.argmax(0), len(confident) - 1)
        predictions = np.take_along_axis(self.predictions, step[None], 0)[0]
        return float(np.mean(predictions == self.labels)), float(step.mean() + 1)

    def spikes_per_neuron(self, steps: int) -> float:
        """Unit spikes that a neuron emits for one sample, on average."""
        return float(self.spikes[steps - 1].mean() / self.neurons)


Prepare = Callable[[Array], Array]
LONGEST_CALL = 32  # time-steps that one call simulates: a longer simulation tells how far it is, and can be stopped


def evaluate_over_time(
    spiking: Callable,
    variables: Any,
    split: Split | Stream,
    prepare: Prepare,
    batch_size: int = 256,
    on_batch: Callable[[int], None] = lambda samples: None,
    on_steps: Callable[[int], None] = lambda steps: None,
) -> Evaluation:
    """Runs each sample once, in batches over all devices; `prepare` turns stored images into the network's inputs.

    `spiking` is what `to_spiking` returned, under `jax.jit` or not; predictions and confidences are those of its
    summed outputs, as `accuracy_over_time` and `stop_when` have them. A population that emits k units in a step
    counts k unit spikes. `on_batch` is called with the samples that are done since the last call; `on_steps`, where
    there are more than LONGEST_CALL time-steps, with those of the batch that are done. `prepare` must be hashable, so
    that one compilation serves equal settings.
    """
    spiking = converted_function(spiking)
    variables, found = devices.replicate(variables), []
    for batch in read_in_order(split, batch_size):
        images, truth = map(devices.distribute, batch)
        whole = spiking.steps <= LONGEST_CALL or spiking.time_axes is not None
        evaluate = _evaluate_batch if whole else partial(_evaluate_in_parts, on_steps)
        found.append(_without_padding(*evaluate(spiking, prepare, variables, images, truth)))
        on_batch(len(found[-1][0]))
    labels, predictions, spikes, confidences = (np.concatenate(parts, -1) for parts in zip(*found, strict=True))
    neurons = _count_neurons(spiking, prepare, variables, images)
    return Evaluation(labels, predictions, np.cumsum(spikes, 0), confidences, neurons)


def predict(
    ann: Callable, variables: Any, split: Split | Stream, prepare: Prepare, batch_size: int = 256
) -> Int[np.ndarray, " N"]:
    """The classes that the network itself predicts: of outputs [B, 1] their sign, as of a spiking network."""
    return labels_and_predictions(ann, variables, split, prepare, batch_size)[1]


def labels_and_predictions(
    ann: Callable, variables: Any, split: Split | Stream, prepare: Prepare, batch_size: int = 256
) -> tuple[Int[np.ndarray, " N"], Int[np.ndarray, " N"]]:
    """The labels of a split, and what `predict` returns."""

    @jax.jit
    def classes(variables, images, labels):
        return jax.lax.with_sharding_constraint((labels, classes_of(ann(variables, prepare(images)))), on_all)

    on_all, variables, found = devices.on_all(), devices.replicate(variables), []
    for batch in read_in_order(split, batch_size):
        found.append(_without_padding(*classes(variables, *map(devices.distribute, batch))))
    labels, predictions = map(np.concatenate, zip(*found, strict=True))
    return labels, predictions


def _without_padding(labels: Array, *values: Array | np.ndarray) -> list[np.ndarray]:
    """Labels [B] and values [..., B] of the samples that are none."""
    kept = np.asarray(labels) != PADDING
    return [np.asarray(value)[..., kept] for value in (labels, *values)]


@partial(jax.jit, static_argnames=("spiking", "prepare"))
def _evaluate_batch(spiking: SpikingFunction, prepare: Prepare, variables: Any, images: Array, labels: Array):
    """Labels [B], and predictions, unit spikes and confidences [T, B], on every device."""
    outputs, counts = _counted(spiking)(variables, prepare(images))
    found, _ = _answers(outputs, counts, jnp.zeros((), sum_type(outputs.dtype)))
    return _on_all(labels), *found


def _evaluate_in_parts(
    on_steps, spiking: SpikingFunction, prepare: Prepare, variables: Any, images: Array, labels: Array
):
    """The same in calls of at most LONGEST_CALL time-steps, unless the probe takes more, from sums so far."""
    one, sums, state = (spiking, prepare, variables, images), None, None
    parts, done = [], 0
    while done < spiking.steps:
        left = -(-(spiking.steps - done) // spiking.longest_chunk)
        chunks = min(left, max(1, LONGEST_CALL // spiking.longest_chunk))
        found, sums, state = _next_part(*one, sums, state, chunks) if done else _first_part(*one)
        parts.append([np.asarray(each) for each in found])
        done += len(parts[-1][0])
        on_steps(min(done, spiking.steps))
    return _on_all(labels), *(np.concatenate(part)[: spiking.steps] for part in zip(*parts, strict=True))


@jax.jit
def _on_all(labels: Array) -> Array:
    return jax.lax.with_sharding_constraint(labels, devices.on_all())


@partial(jax.jit, static_argnames=("spiking", "prepare"))
def _first_part(spiking: SpikingFunction, prepare: Prepare, variables: Any, images: Array):
    """Of the first chunk: predictions, unit spikes and confidences [n, B]; the sums and the state after it."""
    (outputs, counts), state = _counted(spiking).first_chunk(variables, prepare(images))
    return *_answers(outputs, counts, jnp.zeros((), sum_type(outputs.dtype))), state


@partial(jax.jit, static_argnames=("spiking", "prepare", "chunks"))
def _next_part(
    spiking: SpikingFunction, prepare: Prepare, variables: Any, images: Array, sums: Array, state: Any, chunks: int
):
    """The same of several chunks after it."""
    images = prepare(images)

    def one_chunk(state, _):
        found, state = _counted(spiking).next_chunk(state, variables, images)
        return state, found

    state, found = jax.lax.scan(one_chunk, state, length=chunks)
    outputs, counts = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), found)
    return *_answers(outputs, counts, sums[None]), state


def _counted(spiking: SpikingFunction) -> SpikingFunction:
    """Beside the outputs, the spikes that each population sends for each sample [T, B]."""

    def start(operation: Operation) -> Any:
        return spiking.neuron_at(operation).nothing_sent(operation.shape) if operation.is_activation else None

    def look(memory: Any, operation: Operation, inputs: Sequence[Any], outputs: Sequence[Array]) -> tuple[Any, Any]:
        if not operation.is_activation:
            return memory, None
        threshold = jnp.asarray(inputs[1], jnp.float32)
        memory, spikes = spiking.neuron_at(operation).sent(memory, outputs[0], threshold)
        return memory, spikes.sum(tuple(range(2, spikes.ndim)))

    return spiking.observed(Observer(start, look, sees_currents=False))


def _answers(outputs: Array, counts: list[Array], before: Array) -> tuple:
    sums = before + summed_over_time(outputs)
    found = classes_of(sums), sum(counts), confidence_of(sums)
    return jax.lax.with_sharding_constraint(found, devices.on_all()), sums[-1]


def _count_neurons(spiking: SpikingFunction, prepare: Prepare, variables: Any, images: Array) -> int:
    """Neurons per sample, from shapes alone."""
    whole = spiking.observed(lambda spikes, site: spikes)
    _, spikes = jax.eval_shape(lambda variables, images: whole(variables, prepare(images)), variables, images)
    return sum(int(np.prod(train.shape[2:])) for train in spikes)
