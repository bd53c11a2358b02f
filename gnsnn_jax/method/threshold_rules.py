"""Rules for thresholds: each sees the currents of one activation batch after batch and says which threshold fits."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gnsnn_jax._types import Array, Float
from gnsnn_jax.errors import InputError, at_least_one

BINS = 2048  # of a histogram from 0 to a power of two above all values: at most 1/1024 of the largest wide
NEAREST, FARTHEST = 0.01, 8.0  # where the least squared error is looked for: farthest in deviations from the mean,
GRID, HALVINGS = 96, 24  # nearest as a share of that, on so many points and by so many halvings
ENCODER_STEPS = 2  # after how many time-steps the thresholds of encoders have their least error
CANDIDATES = 512  # thresholds that a histogram is quantised by: each 1.4 % above the last
BALANCING_RATE, BALANCING_ROUNDS = 0.5, 100  # times a batch that the charge above a threshold raises it by itself


class Rule(NamedTuple):
    """Three pure functions over the currents of one activation, each column of them on its own.

    start(columns) -> state
    update(state, currents [N, columns]) -> state, after one more batch
    threshold(state) -> thresholds [columns]; 0 where the currents do not tell
    limits      whether the next layers see each batch cut off at the threshold so far
    pooled(state, largest [columns]) -> the one threshold [] of all columns, the channels of an activation, whose
                largest currents these are; without it, one threshold comes from all currents as one column
    for_encoders the rule for encoders, which sees their values and the negatives of these; without it, this one
    """

    start: Callable[[int], Any]
    update: Callable[[Any, Array], Any]
    threshold: Callable[[Any], Array]
    limits: bool = False
    pooled: Callable[[Any, Array], Array] | None = None
    for_encoders: Any = None


def largest() -> Rule:
    """theta = max x: nothing is cut off."""
    return Rule(jnp.zeros, lambda state, x: jnp.maximum(state, x.max(0)), lambda state: state)


class _Histogram(NamedTuple):
    shares: Array  # [columns, BINS] of all values, positive or not
    top: Array  # upper end of the last bin
    count: Array  # type: ignore[assignment]  # values in each column so far


def percentile(percent: float = 99.9) -> Rule:
    """The value that `percent` % of max(x, 0) do not exceed, from a histogram whose range doubles as needed.

    Exact to the width of a bin, 1/1024 of the largest value or less. 0 where fewer values than the rest
    are positive.

    Args:
        percent: above 0 and at most 100.

    Returns:
        A rule.

    Raises:
        InputError: for a percentage outside of this range.
    """
    if not 0 < percent <= 100:
        raise InputError(f"percentile must be above 0 and at most 100, got {percent}")
    beyond = 1 - percent / 100

    def threshold(state: _Histogram) -> Array:
        above = jnp.cumsum(state.shares[:, ::-1], -1)[:, ::-1]  # share of values in this bin and those after it
        bin = jnp.sum(above > beyond, -1) - 1
        at = lambda values: jnp.take_along_axis(values, jnp.maximum(bin, 0)[:, None], -1)[:, 0]
        rest = at(above) - beyond  # how much of the bin lies below the threshold
        value = (bin.astype(rest.dtype) + jnp.clip(rest / at(state.shares), 0, 1)) * state.top / BINS
        return jnp.where(bin < 0, 0, value)

    return Rule(_empty_histogram, _with_currents, threshold)


def least_error(levels: int) -> Rule:
    """The threshold of the least squared error of n-level quantisation of what was seen, from a histogram.

        argmin over theta of the mean of (x - q(x))^2,   q(x) = staircase(x + theta/2n, theta/n, n),   x > 0

    It suits values far from a normal distribution, such as a softmax: many small ones and a few that carry it. Looked
    for among CANDIDATES thresholds up to the upper end of the histogram. For encoders, whose values come with their
    negatives, it is the least error of the signed staircase.

    Args:
        levels: n, at least 1.

    Returns:
        A rule.

    Raises:
        InputError: for levels < 1.
        TypeError: for levels that are no integer.
    """
    levels = at_least_one("levels", levels)

    def threshold(state: _Histogram) -> Array:
        shares = jnp.geomspace(2 / BINS, 1, CANDIDATES)
        mean_over = partial(jnp.matmul, precision="highest")
        errors = jax.lax.map(lambda share: mean_over(state.shares, _errors_of_bins(share, levels)), shares)
        return state.top * shares[errors.argmin(0)]

    return Rule(_empty_histogram, _with_currents, threshold)


def _errors_of_bins(share: Float[Array, ""], levels: int) -> Float[Array, " BINS"]:
    """The squared error at the middle of each bin under a threshold, in units of the upper end of the last bin."""
    middles = (jnp.arange(BINS, dtype=jnp.float32) + 0.5) / BINS
    unit = share / levels
    return (middles - unit * jnp.clip(jnp.floor(middles / unit + 0.5), 0, levels)) ** 2


def _empty_histogram(columns: int) -> _Histogram:
    return _Histogram(jnp.zeros((columns, BINS)), jnp.zeros(columns), jnp.zeros(()))


def _with_currents(state: _Histogram, x: Array) -> _Histogram:
    """The histogram after one more batch."""
    top = jnp.maximum(state.top, _power_of_two_above(x.max(0)))
    old = _counted(jnp.arange(BINS)[:, None] // _doublings(state.top, top)[None], state.shares.T)
    bins = jnp.floor(x * (BINS / jnp.where(top > 0, top, 1))[None]).astype(jnp.int32)
    new = _counted(bins, (x > 0).astype(jnp.int32)).astype(x.dtype)  # integers, as float32 counts to 2^24 only
    count = state.count + len(x)
    return _Histogram(old * (state.count / count) + new / count, top, count)


def _power_of_two_above(x: Array) -> Array:
    return jnp.where(x > 0, jnp.ldexp(jnp.ones_like(x), jnp.frexp(x)[1]), 0)


def _doublings(old: Array, new: Array) -> Array:
    """How many bins of the old histogram go into one of the new."""
    return jnp.where(old > 0, new / jnp.where(old > 0, old, 1), 1).clip(1, BINS).astype(jnp.int32)


def _counted(bins: Array, weights: Array) -> Array:
    """The weights [N, columns] summed by bin: [columns, BINS]."""
    columns = jnp.broadcast_to(jnp.arange(weights.shape[1])[None], weights.shape)
    bins = bins.clip(0, BINS - 1)
    return jnp.zeros((weights.shape[1], BINS), weights.dtype).at[columns, bins].add(weights)


class _Moments(NamedTuple):
    count: Array  # type: ignore[assignment]
    mean: Array
    variance: Array


def squared_error(levels: int, signed: bool = False) -> Rule:
    """The threshold of the least squared error of n-level quantisation under a normal distribution.

    With the mean mu and the deviation s of the currents, c_i = (2i - 1) theta / 2n, i = 1..n,

        e_i = erf((c_i - mu) / (sqrt(2) s)),   g_i = exp(-(c_i - mu)^2 / (2 s^2)),
        theta <- theta [(mu/theta) (1 - mean e_i) + (s/theta) sqrt(2/pi) mean g_i] / [1 - sum (2i - 1) e_i / n^2]

    has its fixed points where E[x q(x)] = E[q(x)^2] for the quantised q(x) = theta/n sum_i [x >= c_i], which
    is where the error has its extremes. For group neurons n = m T, or m where one step is enough; for
    IF n = T. One threshold for many channels is that of all their currents together, but for channels that never
    had a positive current. Values of encoders, such as those behind a softmax, are far from normal: `least_error`
    finds their thresholds, for ENCODER_STEPS n levels: what a threshold cuts off is lost at every T, while the
    rounding errors shrink with it. In a vision transformer that loses nothing at T = 1 where n = 16, and gains later;
    where n = 4 it loses at T = 1 what it gains from T = 2 on.

    With `signed`, encoders get the least error under a normal distribution too, that of q(x) = theta/n clip(k, -n, n)
    for the nearest k. It is the iteration for levels a..b with a = -n and b = n, sums over i = a+1..b:

        theta <- theta [(mu/theta) (a + b - sum e_i) + (s/theta) sqrt(2/pi) sum g_i] n / [a^2 + b^2 - sum (2i-1) e_i]

    Args:
        levels: n, at least 1.
        signed: whether this holds for encoders, in place of `least_error`.

    Returns:
        A rule.

    Raises:
        InputError: for levels < 1.
        TypeError: for levels that are no integer.

    Huang et al., "Differential Coding for Training-Free ANN-to-SNN Conversion", ICML 2025; of signed levels, Zhang et
    al., AAAI 2026.
    """
    levels = at_least_one("levels", levels)

    def update(state: _Moments, x: Array) -> _Moments:
        count = state.count + len(x)
        share, shift = len(x) / count, x.mean(0) - state.mean
        variance = (1 - share) * state.variance + share * x.var(0) + share * (1 - share) * shift**2
        return _Moments(count, state.mean + share * shift, variance)

    start = lambda columns: _Moments(jnp.zeros(()), jnp.zeros(columns), jnp.zeros(columns))
    found = lambda state: least_squares_threshold(state.mean, jnp.sqrt(state.variance), levels)
    pooled = lambda state, largest: found(_pooled(state, largest > 0))
    of_either_sign = lambda state: least_squares_threshold(state.mean, jnp.sqrt(state.variance), levels, -levels)
    for_encoders = Rule(start, update, of_either_sign) if signed else least_error(ENCODER_STEPS * levels)
    return Rule(start, update, found, pooled=pooled, for_encoders=for_encoders)


def _pooled(state: _Moments, heard: Array) -> _Moments:
    """The moments of the columns heard as those of one, all columns of the same count."""
    mean = state.mean.mean(where=heard)
    variance = state.variance.mean(where=heard) + ((state.mean - mean[None]) ** 2).mean(where=heard)
    return _Moments(state.count, mean, variance)


@partial(jax.jit, static_argnames=("levels", "lowest"))
def least_squares_threshold(
    mean: Float[Array, "*shape"], deviation: Float[Array, "*shape"], levels: int, lowest: int = 0
) -> Float[Array, "*shape"]:
    """The fixed point of `squared_error` with the least error, for counts from `lowest`, at most 0, to `levels`; not
    a number where there is none.

    Iterating takes thousands of rounds at many levels and may end in a worse fixed point, so the one is
    bracketed on a grid and bisected.
    """
    highest = (jnp.abs(mean) if lowest else jnp.maximum(mean, 0)) + FARTHEST * deviation
    grid = highest[None] * jnp.geomspace(NEAREST, 1, GRID).reshape(-1, *(1,) * mean.ndim)
    improve = lambda theta: _improved(theta, mean, deviation, levels, lowest)
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


def _improved(theta: Array, mean: Array, deviation: Array, levels: int, lowest: int) -> tuple[Array, Array]:
    """The iteration of `squared_error`, and the squared error but for what no threshold changes."""
    odd = (2 * jnp.arange(lowest + 1, levels + 1) - 1).astype(theta.dtype).reshape(-1, *(1,) * theta.ndim)
    z = (odd * (theta / (2 * levels))[None] - mean[None]) / (np.sqrt(2) * deviation)[None]
    # 1 - e_i above 0 and 1 + e_i below, which keep their digits where e_i is near 1 or -1: a and b are in them.
    beyond = jax.scipy.special.erfc(jnp.sign(odd) * z)
    product = mean * (jnp.sign(odd) * beyond).sum(0) + np.sqrt(2 / np.pi) * deviation * jnp.exp(-(z**2)).sum(0)
    product, square = product / levels, (jnp.abs(odd) / levels**2 * beyond).sum(0)
    return product / square, theta * (theta * square - 2 * product)


def balance(rate: float = BALANCING_RATE, rounds: int = BALANCING_ROUNDS) -> Rule:
    """Local threshold balancing: each batch raises the threshold by what it cuts off, several times.

        theta <- theta + c mean(2 (x - theta) [x > theta])

    from 0 on, c = `rate`, `rounds` times a batch. At c <= 1/2 it never passes the largest x; the more
    batches, the less is cut off, by the logarithm of their number under a normal distribution. What lies
    behind sees the batch cut off at the new threshold.

    Args:
        rate: c, positive.
        rounds: at least 1.

    Returns:
        A rule.

    Raises:
        InputError: for a rate that is not positive and for rounds < 1.
        TypeError: for rounds that are no integer.

    Bu, Li, Yu 2024, arXiv 2409.03368.
    """
    if not rate > 0:
        raise InputError(f"the rate of balancing must be positive, got {rate}")
    rounds = at_least_one("rounds", rounds)
    raised = lambda theta, x: theta + rate * 2 * jnp.maximum(x - theta[None], 0).mean(0)
    update = lambda theta, x: jax.lax.fori_loop(0, rounds, lambda _, theta: raised(theta, x), theta)
    return Rule(jnp.zeros, update, lambda theta: theta, limits=True)


def ltb(rate: float = 1.0) -> Rule:
    """Local threshold balancing as its authors' code has it: each batch raises the threshold once.

        theta <- theta + c mean(2 (x - theta) [x > theta])

    from 0 on, c = `rate`, with the mean over all values of a column, those below the threshold among them, which
    count as 0. What lies behind sees the batch cut off at the new threshold. `balance` has the same step, at half
    the rate and 100 times a batch, for few batches; here the number of batches says how much is cut off, about
    1/(2 n) of the values after n of them where the tail is exponential, so hand over the data several times:
    `find_thresholds(ann, batches * 50, levels, method="ltb", per_channel=True)`. The authors take 1000 to 5000
    batches of 100 and a threshold for each channel. At c > 1/2 a step may pass the largest x, at which
    `find_thresholds` cuts it.

    Args:
        rate: c, positive.

    Returns:
        A rule.

    Raises:
        InputError: for a rate that is not positive.

    Bu, Li, Yu 2024, arXiv 2409.03368.
    """
    return balance(rate, rounds=1)


# A rule by name, given the levels.
RULES: dict[str, Callable[[int], Rule]] = {
    "max": lambda levels: largest(),
    "percentile": lambda levels: percentile(),
    "mse": squared_error,
    "balance": lambda levels: balance(),
    "ltb": lambda levels: ltb(),
}
