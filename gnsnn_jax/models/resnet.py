"""Residual networks: He et al. 2015, arXiv 1512.03385, with QCFS in place of ReLU."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import flax.linen as nn

from gnsnn_jax._types import Array, Float
from gnsnn_jax.models.layers import QCFS, batch_norm, check_images, conv


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut, an activation after the first and after the sum."""

    width: int
    stride: int
    activation: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool = False) -> Float[Array, "B h w K"]:
        y = conv(self.width, 3, self.stride, name="conv1")(x)
        y = batch_norm(train, name="norm1")(y)
        y = self.activation(name="act1")(y)
        y = conv(self.width, 3, name="conv2")(y)
        y = batch_norm(train, name="norm2")(y)
        if x.shape != y.shape:
            x = conv(self.width, 1, self.stride, name="shortcut_conv")(x)
            x = batch_norm(train, name="shortcut_norm")(x)
        return self.activation(name="act2")(x + y)


class ResNet(nn.Module):
    """A 3x3 stem of stride 1, stages of blocks that halve the image, the mean over it, a linear layer."""

    num_classes: int
    levels: int
    threshold: float
    blocks: tuple[int, ...]
    widths: tuple[int, ...]
    block: Callable[..., nn.Module] = BasicBlock

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool = False) -> Float[Array, "B K"]:
        check_images("a residual network", x, 2 ** (len(self.blocks) - 1))
        activation = partial(QCFS, self.levels, self.threshold)
        x = conv(self.widths[0], 3, name="conv1")(x)
        x = batch_norm(train, name="norm1")(x)
        x = activation(name="act1")(x)
        for stage, (blocks, width) in enumerate(zip(self.blocks, self.widths, strict=True), start=1):
            for index in range(blocks):
                stride = 2 if stage > 1 and index == 0 else 1
                x = self.block(width, stride, activation, name=f"stage{stage}_block{index}")(x, train)
        return nn.Dense(self.num_classes, name="head")(x.mean((-3, -2)))


NETWORKS: Mapping[str, Callable[..., nn.Module]] = {
    "resnet10": partial(ResNet, blocks=(2, 2), widths=(16, 32)),
    "resnet20": partial(ResNet, blocks=(3, 3, 3), widths=(16, 32, 64)),
}
