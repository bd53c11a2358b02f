"""Transformers with the norm in front of each branch: attention, MLP and block, over tokens [B, N, C].

Vaswani et al. 2017, arXiv 1706.03762; Xiong et al. 2020, arXiv 2002.04745.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gnsnn_jax._types import Array, Float
from gnsnn_jax.errors import InputError, extra
from gnsnn_jax.models.layers import activation_module

with extra("train"):
    import flax.linen as nn

EPSILON = 1e-6  # of layer norms
MLP_RATIO = 4  # hidden features of an MLP for each of its inputs
xavier = nn.initializers.xavier_uniform()


class GELU(nn.Module):
    """x Phi(x), with the normal distribution function Phi itself, as a module so that it has a name."""

    @nn.compact
    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        return nn.gelu(x, approximate=False)


def transformer_activation(name: str, levels: int, threshold: float) -> Callable[..., nn.Module]:
    """What makes the activations of the MLPs: "gelu" or one of `activation_module`. Raises InputError for an unknown
    one."""
    return activation_module(name, levels, threshold, others={"gelu": GELU})


def dense(features: int, dtype: Any, *, name: str) -> nn.Dense:
    return nn.Dense(features, dtype=dtype, kernel_init=xavier, name=name)


def layer_norm(x: Float[Array, "B N C"], dtype: Any, *, name: str) -> Float[Array, "B N C"]:
    """Computed in float32 whatever the type of the outputs is."""
    norm = nn.LayerNorm(epsilon=EPSILON, dtype=jnp.float32, name=name)
    return norm(x.astype(jnp.float32)).astype(dtype)


class Attention(nn.Module):
    """Multi-head attention of each token to all, or, if `is_causal`, to itself and those before it.

        softmax(Q K^T / sqrt(d)) V   for each head of d = C / heads features

    The softmax is float32 whatever the type of the rest is.
    """

    heads: int
    dtype: Any
    is_causal: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "B N C"]) -> Float[Array, "B N C"]:
        width = x.shape[-1]
        query, key, value = (self._heads_of(dense(width, self.dtype, name=name)(x)) for name in _PROJECTIONS)
        with jax.named_scope("scores"):
            scores = jnp.einsum("bnhd,bmhd->bhnm", query, key) * (width // self.heads) ** -0.5
        shares = nn.softmax(self._masked(scores.astype(jnp.float32))).astype(value.dtype)
        with jax.named_scope("mix"):
            mixed = jnp.einsum("bhnm,bmhd->bnhd", shares, value)
        return dense(width, self.dtype, name="out")(mixed.reshape(x.shape))

    def _heads_of(self, x: Float[Array, "B N C"]) -> Float[Array, "B N H d"]:
        *tokens, width = x.shape
        return x.reshape(*tokens, self.heads, width // self.heads)

    def _masked(self, scores: Float[Array, "B H N N"]) -> Float[Array, "B H N N"]:
        if not self.is_causal:
            return scores
        size = scores.shape[-1]
        seen = jnp.broadcast_to(jnp.tri(size, dtype=bool)[None, None], scores.shape)
        return jnp.where(seen, scores, -jnp.inf)


_PROJECTIONS = ("query", "key", "value")


class MLP(nn.Module):
    """A linear layer to MLP_RATIO times as many features, an activation, a linear layer back."""

    activation: Callable[..., nn.Module]
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "B N C"]) -> Float[Array, "B N C"]:
        hidden = dense(MLP_RATIO * x.shape[-1], self.dtype, name="dense1")(x)
        return dense(x.shape[-1], self.dtype, name="dense2")(self.activation(name="act")(hidden))


class Block(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x)), with dropout on both branches in training."""

    heads: int
    activation: Callable[..., nn.Module]
    dtype: Any
    dropout_rate: float = 0.0
    is_causal: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "B N C"], train: bool = False) -> Float[Array, "B N C"]:
        drop = lambda branch: nn.Dropout(self.dropout_rate, deterministic=not train)(branch)
        y = layer_norm(x, self.dtype, name="norm1")
        x = x + drop(Attention(self.heads, self.dtype, self.is_causal, name="attention")(y))
        y = layer_norm(x, self.dtype, name="norm2")
        return x + drop(MLP(self.activation, self.dtype, name="mlp")(y))


def features_normal(width: int) -> nn.initializers.Initializer:
    """Vectors of length 1 on average, for positions and embeddings of so many features."""
    return nn.initializers.normal(width**-0.5)


def check_heads(width: int, heads: int) -> None:
    """Raises InputError unless the heads share the features evenly."""
    if width < 1 or heads < 1 or width % heads:
        raise InputError(f"{width} features cannot be shared evenly by {heads} heads; choose a divisor of the width")


def check_dropout(rate: float) -> None:
    """Raises InputError for a share that is not at least 0 and below 1."""
    if not 0 <= rate < 1:
        raise InputError(f"dropout_rate must be at least 0 and below 1, got {rate}")
