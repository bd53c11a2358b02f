"""What of a network depends on the data, and how.

The operations behind weights carry currents. An activation takes a current that is linear in the values of the
layers before it; where something else that is not linear lies between, such as the square root in a norm, the
current is called bent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from jax.extend.core import JaxprEqn

from gnsnn_jax.engine.graph import Network, Operation, Slot, reached_from
from gnsnn_jax.engine.jaxprs import has_own_gradient, holds_jaxprs
from gnsnn_jax.engine.patterns import is_activation_anywhere
from gnsnn_jax.engine.rules import applies_weights, is_linear
from gnsnn_jax.method.activations import qcfs_p

_MADE_OF_BITS = ("random_bits", "bitcast_convert_type")  # random numbers, which are no currents


class Dependence(NamedTuple):
    """The slots of a network that depend on the data.

    Args:
        given: all of them.
        currents: those behind weights or behind an activation that is one wherever it stands.
        bent: those behind something that is not linear, with neither weights nor such an activation after it.
    """

    given: set[Slot]
    currents: set[Slot]
    bent: set[Slot]


def dependence_of(network: Network) -> Dependence:
    """What depends on the data.

    Args:
        network: with or without marks at its activations. Its parameters are no data, and random numbers are made of
            none; what `qcfs` returns always counts.

    Returns:
        Sets of slots.
    """
    data = set(network.inputs) - network.parameters
    data.update(slot for each in network.operations if each.eqn.primitive is qcfs_p for slot in each.outputs)
    given = reached_from([each for each in network.operations if not _is_made_of_bits(each)], data)
    operations = [each for each in network.operations if not given.isdisjoint(each.outputs)]
    currents = reached_from(operations, _outputs([each for each in operations if _is_layer(each)]))
    others = [each for each in operations if not _is_layer(each) or _multiplies_currents(each, currents)]
    bent = reached_from(others, _outputs([each for each in others if bends(each.eqn, each.reads(given))]))
    return Dependence(given, currents, bent)


def feeds_layers(network: Network, operation: Operation) -> bool:
    """Whether weights, another activation or the outputs read a value, and not only what is not linear in it.

    The variance in a norm is cut off at 0 too, but goes on into a square root.

    Args:
        network: with or without marks at its activations.
        operation: one of it, which makes the value.
    """
    passes = lambda each, positions: not _is_layer(each) and not bends(each.eqn, positions)
    reached = reached_from(network.operations, operation.outputs, passes)
    readers = [each for each in network.operations if each.reads(reached)]
    if any(map(_is_layer, readers)):
        return True
    return not any(bends(each.eqn, each.reads(reached)) for each in readers) and not reached.isdisjoint(network.outputs)


def bends(eqn: JaxprEqn, positions: Sequence[int]) -> bool:
    """Whether an operation is not linear in the operands at these positions; loops and branches count as linear."""
    return has_own_gradient(eqn) or (not holds_jaxprs(eqn) and not is_linear(eqn, positions))


def bends_currents(operation: Operation, dependence: Dependence) -> bool:
    """Whether an operation behind weights is not linear in the data."""
    is_behind = not dependence.currents.isdisjoint(operation.inputs)
    return is_behind and bends(operation.eqn, operation.reads(dependence.given))


def _is_made_of_bits(operation: Operation) -> bool:
    return operation.eqn.primitive.name in _MADE_OF_BITS


def _is_layer(operation: Operation) -> bool:
    """Whether it applies weights or is an activation wherever it stands."""
    return applies_weights(operation.eqn) or is_activation_anywhere(operation.eqn)


def _multiplies_currents(operation: Operation, currents: set[Slot]) -> bool:
    """Whether it is a product like that of weights, but of two currents."""
    return not is_activation_anywhere(operation.eqn) and len(currents.intersection(operation.inputs)) > 1


def _outputs(operations: Sequence[Operation]) -> set[Slot]:
    return {slot for operation in operations for slot in operation.outputs}
