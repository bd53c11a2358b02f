"""Whole networks in files of other frameworks: one function for each kind of file, by the suffix of its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gnsnn_jax.interop.files import existing_file
from gnsnn_jax.interop.keras_files import read_keras
from gnsnn_jax.interop.onnx_images import OnnxImageNetwork, read_onnx
from gnsnn_jax.interop.torch_images import ImageNetwork, read_pt2

OF_KERAS = (".keras", ".h5", ".hdf5")
# Each takes a path and returns (apply, variables), as a function of the user's own does.
READERS: Mapping[str, Callable[[Path], tuple[Callable, Any]]] = {
    **dict.fromkeys(OF_KERAS, read_keras),
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


def program_to_json(apply: Callable, image_shape: tuple[int, ...]) -> dict[str, Any] | None:
    """The operations of a network from another framework, for images [H, W, C]; None of a function of Python."""
    return apply.to_json(image_shape) if isinstance(apply, ImageNetwork | OnnxImageNetwork) else None


def program_from_json(described: Mapping[str, Any], what: str) -> Callable:
    """The network that `program_to_json` described, without the framework and the file that it came from.

    Raises InputError for anything else; `what` is named in it.
    """
    kind = OnnxImageNetwork if "graph" in described else ImageNetwork
    return kind.from_json(described, what)
