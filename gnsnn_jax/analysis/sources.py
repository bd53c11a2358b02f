"""Where the spikes of a network come from: its populations, and operations that pick some of the spikes of others.

What max-pooling makes of spikes is spikes again. Which of them it picks depends on the data, so that they are counted
where they leave it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from gnsnn_jax._types import Array
from gnsnn_jax.analysis.coefficients import Coefficients
from gnsnn_jax.analysis.layers import name_of, unique_names
from gnsnn_jax.analysis.mean_operations import runs_on_means
from gnsnn_jax.conversion.to_spiking import SpikingFunction
from gnsnn_jax.engine.graph import Operation, Slot
from gnsnn_jax.engine.split import How, SpikingNetwork
from gnsnn_jax.engine.units import Units


class Source(NamedTuple):
    """Spikes of one trace.

    Args:
        name: of the population, or of the module or line that picks; unique among each of these.
        operation: that makes them.
        most: units at one step.
        unit: the size of one of what is picked, [] or one for each value, 0 where it is not known.
    """

    name: str
    operation: Operation
    most: int
    unit: Array | None = None

    @property
    def slot(self) -> Slot:
        return self.operation.outputs[0]


def populations_of(spiking: SpikingFunction, network: SpikingNetwork) -> list[Source]:
    return [Source(each.activation.name, each, spiking.neuron_at(each).members) for each in network.populations]


def picks_of(spiking: SpikingFunction, network: SpikingNetwork, values: Mapping[Slot, Any]) -> list[Source]:
    """The operations that pick spikes.

    Args:
        spiking: the converted network.
        network: of one trace.
        values: of what does not vary in time, of the same trace.
    """
    if How.OF_SUMS not in network.how.values():
        return []
    units = Units(network, values, spiking.neuron_at).found
    picking = [each for each in network.dynamic if _picks(network, each) and each.outputs[0] in units]
    names = unique_names([name_of(each) for each in picking])
    found = [units[each.outputs[0]] for each in picking]
    return [Source(name, each, unit.most, unit.size) for name, each, unit in zip(names, picking, found, strict=True)]


def _picks(network: SpikingNetwork, operation: Operation) -> bool:
    return network.how.get(operation.outputs) is How.OF_SUMS and len(operation.outputs) == 1


class Kinds(NamedTuple):
    """What is made of spikes alone.

    Args:
        spiking: by what is linear, without weights between.
        plain: by what only moves them.
    """

    spiking: set[Slot]
    plain: set[Slot]


def kinds_of(coefficients: Coefficients, sources: Collection[Source], layers: Collection[tuple[Slot, ...]]) -> Kinds:
    """Follows the spikes of the sources as far as weights and what runs on means.

    Args:
        coefficients: of the network.
        sources: all that it has.
        layers: the outputs of its layers.
    """
    network, made = coefficients.network, {each.slot for each in sources}
    kinds = Kinds(set(made), set(made))
    for operation in network.dynamic:
        if operation.is_activation or operation.outputs in layers or runs_on_means(network, operation):
            continue
        arrived = [slot for slot in operation.inputs if slot in network.varying]
        if kinds.spiking.issuperset(arrived):
            kinds.spiking.update(operation.outputs)
        if kinds.plain.issuperset(arrived) and coefficients.keeps_apart(operation):
            kinds.plain.update(operation.outputs)
    return kinds
