"""Which operations of a traced network are activations.

An activation is a call of `qcfs`, or a cut at 0 from below that `patterns` lists: one with its own gradient, such as
`jax.nn.relu` and `relu6`, wherever it stands, and behind weights `maximum(x, 0)`, `clip(x, 0, a)` and the others.
A cut before the weights keeps pixels in range, and one in a norm the variance: neither is an activation, and no cut
of parameters is.
"""

from __future__ import annotations

from jax.extend.core import ClosedJaxpr, JaxprEqn

from gnsnn_jax.engine.dependence import Dependence, bends_currents, dependence_of, feeds_layers
from gnsnn_jax.engine.graph import Activation, Network, Operation, entered
from gnsnn_jax.engine.jaxprs import inner_jaxprs
from gnsnn_jax.engine.names import named
from gnsnn_jax.engine.patterns import Cut, Reader, encloses_activation, is_activation_anywhere, upper_bound
from gnsnn_jax.method.activations import qcfs_p

__all__ = ["holds_activation", "network_of", "not_linear", "upper_bound"]


def network_of(traced: ClosedJaxpr) -> Network:
    """The operations of a traced network, with its activations marked and named.

    Args:
        traced: by `jax.make_jaxpr` or `tracing`. Calls are entered, and what the outputs do not need is left out.
    """
    network = entered(traced, encloses_activation)
    network.operations = named(_marked(network))
    return network


def holds_activation(eqn: JaxprEqn) -> bool:
    """Whether an operation that is not entered, such as a loop, has activations within it."""
    inside = (operation for body in inner_jaxprs(eqn) for operation in _marked(entered(body, encloses_activation)))
    return any(operation.is_activation or holds_activation(operation.eqn) for operation in inside)


def not_linear(network: Network) -> list[Operation]:
    """The operations behind weights that are not linear in the data and no activations.

    They stay analog in front of the first neurons. Where no activation is found, they are the candidates.

    Args:
        network: with its activations marked.
    """
    dependence = dependence_of(network)
    return [each for each in network.operations if _stays_analog(each, dependence)]


def _stays_analog(operation: Operation, dependence: Dependence) -> bool:
    if operation.is_activation or operation.absorbed or not operation.reads(dependence.given):
        return False
    return holds_activation(operation.eqn) or bends_currents(operation, dependence)


def _marked(network: Network) -> list[Operation]:
    """The operations with activations and their parts marked, without names."""
    dependence = dependence_of(network)
    reader = Reader(network, dependence.currents)
    found = {
        operation.outputs: cut
        for operation in network.operations
        if (cut := reader.cut_at(operation)) and _is_activation(network, dependence, operation, cut)
    }
    parts = {(slot,) for cut in found.values() for slot in cut.parts}
    return [
        _mark(operation, found.get(operation.outputs), operation.outputs in parts) for operation in network.operations
    ]


def _is_activation(network: Network, dependence: Dependence, operation: Operation, cut: Cut) -> bool:
    """Whether a cut is an activation where it stands: one with its own gradient is, others unless in a norm."""
    is_one = is_activation_anywhere(operation.eqn)
    return is_one or cut.current not in dependence.bent or feeds_layers(network, operation)


def _mark(operation: Operation, cut: Cut | None, absorbed: bool) -> Operation:
    if operation.eqn.primitive is qcfs_p:
        return operation._replace(activation=Activation("", "qcfs", *operation.inputs))
    if absorbed or not cut:
        return operation._replace(absorbed=absorbed)
    kind = "relu" if cut.bound is None else "clip"
    activation = Activation("", kind, cut.current, cut.bound)
    return operation._replace(activation=activation, named_last=cut.named_last)
