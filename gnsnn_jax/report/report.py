"""The report of one conversion as classes; report.json holds their fields."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from typing import Annotated, Any

from gnsnn_jax.analysis.energy import EnergyModel
from gnsnn_jax.analysis.operations import NeuroBench, Operations
from gnsnn_jax.errors import InputError, extra, printable
from gnsnn_jax.interop.functions import is_own

with extra("report"):
    from pydantic import Field, TypeAdapter, ValidationError

_WRITTEN = {"relu": "ReLU", "gelu": "GELU", "clip": "clip"}  # activations in titles
_ABSENT = {"is_absent_if_none": True}  # from the JSON


@dataclass(frozen=True)
class ThresholdSummary:
    """The smallest, the mean and the largest threshold of one population."""

    min: float
    mean: float
    max: float


@dataclass(frozen=True)
class OffsetShares:
    """Shares of neurons by how many spikes they have more than desired, in the order of `NetworkSummary.offsets`.

    Attributes:
        offsets: Relative to the count that the activation of the ANN asks for.
        own_offsets: Relative to the count that QCFS makes of the neuron's own currents.
    """

    offsets: tuple[float, ...]
    own_offsets: tuple[float, ...]


@dataclass(frozen=True)
class PopulationSummary:
    """What the neurons of one activation did; measures that depend on T are keyed by T.

    Attributes:
        name: The name of the site.
        kind: The kind of the site.
        shape: The shape of the activations of one sample.
        threshold: The range of the thresholds.
        firing_rate: The mean number of unit spikes of a neuron at each step.
        squared_error: The mean of (rate - activation)^2, both in units of the threshold.
        correlation: The correlation between activations and rates; None where one of them is constant.
        offsets: Shares of neurons by spikes more than the activation of the ANN asks for.
        own_offsets: Shares of neurons by spikes more than QCFS makes of the neuron's own currents.
        silent: Share of neurons without a spike.
        saturated: Share of neurons that fired fully at every step.
        ann_silent: Share of activations of the ANN that are 0.
        ann_saturated: Share of activations of the ANN that reach the threshold.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    threshold: ThresholdSummary
    firing_rate: tuple[float, ...]
    squared_error: dict[int, float]
    correlation: dict[int, float | None]
    offsets: dict[int, tuple[float, ...]]
    own_offsets: dict[int, tuple[float, ...]]
    silent: dict[int, float]
    saturated: dict[int, float]
    ann_silent: float
    ann_saturated: float


@dataclass(frozen=True)
class CalibrationSummary:
    """Offset spikes after the `steps` of a probe, by population, without and with calibration."""

    steps: int
    before: dict[str, OffsetShares]
    after: dict[str, OffsetShares]


@dataclass(frozen=True)
class BehaviourSummary:
    """What one spiking network did on the examined samples; operations and energy are those of one sample.

    Attributes:
        populations: In the order of evaluation.
        operations: By number of steps.
        neurobench: The metrics of NeuroBench, by number of steps.
        energy_nanojoules: By name of the energy model and number of steps.
        energy_nanojoules_of_values: The same where the units that a neuron emits at once count as one value;
            None where a neuron emits one unit at most.
        calibration: None for a method without calibration.
    """

    populations: tuple[PopulationSummary, ...]
    operations: dict[int, Operations]
    neurobench: dict[int, NeuroBench]
    energy_nanojoules: dict[str, dict[int, float]]
    energy_nanojoules_of_values: dict[str, dict[int, float]] | None = field(default=None, metadata=_ABSENT)
    calibration: CalibrationSummary | None = field(default=None, metadata=_ABSENT)


@dataclass(frozen=True)
class EarlyStop:
    """Accuracy and mean latency if each sample stops as soon as it reaches a confidence."""

    confidence: float
    accuracy: float
    latency_steps: float


@dataclass(frozen=True, kw_only=True)
class MethodResult:
    """What one method reached on the test split; measures are keyed by the number of time-steps T.

    Attributes:
        name: The name of the method, such as "GN+COS".
        neuron: The name of its neuron in `NEURONS`.
        members: m of a group neuron; 1 for an IF neuron.
        probe_steps: ρ of the calibration; 0 without one.
        thresholds: The rule that found the thresholds of ReLUs; None where activations had their own.
        channel_axis: The axis whose entries have a threshold each; None where each activation has one threshold.
        accuracy: Share of the samples that are classified correctly.
        agreement: Share of the samples on which the SNN predicts what the ANN predicts.
        latency_steps: The steps until the answer, ρ + T.
        spikes_per_neuron: The mean number of unit spikes of a neuron for one sample.
        early_stop: None where no confidence was asked for, and where what is sent first depends on T.
        behaviour: None where the network was not examined.
    """

    name: str
    neuron: str
    members: int
    probe_steps: int
    thresholds: str | None = None
    channel_axis: int | None = None
    accuracy: Annotated[dict[int, float], Field(min_length=1)]
    agreement: dict[int, float]
    latency_steps: dict[int, int]
    spikes_per_neuron: dict[int, float]
    early_stop: EarlyStop | None = field(default=None, metadata=_ABSENT)
    behaviour: BehaviourSummary | None = field(default=None, metadata=_ABSENT)

    @property
    def title(self) -> str:
        """The name with m, if it is above 1, and ρ, if there is a probe."""
        members = f", m = {self.members}" if self.members > 1 else ""
        return self.name + members + (f", ρ = {self.probe_steps}" if self.probe_steps else "")


@dataclass(frozen=True)
class LayerSummary:
    """An operation with weights; it is evaluated "once" or "at each step"."""

    name: str
    connections: int
    evaluated: str
    weights: int


@dataclass(frozen=True)
class NetworkSummary:
    """What the spiking networks of all methods share.

    Attributes:
        samples: The number of test samples that were examined.
        offsets: The names of the classes of `OffsetShares`.
        activation_bits: The bits of an activation of the quantised ANN.
        multiply_accumulates: The operations of the ANN for one sample.
        layers: The operations with weights, in the order of evaluation.
        energy_models: The costs of operations.
        energy_nanojoules: The energy of the ANN for one sample, by name of the energy model and kind of ANN.
        analog: Operations in front of the first neurons that are not linear and stay analog.
    """

    samples: int
    offsets: tuple[str, ...]
    activation_bits: int
    multiply_accumulates: int
    layers: tuple[LayerSummary, ...]
    energy_models: tuple[EnergyModel, ...]
    energy_nanojoules: dict[str, dict[str, float]]
    analog: tuple[str, ...] = ()


@dataclass(frozen=True)
class NotExamined:
    """Stands in place of a `NetworkSummary` where networks could not be examined; `left_out` is the reason."""

    left_out: str
    analog: tuple[str, ...] = ()


@dataclass(frozen=True)
class Report:
    """One trained network converted by several methods; accuracies are fractions.

    Attributes:
        dataset: The name of the data set.
        model: The name of the network.
        levels: L of the activations of the network.
        activation: Their name in the configuration, such as "gelu"; None in reports of earlier versions.
        ann_accuracy: The accuracy of the network itself on the test split.
        samples: The number of samples of the test split.
        methods: At least one result; all have the same numbers of time-steps.
        analysis: None where only accuracies were asked for.
    """

    dataset: str
    model: str
    levels: int
    ann_accuracy: float
    samples: int
    methods: Annotated[tuple[MethodResult, ...], Field(min_length=1)]
    analysis: NetworkSummary | NotExamined | None = field(default=None, metadata=_ABSENT)
    activation: str | None = field(default=None, metadata=_ABSENT)

    @property
    def steps(self) -> list[int]:
        """The numbers of time-steps T that were evaluated."""
        return list(self.methods[0].accuracy)

    @property
    def network(self) -> str:
        """The name of the network and, where it is one of this package, the kind of its activations."""
        if is_own(self.model):
            return self.model
        return f"{self.model} ({self.activations})"

    @property
    def activations(self) -> str:
        """The kind of the activations, "ReLU" or "GELU", else their L."""
        levels = f"L = {self.levels}"
        if is_own(self.model):
            return levels
        if self.activation:
            return _WRITTEN.get(self.activation, levels)
        return "ReLU" if any(method.thresholds for method in self.methods) else levels

    def to_json(self) -> dict[str, Any]:
        """Returns what report.json holds: fields by name, numbers of steps as text, tuples as lists."""
        return _plain(self)

    @staticmethod
    def from_json(content: Any, name: str = "the report") -> Report:
        """Reads what `to_json` returned, of this version or an earlier one.

        Args:
            content: The content of a report.json. Fields that this version does not know are ignored.
            name: The name of the report in an error message, such as its path.

        Returns:
            The report, with defaults for parts that earlier versions did not write.

        Raises:
            InputError: if a part is missing or is of the wrong type.
        """
        try:
            return _report_type().validate_python(content)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(map(str, first["loc"])) or "content"
            raise damaged(name, f"{place}: {first['msg']}") from None


def damaged(name: str, why: str) -> InputError:
    """Returns the error for a file that is not a report or not a whole one."""
    return InputError(
        f"{printable(name)} is no report of convert.py or damaged ({printable(why)}); convert the run again"
    )


@cache
def _report_type() -> TypeAdapter:
    return TypeAdapter(Report)


def _plain(value: Any) -> Any:
    """The value as JSON holds it."""
    if is_dataclass(value):
        return {name: _plain(part) for name, part in _stored_fields(value)}
    if isinstance(value, NeuroBench | Operations):
        return value._asdict()
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    return list(map(_plain, value)) if isinstance(value, tuple) else value


def _stored_fields(value: Any) -> Iterator[tuple[str, Any]]:
    for each in fields(value):
        part = getattr(value, each.name)
        if part is not None or each.metadata != _ABSENT:
            yield each.name, part
