"""The groups of the reference, and which group each public name belongs to: that of the module that defines it."""

from __future__ import annotations

import inspect
import typing
from typing import Any

import gnsnn_jax
from gnsnn_jax.method.corrections import CORRECTIONS
from gnsnn_jax.method.neurons import NEURONS

MEMBERS = 8  # of the neurons that are looked at; their number does not matter

# A page of the reference each, and the modules whose public names it has: of several, the longest counts. The
# last group has all that no other one claims, so that a new name is never missing.
GROUPS: dict[str, tuple[str, ...]] = {
    "neurons": ("gnsnn_jax.method.neurons", "gnsnn_jax.method.activations"),
    "calibrations": (
        "gnsnn_jax.method.calibrations",
        "gnsnn_jax.method.corrections",
        "gnsnn_jax.conversion.find_corrections",
        "gnsnn_jax.conversion.calibrate_weights",
    ),
    "conversion": ("gnsnn_jax.conversion",),
    "thresholds": ("gnsnn_jax.conversion.find_thresholds", "gnsnn_jax.method.threshold_rules"),
    "analysis": ("gnsnn_jax.analysis", "gnsnn_jax.conversion.verification"),
    "interop": ("gnsnn_jax.interop",),
    "runs": ("gnsnn_jax.runs", "gnsnn_jax.models", "gnsnn_jax.training"),
    "others": ("gnsnn_jax",),
}


def module_of(name: str) -> str:
    """The module that defines a public name."""
    return getattr(gnsnn_jax, name).__module__


def group_of(name: str) -> str:
    """The group of a public name."""
    module = module_of(name)
    claims = [(len(prefix), group) for group, prefixes in GROUPS.items() for prefix in prefixes if _in(module, prefix)]
    return max(claims)[1] if claims else "others"


def names_of(group: str) -> list[str]:
    """The public names of a group, sorted."""
    return [name for name in sorted(gnsnn_jax.__all__, key=str.lower) if group_of(name) == group]


def registered_classes(group: str) -> list[type]:
    """The classes that names of the command line stand for and that have no public name."""
    tables: dict[str, list[Any]] = {
        "neurons": [make(MEMBERS) for make in NEURONS.values()],
        "calibrations": [make() for make in CORRECTIONS.values()],
    }
    classes = dict.fromkeys(map(type, tables.get(group, ())))
    return [each for each in classes if id(each) not in _public()]


def returned_class(name: str) -> type | None:
    """The class of this package that a public function returns, if it is no public name itself."""
    made = getattr(gnsnn_jax, name)
    if inspect.isclass(made):
        return None
    try:
        found: Any = typing.get_type_hints(inspect.unwrap(made)).get("return")
    except (NameError, TypeError):
        return None
    ours = inspect.isclass(found) and found.__module__.startswith("gnsnn_jax.")
    return found if ours and id(found) not in _public() else None


def _public() -> set[int]:
    return {id(getattr(gnsnn_jax, each)) for each in gnsnn_jax.__all__}


def _in(module: str, prefix: str) -> bool:
    return module.startswith(prefix)
