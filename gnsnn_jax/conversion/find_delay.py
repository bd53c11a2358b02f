"""How many steps pass until the last layer gets spikes, for a read-out that begins there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gnsnn_jax._types import Array
from gnsnn_jax.conversion.converted_function import converted_function
from gnsnn_jax.conversion.to_spiking import SpikingFunction
from gnsnn_jax.engine.batches import Batches
from gnsnn_jax.engine.graph import Operation, evaluate
from gnsnn_jax.engine.simulation import evaluated_once
from gnsnn_jax.engine.tracing import Others, parted
from gnsnn_jax.errors import InputError


def find_delay(snn: Callable, batches: Iterable[Any], *, variables: Any = None) -> int:
    """The steps until each layer in turn can have fired for the first time, for `accuracy_over_time(..., delay=)`.

        t_0 = sum over populations of (u - v(0)) / max_i E[max(a_i, 0)],   rounded to whole steps

    with the currents a_i of the network itself, averaged over samples for each neuron i, the unit u that the neurons
    send and the potential v(0) that they start from; for encoders |a_i|. Populations that never get a positive current
    are left out.

    Args:
        snn: what `to_spiking` returned, or `jax.jit` of it.
        batches: each holds the arguments of `snn` after `variables`, as in `find_thresholds`.
        variables: the first argument of `snn`, the same for all batches.

    Returns:
        The number of steps, at least 0.

    Raises:
        InputError: for no batches, and for what is no batch or none that the network takes.
        TypeError: where `snn` is not a converted network.

    Bu, Li, Yu, CVPR 2025, arXiv 2409.03368, which reads out from t_0 on, and the last 4 steps if there are fewer.
    """
    given, spiking = Batches(batches, variables, "find_delay(snn, {})"), converted_function(snn)
    means, waits, count = [], [], 0
    for args in given.arguments():
        arrays, others = parted(args, {})
        found, waits = _currents(spiking, others, arrays)
        means.append([np.asarray(each, np.float64) for each in found])
        count += 1
    largest = [sum(parts).max() / count for parts in zip(*means, strict=True)]
    steps = [float(wait) / most for wait, most in zip(waits, largest, strict=True) if most > 0]
    if not np.isfinite(steps).all():
        raise InputError("the currents hold NaN or infinity on these batches; look for it in the data and the weights")
    return round(sum(steps))


@partial(jax.jit, static_argnames=("spiking", "others"))
def _currents(spiking: SpikingFunction, others: Others, arrays: Sequence[Any]) -> tuple[list[Array], list[Array]]:
    """The mean positive current of each neuron of each population, and the least that makes one fire."""
    args, _ = others.around(arrays)
    traced = spiking.traced(*args)
    populations, values = traced.network.populations, evaluated_once(traced.network, traced.inputs)
    currents = evaluate(traced.network.ann, traced.inputs, [each.inputs[0] for each in populations])
    means = [_mean(each, jnp.asarray(current)) for each, current in zip(populations, currents, strict=True)]
    return means, [_lacking(spiking, each, jnp.asarray(values[each.inputs[1]], jnp.float32)) for each in populations]


def _mean(population: Operation, currents: Array) -> Array:
    positive = jnp.abs(currents) if population.activation.kind == "encoder" else jnp.maximum(currents, 0)
    return positive.astype(jnp.float32).mean(0)


def _lacking(spiking: SpikingFunction, population: Operation, threshold: Array) -> Array:
    """u - v(0), on average over channels."""
    neuron = spiking.neuron_at(population)
    return (neuron.unit(threshold) - neuron.potential(neuron.init(threshold, threshold.shape))).mean()
