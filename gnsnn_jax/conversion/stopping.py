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
from gnsnn_jax.conversion.answers import confidence_of
from gnsnn_jax.conversion.converted_function import converted_function
from gnsnn_jax.conversion.to_spiking import SpikingFunction
from gnsnn_jax.dtypes import sum_type, summed_over_time
from gnsnn_jax.engine.arrays import is_array
from gnsnn_jax.engine.batches import as_argument
from gnsnn_jax.engine.simulation import State
from gnsnn_jax.engine.tracing import Others, parted
from gnsnn_jax.errors import InputError


class Answers(NamedTuple):
    """The outputs of each sample, summed over the steps that it took, and how many these were, the probe included."""

    outputs: Float[np.ndarray, "B K"]
    latency: Int[np.ndarray, " B"]


def stop_when(confidence: float) -> Callable[[Callable], EarlyStop]:
    """Lets each sample leave a simulation after the first step t at which it is confident.

        max_k softmax(sum_{s <= t} outputs_s)_k >= confidence

    For a network with one output, [B, 1], confidence is max(p, 1 - p) with p = sigmoid(sum_{s <= t} outputs_s).
    A sample that never gets there answers after `steps`. Between chunks the batch shrinks to half its size whenever
    few enough samples are left; a batch of B compiles log2(B) sizes at most.

    Args:
        confidence: above 0 and at most 1.

    Returns:
        A function of a converted network, `stop_when(0.9)(to_spiking(...))`, under `jax.jit` or not. That returns a
        function of the arguments of the network, of which the last is a batch [B, ...] as `engine.batches.as_batch`
        has it, and that one returns `Answers`. Do not put it under `jit`, which does not know when samples leave.
        Inputs with a time axis have the batch as their first other axis.

    Raises:
        InputError: unless 0 < confidence <= 1, for a network that returns anything but one array [batch, classes],
            and for one whose populations have no batch in front.
        TypeError: for anything but a converted network.

    Li, Jones, Furber 2023, arXiv 2303.10276.
    """
    if not 0 < confidence <= 1:
        raise InputError(f"confidence must be above 0 and at most 1, got {confidence}")
    return partial(_stopping, float(confidence))


def _stopping(confidence: float, snn: Callable) -> EarlyStop:
    return EarlyStop(confidence, converted_function(snn))


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
        if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(args)):
            raise TypeError("stop_when cannot be under jax.jit and the like; put them around the network inside of it")
        count, batch, shared = _batch_and_shared(self.spiking, args)
        sums, state = _first_chunk(self, shared, batch)
        _check_batched(count, sums.outputs, state)
        answers = Answers(np.zeros(sums.outputs.shape, sums.outputs.dtype), np.zeros(count, np.int32))
        samples, gone = np.arange(count), np.zeros(count, bool)  # in each place of the batch
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
                of_samples, outputs = _take((_of_samples(state), sums.outputs), kept)
                batch = batch.of(kept)
                sums, state = sums._replace(outputs=outputs), state._replace(**of_samples)
            sums, state = _next_chunk(self, shared, batch, state, sums.outputs, sums.now)


@partial(jax.tree_util.register_dataclass, data_fields=["arrays"], meta_fields=["others"])
@dataclass(frozen=True)
class _Shared:
    """The arguments before the batch, of which `jit` traces the arrays and keeps the others."""

    arrays: list[Any]
    others: Others

    @property
    def args(self) -> tuple:
        return self.others.around(self.arrays)[0]


def _batch_and_shared(spiking: SpikingFunction, args: tuple) -> tuple[int, _Batch, _Shared]:
    """Number of samples, the batch and what all samples share."""
    batch = as_argument(args[-1]) if args else None
    arrays = [leaf for leaf in jax.tree.leaves(batch) if is_array(leaf)]
    if not arrays or not arrays[0].ndim:
        raise InputError("stop_when needs a batch [B, ...] as the last argument; give an array with a batch axis")
    times = spiking.time_axes_of(*args[:-1], batch)[-len(arrays) :]
    axes = tuple(int(time is not None and time % array.ndim == 0) for time, array in zip(times, arrays, strict=True))
    return arrays[0].shape[axes[0]], _Batch(batch, axes), _Shared(*parted(args[:-1], {}))


@partial(jax.tree_util.register_dataclass, data_fields=["argument"], meta_fields=["axes"])
@dataclass(frozen=True)
class _Batch:
    """The argument that holds the batch, and the axis of the samples in each of its arrays."""

    argument: Any
    axes: tuple[int, ...]

    def __len__(self) -> int:
        first = next(leaf for leaf in jax.tree.leaves(self.argument) if is_array(leaf))
        return first.shape[self.axes[0]]

    def of(self, places: Int[np.ndarray, " b"]) -> _Batch:
        """The samples at these places."""
        axes = iter(self.axes)
        take = lambda leaf: _take_along(leaf, places, next(axes)) if is_array(leaf) else leaf
        return _Batch(jax.tree.map(take, self.argument), self.axes)


def _kept(gone: Bool[np.ndarray, " B"]) -> Int[np.ndarray, " b"]:
    """The places of a batch halved as often as leaves room for all samples that stay; they come first."""
    size, staying = len(gone), len(gone) - gone.sum()
    while -(-size // 2) >= staying and size > 1:
        size = -(-size // 2)
    return np.argsort(gone, stable=True)[:size] if size < len(gone) else np.arange(size)


@partial(jax.jit, static_argnums=0)
def _first_chunk(stop: EarlyStop, shared: _Shared, batch: _Batch) -> tuple[_Sums, State]:
    outputs, state = stop.spiking.first_chunk(*shared.args, batch.argument)
    _check_outputs(outputs)
    outputs = outputs[: stop.spiking.steps]
    nothing = jnp.zeros(outputs.shape[1:], sum_type(outputs.dtype))
    return _judge(stop.confidence, nothing, jnp.int32(0), outputs), state


def _check_outputs(outputs: Any) -> None:
    if isinstance(outputs, jax.Array) and outputs.ndim == 3 and outputs.shape[-1]:
        return
    shapes = [list(leaf.shape[1:]) for leaf in jax.tree.leaves(outputs)]
    given = f"one of shape {shapes[0]}" if isinstance(outputs, jax.Array) else f"a {type(outputs).__name__} of {shapes}"
    raise InputError(
        f"stop_when takes a network whose output is one array [batch, classes], got {given}; convert a function that "
        "returns the classes alone"
    )


@partial(jax.jit, static_argnums=0)
def _next_chunk(
    stop: EarlyStop, shared: _Shared, batch: _Batch, state: State, before: Array, now: Array
) -> tuple[_Sums, State]:
    outputs, state = stop.spiking.next_chunk(state, *shared.args, batch.argument)
    return _judge(stop.confidence, before, now, outputs), state


def _judge(confidence: float, before: Array, now: Array, outputs: Array) -> _Sums:
    """`before` and `outputs` [n, B, K] of the n steps after it, summed."""
    sums = before[None] + summed_over_time(outputs)
    confident = confidence_of(sums) >= confidence
    ever, last = confident.any(0), len(outputs) - 1
    step = jnp.where(ever, jnp.argmax(confident, 0).astype(jnp.int32), last)
    chosen = jnp.take_along_axis(sums, step[None, :, None], 0)[0]
    return _Sums(chosen, now + step + 1, ever, now + len(outputs))


@partial(jax.jit, static_argnums=2)
def _take_along(array: Any, places: Array, axis: int) -> Array:
    return jnp.take(array, places, axis)


@jax.jit
def _take(tree: Any, places: Array) -> Any:
    return jax.tree.map(lambda array: array[places], tree)


def _of_samples(state: State) -> dict[str, Any]:
    """The parts of a state whose arrays have the batch in front."""
    return {"neurons": state.neurons, "carried": state.carried}


def _check_batched(samples: int, outputs: Array, state: State) -> None:
    shapes = [outputs.shape, *(leaf.shape for leaf in jax.tree.leaves(_of_samples(state)))]
    wrong = [shape for shape in shapes if not shape or shape[0] != samples]
    if wrong:
        raise InputError(
            f"stop_when needs the batch of {samples} in front of all outputs and populations, and one has the shape "
            f"{wrong[0]}; give the batch as the last argument"
        )
