"""What every calibration is: a value that finds the potential each neuron starts from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import jax

from gnsnn_jax._types import Array, Float
from gnsnn_jax.errors import InputError, at_least_one
from gnsnn_jax.method.neurons.base import Neuron
from gnsnn_jax.method.neurons.run import in_state_type

HOW_TO_SUBCLASS = """\
Calibration is a base class; write a subclass:
    @dataclass(frozen=True)
    class MyCalibration(gs.Calibration):
        def initial(self, neuron, currents, threshold): ...    # -> initial potential
and make it by MyCalibration(probe_steps)"""


@dataclass(frozen=True, eq=False)
class Calibration(ABC):
    """Base class of calibrations. A subclass is a frozen dataclass with `initial`.

    Args:
        probe_steps: how many of the first currents it looks at, at least 1.

    Raises:
        InputError: for probe_steps < 1.
        TypeError: for probe_steps that are no integer.
    """

    probe_steps: int

    def __new__(cls, *args: Any, **kwargs: Any) -> Calibration:
        if cls is Calibration:
            raise TypeError(HOW_TO_SUBCLASS)
        return super().__new__(cls)

    def __post_init__(self) -> None:
        object.__setattr__(self, "probe_steps", at_least_one("probe_steps", self.probe_steps))

    def probed(
        self, currents: Float[Array, "T *shape"], threshold: Float[Array, "..."] | float
    ) -> tuple[Float[Array, "n *shape"], Array]:
        """The currents of the probe [probe_steps, ...] and the threshold in the type of states, without gradients.

        Args:
            currents: x [T, ...].
            threshold: [] or [C].

        Raises:
            InputError: for fewer currents than probe steps.
        """
        currents, threshold = in_state_type(currents, threshold)
        if len(currents) < self.probe_steps:
            raise InputError(f"{self.probe_steps} probe steps need as many currents, got {len(currents)}")
        return jax.lax.stop_gradient((currents[: self.probe_steps], threshold))

    @abstractmethod
    def initial(
        self, neuron: Neuron, currents: Float[Array, "T *shape"], threshold: Float[Array, "..."] | float
    ) -> Float[Array, "*shape"]:
        """The membrane potential [...] that each neuron starts from, a pure function.

        Args:
            neuron: any whose state has a potential.
            currents: x [T, ...] with T >= probe_steps, in the unit of the threshold.
            threshold: [] or [C].

        Returns:
            v(0) [...], float32 or wider.
        """
