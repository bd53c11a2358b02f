"""Primitives that are the identity under every transformation, and that a trace shows."""

from __future__ import annotations

from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

_IDENTITIES: set[Primitive] = set()


def identity_primitive(name: str) -> Primitive:
    """A linear primitive of one operand that returns it, and that leaves nothing in what is compiled."""
    primitive = Primitive(name)
    primitive.def_impl(lambda x: x)
    primitive.def_abstract_eval(lambda x: x)
    ad.deflinear2(primitive, lambda cotangent, _: [cotangent])
    batching.defvectorized(primitive)
    mlir.register_lowering(primitive, lambda _, x: [x])
    _IDENTITIES.add(primitive)
    return primitive


def is_identity(primitive: Primitive) -> bool:
    """Whether `identity_primitive` made it."""
    return primitive in _IDENTITIES
