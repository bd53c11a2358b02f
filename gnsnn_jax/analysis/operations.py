"""Operations that a converted network takes for one sample: by our rule, and by NeuroBench's definitions.

Our rule: an accumulate is counted only where the input is a unit spike, with thresholds folded into the next
weights and what stands between spikes and weights seen as part of these. So every unit spike costs one
accumulate for each of its connections, and k units at once cost k; counted the other way, k units are one value
and cost one multiply-accumulate. Layers that no spike reaches, the first one above all, are multiply-accumulates
and evaluated once. Layers behind other weights, without neurons between, are multiply-accumulates at each step,
and so are products of two spike trains. What else runs on means or sums of spikes, such as a softmax or the
comparisons of max-pooling, is evaluated in full at each step, operation by operation: `mean_operations` counts it.

A calibration that probes a network for some steps drives all its layers for as long, so these steps are
added to those of the answer.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gnsnn_jax.analysis.behaviour import Behaviour, Picked, Population


class Operations(NamedTuple):
    """For one sample, until the answer after some steps is there, the probe included.

    unit_spikes             of all neurons
    accumulates             by unit spikes
    multiply_accumulates    of layers that read no spikes and of products of two spike trains, `once` among them
    once                    those of the layers that are evaluated once
    event_operations        what the accumulates would be if k units at once were one value
    neuron_steps            neurons times time-steps
    mean_operations         elementary operations on means and sums of spikes, and changes between these and spikes
    """

    unit_spikes: float
    accumulates: float
    multiply_accumulates: int
    once: int
    event_operations: float
    neuron_steps: int
    mean_operations: int = 0


class NeuroBench(NamedTuple):
    """The metrics of these names, Yik et al. 2025, for one sample.

    A layer with weights costs one operation for each input and weight that are both not zero: accumulates where
    its inputs are -1, 0 and 1, with thresholds folded into the weights, else multiply-accumulates. Averaged spikes
    and several units at once are no such inputs. A product of two spike trains is multiply-accumulates, all of them
    at each step. Sparsities are shares of zeros, the footprint is in bytes. `mean_operations`, which NeuroBench does
    not know, are those of `Operations`.
    """

    effective_macs: float
    effective_acs: float
    dense: int
    activation_sparsity: float
    connection_sparsity: float
    footprint: int
    mean_operations: int = 0


def operations(behaviour: Behaviour, steps: int) -> Operations:
    """The operations of one sample in so many steps, with those of the probe, from what `observe` found."""
    behaviour = behaviour.at(steps)
    connections, executed = behaviour.connections, _executed_steps(behaviour, steps)
    populations, sources = behaviour.populations, _sources(behaviour)
    total = lambda kind, of: sum(_executed(behaviour, getattr(each.spikes, kind), steps) for each in of)
    return Operations(
        unit_spikes=total("units", populations),
        accumulates=total("operations", sources),
        multiply_accumulates=connections.once + executed * connections.each_step,
        once=connections.once,
        event_operations=total("event_operations", sources),
        neuron_steps=behaviour.neurons * executed,
        mean_operations=_mean_operations(behaviour, steps),
    )


def neurobench(behaviour: Behaviour, steps: int) -> NeuroBench:
    """NeuroBench's metrics of one sample in so many steps, from what `observe` found."""
    behaviour = behaviour.at(steps)
    connections, executed = behaviour.connections, _executed_steps(behaviour, steps)
    ones = lambda of: [each for each in of if each.members == 1]
    several = lambda of: [each for each in of if each.members != 1]
    plain = lambda of: sum(_executed(behaviour, each.spikes.plain_operations, steps) for each in of)
    events = sum(_executed(behaviour, each.spikes.events, steps) for each in behaviour.populations)
    multiplied = sum(_of_layer(behaviour, name, steps) for name in behaviour.layer_events)
    weights, zeros = (sum(getattr(layer, name) for layer in connections.layers) for name in ("weights", "zeros"))
    return NeuroBench(
        effective_macs=multiplied + plain(several(_sources(behaviour))) + executed * connections.on_means.products,
        effective_acs=plain(ones(_sources(behaviour))),
        dense=connections.once + executed * (connections.dense - connections.once),
        activation_sparsity=1 - events / (behaviour.neurons * executed),
        connection_sparsity=zeros / max(weights, 1),
        footprint=connections.bytes,
        mean_operations=_mean_operations(behaviour, steps),
    )


def _sources(behaviour: Behaviour) -> list[Population | Picked]:
    """All that emits spikes which weights read."""
    return [*behaviour.populations, *behaviour.picks]


def _mean_operations(behaviour: Behaviour, steps: int) -> int:
    found = behaviour.connections.on_means
    return _executed_steps(behaviour, steps) * (found.elementwise + found.changes)


def _executed_steps(behaviour: Behaviour, steps: int) -> int:
    return behaviour.probe_steps + steps


def _executed(behaviour: Behaviour, at_steps: np.ndarray, steps: int) -> float:
    """For one sample, what happened at the steps of the answer and, before them, of the probe."""
    return float((at_steps[:steps].sum() + at_steps[: behaviour.probe_steps].sum()) / behaviour.samples)


def _of_layer(behaviour: Behaviour, name: str, steps: int) -> float:
    (layer,) = (layer for layer in behaviour.connections.layers if layer.name == name)
    events = behaviour.layer_events[name]
    return _executed(behaviour, events, steps) if layer.in_time else float(events[0] / behaviour.samples)
