"""Flax Linen networks with QCFS activations, found by name; they know nothing of spikes."""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module

from gnsnn_jax.errors import InputError, at_least_one, extra, nearest

with extra("train"):
    import flax.linen as nn


@cache
def networks() -> Mapping[str, Callable[..., nn.Module]]:
    """Every network by name: the union of the dictionaries NETWORKS in the modules of this package."""
    found: dict[str, Callable[..., nn.Module]] = {}
    for module in pkgutil.iter_modules(__path__):
        found |= getattr(import_module(f"{__name__}.{module.name}"), "NETWORKS", {})
    return found


def build(name: str, *, num_classes: int, levels: int, threshold: float = 8.0, **options) -> nn.Module:
    """Builds an uninitialised Linen network that maps images [B, H, W, C] to logits [B, K].

    Call it as `network.apply(variables, images, train=False)`.

    Args:
        name: one of `networks()`.
        num_classes: K.
        levels: L of every `qcfs`.
        threshold: the initial value of every trainable theta.
        options: the network's own fields: `activation`, "qcfs" by default, "noisy_qcfs", "clip" or "relu",
            `dropout_rate` of a VGG network, `dtype`, the type in which all but the last layer computes. It is float32
            by default; parameters, thresholds and statistics always are.

    Returns:
        The module.

    Raises:
        InputError: for an unknown name or option, for counts below 1, and for a threshold that is not positive.
    """
    known = networks()
    if name not in known:
        raise InputError(f"unknown model {name!r}; there are {', '.join(sorted(known))}{nearest(name, known)}")
    _check_options(name, known[name], options)
    num_classes = at_least_one("num_classes", num_classes)
    levels = at_least_one("levels", levels)
    if not threshold > 0:
        raise InputError(f"the initial threshold must be positive, got {threshold}")
    return known[name](num_classes=num_classes, levels=levels, threshold=float(threshold), **options)


def _check_options(name: str, network: Callable[..., nn.Module], options: Mapping[str, object]) -> None:
    common = {"num_classes", "levels", "threshold", "parent", "name"}
    taken = [option for option in inspect.signature(network).parameters if option not in common]
    for option in options:
        if option not in taken:
            raise InputError(f"{name} has no option {option!r}; it has {', '.join(taken)}{nearest(option, taken)}")
