"""The activations of a network: what conversion finds, under which names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gnsnn_jax._types import Array
from gnsnn_jax.engine.encoders import Encoders, checked_encoders
from gnsnn_jax.engine.graph import Network, Operation, evaluate
from gnsnn_jax.engine.recognise import network_of
from gnsnn_jax.engine.tracing import arrays_of, trace


class Site(NamedTuple):
    """An activation of a network.

    name        path of its module where the framework leaves one ("stage1_block0/act1"), else of the classes
                and functions of the user's code that it stands in ("Block/relu"), or of the file, where these are
                the whole network ("network/relu"); one that occurs again gets a number: "act1#2"
    kind        "qcfs", also of `gnsnn_jax.clip`, which has infinitely many levels; "relu" or "clip", which is a ReLU
                with an upper bound such as `relu6`; "encoder", the identity in front of weights that would read
                something else than spikes, named after the module that reads it
    shape       of its currents, batch included
    threshold   its own: that of `qcfs`, the bound of a clip; None for a ReLU and an encoder
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    threshold: Array | None = None


def sites(ann: Callable, *args: Any, encoders: Encoders = "auto", **kwargs: Any) -> list[Site]:
    """Lists the activations and encoders that conversion can turn into neurons, in the order of evaluation.

    Activations are calls of `qcfs`, of `jax.nn.relu` and `jax.nn.relu6` under any of their names, and, behind
    weights, cuts in other spellings: `maximum(x, 0)`, `clip(x, 0, a)`, `lax.clamp`, `where(x > 0, x, 0)`,
    `x * (x > 0)`. In front of the weights these keep pixels in range and are no activations. Names are the same in
    every trace of the same code, and stay the same when lines are added around it; the names of earlier versions, a
    file and a line such as "network.py:31", still work for thresholds.

    Args:
        ann: the network.
        args: those of `ann`, arrays or `jax.ShapeDtypeStruct`s in their place.
        encoders: where they stand, as in `to_spiking`.
        kwargs: those of `ann`.

    Returns:
        A `Site` for each. Of a threshold that depends on shapes only, the shape is known.
    """
    arrays = arrays_of(args, kwargs)
    network = network_of(trace(ann, args, kwargs)[0], checked_encoders(encoders))
    own = [site.activation.threshold for site in network.activations]
    values = iter(_thresholds(network, arrays, [slot for slot in own if slot is not None]))
    found = [None if slot is None else next(values) for slot in own]
    return [site_of(operation, value) for operation, value in zip(network.activations, found, strict=True)]


def site_of(operation: Operation, threshold: Any = None) -> Site:
    name, kind, *_ = operation.activation
    return Site(name, kind, operation.shape, threshold)


def _thresholds(network: Network, arrays: list[Any], slots: list[int]) -> list[Any]:
    of_arrays = lambda *arrays: list(map(jnp.asarray, evaluate(network, arrays, slots)))
    if any(isinstance(array, jax.ShapeDtypeStruct) for array in arrays):
        return jax.eval_shape(of_arrays, *arrays)
    return of_arrays(*arrays)
