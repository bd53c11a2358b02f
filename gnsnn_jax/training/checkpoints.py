"""Checkpoints with Orbax: trees of arrays beside a few words of JSON, checked before they are read."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from gnsnn_jax.errors import InputError

logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax reports each file it touches
FINGERPRINTS = "fingerprints.json"


def save(path: Path, arrays: Any, about: Mapping[str, Any]) -> None:
    """Writes a tree of arrays and JSON about it into a directory, all at once or not at all."""
    contents = ocp.args.Composite(
        arrays=ocp.args.StandardSave(jax.tree.map(np.asarray, arrays)), about=ocp.args.JsonSave(dict(about))
    )
    unfinished = path.absolute().with_name(f"{path.name}.unfinished")
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as writer:
        writer.save(unfinished, contents, force=True)
    (unfinished / FINGERPRINTS).write_text(json.dumps(_fingerprints(unfinished)))
    if path.exists():
        shutil.rmtree(path)
    unfinished.rename(path)


def load(path: Path) -> tuple[Any, dict[str, Any]]:
    """Reads what `save` wrote. Raises InputError where there is none, or where it is damaged."""
    if not path.is_dir():
        raise InputError(f"no checkpoint at {path}; train a network first, or give the directory of another run")
    if not (path / FINGERPRINTS).exists() and not (path / "arrays").exists():
        raise InputError(f"{path} is no checkpoint of this library; give the directory of one")
    _check_files(path)
    contents = ocp.args.Composite(arrays=ocp.args.StandardRestore(), about=ocp.args.JsonRestore())
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as reader:
        found = reader.restore(path.absolute(), contents)
    return jax.tree.map(np.asarray, found.arrays), dict(found.about)


def _fingerprints(path: Path) -> dict[str, str]:
    """SHA-256 of each file in a checkpoint but the list of them."""
    files = (file for file in path.rglob("*") if file.is_file() and file != path / FINGERPRINTS)
    return {file.relative_to(path).as_posix(): _fingerprint(file) for file in files}


def _fingerprint(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _check_files(path: Path) -> None:
    """Raises InputError unless every file is as it was written; Orbax itself would notice only some damage."""
    try:
        wanted = json.loads((path / FINGERPRINTS).read_text())
        found = _fingerprints(path)
        damaged = sorted(name for name in wanted if found.get(name) != wanted[name])
    except (OSError, ValueError, TypeError, AttributeError):
        damaged = [FINGERPRINTS]
    if damaged:
        raise InputError(f"the checkpoint {path} is damaged in {', '.join(damaged[:3])}; use another, or train again")
