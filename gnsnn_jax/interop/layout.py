"""Which array of a Linen network is which of the published PyTorch code, and in which layout."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gnsnn_jax.errors import InputError, extra

with extra("weights"):
    import flax.linen as nn

    from gnsnn_jax.models.published import Published

Keys = tuple[str, ...]  # where an array is in Linen variables: ("params", "conv1", "kernel")


class Convention(NamedTuple):
    """What the published repositories name differently."""

    threshold: str
    threshold_shape: tuple[int, ...]
    after_sum: str  # the activation after a residual sum


CONVENTIONS: Mapping[str, Convention] = {
    "gn": Convention("v_threshold", (), "relu"),
    "cos": Convention("up", (1,), "relu"),
    "qcfs": Convention("thresh", (1,), "act"),
    "qcfs_old": Convention("up", (1,), "relu"),
}
THRESHOLDS = tuple(dict.fromkeys(convention.threshold for convention in CONVENTIONS.values()))
AFTER_SUM = tuple(dict.fromkeys(convention.after_sum for convention in CONVENTIONS.values()))
LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


class Entry(NamedTuple):
    """One array of a network; `map_channels` are those of the flattened map whose rows it reads, or 0."""

    keys: Keys
    shape: tuple[int, ...]
    published_layer: str
    map_channels: int = 0

    @property
    def is_threshold(self) -> bool:
        return self.keys[-1] == "threshold"

    @property
    def published_shape(self) -> tuple[int, ...]:
        if self.keys[-1] != "kernel":
            return self.shape
        *window, inputs, outputs = self.shape
        return (outputs, inputs, *window)

    def published_name(self, convention: Convention) -> str:
        if not self.is_threshold:
            return f"{self.published_layer}.{LEAVES[self.keys[-1]]}"
        *scope, last = self.published_layer.split(".")
        last = convention.after_sum if last in AFTER_SUM else last
        return ".".join([*scope, last, convention.threshold])

    def published_names(self) -> list[str]:
        """Every name that a file may have it under."""
        possible = [Convention(threshold, (), after_sum) for threshold in THRESHOLDS for after_sum in AFTER_SUM]
        return list(dict.fromkeys(map(self.published_name, possible)))

    def to_published(self, array: np.ndarray, convention: Convention) -> np.ndarray:
        """HWIO to OIHW, (I, O) to (O, I), rows of a flattened map from HWC to CHW."""
        if self.is_threshold and self.shape == ():
            return array.reshape(convention.threshold_shape)
        if self.keys[-1] != "kernel":
            return array
        if self.map_channels:
            array = _reorder_rows(array, (*self._map_sides, self.map_channels), (2, 0, 1))
        return np.moveaxis(array, (-1, -2), (0, 1))

    def from_published(self, array: np.ndarray) -> np.ndarray:
        """The inverse of `to_published`."""
        if self.keys[-1] != "kernel":
            return array.reshape(self.shape)
        array = np.moveaxis(array, (0, 1), (-1, -2))
        if self.map_channels:
            array = _reorder_rows(array, (self.map_channels, *self._map_sides), (1, 2, 0))
        return array

    @property
    def _map_sides(self) -> tuple[int, int]:
        side = math.isqrt(self.shape[0] // self.map_channels)
        return side, side


def _reorder_rows(kernel: np.ndarray, axes: tuple[int, ...], order: tuple[int, ...]) -> np.ndarray:
    """The rows of a kernel, which count through `axes` in C order, in another order of these axes."""
    return kernel.reshape(*axes, -1).transpose(*order, 3).reshape(kernel.shape)


def published_by(model: nn.Module) -> Published:
    """What a network says of itself. Raises InputError for a network that says nothing."""
    if not hasattr(model, "published"):
        raise InputError(
            f"{type(model).__name__} does not say what its layers are called in PyTorch; give it a method "
            "published() that returns a gnsnn_jax.models.published.Published"
        )
    return model.published()


def entries_of(model: nn.Module, inputs: Mapping[str, int]) -> tuple[list[Entry], Any]:
    """Every array of a network, and the structure of the tree they make.

    `inputs` says how many inputs layers have, by path: the channels and the size of the images follow
    from it. Nothing is computed. Raises InputError for a layer without a published name.
    """
    published = published_by(model)
    images = jax.ShapeDtypeStruct((1, *_image_shape(published, inputs)), jnp.float32)
    leaves, structure = jax.tree_util.tree_flatten_with_path(jax.eval_shape(model.init, jax.random.key(0), images))
    return [_entry(keys_of(path), leaf.shape, published) for path, leaf in leaves], structure


def keys_of(path: tuple) -> Keys:
    return tuple(str(getattr(part, "key", part)) for part in path)


def _image_shape(published: Published, inputs: Mapping[str, int]) -> tuple[int, int, int]:
    channels = inputs.get(published.first_convolution, 3)
    rows = inputs.get(published.flattened, published.map_channels)
    side = published.side * max(1, math.isqrt(rows // published.map_channels))
    return side, side, channels


def _entry(keys: Keys, shape: tuple[int, ...], published: Published) -> Entry:
    layer = "/".join(keys[1:-1])
    if layer not in published.names:
        raise InputError(f"published() of the network gives no name to its layer {layer}")
    return Entry(keys, shape, published.names[layer], published.map_channels if layer == published.flattened else 0)
