"""What runs on means or sums of spikes, and so is evaluated in full at every time-step."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from math import prod
from typing import NamedTuple

from jax.extend.core import JaxprEqn

from gnsnn_jax.analysis.layers import is_product
from gnsnn_jax.engine.graph import Operation, Slot
from gnsnn_jax.engine.jaxprs import called_by, type_of
from gnsnn_jax.engine.rules import known_rule_of
from gnsnn_jax.engine.split import SpikingNetwork
from gnsnn_jax.engine.views import How, View


class MeanOperations(NamedTuple):
    """Elementary operations of one sample at each time-step.

    products        multiply-accumulates of products of two spike trains, as in attention
    elementwise     of what is not linear, such as exponentials and the comparisons of max-pooling, and of the additions
                    and multiplications between
    changes         of changes between spikes and means: one for each value whose mean is taken, and one for each whose
                    increment is
    """

    products: int = 0
    elementwise: int = 0
    changes: int = 0


def mean_operations(network: SpikingNetwork, layers: Collection[tuple[Slot, ...]]) -> MeanOperations:
    """Counts them.

    Args:
        network: of one trace.
        layers: the outputs of its layers, which are counted elsewhere.
    """
    running = [each for each in network.dynamic if each.outputs not in layers and runs_on_means(network, each)]
    products = [each for each in network.dynamic if each.outputs not in layers and is_product(network, each)]
    elementwise = [each for each in running if not is_product(network, each)]
    samples = network.populations[0].shape[:1] or (1,)
    totals = _work(products), _work(elementwise), sum(_changes(network))
    return MeanOperations(*(-(-total // samples[0]) for total in totals))


def runs_on_means(network: SpikingNetwork, operation: Operation) -> bool:
    """Whether an operation reads or makes means or sums."""
    if operation.is_activation:
        return False
    makes_means = any(network.views.get(slot) is View.MEANS for slot in operation.outputs)
    return makes_means or network.how[operation.outputs] is not How.LINEAR


def summed_slots(network: SpikingNetwork) -> list[Slot]:
    """The increments that are added up, as an operation reads their means or sums."""
    read = (slot for each in network.dynamic if runs_on_means(network, each) for slot in each.inputs)
    return list(dict.fromkeys(slot for slot in read if network.views.get(slot) is View.INCREMENTS))


def _work(operations: list[Operation]) -> int:
    return sum(_work_of(operation.eqn) for operation in operations)


def _work_of(eqn: JaxprEqn) -> int:
    called = called_by(eqn)
    return known_rule_of(eqn).work(eqn) if called is None else sum(map(_work_of, called.jaxpr.eqns))


def _changes(network: SpikingNetwork) -> Iterator[int]:
    """Of each value that changes its view, how many it has."""
    sizes = _sizes(network)
    yield from (sizes[slot] for slot in summed_slots(network))
    yield from (sizes[slot] for slot in _differences(network))


def _differences(network: SpikingNetwork) -> set[Slot]:
    """The values whose increments are taken of their means or sums."""
    read = {*(each.inputs[0] for each in network.populations), *network.outputs}
    of_means = {slot for slot in read if network.views.get(slot) is View.MEANS}
    of_sums = (each.outputs for each in network.dynamic if network.how.get(each.outputs) is How.OF_SUMS)
    return of_means.union(*of_sums)


def _sizes(network: SpikingNetwork) -> dict[Slot, int]:
    made = [pair for each in network.dynamic for pair in zip(each.outputs, each.eqn.outvars, strict=True)]
    others = [each for each in network.dynamic if not each.is_activation]
    read = [pair for each in others for pair in zip(each.inputs, each.eqn.invars, strict=True)]
    return {slot: prod(type_of(var).shape) for slot, var in (*read, *made)}
