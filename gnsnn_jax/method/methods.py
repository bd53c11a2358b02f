"""Conversion methods by name: a neuron, a calibration or both, as in "gn", "cos", "gn+cos"."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gnsnn_jax.errors import InputError, at_least_one, listed, nearest, shown
from gnsnn_jax.method import values
from gnsnn_jax.method.calibrations import CALIBRATIONS, Calibration
from gnsnn_jax.method.neurons import NEURONS, Neuron
from gnsnn_jax.method.threshold_rules import RULES


@dataclass(frozen=True)
class Method:
    """What turns a network into a spiking one.

    `thresholds` names the rule of `find_thresholds` for ReLUs, where one is chosen; `channel_axis` is the
    axis whose entries get one each, None where one serves an activation.
    """

    name: str
    neuron: Neuron
    calibration: Calibration | None = None
    thresholds: str | None = None
    channel_axis: int | None = None

    @property
    def members(self) -> int:
        return self.neuron.members

    @property
    def probe_steps(self) -> int:
        return self.calibration.probe_steps if self.calibration else 0

    @property
    def passes(self) -> int:
        """Of the calibration; 0 without one, or where it does not count them."""
        return getattr(self.calibration, "passes", 0)

    @property
    def neuron_name(self) -> str:
        """What the neuron is called in `NEURONS`, as the name of the method says: "if" where it says nothing."""
        return next((part for part in self.name.lower().split("+") if part in NEURONS), "if")

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON holds it, for `from_json`."""
        return {
            "name": self.name,
            "neuron": values.to_json(self.neuron),
            "calibration": self.calibration and values.to_json(self.calibration),
            "thresholds": self.thresholds,
            "channel_axis": self.channel_axis,
        }

    @staticmethod
    def from_json(about: Mapping[str, Any]) -> Method:
        """The method that `to_json` described, or an earlier version by the names of neuron and calibration.

        Raises InputError for neurons and calibrations that are not known.
        """
        if isinstance(about["neuron"], str):
            return _named(about)
        stored = about.get("calibration")
        neuron, calibration = values.from_json(about["neuron"]), stored and values.from_json(stored)
        return Method(about["name"], neuron, calibration, about.get("thresholds"), about.get("channel_axis"))

    @property
    def rule(self) -> str:
        """The rule for thresholds of ReLUs: by default "balance" for IF alone, which takes many steps, and
        "mse" for all that answers in few."""
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
    parts = [*(name for name in neurons if name != "if" or not calibrations), *calibrations]
    return Method(
        "+".join(parts).upper(),
        NEURONS[neurons[0] if neurons else "if"](members),
        CALIBRATIONS[calibrations[0]](probe_steps, passes) if calibrations else None,
        thresholds,
        channel_axis,
    )


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


def _named(about: Mapping[str, Any]) -> Method:
    """A method stored as the names of its neuron and calibration, and the numbers that they take."""
    calibration, rest = about.get("calibration"), (about.get("thresholds"), about.get("channel_axis"))
    make_neuron = _known(NEURONS, "neuron", about["neuron"])
    if not calibration:
        return Method(about["name"], make_neuron(about["members"]), None, *rest)
    probe = _known(CALIBRATIONS, "calibration", calibration)(about["probe_steps"], about["passes"])
    return Method(about["name"], make_neuron(about["members"]), probe, *rest)


def _known(registry: Mapping[str, Callable], what: str, name: str) -> Callable:
    if name not in registry:
        raise InputError(f"unknown {what} {shown(name)}; there are {listed(registry)}{nearest(name, registry)}")
    return registry[name]
