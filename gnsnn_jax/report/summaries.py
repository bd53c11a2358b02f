"""The numbers of a report from what was observed of the spiking networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np

from gnsnn_jax.analysis.behaviour import OFFSETS, Behaviour
from gnsnn_jax.analysis.connections import Layer
from gnsnn_jax.analysis.energy import (
    MODELS,
    EnergyModel,
    activation_bits,
    of_float_ann,
    of_quantised_ann,
    of_spiking,
    of_spiking_values,
)
from gnsnn_jax.analysis.operations import Operations, neurobench, operations
from gnsnn_jax.report.report import (
    BehaviourSummary,
    CalibrationSummary,
    LayerSummary,
    NetworkSummary,
    OffsetShares,
    PopulationSummary,
    ThresholdSummary,
)

PICOJOULES = 1000  # in a nanojoule


def network_summary(behaviour: Behaviour, levels: int, analog: Sequence[str] = ()) -> NetworkSummary:
    """Summarises what the networks of all methods share.

    Args:
        behaviour: The behaviour of any of the spiking networks.
        levels: L of the activations; the quantised ANN has ⌈log2(L + 1)⌉ bits.
        analog: Operations in front of the first neurons that are not linear.

    Returns:
        The layers of the network and the energy of the ANN.
    """
    return NetworkSummary(
        samples=behaviour.samples,
        offsets=OFFSETS,
        activation_bits=activation_bits(levels),
        multiply_accumulates=behaviour.connections.dense,
        layers=tuple(map(_layer, behaviour.connections.layers)),
        energy_models=MODELS,
        energy_nanojoules={model.name: _energy_of_anns(model, behaviour, levels) for model in MODELS},
        analog=tuple(analog),
    )


def _layer(layer: Layer) -> LayerSummary:
    return LayerSummary(layer.name, layer.connections, "at each step" if layer.in_time else "once", layer.weights)


def _energy_of_anns(model: EnergyModel, behaviour: Behaviour, levels: int) -> dict[str, float]:
    return {
        "float ANN": of_float_ann(model, behaviour) / PICOJOULES,
        "quantised ANN": of_quantised_ann(model, behaviour, levels) / PICOJOULES,
    }


def behaviour_summary(
    behaviour: Behaviour, members: int, steps: Sequence[int], uncalibrated: Behaviour | None = None
) -> BehaviourSummary:
    """Summarises what one spiking network did.

    Args:
        behaviour: The behaviour of this network.
        members: m of its neurons.
        steps: Numbers of time-steps T, among those that were observed.
        uncalibrated: The behaviour of the same neurons without calibration, for a method with one.

    Returns:
        Errors by population, operations and energy by number of steps.
    """
    taken = {t: operations(behaviour, t) for t in steps}
    of_values = partial(of_spiking_values, members=members)
    return BehaviourSummary(
        populations=tuple(_population(behaviour, place, steps) for place in range(len(behaviour.populations))),
        operations=taken,
        neurobench={t: neurobench(behaviour, t) for t in steps},
        energy_nanojoules=_energy(of_spiking, taken),
        energy_nanojoules_of_values=_energy(of_values, taken) if members > 1 else None,
        calibration=None if uncalibrated is None else _calibration(uncalibrated, behaviour),
    )


def _energy(
    of: Callable[[EnergyModel, Operations], float], taken: Mapping[int, Operations]
) -> dict[str, dict[int, float]]:
    """In nanojoules for one sample, by model and steps."""
    return {model.name: {t: of(model, each) / PICOJOULES for t, each in taken.items()} for model in MODELS}


def _population(behaviour: Behaviour, place: int, steps: Sequence[int]) -> PopulationSummary:
    population = behaviour.populations[place]
    at = {t: behaviour.at(t).populations[place] for t in steps}
    share = lambda name: {t: each.mean(name, t) for t, each in at.items()}
    return PopulationSummary(
        name=population.name,
        kind=population.kind,
        shape=population.shape,
        threshold=_threshold(population.threshold),
        firing_rate=tuple(population.firing_rate()[: steps[-1]].tolist()),
        squared_error={t: each.squared_error(t) for t, each in at.items()},
        correlation={t: each.correlation(t) for t, each in at.items()},
        offsets={t: tuple(each.offsets(t)) for t, each in at.items()},
        own_offsets={t: tuple(each.offsets(t, own=True)) for t, each in at.items()},
        silent=share("silent"),
        saturated=share("saturated"),
        ann_silent=at[steps[0]].mean("ann_silent", steps[0]),
        ann_saturated=at[steps[0]].mean("ann_saturated", steps[0]),
    )


def _threshold(values: np.ndarray) -> ThresholdSummary:
    return ThresholdSummary(float(values.min()), float(values.mean()), float(values.max()))


def _calibration(before: Behaviour, after: Behaviour) -> CalibrationSummary:
    steps = after.probe_steps
    return CalibrationSummary(steps, _offset_shares(before, steps), _offset_shares(after, steps))


def _offset_shares(behaviour: Behaviour, steps: int) -> dict[str, OffsetShares]:
    return {
        each.name: OffsetShares(tuple(each.offsets(steps)), tuple(each.offsets(steps, own=True)))
        for each in behaviour.populations
    }
