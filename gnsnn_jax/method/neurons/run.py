"""Neurons over a whole sequence of currents."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from gnsnn_jax._types import Array, Float
from gnsnn_jax.dtypes import state_type
from gnsnn_jax.errors import InputError, shown
from gnsnn_jax.method.activations import align, floating
from gnsnn_jax.method.neurons.base import Neuron
from gnsnn_jax.method.neurons.group import GroupNeuron
from gnsnn_jax.xla.time_scan import placed_as, time_scan


@partial(jax.jit, static_argnames="neuron")
def run(
    neuron: Neuron, currents: Float[Array, "T *shape"], threshold: Float[Array, "..."] | float, initial: Any = None
) -> tuple[Float[Array, "T *shape"], Any]:
    """Runs a neuron over a whole sequence. Differentiable through the surrogate gradient of `staircase`.

    Args:
        neuron: any `Neuron`.
        currents: x [T, ...], in the unit of the threshold.
        threshold: [] or [C].
        initial: a potential [...] or whatever broadcasts to it, or a state as `run` returned it; the neuron's own
            by default.

    Returns:
        The outputs [T, ...] in the dtype of the currents, and the final state, float32 or wider: for group neurons
        the potential [...].

    Raises:
        InputError: for currents without a time axis and for shapes that do not broadcast.
        TypeError: for anything but a `Neuron`, such as its class.
    """
    if not isinstance(neuron, Neuron):
        raise TypeError(f"neuron must be a Neuron such as group_neuron(8), got {shown(neuron)}")
    currents, threshold = in_state_type(currents, threshold)
    start = initial_state(neuron, currents, threshold, initial)
    if neuron.layerwise:
        wide = currents.astype(threshold.dtype)
        outputs = neuron.whole(wide, threshold, start)  # type: ignore[attr-defined]
        return outputs.astype(currents.dtype), start + (wide - outputs).sum(0)
    state, outputs = time_scan(one_step(neuron, threshold, currents.dtype), start, currents)
    return outputs, state


def run_on_sums(
    neuron: GroupNeuron, sums: Float[Array, "T *shape"], threshold: Float[Array, "..."] | float, owed: Any, dtype: Any
) -> tuple[Float[Array, "T *shape"], Any]:
    """The same from the sums of the currents, for neurons with `steps_on_sums`: see `GroupNeuron.step_on_sums`.

    Args:
        neuron: with `steps_on_sums`.
        sums: S_t [T, ...] from the very first step on.
        threshold: [] or [C].
        owed: w [...] as this function returned it; before the first step the initial potential, None for the
            neuron's own.
        dtype: of the outputs.

    Returns:
        The outputs [T, ...] and w.
    """
    sums, threshold = in_state_type(sums, threshold)
    start = initial_state(neuron, sums, threshold, owed)

    def fire(owed: Array, sum_t: Array) -> tuple[Array, Array]:
        after, y_t = neuron.step_on_sums(owed, sum_t, threshold)
        return after, y_t.astype(dtype)

    state, outputs = time_scan(fire, start, sums)
    return outputs, state


def in_state_type(currents: Array, threshold: Array | float) -> tuple[Array, Array]:
    """Currents as they are, checked, and the threshold in the type of the states."""
    currents = floating("currents", currents)
    if currents.ndim < 1:
        raise InputError("currents must have a leading time axis, got a scalar")
    threshold = jnp.asarray(threshold, state_type(currents, threshold))
    align(threshold, currents.shape[1:], "threshold")
    return currents, threshold


def initial_state(neuron: Neuron, currents: Array, threshold: Array, initial: Any = None) -> Any:
    """The state before the first of the currents [T, ...], its floating-point leaves in the type of the
    threshold; with `initial`, a potential or a state, in it."""
    own = own_state(neuron, threshold, currents.shape[1:])
    return placed_as(own if initial is None else with_initial(neuron, own, initial), currents)


def own_state(neuron: Neuron, threshold: Array, shape: tuple[int, ...]) -> Any:
    """The neuron's own state before the first step, its floating-point leaves at least as wide as the threshold."""
    return jax.tree.map(partial(_of_type, threshold.dtype), neuron.init(threshold, shape))


def one_step(neuron: Neuron, threshold: Array, dtype: Any = None) -> Callable[[Any, Array], tuple[Any, Array]]:
    """The body of a scan over currents: the state keeps its types, the outputs get `dtype` if there is one."""

    def fire(state: Any, x_t: Array) -> tuple[Any, Array]:
        after, y_t = neuron.step(state, x_t.astype(threshold.dtype), threshold)
        return jax.tree.map(_as, after, state), y_t if dtype is None else y_t.astype(dtype)

    return fire


def with_initial(neuron: Neuron, own: Any, initial: Any) -> Any:
    """The neuron's own state with another potential, or a given state of the same structure."""
    if jax.tree_util.treedef_is_leaf(jax.tree.structure(initial)):
        return neuron.with_potential(own, _filled(initial, neuron.potential(own), "initial potential"))
    wanted: Any = jax.tree.structure(own)
    given: Any = jax.tree.structure(initial)
    if wanted != given:
        raise InputError(f"initial must be a potential or a state of structure {wanted}, got {given}")
    return jax.tree.map(lambda value, like: _filled(value, like, "initial state"), initial, own)


def _filled(value: Any, like: Array, name: str) -> Array:
    return jnp.broadcast_to(align(_as(jnp.asarray(value), like), like.shape, name), like.shape)


def _of_type(dtype: Any, leaf: Any) -> Array:
    leaf = jnp.asarray(leaf)
    return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf


def _as(leaf: Array, like: Array) -> Array:
    return leaf if leaf.dtype == like.dtype else leaf.astype(like.dtype)
