"""Batch norm folded into the weights before it, so that a time-step costs no normalisation."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from gnsnn_jax._types import Array
from gnsnn_jax.conversion.fold_on_graph import fold_on_graph
from gnsnn_jax.errors import InputError
from gnsnn_jax.method.activations import align

Path = tuple[str, ...]


def fold_batch_norm(
    variables: Any, *network: Any, epsilon: float = 1e-5, layers: Mapping[str, str] | None = None, **kwargs: Any
) -> Any:
    """Returns variables of the same structure, with the batch norms folded into the layers in front of them.

        weights <- weights s,   bias <- bias s + shift,   s = scale / sqrt(var + epsilon)
        the norm becomes the identity: scale 1, bias 0, mean 0, var 1 - epsilon

    There are two forms.

    `fold_batch_norm(apply, variables, *example)` reads the traced network, in any framework: Linen with `model.apply`,
    NNX with a function that merges its state, Equinox with its modules as variables, or plain functions. The
    arguments are those of `apply`. A norm is what scales by the root of a variance that is one of the variables.
    It is folded where it follows a product or a convolution of data and weights that are one array of the
    variables, with nothing between but numbers per channel added or multiplied, and axes or shapes changed. Where
    the layer has no bias, the shift stays in the norm: in its bias, else in its mean. A norm that stands behind
    an activation, a sum, pooling or padding, or in front of its layer, stays as it is, and so does a norm whose
    layer, outputs of the layer, or variables are used a second time, or whose statistics are those of the batch.
    Each folded layer and norm is compared with what it was, on the data that reach it in the example.

    `fold_batch_norm(variables)` has Linen variables alone and goes by names. A batch norm is a module with `mean`
    and `var` in `batch_stats`. Its layer is a sibling with a kernel of as many channels: the one whose name ends
    in the same number (conv1 and norm1), or for names that count by themselves (Conv_0 and BatchNorm_0) the one
    that alone fits in order and channels. Names cannot tell a norm that stands in front of its layer, or behind
    an activation or a sum: where names fit by accident, such a norm is folded wrongly. So use this form only for
    networks whose norms all follow their layers directly. Without a bias of the layer the shift goes into the
    bias of the norm here, as it does for layers with one.

    Args:
        variables: Linen variables, {"params": …, "batch_stats": …}; or the network, a function `apply`.
        *network: behind `apply` its variables, any tree of arrays, and then its other arguments, with the norms in
            inference mode. One sample is enough.
        epsilon: that of the norms, 1e-5 in Flax and PyTorch; for the form by names, the other finds it itself.
        layers: for the form by names, the layers of norms that names do not tell, a mapping of paths such as
            {"head/norm": "head/dense"}.
        **kwargs: of `apply`.

    Returns:
        The variables, with which `apply` gives the same outputs in inference mode, to rounding.

    Raises:
        InputError: where names do not tell the layer of a norm or the channels of one in `layers` differ; where
            arrays are not known, as within `jax.jit`, while the network is traced; where what a norm scales by is not
            finite; and where a folded layer differs by more than rounding.
    """
    if callable(variables):
        return _on_graph(variables, network, layers, kwargs)
    if network or kwargs:
        raise InputError(
            f"fold_batch_norm takes a function first where more than variables are given, got a "
            f"{type(variables).__name__}: fold_batch_norm(apply, variables, *example)"
        )
    return _by_names(variables, epsilon, layers)


def _on_graph(apply: Callable, network: tuple, layers: Mapping[str, str] | None, kwargs: Mapping[str, Any]) -> Any:
    call = "fold_batch_norm(apply, variables, *example)"
    if layers is not None:
        raise InputError(f"layers= is for Linen variables alone; {call} finds the layers itself")
    if not network:
        raise InputError(f"got a function alone; give its variables and an example of its other arguments too: {call}")
    if len(network) == 1 and not kwargs:
        raise InputError(f"fold_batch_norm needs an example of the other arguments of the network: {call}")
    return fold_on_graph(apply, network[0], network[1:], kwargs)


def _by_names(variables: Any, epsilon: float, layers: Mapping[str, str] | None) -> Any:
    if not isinstance(variables, Mapping) or "params" not in variables:
        raise InputError(
            'fold_batch_norm takes Linen variables, {"params": …, "batch_stats": …}, or for any other network '
            "fold_batch_norm(apply, variables, *example)"
        )
    flat, structure = jax.tree_util.tree_flatten_with_path(variables)
    values = {_names(path): value for path, value in flat}
    given = {_split(norm): _split(layer) for norm, layer in (layers or {}).items()}
    norms = [path[1:-1] for path in values if path[0] == "batch_stats" and path[-1] == "mean"]
    if unknown := given.keys() - set(norms):
        raise InputError(f"layers names {_list(unknown)}, but the batch norms are {_list(norms)}")
    pairs = given | _layers_before([norm for norm in norms if norm not in given], values)
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


def _layers_before(norms: list[Path], values: dict[Path, Array]) -> dict[Path, Path]:
    """The layer that each norm follows. Raises InputError where the names and channels do not tell."""
    kernels = {path[1:-1]: value for path, value in values.items() if path[0] == "params" and path[-1] == "kernel"}
    channels = {layer: kernel.shape[-1] for layer, kernel in kernels.items()}
    channels |= {norm: values["batch_stats", *norm, "mean"].shape[-1] for norm in norms}
    pairs = {}
    for norm in norms:
        layers = [layer for layer in kernels if layer[:-1] == norm[:-1]]
        like = [other for other in norms if other[:-1] == norm[:-1]]
        fitting = [layer for layer in layers if channels[layer] == channels[norm]]
        find = _by_order if _counted(norm) else _by_number
        pairs[norm] = find(norm, like, fitting, layers, channels)
        if pairs[norm] is None:
            raise InputError(
                f"cannot tell which layer comes before the batch norm {'/'.join(norm)}; its siblings with a "
                f"kernel are {_list(layers)}: name it with layers={{{'/'.join(norm)!r}: …}}"
            )
    return pairs


def _counted(path: Path) -> re.Match | None:
    """Linen's own names, and those of lists, count each class or list by itself: Conv_0, norms_1."""
    return re.fullmatch(r"(\w*)_(\d+)", path[-1])


def _by_number(norm, norms, fitting, layers, channels) -> Path | None:
    """The one layer whose name ends in the same number as the norm's: conv1 for norm1."""
    number = lambda path: re.search(r"\d*$", path[-1]).group()
    found = [layer for layer in fitting if number(layer) == number(norm)]
    return found[0] if len(found) == 1 else None


def _by_order(norm, norms, fitting, layers, channels) -> Path | None:
    """The one layer, if all that fit are of one kind and these follow one another as the norms do in one way only."""
    kinds = {_kind(layer) for layer in fitting}
    if len(kinds) != 1:
        return None
    in_order = lambda paths, like: sorted((p for p in paths if _kind(p) == like), key=lambda p: int(_counted(p)[2]))
    all_norms, all_layers = in_order(norms, _kind(norm)), in_order(layers, kinds.pop())
    earliest = _pair_off(all_norms, all_layers, channels)
    latest = _pair_off(all_norms[::-1], all_layers[::-1], channels)
    return earliest[norm] if earliest and earliest == latest else None


def _kind(path: Path) -> str | None:
    counted = _counted(path)
    return counted[1] if counted else None


def _pair_off(norms: list[Path], layers: list[Path], channels: dict[Path, int]) -> dict[Path, Path] | None:
    """Each norm with the first layer left, in order, that has its channels."""
    left, pairs = iter(layers), {}
    for norm in norms:
        pairs[norm] = next((layer for layer in left if channels[layer] == channels[norm]), None)
    return pairs if None not in pairs.values() else None


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
