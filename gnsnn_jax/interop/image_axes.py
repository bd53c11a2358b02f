"""The order of the axes of images, at the border between data sets and networks from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from gnsnn_jax._types import Array


def as_declared(images: Array | np.ndarray, declared: Sequence[int | None] | None) -> Array | np.ndarray:
    """Images [B, H, W, C] in the order of the axes of a network's input.

    Args:
        images: as data sets have them.
        declared: the lengths that the network's input has, None for any, or None where they are not known.

    Returns:
        [B, C, H, W] where the second length is that of the channels, or where it is free and the last one is not
        that of the channels; otherwise the images as they are.
    """
    if declared is None or len(declared) != 4 or images.ndim != 4:
        return images
    channels = images.shape[-1]
    is_first = declared[1] == channels or (declared[1] is None and declared[-1] != channels)
    return jnp.moveaxis(images, -1, 1) if is_first else images
