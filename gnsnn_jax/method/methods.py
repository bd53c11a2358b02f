"""Conversion methods by name: a neuron, a calibration, a correction or some of them, as in "gn", "ftbc", "gn+cos", and
a neuron over another, as in "dc+gn"."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gnsnn_jax.errors import InputError, at_least_one, listed, nearest, shown
from gnsnn_jax.method import calibrations, corrections, neurons, values
from gnsnn_jax.method.calibrations import CALIBRATIONS, Calibration
from gnsnn_jax.method.corrections import CORRECTIONS, CorrectionRule
from gnsnn_jax.method.neurons import NEURONS, OVER, Neuron
from gnsnn_jax.method.threshold_rules import RULES

ALL = "all"  # stands for every method that `every_method` lists
COMBINATIONS = ("gn+cos", "gn+theta-v0", "dc+mt")  # beside each neuron, calibration and correction by itself


@dataclass(frozen=True)
class Method:
    """What turns a network into a spiking one.

    `thresholds` names the rule of `find_thresholds` for ReLUs, where one is chosen; `channel_axis` is the
    axis whose entries get one each, None where one serves an activation. `correction` finds from data what the
    neurons of each site lack, see `find_corrections`.
    """

    name: str
    neuron: Neuron
    calibration: Calibration | None = None
    thresholds: str | None = None
    channel_axis: int | None = None
    correction: CorrectionRule | None = None

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
            "correction": self.correction and values.to_json(self.correction),
        }

    @staticmethod
    def from_json(about: Any) -> Method:
        """The method that `to_json` described, or that an earlier version stored by names and numbers.

        Args:
            about: what `to_json` returned, or what JSON made of it.

        Returns:
            A method equal to the stored one.

        Raises:
            InputError: for a field that is missing or of another type, and for neurons, calibrations and rules
                that are not known.
        """
        if not isinstance(about, Mapping) or not {"name", "neuron"} <= about.keys():
            raise InputError(f'a method is stored as {{"name": ..., "neuron": ..., ...}}, got {shown(about)}')
        parts = _by_names(about) if isinstance(about["neuron"], str) else _by_fields(about)
        correction = about.get("correction")
        return Method(
            _text("name", about["name"]),
            *parts,
            _rule(about),
            _axis(about),
            None if correction is None else values.from_json(correction, CorrectionRule),
        )

    @property
    def rule(self) -> str:
        """The rule for thresholds of ReLUs: by default "balance" for IF alone, which takes many steps, and
        "mse" for all that answers in few. Corrections of mean outputs get "percentile" for those: what "mse" cuts
        off large currents, they would add to all others."""
        if self.members == 1 and not self.calibration:
            return self.thresholds or "balance"
        return self.thresholds or ("percentile" if self.correction else "mse")

    @property
    def serves_fewer_steps(self) -> bool:
        """Whether what a conversion for T steps sends first is what one for fewer steps sends: not where neurons wait
        for all currents, nor where a correction was found for exactly T steps."""
        return not self.neuron.layerwise and (self.correction is None or self.correction.holds_before)

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
    and `channel_axis` to networks of ReLUs. Raises InputError for unknown or repeated parts, for neurons that cannot
    be joined, unknown rules and numbers below 1.
    """
    if thresholds is not None:
        _known(RULES, "rule", thresholds)
    at_least_one("members", members, "members=1 is an IF neuron")
    at_least_one("probe_steps", probe_steps)
    at_least_one("passes", passes)
    names, calibration, correction = _split(text)
    others = [name for name in (calibration, correction) if name]
    parts = [*([] if names == ["if"] and others else names), *others]
    return Method(
        "+".join(parts).upper(),
        _neuron(names, members, text),
        CALIBRATIONS[calibration](probe_steps, passes) if calibration else None,
        thresholds,
        channel_axis,
        CORRECTIONS[correction]() if correction else None,
    )


def _split(text: str) -> tuple[list[str], str | None, str | None]:
    """The neurons, that over another first, the calibration and the correction within a name such as "GN+COS", each
    None where there is none."""
    parts = text.lower().split("+")
    for part in parts:
        if part not in {**NEURONS, **CALIBRATIONS, **CORRECTIONS}:
            _refuse_unknown(part, text)
    kinds = (NEURONS, CALIBRATIONS, CORRECTIONS)
    named, calibrating, correcting = ([part for part in parts if part in kind] for kind in kinds)
    over = [part for part in named if part in OVER]
    if max(len(named) - len(over), len(over), len(calibrating), len(correcting)) > 1:
        raise InputError(
            f"method {text!r} must have at most one neuron, one calibration and one correction, and one of "
            f"{listed(OVER)} over the neuron"
        )
    neuron = [*over, *(part for part in named if part not in OVER)]
    return neuron, next(iter(calibrating), None), next(iter(correcting), None)


def _neuron(names: Sequence[str], members: int, text: str) -> Neuron:
    """The neuron of these names: IF, one, or one over another."""
    if len(names) < 2:
        return NEURONS[names[0] if names else "if"](members)
    over, inner = names
    try:
        return OVER[over](NEURONS[inner](members))
    except TypeError as error:
        raise InputError(f"method {text!r} joins what does not go together: {error}") from None


def parse_methods(texts: Sequence[str], **options: Any) -> list[Method]:
    """Reads several, each once; "all" stands for `every_method`. Raises InputError where there is none, and as
    `parse_method` does."""
    if not texts:
        raise InputError(f"no method is given; there are {listed([*every_method(), ALL], most=100)}")
    names = [name for text in texts for name in (every_method() if text.lower() == ALL else [text])]
    return list(dict.fromkeys(parse_method(name, **options) for name in names))


def every_method() -> list[str]:
    """The names of all methods worth a comparison: each neuron, calibration and correction, and COMBINATIONS."""
    return [*(name for name in NEURONS if name not in OVER), *CALIBRATIONS, *CORRECTIONS, *COMBINATIONS]


def names_explained() -> str:
    """What --help says about the names of methods: a line for each neuron, calibration and correction."""
    lines = {**neurons.HELP, **calibrations.HELP, **corrections.HELP}
    explained = [f"  {name:<10}{lines.get(name, '')}" for name in (*NEURONS, *CALIBRATIONS, *CORRECTIONS)]
    everything = f"  {ALL:<10}each of these by itself, {listed(COMBINATIONS)}"
    joined = "names of methods, joined by +, at most one neuron, one calibration and one correction:"
    return "\n".join([joined, *explained, everything])


def _refuse_unknown(part: str, text: str) -> None:
    known = [*NEURONS, *CALIBRATIONS, *CORRECTIONS, ALL]
    joined = [word for word in re.split(r"[^a-z0-9]", part) if word]
    one_of_several = len(joined) > 1 and set(joined) <= set(known)
    meant = f"; did you mean {'+'.join(joined)!r}?" if one_of_several else nearest(part, known)
    raise InputError(
        f"unknown neuron, calibration or correction {part!r} in method {text!r}; there are the neurons "
        f"{', '.join(NEURONS)}, the calibrations {', '.join(CALIBRATIONS)} and the corrections "
        f"{', '.join(CORRECTIONS)}, joined by '+'{meant}"
    )


def _by_fields(about: Mapping[str, Any]) -> tuple[Neuron, Calibration | None]:
    """The neuron and the calibration of a stored method."""
    neuron, stored = values.from_json(about["neuron"], Neuron), about.get("calibration")
    return neuron, None if stored is None else values.from_json(stored, Calibration)


def _by_names(about: Mapping[str, Any]) -> tuple[Neuron, Calibration | None]:
    """The same, stored as their names in `NEURONS` and `CALIBRATIONS` and the numbers that these take."""
    neuron = _known(NEURONS, "neuron", about["neuron"])(_count(about, "members"))
    if not about.get("calibration"):
        return neuron, None
    make = _known(CALIBRATIONS, "calibration", about["calibration"])
    return neuron, make(_count(about, "probe_steps"), _count(about, "passes"))


def _rule(about: Mapping[str, Any]) -> str | None:
    rule = about.get("thresholds")
    if rule is not None:
        _known(RULES, "rule", rule)
    return rule


def _axis(about: Mapping[str, Any]) -> int | None:
    axis = about.get("channel_axis")
    return None if axis is None else _integer("channel_axis", axis)


def _count(about: Mapping[str, Any], name: str) -> int:
    return at_least_one(name, _integer(name, about.get(name)))


def _integer(name: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise InputError(f"{name} of a stored method must be an integer, got {shown(value)}")
    return value


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise InputError(f"{name} of a stored method must be a text, got {shown(value)}")
    return value


def _known(registry: Mapping[str, Any], what: str, name: Any) -> Any:
    if not isinstance(name, str) or name not in registry:
        raise InputError(f"unknown {what} {shown(name)}; there are {listed(registry)}{nearest(str(name), registry)}")
    return registry[name]
