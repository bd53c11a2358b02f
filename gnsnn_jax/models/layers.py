"""The layers that the networks share."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp

from gnsnn_jax._types import Array, Float
from gnsnn_jax.activations import qcfs
from gnsnn_jax.errors import InputError

# He initialisation over the outputs, as the published networks use it.
he_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class QCFS(nn.Module):
    """The activation `qcfs` with one trainable threshold, in float32 whatever the inputs are."""

    levels: int
    threshold: float

    @nn.compact
    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        initial = nn.initializers.constant(self.threshold)
        return qcfs(x, self.param("threshold", initial, (), jnp.float32), self.levels)


def conv(features: int, kernel: int = 3, stride: int = 1, *, name: str, use_bias: bool = False) -> nn.Conv:
    """A square convolution padded on both sides alike, which XLA's "SAME" is not at stride 2."""
    padding = (kernel - 1) // 2
    return nn.Conv(
        features,
        (kernel, kernel),
        strides=stride,
        padding=((padding, padding), (padding, padding)),
        use_bias=use_bias,
        kernel_init=he_normal,
        name=name,
    )


def batch_norm(train: bool, *, name: str) -> nn.BatchNorm:
    return nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, name=name)


def check_images(network: str, x: Array, smallest: int) -> None:
    """Raises InputError unless x is a batch of images [B, H, W, C] of at least `smallest` pixels a side."""
    if x.ndim != 4 or min(x.shape[1:3]) < smallest:
        raise InputError(
            f"{network} takes images [batch, height, width, channels] of at least {smallest}x{smallest} "
            f"pixels, got shape {x.shape}"
        )
