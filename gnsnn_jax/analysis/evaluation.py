"""A spiking network over a whole test split: predictions and spikes at each time-step."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gnsnn_jax._types import Array, Float, Int, Shaped
from gnsnn_jax.analysis.accuracy import predictions_over_time
from gnsnn_jax.conversion import SpikingFunction


class Evaluation(NamedTuple):
    """What every sample got, after 1..T steps."""

    predictions: Int[np.ndarray, "T N"]
    spikes: Float[np.ndarray, "T N"]  # unit spikes of all neurons so far
    neurons: int

    def accuracy(self, labels: Int[np.ndarray, " N"], steps: int) -> float:
        return float(np.mean(self.predictions[steps - 1] == labels))

    def spikes_per_neuron(self, steps: int) -> float:
        """Unit spikes that a neuron emits for one sample, on average."""
        return float(self.spikes[steps - 1].mean() / self.neurons)


Prepare = Callable[[Array], Array]


def evaluate_over_time(
    spiking: SpikingFunction,
    variables: Any,
    images: Shaped[np.ndarray, "N H W C"],
    prepare: Prepare,
    batch_size: int = 256,
    on_batch: Callable[[int], None] = lambda samples: None,
) -> Evaluation:
    """Runs each image once, in batches; `prepare` turns stored images into the network's inputs.

    A population that emits k units in a step counts k unit spikes. `prepare` must be hashable, so
    that one compilation serves equal settings.
    """
    predictions, spikes = [], []
    neurons = _count_neurons(spiking, prepare, variables, images[:1])
    for start in range(0, len(images), batch_size):
        part = images[start : start + batch_size]
        found = _evaluate_batch(spiking, prepare, variables, part)
        predictions.append(np.asarray(found[0]))
        spikes.append(np.asarray(found[1]))
        on_batch(len(part))
    return Evaluation(np.concatenate(predictions, 1), np.cumsum(np.concatenate(spikes, 1), 0), neurons)


def predict(ann: Callable, variables: Any, images: np.ndarray, prepare: Prepare, batch_size: int = 256) -> np.ndarray:
    """The classes that the network itself predicts."""
    classes = jax.jit(lambda variables, part: jnp.argmax(ann(variables, prepare(part)), -1))
    starts = range(0, len(images), batch_size)
    return np.concatenate([classes(variables, images[start : start + batch_size]) for start in starts])


def _unit_spikes(members: int, spikes: Array, threshold: Array) -> tuple[Array]:
    """Unit spikes of each sample [T, B]."""
    units = spikes * (members / threshold)[None]
    return units.sum(tuple(range(2, units.ndim)))


@partial(jax.jit, static_argnames=("spiking", "prepare"))
def _evaluate_batch(spiking: SpikingFunction, prepare: Prepare, variables: Any, images: Array):
    observe = partial(_unit_spikes, spiking.neuron.members)
    outputs, counts = spiking.observed(observe)(variables, prepare(images))
    return predictions_over_time(outputs), sum(counts)


def _count_neurons(spiking: SpikingFunction, prepare: Prepare, variables: Any, images: Array) -> int:
    """Neurons per sample, from shapes alone."""
    whole = spiking.observed(lambda spikes, threshold: spikes)
    _, spikes = jax.eval_shape(lambda variables, images: whole(variables, prepare(images)), variables, images)
    return sum(int(np.prod(train.shape[2:])) for train in spikes)
