"""Means and deviations of pixels: measured, published or given, and what images become by them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from gnsnn_jax._types import Array, Float, Int, Shaped
from gnsnn_jax.errors import InputError, shown
from gnsnn_jax.runtime.config import Data

_LEVELS = 256  # of a pixel in uint8
_AT_A_TIME = 1024  # images that are counted together, so that their pixels as integers need little memory


class Statistics(NamedTuple):
    """Mean and standard deviation per channel, in the unit of the pixels."""

    mean: tuple[float, ...]
    deviation: tuple[float, ...]


def _of_levels(mean: tuple[float, ...], deviation: tuple[float, ...]) -> Statistics:
    """Statistics of pixels 0..255 from those of pixels 0..1."""
    return Statistics(*(tuple((_LEVELS - 1) * value for value in values) for values in (mean, deviation)))


# By the name that TensorFlow Datasets has for a set. CIFAR and ImageNet: the constants that the published networks were
# trained with (the authors' code for QCFS, arXiv 2303.04347, and COS, arXiv 2302.10685). Those deviations for CIFAR-10
# are a well-known slip, the mean of the deviations of single images, but the weights belong to them. MNIST and
# Fashion-MNIST: mean and deviation of the pixels of the training split to four digits, as in the examples of PyTorch.
PUBLISHED: Mapping[str, Statistics] = {
    "cifar10": _of_levels((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "cifar100": Statistics((129.3, 124.1, 112.4), (68.2, 65.4, 70.4)),
    "imagenet2012": _of_levels((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "mnist": _of_levels((0.1307,), (0.3081,)),
    "fashion_mnist": _of_levels((0.2860,), (0.3530,)),
}


def choose_statistics(settings: Data, channels: int, otherwise: Callable[[], Statistics]) -> Statistics:
    """Those of the settings where given, else those of `otherwise`, which is called only then."""
    for name in ("mean", "deviation"):
        given = getattr(settings, name)
        if given and (len(given) != channels or (name == "deviation" and min(given) <= 0)):
            raise InputError(
                f"data.{name} = {shown(list(given))} does not fit images of {channels} channels; give a number for each"
                + (", all positive" if name == "deviation" else "")
            )
    if settings.mean and settings.deviation:
        return Statistics(settings.mean, settings.deviation)
    found = otherwise()
    return Statistics(settings.mean or found.mean, settings.deviation or found.deviation)


def statistics(images: Shaped[np.ndarray, "N H W C"]) -> Statistics:
    """Over all pixels of a channel; the deviation of a constant counts as 1."""
    if images.dtype == np.uint8:
        counts = _counts(images)
        levels = np.arange(_LEVELS)[:, None]
        mean = (counts * levels).sum(0) / counts.sum(0)
        deviation = np.sqrt((counts * (levels - mean[None]) ** 2).sum(0) / counts.sum(0))
    else:
        pixels = images.reshape(-1, images.shape[-1]).astype(np.float64)
        mean, deviation = pixels.mean(0), pixels.std(0)
    return Statistics(tuple(mean.tolist()), tuple(np.where(deviation > 0, deviation, 1).tolist()))


def _counts(images: Shaped[np.ndarray, "N H W C"]) -> Int[np.ndarray, "256 C"]:
    """How many pixels have each level, per channel."""
    starts = range(0, len(images), _AT_A_TIME)
    parts = (images[start : start + _AT_A_TIME].reshape(-1, images.shape[-1]) for start in starts)
    return sum(np.stack([np.bincount(channel, minlength=_LEVELS) for channel in part.T], -1) for part in parts)  # type: ignore[return-value]


def normalise(images: Shaped[Array | np.ndarray, "B H W C"], to: Statistics) -> Float[Array, "B H W C"]:
    """(pixel - mean) / deviation, per channel, in float32."""
    mean, deviation = (jnp.asarray(values, jnp.float32).reshape(1, 1, 1, -1) for values in to)
    return (jnp.asarray(images).astype(jnp.float32) - mean) / deviation
