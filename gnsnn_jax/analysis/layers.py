"""Which operations of a traced network are layers: those that multiply data by weights."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gnsnn_jax.analysis.coefficients import is_weighted
from gnsnn_jax.engine.graph import Operation, Slot, reached_from
from gnsnn_jax.engine.jaxprs import CONTROL_FLOW, applies, called_by
from gnsnn_jax.engine.rules import applies_weights
from gnsnn_jax.engine.split import How, SpikingNetwork
from gnsnn_jax.errors import InputError


class WeightedOperation(NamedTuple):
    """An operation with weights, in one trace.

    Args:
        name: path of its module where the framework leaves one, else file and line; unique. It is the same in every
            trace of the same code.
        operation: of the trace.
        operand: which of its inputs is the data.
    """

    name: str
    operation: Operation
    operand: int

    @property
    def read(self) -> Slot:
        return self.operation.inputs[self.operand]

    @property
    def weights(self) -> Slot:
        return self.operation.inputs[1 - self.operand]


def given_of(network: SpikingNetwork, is_data: Sequence[bool]) -> set[Slot]:
    """What depends on the data and does not vary in time."""
    inputs = zip(network.inputs, is_data, strict=True)
    given = {slot for slot, data in inputs if data and slot not in network.varying}
    return reached_from(network.static, given)


def layers_of(network: SpikingNetwork, given: set[Slot]) -> list[WeightedOperation]:
    """The layers of a network, those that are evaluated once in front.

    Args:
        network: of one trace.
        given: what `given_of` found.

    Raises:
        InputError: for loops and calls that hide weights, or connections that are to be counted.
    """
    _refuse_hidden(network, given)
    made_of = _may_make_weights(network)
    found = [
        (operation, operand)
        for operation in (*network.static, *network.dynamic)
        if (operand := _operand(network, operation, given, made_of)) is not None
    ]
    names = unique_names([name_of(operation) for operation, _ in found])
    return [WeightedOperation(name, *each) for name, each in zip(names, found, strict=True)]


def is_product(network: SpikingNetwork, operation: Operation) -> bool:
    """Whether it multiplies two spike trains as a layer multiplies data by weights."""
    return is_weighted(operation) and len(operation.reads(network.varying)) > 1


def _may_make_weights(network: SpikingNetwork) -> set[Slot]:
    """Arguments of the network, arrays that it closes over, and what is made of them."""
    closed_over = (slot for slot, value in network.constants.items() if np.ndim(value))
    return reached_from(network.static, {*network.inputs, *closed_over}) - network.varying.keys()


def _operand(network: SpikingNetwork, operation: Operation, given: set[Slot], made_of: set[Slot]) -> int | None:
    """Which input of a layer is the data; None for what is no layer."""
    data = operation.reads(network.varying) or operation.reads(given)
    if operation.is_activation or not data or not is_weighted(operation) or is_product(network, operation):
        return None
    return data[0] if operation.inputs[1 - data[0]] in made_of else None


def _refuse_hidden(network: SpikingNetwork, given: set[Slot]) -> None:
    for operation in network.static:
        if operation.reads(given) and applies_weights(operation.eqn):
            _refuse_if_hidden(operation)
    for operation in network.dynamic:
        if not operation.is_activation and not _is_seen_as_one(network, operation):
            _refuse_if_hidden(operation)


def _is_seen_as_one(network: SpikingNetwork, operation: Operation) -> bool:
    """Whether it is a call without weights that runs on means, of which the operations are counted and nothing else."""
    eqn, runs_on_means = operation.eqn, network.how[operation.outputs] is not How.LINEAR
    return runs_on_means and not applies_weights(eqn) and not applies(eqn, CONTROL_FLOW)


def _refuse_if_hidden(operation: Operation) -> None:
    eqn = operation.eqn
    if applies(eqn, CONTROL_FLOW) or called_by(eqn):
        place = operation.origin.inside(eqn).place or "unknown place"
        raise InputError(
            f"{place}: {eqn.primitive.name}: connections inside of it cannot be counted; write its layers out, one "
            "by one, to have operations and energy in the report"
        )


def name_of(operation: Operation) -> str:
    origin = operation.origin.inside(operation.eqn)
    return "/".join(origin.scope) or Path(origin.place or operation.eqn.primitive.name).name


def unique_names(names: Sequence[str]) -> list[str]:
    """Without the part of the module path that all begin with, which is the network itself; a name that occurs again
    gets the first number that makes it new."""
    paths = [name.split("/") for name in names]
    scopes = zip(*(path[:-1] for path in paths), strict=False)
    shared = sum(1 for _ in itertools.takewhile(lambda names: len(set(names)) == 1, scopes))
    taken: list[str] = []
    for name in ("/".join(path[shared:]) for path in paths):
        numbered = (f"{name}#{number}" for number in itertools.count(2))
        taken.append(next(each for each in itertools.chain([name], numbered) if each not in taken))
    return taken
