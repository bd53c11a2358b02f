"""Thresholds for the ReLUs of a trained network, from data that runs through it once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gnsnn_jax._types import Array, Float
from gnsnn_jax.engine.batches import Batches
from gnsnn_jax.engine.graph import Network, Operation, evaluate
from gnsnn_jax.engine.jaxprs import bind
from gnsnn_jax.engine.recognise import network_of
from gnsnn_jax.engine.tracing import of_arrays, parted, trace
from gnsnn_jax.errors import InputError, at_least_one, nearest
from gnsnn_jax.method.activations import align
from gnsnn_jax.method.threshold_rules import RULES, Rule

SILENT = 1.0  # threshold of an activation that never had a positive current; any would do


def find_thresholds(
    ann: Callable,
    batches: Iterable[Any],
    levels: int,
    *,
    method: str | Rule = "mse",
    per_channel: bool = False,
    channel_axis: int = -1,
    variables: Any = None,
) -> dict[str, Array]:
    """Thresholds for the ReLUs and clips of a network, by the names of `sites`, as `to_spiking` takes them.

    Each batch holds the arguments of `ann`, one array or a tuple of several, after `variables` where
    these are given: `find_thresholds(model.apply, batches, 16, variables=variables)` or
    `find_thresholds(lambda x: model.apply(variables, x), batches, 16)`. Arrays are those of JAX and NumPy,
    tensors of other frameworks, numbers and nested lists of them; trees of arrays are arguments too
    (`engine.batches.as_batch`). Labels are left out, `(x for x, _ in loader)`, and one batch x stands in a list, [x].
    The batches run through the network one after the other, compiled once for each shape of a batch; memory does
    not grow with their number. Training data without augmentation is what the thresholds should be found on.

    `levels` is the number of steps of the staircase that shall fit best, m T for group neurons of m
    members that answer after T time-steps, T for IF; "mse" alone depends on it. Methods:

        "mse"         least squared error of so many levels under a normal distribution (`squared_error`)
        "percentile"  the 99.9th percentile of the activations
        "max"         the largest activation
        "balance"     local threshold balancing, for IF and many steps

    or a `Rule` of `gnsnn_jax.method.threshold_rules`, such as `percentile(99.5)`. `per_channel` finds one
    threshold for each entry of `channel_axis`, counted from the right: -1 for channels last, -3 for convolutions
    with channels first, [C, H, W]; an activation with fewer axes takes its last. Else there is one for each
    activation.
    Thresholds are float32 of shape [], [C] or [C, 1, 1]. An activation or channel that never had a positive
    current gets the largest threshold of its neighbours, or 1. `qcfs` has a threshold and is left out.

    Raises InputError for unknown methods, levels < 1, no batches, what is no batch or none that the network takes,
    a network without ReLU or clip, and for currents that are not finite.
    """
    rule = _rule(method, at_least_one("levels", levels))
    axis = _checked_axis(channel_axis) if per_channel else None
    given = Batches(batches, variables, "find_thresholds(apply, {}, levels)")
    ann, states, network, compiled_for = given.explaining(ann), None, None, None
    for args in given.arguments():
        arrays, others = parted(args, {})
        if others != compiled_for:
            compiled_for, network = others, _network_with_sites(ann, args)
            step = jax.jit(partial(_step, of_arrays(ann, args, {}), rule, axis), donate_argnums=0)
            states = states or _start(network, rule, axis)
        states = step(states, arrays)
    return {
        operation.activation.name: _finished(operation, rule, axis, states[operation.activation.name])
        for operation in _sites(network)
    }


def _rule(method: str | Rule, levels: int) -> Rule:
    if isinstance(method, Rule):
        return method
    if method not in RULES:
        raise InputError(f"unknown method {method!r}; there are {', '.join(RULES)}{nearest(method, RULES)}")
    return RULES[method](levels)


def _checked_axis(axis: int) -> int:
    if axis >= 0:
        raise InputError(f"channel_axis counts from the right and must be below 0, got {axis}")
    return axis


def _network_with_sites(ann: Callable, args: tuple) -> Network:
    network = network_of(trace(ann, args, {})[0])
    if not _sites(network):
        raise InputError(
            "found no ReLU or clip behind weights to find a threshold for; sites(ann, *args) lists the activations "
            "of a network, and those of qcfs have thresholds"
        )
    return network


def _sites(network: Network) -> list[Operation]:
    return [operation for operation in network.activations if operation.activation.kind != "qcfs"]


class _State(NamedTuple):
    largest: Array
    of_rule: Any


def _start(network: Network, rule: Rule, axis: int | None) -> Mapping[str, _State]:
    columns = {operation.activation.name: _columns(operation, axis) for operation in _sites(network)}
    return {name: _State(jnp.full(count, -jnp.inf), rule.start(count)) for name, count in columns.items()}


def _channel_axis(operation: Operation, axis: int) -> int:
    return axis if -axis <= len(operation.shape) else -1


def _columns(operation: Operation, axis: int | None) -> int:
    return 1 if axis is None else operation.shape[_channel_axis(operation, axis)]


def _step(ann: Callable, rule: Rule, axis: int | None, states: Mapping[str, _State], arrays: list[Array]):
    """The states after one more batch."""
    network = network_of(jax.make_jaxpr(ann)(*arrays))
    states = dict(states)

    def activate(operation: Operation, values: list[Any]) -> Array:
        name, kind, *_ = operation.activation
        if kind == "qcfs":
            return bind(operation.eqn, *values)[0]
        current = _cut_off(*values) if kind == "clip" else values[0]
        columns = _in_columns(operation, current, axis)
        largest, state = states[name]
        states[name] = _State(jnp.maximum(largest, columns.max(0)), rule.update(state, columns))
        if rule.limits:
            current = _cut_off(current, _shaped(operation, axis, rule.threshold(states[name].of_rule)))
        return jnp.maximum(current, 0)

    evaluate(network, arrays, [operation.outputs[0] for operation in network.activations], activate)
    return states


def _cut_off(current: Array, limit: Any) -> Array:
    return jnp.minimum(current, align(jnp.asarray(limit, current.dtype), current.shape, "threshold"))


def _in_columns(operation: Operation, current: Array, axis: int | None) -> Float[Array, "N columns"]:
    wide = current.astype(jnp.float32)
    if axis is None:
        return wide.reshape(-1, 1)
    return jnp.moveaxis(wide, _channel_axis(operation, axis), -1).reshape(-1, _columns(operation, axis))


def _shaped(operation: Operation, axis: int | None, columns: Float[Array, " columns"]) -> Array:
    """One value for each column, so that it broadcasts to the currents."""
    if axis is None:
        return columns.reshape(())
    return columns.reshape(-1, *(1,) * (-_channel_axis(operation, axis) - 1))


def _finished(operation: Operation, rule: Rule, axis: int | None, state: _State) -> Array:
    if not jnp.isfinite(state.largest).all():
        raise InputError(
            f"the currents of {operation.activation.name!r} hold NaN or infinity on these batches; look for it in the "
            "data and the weights"
        )
    found = rule.threshold(state.of_rule)
    found = jnp.where(jnp.isfinite(found) & (found > 0), found, state.largest)
    heard = state.largest > 0
    spare = jnp.where(heard.any(), found.max(where=heard, initial=0), SILENT)
    return _shaped(operation, axis, jnp.where(heard, found, spare))
