"""Names of activations: the module path where a framework leaves one, else file and line."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from gnsnn_jax.engine.graph import Operation
from gnsnn_jax.engine.jaxprs import WEIGHTED, applies


def named(operations: Sequence[Operation]) -> list[Operation]:
    """The operations with each activation named after its module, else after its place in the code.

    Left out is the part of the module path that all layers share, which is the network itself. A name
    that occurs again gets a number: "act1", "act1#2".
    """
    scopes = [operation.origin.inside(operation.eqn).scope for operation in operations]
    layers = [scope for scope, each in zip(scopes, operations, strict=True) if applies(each.eqn, WEIGHTED)]
    activations = [scope for scope, each in zip(scopes, operations, strict=True) if each.is_activation]
    shared = _shared_depth([*layers, *activations])
    containers = {scope[:depth] for scope in layers for depth in range(len(scope) + 1)}
    taken: Counter[str] = Counter()
    return [
        _name(operation, scope, shared, scope in containers, taken) if operation.is_activation else operation
        for operation, scope in zip(operations, scopes, strict=True)
    ]


def _shared_depth(scopes: Sequence[tuple[str, ...]]) -> int:
    """How many names, from the outermost on, all scopes begin with."""
    return sum(1 for _ in itertools.takewhile(lambda names: len(set(names)) == 1, zip(*scopes, strict=False)))


def _name(operation: Operation, scope: tuple[str, ...], shared: int, in_container: bool, taken: Counter) -> Operation:
    kind = operation.activation.kind
    if scope:
        name = "/".join([*scope[shared:], kind] if in_container else scope[shared:]) or kind
    else:
        name = Path(operation.origin.inside(operation.eqn).place or kind).name
    taken[name] += 1
    name = name if taken[name] == 1 else f"{name}#{taken[name]}"
    return operation._replace(activation=operation.activation._replace(name=name))
