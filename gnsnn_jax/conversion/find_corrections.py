"""Corrections for the neurons of a converted network, from data that run through both networks."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from gnsnn_jax._types import Array
from gnsnn_jax.conversion.converted_function import converted_function
from gnsnn_jax.conversion.find_thresholds import channel_axis_of, checked_axis
from gnsnn_jax.conversion.to_spiking import SpikingFunction, Traced
from gnsnn_jax.engine.batches import Batches
from gnsnn_jax.engine.graph import Operation, Slot, evaluate
from gnsnn_jax.engine.simulation import Simulation, evaluated_once
from gnsnn_jax.engine.split import SpikingNetwork
from gnsnn_jax.engine.tracing import Others, parted
from gnsnn_jax.errors import InputError, nearest
from gnsnn_jax.method.corrections import CORRECTIONS, Correction, CorrectionRule, Seen


def find_corrections(
    snn: Callable,
    batches: Iterable[Any],
    *,
    method: str | CorrectionRule = "ftbc",
    variables: Any = None,
    channel_axis: int | None = -1,
) -> dict[str, Correction]:
    """Finds corrections for the neurons of a converted network by the names of `sites`, for `to_spiking`.

    Each batch runs once through the network itself and once, layer by layer, through the spiking one, in which each
    layer is corrected before its spikes go on. All currents of one layer, at all steps, are in memory together.

        snn = gs.to_spiking(apply, gs.integrate_and_fire(), steps=16, thresholds=thresholds)
        corrections = gs.find_corrections(snn, batches, method="ftbc", variables=variables)
        snn = gs.to_spiking(apply, ..., thresholds=thresholds, corrections=corrections)    # as before

    Args:
        snn: what `to_spiking` returned, or `jax.jit` of it, of the steps that are asked for, without calibration.
            Corrections that it has already are left out.
        batches: each holds the arguments of `snn` after `variables`, as in `find_thresholds`. Take training data
            without augmentation, a few batches of a few hundred samples.
        method: a name, or a `CorrectionRule`:

            "ftbc"      a bias for each step and channel (`ForwardBias`), for IF and plain ReLUs
            "light"     a bias for each channel (`LightCalibration`)
            "daqcfs"    for each channel a shift of the currents and of what a spike is worth (`DataAware`)
            "theta-v0"  for each layer a threshold and a start potential (`ThresholdAndPotential`)

        variables: the first argument of `snn`, the same for all batches.
        channel_axis: the axis with a bias for each entry, counted from the right: -1 for channels last, -3 for
            convolutions with channels first; an activation with fewer axes takes its last. None for one bias a layer.

    Returns:
        A `Correction` for each population.

    Raises:
        InputError: for unknown methods, no batches, what is no batch or none that the network takes, a network with a
            calibration or with inputs that have time, and for currents that are NaN or infinite.
        TypeError: where `snn` is not a converted network.
    """
    rule, axis = _rule(method), None if channel_axis is None else checked_axis(channel_axis)
    given, spiking = Batches(batches, variables, "find_corrections(snn, {})"), _plain(converted_function(snn))
    spiking = replace(spiking, ann=given.explaining(spiking.ann))
    found: dict[str, Correction] = {}
    for number, args in enumerate(given.arguments(), 1):
        arrays, others = parted(args, {})
        found = _corrected(rule, axis, spiking, others, jnp.float32(number), found, arrays)
    names = [population.activation.name for population in spiking.traced(*args).network.populations]
    return {name: _finite(name, found[name]) for name in names}


def _rule(method: str | CorrectionRule) -> CorrectionRule:
    if isinstance(method, CorrectionRule):
        return method
    if method not in CORRECTIONS:
        raise InputError(f"unknown method {method!r}; there are {', '.join(CORRECTIONS)}{nearest(method, CORRECTIONS)}")
    return CORRECTIONS[method]()


def _plain(spiking: SpikingFunction) -> SpikingFunction:
    if spiking.calibration:
        raise InputError("corrections are found without a calibration; leave it out here, and give both to to_spiking")
    if spiking.coding != "rate":
        raise InputError('corrections are found for currents that come at each step; leave coding="once" out')
    if any(axis is not None for axis in jax.tree.leaves(spiking.time_axes, is_leaf=lambda axis: axis is None)):
        raise InputError("corrections are found for inputs without time; leave time_axes out and give one frame each")
    return replace(spiking, corrections=None, observe=None, reduce=None)


@partial(jax.jit, static_argnames=("rule", "axis", "spiking", "others"))
def _corrected(
    rule: CorrectionRule,
    axis: int | None,
    spiking: SpikingFunction,
    others: Others,
    number: Array,
    before: Mapping[str, Correction],
    arrays: Sequence[Any],
) -> dict[str, Correction]:
    """The corrections after one more batch."""
    args, _ = others.around(arrays)
    traced = spiking.traced(*args)
    populations = traced.network.populations
    slots = [slot for each in populations for slot in (each.inputs[0], each.outputs[0])]
    own = dict(zip(slots, evaluate(traced.network.ann, traced.inputs, slots), strict=True))

    def correct(operation: Operation, currents: Array, threshold: Array) -> Correction:
        neuron, at = spiking.neuron_at(operation), channel_axis_of(operation, axis)
        current, wanted = (jnp.asarray(own[slot]) for slot in (operation.inputs[0], operation.outputs[0]))
        seen = Seen(neuron, currents, threshold, current, wanted, at, number)
        name = operation.activation.name
        return rule.correct(seen, before[name] if name in before else seen.nothing())

    correcting = _Correcting(spiking, traced, correct)
    correcting.chunk({}, spiking.steps, correcting.start())
    return correcting.found


class _Correcting(Simulation):
    """A simulation of all steps as one chunk, which corrects each population before it fires.

    Args:
        spiking: the converted network.
        traced: its trace.
        correct: of a population, its currents [T, B, ...] and its threshold, the correction.
    """

    def __init__(
        self, spiking: SpikingFunction, traced: Traced, correct: Callable[[Operation, Array, Array], Correction]
    ):
        network, values = _with_own_thresholds(traced.network, evaluated_once(traced.network, traced.inputs))
        self.found: dict[str, Correction] = {}
        super().__init__(
            network, values, spiking.neuron_at, spiking.steps, spiking.product_dtype, corrections=self.found
        )
        self.correct, self.to_change = correct, values

    def _fire(self, operation: Operation, views: Any, state: Any, calibration: Any) -> Any:
        slot, threshold = operation.inputs
        correction = self.correct(operation, views.increments(slot), jnp.asarray(self.values[threshold]))
        self.found[operation.activation.name] = correction
        if correction.threshold is not None:
            self.to_change[threshold] = correction.threshold
            self.find_units()
        return super()._fire(operation, views, state, calibration)


def _with_own_thresholds(network: SpikingNetwork, values: dict[Slot, Any]) -> tuple[SpikingNetwork, dict[Slot, Any]]:
    """The network with a slot for the threshold of each population, which several may share."""
    free = itertools.count(max(slot for each in network.ann.operations for slot in each.outputs) + 1 + max(values))
    dynamic = []
    for operation in network.dynamic:
        if operation.is_activation:
            current, threshold = operation.inputs
            operation = operation._replace(inputs=(current, next(free)))
            values = values | {operation.inputs[1]: values[threshold]}
        dynamic.append(operation)
    return replace(network, dynamic=dynamic), values


def _finite(name: str, correction: Correction) -> Correction:
    if not all(jnp.isfinite(each).all() for each in jax.tree.leaves(correction)):
        raise InputError(
            f"the currents of {name!r} hold NaN or infinity on these batches; look for it in the data and the weights"
        )
    return correction
