"""Thresholds for the ReLUs of a trained network, from data that runs through it once.

Each rule sees the currents x of one activation batch after batch and says which threshold fits them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gnsnn_jax._types import Array, Float
from gnsnn_jax.activations import align
from gnsnn_jax.equations import bind
from gnsnn_jax.errors import InputError, at_least_one, nearest
from gnsnn_jax.program import Network, Operation, evaluate, network_of
from gnsnn_jax.tracing import arguments_of, arrays_of, of_arrays, trace

BINS = 2048  # of a histogram from 0 to a power of two above all values: at most 1/1024 of the largest wide
NEAREST, FARTHEST = 0.01, 8.0  # where the least squared error is looked for: farthest in deviations from the mean,
GRID, HALVINGS = 96, 24  # nearest as a share of that, on so many points and by so many halvings
BALANCING_RATE, BALANCING_ROUNDS = 0.5, 100  # times a batch that the charge above a threshold raises it by itself
SILENT = 1.0  # threshold of an activation that never had a positive current; any would do


class Rule(NamedTuple):
    """Three pure functions over the currents of one activation, each column of them on its own.

    start(columns) -> state
    update(state, currents [N, columns]) -> state, after one more batch
    threshold(state) -> thresholds [columns]; 0 where the currents do not tell
    limits      whether the next layers see each batch cut off at the threshold so far
    """

    start: Callable[[int], Any]
    update: Callable[[Any, Array], Any]
    threshold: Callable[[Any], Array]
    limits: bool = False


def largest() -> Rule:
    """theta = max x: nothing is cut off."""
    return Rule(jnp.zeros, lambda state, x: jnp.maximum(state, x.max(0)), lambda state: state)


class _Histogram(NamedTuple):
    shares: Array  # [columns, BINS] of all values, positive or not
    top: Array  # upper end of the last bin
    count: Array  # values in each column so far


def percentile(percent: float = 99.9) -> Rule:
    """The value that `percent` % of max(x, 0) do not exceed, from a histogram whose range doubles as needed.

    Exact to the width of a bin, 1/1024 of the largest value or less. 0 where fewer values than the rest
    are positive. Raises InputError unless 0 < percent <= 100.
    """
    if not 0 < percent <= 100:
        raise InputError(f"percentile must be above 0 and at most 100, got {percent}")
    beyond = 1 - percent / 100

    def start(columns: int) -> _Histogram:
        return _Histogram(jnp.zeros((columns, BINS)), jnp.zeros(columns), jnp.zeros(()))

    def update(state: _Histogram, x: Array) -> _Histogram:
        top = jnp.maximum(state.top, _power_of_two_above(x.max(0)))
        old = _counted(jnp.arange(BINS)[:, None] // _doublings(state.top, top)[None], state.shares.T)
        bins = jnp.floor(x * (BINS / jnp.where(top > 0, top, 1))[None]).astype(jnp.int32)
        new = _counted(bins, (x > 0).astype(x.dtype))
        count = state.count + len(x)
        return _Histogram(old * (state.count / count) + new / count, top, count)

    def threshold(state: _Histogram) -> Array:
        above = jnp.cumsum(state.shares[:, ::-1], -1)[:, ::-1]  # share of values in this bin and those after it
        bin = jnp.sum(above > beyond, -1) - 1
        at = lambda values: jnp.take_along_axis(values, jnp.maximum(bin, 0)[:, None], -1)[:, 0]
        rest = at(above) - beyond  # how much of the bin lies below the threshold
        value = (bin.astype(rest.dtype) + jnp.clip(rest / at(state.shares), 0, 1)) * state.top / BINS
        return jnp.where(bin < 0, 0, value)

    return Rule(start, update, threshold)


def _power_of_two_above(x: Array) -> Array:
    return jnp.where(x > 0, jnp.ldexp(jnp.ones_like(x), jnp.frexp(x)[1]), 0)


def _doublings(old: Array, new: Array) -> Array:
    """How many bins of the old histogram go into one of the new."""
    return jnp.where(old > 0, new / jnp.where(old > 0, old, 1), 1).clip(1, BINS).astype(jnp.int32)


def _counted(bins: Array, weights: Array) -> Array:
    """The weights [N, columns] summed by bin: [columns, BINS]."""
    columns = jnp.broadcast_to(jnp.arange(weights.shape[1])[None], weights.shape)
    bins = bins.clip(0, BINS - 1)
    return jnp.zeros((weights.shape[1], BINS)).at[columns, bins].add(weights)


class _Moments(NamedTuple):
    count: Array
    mean: Array
    variance: Array


def squared_error(levels: int) -> Rule:
    """The threshold of the least squared error of n-level quantisation under a normal distribution.

    With the mean mu and the deviation s of the currents, c_i = (2i - 1) theta / 2n, i = 1..n,

        e_i = erf((c_i - mu) / (sqrt(2) s)),   g_i = exp(-(c_i - mu)^2 / (2 s^2)),
        theta <- theta [(mu/theta) (1 - mean e_i) + (s/theta) sqrt(2/pi) mean g_i] / [1 - sum (2i - 1) e_i / n^2]

    has its fixed points where E[x q(x)] = E[q(x)^2] for the quantised q(x) = theta/n sum_i [x >= c_i], which
    is where the error has its extremes. For group neurons n = m T, or m where one step shall suffice; for
    IF n = T. Raises InputError for levels < 1. Huang et al., "Differential Coding for Training-Free
    ANN-to-SNN Conversion", ICML 2025.
    """
    levels = at_least_one("levels", levels)

    def update(state: _Moments, x: Array) -> _Moments:
        count = state.count + len(x)
        share, shift = len(x) / count, x.mean(0) - state.mean
        variance = (1 - share) * state.variance + share * x.var(0) + share * (1 - share) * shift**2
        return _Moments(count, state.mean + share * shift, variance)

    start = lambda columns: _Moments(jnp.zeros(()), jnp.zeros(columns), jnp.zeros(columns))
    return Rule(start, update, lambda state: least_squares_threshold(state.mean, jnp.sqrt(state.variance), levels))


@partial(jax.jit, static_argnames="levels")
def least_squares_threshold(
    mean: Float[Array, "*shape"], deviation: Float[Array, "*shape"], levels: int
) -> Float[Array, "*shape"]:
    """The fixed point of `squared_error` with the least error; not a number where there is none.

    Iterating takes thousands of rounds at many levels and may end in a worse fixed point, so the one is
    bracketed on a grid and bisected.
    """
    highest = jnp.maximum(mean, 0) + FARTHEST * deviation
    grid = highest[None] * jnp.geomspace(NEAREST, 1, GRID).reshape(-1, *(1,) * mean.ndim)
    improve = lambda theta: _improved(theta, mean, deviation, levels)
    better, errors = jax.lax.map(improve, grid)
    crosses = (better[:-1] > grid[:-1]) & (better[1:] <= grid[1:])
    best = jnp.argmin(jnp.where(crosses, errors[:-1], jnp.inf), 0)
    low, high = (jnp.take_along_axis(ends, best[None], 0)[0] for ends in (grid[:-1], grid[1:]))

    def halve(_, bracket):
        low, high = bracket
        middle = (low + high) / 2
        rises = improve(middle)[0] > middle
        return jnp.where(rises, middle, low), jnp.where(rises, high, middle)

    low, high = jax.lax.fori_loop(0, HALVINGS, halve, (low, high))
    return jnp.where(crosses.any(0), (low + high) / 2, jnp.nan)


def _improved(theta: Array, mean: Array, deviation: Array, levels: int) -> tuple[Array, Array]:
    """The iteration of `squared_error`, and the squared error but for what no threshold changes."""
    odd = (2 * jnp.arange(1, levels + 1) - 1).astype(theta.dtype).reshape(-1, *(1,) * theta.ndim)
    z = (odd * (theta / (2 * levels))[None] - mean[None]) / (np.sqrt(2) * deviation)[None]
    above = jax.scipy.special.erfc(z)  # 1 - e_i, which keeps its digits where e_i is near 1
    product = mean * above.mean(0) + np.sqrt(2 / np.pi) * deviation * jnp.exp(-(z**2)).mean(0)
    square = (odd / levels**2 * above).sum(0)
    return product / square, theta * (theta * square - 2 * product)


def balance(rate: float = BALANCING_RATE, rounds: int = BALANCING_ROUNDS) -> Rule:
    """Local threshold balancing: each batch raises the threshold by what it cuts off, several times.

        theta <- theta + c mean(2 (x - theta) [x > theta])

    from 0 on, c = `rate`, `rounds` times a batch. At c <= 1/2 it never passes the largest x; the more
    batches, the less is cut off, by the logarithm of their number under a normal distribution. What lies
    behind sees the batch cut off at the new threshold. Bu, Li, Yu 2024, arXiv 2409.03368. Raises
    InputError unless the rate is positive and rounds at least 1.
    """
    if not rate > 0:
        raise InputError(f"the rate of balancing must be positive, got {rate}")
    rounds = at_least_one("rounds", rounds)
    raised = lambda theta, x: theta + rate * 2 * jnp.maximum(x - theta[None], 0).mean(0)
    update = lambda theta, x: jax.lax.fori_loop(0, rounds, lambda _, theta: raised(theta, x), theta)
    return Rule(jnp.zeros, update, lambda theta: theta, limits=True)


# A rule by name, given the levels.
RULES: dict[str, Callable[[int], Rule]] = {
    "max": lambda levels: largest(),
    "percentile": lambda levels: percentile(),
    "mse": squared_error,
    "balance": lambda levels: balance(),
}


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
    `find_thresholds(lambda x: model.apply(variables, x), batches, 16)`. They run through the network one
    after the other, compiled once for each shape of a batch; memory does not grow with their number.
    Training data without augmentation is what the thresholds should be found on.

    `levels` is the number of steps of the staircase that shall fit best, m T for group neurons of m
    members that answer after T time-steps, T for IF; "mse" alone depends on it. Methods:

        "mse"         least squared error of so many levels under a normal distribution (`squared_error`)
        "percentile"  the 99.9th percentile of the activations
        "max"         the largest activation
        "balance"     local threshold balancing, for IF and many steps

    or a `Rule` of this module, such as `percentile(99.5)`. `per_channel` finds one threshold for each
    entry of `channel_axis`, counted from the right: -1 for channels last, -3 for convolutions with channels
    first, [C, H, W]; an activation with fewer axes takes its last. Else there is one for each activation.
    Thresholds are float32 of shape [], [C] or [C, 1, 1]. An activation or channel that never had a positive
    current gets the largest threshold of its neighbours, or 1. `qcfs` has a threshold and is left out.

    Raises InputError for unknown methods, levels < 1, no batches, a network without ReLU or clip, and for
    currents that are not finite.
    """
    rule = _rule(method, at_least_one("levels", levels))
    axis = _checked_axis(channel_axis) if per_channel else None
    states, step, network = None, None, None
    for batch in batches:
        args = arguments_of(batch, variables)
        if step is None:
            network = _network_with_sites(ann, args)
            step = jax.jit(partial(_step, of_arrays(ann, args, {}), rule, axis), donate_argnums=0)
            states = _start(network, rule, axis)
        states = step(states, arrays_of(args, {}))
    if states is None:
        raise InputError("find_thresholds needs at least one batch of data, got none")
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
