"""What has a name in the files of a folder, so that a new file is all that a new neuron or calibration needs."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from pkgutil import iter_modules
from typing import Any


def union(package: str, path: Iterable[str], table: str) -> dict[str, Any]:
    """The dictionaries called `table` in the modules of a package, as one.

    Args:
        package: its `__name__`.
        path: its `__path__`.
        table: the name of a dictionary, which a module may lack.

    Returns:
        A new dictionary, the modules in alphabetical order.
    """
    found: dict[str, Any] = {}
    for module in iter_modules(path):
        found |= getattr(import_module(f"{package}.{module.name}"), table, {})
    return found
