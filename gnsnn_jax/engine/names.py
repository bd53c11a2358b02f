"""Names of activations: the module path where a framework leaves one, else the user's classes and functions.

Neither holds a line, so that a name stays what it is while the code around it is edited.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gnsnn_jax.engine.frames import former_place_of, functions_of, module_of
from gnsnn_jax.engine.graph import Operation, Origin
from gnsnn_jax.engine.rules import applies_weights


def named(operations: Sequence[Operation]) -> list[Operation]:
    """The operations with each activation named after its module, else after the functions that it stands in.

    Left out is the part of the path that all layers and activations share, which is the network itself; where
    nothing remains of functions, the file stands in their place: "Block/relu", "network/relu". A name that
    occurs again gets a number, "act1", "act1#2", in the order of evaluation, modules before functions and those
    `named_last` after all others.
    """
    activations, origins, shared = _activations(operations)
    names = [_name(operation, origin, shared) for operation, origin in zip(activations, origins, strict=True)]
    ranks = [(each.named_last, not origin.scope) for each, origin in zip(activations, origins, strict=True)]
    by_outputs = dict(zip((each.outputs for each in activations), _numbered(names, ranks), strict=True))
    return [_with_name(each, by_outputs[each.outputs]) if each.is_activation else each for each in operations]


def by_present_names(values: Mapping[str, Any], operations: Sequence[Operation]) -> Mapping[str, Any]:
    """Values by names of activations, with those stored under a file and line, "network.py:31", renamed."""
    activations, origins, shared = _activations(operations)
    present = [operation.activation.name for operation in activations]
    if set(values) <= set(present):
        return values
    former = [_former_name(operation, origin, shared) for operation, origin in zip(activations, origins, strict=True)]
    former = _numbered(former, [each.named_last for each in activations])
    renamed = {old: new for old, new in zip(former, present, strict=True) if old not in present and new not in values}
    return {renamed.get(name, name): value for name, value in values.items()}


class _Shared(NamedTuple):
    """What layers and activations have in common: so many modules and functions from the outermost on, and
    `containers`, the modules that layers are in."""

    modules: int
    functions: int
    containers: set[tuple[str, ...]]


def _activations(operations: Sequence[Operation]) -> tuple[list[Operation], list[Origin], _Shared]:
    activations = [operation for operation in operations if operation.is_activation]
    origins = [operation.origin.inside(operation.eqn) for operation in activations]
    layers = [each.origin.inside(each.eqn) for each in operations if applies_weights(each.eqn)]
    containers = {origin.scope[:depth] for origin in layers for depth in range(len(origin.scope) + 1)}
    first = [origin for each, origin in zip(activations, origins, strict=True) if not each.named_last] or origins
    modules = _shared_depth([origin.scope for origin in (*layers, *first)])
    functions = _shared_depth([functions_of(origin.frames) for origin in (*layers, *first)])
    return activations, origins, _Shared(modules, functions, containers)


def _shared_depth(paths: Sequence[tuple[str, ...]]) -> int:
    """How many names, from the outermost on, all paths begin with."""
    return sum(1 for _ in itertools.takewhile(lambda names: len(set(names)) == 1, zip(*paths, strict=False)))


def _name(operation: Operation, origin: Origin, shared: _Shared) -> str:
    if origin.scope:
        return _module_name(operation, origin, shared)
    functions = [*filter(None, functions_of(origin.frames)[shared.functions :] or (module_of(origin.frames),))]
    return "/".join(_numbered_by_pass([*functions, operation.activation.kind], origin))


def _module_name(operation: Operation, origin: Origin, shared: _Shared) -> str:
    kind, path = operation.activation.kind, origin.scope[shared.modules :]
    names = [*path, kind] if origin.scope in shared.containers or not path else path
    return "/".join(_numbered_by_pass(names, origin))


def _numbered_by_pass(names: Sequence[str], origin: Origin) -> list[str]:
    """The names with the passes of loops at the first of them, where no module within the loop has the number."""
    return [names[0] + origin.passes, *names[1:]]


def _former_name(operation: Operation, origin: Origin, shared: _Shared) -> str:
    if origin.scope:
        return _module_name(operation, origin, shared)
    return Path(former_place_of(origin.frames) or operation.activation.kind).name


def _numbered(names: Sequence[str], ranks: Sequence[Any]) -> list[str]:
    """The names with a number at each that occurs again, those of the lowest rank first."""
    taken: Counter[str] = Counter()
    numbered = list(names)
    for index in sorted(range(len(names)), key=ranks.__getitem__):
        taken[names[index]] += 1
        if taken[names[index]] > 1:
            numbered[index] = f"{names[index]}#{taken[names[index]]}"
    return numbered


def _with_name(operation: Operation, name: str) -> Operation:
    return operation._replace(activation=operation.activation._replace(name=name))
