"""Which operations of a traced network are activations.

An activation is a call of `qcfs`, or a cut at 0 from below that `patterns` lists: one with its own gradient, such as
`jax.nn.relu` and `relu6`, wherever it stands, and behind weights `maximum(x, 0)`, `clip(x, 0, a)` and the others.
A cut before the weights keeps pixels in range, and one in a norm the variance: neither is an activation, and no cut
of parameters is.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, JaxprEqn

from gnsnn_jax.engine.dependence import Dependence, bends_currents, dependence_of, feeds_layers
from gnsnn_jax.engine.encoders import Encoders, with_encoders
from gnsnn_jax.engine.graph import Activation, Entering, Network, Operation, entered
from gnsnn_jax.engine.jaxprs import holds_jaxprs, inner_jaxprs, type_of
from gnsnn_jax.engine.names import named
from gnsnn_jax.engine.patterns import Cut, Reader, encloses_activation, is_activation_anywhere, upper_bound
from gnsnn_jax.engine.rules import applies_weights, known_rule_of, nowhere
from gnsnn_jax.method.activations import qcfs_p

__all__ = ["holds_activation", "network_of", "not_linear", "upper_bound"]


def network_of(traced: ClosedJaxpr, encoders: Encoders = "auto") -> Network:
    """The operations of a traced network, with its activations and encoders marked and named.

    Args:
        traced: by `jax.make_jaxpr` or `tracing`. Calls are entered, loops with activations inside are written out,
            and what the outputs do not need is left out.
        encoders: where they stand, as in `to_spiking`.
    """
    network = entered(traced, Entering(encloses_activation, _is_written_out))
    network.operations = named(with_encoders(network, _marked(network), encoders))
    return network


def holds_activation(eqn: JaxprEqn) -> bool:
    """Whether an operation that is not entered, such as a loop, has activations within it."""
    inside = (
        operation for body in inner_jaxprs(eqn) for operation in _marked(entered(body, Entering(encloses_activation)))
    )
    return any(operation.is_activation or holds_activation(operation.eqn) for operation in inside)


def _is_written_out(eqn: JaxprEqn) -> bool:
    """Whether a loop or branch has activations within it, or weights beside what is not linear: encoders then."""
    return holds_activation(eqn) or (applies_weights(eqn) and _bends_within(eqn))


def _bends_within(eqn: JaxprEqn) -> bool:
    inside = [inner for jaxpr in inner_jaxprs(eqn) for inner in jaxpr.eqns]
    return any(_is_bent_float(inner) or _bends_within(inner) for inner in inside)


def _is_bent_float(eqn: JaxprEqn) -> bool:
    is_bent = known_rule_of(eqn).linear is nowhere and not holds_jaxprs(eqn)
    return is_bent and any(jnp.issubdtype(type_of(var).dtype, jnp.floating) for var in eqn.outvars)


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
