"""Whole networks in files of other frameworks: one function for each kind of file, by the suffix of its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gnsnn_jax.interop.files import existing_file
from gnsnn_jax.interop.from_onnx import read_onnx
from gnsnn_jax.interop.keras_files import read_keras
from gnsnn_jax.interop.torch_images import read_pt2

# Each takes a path and returns (apply, variables), as a function of the user's own does.
READERS: Mapping[str, Callable[[Path], tuple[Callable, Any]]] = {
    **dict.fromkeys((".keras", ".h5", ".hdf5"), read_keras),
    ".onnx": read_onnx,
    ".pt2": read_pt2,
}


def is_network_file(name: str) -> bool:
    """Whether the name is that of a file which holds a whole network."""
    return Path(name).suffix.lower() in READERS


def read_network_file(path: Path) -> tuple[Callable, Any]:
    """Reads a network with its weights.

    Args:
        path: a file whose name ends in one of READERS.

    Returns:
        `apply(variables, inputs)` and the variables, a tree of arrays.

    Raises:
        InputError: where there is no such file, and where it cannot be read.
    """
    return READERS[path.suffix.lower()](existing_file(path))
