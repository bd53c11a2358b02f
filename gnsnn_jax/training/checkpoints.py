"""Checkpoints with Orbax: trees of arrays beside a few words of JSON, checked when they are read."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from gnsnn_jax.errors import InputError

logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax reports each file it touches


def save(path: Path, arrays: Any, about: Mapping[str, Any]) -> None:
    """Writes a tree of arrays and JSON about it into a directory, all at once or not at all."""
    arrays = jax.tree.map(np.asarray, arrays)
    contents = ocp.args.Composite(
        arrays=ocp.args.StandardSave(arrays),
        about=ocp.args.JsonSave({**about, "digest": _digest(arrays)}),
    )
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as writer:
        writer.save(path.absolute(), contents, force=True)


def load(path: Path) -> tuple[Any, dict[str, Any]]:
    """Reads what `save` wrote. Raises InputError where there is none, or where it is damaged."""
    if not path.is_dir():
        raise InputError(f"no checkpoint at {path}; train a network first, or give the directory of another run")
    contents = ocp.args.Composite(arrays=ocp.args.StandardRestore(), about=ocp.args.JsonRestore())
    try:
        with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as reader:
            found = reader.restore(path.absolute(), contents)
        arrays, about = jax.tree.map(np.asarray, found.arrays), dict(found.about)
        intact = about.pop("digest") == _digest(arrays)
    except Exception as error:  # whatever Orbax meets in a damaged directory
        raise InputError(f"the checkpoint {path} is damaged ({_first_line(error)}); use another run") from error
    if not intact:
        raise InputError(f"the checkpoint {path} is damaged (its numbers have changed); use another run")
    return arrays, about


def _digest(arrays: Any) -> str:
    """A fingerprint of names, shapes, types and numbers."""
    fingerprint = hashlib.sha256()
    for name, array in jax.tree_util.tree_leaves_with_path(arrays):
        fingerprint.update(f"{jax.tree_util.keystr(name)} {array.shape} {array.dtype}".encode())
        fingerprint.update(np.ascontiguousarray(array).tobytes())
    return fingerprint.hexdigest()


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:200]}" if text else type(error).__name__
