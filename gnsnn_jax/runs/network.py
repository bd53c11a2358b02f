"""The network that a configuration describes, ours or the user's own."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import jax.numpy as jnp

from gnsnn_jax.errors import InputError, at_least_one, extra
from gnsnn_jax.interop.functions import is_own, own_network
from gnsnn_jax.models import build
from gnsnn_jax.runtime.config import Model

with extra("train"):
    import flax.linen as nn


def build_network(settings: Model, num_classes: int, dtype: str = "float32") -> nn.Module:
    """Builds the network that settings describe.

    Args:
        settings: name, levels, thresholds and number of outputs.
        num_classes: classes of the data.
        dtype: the type that it computes in.

    Returns:
        A Linen module that takes normalised images [B, H, W, C].

    Raises:
        InputError: for an unknown name, and for fewer outputs than classes.
    """
    if 0 < settings.classes < num_classes:
        raise InputError(
            f"a network of {settings.classes} classes cannot tell the {num_classes} classes of the data apart"
        )
    options: dict[str, Any] = {"activation": settings.activation}
    if settings.dropout_rate:
        options["dropout_rate"] = settings.dropout_rate
    return build(
        settings.name,
        num_classes=settings.classes or num_classes,
        levels=settings.levels,
        threshold=settings.threshold,
        dtype=jnp.dtype(dtype),
        **options,
    )


def apply_of(settings: Model, num_classes: int) -> Callable:
    """The network as a function of variables and images, the same one for equal settings, so that it compiles once.

    Raises InputError as `build_network` and `own_network` do.
    """
    return _apply_of(settings, at_least_one("num_classes", num_classes))


@cache
def _apply_of(settings: Model, num_classes: int) -> Callable:
    if is_own(settings.name):
        return own_network(settings.name).apply
    return build_network(settings, num_classes).apply
