"""Early stop: each sample leaves the simulation once its answer is confident enough."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gnsnn_jax._types import Array, Bool, Float, Int
from gnsnn_jax.conversion.to_spiking import SpikingFunction
from gnsnn_jax.errors import InputError


class Answers(NamedTuple):
    """The outputs of each sample, summed over the steps that it took, and how many these were, the probe included."""

    outputs: Float[np.ndarray, "B K"]
    latency: Int[np.ndarray, " B"]


def stop_when(confidence: float) -> Callable[[SpikingFunction], EarlyStop]:
    """Lets each sample leave a simulation after the first step t at which it is confident.

        max_k softmax(sum_{s <= t} outputs_s)_k >= confidence

    `stop_when(0.9)(to_spiking(...))` takes the arguments of the network, all of them arrays or trees of
    them and the last a batch [B, ...], and returns `Answers`. A sample that never gets there answers after
    `steps`. Between chunks the batch shrinks to half its size whenever so few samples are left, so that
    their going saves time; a batch of B compiles log2(B) sizes at most. Not to be put under `jit`, which
    does not know when samples go. Raises InputError unless 0 < confidence <= 1, for inputs with a
    time axis, and for a network whose outputs or populations have no batch in front.
    Li, Jones, Furber 2023, arXiv 2303.10276.
    """
    if not 0 < confidence <= 1:
        raise InputError(f"confidence must be above 0 and at most 1, got {confidence}")
    return partial(EarlyStop, float(confidence))


def confidence_of(sums: Float[Array, "*shape K"]) -> Float[Array, "*shape"]:
    """The probability of the most likely class, as summed outputs have it."""
    return jax.nn.softmax(sums).max(-1)


class _Sums(NamedTuple):
    """Outputs summed over the first `steps` steps of each sample: up to its first confident one, or to `now`."""

    outputs: Array
    steps: Array
    confident: Array
    now: Array


@dataclass(frozen=True)
class EarlyStop:
    """What `stop_when` makes of a spiking network."""

    confidence: float
    spiking: SpikingFunction

    def __call__(self, *args: Any) -> Answers:
        *shared, batch = args
        sums, potentials = _first_chunk(self, shared, batch)
        _check_batched(len(batch), sums.outputs, potentials)
        answers = Answers(np.zeros(sums.outputs.shape, np.float32), np.zeros(len(batch), np.int32))
        samples, gone = np.arange(len(batch)), np.zeros(len(batch), bool)  # in each place of the batch
        while True:
            leaving = ~gone & (np.asarray(sums.confident) | (int(sums.now) == self.spiking.steps))
            answers.outputs[samples[leaving]] = np.asarray(sums.outputs)[leaving]
            answers.latency[samples[leaving]] = np.asarray(sums.steps)[leaving] + self.spiking.probe_steps
            gone |= leaving
            if gone.all():
                return answers
            kept = _kept(gone)
            if len(kept) < len(gone):
                samples, gone = samples[kept], gone[kept]
                batch, potentials, outputs = _take((batch, potentials, sums.outputs), kept)
                sums = sums._replace(outputs=outputs)
            sums, potentials = _next_chunk(self, shared, batch, potentials, sums.outputs, sums.now)


def _kept(gone: Bool[np.ndarray, " B"]) -> Int[np.ndarray, " b"]:
    """The places of a batch halved as often as leaves room for all samples that stay; they come first."""
    size, staying = len(gone), len(gone) - gone.sum()
    while -(-size // 2) >= staying and size > 1:
        size = -(-size // 2)
    return np.argsort(gone, stable=True)[:size] if size < len(gone) else np.arange(size)


@partial(jax.jit, static_argnums=0)
def _first_chunk(stop: EarlyStop, shared: list, batch: Any) -> tuple[_Sums, list[Array]]:
    outputs, potentials = stop.spiking.first_chunk(*shared, batch)
    if not isinstance(outputs, jax.Array) or outputs.ndim != 3:
        raise InputError("stop_when takes a network whose output is one array [batch, classes]")
    outputs = outputs[: stop.spiking.steps]
    return _judge(stop.confidence, jnp.zeros_like(outputs[0]), jnp.int32(0), outputs), potentials


@partial(jax.jit, static_argnums=0)
def _next_chunk(
    stop: EarlyStop, shared: list, batch: Any, potentials: list[Array], before: Array, now: Array
) -> tuple[_Sums, list[Array]]:
    outputs, potentials = stop.spiking.next_chunk(potentials, *shared, batch)
    return _judge(stop.confidence, before, now, outputs), potentials


def _judge(confidence: float, before: Array, now: Array, outputs: Array) -> _Sums:
    """`before` and `outputs` [n, B, K] of the n steps after it, summed."""
    sums = before[None] + jnp.cumsum(outputs, 0)
    confident = confidence_of(sums) >= confidence
    ever, last = confident.any(0), len(outputs) - 1
    step = jnp.where(ever, jnp.argmax(confident, 0), last)
    chosen = jnp.take_along_axis(sums, step[None, :, None], 0)[0]
    return _Sums(chosen, now + step + 1, ever, now + len(outputs))


@jax.jit
def _take(tree: Any, places: Array) -> Any:
    return jax.tree.map(lambda array: array[places], tree)


def _check_batched(samples: int, outputs: Array, potentials: list[Array]) -> None:
    shapes = [outputs.shape, *(potential.shape for potential in potentials)]
    wrong = [shape for shape in shapes if not shape or shape[0] != samples]
    if wrong:
        raise InputError(
            f"stop_when needs the batch of {samples} in front of all outputs and populations, and one has the shape "
            f"{wrong[0]}; give the batch as the last argument"
        )
