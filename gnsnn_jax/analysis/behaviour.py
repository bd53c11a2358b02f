"""What the populations of a converted network did: their spikes, and how far rates are from activations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import NamedTuple

import numpy as np

from gnsnn_jax._types import Float, Int
from gnsnn_jax.analysis.connections import Connections

OFFSETS = ("≤ −2", "−1", "0", "+1", "≥ +2")  # spikes too many
# What is added up over neurons and samples, rates and activations in units of the threshold.
MOMENTS = ("error", "rate", "rate_squared", "activation", "activation_squared", "product")
SHARES = ("silent", "saturated", "ann_silent", "ann_saturated")
SUMS = (*MOMENTS, *SHARES, *(f"offset {name}" for name in OFFSETS), *(f"own offset {name}" for name in OFFSETS))
CONSTANT = 1e-9  # a variance below is that of rounding


class Spikes(NamedTuple):
    """Of all neurons of a population and all samples, at each step.

    units               unit spikes; a population that emits k units in a step counts k, and of -k units as many
    events              neurons that emit any
    operations          unit spikes times connections
    event_operations    the same if k units at once were one value
    plain_operations    of these the ones in layers that read the spikes as they are
    """

    units: Int[np.ndarray, " T"]
    events: Int[np.ndarray, " T"]
    operations: Int[np.ndarray, " T"]
    event_operations: Int[np.ndarray, " T"]
    plain_operations: Int[np.ndarray, " T"]


@dataclass(frozen=True)
class Population:
    """What the neurons of one activation did.

    shape        of one sample
    threshold    of which `members` units make one
    signed       whether it can emit negative units
    sums         at each step what `SUMS` names, zeros at steps that were not asked for
    pairs        by number of steps, activations and rates of some neurons, in units of the threshold
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    members: int
    threshold: np.ndarray
    samples: int
    spikes: Spikes
    sums: Float[np.ndarray, "T sums"]
    pairs: dict[int, tuple[np.ndarray, np.ndarray]]
    signed: bool = False

    @property
    def neurons(self) -> int:
        return prod(self.shape)

    def firing_rate(self) -> Float[np.ndarray, " T"]:
        """Unit spikes of a neuron at each step, on average."""
        return self.spikes.units / (self.samples * self.neurons)

    def mean(self, name: str, steps: int) -> float:
        """Over neurons and samples, of what `SUMS` names, after so many steps."""
        return float(self.sums[steps - 1, SUMS.index(name)] / (self.samples * self.neurons))

    def squared_error(self, steps: int) -> float:
        """Mean of (rate - activation)^2, both in units of the threshold."""
        return self.mean("error", steps)

    def correlation(self, steps: int) -> float | None:
        """Between activations and rates, over neurons and samples; None where one of them is constant."""
        mean = {name: self.mean(name, steps) for name in MOMENTS}
        covariance = mean["product"] - mean["rate"] * mean["activation"]
        variances = [mean[f"{name}_squared"] - mean[name] ** 2 for name in ("rate", "activation")]
        return None if min(variances) < CONSTANT else float(np.clip(covariance / np.sqrt(prod(variances)), -1, 1))

    def offsets(self, steps: int, own: bool = False) -> list[float]:
        """Shares of neurons by how many spikes they have more than desired, in the order of `OFFSETS`.

        Desired is what the ANN's activation asks for, or with `own` what their own currents ask for, which
        leaves out the errors of the layers before.
        """
        return [self.mean(f"{'own ' if own else ''}offset {name}", steps) for name in OFFSETS]


@dataclass(frozen=True)
class Picked:
    """The spikes that an operation picked, as max-pooling does, at most `members` units at one step."""

    name: str
    members: int
    spikes: Spikes


@dataclass(frozen=True)
class Behaviour:
    """What a converted network did, its populations in the order of evaluation.

    `layer_events` are by name the values that are not zero times their connections: once for layers that are
    evaluated once, at each step for those that read spikes averaged or added up. `picks` are the spikes that leave
    operations such as max-pooling. `at_fewer` holds, by T, what a conversion for T steps did, where that is not how
    this one begins.
    """

    connections: Connections
    populations: list[Population]
    layer_events: dict[str, Int[np.ndarray, " T"]]
    samples: int
    steps: tuple[int, ...]
    probe_steps: int
    picks: tuple[Picked, ...] = ()
    at_fewer: Mapping[int, Behaviour] = field(default_factory=dict)

    def at(self, steps: int) -> Behaviour:
        """What the conversion for so many steps did: this one's behaviour, or another's that has it."""
        return self.at_fewer.get(steps, self)

    @property
    def neurons(self) -> int:
        return sum(population.neurons for population in self.populations)
