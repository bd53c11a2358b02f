"""Batch norm folded into the weights before it, so that a time-step costs no normalisation."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from gnsnn_jax._types import Array
from gnsnn_jax.activations import align
from gnsnn_jax.errors import InputError

Path = tuple[str, ...]


def fold_batch_norm(
    variables: Mapping[str, Any], *, epsilon: float = 1e-5, layers: Mapping[str, str] | None = None
) -> Any:
    """Returns Linen variables of the same structure whose batch norms only add a bias.

        kernel <- kernel s,  bias <- bias s,  s = scale / sqrt(var + epsilon)
        scale <- 1,  bias of the norm <- its bias - mean s,  mean <- 0,  var <- 1 - epsilon

    A batch norm is a module with `mean` and `var` in `batch_stats`. The layer it is folded into is
    the one *before* it: its sibling with a kernel of as many channels whose name ends in the same number
    (conv1 and norm1, Conv_0 and BatchNorm_0; a convolution if both it and a dense layer fit), or the
    one that `layers` names, a mapping of paths such as {"head/norm": "head/dense"}. Linen's own names
    tell it only where every layer of the kind has a norm. A norm in front of its layer cannot be folded.
    `epsilon` is the norms' own, 1e-5 in Flax and PyTorch.
    The network keeps its outputs in inference mode, to rounding. Raises InputError where it cannot tell
    the layer, and where the channels of the one named differ from the norm's.
    """
    if not isinstance(variables, Mapping) or "params" not in variables:
        raise InputError('fold_batch_norm takes Linen variables, {"params": …, "batch_stats": …}')
    flat, structure = jax.tree_util.tree_flatten_with_path(variables)
    values = {_names(path): value for path, value in flat}
    given = {_split(norm): _split(layer) for norm, layer in (layers or {}).items()}
    norms = [path[1:-1] for path in values if path[0] == "batch_stats" and path[-1] == "mean"]
    if unknown := given.keys() - set(norms):
        raise InputError(f"layers names {_list(unknown)}, but the batch norms are {_list(norms)}")
    pairs = {norm: given.get(norm) or _layer_before(norm, norms, values) for norm in norms}
    _check_pairs(pairs, values)
    for norm, layer in pairs.items():
        values.update(_folded(norm, layer, values, epsilon))
    return jax.tree.unflatten(structure, [values[_names(path)] for path, _ in flat])


def _names(path) -> Path:
    return tuple(str(getattr(key, "key", getattr(key, "name", key))) for key in path)


def _split(path: str) -> Path:
    return tuple(path.split("/"))


def _list(paths) -> str:
    return ", ".join(sorted("/".join(path) for path in paths)) or "none"


def _number(name: str) -> str:
    return re.search(r"\d*$", name).group()


def _siblings(paths: Iterable[Path], scope: Path) -> list[Path]:
    return [path for path in paths if path[:-1] == scope]


def _layer_before(norm: Path, norms: list[Path], values: dict[Path, Array]) -> Path:
    """The one sibling whose name and channels fit the norm, preferring convolutions."""
    kernels = {path[1:-1]: value for path, value in values.items() if path[0] == "params" and path[-1] == "kernel"}
    siblings = _siblings(kernels, norm[:-1])
    channels = values["batch_stats", *norm, "mean"].shape
    fitting = [
        layer for layer in siblings if _number(layer[-1]) == _number(norm[-1]) and kernels[layer].shape[-1:] == channels
    ]
    convolutions = [layer for layer in fitting if kernels[layer].ndim > 2]
    chosen = next((found for found in (fitting, convolutions) if len(found) == 1), None)
    if chosen and _numbered_in_step(norm, chosen[0], norms, siblings):
        return chosen[0]
    raise InputError(
        f"cannot tell which layer comes before the batch norm {'/'.join(norm)}; its siblings with a kernel are "
        f"{_list(siblings)}: name it with layers={{{'/'.join(norm)!r}: …}}"
    )


def _numbered_in_step(norm: Path, layer: Path, norms: list[Path], siblings: list[Path]) -> bool:
    """Whether Linen's own names, which count each class by itself, count layers and norms alike."""
    kind = lambda path: re.fullmatch(r"([A-Z]\w*)_\d+", path[-1])
    if not (kind(norm) and kind(layer)):
        return True
    numbers = lambda paths, like: {_number(path[-1]) for path in paths if kind(path) and kind(path)[1] == kind(like)[1]}
    return numbers(_siblings(norms, norm[:-1]), norm) == numbers(siblings, layer)


def _check_pairs(pairs: dict[Path, Path], values: dict[Path, Array]) -> None:
    taken: dict[Path, Path] = {}
    for norm, layer in pairs.items():
        kernel = values.get(("params", *layer, "kernel"))
        channels = values[("batch_stats", *norm, "mean")].shape[-1]
        if kernel is None:
            raise InputError(f"layers gives {'/'.join(layer)} to {'/'.join(norm)}, which has no kernel")
        if kernel.shape[-1] != channels:
            raise InputError(
                f"the batch norm {'/'.join(norm)} has {channels} channels, the layer {'/'.join(layer)} "
                f"{kernel.shape[-1]}; name the layer that comes before it with layers={{…}}"
            )
        if layer in taken:
            raise InputError(f"{'/'.join(taken[layer])} and {'/'.join(norm)} both follow {'/'.join(layer)}")
        taken[layer] = norm


def _folded(norm: Path, layer: Path, values: dict[Path, Array], epsilon: float) -> dict[Path, Array]:
    """The numbers that change for one norm; without a bias of its own the shift goes into its mean."""
    mean, variance = values[("batch_stats", *norm, "mean")], values[("batch_stats", *norm, "var")]
    gain = 1 / jnp.sqrt(variance + epsilon)
    scale, bias = ("params", *norm, "scale"), ("params", *norm, "bias")
    changed = {("batch_stats", *norm, "var"): jnp.full_like(variance, 1 - epsilon)}
    if scale in values:
        gain = gain * values[scale]
        changed[scale] = jnp.ones_like(values[scale])
    if bias in values:
        changed[bias] = values[bias] - mean * gain
        changed["batch_stats", *norm, "mean"] = jnp.zeros_like(mean)
    else:
        changed["batch_stats", *norm, "mean"] = mean * gain
    for part in ("kernel", "bias"):
        path = ("params", *layer, part)
        if path in values:
            changed[path] = values[path] * align(gain, values[path].shape, "gain").astype(values[path].dtype)
    return changed
