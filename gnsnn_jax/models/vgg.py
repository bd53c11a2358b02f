"""VGG networks: Simonyan and Zisserman 2014, arXiv 1409.1556, with batch norm, average pooling and QCFS."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax.numpy as jnp

from gnsnn_jax._types import Array, Float
from gnsnn_jax.errors import InputError, extra
from gnsnn_jax.models.layers import activation_module, average_pool, batch_norm, check_images, check_inputs, conv
from gnsnn_jax.models.published import Published

with extra("train"):
    import flax.linen as nn


class Stage(nn.Module):
    """3x3 convolutions of one width, each with norm, activation and dropout; then 2x2 average pooling."""

    convolutions: int
    width: int
    dropout_rate: float
    activation: Callable[..., nn.Module]
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool = False) -> Float[Array, "B h w K"]:
        for index in range(1, self.convolutions + 1):
            x = conv(self.width, 3, 1, self.dtype, name=f"conv{index}", use_bias=True)(x)
            x = batch_norm(train, self.dtype, name=f"norm{index}")(x)
            x = self.activation(name=f"act{index}")(x)
            x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        return average_pool(x)


class VGG(nn.Module):
    """Stages of convolutions that halve the image, then three linear layers on what is left of it.

    Images of 32x32 pixels leave one pixel, of 224x224 pixels 7x7; the weights fit one size only.
    """

    num_classes: int
    levels: int
    threshold: float
    convolutions: tuple[int, ...]
    widths: tuple[int, ...] = (64, 128, 256, 512, 512)
    hidden: int = 4096
    dropout_rate: float = 0.0
    dtype: Any = jnp.float32
    activation: str = "qcfs"

    def __post_init__(self):
        if not 0 <= self.dropout_rate < 1:
            raise InputError(f"dropout_rate must be at least 0 and below 1, got {self.dropout_rate}")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool = False) -> Float[Array, "B K"]:
        check_images("a VGG network", x, self._smallest_side, multiple=self._smallest_side)
        check_inputs(self, "stage1/conv1", x, "channels")
        activation = activation_module(self.activation, self.levels, self.threshold)
        for stage, (convolutions, width) in enumerate(zip(self.convolutions, self.widths, strict=True), start=1):
            x = Stage(convolutions, width, self.dropout_rate, activation, self.dtype, name=f"stage{stage}")(x, train)
        x = x.reshape(x.shape[0], math.prod(x.shape[1:]))
        check_inputs(self, "dense1", x, "inputs in the first linear layer")
        for index in (1, 2):
            dense = partial(nn.Dense, kernel_init=nn.initializers.he_normal(), dtype=self.dtype)
            x = dense(self.hidden, name=f"dense{index}")(x)
            x = activation(name=f"act{index}")(x)
            x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        return nn.Dense(self.num_classes, name="head")(x.astype(jnp.float32))

    @property
    def _smallest_side(self) -> int:
        return 2 ** len(self.convolutions)

    def published(self) -> Published:
        """Four PyTorch layers to a convolution: itself, its norm, its activation, its dropout."""
        names = {
            "dense1": "classifier.1",
            "act1": "classifier.2",
            "dense2": "classifier.4",
            "act2": "classifier.5",
            "head": "classifier.7",
        }
        for stage, convolutions in enumerate(self.convolutions, start=1):
            for index in range(convolutions):
                for offset, kind in enumerate(("conv", "norm", "act")):
                    names[f"stage{stage}/{kind}{index + 1}"] = f"layer{stage}.{4 * index + offset}"
        return Published(names, "stage1/conv1", self._smallest_side, "dense1", self.widths[-1])


NETWORKS: Mapping[str, Callable[..., nn.Module]] = {
    "vgg11": partial(VGG, convolutions=(1, 1, 2, 2, 2)),
    "vgg13": partial(VGG, convolutions=(2, 2, 2, 2, 2)),
    "vgg16": partial(VGG, convolutions=(2, 2, 3, 3, 3)),
    "vgg19": partial(VGG, convolutions=(2, 2, 4, 4, 4)),
}
