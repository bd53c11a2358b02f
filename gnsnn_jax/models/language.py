"""A small language model: a transformer that predicts each token from those before it."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from gnsnn_jax._types import Array, Float, Int
from gnsnn_jax.errors import InputError, extra
from gnsnn_jax.models.transformer import (
    Block,
    check_dropout,
    check_heads,
    features_normal,
    layer_norm,
    transformer_activation,
)

with extra("train"):
    import flax.linen as nn

BITS = math.log(2)  # nats in a bit


class LanguageModel(nn.Module):
    """Tokens and learned positions, causal blocks, and logits of the token that follows each.

    Attributes:
        vocabulary: the number of tokens, such as characters.
        context: the most tokens that it reads.
        width: features of a token.
        depth: the number of blocks.
        heads: of the attention in each block, a divisor of the width.
        dropout_rate: share of the outputs of each branch that are dropped in training.
        dtype: the type in which all but the last layer computes; softmax and norms are float32 within.
        activation: of the MLPs, "gelu", "relu", "qcfs", "noisy_qcfs" or "clip"; levels and threshold are those of
            the last three.
    """

    vocabulary: int
    context: int
    width: int = 96
    depth: int = 3
    heads: int = 4
    dropout_rate: float = 0.0
    dtype: Any = jnp.float32
    activation: str = "gelu"
    levels: int = 16
    threshold: float = 8.0

    def __post_init__(self):
        super().__post_init__()
        check_heads(self.width, self.heads)
        check_dropout(self.dropout_rate)

    @nn.compact
    def __call__(self, tokens: Int[Array, "B N"], train: bool = False) -> Float[Array, "B N K"]:
        self._check_tokens(tokens)
        x = nn.Embed(
            self.vocabulary, self.width, dtype=self.dtype, embedding_init=features_normal(self.width), name="embedding"
        )(tokens)
        positions = self.param("positions", features_normal(self.width), (1, self.context, self.width), jnp.float32)
        x = x + positions[:, : x.shape[1]].astype(x.dtype)
        activation = transformer_activation(self.activation, self.levels, self.threshold)
        for index in range(self.depth):
            x = Block(self.heads, activation, self.dtype, self.dropout_rate, True, name=f"block{index}")(x, train)
        x = layer_norm(x, self.dtype, name="norm")
        return nn.Dense(self.vocabulary, name="head")(x.astype(jnp.float32))

    def _check_tokens(self, tokens: Array) -> None:
        if tokens.ndim != 2 or not 1 <= tokens.shape[1] <= self.context:
            raise InputError(
                f"this language model takes tokens [batch, length] of 1 to {self.context} tokens; got shape "
                f"{tokens.shape}"
            )


def bits_per_token(logits: Float[Array, "*B N K"], tokens: Int[Array, "*B N"]) -> Float[Array, ""]:
    """The mean of -log2 of the probability that the logits at each token give to the next one; the last has none."""
    chances = jax.nn.log_softmax(logits[..., :-1, :])
    return -jnp.take_along_axis(chances, tokens[..., 1:, None], -1).mean() / BITS
