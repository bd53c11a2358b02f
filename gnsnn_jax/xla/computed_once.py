"""A value that XLA computes once on CPUs, instead of again inside of each operation that reads it.

XLA fuses elementwise operations into whatever reads their result and so repeats them there, which is the
right thing where memory is slow beside arithmetic. A chain of T time-steps whose every step is an output
makes it compute T (T + 1) / 2 of them. `jax.lax.optimization_barrier` says otherwise, but on CPUs XLA
drops it before it fuses; a call that it may not inline stays, and costs nothing.
"""

from __future__ import annotations

import jax
from jax.experimental.xla_metadata import set_xla_metadata
from jax.interpreters import mlir

from gnsnn_jax._types import Array, Shaped
from gnsnn_jax.xla.identity import identity_primitive


def computed_once(x: Shaped[Array, "*shape"]) -> Shaped[Array, "*shape"]:
    """x itself, under every transformation; its readers share it on CPUs, and XLA decides elsewhere."""
    return _computed_once_p.bind(x)


def _in_a_call(x: Array) -> Array:
    with set_xla_metadata(inlineable="false"):
        return jax.jit(jax.lax.optimization_barrier)(x)


_computed_once_p = identity_primitive("computed_once")
mlir.register_lowering(_computed_once_p, mlir.lower_fun(_in_a_call, multiple_results=False), platform="cpu")
