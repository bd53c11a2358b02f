"""Thresholds for the ReLUs and encoders of a trained network, from data that runs through it once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gnsnn_jax._types import Array, Float
from gnsnn_jax.engine.batches import Batches
from gnsnn_jax.engine.encoders import Encoders, checked_encoders
from gnsnn_jax.engine.graph import Network, Operation, evaluate
from gnsnn_jax.engine.jaxprs import bind
from gnsnn_jax.engine.recognise import network_of
from gnsnn_jax.engine.split import candidates
from gnsnn_jax.engine.tracing import of_arrays, parted, trace
from gnsnn_jax.errors import InputError, at_least_one, nearest, shown
from gnsnn_jax.method.activations import align, staircase
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
    encoders: Encoders = "auto",
    quantised: bool = False,
) -> dict[str, Array]:
    """Finds thresholds for the ReLUs, clips and encoders of a network by the names of `sites`, for `to_spiking`.

    The batches run through the network one after the other, compiled once for each shape of a batch; memory does not
    grow with their number. No threshold exceeds the bound of its own clip or, where there was a positive current, the
    largest current seen. `qcfs` has a threshold and is left out. An encoder emits negative spikes too: its threshold
    fits its values and their negatives alike.

        thresholds = find_thresholds(model.apply, batches, 16, variables=variables)
        thresholds = find_thresholds(lambda x: model.apply(variables, x), batches, 16)

    Args:
        ann: the network, as `to_spiking` takes it.
        batches: each holds the arguments of `ann` after `variables`, one array or a tuple of several. Arrays are those
            of JAX and NumPy, tensors of other frameworks, numbers and nested lists of them; trees of arrays are
            arguments too (`engine.batches.as_batch`). Leave labels out, `(x for x, _ in loader)`, and put one batch x
            into a list, [x]. Take training data without augmentation.
        levels: the number of steps of the staircase that fits best: m T for group neurons of m members that answer
            after T time-steps, T for IF. Only "mse" depends on it.
        method: a name, or a `Rule` of `gnsnn_jax.method.threshold_rules` such as `percentile(99.5)`:

            "mse"         least squared error of so many levels under a normal distribution (`squared_error`), for
                          encoders of the values seen themselves (`least_error`). A single threshold leaves out the
                          channels that never had a positive current, where all batches have as many channels
            "percentile"  the 99.9th percentile of the activations
            "max"         the largest activation
            "balance"     local threshold balancing, for IF and many steps
            "ltb"         the same as its authors' code has it, one step a batch: hand over the batches many times

        per_channel: whether to find one threshold for each entry of `channel_axis`; else one for each activation.
        channel_axis: counted from the right: -1 for channels last, -3 for convolutions with channels first,
            [C, H, W]. An activation with fewer axes takes its last.
        variables: the first argument of `ann`, the same for all batches.
        encoders: where they stand, as in `to_spiking`.
        quantised: whether each layer sees what those before it pass on in so many levels, under their thresholds so
            far, in place of what the network itself does. It takes more than one batch to settle.

    Returns:
        Thresholds by name of the site, float32 of shape [], [C] or [C, 1, 1]. An activation or channel that never had
        a positive current gets the largest threshold of its neighbours, or 1.

    Raises:
        InputError: for unknown methods, levels < 1, no batches, what is no batch or none that the network takes, a
            network without ReLU, clip or encoder, and for currents that are NaN or infinite.
    """
    rule = _rule(method, at_least_one("levels", levels))
    search = _Search(rule, checked_axis(channel_axis), per_channel, levels if quantised else None)
    given = Batches(batches, variables, "find_thresholds(apply, {}, levels)")
    ann, states, network, compiled_for = given.explaining(ann), None, None, None
    encoders = checked_encoders(encoders)
    for args in given.arguments():
        arrays, others = parted(args, {})
        if others != compiled_for:
            compiled_for, network = others, _network_with_sites(ann, args, encoders)
            step = jax.jit(partial(_step, of_arrays(ann, args, {}), encoders, search), donate_argnums=0)
            states = states or _start(network, search)
        states = step(states, arrays)
    return {
        operation.activation.name: _finished(operation, *search.of(operation), states[operation.activation.name])
        for operation in _sites(network)
    }


def _rule(method: str | Rule, levels: int) -> Rule:
    if isinstance(method, Rule):
        return method
    if method not in RULES:
        raise InputError(
            f"unknown method {shown(method)}; there are {', '.join(RULES)} and any Rule{nearest(method, RULES)}"
        )
    return RULES[method](levels)


def checked_axis(axis: int) -> int:
    if axis >= 0:
        raise InputError(f"channel_axis counts from the right and must be below 0, got {axis}")
    return axis


def _network_with_sites(ann: Callable, args: tuple, encoders: Encoders) -> Network:
    network = network_of(trace(ann, args, {})[0], encoders)
    if not _sites(network):
        raise InputError(
            "found no ReLU or clip behind weights to find a threshold for; sites(ann, *args) lists the activations "
            f"of a network, and those of qcfs have thresholds{candidates(network)}"
        )
    return network


def _sites(network: Network) -> list[Operation]:
    return [operation for operation in network.activations if operation.activation.kind != "qcfs"]


class _Axes(NamedTuple):
    """The axis with a threshold for each entry, and that whose entries share one; None where there is no such axis."""

    thresholds: int | None
    channels: int | None


class _Search(NamedTuple):
    """What is asked for: the rule, the axis of the channels, whether each of these gets a threshold, and the levels
    in which each activation passes on what it gets, None for all values."""

    rule: Rule
    axis: int
    per_channel: bool
    levels: int | None = None

    def of(self, operation: Operation) -> tuple[Rule, _Axes]:
        """The rule for an activation or an encoder, and the axes that it sees."""
        rule = (operation.activation.kind == "encoder" and self.rule.for_encoders) or self.rule
        return rule, _Axes(self.axis, None) if self.per_channel else _Axes(None, self.axis if rule.pooled else None)


class _Seen(NamedTuple):
    """What the columns of one activation held so far."""

    largest: Array
    of_rule: Any


class _State(NamedTuple):
    bound: Array  # its own by column, the largest within; infinite for a ReLU
    columns: _Seen  # one for each threshold
    channels: _Seen | None  # one for each channel, where these share a threshold


def _start(network: Network, search: _Search) -> Mapping[str, _State]:
    return {operation.activation.name: _first_state(operation, *search.of(operation)) for operation in _sites(network)}


def _first_state(operation: Operation, rule: Rule, axes: _Axes) -> _State:
    columns, channels = (_columns(operation, axis) for axis in axes)
    nothing = lambda count: _Seen(_filled(count, -jnp.inf), rule.start(count))
    bound = _filled(columns, jnp.inf if operation.activation.threshold is None else -jnp.inf)
    return _State(bound, nothing(columns), None if axes.channels is None else nothing(channels))


def _filled(count: int, value: float) -> Array:
    return jnp.full(count, value, jnp.float32)


def channel_axis_of(operation: Operation, axis: int | None) -> int | None:
    if axis is None or not operation.shape:
        return None
    return axis if -axis <= len(operation.shape) else -1


def _columns(operation: Operation, axis: int | None) -> int:
    at = channel_axis_of(operation, axis)
    return 1 if at is None else operation.shape[at]


def _step(ann: Callable, encoders: Encoders, search: _Search, states: Mapping[str, _State], arrays: list[Array]):
    """The states after one more batch."""
    network = network_of(jax.make_jaxpr(ann)(*arrays), encoders)
    states = dict(states)

    def activate(operation: Operation, values: Sequence[Any]) -> Array:
        name, kind, *_ = operation.activation
        if kind == "qcfs":
            return bind(operation.eqn, *values)[0]
        rule, axes = search.of(operation)
        current = _cut_off(*values) if kind == "clip" else values[0]
        states[name] = _updated(operation, rule, axes, _bounded(operation, axes, states[name], values), current)
        passed = current if kind == "encoder" else jnp.maximum(current, 0)
        if not (rule.limits or search.levels):
            return passed
        limit = _shaped(operation, axes.thresholds, _capped(rule, states[name]))
        return _quantised(current, limit, search.levels, kind, passed) if search.levels else _limited(passed, limit)

    evaluate(network, arrays, [operation.outputs[0] for operation in network.activations], activate)
    return states


def _limited(passed: Array, limit: Array) -> Array:
    """Cut off on both sides; all of it where no current was positive, and its largest is below 0."""
    limit = jnp.maximum(limit, 0)
    return -_cut_off(-_cut_off(passed, limit), limit)


def _quantised(current: Array, limit: Array, levels: int, kind: str, passed: Array) -> Array:
    """What neurons of this threshold pass on of a constant current; all of it where no threshold is known yet."""
    known = _limit_of(current, limit) > 0
    unit = jnp.where(known, _limit_of(current, limit), 1) / levels
    return jnp.where(known, staircase(current + unit / 2, unit, levels, signed=kind == "encoder"), passed)


def _bounded(operation: Operation, axes: _Axes, state: _State, values: Sequence[Any]) -> _State:
    """The state that knows the bound of a clip in this batch."""
    if len(values) == 1:
        return state
    limit = _with_channels(operation, axes.thresholds, *values)
    found = _in_columns(operation, limit, axes.thresholds).max(0)
    return state._replace(bound=jnp.maximum(state.bound, found))


def _with_channels(operation: Operation, axis: int | None, current: Array, bound: Any) -> Array:
    """The bound of a clip, repeated along the channels alone: XLA would fold one of all currents for minutes."""
    limit, at = _limit_of(current, bound), channel_axis_of(operation, axis)
    limit = limit.reshape(*(1,) * (current.ndim - limit.ndim), *limit.shape)
    lengths = enumerate(zip(current.shape, limit.shape, strict=True), -current.ndim)
    return jnp.broadcast_to(limit, [length if place == at else own for place, (length, own) in lengths])


def _updated(operation: Operation, rule: Rule, axes: _Axes, state: _State, current: Array) -> _State:
    columns, channels = (_in_columns(operation, current, axis) for axis in axes)
    known = state.channels is not None and len(state.channels.largest) == channels.shape[1]
    of_channels = _more_seen(rule, state.channels, channels) if known else None
    return _State(state.bound, _more_seen(rule, state.columns, columns), of_channels)


def _more_seen(rule: Rule, seen: _Seen, columns: Array) -> _Seen:
    return _Seen(jnp.maximum(seen.largest, columns.max(0)), rule.update(seen.of_rule, columns))


def _capped(rule: Rule, state: _State) -> Array:
    """The thresholds of the rule by column, at most the largest currents; 0 or NaN where these do not tell."""
    return jnp.minimum(_found(rule, state), state.columns.largest)


def _found(rule: Rule, state: _State) -> Array:
    if state.channels is None:
        return rule.threshold(state.columns.of_rule)
    return rule.pooled(state.channels.of_rule, state.channels.largest).reshape(1)


def _cut_off(current: Array, limit: Any) -> Array:
    return jnp.minimum(current, _limit_of(current, limit))


def _limit_of(current: Array, limit: Any) -> Array:
    return align(jnp.asarray(limit, current.dtype), current.shape, "threshold")


def _in_columns(operation: Operation, current: Array, axis: int | None) -> Float[Array, "N columns"]:
    wide = current.astype(jnp.float32)
    if operation.activation.kind == "encoder":
        wide = jnp.stack([wide, -wide])
    at = channel_axis_of(operation, axis)
    if at is None:
        return wide.reshape(-1, 1)
    return jnp.moveaxis(wide, at, -1).reshape(-1, _columns(operation, axis))


def _shaped(operation: Operation, axis: int | None, columns: Float[Array, " columns"]) -> Array:
    """One value for each column, so that it broadcasts to the currents."""
    at = channel_axis_of(operation, axis)
    return columns.reshape(()) if at is None else columns.reshape(-1, *(1,) * (-at - 1))


def _finished(operation: Operation, rule: Rule, axes: _Axes, state: _State) -> Array:
    largest = state.columns.largest
    if not jnp.isfinite(largest).all():
        raise InputError(
            f"the currents of {operation.activation.name!r} hold NaN or infinity on these batches; look for it in the "
            "data and the weights"
        )
    found = _capped(rule, state)
    found = jnp.where(jnp.isfinite(found) & (found > 0), found, largest)
    heard = largest > 0
    spare = jnp.where(heard.any(), found.max(where=heard, initial=0), SILENT)
    return _shaped(operation, axes.thresholds, jnp.where(heard, found, _within(state.bound, spare)))


def _within(bound: Array, spare: Array) -> Array:
    """A threshold for silent columns that keeps to their bounds, where these leave anything above 0."""
    return jnp.where(bound > 0, jnp.minimum(spare, bound), spare)
