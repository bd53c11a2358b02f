"""Which values behind spikes are whole numbers of a unit.

A half-precision type holds whole numbers exactly, and sums of spikes are rounded to the whole number that is meant.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gnsnn_jax._types import Array
from gnsnn_jax.engine.graph import Operation, Slot
from gnsnn_jax.engine.jaxprs import type_of
from gnsnn_jax.engine.rules import known_rule_of
from gnsnn_jax.engine.split import SpikingNetwork
from gnsnn_jax.engine.unit_rules import Whole
from gnsnn_jax.method.activations import align
from gnsnn_jax.method.neurons import Neuron

FILLS = "reshape broadcast_in_dim squeeze expand_dims convert_element_type copy".split()  # keep one value one value


class Units:
    """The units of the slots of a network whose values are surely whole numbers of one."""

    def __init__(self, network: SpikingNetwork, values: Mapping[Slot, Any], neuron_at: Callable[[Operation], Neuron]):
        self.network, self.values, self.neuron_at = network, values, neuron_at
        self.sources = _sources(network)
        self.found: dict[Slot, Whole] = {}
        for operation in network.dynamic:
            unit = self._of(operation)
            if unit and unit.most <= _largest(jnp.float32) and _is_single(operation):
                self.found |= dict.fromkeys(operation.outputs, unit)

    def one_for(self, slot: Slot, dtype: Any) -> Array | None:
        """The size of the one unit of all values of a slot, if `dtype` holds them; never 0, and without gradient."""
        unit = self.found.get(slot)
        fits = unit and unit.is_single and unit.most <= _largest(dtype)
        return jax.lax.stop_gradient(jnp.where(unit.size == 0, 1, unit.size)) if fits else None

    def rounded(self, slot: Slot, values: Array) -> Array:
        """Sums [n, ...] of spikes as the whole numbers of their units that are meant, where these are known."""
        unit = self.found.get(slot)
        if unit is None:
            return values
        size = jax.lax.stop_gradient(unit.size if unit.is_single else unit.size[None])
        whole = jnp.round(values / jnp.where(size == 0, 1, size)) * size
        return values + jax.lax.stop_gradient(jnp.where(size == 0, values, whole) - values)

    def _of(self, operation: Operation) -> Whole | None:
        if operation.is_activation:
            return self._of_spikes(operation)
        rule = known_rule_of(operation.eqn).unit
        return rule(self, operation) if rule else None

    def _of_spikes(self, operation: Operation) -> Whole | None:
        threshold, neuron = operation.inputs[1], self.neuron_at(operation)
        if not neuron.sends_its_value:
            return None
        value = jnp.asarray(self.values[threshold]).astype(jnp.float32)
        value = value.reshape(()) if value.size == 1 else align(value, operation.shape, "threshold")
        size = neuron.unit(value)
        key = (threshold, neuron.members)
        return Whole(key, jnp.broadcast_to(size, operation.shape if size.ndim else ()), neuron.members)

    def fixed(self, slot: Slot) -> Any:
        """The value of a slot that does not vary in time."""
        return None if slot in self.network.varying else self.values[slot]

    def scalar(self, slot: Slot) -> tuple[Any, Array] | None:
        """What tells a fixed value that is the same everywhere from others, and the value."""
        slot = self.sources.get(slot, slot)
        value = self.fixed(slot)
        if value is None or np.size(value) != 1:
            return None
        is_known = slot in self.network.constants and not isinstance(value, jax.core.Tracer)
        return float(np.asarray(value).reshape(())) if is_known else ("slot", slot), jnp.asarray(value).reshape(())


def _largest(dtype: Any) -> int:
    """Up to here the type holds every whole number."""
    return 2 ** (jnp.finfo(dtype).nmant + 1)


def _is_single(operation: Operation) -> bool:
    return all(type_of(var).dtype == jnp.float32 for var in operation.eqn.outvars)


def _sources(network: SpikingNetwork) -> dict[Slot, Slot]:
    """The slot of the one value that a fixed slot is filled with."""
    found: dict[Slot, Slot] = {}
    for operation in network.static:
        if operation.eqn.primitive.name in FILLS and len(operation.inputs) == 1:
            (slot,) = operation.inputs
            found[operation.outputs[0]] = found.get(slot, slot)
    return found
