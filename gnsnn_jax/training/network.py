"""The network that a configuration describes."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp

from gnsnn_jax.errors import InputError
from gnsnn_jax.models import build
from gnsnn_jax.training.config import Model


def network_of(settings: Model, num_classes: int, dtype: str = "float32") -> nn.Module:
    """Builds it for data of `num_classes` classes, to compute in `dtype`. Raises InputError if it has fewer outputs."""
    if 0 < settings.classes < num_classes:
        raise InputError(
            f"a network of {settings.classes} classes cannot tell the {num_classes} classes of the data apart"
        )
    options = {"activation": settings.activation}
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
