"""Vision transformers: Dosovitskiy et al. 2020, arXiv 2010.11929."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np

from gnsnn_jax._types import Array, Float
from gnsnn_jax.errors import InputError, extra, nearest
from gnsnn_jax.models.layers import check_images, check_inputs
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

SMALL_SIDE = 64  # images up to this many pixels a side get patches of SMALL_PATCH, larger ones of LARGE_PATCH
SMALL_PATCH, LARGE_PATCH = 4, 16
LONGEST_WAVE = 10_000.0  # of sin-cos positions, as a multiple of 2 pi patches


class ViT(nn.Module):
    """Patches as tokens, blocks of attention and MLP, the mean over the tokens or a class token, a linear layer.

    Attributes:
        width: features of a token.
        depth: the number of blocks.
        heads: of the attention in each block, a divisor of the width.
        patch: pixels a side of a patch; 0: 4 for images of up to 64 pixels a side, 16 for larger ones.
        positions: "learned", or "sincos", fixed waves of the row and the column, which fit images of any size.
        pool: "mean" over the tokens, or "token", one that is learned and stands in front of them.
        dropout_rate: share of the outputs of each branch that are dropped in training.
        dtype: the type in which all but the last layer computes; softmax and norms are float32 within.
        activation: of the MLPs, "gelu", "relu", "qcfs", "noisy_qcfs" or "clip"; levels and threshold are those of
            the last three.
    """

    num_classes: int
    levels: int
    threshold: float
    width: int
    depth: int
    heads: int
    patch: int = 0
    positions: str = "learned"
    pool: str = "mean"
    dropout_rate: float = 0.0
    dtype: Any = jnp.float32
    activation: str = "gelu"

    def __post_init__(self):
        super().__post_init__()
        check_heads(self.width, self.heads)
        check_dropout(self.dropout_rate)
        _check_choice("positions", self.positions, ("learned", "sincos"))
        _check_choice("pool", self.pool, ("mean", "token"))
        if self.positions == "sincos" and self.width % 4:
            raise InputError(f'positions="sincos" takes a width that is a multiple of 4, got {self.width}')

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool = False) -> Float[Array, "B K"]:
        patch = self._patch_of(x)
        check_images("a vision transformer", x, patch, patch)
        check_inputs(self, "embedding", x, "channels")
        x = self._with_positions(self._embedded(x, patch))
        activation = transformer_activation(self.activation, self.levels, self.threshold)
        for index in range(self.depth):
            x = Block(self.heads, activation, self.dtype, self.dropout_rate, name=f"block{index}")(x, train)
        x = layer_norm(x, self.dtype, name="norm")
        x = x[:, 0] if self.pool == "token" else x.mean(-2)
        return nn.Dense(self.num_classes, name="head")(x.astype(jnp.float32))

    def _patch_of(self, x: Array) -> int:
        return self.patch or (SMALL_PATCH if max(x.shape[1:3], default=0) <= SMALL_SIDE else LARGE_PATCH)

    def _embedded(self, x: Float[Array, "B H W C"], patch: int) -> Float[Array, "B h w D"]:
        size, init = (patch, patch), nn.initializers.lecun_normal()
        embedding = nn.Conv(self.width, size, size, "VALID", dtype=self.dtype, kernel_init=init, name="embedding")
        return embedding(x)

    def _with_positions(self, x: Float[Array, "B h w D"]) -> Float[Array, "B N D"]:
        """The tokens with their positions, N = h w, and the class token in front of them where there is one."""
        batch, rows, columns, width = x.shape
        x = x.reshape(batch, rows * columns, width)
        fixed = sincos_positions(rows, columns, width) if self.positions == "sincos" else None
        if self.pool == "token":
            token = self.param("class_token", nn.initializers.zeros, (1, 1, width), jnp.float32).astype(x.dtype)
            x = jnp.concatenate([jnp.broadcast_to(token, (batch, 1, width)), x], 1)
            fixed = None if fixed is None else np.concatenate([np.zeros((1, width), np.float32), fixed])
        return x + (self._learned(x) if fixed is None else jnp.asarray(fixed)[None]).astype(x.dtype)

    def _learned(self, x: Float[Array, "B N D"]) -> Float[Array, "1 N D"]:
        stored = self.variables.get("params", {}).get("positions")
        if stored is not None and stored.shape[1] != x.shape[1]:
            raise InputError(
                f"these weights have positions for {stored.shape[1]} tokens, but the images make {x.shape[1]}; give "
                "images of the size that the network was trained on"
            )
        return self.param("positions", features_normal(self.width), (1, *x.shape[1:]), jnp.float32)


def sincos_positions(rows: int, columns: int, width: int) -> Float[np.ndarray, "N D"]:
    """Sines and cosines of the row and of the column of each patch, a quarter of the features each.

    sin(p / w_i), cos(p / w_i),   w_i = LONGEST_WAVE^(4 i / width),   i = 0 .. width/4 - 1
    """
    rates = LONGEST_WAVE ** -(np.arange(width // 4) * 4 / width)
    grid = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), -1).reshape(-1, 2, 1)
    angles = grid * rates
    return np.concatenate([np.sin(angles), np.cos(angles)], -1).reshape(rows * columns, width).astype(np.float32)


def _check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InputError(f"{name} must be one of {', '.join(known)}, got {value!r}{nearest(value, known)}")


NETWORKS: Mapping[str, Callable[..., nn.Module]] = {
    "vit_digits": partial(ViT, width=64, depth=4, heads=4, patch=2, positions="sincos"),
    "vit_s": partial(ViT, width=384, depth=12, heads=6),
    "vit_b": partial(ViT, width=768, depth=12, heads=12),
}
