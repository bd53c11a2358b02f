"""Conversion methods by name: a neuron, a calibration or both, as in "gn", "cos", "gn+cos"."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gnsnn_jax.errors import InputError, at_least_one, nearest
from gnsnn_jax.method.calibrations import CALIBRATIONS, Calibration
from gnsnn_jax.method.neurons import NEURONS, Neuron
from gnsnn_jax.method.threshold_rules import RULES


@dataclass(frozen=True)
class Method:
    """What turns a network into a spiking one, in words and numbers that can be stored.

    `thresholds` names the rule of `find_thresholds` for ReLUs, where one is chosen; `channel_axis` is the
    axis whose entries get one each, None where one serves an activation.
    """

    name: str
    neuron: str
    members: int
    calibration: str | None = None
    probe_steps: int = 0
    passes: int = 0
    thresholds: str | None = None
    channel_axis: int | None = None

    def make_neuron(self) -> Neuron:
        return NEURONS[self.neuron](self.members)

    def make_calibration(self) -> Calibration | None:
        return CALIBRATIONS[self.calibration](self.probe_steps, self.passes) if self.calibration else None

    @property
    def rule(self) -> str:
        """The rule for thresholds of ReLUs: unless one is chosen, "balance" for IF alone, which takes many
        steps, and "mse" for all that answers in few."""
        return self.thresholds or ("balance" if self.members == 1 and not self.calibration else "mse")

    def levels(self, steps: int) -> int:
        """Steps of the staircase that thresholds are to fit, if at most `steps` time-steps are asked for.

        Those of a group neuron, whose first answer is then as good as its later ones; of IF those that it
        makes in the probe or in time.
        """
        return self.members if self.members > 1 else self.probe_steps or steps

    def latency(self, steps: int | float) -> int | float:
        """Time-steps until the answer after `steps` steps is there: the probe and the steps."""
        return self.probe_steps + steps


def parse_method(
    text: str,
    *,
    members: int,
    probe_steps: int,
    passes: int = 1,
    thresholds: str | None = None,
    channel_axis: int | None = None,
) -> Method:
    """Reads a name such as "GN+COS"; without a neuron in it, the neuron is IF.

    `members` (m) goes to group neurons, `probe_steps` (rho) and `passes` to calibrations, `thresholds`
    and `channel_axis` to networks of ReLUs. Raises InputError for unknown or repeated parts, unknown rules and
    numbers below 1.
    """
    if thresholds is not None and thresholds not in RULES:
        raise InputError(f"unknown rule {thresholds!r}; there are {', '.join(RULES)}{nearest(thresholds, RULES)}")
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
        return Method(neuron.upper(), neuron, members, thresholds=thresholds, channel_axis=channel_axis)
    name = calibrations[0] if neuron == "if" else f"{neuron}+{calibrations[0]}"
    return Method(name.upper(), neuron, members, calibrations[0], probe_steps, passes, thresholds, channel_axis)


def parse_methods(texts: Sequence[str], **options: int | str | None) -> list[Method]:
    """Reads several, each once. Raises InputError where there is none, and as `parse_method` does."""
    if not texts:
        raise InputError("no method is given; there are if, gn, cos and gn+cos")
    return list(dict.fromkeys(parse_method(text, **options) for text in texts))


def _refuse_unknown(part: str, text: str) -> None:
    known = [*NEURONS, *CALIBRATIONS]
    raise InputError(
        f"unknown neuron or calibration {part!r} in method {text!r}; there are the neurons "
        f"{', '.join(NEURONS)} and the calibrations {', '.join(CALIBRATIONS)}, joined by '+'{nearest(part, known)}"
    )
