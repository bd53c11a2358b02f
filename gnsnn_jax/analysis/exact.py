"""Sums of counts beyond what 32 bits hold, exact to the last spike.

A device sums 32-bit integers. So the sum over the neurons of a sample is taken for each digit of the weights,
to a base at which it fits, and the sum over samples in two halves of 16 bits; the host puts them together.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from gnsnn_jax._types import Array, Bool, Int

_LARGEST = 2**31 - 1
_HALF = 16  # bits


def sums_on_device(
    counts: Int[Array, "T B *shape"],
    weights: Sequence[Int[np.ndarray, "..."]],
    most: int,
    present: Bool[Array, " B"],
) -> list[Int[Array, "T digits 2"]]:
    """The sum over neurons and the samples that are present of counts, 0..most, times weights, for each of `weights`.

    Summed first over the axes along which all weights are constant, which makes the rest of it small.
    """
    kept = [axis for axis in range(counts.ndim - 2) if any(_varies(each, axis) for each in weights)]
    summed, base = _summed_over_others(_of_samples(counts, present), kept), _base(weights[0].size, most)
    narrow = [_at_first(each, kept) for each in weights]
    return [jnp.stack([_halves(summed, digit) for digit in _digits(each, base)], 1) for each in narrow]


def _of_samples(counts: Array, present: Array) -> Array:
    """Zeros in place of samples that are none."""
    return jnp.where(present.reshape(1, -1, *(1,) * (counts.ndim - 2)), counts, 0)


def _summed_over_others(counts: Array, kept: Sequence[int]) -> Array:
    """Of [T, B, ...], over the axes of a sample that are not kept."""
    others = tuple(axis + 2 for axis in range(counts.ndim - 2) if axis not in kept)
    return counts.sum(others, dtype=jnp.int32)


def _at_first(weights: np.ndarray, kept: Sequence[int]) -> np.ndarray | np.int64:
    """The weights at the first place along all axes that are not kept."""
    return weights[tuple(slice(None) if axis in kept else 0 for axis in range(weights.ndim))]


def whole(sums: Int[np.ndarray, "T digits 2"], neurons: int, most: int) -> Int[np.ndarray, " T"]:
    """What `sums_on_device` found, for so many neurons."""
    sums = np.asarray(sums, np.int64)
    of_digits = sums[..., 0] + (sums[..., 1] << _HALF)
    return of_digits @ np.int64(_base(neurons, most)) ** np.arange(of_digits.shape[1])


def _base(neurons: int, most: int) -> int:
    """The largest for which the sum of all counts times the highest digit fits."""
    return max(_LARGEST // max(neurons * most, 1), 1) + 1


def _varies(weights: np.ndarray, axis: int) -> bool:
    return bool(weights.size) and bool((weights != weights.take([0], axis)).any())


def _digits(weights: Int[np.ndarray, "..."] | np.int64, base: int) -> list[np.ndarray]:
    """Lowest first."""
    digits: list[np.ndarray] = []
    rest = weights
    while not digits or rest.any():
        rest, digit = np.divmod(rest, base)
        digits.append(np.asarray(digit, np.int32))
    return digits


def _halves(counts: Array, digit: np.ndarray) -> Int[Array, "T 2"]:
    of_sample = (counts * digit[None, None]).sum(tuple(range(2, counts.ndim)), dtype=jnp.int32)
    return jnp.stack([(of_sample & (2**_HALF - 1)).sum(1), (of_sample >> _HALF).sum(1)], 1)
