"""What an arena found: all methods on one network, a row for each method and number of time-steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from gnsnn_jax.errors import InputError, extra, printable

with extra("report"):
    from pydantic import Field, TypeAdapter, ValidationError

ARENA = "arena.json"
AGAIN = "run python -m gnsnn_jax.report.arena on the run again"


@dataclass(frozen=True)
class Quantised:
    """The network with quantised activations in place of neurons; accuracies are fractions.

    Attributes:
        levels: Of each activation, members x T: as many as the means of T steps of the neurons can have above 0.
            Encoders have as many below 0.
        accuracy: On the test split.
        nanojoules: An estimate for one sample.
    """

    levels: int
    accuracy: float
    nanojoules: float


@dataclass(frozen=True)
class Row:
    """One method after so many time-steps; spikes, operations and energy are those of one sample.

    Attributes:
        method: Its name, such as "GN+COS".
        steps: T.
        accuracy: On the test split.
        levels_a_step: How many values besides 0 a neuron can send in one step, those of either sign.
        members: The largest of them in units of the neuron.
        probe_steps: Those of the calibration for each sample, ρ.
        latency: ρ + T, where a layer works on a step as soon as it arrives.
        layerwise: depth x (ρ + T), where a layer starts after the one before it has ended; None where it need not,
            since there is no probe.
        spikes: Of all neurons, the probe included; units that a neuron sends one by one count one by one.
        accumulates: By these spikes.
        multiply_accumulates: Of layers that read no spikes and of products of two spike trains.
        mean_operations: Elementary operations on means and sums of spikes.
        nanojoules: An estimate.
        calibration_samples: How many samples of the training split chose thresholds and corrections; none are of the
            test split.
        thresholds: The rule that found thresholds; None where the activations had their own.
        quantised: The network with as many levels and the same thresholds, without time.
    """

    method: str
    steps: int
    accuracy: float
    levels_a_step: int
    members: int
    probe_steps: int
    latency: int
    layerwise: int | None
    spikes: float
    accumulates: float
    multiply_accumulates: int
    mean_operations: int
    nanojoules: float
    calibration_samples: int
    thresholds: str | None
    quantised: Quantised

    @property
    def synaptic_operations(self) -> float:
        """Accumulates and multiply-accumulates: every time that a weight is used."""
        return self.accumulates + self.multiply_accumulates


@dataclass(frozen=True)
class Arena:
    """All methods on one network; accuracies are fractions.

    Attributes:
        run: The name of the run directory.
        command: The command line.
        date: The day, as 2026-11-29.
        machine: Processor, device and versions.
        dataset: The name of the data set.
        model: The name of the network.
        activations: The kind of its activations, "ReLU" or "GELU", else their L.
        seed: Of the run.
        test_samples: Of the test split, all of which count for accuracy.
        examined_samples: Those of them whose spikes were counted.
        neurons: Of all populations.
        depth: The most populations that follow one another.
        ann_accuracy: Of the network itself.
        ann_multiply_accumulates: Of the network itself, for one sample.
        ann_nanojoules: The same as an estimate in float32.
        energy_model: The name of the model behind the estimates.
        rows: By method, then by steps.
        left_out: Why methods are missing, by name.
    """

    run: str
    command: str
    date: str
    machine: dict[str, str]
    dataset: str
    model: str
    activations: str
    seed: int
    test_samples: int
    examined_samples: int
    neurons: int
    depth: int
    ann_accuracy: float
    ann_multiply_accumulates: int
    ann_nanojoules: float
    energy_model: str
    rows: Annotated[tuple[Row, ...], Field(min_length=1)]
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def methods(self) -> list[str]:
        """The names of the methods in their order."""
        return list(dict.fromkeys(row.method for row in self.rows))

    def of(self, method: str) -> list[Row]:
        """Returns the rows of one method, by steps."""
        return [row for row in self.rows if row.method == method]

    def to_json(self) -> dict[str, Any]:
        """Returns what arena.json holds."""
        return asdict(self) | {"rows": [asdict(row) for row in self.rows]}

    @staticmethod
    def from_json(content: Any, name: str = ARENA) -> Arena:
        """Reads what `to_json` returned, or what JSON made of it.

        Args:
            content: The content of an arena.json. Fields that this version does not know are ignored.
            name: The name of the file in an error message.

        Returns:
            The arena.

        Raises:
            InputError: if a part is missing or is of the wrong type.
        """
        try:
            return TypeAdapter(Arena).validate_python(content)
        except ValidationError as error:
            raise _damaged(name, error) from None


def read_arena(directory: Path) -> Arena:
    """Reads the arena.json of a run directory, or a copy of it.

    Args:
        directory: The directory of the run, or a file that ends in .json.

    Returns:
        What it holds.

    Raises:
        InputError: if there is none or it is damaged.
    """
    path = directory if directory.suffix == ".json" else directory / ARENA
    if not path.is_file():
        raise InputError(f"{printable(path.parent)} holds no {path.name}; {AGAIN}")
    try:
        return TypeAdapter(Arena).validate_json(path.read_bytes())
    except ValidationError as error:
        raise _damaged(str(path), error) from None


def _damaged(name: str, error: ValidationError) -> InputError:
    first = error.errors(include_url=False, include_input=False)[0]
    fault = f"{'.'.join(map(str, first['loc'])) or 'content'}: {printable(first['msg'])}"
    return InputError(f"{printable(name)} is damaged or of something else ({fault}); {AGAIN}")


def front(rows: Sequence[Row]) -> list[Row]:
    """Returns the rows that no other beats: none takes at most as many synaptic operations and is at least as accurate,
    one of both better.

    Args:
        rows: Of one arena.

    Returns:
        Those of the front, by increasing operations; of equal ones the first.
    """
    found: list[Row] = []
    for row in sorted(rows, key=lambda row: (row.synaptic_operations, -row.accuracy)):
        if not found or row.accuracy > found[-1].accuracy:
            found.append(row)
    return found
