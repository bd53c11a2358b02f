"""Estimates of energy, from counted operations and published figures for one technology.

They are no measurements: a chip spends more on moving data than these models know, and each in its own way. An
operation that runs on means of spikes, be it a comparison or an exponential, counts as one multiply-accumulate of
floating-point numbers: at each time-step of the spiking network, once in the ANN.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import ceil, log2
from typing import Any

from gnsnn_jax.analysis.behaviour import Behaviour
from gnsnn_jax.analysis.operations import Operations

HOROWITZ = "Horowitz, ISSCC 2014, 45 nm"


@dataclass(frozen=True)
class EnergyModel:
    """What operations cost, in picojoules.

    add              one addition
    multiply         of a weight and a value of `multiplier_bits`; fewer bits cost in proportion
    memory_bit       reading or writing one bit in memory; 0 leaves memory out
    weight_bits      of a weight
    sum_bits         of a membrane potential or a sum

    Every operand comes from memory, none is reused: an accumulate reads a weight and reads and writes a
    potential; a multiply-accumulate reads a weight and a value, and an activation is written once; a neuron reads
    and writes its potential at each time-step. Its comparison with the threshold costs nothing, as an activation
    of an ANN does.
    """

    name: str
    add: float
    multiply: float
    multiplier_bits: int
    weight_bits: int
    sum_bits: int = 32
    memory_bit: float = 0.0
    source: str = HOROWITZ

    def accumulate(self) -> float:
        return self.add + self.memory_bit * (self.weight_bits + 2 * self.sum_bits)

    def multiply_accumulate(self, value_bits: int) -> float:
        """With a value of so many bits."""
        share = min(value_bits / self.multiplier_bits, 1)
        return self.add + self.multiply * share + self.memory_bit * (self.weight_bits + value_bits)

    def neuron_step(self) -> float:
        return self.memory_bit * 2 * self.sum_bits

    def constants(self) -> dict[str, Any]:
        return asdict(self)


_FLOAT: dict[str, Any] = {"add": 0.9, "multiply": 3.7, "multiplier_bits": 24, "weight_bits": 32}
_INTEGER: dict[str, Any] = {"add": 0.1, "multiply": 0.2, "multiplier_bits": 8, "weight_bits": 8}
_SRAM = 20 / 64  # 64 bits from 32 KiB in 20 pJ

MODELS = (
    EnergyModel("45 nm, float32, compute only", **_FLOAT),
    EnergyModel("45 nm, float32, compute and memory", **_FLOAT, memory_bit=_SRAM),
    EnergyModel("45 nm, 8-bit weights, compute only", **_INTEGER),
    EnergyModel("45 nm, 8-bit weights, compute and memory", **_INTEGER, memory_bit=_SRAM),
)
FLOAT_BITS = 32
IMAGE_BITS = 8  # of a value that reaches the first layer where weights are integers


def activation_bits(levels: int) -> int:
    """Bits of an ANN with so many levels above 0."""
    return ceil(log2(levels + 1))


def of_float_ann(model: EnergyModel, behaviour: Behaviour) -> float:
    """Picojoules for one sample of the ANN in float32, which costs the same with integer weights beside it."""
    in_float = EnergyModel(model.name, **_FLOAT, memory_bit=model.memory_bit)
    return _of_ann(in_float, behaviour, FLOAT_BITS, FLOAT_BITS)


def of_quantised_ann(model: EnergyModel, behaviour: Behaviour, levels: int) -> float:
    """Of the ANN with activations of ceil(log2(levels + 1)) bits, its inputs those of the first layer."""
    return _of_ann(model, behaviour, activation_bits(levels), _input_bits(model))


def _of_ann(model: EnergyModel, behaviour: Behaviour, bits: int, input_bits: int) -> float:
    found = behaviour.connections
    first = found.once * model.multiply_accumulate(input_bits)
    others = (found.dense - found.once) * model.multiply_accumulate(bits) + found.shortcuts * model.add
    return (
        first + others + _elementwise(model, found.on_means.elementwise) + behaviour.neurons * model.memory_bit * bits
    )


def _elementwise(model: EnergyModel, count: int) -> float:
    """Of operations on means, each of which counts as one multiply-accumulate of floating-point numbers."""
    return count * model.multiply_accumulate(FLOAT_BITS)


def of_spiking(model: EnergyModel, taken: Operations) -> float:
    """Of the spiking network, its unit spikes one by one, the first layer and the steps of a probe included."""
    first = taken.multiply_accumulates * model.multiply_accumulate(_input_bits(model))
    others = taken.neuron_steps * model.neuron_step() + _elementwise(model, taken.mean_operations)
    return first + taken.accumulates * model.accumulate() + others


def of_spiking_values(model: EnergyModel, taken: Operations, members: int) -> float:
    """The same if the units that a neuron emits at once are one value and cost one multiply-accumulate."""
    bits = activation_bits(members)
    first = taken.multiply_accumulates * model.multiply_accumulate(_input_bits(model))
    each = model.multiply_accumulate(bits) + model.memory_bit * 2 * model.sum_bits
    others = taken.neuron_steps * model.neuron_step() + _elementwise(model, taken.mean_operations)
    return first + taken.event_operations * each + others


def _input_bits(model: EnergyModel) -> int:
    return FLOAT_BITS if model.weight_bits == FLOAT_BITS else IMAGE_BITS
