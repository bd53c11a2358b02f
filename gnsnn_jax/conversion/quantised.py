"""The network that was converted, with quantised activations where neurons stand: what so many levels cost by
themselves, without time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax

from gnsnn_jax._types import Array
from gnsnn_jax.conversion.converted_function import converted_function
from gnsnn_jax.conversion.to_spiking import SpikingFunction
from gnsnn_jax.engine.graph import Network, Operation, evaluate
from gnsnn_jax.engine.split import SpikingNetwork
from gnsnn_jax.errors import at_least_one
from gnsnn_jax.method.activations import align, staircase


def quantised(spiking: Callable, levels: int) -> Callable:
    """The network that was converted, each of its populations replaced by an activation of so many levels.

        y = staircase(x + u/2, u, levels),   u = threshold / levels

    It is that of QCFS; where an encoder stands there are as many levels below 0 as above it. Thresholds are those of
    the neurons, and what has no neurons is computed as it is. Group neurons of as many members answer the same after
    one time-step.

    Args:
        spiking: what `to_spiking` returned, under `jax.jit` or not, without `time_axes`.
        levels: at least 1. The means of T steps of a neuron of m members have m T of them.

    Returns:
        A function with the arguments and the outputs of the network.

    Raises:
        InputError: for levels < 1.
        TypeError: where `spiking` is not a converted network.
    """
    spiking, levels = converted_function(spiking), at_least_one("levels", levels)

    def ann(*args, **kwargs):
        traced = spiking.traced(*args, **kwargs)
        outputs = evaluate(*as_graph(traced.network, traced.inputs), _activation_of(levels))
        return jax.tree.unflatten(traced.structure, outputs)

    return ann


def depth(spiking: SpikingFunction, *args: Any) -> int:
    """The most populations that follow one another between the inputs and the outputs.

    Args:
        spiking: a converted network.
        args: those of the network; `jax.ShapeDtypeStruct`s may stand for arrays.
    """
    network = spiking.traced(*args).network
    behind: dict[int, int] = {}
    for operation in (*network.static, *network.dynamic):
        before = max((behind.get(slot, 0) for slot in operation.inputs), default=0)
        behind.update(dict.fromkeys(operation.outputs, before + operation.is_activation))
    return max(behind.get(slot, 0) for slot in network.outputs)


def as_graph(found: SpikingNetwork, inputs: Sequence[Any]) -> tuple[Network, Sequence[Any], Sequence[int]]:
    """The network that neurons stand in, its activations with the thresholds of these."""
    operations = [*found.static, *map(_with_own_threshold, found.dynamic)]
    network = Network(found.inputs, found.outputs, found.constants, operations)
    return network, inputs, found.outputs


def _with_own_threshold(operation: Operation) -> Operation:
    if operation.activation is None:
        return operation
    return operation._replace(activation=operation.activation._replace(threshold=operation.inputs[1]))


def _activation_of(levels: int) -> Callable[[Operation, Sequence[Any]], Array]:
    def activate(operation: Operation, values: Sequence[Any]) -> Array:
        current, threshold = values
        unit = align(threshold.astype(current.dtype), current.shape, "threshold") / levels
        return staircase(current + unit / 2, unit, levels, signed=operation.activation.kind == "encoder")

    return activate
