"""Flax Linen networks with QCFS activations, found by name; they know nothing of spikes."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module

import flax.linen as nn

from gnsnn_jax.errors import InputError, at_least_one, nearest


@cache
def networks() -> Mapping[str, Callable[..., nn.Module]]:
    """Every network by name: the union of the dictionaries NETWORKS in the modules of this package."""
    found: dict[str, Callable[..., nn.Module]] = {}
    for module in pkgutil.iter_modules(__path__):
        found |= getattr(import_module(f"{__name__}.{module.name}"), "NETWORKS", {})
    return found


def build(name: str, *, num_classes: int, levels: int, threshold: float = 8.0, **options) -> nn.Module:
    """Returns an uninitialised Linen network that maps images [B, H, W, C] to logits [B, K].

    `levels` is L and `threshold` the initial value of every trainable theta of `qcfs`; `options` are
    the network's own fields. Call it as `network.apply(variables, images, train=False)`.
    Raises InputError for an unknown name, and for counts below 1 or a threshold that is not positive.
    """
    known = networks()
    if name not in known:
        raise InputError(f"unknown model {name!r}; there are {', '.join(sorted(known))}{nearest(name, known)}")
    num_classes = at_least_one("num_classes", num_classes)
    levels = at_least_one("levels", levels)
    if not threshold > 0:
        raise InputError(f"the initial threshold must be positive, got {threshold}")
    return known[name](num_classes=num_classes, levels=levels, threshold=float(threshold), **options)
