"""Convolutions, pools and matrices as NIR has them: channels first, square kernels, the same padding on both sides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gnsnn_jax.interop.nir_signals import Term

Pair = tuple[int, int]


class Kernel(NamedTuple):
    """A convolution of one group. weight: [O, C, K, K], stride, padding: as NIR has them."""

    weight: np.ndarray
    stride: Pair
    padding: Pair


class Channels(NamedTuple):
    """How the channels of a value [C, H, W] come from those of a node.

    of_node    by channel of the value, a channel of the node, or -1
    scale      by channel of the value
    borders    rows and columns of nothing around the node's map: ((before, after), (before, after))
    """

    of_node: np.ndarray
    scale: np.ndarray
    borders: tuple[Pair, Pair]


def channels_of(term: Term) -> Channels | None:
    """The value of a term, arranged [C, H, W], as channels of its source; None where it is more than that."""
    if len(term.source.shape) != 3 or term.index.ndim != 3:
        return None
    _, height, width = term.source.shape
    there = term.index >= 0
    rows, columns = (np.flatnonzero(there.any(axes)) for axes in ((0, 2), (0, 1)))
    if not rows.size:
        return None
    inside = (slice(None), slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    index, scale = term.index[inside], term.scale[inside]
    plane = np.arange(height * width).reshape(height, width)
    if index.shape[1:] != plane.shape:
        return None
    first, factor = index[:, 0, 0], scale[:, 0, 0]
    of_node = np.where(first < 0, -1, first // plane.size)
    wanted = np.where(of_node[:, None, None] < 0, -1, of_node[:, None, None] * plane.size + plane)
    uniform = (scale == factor[:, None, None]) | (index < 0)
    if not (np.array_equal(index, wanted) and uniform.all()):
        return None
    ends = [
        (int(at[0]), size - 1 - int(at[-1])) for at, size in zip((rows, columns), term.index.shape[1:], strict=True)
    ]
    return Channels(of_node, factor, (ends[0], ends[1]))


def of_channels(weight: np.ndarray, channels: Channels, count: int) -> np.ndarray:
    """Weights [O, C, ...] for the channels of the value, as weights for those of the node, so many."""
    found = np.zeros((weight.shape[0], count, *weight.shape[2:]), np.float32)
    for at, (channel, factor) in enumerate(zip(channels.of_node, channels.scale, strict=True)):
        if channel >= 0:
            found[:, channel] += weight[:, at] * factor
    return found


def ungrouped(weight: np.ndarray, groups: int) -> np.ndarray:
    """The weights [O, C / groups, ...] of a grouped convolution as those [O, C, ...] of one group."""
    if groups == 1:
        return weight
    outputs, inputs = weight.shape[0] // groups, weight.shape[1]
    found = np.zeros((weight.shape[0], inputs * groups, *weight.shape[2:]), np.float32)
    for group in range(groups):
        rows = slice(group * outputs, (group + 1) * outputs)
        found[rows, group * inputs : (group + 1) * inputs] = weight[rows]
    return found


def undilated(weight: np.ndarray, dilation: Sequence[int]) -> np.ndarray:
    """The weights [O, C, H, W] with zeros between them where they are dilated."""
    if set(dilation) == {1}:
        return weight
    sizes = [(taps - 1) * step + 1 for taps, step in zip(weight.shape[2:], dilation, strict=True)]
    found = np.zeros((*weight.shape[:2], *sizes), np.float32)
    found[:, :, :: dilation[0], :: dilation[1]] = weight
    return found


def fitted(
    weight: np.ndarray, stride: Sequence[int], padding: Sequence[Pair], pixels: Sequence[int], outputs: Sequence[int]
) -> Kernel | None:
    """A convolution with a square kernel and even padding, by rows and columns of zeros in the kernel.

    Output o reads places o stride - before + tap. With padding p >= before and p - before zeros in front of the taps
    it reads the same; zeros behind them make the number of outputs right.

    Args:
        weight: [O, C, H, W].
        stride: along each axis.
        padding: before and after each axis.
        pixels: of the map.
        outputs: how many there are along each axis.

    Returns:
        The convolution, or None where padding is negative.
    """
    most = max(weight.shape[2:]) + max(map(max, padding)) + max(stride)
    for size in range(max(weight.shape[2:]), most + 1):
        found = [
            _front(size, taps, step, before, length, count)
            for taps, step, (before, _), length, count in zip(
                weight.shape[2:], stride, padding, pixels, outputs, strict=True
            )
        ]
        if all(zeros is not None for zeros in found):
            behind = [size - taps - zeros for taps, zeros in zip(weight.shape[2:], found, strict=True)]
            zeros = [(0, 0), (0, 0), *zip(found, behind, strict=True)]
            sizes = [before + front for (before, _), front in zip(padding, found, strict=True)]
            return Kernel(np.pad(weight, zeros), (stride[0], stride[1]), (sizes[0], sizes[1]))
    return None


def _front(size: int, taps: int, stride: int, before: int, pixels: int, outputs: int) -> int | None:
    """How many zeros in front of the taps make a kernel of this size fit along one axis."""
    for zeros in range(max(0, -before), size - taps + 1):
        span = pixels + 2 * (before + zeros) - size
        if span >= 0 and span // stride + 1 == outputs:
            return zeros
    return None


def windows(index: np.ndarray, source: tuple[int, ...]) -> tuple[Pair, Pair] | None:
    """Size and stride of the pool whose windows these are.

    Args:
        index: [outputs, R], of elements of a node; the outputs in the order of the pool.
        source: the shape [C, H, W] of the node.

    Returns:
        None where they are no windows of a pool that steps by its size.
    """
    if len(source) != 3 or (index < 0).any():
        return None
    index = np.sort(index, -1)
    _, height, width = source
    rows, columns = index[0] % (height * width) // width, index[0] % width
    size = int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1
    if height % size[0] or width % size[1]:
        return None
    return (size, size) if np.array_equal(index, _windows(source, size)) else None


def _windows(source: tuple[int, ...], size: Pair) -> np.ndarray:
    """The elements of each window, [outputs, R]."""
    channels, height, width = source
    cut = np.arange(channels * height * width).reshape(channels, height // size[0], size[0], width // size[1], size[1])
    return cut.transpose(0, 1, 3, 2, 4).reshape(-1, size[0] * size[1])


def matrix_of(matrix: np.ndarray, term: Term) -> np.ndarray:
    """A matrix [N, elements of the value] as one [N, elements of the source]."""
    index, scale = term.index.reshape(-1), term.scale.reshape(-1)
    there = index >= 0
    found = np.zeros((term.size, len(matrix)), np.float32)
    columns = matrix.T[there] * scale[there, None]
    if len(np.unique(index[there])) == int(there.sum()):
        found[index[there]] = columns
    else:
        np.add.at(found, index[there], columns)
    return found.T
