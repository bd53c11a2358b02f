"""Weights in the names and layouts of the published PyTorch code, read and written."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gnsnn_jax.errors import InputError, extra, listed, nearest, printable, shown
from gnsnn_jax.interop.files import Arrays, read_arrays, write_arrays
from gnsnn_jax.interop.layout import CONVENTIONS, THRESHOLDS, Convention, Entry, entries_of, keys_of, published_by

with extra("weights"):
    import flax.linen as nn

COUNTER = "num_batches_tracked"  # of a PyTorch norm; a norm of fixed momentum does not use it


def load_weights(path: str | Path, model: nn.Module) -> dict[str, Any]:
    """Reads trained weights in the names of the published PyTorch code; returns Linen variables.

    `path` is a .safetensors, .npz or .pth file of ANN2SNN_GN, ANN2SNN_COS or either generation of the
    QCFS repository, `model` the network of `build` that it was trained as. Weights may be nested under
    "model" or "state_dict" and prefixed with "module."; .pth needs PyTorch. Convolutions go from OIHW
    to HWIO, linear layers from (O, I) to (I, O), and the rows of one that reads a flattened map from
    CHW to HWC order. The channels and the size of the images follow from the file; the number of
    levels is in no file.

    Raises InputError for a file that is not there or damaged, and where arrays are missing, left
    over, empty, of the wrong shape or not finite, thresholds not positive or variances negative; it lists
    the first of each.
    """
    arrays = read_arrays(path)
    inputs = _input_channels(arrays, published_by(model).names)
    entries, structure = entries_of(model, inputs)
    wanted = [_Wanted(entry.published_names(), entry.published_shape, entry.keys[-1]) for entry in entries]
    found = _account_for(f"the weights in {printable(path)}", model, arrays, wanted, ignored=_counters(entries))
    leaves = [jnp.array(entry.from_published(array)) for entry, array in zip(entries, found, strict=True)]
    return jax.tree.unflatten(structure, leaves)


def _input_channels(arrays: Arrays, names: Mapping[str, str]) -> dict[str, int]:
    """The inputs of each layer by its name in Linen, where the file has its weight; `names` has the published names."""
    weights = {layer: arrays.get(f"{name}.weight") for layer, name in names.items()}
    return {layer: array.shape[1] for layer, array in weights.items() if _is_matrix(array)}


def _is_matrix(array: np.ndarray | None) -> bool:
    return array is not None and array.ndim > 1 and array.size > 0


def save_weights(
    path: str | Path, variables: Mapping[str, Any], model: nn.Module, *, names: str = "gn", overwrite: bool = False
) -> None:
    """Writes Linen variables in the names and layouts of the published PyTorch code.

    `path` ends in .safetensors, .npz or .pth; `names` says whose names: "gn" (ANN2SNN_GN), "cos"
    (ANN2SNN_COS), "qcfs" or "qcfs_old" (the QCFS repository, newer and older). PyTorch's counters of
    batches are written as 0. `load_weights` reads the same variables back, bit for bit.

    Raises InputError for unknown names, for variables that are not those of `model` or that
    `load_weights` would refuse, and for a file that exists, unless `overwrite` is true.
    """
    if names not in CONVENTIONS:
        raise InputError(
            f"unknown names {shown(names)}; there are {', '.join(CONVENTIONS)}{nearest(names, CONVENTIONS)}"
        )
    write_arrays(path, _published_arrays(variables, model, CONVENTIONS[names]), overwrite=overwrite)


def _published_arrays(variables: Mapping[str, Any], model: nn.Module, convention: Convention) -> Arrays:
    leaves = {keys_of(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(variables)}
    inputs = {"/".join(keys[1:-1]): leaf.shape[-2] for keys, leaf in leaves.items() if _is_matrix(leaf)}
    entries, _ = entries_of(model, inputs)
    wanted = [_Wanted(["/".join(entry.keys)], entry.shape, entry.keys[-1]) for entry in entries]
    arrays = {"/".join(keys): leaf for keys, leaf in leaves.items()}
    found = _account_for("these variables", model, arrays, wanted)
    written = {
        entry.published_name(convention): entry.to_published(array, convention)
        for entry, array in zip(entries, found, strict=True)
    }
    return written | dict.fromkeys(_counters(entries), np.zeros((), np.int64))


def _counters(entries: Sequence[Entry]) -> set[str]:
    """The names of the counters that PyTorch keeps in its norms."""
    return {f"{entry.published_layer}.{COUNTER}" for entry in entries if entry.keys[-1] == "mean"}


class _Wanted(NamedTuple):
    names: Sequence[str]  # it may have any one of these
    shape: tuple[int, ...]
    kind: str  # the last of its keys

    @property
    def is_threshold(self) -> bool:
        return self.kind == "threshold"


def _account_for(
    origin: str, model: nn.Module, arrays: Arrays, wanted: Sequence[_Wanted], ignored: Collection[str] = ()
) -> list[np.ndarray]:
    """The wanted arrays in float32, in their order.

    Raises InputError where one is missing or unsound, and where an array is neither wanted nor ignored.
    """
    chosen = [next((name for name in each.names if name in arrays), None) for each in wanted]
    pairs = list(zip(chosen, wanted, strict=True))
    missing = sorted(each.names[0] for name, each in pairs if name is None)
    left_over = sorted(arrays.keys() - set(chosen) - set(ignored))
    faults = (_fault(name, arrays[name], each) for name, each in pairs if name is not None)
    lines = _differences(missing, left_over, sorted(filter(None, faults)))
    if lines:
        raise InputError("\n  ".join([f"{origin} do not fit this {type(model).__name__}:", *lines]))
    return [_float32(arrays[name]) for name in chosen]


def _differences(missing: Sequence[str], left_over: Sequence[str], faults: Sequence[str]) -> list[str]:
    """The lines of an error, the first names of each kind; none where there is nothing to say."""
    lines = [f"missing: {listed(missing)}"] if missing else []
    if any(name.endswith(THRESHOLDS) for name in missing):
        lines.append(f"(a threshold may be named {' or '.join(THRESHOLDS)})")
    lines += [f"left over: {listed(left_over)}"] if left_over else []
    return lines + ([listed(faults, separator="\n  ")] if faults else [])


def _float32(array: np.ndarray) -> np.ndarray:
    """What is too large becomes infinite."""
    with np.errstate(over="ignore"):
        return array.astype(np.float32)


def _fault(name: str, array: np.ndarray, wanted: _Wanted) -> str | None:
    """What is wrong with an array, if anything is."""
    name = printable(name)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        return f"{name} holds {printable(str(array.dtype))}, not floating point"
    if array.shape != wanted.shape and not (wanted.is_threshold and (array.shape, wanted.shape) == ((1,), ())):
        return f"{name} has shape {shown(array.shape)}, not {wanted.shape}"
    array = _float32(array)
    # Numbers below the normal ones count as 0 on most devices.
    if wanted.is_threshold and not (array >= np.finfo(np.float32).tiny).all():
        return f"{name} is {array.min()}, and the threshold of an activation must be positive"
    if not np.isfinite(array).all():
        return f"{name} holds NaN or infinity"
    if wanted.kind == "var" and (array < 0).any():
        return f"{name} holds {array.min()}, and a variance must not be negative"
    return None
