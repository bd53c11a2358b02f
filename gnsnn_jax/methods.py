"""Conversion methods by name: a neuron, a calibration or both, as in "gn", "cos", "gn+cos"."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gnsnn_jax.calibration import CALIBRATIONS, Calibration
from gnsnn_jax.errors import InputError, at_least_one, nearest
from gnsnn_jax.neurons import NEURONS, Neuron


@dataclass(frozen=True)
class Method:
    """What turns a network into a spiking one, in words and numbers that can be stored."""

    name: str
    neuron: str
    members: int
    calibration: str | None = None
    probe_steps: int = 0
    passes: int = 0

    def make_neuron(self) -> Neuron:
        return NEURONS[self.neuron](self.members)

    def make_calibration(self) -> Calibration | None:
        return CALIBRATIONS[self.calibration](self.probe_steps, self.passes) if self.calibration else None

    def latency(self, steps: int) -> int:
        """Time-steps until the answer after `steps` steps is there: the probe and the steps."""
        return self.probe_steps + steps


def parse_method(text: str, *, members: int, probe_steps: int, passes: int = 1) -> Method:
    """Reads a name such as "GN+COS"; without a neuron in it, the neuron is IF.

    `members` (m) goes to group neurons, `probe_steps` (rho) and `passes` to calibrations.
    Raises InputError for unknown or repeated parts and numbers below 1.
    """
    at_least_one("members", members, "members=1 is an IF neuron")
    at_least_one("probe_steps", probe_steps)
    at_least_one("passes", passes)
    parts = text.lower().split("+")
    for part in parts:
        if part not in NEURONS and part not in CALIBRATIONS:
            _refuse_unknown(part, text)
    neurons, calibrations = [p for p in parts if p in NEURONS], [p for p in parts if p in CALIBRATIONS]
    if len(neurons) > 1 or len(calibrations) > 1:
        raise InputError(f"method {text!r} must have at most one neuron and one calibration")
    neuron = neurons[0] if neurons else "if"
    members = NEURONS[neuron](members).members
    if not calibrations:
        return Method(neuron.upper(), neuron, members)
    name = calibrations[0] if neuron == "if" else f"{neuron}+{calibrations[0]}"
    return Method(name.upper(), neuron, members, calibrations[0], probe_steps, passes)


def parse_methods(texts: Sequence[str], **numbers: int) -> list[Method]:
    """Reads several, each once. Raises InputError where there is none, and as `parse_method` does."""
    if not texts:
        raise InputError("no method is given; there are if, gn, cos and gn+cos")
    return list(dict.fromkeys(parse_method(text, **numbers) for text in texts))


def _refuse_unknown(part: str, text: str) -> None:
    known = [*NEURONS, *CALIBRATIONS]
    raise InputError(
        f"unknown neuron or calibration {part!r} in method {text!r}; there are the neurons "
        f"{', '.join(NEURONS)} and the calibrations {', '.join(CALIBRATIONS)}, joined by '+'{nearest(part, known)}"
    )
