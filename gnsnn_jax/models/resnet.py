"""Residual networks: He et al. 2015, arXiv 1512.03385, with QCFS in place of ReLU by default."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax.numpy as jnp

from gnsnn_jax._types import Array, Float
from gnsnn_jax.errors import extra
from gnsnn_jax.models.layers import activation_module, batch_norm, check_images, check_inputs, conv
from gnsnn_jax.models.published import Published

with extra("train"):
    import flax.linen as nn


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut, an activation after the first and after the sum."""

    width: int
    stride: int
    activation: Callable[..., nn.Module]
    dtype: Any

    convolutions = 2

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool = False) -> Float[Array, "B h w K"]:
        y = conv(self.width, 3, self.stride, self.dtype, name="conv1")(x)
        y = batch_norm(train, self.dtype, name="norm1")(y)
        y = self.activation(name="act1")(y)
        y = conv(self.width, 3, 1, self.dtype, name="conv2")(y)
        y = batch_norm(train, self.dtype, name="norm2")(y)
        return self.activation(name="act2")(_shortcut(x, y, self.stride, train, self.dtype) + y)


class Bottleneck(nn.Module):
    """A 3x3 convolution between two 1x1 ones, the last four times as wide, beside a shortcut."""

    width: int
    stride: int
    activation: Callable[..., nn.Module]
    dtype: Any

    convolutions = 3

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool = False) -> Float[Array, "B h w K"]:
        y = conv(self.width, 1, 1, self.dtype, name="conv1")(x)
        y = batch_norm(train, self.dtype, name="norm1")(y)
        y = self.activation(name="act1")(y)
        y = conv(self.width, 3, self.stride, self.dtype, name="conv2")(y)
        y = batch_norm(train, self.dtype, name="norm2")(y)
        y = self.activation(name="act2")(y)
        y = conv(4 * self.width, 1, 1, self.dtype, name="conv3")(y)
        y = batch_norm(train, self.dtype, name="norm3")(y)
        return self.activation(name="act3")(_shortcut(x, y, self.stride, train, self.dtype) + y)


def _shortcut(x: Array, y: Array, stride: int, train: bool, dtype: Any) -> Array:
    """x in the shape of y: itself where it has that shape, else projected within the calling block."""
    if x.shape == y.shape:
        return x
    x = conv(y.shape[-1], 1, stride, dtype, name="shortcut_conv")(x)
    return batch_norm(train, dtype, name="shortcut_norm")(x)


class ResNet(nn.Module):
    """A 3x3 stem of stride 1, stages of blocks that halve the image, the mean over it, a linear layer."""

    num_classes: int
    levels: int
    threshold: float
    blocks: tuple[int, ...]
    widths: tuple[int, ...]
    block: type[BasicBlock] | type[Bottleneck] = BasicBlock
    dtype: Any = jnp.float32
    activation: str = "qcfs"

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool = False) -> Float[Array, "B K"]:
        check_images("a residual network", x, self._smallest_side)
        check_inputs(self, "conv1", x, "channels")
        activation = activation_module(self.activation, self.levels, self.threshold)
        x = conv(self.widths[0], 3, 1, self.dtype, name="conv1")(x)
        x = batch_norm(train, self.dtype, name="norm1")(x)
        x = activation(name="act1")(x)
        for stage, (blocks, width) in enumerate(zip(self.blocks, self.widths, strict=True), start=1):
            for index in range(blocks):
                stride = 2 if stage > 1 and index == 0 else 1
                x = self.block(width, stride, activation, self.dtype, name=f"stage{stage}_block{index}")(x, train)
        return nn.Dense(self.num_classes, name="head")(x.mean((-3, -2)).astype(jnp.float32))

    @property
    def _smallest_side(self) -> int:
        return 2 ** (len(self.blocks) - 1)

    def published(self) -> Published:
        names = {"conv1": "conv1.0", "norm1": "conv1.1", "act1": "conv1.2", "head": "fc"}
        for stage, blocks in enumerate(self.blocks, start=1):
            for index in range(blocks):
                here, there = f"stage{stage}_block{index}", f"conv{stage + 1}_x.{index}"
                for own, published in _published_block(self.block.convolutions).items():
                    names[f"{here}/{own}"] = f"{there}.{published}"
        return Published(names, first_convolution="conv1", side=self._smallest_side)


def _published_block(convolutions: int) -> dict[str, str]:
    names = {"shortcut_conv": "shortcut.0", "shortcut_norm": "shortcut.1"}
    for index in range(convolutions):
        for offset, kind in enumerate(("conv", "norm", "act")):
            names[f"{kind}{index + 1}"] = f"residual_function.{3 * index + offset}"
    return names | {f"act{convolutions}": "relu"}


_wide = partial(ResNet, widths=(64, 128, 256, 512))
_deep = partial(_wide, block=Bottleneck)

NETWORKS: Mapping[str, Callable[..., nn.Module]] = {
    "resnet10": partial(ResNet, blocks=(2, 2), widths=(16, 32)),
    "resnet18": partial(_wide, blocks=(2, 2, 2, 2)),
    "resnet20": partial(ResNet, blocks=(3, 3, 3), widths=(16, 32, 64)),
    "resnet34": partial(_wide, blocks=(3, 4, 6, 3)),
    "resnet50": partial(_deep, blocks=(3, 4, 6, 3)),
    "resnet101": partial(_deep, blocks=(3, 4, 23, 3)),
    "resnet152": partial(_deep, blocks=(3, 8, 36, 3)),
}
