"""A spiking network over a whole test split: predictions and spikes at each time-step."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gnsnn_jax._types import Array, Float, Int
from gnsnn_jax.conversion.answers import classes_of, confidence_of
from gnsnn_jax.conversion.converted_function import converted_function
from gnsnn_jax.conversion.sites import Site
from gnsnn_jax.conversion.to_spiking import SpikingFunction
from gnsnn_jax.data.batches import PADDING
from gnsnn_jax.data.sets import Split, read_in_order
from gnsnn_jax.data.streaming import Stream
from gnsnn_jax.dtypes import sum_type, summed_over_time
from gnsnn_jax.method.activations import align
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


def evaluate_over_time(
    spiking: Callable,
    variables: Any,
    split: Split | Stream,
    prepare: Prepare,
    batch_size: int = 256,
    on_batch: Callable[[int], None] = lambda samples: None,
) -> Evaluation:
    """Runs each sample once, in batches over all devices; `prepare` turns stored images into the network's inputs.

    `spiking` is what `to_spiking` returned, under `jax.jit` or not; predictions and confidences are those of its
    summed outputs, as `accuracy_over_time` and `stop_when` have them. A population that emits k units in a step
    counts k unit spikes. `prepare` must be hashable, so that one compilation serves equal settings.
    """
    spiking = converted_function(spiking)
    variables, found = devices.replicate(variables), []
    for batch in read_in_order(split, batch_size):
        images, labels = map(devices.distribute, batch)
        found.append(_without_padding(*_evaluate_batch(spiking, prepare, variables, images, labels)))
        on_batch(len(found[-1][0]))
    labels, predictions, spikes, confidences = (np.concatenate(parts, -1) for parts in zip(*found, strict=True))
    neurons = _count_neurons(spiking, prepare, variables, images)
    return Evaluation(labels, predictions, np.cumsum(spikes, 0), confidences, neurons)


def predict(
    ann: Callable, variables: Any, split: Split | Stream, prepare: Prepare, batch_size: int = 256
) -> Int[np.ndarray, " N"]:
    """The classes that the network itself predicts: of outputs [B, 1] their sign, as of a spiking network."""

    @jax.jit
    def classes(variables, images, labels):
        return jax.lax.with_sharding_constraint((labels, classes_of(ann(variables, prepare(images)))), on_all)

    on_all, variables, found = devices.on_all(), devices.replicate(variables), []
    for batch in read_in_order(split, batch_size):
        found.append(_without_padding(*classes(variables, *map(devices.distribute, batch)))[1])
    return np.concatenate(found)


def _without_padding(labels: Array, *values: Array) -> list[np.ndarray]:
    """Labels [B] and values [..., B] of the samples that are none."""
    kept = np.asarray(labels) != PADDING
    return [np.asarray(value)[..., kept] for value in (labels, *values)]


def _unit_spikes(members: int, spikes: Array, site: Site) -> Array:
    """Unit spikes of each sample [T, B]."""
    spikes = spikes.astype(sum_type(spikes.dtype))
    threshold = align(jnp.asarray(site.threshold, spikes.dtype), spikes.shape, "threshold")
    units = spikes * (members / threshold)
    return units.sum(tuple(range(2, units.ndim)))


@partial(jax.jit, static_argnames=("spiking", "prepare"))
def _evaluate_batch(spiking: SpikingFunction, prepare: Prepare, variables: Any, images: Array, labels: Array):
    """Labels [B], and predictions, unit spikes and confidences [T, B], on every device."""
    observe = partial(_unit_spikes, spiking.neuron.members)
    outputs, counts = spiking.observed(observe)(variables, prepare(images))
    sums = summed_over_time(outputs)
    found = labels, classes_of(sums), sum(counts), confidence_of(sums)
    return jax.lax.with_sharding_constraint(found, devices.on_all())


def _count_neurons(spiking: SpikingFunction, prepare: Prepare, variables: Any, images: Array) -> int:
    """Neurons per sample, from shapes alone."""
    whole = spiking.observed(lambda spikes, site: spikes)
    _, spikes = jax.eval_shape(lambda variables, images: whole(variables, prepare(images)), variables, images)
    return sum(int(np.prod(train.shape[2:])) for train in spikes)
