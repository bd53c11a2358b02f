"""Operations that a converted network takes for one sample: by our rule, and by NeuroBench's definitions.

Our rule: an accumulate is counted only where the input is a unit spike, with thresholds folded into the next
weights and what stands between spikes and weights seen as part of these. So every unit spike costs one
accumulate for each of its connections, and k units at once cost k; counted the other way, k units are one value
and cost one multiply-accumulate. Layers that no spike reaches, the first one above all, are multiply-accumulates
and evaluated once. Layers behind other weights, without neurons between, are multiply-accumulates at each step.

A calibration that probes a network for some steps drives all its layers for as long, so these steps are
added to those of the answer.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gnsnn_jax.analysis.behaviour import Behaviour


class Operations(NamedTuple):
    """For one sample, until the answer after some steps is there, the probe included.

    unit_spikes             of all neurons
    accumulates             by unit spikes
    multiply_accumulates    of layers that read no spikes, `once` among them
    once                    those of the layers that are evaluated once
    event_operations        what the accumulates would be if k units at once were one value
    neuron_steps            neurons times time-steps
    """

    unit_spikes: float
    accumulates: float
    multiply_accumulates: int
    once: int
    event_operations: float
    neuron_steps: int


class NeuroBench(NamedTuple):
    """The metrics of these names, Yik et al. 2025, for one sample.

    A layer with weights costs one operation for each input and weight that are both not zero: accumulates where
    its inputs are 0 and 1, with thresholds folded into the weights, else multiply-accumulates. Averaged spikes
    and several units at once are no such inputs. Sparsities are shares of zeros, the footprint is in bytes.
    """

    effective_macs: float
    effective_acs: float
    dense: int
    activation_sparsity: float
    connection_sparsity: float
    footprint: int


def operations(behaviour: Behaviour, steps: int) -> Operations:
    """The operations of one sample in so many steps, with those of the probe, from what `observe` found."""
    connections, executed = behaviour.connections, _executed_steps(behaviour, steps)
    total = lambda kind: sum(_executed(behaviour, getattr(each.spikes, kind), steps) for each in behaviour.populations)
    return Operations(
        unit_spikes=total("units"),
        accumulates=total("operations"),
        multiply_accumulates=connections.once + executed * connections.each_step,
        once=connections.once,
        event_operations=total("event_operations"),
        neuron_steps=behaviour.neurons * executed,
    )


def neurobench(behaviour: Behaviour, steps: int) -> NeuroBench:
    """NeuroBench's metrics of one sample in so many steps, from what `observe` found."""
    connections, populations = behaviour.connections, behaviour.populations
    executed = _executed_steps(behaviour, steps)
    plain = sum(_executed(behaviour, each.spikes.plain_operations, steps) for each in populations)
    events = sum(_executed(behaviour, each.spikes.events, steps) for each in populations)
    multiplied = sum(_of_layer(behaviour, name, steps) for name in behaviour.layer_events)
    is_binary = all(each.members == 1 for each in populations)
    weights, zeros = (sum(getattr(layer, name) for layer in connections.layers) for name in ("weights", "zeros"))
    return NeuroBench(
        effective_macs=multiplied + (0 if is_binary else plain),
        effective_acs=plain if is_binary else 0,
        dense=connections.once + executed * (connections.dense - connections.once),
        activation_sparsity=1 - events / (behaviour.neurons * executed),
        connection_sparsity=zeros / max(weights, 1),
        footprint=connections.bytes,
    )


def _executed_steps(behaviour: Behaviour, steps: int) -> int:
    return behaviour.probe_steps + steps


def _executed(behaviour: Behaviour, at_steps: np.ndarray, steps: int) -> float:
    """For one sample, what happened at the steps of the answer and, before them, of the probe."""
    return float((at_steps[:steps].sum() + at_steps[: behaviour.probe_steps].sum()) / behaviour.samples)


def _of_layer(behaviour: Behaviour, name: str, steps: int) -> float:
    (layer,) = (layer for layer in behaviour.connections.layers if layer.name == name)
    events = behaviour.layer_events[name]
    return _executed(behaviour, events, steps) if layer.in_time else float(events[0] / behaviour.samples)
