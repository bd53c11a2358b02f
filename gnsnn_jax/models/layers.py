"""The layers that the networks share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import jax.numpy as jnp

from gnsnn_jax._types import Array, Float
from gnsnn_jax.errors import InputError, extra, nearest
from gnsnn_jax.method.activations import clip, noisy_qcfs, qcfs
from gnsnn_jax.xla.convolution import conv_general_dilated

with extra("train"):
    import flax.linen as nn

# He initialisation over the outputs, as the published networks use it.
he_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
NOISE = "noise"  # the stream of random numbers that training gives to networks, beside that of dropout


class QCFS(nn.Module):
    """The activation `qcfs` with one trainable threshold, in float32 whatever the inputs are."""

    levels: int
    threshold: float

    @nn.compact
    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        return qcfs(x, _trainable(self, self.threshold), self.levels)


class NoisyQCFS(nn.Module):
    """`QCFS` that is `noisy_qcfs` where it gets random numbers, `apply(..., rngs={"noise": key})`, as in training."""

    levels: int
    threshold: float

    @nn.compact
    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        threshold = _trainable(self, self.threshold)
        if self.has_rng(NOISE):
            return noisy_qcfs(x, threshold, self.levels, self.make_rng(NOISE))
        return qcfs(x, threshold, self.levels)


class Clip(nn.Module):
    """The activation `clip` with one trainable threshold, in float32 whatever the inputs are."""

    threshold: float

    @nn.compact
    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        return clip(x, _trainable(self, self.threshold))


def _trainable(module: nn.Module, threshold: float) -> Float[Array, ""]:
    """The threshold of an activation, a parameter with this initial value."""
    return module.param("threshold", nn.initializers.constant(threshold), (), jnp.float32)


class ReLU(nn.Module):
    """max(x, 0), as a module so that it has a name."""

    @nn.compact
    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        return nn.relu(x)


def activation_module(
    name: str, levels: int, threshold: float, others: Mapping[str, Callable[..., nn.Module]] = MappingProxyType({})
) -> Callable[..., nn.Module]:
    """What makes the activations of a network: call it with the name of each. `others` are those that this kind of
    network has besides. Raises InputError for an unknown one."""
    known: dict[str, Callable[..., nn.Module]] = {
        "qcfs": partial(QCFS, levels, threshold),
        "noisy_qcfs": partial(NoisyQCFS, levels, threshold),
        "clip": partial(Clip, threshold),
        "relu": ReLU,
        **others,
    }
    if name not in known:
        raise InputError(f"unknown activation {name!r}; there are {', '.join(known)}{nearest(name, known)}")
    return known[name]


def conv(features: int, kernel: int, stride: int, dtype: Any, *, name: str, use_bias: bool = False) -> nn.Conv:
    """A square convolution padded on both sides alike, which XLA's "SAME" is not at stride 2; fast on CPUs."""
    padding = (kernel - 1) // 2
    return nn.Conv(
        features,
        (kernel, kernel),
        strides=stride,
        padding=((padding, padding), (padding, padding)),
        use_bias=use_bias,
        kernel_init=he_normal,
        dtype=dtype,
        conv_general_dilated=conv_general_dilated,
        name=name,
    )


def batch_norm(train: bool, dtype: Any, *, name: str) -> nn.BatchNorm:
    """Means and deviations are float32 whatever the type of the outputs is."""
    return nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, dtype=dtype, name=name)


def average_pool(x: Float[Array, "*B H W C"]) -> Float[Array, "*B h w C"]:
    """The mean over each 2x2 pixels, h = H/2 and w = W/2; a reshape, as XLA pools slowly on CPUs.

    Raises InputError for an odd height or width.
    """
    *batch, height, width, channels = x.shape
    if height % 2 or width % 2 or not height * width:
        raise InputError(f"average pooling halves even heights and widths, got a map of {height}x{width} pixels")
    return x.reshape(*batch, height // 2, 2, width // 2, 2, channels).mean((-4, -2))


def check_images(network: str, x: Array, smallest: int, multiple: int = 1) -> None:
    """Raises InputError unless x is a batch of images [B, H, W, C] of at least `smallest` pixels a side,
    each side a multiple of `multiple`."""
    if x.ndim != 4 or min(x.shape[1:3]) < smallest or any(side % multiple for side in x.shape[1:3]):
        sides = f", each side a multiple of {multiple}" if multiple > 1 else ""
        raise InputError(
            f"{network} takes images [batch, height, width, channels] of at least {smallest}x{smallest} "
            f"pixels{sides}; got shape {x.shape}"
        )


def check_inputs(module: nn.Module, layer: str, x: Array, what: str) -> None:
    """Raises InputError unless the weights of a layer of `module`, if it has any yet, read as many
    inputs as the last axis of x holds; `what` says what they are to the user."""
    weights = module.variables.get("params", {})
    for name in layer.split("/"):
        weights = weights.get(name, {})
    if "kernel" in weights and weights["kernel"].shape[-2] != x.shape[-1]:
        raise InputError(
            f"these weights take {weights['kernel'].shape[-2]} {what}, but the images make {x.shape[-1]}; "
            "give images of the size and channels that the network was trained on"
        )
